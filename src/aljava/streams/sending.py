"""From record batches to a channel: cut to a size that keeps both ends busy, and sent from where they stand."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from aljava import ipc
from aljava.errors import TransferError
from aljava.ipc.message import END_OF_STREAM
from aljava.streams import sharing
from aljava.streams.channels import Channel

#: Batches are cut to about this: three of them stay in a cache. Larger ones make the receiver wait, and hold more
#: memory; smaller ones cost more than they have to, each some 0.1 ms at either end.
BATCH_BYTES = 8 << 20
# Bytes up to which a message is small.
_SMALL = 16 << 10
# Seconds within which one comes on the heels of another, and bytes that are enough for a call of the system.
_HEELS = 0.001
_TOGETHER = 64 << 10
_PLAIN = pa.ipc.IpcWriteOptions()


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
        self._segments = sharing.sends(channel, shared_memory)
        self._sink = PartsSink()
        self._writer = ipc.new_stream(self._sink, schema, options=options)
        self._gathered = _Gathered(channel, schema)
        self._schema = schema
        self._row_bytes = _row_bytes(schema) if options.compression == "none" else 0
        self._has_begun = False
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """Bytes of all messages, however they went."""
        return self._bytes + self._gathered.bytes

    def send(self, batch: pa.RecordBatch) -> None:
        """Sends a batch; it is on its way when this returns, or within a millisecond where it is small.

        Raises:
            SchemaMismatch: it has another schema.
            TransferError: the receiver is gone.
        """
        if not self._has_begun:
            self._has_begun = True
            self._writer.begin()
            self._send_alone()  # the schema, so that a receiver knows what comes while the first batch fills
        size = batch.num_rows * self._row_bytes
        # A few kilobytes of numbers, in buffers that hold its rows and nothing else: then pyarrow's own message is the
        # one that our writer would make, in a fifth of the time.
        if 0 < size <= _SMALL and batch.get_total_buffer_size() == size and batch.schema.equals(self._schema):
            self._gathered.send(batch, size)
            return
        if self._segments is not None and batch.num_rows and (place := self._segments.lies_in_store(batch)):
            self._gathered.flush()
            self._writer.write_batch(batch)
            parts, size = self._sink.take()
            if self._segments.send_stored(parts, size, place):
                self._bytes += size
                return
        messages = self._messages(batch)
        ahead: list[Any] = []
        while message := ahead.pop() if ahead else next(messages, None):
            parts, size = message
            self._send(parts, size, lambda: ahead.extend(islice(messages, 1)))

    def finish(self) -> None:
        """Ends the stream and sees that the receiver's system has all of it."""
        self._writer.close()
        self._send_alone()
        self._channel.finish()

    def close(self) -> None:
        """Lets go of the memory that was shared; a stream that was not finished is one that was cut."""
        self._gathered.close()
        if self._segments is not None:
            self._segments.close()

    def _messages(self, batch: pa.RecordBatch) -> Iterator[tuple[list[Any], int]]:
        """The parts, and their bytes, of each piece of a batch."""
        for piece in pieces(batch):
            self._writer.write_batch(piece)
            yield self._sink.take()

    def _send(self, parts: list[Any], size: int, meanwhile: Callable[[], None]) -> None:
        if size <= _SMALL:
            self._gathered.send_parts(parts, size)
            return
        self._gathered.flush()
        if self._segments is None or not self._segments.send(parts, size):
            self._channel.send(parts, meanwhile)
        self._bytes += size

    def _send_alone(self) -> None:
        """Sends what the writer wrote, at once."""
        parts, size = self._sink.take()
        self._gathered.flush()
        self._channel.send(parts)
        self._bytes += size


class _Gathered:
    """Sends small messages: one that comes alone at once, those that come on its heels together.

    A call of the system for each, and a receiver that is woken for each, cost more than all else. So do calls of ours:
    a run of batches becomes bytes in one call of pyarrow's. What is held back waits for a millisecond at most, whatever
    the source of the batches does: a thread sees to that.

    Args:
        channel: to the receiver.
        schema: of all batches.
    """

    def __init__(self, channel: Channel, schema: pa.Schema) -> None:
        self._channel = channel
        self._schema = schema
        self._lock = threading.Lock()
        #: What is held: bytes, and batches that stand behind them.
        self._parts: list[Any] = []
        self._batches: list[pa.RecordBatch] = []
        self._size = 0
        self._sent_at = 0.0
        self._failure: TransferError | None = None
        self._thread: threading.Thread | None = None
        self._due = threading.Event()
        self._is_closed = False
        #: Bytes that were sent.
        self.bytes = 0

    def send(self, batch: pa.RecordBatch, size: int) -> None:
        """Sends a batch of so many bytes, of which pyarrow makes what the writer would make.

        Raises:
            TransferError: the receiver is gone.
        """
        with self._lock:
            self._batches.append(batch)
            self._size += size
            self._send_when_due()

    def send_parts(self, parts: Sequence[Any], size: int) -> None:
        """Sends messages of so many bytes.

        Raises:
            TransferError: the receiver is gone.
        """
        with self._lock:
            self._encode()
            self._parts += parts
            self._size += size
            self._send_when_due()

    def flush(self) -> None:
        """Sends what is held."""
        if self._thread is not None:
            with self._lock:
                self._send_held()

    def close(self) -> None:
        """Drops what is held."""
        if self._thread is not None:
            with self._lock:
                self._is_closed = True
                self._drop()
            self._due.set()
            self._thread.join()

    def _send_when_due(self) -> None:
        now = time.monotonic()
        if self._size >= _TOGETHER or now - self._sent_at > _HEELS:
            self._send_held()
            self._sent_at = now
        elif not self._due.is_set():
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_late, name="aljava sends", daemon=True)
                self._thread.start()
            self._due.set()

    def _send_held(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._encode()
        parts = self._parts
        self._drop()
        if parts:
            self.bytes += self._channel.send(parts)

    def _encode(self) -> None:
        """Makes bytes of the batches that are held."""
        if self._batches:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self._schema, options=_PLAIN) as writer:
                writer.write_table(pa.Table.from_batches(self._batches, self._schema))
            stream = sink.getvalue()
            # Without the schema that a stream begins with and the mark that it ends with.
            start = 8 + int.from_bytes(stream[4:8], "little")
            self._parts.append(stream.slice(start, stream.size - start - len(END_OF_STREAM)))
            self._batches = []

    def _drop(self) -> None:
        self._parts, self._batches, self._size = [], [], 0

    def _send_late(self) -> None:
        while not self._is_closed:
            self._due.wait()
            time.sleep(_HEELS)
            # Not while a send would wait: whoever closes takes the lock.
            while self._size and not self._channel.takes(_HEELS):
                continue
            with self._lock:
                self._due.clear()
                try:
                    self._send_held()
                except TransferError as error:
                    self._failure = error


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


def _row_bytes(schema: pa.Schema) -> int:
    """Bytes of one row without nulls, where all columns are numbers of whole bytes; else 0."""
    try:
        widths = [kind.bit_width for kind in schema.types if pa.types.is_primitive(kind)]
    except ValueError:  # not of a fixed width
        return 0
    if len(widths) < len(schema) or any(width % 8 for width in widths):
        return 0
    return sum(widths) // 8


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
