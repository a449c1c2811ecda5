"""Encapsulated messages: framing them, walking a row of them, finding them in wreckage.

Each message stands like this, in a stream and in a file alike::

    | FF FF FF FF | length of what follows, int32 | metadata, padded | body, a multiple of 8 |

A length of 0 ends a stream. Writers before Arrow 0.15 left out the four FF. A file is a stream between its magic
and its footer::

    | ARROW1 00 00 | schema | dictionary and record batches | end of stream | slack? | footer | int32 | ARROW1 |

The slack is Aljava's: where a payload must end at a given byte, it stands there, since every reader finds the
footer from the end and the messages from the footer.
"""

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from aljava.errors import InvalidData
from aljava.ipc.metadata import MessageHeader, decode_message

MAGIC = b"ARROW1"
FILE_START = MAGIC + b"\0\0"
CONTINUATION = b"\xff\xff\xff\xff"
END_OF_STREAM = CONTINUATION + bytes(4)

_PREFIX = struct.Struct("<Ii")
_MARK = 0xFFFFFFFF


def kind_of(start: bytes) -> str | None:
    """What a payload is, by its first bytes.

    Args:
        start: the first 8 bytes, or what there is.

    Returns:
        `"file"`, `"stream"`, `"feather"` (version 1), or None for anything else.

    Example:
        >>> import pyarrow as pa
        >>> kind_of(pa.table({"a": [1]}).schema.serialize().to_pybytes()[:8])
        'stream'
    """
    if start[:6] == MAGIC:
        return "file"
    if start[:4] == b"FEA1":
        return "feather"
    if len(start) >= 4 and start[:4] == CONTINUATION:
        return "stream"
    if len(start) >= 8:
        # A stream from before Arrow 0.15: the length of the schema message, then its root offset.
        length, root = struct.unpack("<ii", start[:8])
        if 8 <= length <= 1 << 28 and length % 4 == 0 and 4 <= root < length:
            return "stream"
    return None


def frame(metadata: bytes, position: int, alignment: int = 8) -> bytes:
    """Marker, length, metadata and padding, such that what follows stands at a multiple of `alignment`.

    Args:
        metadata: FlatBuffers bytes of one message.
        position: bytes from the start of the payload to the frame.
        alignment: 8, or 64 before a body with large buffers, which then are aligned when mapped.
    """
    padding = -(position + 8 + len(metadata)) % alignment
    return CONTINUATION + (len(metadata) + padding).to_bytes(4, "little") + metadata + bytes(padding)


class Found(NamedTuple):
    """One complete message and where it stands."""

    offset: int
    """Bytes from the start of the data to the message."""
    metadata_length: int
    """Bytes from there to the body: marker, length, metadata and padding."""
    header: MessageHeader
    """What its metadata says: `header.kind`, `header.body_length`, …"""

    @property
    def end(self) -> int:
        """Bytes from the start of the data to the end of the body."""
        return self.offset + self.metadata_length + self.header.body_length


class Messages:
    """The messages that stand one behind the other in some bytes, and why there are no more.

    Iterating yields each complete message. It never raises: whatever is no message ends it, and `stopped` then says
    why and `end` where. That is what repair and verification need.

    Args:
        data: the bytes, any object with the buffer protocol; a mapped file is not read beyond the metadata.
        start: where the first message stands. 8 in a file, 0 in a stream.
        stop: where to stop, by default the end of the data.

    Example:
        >>> import pyarrow as pa
        >>> sink = pa.BufferOutputStream()
        >>> table = pa.table({"a": [1, 2, 3]})
        >>> with pa.ipc.new_stream(sink, table.schema) as writer:
        ...     writer.write_table(table)
        >>> messages = Messages(sink.getvalue())
        >>> [(found.header.kind, found.header.body_length) for found in messages], messages.stopped
        ([('schema', 0), ('record batch', 24)], 'end of stream')
        >>> cut = Messages(sink.getvalue()[:-20])
        >>> [found.header.kind for found in cut], cut.stopped
        (['schema'], 'a message cut short')
    """

    def __init__(self, data: Any, start: int = 0, stop: int | None = None):
        self._view = memoryview(data).cast("B")
        self._stop = len(self._view) if stop is None else min(stop, len(self._view))
        self.end = start
        """Bytes from the start of the data to the end of the last complete message."""
        self.stopped = ""
        """Why there are no more: `"end of stream"`, `"end of data"`, or what was found in place of a message."""

    def __iter__(self) -> Iterator[Found]:
        while not self.stopped:
            found = self._next()
            if found is not None:
                self.end = found.end
                yield found

    def _next(self) -> Found | None:
        at, stop = self.end, self._stop
        if at == stop:
            self.stopped = "end of data"
            return None
        if stop - at < 4:
            self.stopped = "a message cut short"
            return None
        mark = int.from_bytes(self._view[at : at + 4], "little")
        prefix = 8 if mark == _MARK else 4
        if stop - at < prefix:
            self.stopped = "a message cut short"
            return None
        length = int.from_bytes(self._view[at + prefix - 4 : at + prefix], "little", signed=True)
        if length == 0:
            self.stopped = "end of stream"
            return None
        if length < 0 or (prefix == 4 and length % 4):
            self.stopped = "no message"
            return None
        if at + prefix + length > stop:
            self.stopped = "a message cut short"
            return None
        try:
            header = decode_message(self._view[at + prefix : at + prefix + length])
        except InvalidData as error:
            self.stopped = f"damaged metadata: {error}"
            return None
        found = Found(at, prefix + length, header)
        if found.end > stop:
            self.stopped = "a message cut short"
            return None
        return found


def find_message(data: Any, start: int) -> int | None:
    """Where the next thing that looks like a message stands, at or after `start`; None where there is none.

    Messages stand at multiples of 8, marked by four FF. Chance can make the mark, so what is found must still be
    walked with `Messages`, which checks it.
    """
    view = memoryview(data).cast("B")
    step = 1 << 20
    for low in range(start + -start % 8, len(view), step):
        chunk = bytes(view[low : low + step + 4])
        at = chunk.find(CONTINUATION)
        while at >= 0:
            if at % 8 == 0 and next(iter(Messages(view, low + at)), None) is not None:
                return low + at
            at = chunk.find(CONTINUATION, at + 1)
    return None


def read_encapsulated(source: Any) -> tuple[bytes, Any, Any] | None:
    """Read one encapsulated message from a source that can only be read forward.

    Memory grows with what arrives, not with what a length claims: what is long is read in pieces.

    Args:
        source: an object with `read(bytes)`, a pyarrow or Python file.

    Returns:
        (marker and length, metadata, body), or None at the end of the stream.

    Raises:
        InvalidData: the source ends within a message, or holds something else.
    """
    prefix = bytes(_read(source, 4, "the length of a message"))
    if not prefix or prefix == bytes(4):
        return None
    if prefix == CONTINUATION:
        prefix += bytes(_read(source, 4, "the length of a message"))
    length = int.from_bytes(prefix[-4:], "little", signed=True)
    if len(prefix) == 8 and length == 0:
        return None
    if length < 8 or (len(prefix) < 8 and length > MOST_LEGACY_METADATA):
        raise InvalidData(f"a message claims {length} bytes of metadata: this is no Arrow stream.")
    metadata = _read(source, length, "the metadata of a message")
    return prefix, metadata, _read(source, decode_message(metadata).body_length, "the body of a message")


MOST_LEGACY_METADATA = 1 << 28
"""Bytes of metadata beyond which four bytes without a marker are text rather than a length from before Arrow 0.15."""
_PIECE = 1 << 24


def _read(source: Any, size: int, what: str) -> Any:
    """Exactly `size` bytes, or none at the very end of a source that stands between two messages."""
    pieces: list[Any] = []
    left = size
    while left:
        piece = source.read(min(left, _PIECE))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    if left and (pieces or size != 4):
        raise InvalidData(
            f"the stream ends within {what}: {size - left} of {size} bytes came. The connection was cut, or its "
            "writer died; what came before is whole."
        )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def schema_metadata(message: Any) -> bytes:
    """The FlatBuffers bytes of an encapsulated schema message, as `pyarrow.Schema.serialize` makes it."""
    view = memoryview(message).cast("B")
    return bytes(view[8 : 8 + int.from_bytes(view[4:8], "little")])
