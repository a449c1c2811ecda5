"""A table as the bytes of an uncompressed Arrow IPC file, and back.

The file ends exactly where its segment ends, however large that is, because readers find the footer from the end: the
room that is left stands between the end-of-stream marker and the footer, where no reader looks.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from aljava.ipc.writer import Layout, RecordBatchFileWriter, WriteOptions, lay_out
from aljava.store.filling import write_all
from aljava.store.folder import SMALL

# Readers of shared memory read at its speed: neither statistics nor checksums would pay for themselves here.
_OPTIONS = WriteOptions(compression="none", statistics=False, checksums=False)
# Without options pyarrow reads its environment for each writer: 39 µs for a small table in place of 16.
_SMALL_OPTIONS = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
_READ_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


def lower(table: pa.Table) -> Layout:
    """Lays a table out as an Arrow IPC file. Copies nothing, but for tables that become small objects."""
    if table.nbytes < SMALL:
        # pyarrow's writer takes 16 µs for what our own takes 60, and trimming a few kilobytes gains nothing.
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=_SMALL_OPTIONS) as writer:
            writer.write_table(table)
        whole = sink.getvalue()
        if whole.size < SMALL:
            return Layout(whole.size, ((0, whole),), b"")
    return lay_out(table.schema, table.to_batches(), options=_OPTIONS, page_offsets=True)


class _Descriptor:
    """A sink that writes straight to a file, in order."""

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.position = 0

    def write(self, part: Any) -> int:
        view = memoryview(part).cast("B")
        write_all(self._descriptor, [view], self.position)
        self.position += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Whoever opened the file closes it."""


def stream(reader: pa.RecordBatchReader, descriptor: int) -> Iterator[int]:
    """Writes a reader batch by batch to a file; yields the bytes written so far after each."""
    sink = _Descriptor(descriptor)
    with RecordBatchFileWriter(sink, reader.schema, options=_OPTIONS) as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield sink.position
    yield sink.position


def read_table(buffer: pa.Buffer) -> pa.Table:
    """The table whose file `buffer` holds, on the very same memory."""
    return pa.ipc.open_file(buffer, options=_READ_OPTIONS).read_all()
