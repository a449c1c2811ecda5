"""Payloads over asyncio streams: `async for` batches, with the back-pressure of the connection.

::

    reader, writer = await asyncio.open_connection(host, port)
    await aljava.aio.write_batches(writer, table)
    async for batch in aljava.aio.read_batches(reader):
        ...

Only the network is awaited; building a batch from bytes that are here takes microseconds and is done in place. Works
under any event loop, and closes nothing that it has not opened.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import pyarrow as pa

from aljava import frames, ipc
from aljava.errors import InvalidData, TransferError
from aljava.ipc.message import CONTINUATION, END_OF_STREAM
from aljava.ipc.metadata import peek
from aljava.streams.messages import STRANGER, CutStream, Limits, Message, allocate
from aljava.streams.receiving import Decoder
from aljava.streams.sending import PartsSink, pieces

# Bytes handed to a transport before it is asked whether the peer keeps up.
_CHUNK = 256 << 10


async def read_batches(reader: asyncio.StreamReader, *, limits: Limits = STRANGER) -> AsyncIterator[pa.RecordBatch]:
    """The record batches of one Arrow IPC stream, as they arrive; leaves the reader behind its end.

    Args:
        reader: of `asyncio.open_connection`, `asyncio.start_server` and their like.
        limits: what is taken from the peer; by default every value is checked.

    Yields:
        `pyarrow.RecordBatch`; each has the stream's schema.

    Raises:
        TruncatedFile: the connection was cut.
        InvalidData: the peer sends something else than an Arrow IPC stream, or more than the limits.
        TransferError: the connection failed.

    Example:
        >>> import aljava
        >>> async def main():
        ...     reader = asyncio.StreamReader()
        ...     reader.feed_data(bytes(aljava.dumps(pa.table({"id": [1, 2, 3]}))))
        ...     return [batch.num_rows async for batch in read_batches(reader)]
        >>> asyncio.run(main())
        [3]
    """
    messages = _Messages(reader, limits)
    decoder = Decoder(messages.address, limits)
    first = await messages.next()
    if first is None:
        raise InvalidData(f"{messages.address}: the stream ended before its schema")
    decoder.begin(first)
    while (message := await messages.next()) is not None:
        for batch in decoder.add(message):
            yield batch


async def write_batches(writer: asyncio.StreamWriter, data: Any, *, compression: str = "none") -> int:
    """Writes a table, or batches as they are made, as one Arrow IPC stream; leaves the writer open.

    Waits whenever the peer does not keep up, so that no more than a batch is held. Cancelled, it stops between two
    writes: the stream is then one that was cut, and the caller closes the writer.

    Args:
        writer: of `asyncio.open_connection`, `asyncio.start_server` and their like.
        data: anything table-like, or an asynchronous iterator of `pyarrow.RecordBatch`.
        compression: "none", "auto", "lz4" or "zstd", as in `aljava.write`.

    Returns:
        bytes written.

    Raises:
        TransferError: the peer is gone.
        UnsupportedType: `data` is not table-like.
        InvalidData: an asynchronous iterator without batches, which has no schema.
    """
    options = ipc.WriteOptions(compression=compression)
    sink = PartsSink()
    total = 0

    async def flush() -> int:
        parts, size = sink.take()
        joined: list[Any] = []
        held = 0
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), _CHUNK):
                piece = view[start : start + _CHUNK]
                joined.append(piece)
                held += len(piece)
                if held >= _CHUNK:
                    writer.writelines(joined)
                    joined, held = [], 0
                    await writer.drain()
        writer.writelines(joined)
        await writer.drain()
        return size

    batches, schema = _batches(data)
    output = None if schema is None else ipc.new_stream(sink, schema, options=options)
    try:
        async for batch in batches:
            if output is None:
                output = ipc.new_stream(sink, batch.schema, options=options)
            for piece in pieces(batch):
                output.write_batch(piece)
                total += await flush()
        if output is None:
            raise InvalidData("an asynchronous iterator without batches: an Arrow stream begins with a schema")
        output.close()
        return total + await flush()
    except (ConnectionError, TimeoutError) as error:
        raise TransferError(f"the connection was cut: {error}") from error


def _batches(data: Any) -> tuple[AsyncIterable[pa.RecordBatch], pa.Schema | None]:
    """The batches, and their schema where it is known before the first."""
    if isinstance(data, AsyncIterable):
        return data, None
    reader = frames.to_reader(data)

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        for batch in reader:
            yield batch

    return batches(), reader.schema


class _Messages:
    """The messages of one stream; as `streams.messages.Messages`, awaited."""

    def __init__(self, reader: asyncio.StreamReader, limits: Limits) -> None:
        self._reader, self._limits = reader, limits
        self._position = 0
        self.address = "the connection"

    async def next(self) -> Message | None:
        """The next message; None when the stream has ended."""
        start = await self._exactly(8)
        if start == END_OF_STREAM:
            return None
        length = int.from_bytes(start[4:], "little", signed=True)
        if start[:4] != CONTINUATION or not 8 <= length <= self._limits.metadata:
            raise InvalidData(
                f"{self.address}: at byte {self._position - 8:,} no Arrow message begins: {start.hex(' ')}"
            )
        metadata = await self._exactly(length)
        kind, body_length, codec = peek(metadata)
        if not 0 <= body_length <= self._limits.body:
            raise InvalidData(
                f"{self.address}: a message says that it has {body_length:,} bytes of body, and at most "
                f"{self._limits.body:,} are taken. Send smaller batches"
            )
        head = pa.py_buffer(start + metadata)
        if not body_length:
            return Message(kind, codec, head.size, (head,))
        body = allocate(body_length)
        view = memoryview(body).cast("B")
        have = 0
        while have < body_length:
            part = await self._some(min(body_length - have, _CHUNK))
            view[have : have + len(part)] = part
            have += len(part)
        return Message(kind, codec, head.size, (head, body))

    async def _exactly(self, size: int) -> bytes:
        try:
            data = await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise self._cut(len(error.partial)) from error
        except (ConnectionError, TimeoutError) as error:
            raise TransferError(f"{self.address} was cut: {error}") from error
        self._position += size
        return data

    async def _some(self, size: int) -> bytes:
        try:
            data = await self._reader.read(size)
        except (ConnectionError, TimeoutError) as error:
            raise TransferError(f"{self.address} was cut: {error}") from error
        if not data:
            raise self._cut(0)
        self._position += len(data)
        return data

    def _cut(self, have: int) -> CutStream:
        return CutStream(
            f"{self.address} was cut {self._position + have:,} bytes after the start of the stream, without the mark "
            "that ends an Arrow IPC stream. The sender died or gave up; send again"
        )
