"""From messages to record batches, as they arrive.

pyarrow builds the batches. It reads from an object that holds the messages of the next batch and no more, all of them
checked, so that it never waits for a peer and never allocates what a peer merely claims.
"""

import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from aljava.errors import AljavaError, InvalidData, UnsupportedType
from aljava.ipc.message import CONTINUATION
from aljava.ipc.metadata import BATCH, decode_message
from aljava.ipc.reader import check_compressed
from aljava.streams import sharing
from aljava.streams.channels import Channel
from aljava.streams.messages import (
    STRANGER,
    TRUSTED,
    IncomingBuffer,
    IncomingBytes,
    Limits,
    Message,
    Messages,
    check_schema,
)


def receive(channel: Channel, *, limits: Limits | None = None, shared_memory: bool = True) -> pa.RecordBatchReader:
    """The stream that comes over a channel; returns when its schema has come.

    Args:
        channel: from the sender; it is closed when the stream has ended, well or badly, or is dropped.
        limits: what is taken; by default less from a stranger than from the same user of this machine.
        shared_memory: whether memory is shared with a sender that can.

    Raises:
        TruncatedFile: the connection was cut.
        InvalidData: the peer sends something else than an Arrow IPC stream.
        TransferError: the connection failed.
    """
    incoming = Incoming(channel, limits or (TRUSTED if channel.trusted else STRANGER), shared_memory)
    try:
        schema = incoming.schema()
    except BaseException:
        incoming.close()
        raise
    batches = incoming.batches()
    # Nobody may want even the first.
    weakref.finalize(batches, incoming.close)
    return pa.RecordBatchReader.from_batches(schema, batches)


class Incoming:
    """The batches of one stream over a channel."""

    def __init__(self, channel: Channel, limits: Limits, shared_memory: bool = True) -> None:
        self._channel = channel
        self._segments = sharing.receives(channel, shared_memory)
        self._messages = Messages(
            IncomingBytes(self._receive, ahead=channel.reads_ahead),
            channel.address,
            limits,
            self._token if self._segments else None,
        )
        self._decoder = Decoder(channel.address, limits)

    def schema(self) -> pa.Schema:
        """The schema, which comes first."""
        first = self._messages.next()
        if first is None:
            raise InvalidData(f"{self._decoder.address}: the stream ended before its schema")
        return self._decoder.begin(first)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The batches; the channel is closed behind the last, or when nobody wants more."""
        try:
            while (message := self._messages.next()) is not None:
                yield from self._decoder.add(message)
            self._channel.acknowledge()
        finally:
            self.close()

    def close(self) -> None:
        if self._segments is not None:
            self._segments.close()
        self._channel.close()

    def _receive(self, view: memoryview, whole: bool) -> int:
        # Descriptors come along with the bytes that are read ahead; a body that goes straight into place has none.
        if self._segments is not None and not whole:
            return self._segments.receive_into(view)
        return self._channel.receive_into(view, whole=whole)

    def _token(self, source: IncomingBytes) -> IncomingBuffer | None:
        assert self._segments is not None
        token = bytes(source.peek(sharing.TOKEN_SIZE))
        if len(token) < sharing.TOKEN_SIZE:
            return None
        source.take(sharing.TOKEN_SIZE)
        memory, head = self._segments.take(token)
        return IncomingBuffer(source.take(head), memory) if head else IncomingBuffer(memory)


class Decoder:
    """Messages in, batches out.

    Args:
        address: where they come from, for messages of ours.
        limits: what is taken.
    """

    def __init__(self, address: str, limits: Limits) -> None:
        self.address = address
        self._limits = limits
        self._fed = _Fed()
        self._reader: Any = None
        self._begin = b""
        self._is_plain = False

    def begin(self, message: Message) -> pa.Schema:
        """Takes the first message, which must be a schema."""
        check_schema(message, self.address, self._limits)
        self._fed.feed(message)
        try:
            self._reader = pa.ipc.open_stream(pa.PythonFile(self._fed, "r"), options=_OPTIONS)
        except _PYARROWS as error:
            raise self._explained(error) from error
        # Without dictionaries batches depend on nothing but the schema.
        self._is_plain = message.head <= _SHORT and not any(map(_has_dictionary, self._reader.schema.types))
        self._begin = b"".join(map(bytes, message.parts))
        return self._reader.schema

    def add(self, message: Message) -> Iterator[pa.RecordBatch]:
        """Takes the next message, or several small ones; gives the batches that they complete."""
        self._check(message)
        try:
            if self._is_plain and message.count >= _SEVERAL:
                # A stream of its own for pyarrow's reader: a third of the time that reading each takes.
                run = pa.py_buffer(b"".join((self._begin, message.parts[0])))
                for batch in pa.ipc.open_stream(run, options=_OPTIONS):
                    batch.validate(full=self._limits.full_check)
                    yield batch
                return
            self._fed.feed(message)
            if message.kind != BATCH:
                return
            for _ in range(message.count):
                batch = self._reader.read_next_batch()
                batch.validate(full=self._limits.full_check)
                yield batch
        except AljavaError:
            raise
        except _PYARROWS as error:
            raise self._explained(error) from error

    def _check(self, message: Message) -> None:
        """Checks what pyarrow does not: it allocates what a compressed buffer claims to hold before it decodes it."""
        if message.codec is None:
            return
        head = message.parts[0]
        body = message.parts[1] if len(message.parts) > 1 else head.slice(message.head)
        start = 8 if bytes(head[:4]) == CONTINUATION else 4
        header = decode_message(memoryview(head).cast("B")[start : message.head])
        check_compressed(header, body)
        assert header.batch is not None
        filled = header.batch.buffers[header.batch.buffers[:, 1] > 0]
        octets = np.frombuffer(body, np.uint8)
        claims = octets[filled[:, :1] + np.arange(8)].view("<i8")[:, 0]
        if int(claims[claims > 0].sum()) > self._limits.body:
            raise InvalidData(
                f"{self.address}: a compressed message claims to hold {int(claims.sum()):,} bytes, and at most "
                f"{self._limits.body:,} are taken. Send smaller batches"
            )

    def _explained(self, error: BaseException) -> AljavaError:
        if isinstance(error, pa.ArrowNotImplementedError):
            return UnsupportedType(f"{self.address} sends what pyarrow cannot read: {error}")
        return InvalidData(f"{self.address} sends what is damaged, or no Arrow IPC stream: {error}")


_PYARROWS = (pa.ArrowException, OSError, UnicodeDecodeError, StopIteration, MemoryError, ValueError)
_OPTIONS = pa.ipc.IpcReadOptions()
# From how many batches a reader is made for them alone, and bytes of a schema up to which that is done.
_SEVERAL = 3
_SHORT = 8 << 10


def _has_dictionary(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_dictionary(kind.storage_type)
    return pa.types.is_dictionary(kind) or any(
        _has_dictionary(kind.field(index).type) for index in range(kind.num_fields)
    )


class _Fed:
    """A file for pyarrow that holds what it is fed, and hands it on without copying."""

    closed = False

    def __init__(self) -> None:
        self._parts: deque[pa.Buffer] = deque()

    def feed(self, message: Message) -> None:
        self._parts.extend(message.parts)

    def read_buffer(self, size: int) -> pa.Buffer:
        if not self._parts:
            return pa.py_buffer(b"")
        part = self._parts.popleft()
        if part.size > size:
            self._parts.appendleft(part.slice(size))
            return part.slice(0, size)
        if part.size < size and self._parts:
            return pa.py_buffer(bytes(part) + bytes(self.read_buffer(size - part.size)))
        return part

    def read(self, size: int) -> bytes:
        return bytes(self.read_buffer(size))
