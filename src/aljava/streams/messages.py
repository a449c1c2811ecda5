"""Encapsulated messages as they arrive: framed, measured and checked before memory is taken for them.

::

    | FF FF FF FF | length, int32 | metadata: a FlatBuffers Message | body |      (Arrow specification, "Encapsulated
                                                                                  message format")
    | FF FF FF FF | 00 00 00 00 |                                     the end of the stream

Where a stream ends is said by the stream, so a connection that ends before is one that was cut. Lengths come from the
peer: memory for a body is reserved only within the limits, and the system backs it only as bytes arrive.
"""

import ctypes
import mmap
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from aljava.errors import InvalidData, TruncatedFile
from aljava.ipc.message import CONTINUATION, END_OF_STREAM, FILE_START, MAGIC
from aljava.ipc.metadata import BATCH, SCHEMA, peek

_AHEAD = 64 << 10
_HUGE_PAGE = 2 << 20
# Messages up to this are taken whole, as a part of what was received ahead.
_SMALL = 32 << 10
_RECYCLED_FROM = 1 << 20
_MOST_FREE = 3
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")
_I64 = struct.Struct("<q")
_VTABLE = struct.Struct("<6H")


@dataclass(frozen=True)
class Limits:
    """What is taken from a peer."""

    #: Bytes of one message's metadata: a schema, or the layout of one batch.
    metadata: int = 64 << 20
    #: Bytes of one message's body, as it travels and unpacked.
    body: int = 1 << 62
    #: Fields of the schema, nested ones included, each counted as often as the schema refers to it.
    fields: int = 1_000_000
    #: Whether every value is checked, as one must with data from strangers.
    full_check: bool = False


TRUSTED = Limits()
STRANGER = Limits(metadata=16 << 20, body=2 << 30, fields=100_000, full_check=True)


@dataclass(frozen=True)
class Message:
    """One encapsulated message."""

    #: "schema", "dictionary batch", "record batch", …
    kind: str | None
    #: "lz4" or "zstd" where the body is compressed.
    codec: str | None
    #: Bytes of marker, length and metadata, before the body.
    head: int
    #: All of it as one buffer, or head and body.
    parts: tuple[pa.Buffer, ...]
    #: How many messages these are: small raw batches that came together are handed on as one buffer.
    count: int = 1


class IncomingBytes:
    """Bytes as they arrive: small reads are served from what was received ahead, large ones go straight into place.

    Args:
        receive: fills a view with at least one byte, or with all of it when `whole`; returns 0 at the end.
        ahead: whether more may be taken than is asked for; not where something else follows the stream.
    """

    def __init__(self, receive: Callable[[memoryview, bool], int], *, ahead: bool = True) -> None:
        self._receive = receive
        self._reads_ahead = ahead
        self._ahead = pa.allocate_buffer(_AHEAD)
        self._view = memoryview(self._ahead).cast("B")
        self._low = self._high = 0
        self._recycled = _Recycled()
        #: Bytes handed out.
        self.position = 0

    def peek(self, size: int) -> memoryview:
        """The next `size` bytes (at most 64 KiB), which stay; fewer at the end."""
        if self._high - self._low < size:
            if self._low + size > _AHEAD:
                self._renew()
            while self._high - self._low < size:
                end = _AHEAD if self._reads_ahead else self._low + size
                got = self._receive(self._view[self._high : end], False)
                if not got:
                    break
                self._high += got
        return self._view[self._low : min(self._high, self._low + size)]

    def here(self) -> memoryview:
        """What has come ahead."""
        return self._view[self._low : self._high]

    def take(self, size: int) -> pa.Buffer:
        """The next `size` bytes; fewer at the end. The memory is the caller's."""
        if size <= max(_AHEAD // 2, self._high - self._low):
            size = len(self.peek(size))
            part = self._ahead.slice(self._low, size)
            self._low += size
        else:
            part = self._recycled.allocate(size)
            view = memoryview(part).cast("B")
            have = min(self._high - self._low, size)
            view[:have] = self._view[self._low : self._low + have]
            self._low += have
            while have < size:
                got = self._receive(view[have:], True)
                if not got:
                    break
                have += got
            if have < size:
                part = part.slice(0, have)
        if self._low == self._high == _AHEAD:
            self._renew()
        self.position += part.size
        return part

    def _renew(self) -> None:
        left = bytes(self._view[self._low : self._high])
        self._ahead = pa.allocate_buffer(_AHEAD)
        self._view = memoryview(self._ahead).cast("B")
        self._view[: len(left)] = left
        self._low, self._high = 0, len(left)


class CutStream(TruncatedFile):
    """A connection that ended where its stream did not."""

    #: Whether not a byte had come.
    is_empty = False


class Messages:
    """The messages of one stream, one at a time.

    Args:
        source: the bytes.
        address: where they come from, for messages of ours.
        limits: what is taken.
        token: called where a message would begin and something else stands; returns what to go on with, or None.
    """

    def __init__(
        self,
        source: IncomingBytes,
        address: str,
        limits: Limits,
        token: "Callable[[IncomingBytes], IncomingBuffer | None] | None" = None,
    ) -> None:
        self._source, self._address, self._limits, self._token = source, address, limits, token
        self._shared: IncomingBytes | None = None
        self._is_file = False

    def next(self) -> Message | None:
        """The next message, or None when the stream has ended.

        Raises:
            TruncatedFile: the bytes ended where the stream did not.
            InvalidData: no message, or one beyond the limits.
        """
        source = self._shared or self._source
        start = bytes(source.peek(8))
        if self._shared is not None and not start:
            self._shared, source = None, self._source
            start = bytes(source.peek(8))
        if self._shared is None and self._token and len(start) == 8 and start[:4] != CONTINUATION:
            segment = self._token(source)
            if segment is not None:
                self._shared = segment
                return self.next()
        if not source.position and start[: len(MAGIC)] == MAGIC:
            # A file is a stream between its magic and its footer, so it can be read as it comes.
            source.take(len(FILE_START))
            self._is_file = True
            return self.next()
        if start == END_OF_STREAM or start[:4] == bytes(4):
            source.take(len(start))
            while self._is_file and source.take(_AHEAD).size:
                pass  # its footer, so that its writer is not cut off
            return None
        if len(start) < 8:
            raise self._cut(len(start))
        # Writers before Arrow 0.15 left out the four FF.
        prefix = 8 if start[:4] == CONTINUATION else 4
        length = _I32.unpack_from(start, prefix - 4)[0]
        if not 8 <= length <= self._limits.metadata:
            raise InvalidData(
                f"{self._address}: at byte {source.position:,} a message should begin, and what stands there says "
                f"{length:,} bytes of metadata (8 to {self._limits.metadata:,} are taken). The other end does not send "
                "an Arrow IPC stream, or sends a schema beyond the limit"
            )
        size = prefix + length
        if size > _SMALL:
            head = source.take(size)
            view = memoryview(head).cast("B")
        else:
            head = None
            view = source.peek(size)
        if len(view) < size:
            raise self._cut(len(view))
        try:
            kind, body_length, codec = glance(view[prefix:])
        except InvalidData as error:
            raise InvalidData(f"{self._address}: {error}") from error
        if not 0 <= body_length <= self._limits.body:
            raise InvalidData(
                f"{self._address}: a message says that it has {body_length:,} bytes of body, and at most "
                f"{self._limits.body:,} are taken. Send smaller batches"
            )
        if head is None and size + body_length <= _SMALL:
            count, total = 1, size + body_length
            if kind == BATCH and codec is None and len(source.peek(total)) == total:
                count, total = self._run(source.here(), size, total)
            whole = source.take(total)
            if whole.size < total:
                raise self._cut(whole.size)
            return Message(kind, codec, size, (whole,), count)
        if head is None:
            head = source.take(size)
        body = source.take(body_length)
        if body.size < body_length:
            raise self._cut(size + body.size)
        return Message(kind, codec, size, (head, body))

    def _run(self, here: memoryview, size: int, total: int) -> tuple[int, int]:
        """How many small raw batches are here, and their bytes, where the first has `size` of head and `total` of all.

        Batches of equal layout have equal heads, which are compared in a tenth of the time that it takes to read one.
        """
        data = bytes(here)
        head = data[:size]
        count, at = 1, total
        while True:
            if not data.startswith(head, at):
                length = int.from_bytes(data[at + 4 : at + 8], "little", signed=True)
                if not data.startswith(CONTINUATION, at) or not 8 <= length <= len(data) - at - 8:
                    break
                other = data[at : at + 8 + length]
                try:
                    kind, body_length, codec = glance(memoryview(other)[8:])
                except InvalidData:  # said when its turn comes
                    break
                if kind != BATCH or codec is not None or not 0 <= body_length <= _SMALL:
                    break
                head, total = other, len(other) + body_length
            if at + total > len(data):
                break
            count, at = count + 1, at + total
        return count, at

    def _cut(self, have: int) -> InvalidData:
        error = CutStream(
            f"{self._address}: the connection was cut: the data ended "
            + (f"{have:,} bytes into a message" if have else "between two messages")
            + f", {self._source.position:,} bytes after its start, without the mark that ends an Arrow IPC stream. "
            "The sender died or gave up; send again"
        )
        error.is_empty = not have and not self._source.position
        return error


class IncomingBuffer(IncomingBytes):
    """Bytes that are all here, handed out without copying them.

    Args:
        buffers: one behind the other; what is taken at once does not reach from one into the next.
    """

    def __init__(self, *buffers: pa.Buffer) -> None:
        self._buffers = deque(buffers)
        self._at = 0
        self.position = 0

    def peek(self, size: int) -> memoryview:
        while self._buffers and self._at == self._buffers[0].size:
            self._buffers.popleft()
            self._at = 0
        return memoryview(self._buffers[0]).cast("B")[self._at : self._at + size] if self._buffers else memoryview(b"")

    def here(self) -> memoryview:
        return memoryview(b"")

    def take(self, size: int) -> pa.Buffer:
        size = len(self.peek(size))
        part = self._buffers[0].slice(self._at, size) if size else pa.py_buffer(b"")
        self._at += size
        self.position += size
        return part


class _Recycled:
    """Memory for bodies, used again when the last array over it is gone.

    Fresh memory costs as much as receiving into it, and whoever works through a stream lets go of each batch.
    """

    def __init__(self) -> None:
        self._free: list[pa.Buffer] = []

    def allocate(self, size: int) -> pa.Buffer:
        """As `allocate`."""
        if size < _RECYCLED_FROM:
            return allocate(size)
        for index, block in enumerate(self._free):
            if size <= block.size <= 2 * size:
                del self._free[index]
                break
        else:
            del self._free[:]
            block = allocate(size)
        lease = _Lease(self._free, block)
        # Through NumPy: a foreign buffer cannot be received into.
        return pa.py_buffer(np.asarray(lease)[:size])


class _Lease:
    """What the arrays over recycled memory keep alive."""

    def __init__(self, free: list[pa.Buffer], block: pa.Buffer) -> None:
        self._free, self._block = free, block
        self.__array_interface__ = {
            "shape": (block.size,),
            "typestr": "|u1",
            "data": (block.address, False),
            "version": 3,
        }

    def __del__(self) -> None:
        if len(self._free) < _MOST_FREE:
            self._free.append(self._block)


def allocate(size: int) -> pa.Buffer:
    """Memory of Arrow's pool for bytes to come, in large pages where the system has them.

    Raises:
        InvalidData: the machine has no such memory.
    """
    try:
        buffer = pa.allocate_buffer(size)
    except (pa.ArrowMemoryError, pa.ArrowInvalid, MemoryError) as error:
        raise InvalidData(
            f"a message says that it has {size:,} bytes of body, more than this machine can hold"
        ) from error
    low = -(-buffer.address // _HUGE_PAGE) * _HUGE_PAGE
    pages = (buffer.address + size - low) // _HUGE_PAGE
    if pages > 0 and hasattr(mmap, "MADV_HUGEPAGE"):
        # Fresh memory costs as much as receiving into it: 512 times fewer page faults. A refusal changes nothing.
        _madvise(low, pages * _HUGE_PAGE, mmap.MADV_HUGEPAGE)
    return buffer


_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def glance(metadata: memoryview) -> tuple[str | None, int, str | None]:
    """What `aljava.ipc.metadata.peek` says, for the messages that most streams are made of in a tenth of its time.

    Message.fbs: header_type is field 1, header 2, bodyLength 3; RecordBatch: compression is field 3. A batch whose
    RecordBatch table has no such field is raw; whatever else there is, `peek` looks at.
    """
    try:
        table = _U32.unpack_from(metadata, 0)[0]
        vtable = table - _I32.unpack_from(metadata, table)[0]
        size, _, _, kind_at, header_at, body_at = _VTABLE.unpack_from(metadata, vtable)
        if vtable >= 0 and size >= 12 and kind_at and header_at and body_at and metadata[table + kind_at] == 3:
            at = table + header_at
            batch = at + _U32.unpack_from(metadata, at)[0]
            inner = batch - _I32.unpack_from(metadata, batch)[0]
            if inner >= 0 and _U16.unpack_from(metadata, inner)[0] < 12:
                return BATCH, _I64.unpack_from(metadata, table + body_at)[0], None
    except (struct.error, IndexError):
        pass  # said better below
    return peek(metadata)


def check_schema(message: Message, address: str, limits: Limits) -> None:
    """Counts what a schema message unfolds to: tables of a FlatBuffer can be referred to many times over.

    A schema of a few kilobytes can so stand for billions of fields; it is counted, with a budget, before pyarrow
    unfolds it.

    Raises:
        InvalidData: no schema, more fields or nested deeper than the limits, or offsets that point outside.
    """
    head = message.parts[0]
    prefix = 8 if bytes(head[:4]) == CONTINUATION else 4
    view = memoryview(head).cast("B")[prefix:]
    count = _Budget(limits.fields, 2 * limits.metadata, address)
    try:
        schema = _child(view, _U32.unpack_from(view, 0)[0], 2)
        if message.kind != SCHEMA or schema is None:
            raise InvalidData(f"{address}: a stream begins with its schema, and this one does not")
        _count_metadata(view, schema, 2, count)
        waiting = [(field, 1) for field in _tables(view, _child(view, schema, 1), count.fields)]
        while waiting:
            field, depth = waiting.pop()
            if depth > 64:
                raise InvalidData(f"{address}: the schema nests fields deeper than 64 levels")
            name = _child(view, field, 0)
            if name is not None:
                count.bytes(_U32.unpack_from(view, name)[0])
            _count_metadata(view, field, 6, count)
            waiting += [(child, depth + 1) for child in _tables(view, _child(view, field, 5), count.fields)]
    except (struct.error, IndexError):
        raise InvalidData(f"{address}: the schema points outside its own bytes") from None


class _Budget:
    """What may still be unfolded."""

    def __init__(self, fields: int, size: int, address: str) -> None:
        self._fields, self._bytes, self._address = fields, size, address

    def fields(self, count: int) -> None:
        self._fields -= count
        if self._fields < 0:
            raise InvalidData(f"{self._address}: the schema unfolds to more fields than are taken")

    def bytes(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < 0:
            raise InvalidData(f"{self._address}: the names and metadata of the schema unfold to too many bytes")


def _field(view: memoryview, table: int, number: int) -> int:
    vtable = table - _I32.unpack_from(view, table)[0]
    if vtable < 0:
        raise IndexError
    if 4 + 2 * number + 2 > _U16.unpack_from(view, vtable)[0]:
        return 0
    offset = _U16.unpack_from(view, vtable + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _child(view: memoryview, table: int, number: int) -> int | None:
    at = _field(view, table, number)
    return at + _U32.unpack_from(view, at)[0] if at else None


def _tables(view: memoryview, start: int | None, spend: Callable[[int], None]) -> list[int]:
    """The places of the tables of a vector; its length is spent before they are listed."""
    if start is None:
        return []
    length = _U32.unpack_from(view, start)[0]
    spend(length)
    places = struct.unpack_from(f"<{length}I", view, start + 4)
    return [start + 4 + 4 * index + offset for index, offset in enumerate(places)]


def _count_metadata(view: memoryview, table: int, number: int, count: _Budget) -> None:
    for pair in _tables(view, _child(view, table, number), lambda length: count.bytes(64 * length)):
        for part in (0, 1):
            text = _child(view, pair, part)
            if text is not None:
                count.bytes(_U32.unpack_from(view, text)[0])
