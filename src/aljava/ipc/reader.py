"""Reading streams and files: pyarrow's names and signatures, and no trust in the bytes.

pyarrow builds the arrays. What stands here comes before and after: a footer and its blocks are checked against the
file, what a compressed buffer claims to hold against what it can hold, a message from a socket is taken in pieces so
that memory grows with what arrives; each batch is validated before anyone sees it; compressed batches are decoded
several at a time. What stands uncompressed in memory, or in a mapped file, is not copied.
"""

import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.ipc import RecordBatchFileReader as PyArrowFileReader
from pyarrow.ipc import RecordBatchStreamReader as PyArrowStreamReader
from pyarrow.ipc import read_schema

from aljava.errors import (
    AccessDenied,
    AljavaError,
    InvalidData,
    InvalidOption,
    NotFound,
    TransferError,
    TruncatedFile,
    UnsupportedType,
)
from aljava.ipc.compression import pool
from aljava.ipc.message import CONTINUATION, END_OF_STREAM, FILE_START, MAGIC, Messages, kind_of, read_encapsulated
from aljava.ipc.metadata import (
    DICTIONARY,
    SCHEMA,
    Block,
    Blocks,
    Footer,
    check_buffers,
    decode_footer,
    decode_message,
    peek,
    peek_batches,
)

OWN_PREFIX = b"aljava."
"""What the keys begin with under which Aljava keeps its own entries in a footer."""
EXPANSION = {"lz4": 255, "zstd": 1 << 15}
"""Bytes that one compressed byte can stand for at most: LZ4's longest match, a zstd block of one repeated byte."""
CHECKED = 1 << 20
"""Bytes from which the size that a zstd frame itself states is compared with what the message claims."""


@dataclass(frozen=True)
class ReadOptions:
    """How Aljava reads a payload.

    Examples:
        >>> ReadOptions(columns=("price",), untrusted=True).use_threads
        True
    """

    columns: tuple[str | int, ...] | None = None
    """The columns to read, by name or number; they come in the order of the payload. None is all of them."""
    use_threads: bool = True
    """Whether compressed batches are decoded on several threads."""
    untrusted: bool = False
    """Whether every value is checked (UTF-8, offsets, indices), not only the sizes: for data from strangers."""

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise InvalidOption(f"columns are a tuple of names; got the text {self.columns!r}.")
        if self.columns is not None and not self.columns:
            raise InvalidOption("columns names no column; None reads all of them.")
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))


class RecordBatchStreamReader(PyArrowStreamReader):
    """Reads the Arrow streaming format.

    Args:
        source: bytes or any buffer, a path (mapped), an object with `read`, a `pyarrow.NativeFile`, a socket.
        options: `ReadOptions`, or pyarrow's `IpcReadOptions`.
        memory_pool: where pyarrow allocates.

    Raises:
        InvalidData: the bytes are no Arrow stream, or damaged.
        TransferError: the source failed.

    Example:
        >>> import pyarrow as pa
        >>> sink = pa.BufferOutputStream()
        >>> table = pa.table({"a": [1, 2, 3]})
        >>> with pa.ipc.new_stream(sink, table.schema) as writer:
        ...     writer.write_table(table)
        >>> RecordBatchStreamReader(sink.getvalue()).read_all() == table
        True
    """

    def __init__(self, source: Any, *, options: Any = None, memory_pool: Any = None):
        self._options, settings = _settings(options)
        buffer = _as_buffer(source)
        self._view = memoryview(b"" if buffer is None else buffer).cast("B")
        self._at = 0
        with _STREAM:
            if buffer is None:
                guard = _Guard(source.makefile("rb") if isinstance(source, socket.socket) else source)
                input = pa.PythonFile(guard, "r")
                names = guard.schema
            else:
                input = pa.BufferReader(buffer)
                names = buffer
            if self._options.columns is not None:
                settings.included_fields = _numbers(read_schema(names), self._options.columns)
            self._open(input, options=settings, memory_pool=memory_pool)
            _check_names(self.schema, deep=self._options.untrusted)
            self._check_next()

    def read_next_batch(self) -> Any:
        """Read the next record batch.

        Raises:
            StopIteration: there are no more.
            InvalidData: what follows is damaged.
        """
        with _STREAM:
            self._check_next()
            return self._valid(super().read_next_batch())

    def read_next_batch_with_custom_metadata(self) -> Any:
        """Read the next record batch, and the metadata that was written with it."""
        with _STREAM:
            self._check_next()
            found = super().read_next_batch_with_custom_metadata()
            self._valid(found.batch)
            return found

    def __next__(self) -> Any:
        return self.read_next_batch()

    def iter_batches_with_custom_metadata(self) -> Iterator[Any]:
        """The record batches that are left, each with the metadata that was written with it."""
        while True:
            try:
                found = self.read_next_batch_with_custom_metadata()
            except StopIteration:
                return
            yield found

    def read_all(self) -> Any:
        """Read the record batches that are left as a `pyarrow.Table`.

        Raises:
            InvalidData: one of them is damaged.
        """
        with _STREAM:
            if self._is_uncompressed():
                # Three times as fast as batch by batch where they are tiny.
                return self._valid(super().read_all())
        return pa.Table.from_batches(list(self), self.schema)

    def read_pandas(self, **options: Any) -> Any:
        """Read the record batches that are left as a pandas DataFrame; options as in `Table.to_pandas`."""
        return self.read_all().to_pandas(**options)

    def _is_uncompressed(self) -> bool:
        """Whether the stream stands in memory and none of the messages that are left is compressed."""
        at, view = self._at, self._view
        if not len(view):
            return False
        while (found := _peek_at(view, at)) is not None:
            *_, codec, at = found
            if codec is not None:
                return False
        self._at = at
        return True

    def _check_next(self) -> None:
        """Check what the next batch and the dictionaries before it claim, where the stream stands in memory.

        What is no message pyarrow finds out by itself; it reads nothing beyond the buffer.
        """
        view = self._view
        kind: str | None = DICTIONARY
        while kind == DICTIONARY:
            found = _peek_at(view, self._at)
            if found is None:
                return
            kind, metadata, body_length, codec, self._at = found
            if codec is not None:
                check_compressed(decode_message(metadata), view[self._at - body_length : self._at])

    def _valid(self, batch: Any) -> Any:
        batch.validate(full=self._options.untrusted)
        return batch


class RecordBatchFileReader(PyArrowFileReader):
    """Reads the Arrow file format, in any order.

    Args:
        source: bytes or any buffer, a path (mapped), a seekable object with `read`, a `pyarrow.NativeFile`.
        footer_offset: bytes from the start of the source to the end of the file, where that is not the source's end.
        options: `ReadOptions`, or pyarrow's `IpcReadOptions`.
        memory_pool: where pyarrow allocates.

    Attributes:
        footer: what the footer says, Aljava's own entries included.

    Raises:
        TruncatedFile: the file begins as one and has no end.
        InvalidData: the bytes are no Arrow file, or damaged.

    Example:
        >>> import pyarrow as pa
        >>> sink = pa.BufferOutputStream()
        >>> table = pa.table({"a": [1, 2, 3]})
        >>> with pa.ipc.new_file(sink, table.schema) as writer:
        ...     writer.write_table(table)
        >>> reader = RecordBatchFileReader(sink.getvalue())
        >>> reader.num_record_batches, reader.get_batch(0).num_rows
        (1, 3)
    """

    def __init__(self, source: Any, footer_offset: int | None = None, *, options: Any = None, memory_pool: Any = None):
        self._options, self._settings = _settings(options)
        self._memory = (
            _whole(source) if isinstance(source, pa.MemoryMappedFile | pa.BufferReader) else _as_buffer(source)
        )
        self._view = None if self._memory is None else memoryview(self._memory).cast("B")
        if self._memory is not None:
            self._file = pa.BufferReader(self._memory)
        elif isinstance(source, pa.NativeFile):
            self._file = source
        else:
            self._file = pa.PythonFile(source, "r")
        self._footer_offset, self._memory_pool = footer_offset, memory_pool
        self._dictionaries_checked = False
        with _FILE:
            self.footer = _read_footer(self._read, self._file.size(), footer_offset)
            if self._options.columns is not None:
                self._open(self._file, footer_offset=footer_offset)
                self._settings.included_fields = _numbers(self.schema, self._options.columns)
            self._open(self._file, footer_offset=footer_offset, options=self._settings, memory_pool=memory_pool)
            _check_names(self.schema, deep=self._options.untrusted)
            self._before = self._messages_before() if self._settings.included_fields else None

    def get_batch(self, i: int, *, use_threads: bool = True) -> Any:
        """Read one record batch.

        Args:
            i: its number, from 0.
            use_threads: whether its columns may be decoded side by side, where the options allow it: not so is faster
                for who decodes several batches side by side, by a fifth on two cores.

        Raises:
            ValueError: there is no such batch.
            InvalidData: it is damaged.
        """
        with _FILE:
            self._check_batch(i)
            if self._before is not None and 0 <= i < len(self.footer.batches):
                settings = self._settings if use_threads else _on_one_thread(self._settings)
                return self._valid(self._get_in_place(i, settings))
            return self._valid(super().get_batch(i) if use_threads else self._single.get_batch(i))

    get_record_batch = get_batch

    def get_batch_with_custom_metadata(self, i: int) -> Any:
        """Read one record batch, and the metadata that was written with it."""
        with _FILE:
            self._check_batch(i)
            found = super().get_batch_with_custom_metadata(i)
            self._valid(found.batch)
            return found

    def read_all(self) -> Any:
        """Read all record batches as a `pyarrow.Table`; compressed ones are decoded several at a time."""
        if self._memory is not None and self._before is None:
            with _FILE:
                if not self._is_any_compressed():
                    return self._valid(super().read_all())
        count = self.num_record_batches
        if count > 1 and self._options.use_threads and self._is_compressed(self.footer.batches[0]):
            batches = self._get_all()
        else:
            batches = [self.get_batch(number) for number in range(count)]
        return pa.Table.from_batches(batches, self.schema if not batches else batches[0].schema)

    def _get_all(self) -> list[Any]:
        """All batches, decoded several at a time."""
        get = partial(self.get_batch, use_threads=False)
        # Where there are dictionaries, pyarrow loads them with the first batch, which no other may overtake.
        alone = 1 if self.footer.dictionaries else 0
        return [*map(get, range(alone)), *pool().map(get, range(alone, len(self.footer.batches)))]

    @cached_property
    def _single(self) -> PyArrowFileReader:
        """The same file without pyarrow's own threads, which decode the columns of one batch side by side."""
        settings = _on_one_thread(self._settings)
        return PyArrowFileReader(self._file, self._footer_offset, options=settings, memory_pool=self._memory_pool)

    def read_pandas(self, **options: Any) -> Any:
        """Read all record batches as a pandas DataFrame; options as in `Table.to_pandas`."""
        return self.read_all().to_pandas(**options)

    def count_rows(self) -> int:
        """The rows of all batches; only their metadata is read."""
        with _FILE:
            rows: int = super().count_rows()
            return rows

    @property
    def metadata(self) -> dict[bytes, bytes] | None:
        """The user's metadata of the file, or None; Aljava's own entries are in `footer`."""
        return {key: value for key, value in self.footer.metadata if not key.startswith(OWN_PREFIX)} or None

    def _check_batch(self, i: int) -> None:
        if not self._dictionaries_checked:
            for block in self.footer.dictionaries:
                self._check_block(block)
            self._dictionaries_checked = True
        if 0 <= i < len(self.footer.batches):
            self._check_block(self.footer.batches[i])

    def _check_block(self, block: Block) -> None:
        """Check what a compressed message claims; an uncompressed one pyarrow cannot read beyond."""
        metadata = self._metadata(block)
        if peek(metadata)[2] is not None:
            body = self._read(block.offset + block.metadata_length, block.body_length)
            check_compressed(decode_message(metadata), body)

    def _is_any_compressed(self) -> bool:
        peeks = peek_batches(self._memory, self.footer.batches)
        if (peeks.compressed & peeks.sound).any():
            return True
        unsure = Blocks(self.footer.batches.table[~peeks.sound])
        return any(map(self._is_compressed, (*self.footer.dictionaries, *unsure)))

    def _is_compressed(self, block: Block) -> bool:
        return peek(self._metadata(block))[2] is not None

    def _metadata(self, block: Block) -> Any:
        raw = self._read(block.offset, block.metadata_length)
        return raw[8:] if raw[:4] == CONTINUATION else raw[4:]

    def _read(self, offset: int, size: int) -> Any:
        return (
            memoryview(self._file.read_at(size, offset)) if self._view is None else self._view[offset : offset + size]
        )

    def _messages_before(self) -> list[Any] | None:
        """The messages that a stream would have before its batches, where the file stands in memory.

        pyarrow's file reader copies the whole body of a batch to read some of its columns; its stream reader leaves
        them where they are. None where that would decode dictionaries once for each batch.
        """
        if self._memory is None or any(self._is_compressed(block) for block in self.footer.dictionaries):
            return None
        found = next(iter(Messages(self._memory, len(FILE_START))), None)
        if found is None or found.header.kind != SCHEMA:
            return None
        blocks = [Block(found.offset, found.metadata_length, 0), *self.footer.dictionaries]
        return [piece for block in blocks for piece in self._pieces(block)]

    def _pieces(self, block: Block) -> list[Any]:
        head = self._memory[block.offset : block.offset + block.metadata_length]
        prefix = 8 if head[:4] == CONTINUATION else 4
        return [
            head[:4],
            *([head[4:8]] if prefix == 8 else []),
            head[prefix:],
            self._memory[block.offset : block.end][block.metadata_length :],
        ]

    def _get_in_place(self, i: int, settings: Any) -> Any:
        pieces = [*(self._before or ()), *self._pieces(self.footer.batches[i])]
        stream = PyArrowStreamReader(pa.PythonFile(_Pieces(pieces), "r"), options=settings)
        batch = next(iter(stream), None)
        if batch is None:
            raise InvalidData(f"record batch {i} of the file is none, or an empty message: the file is damaged.")
        return batch

    def _valid(self, batch: Any) -> Any:
        batch.validate(full=self._options.untrusted)
        return batch


def open_stream(source: Any, *, options: Any = None, memory_pool: Any = None) -> RecordBatchStreamReader:
    """Open a stream for reading; see `RecordBatchStreamReader`."""
    return RecordBatchStreamReader(source, options=options, memory_pool=memory_pool)


def open_file(
    source: Any, footer_offset: int | None = None, *, options: Any = None, memory_pool: Any = None
) -> RecordBatchFileReader:
    """Open a file for reading; see `RecordBatchFileReader`."""
    return RecordBatchFileReader(source, footer_offset, options=options, memory_pool=memory_pool)


def _peek_at(view: memoryview, at: int) -> tuple[str | None, memoryview, int, str | None, int] | None:
    """The message that stands at a place of a stream: (kind, metadata, bytes of body, codec, where it ends).

    None for anything else.
    """
    start = at + (8 if view[at : at + 4] == CONTINUATION else 4)
    length = int.from_bytes(view[start - 4 : start], "little", signed=True)
    if length <= 0 or start + length > len(view):
        return None
    metadata = view[start : start + length]
    kind, body_length, codec = peek(metadata)
    return kind, metadata, body_length, codec, start + length + body_length


def check_compressed(header: Any, body: Any) -> None:
    """Check that the buffers of a compressed body lie in it and do not claim to hold more than they can.

    pyarrow allocates what a buffer claims before it decodes it.

    Args:
        header: the `MessageHeader` of the batch.
        body: its body, any buffer.

    Raises:
        InvalidData: a buffer claims too much.
    """
    check_buffers(header)
    codec = header.batch.codec
    if codec is None:
        return
    view = memoryview(body).cast("B")
    filled = header.batch.buffers[header.batch.buffers[:, 1] > 0]
    offsets, lengths = filled[:, 0], filled[:, 1] - 8
    if len(lengths) and (int(lengths.min()) < 0 or len(view) < header.body_length):
        raise InvalidData("a compressed buffer is too short to say how long it was before.")
    octets = np.frombuffer(view, np.uint8)
    claims = octets[offsets[:, None] + np.arange(8)].view("<i8")[:, 0]
    wrong = (claims < -1) | (claims > (lengths + 64) * EXPANSION[codec])
    if codec == "zstd":
        for number in np.flatnonzero(~wrong & (claims > CHECKED)).tolist():
            start = int(offsets[number]) + 8
            stated = _zstd_size(bytes(view[start : start + min(18, int(lengths[number]))]))
            wrong[number] |= stated is not None and stated != claims[number]
    if wrong.any():
        bad = int(np.flatnonzero(wrong)[0])
        raise InvalidData(
            f"{int(lengths[bad])} bytes of {codec} at offset {int(offsets[bad]) + 8} of a body claim to hold "
            f"{int(claims[bad])}: the message is damaged or hostile."
        )


def _zstd_size(frame: bytes) -> int | None:
    """The size that a zstd frame states for its content (RFC 8878, section 3.1.1.1), or None where it states none."""
    if len(frame) < 14 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = frame[4]
    is_single = descriptor >> 5 & 1
    at = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    size = (is_single, 2, 4, 8)[descriptor >> 6]
    stated = int.from_bytes(frame[at : at + size], "little") + (256 if size == 2 else 0)
    return stated if size else None


class _Pieces:
    """Pieces of bytes, as a file that pyarrow reads without copying them.

    Args:
        pieces: the bytes, cut as pyarrow reads them.
    """

    closed = False

    def __init__(self, pieces: Sequence[Any]):
        self._pieces = [piece for piece in pieces if len(piece)]

    def read(self, size: int) -> Any:
        """Up to `size` bytes; never more than one piece."""
        if not self._pieces:
            self._fill()
        if not self._pieces:
            return b""
        piece = self._pieces[0]
        if len(piece) <= size:
            return self._pieces.pop(0)
        self._pieces[0] = piece[size:]
        return piece[:size]

    def close(self) -> None:
        """The bytes belong to the caller."""

    def _fill(self) -> None:
        """There are no more."""


class _Guard(_Pieces):
    """A source that can only be read forward: hands on messages that were checked.

    Args:
        source: an object with `read`.
    """

    def __init__(self, source: Any):
        super().__init__(())
        self._source = source
        self._ended = False
        self._fill()
        self.schema = pa.py_buffer(b"".join(self._pieces))

    def _fill(self) -> None:
        if self._ended:
            return
        try:
            message = read_encapsulated(self._source)
        except (AljavaError, pa.ArrowInvalid):
            raise
        except OSError as error:
            failure = TransferError(f"the source failed: {error}. What came before is whole.")
            failure.errno = error.errno
            raise failure from error
        if message is None:
            self._ended = True
            self._pieces = [CONTINUATION, END_OF_STREAM[4:]]
            return
        prefix, metadata, body = message
        if peek(metadata)[2] is not None:
            check_compressed(decode_message(metadata), body)
        pieces = [prefix[:4], prefix[4:], pa.py_buffer(metadata), pa.py_buffer(body)]
        self._pieces = [piece for piece in pieces if len(piece)]


def _settings(options: Any) -> tuple[ReadOptions, Any]:
    """(our options, pyarrow's) from whatever the user gave."""
    if options is None:
        return _DEFAULT, pa.lib.IpcReadOptions()
    if isinstance(options, ReadOptions):
        return options, pa.lib.IpcReadOptions(use_threads=options.use_threads)
    if isinstance(options, pa.lib.IpcReadOptions):
        return ReadOptions(use_threads=options.use_threads), options
    raise TypeError(f"expected ReadOptions or IpcReadOptions, got {type(options)}")


_DEFAULT = ReadOptions()


def _on_one_thread(settings: Any) -> Any:
    """The same of pyarrow's settings, without its threads."""
    return pa.lib.IpcReadOptions(
        ensure_native_endian=settings.ensure_native_endian,
        use_threads=False,
        included_fields=settings.included_fields,
    )


def _as_buffer(source: Any) -> Any:
    """The bytes of a source that is memory or a regular file; None for what has to be read."""
    if isinstance(source, str | os.PathLike):
        try:
            status = os.stat(source)
            if not stat.S_ISREG(status.st_mode):
                raise UnsupportedType(f"{os.fspath(source)} is no regular file: open it, and hand over the open file.")
            return pa.memory_map(os.fspath(source)).read_buffer() if status.st_size else pa.py_buffer(b"")
        except FileNotFoundError:
            raise NotFound(f"{os.fspath(source)}: there is no such file.") from None
        except PermissionError as error:
            raise AccessDenied(f"{os.fspath(source)}: {error.strerror}.") from None
    if isinstance(source, pa.Buffer):
        return source
    if isinstance(source, pa.NativeFile) or hasattr(source, "read") or isinstance(source, socket.socket):
        return None
    return pa.py_buffer(source)


def _whole(source: Any) -> Any:
    """The bytes of a pyarrow file that stands in memory, which are not copied."""
    before = source.tell()
    source.seek(0)
    whole = source.read_buffer()
    source.seek(before)
    return whole


def _read_footer(read: Callable[[int, int], Any], size: int, end: int | None) -> Footer:
    end = end or size
    if end > size:
        raise InvalidOption(f"footer_offset is {end}, the source has {size} bytes.")
    tail = bytes(read(end - 10, 10)) if end >= 10 else b""
    if tail[4:] != MAGIC:
        start = bytes(read(0, min(8, size)))
        kind = kind_of(start)
        if kind == "file":
            raise TruncatedFile(
                f"the file has no end: its {end} bytes should end with {MAGIC!r} and end with {tail[4:]!r}. Its writer "
                "died, or a copy was cut short: `aljava repair` saves what is whole."
            )
        if kind == "stream":
            raise InvalidData("these bytes are an Arrow stream, not a file: open them with `open_stream`.")
        raise InvalidData(f"an Arrow file begins and ends with {MAGIC!r}; these {end} bytes begin with {start!r}.")
    length = int.from_bytes(tail[:4], "little", signed=True)
    start_at = end - 10 - length
    if length <= 0 or start_at < len(MAGIC):
        raise InvalidData(
            f"the footer claims {length} of {end} bytes: the end of the file is damaged. `aljava repair` "
            "writes a new one."
        )
    return decode_footer(read(start_at, length), start_at)


def _check_names(schema: Any, deep: bool) -> None:
    """Names that are no UTF-8 make pyarrow stumble wherever they are looked at: better here than later."""
    names = schema.names
    if deep:
        names.extend(map(str, schema.types))  # tells the names of nested fields, and looks at them


def _numbers(schema: Any, columns: Sequence[str | int]) -> list[int]:
    numbers: set[int] = set()
    for column in columns:
        found = [column] if isinstance(column, int) else schema.get_all_field_indices(column)
        if not found or not 0 <= found[0] < len(schema):
            raise InvalidOption(f"there is no column {column!r}; the payload has {schema.names}.")
        numbers.update(found)
    return sorted(numbers)


class _Checked:
    """Turns what pyarrow says about damaged bytes into errors of ours."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: Any, __: Any) -> None:
        if error is None or isinstance(error, AljavaError | FileNotFoundError):
            return
        if isinstance(error, pa.ArrowNotImplementedError):
            raise UnsupportedType(f"{self._what} holds what pyarrow cannot read: {error}") from error
        if isinstance(error, pa.ArrowException | OSError | UnicodeDecodeError):
            raise InvalidData(f"{self._what} is damaged, or no Arrow IPC: {error}") from error


_STREAM, _FILE = _Checked("the stream"), _Checked("the file")
