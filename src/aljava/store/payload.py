"""A table as the bytes of an uncompressed Arrow IPC file, and back.

The file ends exactly where its segment ends, however large that is, because readers find the footer from the end: the
room that is left stands between the end-of-stream marker and the footer, where no reader looks.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from aljava.store.filling import write_all
from aljava.store.folder import SMALL

# Without options pyarrow reads its environment for each writer: 39 µs for a small table in place of 16.
_OPTIONS = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
_READ_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True, slots=True)
class Payload:
    """The bytes of an Arrow IPC file, buffer by buffer, not copied yet."""

    body: list[pa.Buffer | bytes]
    """All up to the end-of-stream marker, without gaps."""
    footer: bytes
    """The rest, which stands at the end of the segment."""
    size: int
    """Bytes, both together: the least that a segment must have."""

    def parts(self, size: int | None = None) -> Iterator[tuple[int, pa.Buffer | bytes]]:
        """Offset and bytes of each part, for a file of `size` bytes."""
        offset = 0
        for part in self.body:
            yield offset, part
            offset += len(part)
        yield (self.size if size is None else size) - len(self.footer), self.footer


class _Parts:
    """A sink for pyarrow's writer that keeps the buffers it is handed, and so copies none of them."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[pa.Buffer | bytes] = []

    def write(self, part: pa.Buffer | bytes) -> int:
        self.parts.append(part)
        return len(part)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def lower(table: pa.Table) -> Payload:
    """Lays a table out as an Arrow IPC file. Copies only what is smaller than a small object."""
    if table.nbytes < SMALL:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=_OPTIONS) as writer:
            writer.write_table(table)
        parts: list[pa.Buffer | bytes] = [sink.getvalue()]
    else:
        keeper = _Parts()
        with pa.ipc.new_file(keeper, table.schema, options=_OPTIONS) as writer:
            writer.write_table(table)
        parts = keeper.parts
    end = b""
    # The footer's length stands in the last ten bytes: `int32` and "ARROW1".
    while len(end) < 10 or len(end) < 10 + int.from_bytes(end[-10:-6], "little"):
        end = bytes(parts.pop()) + end
    split = len(end) - 10 - int.from_bytes(end[-10:-6], "little")
    parts.append(end[:split])
    return Payload(parts, end[split:], sum(map(len, parts)) + len(end) - split)


class _Descriptor:
    """A sink that writes straight to a file, in order."""

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.position = 0

    def write(self, part: pa.Buffer | bytes) -> int:
        view = memoryview(part).cast("B")
        write_all(self._descriptor, [view], self.position)
        self.position += len(view)
        return len(view)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def stream(reader: pa.RecordBatchReader, descriptor: int) -> Iterator[int]:
    """Writes a reader batch by batch to a file; yields the bytes written so far after each."""
    sink = _Descriptor(descriptor)
    with pa.ipc.new_file(sink, reader.schema, options=_OPTIONS) as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield sink.position
    yield sink.position


def read_table(buffer: pa.Buffer) -> pa.Table:
    """The table whose file `buffer` holds, on the very same memory."""
    return pa.ipc.open_file(buffer, options=_READ_OPTIONS).read_all()
