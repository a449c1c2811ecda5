"""From record batches to a channel: cut to a size that keeps both ends busy, and sent from where they stand."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from aljava import ipc
from aljava.streams import sharing
from aljava.streams.channels import Channel

#: Batches are cut to about this. Larger ones only make the receiver wait for the first and hold more at a time.
BATCH_BYTES = 8 << 20
# What is smaller than this waits for more where it is all here; a live stream goes out batch by batch.
_GATHERED = 256 << 10


class Outgoing:
    """One stream over a channel.

    Args:
        channel: to the receiver; it stays open.
        schema: of all batches.
        options: how batches are written.
        shared_memory: whether batches go through shared memory where the receiver takes that.
    """

    def __init__(self, channel: Channel, schema: pa.Schema, options: Any, *, shared_memory: bool = True) -> None:
        self._channel = channel
        self._segments = sharing.sends(channel) if shared_memory else None
        self._sink = PartsSink()
        self._writer = ipc.new_stream(self._sink, schema, options=options)
        #: Bytes of all messages, however they went.
        self.bytes = 0

    def send(self, batch: pa.RecordBatch) -> None:
        """Sends a batch; it is on its way when this returns.

        Raises:
            SchemaMismatch: it has another schema.
            TransferError: the receiver is gone.
        """
        if not self.bytes:
            self.flush(shared=False)  # the schema, so that a receiver knows what comes while the first batch fills
        for piece in pieces(batch):
            self._writer.write_batch(piece)
            self.flush()

    def flush(self, *, shared: bool = True) -> None:
        parts, size = self._sink.take()
        if size and not (shared and self._segments is not None and self._segments.send(parts, size)):
            self._channel.send(parts)
        self.bytes += size

    def finish(self) -> None:
        """Ends the stream and sees that the receiver's system has all of it."""
        self._writer.close()
        self.flush(shared=False)
        self._channel.finish()

    def close(self) -> None:
        """Lets go of the memory that was shared; a stream that was not finished is one that was cut."""
        if self._segments is not None:
            self._segments.close()


def send(
    channel: Channel, schema: pa.Schema, batches: Iterable[pa.RecordBatch], options: Any, *, shared_memory: bool = True
) -> int:
    """Sends a whole stream, as fast as the receiver takes it; returns its bytes.

    Raises:
        TransferError: the receiver is gone.
    """
    outgoing = Outgoing(channel, schema, options, shared_memory=shared_memory)
    try:
        for batch in batches:
            outgoing.send(batch)
        outgoing.finish()
        return outgoing.bytes
    finally:
        outgoing.close()


def pieces(batch: pa.RecordBatch, nbytes: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
    """A batch, cut where it is more than half as large again as `nbytes`.

    Example:
        >>> [piece.num_rows for piece in pieces(pa.record_batch({"id": range(1000)}), nbytes=4000)]
        [500, 500]
    """
    size = batch.nbytes
    if size <= nbytes * 3 // 2 or batch.num_rows < 2:
        yield batch
        return
    rows = max(1, -(-batch.num_rows // round(size / nbytes)))
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


class PartsSink:
    """A sink that keeps what it is handed, and so copies nothing."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self._size = 0

    def write(self, part: Any) -> int:
        size = memoryview(part).nbytes
        self._parts.append(part)
        self._size += size
        return size

    def take(self) -> tuple[list[Any], int]:
        taken, self._parts = self._parts, []
        size, self._size = self._size, 0
        return taken, size

    def joined(self) -> bytes:
        """What was handed over since last time, as one."""
        return b"".join(self.take()[0])

    def flush(self) -> None:
        """Whoever takes the parts sends them."""

    def close(self) -> None:
        """The channel is the caller's."""
