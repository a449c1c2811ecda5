"""A table as the bytes of an uncompressed Arrow IPC file, and back.

The file ends exactly where its segment ends, however large that is, because readers find the footer from the end: the
room that is left stands between the end-of-stream marker and the footer, where no reader looks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from aljava.errors import InvalidData
from aljava.ipc.metadata import Block, decode_footer
from aljava.ipc.writer import Layout, RecordBatchFileWriter, WriteOptions, lay_out
from aljava.store.filling import is_full, write_all
from aljava.store.folder import SMALL, Content

# Readers of shared memory read at its speed: neither statistics nor checksums would pay for themselves here.
_OPTIONS = WriteOptions(compression="none", statistics=False, checksums=False)
# Without options pyarrow reads its environment for each writer: 39 µs for a small table in place of 16.
_SMALL_OPTIONS = pa.ipc.IpcWriteOptions(unify_dictionaries=True)
_READ_OPTIONS = pa.ipc.IpcReadOptions(use_threads=False)


def lower(table: pa.Table) -> Layout:
    """Lays a table out as an Arrow IPC file. Copies nothing, but for tables that become small objects."""
    # `nbytes` takes 14 µs; the other is at least as large, and larger for a slice.
    if table.get_total_buffer_size() < SMALL or table.nbytes < SMALL:
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

    def __init__(self, descriptor: int, make_room: Callable[[int], int]) -> None:
        self._descriptor = descriptor
        self._make_room = make_room
        self.position = 0

    def write(self, part: Any) -> int:
        view = memoryview(part).cast("B")
        try:
            write_all(self._descriptor, [view], self.position)
        except OSError as error:
            if not is_full(error) or not self._make_room(len(view)):
                raise
            write_all(self._descriptor, [view], self.position)
        self.position += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Whoever opened the file closes it."""


def stream(reader: pa.RecordBatchReader, descriptor: int, make_room: Callable[[int], int]) -> Iterator[int]:
    """Writes a reader batch by batch to a file; yields the bytes written so far after each.

    Where the machine's memory is full, `make_room` is asked to free some, as `Folder.make_room` does.
    """
    sink = _Descriptor(descriptor, make_room)
    with RecordBatchFileWriter(sink, reader.schema, options=_OPTIONS) as writer:
        for batch in reader:
            writer.write_batch(batch)
            yield sink.position
    yield sink.position


def read_table(content: Content, address: str) -> pa.Table:
    """The table whose file is given, on the very same memory.

    Raises:
        InvalidData: it is no Arrow IPC file, or its metadata does not fit its data.
    """
    try:
        table = _read(content)
        table.validate()
    except (pa.ArrowException, OSError) as error:  # pyarrow says both of damaged bytes
        raise InvalidData(f"{address} is damaged, or no Arrow IPC file was put there: {error}") from error
    return table


def _read(content: Content) -> pa.Table:
    footer = _footer(content.tail)
    if footer is not None and (found := _seen.get(footer)) is not None:
        return pa.Table.from_batches([_read_batch(content, *found)])
    file = pa.ipc.open_file(content.buffer, options=_READ_OPTIONS)
    if footer is not None and file.num_record_batches == 1:
        decoded = decode_footer(footer, content.buffer.size)
        block = decoded.batches[0]
        if not decoded.dictionaries and block.offset + block.metadata_length <= len(content.head):
            _seen[footer] = file.schema, block
            while len(_seen) > _MOST_SEEN:
                _seen.pop(next(iter(_seen)), None)
    return file.read_all()


# What was learned from the footers of tables in one batch, which most tables are: schema, and where the batch stands.
# Going by it, a get reads a message in place of a file, and touches no page of a fresh map: 9 µs in place of 28.
_seen: dict[bytes, tuple[pa.Schema, Block]] = {}
_MOST_SEEN = 256


def _footer(tail: bytes) -> bytes | None:
    """The FlatBuffers bytes of the footer, where the last bytes of a file hold all of it."""
    start = len(tail) - 10 - int.from_bytes(tail[-10:-6], "little")
    return tail[start:-10] if start >= 0 else None


def _read_batch(content: Content, schema: pa.Schema, block: Block) -> pa.RecordBatch:
    body = block.offset + block.metadata_length
    message = content.head[block.offset : body]
    pieces = _Pieces(message[:4], message[4:8], message[8:], content.buffer[body : body + block.body_length])
    return pa.ipc.read_record_batch(pa.ipc.read_message(pa.PythonFile(pieces, "r")), schema)


class _Pieces:
    """A message as a file that pyarrow reads without copying it: marker, length, metadata and body, one a call."""

    closed = False

    def __init__(self, *pieces: bytes | pa.Buffer) -> None:
        self._pieces = iter(pieces)

    def read(self, size: int) -> bytes | pa.Buffer:
        return next(self._pieces, b"")

    def close(self) -> None:
        """The memory belongs to the buffer."""
