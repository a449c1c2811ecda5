"""Writing streams and files: pyarrow's names and signatures, our placing, compressing and describing.

A writer here is pyarrow's own writer with a plain Python object as its sink. pyarrow checks the batch against the
schema, decides which dictionaries have to go out, and hands over buffers; then each batch is cut to its rows
(`lowering`), compressed where it pays (`compression`) and placed::

    | marker, length, metadata, padding | buffer | padding | buffer | ...
                                        ^ at a multiple of 64 where a buffer of 4 KiB or more follows

Large buffers stand at multiples of 64 bytes, so that a reader that maps them finds them aligned; small ones at
multiples of 8, or a thousand tiny batches would grow by half. In a compressed batch a buffer that stays raw begins
8 bytes before such a place, where its length of -1 stands.
"""

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from pyarrow.ipc import RecordBatchFileWriter as PyArrowFileWriter
from pyarrow.ipc import RecordBatchStreamWriter as PyArrowStreamWriter

from aljava.errors import InvalidOption, SchemaMismatch
from aljava.ipc.checksums import (
    FOOTER_KEY,
    SUPERSEDED_KEY,
    digest,
    encode_checksums,
    encode_superseded,
    footer_digest,
    read_checksums,
    read_superseded,
)
from aljava.ipc.checksums import KEY as CHECKSUMS_KEY
from aljava.ipc.compression import Compression, Packed, Packing, pool
from aljava.ipc.dictionaries import Unifier
from aljava.ipc.lowering import Lowered, Plan, Sink, is_exact, lower, messages, prepare
from aljava.ipc.message import END_OF_STREAM, FILE_START, MAGIC, frame, schema_metadata
from aljava.ipc.metadata import DICTIONARY, Block, Footer, KeyValues, encode_batch, encode_footer, key_values
from aljava.ipc.sinks import Output

if TYPE_CHECKING:
    from concurrent.futures import Future

    from aljava.ipc.zones import ZoneBuilder, Zones

Piece: TypeAlias = Any
"""Some bytes to be written: `bytes` or a `pyarrow.Buffer`."""

LARGE = 4096
"""Bytes from which a buffer is aligned to 64."""
PAGE = 4096
PAGE_TRAP = 500
"""Copying is three times slower to a place 1 to 500 bytes ahead of its source, modulo the size of a page."""
SMALL_DICTIONARY = 1 << 16
"""Bytes under which a dictionary stays uncompressed: nanoarrow reads wrong values from compressed ones."""
IN_FLIGHT = 1 << 26
"""Bytes of batches that are compressed ahead of the one that is being written."""
TINY = 512
"""Bytes of body under which a batch is not worth compressing."""
FEW_ROWS = 8192
"""Rows under which a batch is described at once rather than in another thread."""
BATCH_ROWS = 131_072
"""Rows of the batches into which a table is cut where it is compressed."""


@dataclass(frozen=True)
class WriteOptions:
    """How Aljava writes a payload.

    Examples:
        >>> WriteOptions(compression="zstd:9", raw=("embedding",)).compression
        'zstd:9'
    """

    compression: str = "auto"
    """`"none"`, `"lz4"`, `"zstd"`, one of these with a level (`"zstd:9"`), or `"auto"`: zstd for the buffers that
    shrink by a tenth or more, the others stay raw."""
    raw: tuple[str, ...] = ()
    """Columns that are never compressed, so that a reader can map them."""
    statistics: bool = True
    """Whether a file describes its columns (min, max, null count) for readers that skip what a filter rules out."""
    checksums: bool = True
    """Whether a file carries the XXH3-64 of each message."""
    unify_dictionaries: bool = True
    """Whether a file gathers the dictionaries of all batches into one for each column; else a second dictionary for
    a column is an error. Streams replace dictionaries."""
    dictionary_deltas: bool = False
    """Whether a dictionary that only grew is written as what was added, where dictionaries are not unified."""
    batch_rows: int | None = None
    """Most rows of a record batch that a table is cut into; None: 131,072 where it is compressed, else as it comes."""
    use_threads: bool = True
    """Whether buffers are compressed on several threads."""

    def __post_init__(self) -> None:
        Compression.parse(self.compression)
        if isinstance(self.raw, str):
            raise InvalidOption(f"raw names columns in a tuple; got the text {self.raw!r}.")
        object.__setattr__(self, "raw", tuple(self.raw))
        if self.batch_rows is not None and self.batch_rows < 1:
            raise InvalidOption(f"batch_rows is at least 1; got {self.batch_rows}.")


class IpcWriteOptions(pa.lib.IpcWriteOptions):
    """pyarrow's options, which in addition remember the level of a `pyarrow.Codec`; pyarrow does not tell it.

    Args:
        compression: `"lz4"`, `"zstd"`, a `pyarrow.Codec`, or None.
        **options: as in `pyarrow.ipc.IpcWriteOptions`.
    """

    def __init__(self, *, compression: Any = None, **options: Any):
        super().__init__(compression=compression, **options)
        self._codec = compression

    @property
    def compression(self) -> str | None:
        """The name of the codec, or None."""
        name: str | None = pa.lib.IpcWriteOptions.compression.__get__(self)
        return name

    @compression.setter
    def compression(self, value: Any) -> None:
        pa.lib.IpcWriteOptions.compression.__set__(self, value)
        self._codec = value

    @property
    def compression_level(self) -> int | None:
        """The level of the codec that was given; None is the codec's default."""
        if not isinstance(self._codec, pa.Codec):
            return None
        level: int = self._codec.compression_level
        return level


class _Writing:
    """What the stream writer and the file writer share: batches in, pieces out."""

    _is_file = False

    def _begin(self, sink: Any, schema: Any, options: Any, metadata: Any = None) -> None:
        if not isinstance(schema, pa.Schema):
            raise TypeError(f"a writer needs a pyarrow.Schema; got {type(schema).__name__}")
        settings, lowering = _settings(options)
        self._engine: _Engine | None = None
        if lowering is not None and _is_old(lowering):
            # Formats of the past are pyarrow's to write.
            arguments = {"metadata": metadata} if self._is_file else {}
            self._open(sink, schema, options=lowering, **arguments)  # type: ignore[attr-defined]
            return
        # What can be wrong is found before a file is made.
        raw, pairs = _columns(schema, settings.raw, "raw"), key_values(metadata)
        output = sink if isinstance(sink, _Record) else Output(sink)
        self._engine = _Engine(output, schema, settings, is_file=self._is_file, raw=raw, metadata=pairs)
        self._lowering = lowering
        self._lowered: Sink | None = None

    def _open_lowering(self, engine: "_Engine") -> Sink:
        """Open pyarrow's writer: when the first batch needs it, since tiny batches go out without it."""
        opened = pa.lib._RecordBatchFileWriter if self._is_file else pa.lib._RecordBatchStreamWriter
        if engine.unifier is not None:
            opened = pa.lib._RecordBatchStreamWriter  # replaces dictionaries, which then are unified
        options = self._lowering
        if options is None:
            deltas = engine.settings.dictionary_deltas
            options = pa.lib.IpcWriteOptions(allow_64bit=True, use_threads=False, emit_dictionary_deltas=deltas)
        sink = Sink()
        opened._open(self, sink, engine.schema, options=options)
        return sink

    def write(self, table_or_batch: Any) -> None:
        """Write a record batch, a table, or all batches of a `pyarrow.RecordBatchReader`.

        Raises:
            SchemaMismatch: it does not fit the writer's schema.
            TransferError: the sink failed.
        """
        if isinstance(table_or_batch, pa.RecordBatch):
            self.write_batch(table_or_batch)
        elif isinstance(table_or_batch, pa.Table):
            self.write_table(table_or_batch)
        elif isinstance(table_or_batch, pa.RecordBatchReader):
            self.write_batches(table_or_batch)
        else:
            raise ValueError(
                f"a writer takes a pyarrow RecordBatch, Table or RecordBatchReader; got {type(table_or_batch)}"
            )

    def write_batch(self, batch: Any, custom_metadata: Any = None) -> None:
        """Write one record batch; it has reached the sink when this returns.

        Args:
            batch: a `pyarrow.RecordBatch` of the writer's schema.
            custom_metadata: text or bytes by key, kept with the batch.

        Raises:
            SchemaMismatch: the batch has another schema.
            TransferError: the sink failed.
        """
        self._write([batch], custom_metadata)

    def write_batches(self, batches: Iterable[Any]) -> None:
        """Write record batches; while one is written the next ones are compressed.

        Memory stays at a few batches, however many there are.
        """
        self._write(batches, None)

    def write_table(self, table: Any, max_chunksize: int | None = None) -> None:
        """Write a table as record batches.

        Args:
            table: a `pyarrow.Table` of the writer's schema.
            max_chunksize: most rows of a batch; the chunks of the columns can make them smaller.
        """
        engine = self._engine
        if engine is None:
            super().write_table(table, max_chunksize)  # type: ignore[misc]
            return
        if engine.unifier is not None and any(pa.types.is_dictionary(kind) for kind in table.schema.types):
            # Those with nulls, or of nested values, are unified batch by batch.
            with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
                table = table.unify_dictionaries()
        self._write(table.to_batches(max_chunksize=max_chunksize or engine.settings.batch_rows), None)

    def begin(self) -> None:
        """Write the schema now; else it goes out with the first batch."""
        if self._engine is not None:
            self._engine.begin()
            self._engine.flush()

    def close(self) -> None:
        """End the stream or the file. After a sink has failed it only lets go."""
        engine = self._engine
        if engine is None:
            super().close()  # type: ignore[misc]
        elif not engine.closed:
            engine.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def stats(self) -> Any:
        """What was written so far, a `pyarrow.ipc.WriteStats`."""
        engine = self._engine
        if engine is None:
            return super().stats  # type: ignore[misc]
        return pa.lib.WriteStats(*engine.counts)

    def _write(self, batches: Iterable[Any], custom_metadata: Any) -> None:
        engine = self._engine
        if engine is None:
            for batch in batches:
                super().write_batch(batch, custom_metadata=custom_metadata)  # type: ignore[misc]
            return
        engine.check_open()
        ahead: deque[tuple[Any, Any, int]] = deque()
        in_flight = 0
        try:
            for batch in batches:
                packing = self._packing(batch, custom_metadata)
                # Not `batch.nbytes`: pyarrow 26 dies of the null buffers of empty unions.
                size = 0 if isinstance(packing, _AsIs) else sum(one.size for _, one in packing)
                ahead.append((batch, packing, size))
                in_flight += size
                while ahead and (in_flight > IN_FLIGHT or engine.compression.codec is None):
                    done, packing, size = ahead.popleft()
                    in_flight -= size
                    engine.put(done, packing)
        finally:
            # Also where a batch was refused: those before it are written.
            if not engine.failed:
                for done, packing, _ in ahead:
                    engine.put(done, packing)
                engine.flush()

    def _packing(self, batch: Any, custom_metadata: Any) -> "list[tuple[Lowered, Packing]] | _AsIs":
        """The messages that a batch takes, on their way to be compressed."""
        engine = self._engine
        assert engine is not None
        lowered = self._lower(batch, custom_metadata)
        return lowered if isinstance(lowered, _AsIs) else [(some, engine.pack(some)) for some in lowered]

    def _lower(self, batch: Any, custom_metadata: Any) -> "list[Lowered] | _AsIs":
        """The messages that a batch takes: its dictionaries, where they are new, and itself."""
        engine = self._engine
        assert engine is not None
        if not isinstance(batch, pa.RecordBatch):
            raise TypeError(f"a writer takes a pyarrow.RecordBatch; got {type(batch).__name__}")
        if custom_metadata is None:
            tiny = engine.as_is(batch)
            if tiny is not None:
                return tiny
        if self._lowered is None:
            self._lowered = self._open_lowering(engine)
        plan = engine.plan
        error: SchemaMismatch | None = None
        remaps: dict[int, Any] = {}
        changed: dict[int, Any] = {}
        batch = prepare(batch, plan)
        try:
            super().write_batch(batch, custom_metadata=custom_metadata)  # type: ignore[misc]
        except pa.ArrowInvalid as reason:
            error = _mismatch(reason, batch, engine)
        parts = self._lowered.take()
        found = list(messages(parts))
        if engine.unifier is not None and error is None:
            remaps, changed = engine.unifier.add(batch)
            found = [one for one in found if one[1].kind != DICTIONARY]
        lowered = [some for number, values in changed.items() for some in _lower_dictionary(number, values, plan)]
        for _, header, buffers in found:
            if header.dictionary_id is not None:
                lowered.append(lower(header, buffers, plan.of_dictionary(header.dictionary_id)))
            else:
                lowered.append(lower(header, buffers, plan, remaps))
        if error is not None:
            # What pyarrow wrote before it refused the batch, it takes for written.
            for some in lowered:
                engine.put_message(some, *engine.pack(some).result())
            raise error
        if custom_metadata is None and engine.may_be_tiny(batch):
            # What holds the same rows gives the same bytes, however it lay in memory.
            return engine.as_is(_raised(lowered[0], engine.schema)) or lowered
        return lowered


class RecordBatchStreamWriter(_Writing, PyArrowStreamWriter):
    """Writes the Arrow streaming format.

    Args:
        sink: a path, an object with `write`, a `pyarrow.NativeFile`, a writable buffer, a socket.
        schema: the `pyarrow.Schema` of all batches.
        options: `WriteOptions`, or pyarrow's `IpcWriteOptions`; None writes what pyarrow writes, uncompressed.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"day": ["mon", "tue"] * 500})
        >>> sink = pa.BufferOutputStream()
        >>> with RecordBatchStreamWriter(sink, table.schema, options=WriteOptions(compression="zstd")) as writer:
        ...     writer.write_table(table)
        >>> pa.ipc.open_stream(sink.getvalue()).read_all() == table
        True
    """

    def __init__(self, sink: Any, schema: Any, *, options: Any = None):
        self._begin(sink, schema, options)


class RecordBatchFileWriter(_Writing, PyArrowFileWriter):
    """Writes the Arrow file format.

    Args:
        sink: a path, an object with `write`, a `pyarrow.NativeFile`, a writable buffer.
        schema: the `pyarrow.Schema` of all batches.
        options: `WriteOptions`, or pyarrow's `IpcWriteOptions`; None writes what pyarrow writes: uncompressed, one
            dictionary for each column, no statistics, no checksums.
        metadata: text or bytes by key, kept in the footer.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"day": ["mon", "tue"] * 500})
        >>> sink = pa.BufferOutputStream()
        >>> with RecordBatchFileWriter(sink, table.schema, options=WriteOptions()) as writer:
        ...     writer.write_table(table)
        >>> pa.ipc.open_file(sink.getvalue()).read_all() == table
        True
    """

    _is_file = True

    def __init__(self, sink: Any, schema: Any, *, options: Any = None, metadata: Any = None):
        self._begin(sink, schema, options, metadata)

    @classmethod
    def resumed(
        cls,
        sink: Any,
        schema: Any,
        footer: Footer,
        *,
        dictionaries: Mapping[int, list[Block]],
        first_batch: Any,
        zones: "Zones | None",
        options: WriteOptions,
    ) -> "RecordBatchFileWriter":
        """A writer that goes on where the last batch of a file ends; closing it writes a footer for all of it.

        Args:
            sink: stands where the new batches go; its `tell` says how far that is from the start of the file.
            schema: of the file; its dictionaries have the ids that pyarrow gives them.
            footer: what the file's footer said.
            dictionaries: where the dictionaries stand, by their ids.
            first_batch: the file's first record batch, for its dictionaries: the old values stay first in the new
                ones. None for a file without batches.
            zones: the file's zone map.
            options: how to write. Checksums are written only where the file has them for what it holds.
        """
        from aljava.ipc.zones import KEY as ZONES_KEY

        digests = read_checksums(footer) | read_superseded(footer)
        options = replace(
            options,
            checksums=bool(digests) or (options.checksums and not footer.batches),
            statistics=options.statistics or zones is not None,
            unify_dictionaries=True,
        )
        writer = cls.__new__(cls)
        own = (CHECKSUMS_KEY, FOOTER_KEY, SUPERSEDED_KEY, ZONES_KEY)
        writer._begin(sink, schema, options, {key: value for key, value in footer.metadata if key not in own})
        engine = writer._engine
        assert engine is not None
        engine.resume(footer, dictionaries, first_batch, zones, digests)
        return writer


def new_stream(sink: Any, schema: Any, *, options: Any = None) -> RecordBatchStreamWriter:
    """Make a writer of the Arrow streaming format; see `RecordBatchStreamWriter`."""
    return RecordBatchStreamWriter(sink, schema, options=options)


def new_file(sink: Any, schema: Any, *, options: Any = None, metadata: Any = None) -> RecordBatchFileWriter:
    """Make a writer of the Arrow file format; see `RecordBatchFileWriter`."""
    return RecordBatchFileWriter(sink, schema, options=options, metadata=metadata)


@dataclass(frozen=True)
class Layout:
    """An IPC file that is planned and not yet written.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"a": [1, 2, 3]})
        >>> layout = lay_out(table.schema, table.to_batches())
        >>> memory = bytearray(layout.size + 1000)
        >>> for offset, data in layout.parts(len(memory)):
        ...     memory[offset : offset + len(data)] = data
        >>> pa.ipc.open_file(memory).read_all() == table
        True
    """

    size: int
    """Bytes that the file needs at least."""
    head: tuple[tuple[int, Piece], ...]
    """What stands before the slack: (offset, bytes) each, no two overlapping."""
    footer: bytes
    """What stands behind it, to the end of the file."""

    def parts(self, size: int | None = None) -> Iterator[tuple[int, Piece]]:
        """The bytes of a file that ends at `size`.

        Args:
            size: bytes of the whole; what is more than needed stands between the end-of-stream marker and the
                footer, where no reader looks. None is the least.

        Yields:
            (offset in bytes, `bytes` or `pyarrow.Buffer`). Bytes between them are padding, whatever they hold.

        Raises:
            InvalidOption: the size is less than needed.
        """
        size = self.size if size is None else size
        if size < self.size:
            raise InvalidOption(f"the file takes {self.size} bytes; {size} are not enough.")
        yield from self.head
        yield size - len(self.footer), self.footer


def lay_out(
    schema: Any,
    batches: Iterable[Any],
    options: WriteOptions | None = None,
    metadata: Any = None,
    page_offsets: bool = False,
) -> Layout:
    """Plan an uncompressed IPC file without copying the batches.

    Args:
        schema: of the batches.
        batches: the record batches.
        options: of which statistics, checksums and dictionaries count; None is without any.
        metadata: text or bytes by key, kept in the footer.
        page_offsets: whether large buffers are placed where copying them into page-aligned memory is fast: not 1 to
            500 bytes ahead of their source modulo 4096, where it would be three times slower.

    Returns:
        What stands where. It refers to the memory of the batches.
    """
    settings = options or _PLAIN
    if settings.compression != "none":
        settings = replace(settings, compression="none")
    record = _Record()
    writer = RecordBatchFileWriter(record, schema, options=settings, metadata=metadata)
    engine = writer._engine
    assert engine is not None
    engine.page_offsets = page_offsets
    writer.write_batches(batches)
    engine.end_stream()
    footer = engine.footer()
    return Layout(record.size + len(footer), tuple(record.parts), footer)


class _Record:
    """An output that keeps what it gets, and where it would stand."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, Piece]] = []
        self.size = 0

    def tell(self) -> int:
        return 0

    def write(self, pieces: Sequence[Piece], size: int) -> None:
        small: list[Piece] = []
        at = self.size
        for piece in pieces:
            if len(piece) >= LARGE:
                if small:
                    self._keep(at, b"".join(small))
                    at, small = self.size, []
                self._keep(at, piece)
                at = self.size
            else:
                small.append(piece)
        if small:
            self._keep(at, b"".join(small))

    def _keep(self, at: int, data: Piece) -> None:
        self.parts.append((at, data))
        self.size = at + len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""


class _AsIs(NamedTuple):
    """A message as pyarrow wrote it."""

    message: bytes
    metadata_length: int


class _Engine:
    """Places messages one behind the other, keeps their places, and writes the end."""

    def __init__(
        self, output: Any, schema: Any, settings: WriteOptions, *, is_file: bool, raw: list[int], metadata: KeyValues
    ):
        self._output = output
        self._is_file = is_file
        self.schema = schema
        self._schema_message = _schema_message(schema)
        self._metadata = metadata
        self._started = False
        self.failed = False
        self._position = output.tell() if is_file else 0
        self._dictionaries: dict[int, list[Block]] = {}
        self._batches: list[Block] = []
        self._digests: dict[int, int] = {}
        self._describing: Future[None] | None = None
        self._raw = raw
        self.settings = settings
        self.compression = _parse(settings.compression)
        self._tiny = LARGE if self.compression.codec is None else TINY
        self.plan = Plan.of(schema)
        self.page_offsets = False
        self.closed = False
        self.counts = [0, 0, 0, 0, 0]
        """Messages, record batches, dictionary batches, deltas, replaced dictionaries: as `pyarrow.ipc.WriteStats`."""
        unified = is_file and settings.unify_dictionaries and bool(self.plan.values)
        self.unifier = Unifier(self.plan) if unified else None
        self._zones = _zone_builder(schema) if is_file and settings.statistics else None
        if settings.batch_rows is None and self.compression.codec and settings is not _PLAIN:
            self.settings = replace(settings, batch_rows=BATCH_ROWS)

    def resume(
        self,
        footer: Footer,
        dictionaries: Mapping[int, list[Block]],
        first_batch: Any,
        zones: "Zones | None",
        digests: Mapping[int, int],
    ) -> None:
        """Take over what a file holds already."""
        from aljava.ipc.zones import ZoneBuilder

        self._started = True
        self._batches = list(footer.batches)
        self._digests = dict(digests)
        self._dictionaries = {number: list(blocks) for number, blocks in dictionaries.items()}
        if self.unifier is not None and first_batch is not None:
            self.unifier.add(first_batch)
        if self._zones is not None:
            self._zones = ZoneBuilder.resume(self.schema, zones, len(footer.batches))

    def check_open(self) -> None:
        if self.closed:
            raise InvalidOption("the writer is closed: open another one to write more.")
        if self.failed:
            raise InvalidOption("the sink has failed before: close this writer and write again from the start.")

    def pack(self, lowered: Lowered) -> Packing:
        """Begin to compress a batch."""
        compression = self.compression
        if lowered.header.kind == DICTIONARY and sum(len(part or b"") for part in lowered.buffers) < SMALL_DICTIONARY:
            compression = _UNCOMPRESSED
        raw = self._raw_buffers(lowered) if self._raw else frozenset()
        return Packing(lowered.buffers, raw, compression, self.settings.use_threads)

    def put(self, batch: Any, messages: "list[tuple[Lowered, Packing]] | _AsIs") -> None:
        """Write a batch with its dictionaries."""
        is_compressed = False
        if isinstance(messages, _AsIs):
            self.begin()
            block = Block(self._position, messages.metadata_length, len(messages.message) - messages.metadata_length)
            self._hash([messages.message])
            self._emit([messages.message], len(messages.message))
            self._count(None, False, block)
        else:
            for lowered, packing in messages:
                packed, is_compressed = packing.result()
                self.put_message(lowered, packed, is_compressed)
        if self._zones is not None:
            self._describe(self._zones, batch, is_compressed)

    def may_be_tiny(self, batch: Any) -> bool:
        """Whether a batch has plain columns, and not more values than fit in a tiny one."""
        flat = self.plan.flat
        return flat is not None and 0 < batch.num_rows * len(flat) <= 8 * self._tiny

    def as_is(self, batch: Any) -> "_AsIs | None":
        """A tiny batch as pyarrow makes a message of it, if its buffers hold its rows and nothing else.

        That takes a fifth of the time to lower it.
        """
        flat = self.plan.flat
        if flat is None or not self.may_be_tiny(batch) or not batch.schema.equals(self.schema):
            return None
        if not is_exact(batch, flat, self._tiny):
            return None
        message = batch.serialize().to_pybytes()
        return _AsIs(message, 8 + int.from_bytes(message[4:8], "little"))

    def put_message(self, lowered: Lowered, packed: list[Packed], is_compressed: bool) -> None:
        """Write one message."""
        self.begin()
        header = lowered.header
        assert header.batch is not None
        described: dict[str, Any] = {
            "codec": self.compression.codec if is_compressed else None,
            "variadic": lowered.variadic,
            "dictionary_id": header.dictionary_id,
            "is_delta": header.is_delta,
            "metadata": header.metadata,
        }
        is_large = any(data is not None and len(data) >= LARGE for data, _ in packed)
        start = None
        if self.page_offsets and is_large:
            unplaced = encode_batch(header.batch.length, header.batch.nodes, bytes(16 * len(packed)), 0, **described)
            start = self._position + len(frame(unplaced, self._position, 64))
        table, pieces, size = _place(packed, is_compressed, start)
        metadata = encode_batch(header.batch.length, header.batch.nodes, table, size, **described)
        framed = frame(metadata, self._position, 64 if is_large else 8)
        block = Block(self._position, len(framed), size)
        self._hash([framed, *pieces])
        self._emit([framed, *pieces], len(framed) + size)
        self._count(header.dictionary_id, header.is_delta, block)

    def end_stream(self) -> None:
        """Write the end-of-stream marker."""
        self.begin()
        self._emit([END_OF_STREAM], len(END_OF_STREAM))

    def footer(self) -> bytes:
        """The end of a file, behind the end of its stream."""
        blocks = [block for blocks in self._dictionaries.values() for block in blocks]
        self._settle()
        entries = list(self._metadata)
        if self._zones is not None:
            entries += self._zones.finish().items()
        if self.settings.checksums:
            listed = {block.offset for block in (*blocks, *self._batches)}
            digests = {offset: done for offset, done in self._digests.items() if offset in listed}
            entries.append((CHECKSUMS_KEY, encode_checksums(digests)))
            superseded = {offset: done for offset, done in self._digests.items() if offset not in listed}
            if superseded:
                entries.append((SUPERSEDED_KEY, encode_superseded(superseded)))
            entries.append((FOOTER_KEY, footer_digest(entries)))
        footer = encode_footer(schema_metadata(self._schema_message), blocks, self._batches, entries)
        return footer + struct.pack("<i", len(footer)) + MAGIC

    def flush(self) -> None:
        """Let everything reach the sink, and let go of the batches."""
        self._settle()
        self._flush()

    def close(self) -> None:
        """End the payload, unless the sink has failed, and let go of the sink."""
        self.closed = True
        try:
            if not self.failed:
                self.end_stream()
                if self._is_file:
                    footer = self.footer()
                    self._emit([footer], len(footer))
                self._flush()
        finally:
            self._output.close()

    def begin(self) -> None:
        """Write what stands before the first message, once."""
        if self._started:
            return
        self._started = True
        start = FILE_START if self._is_file else b""
        self._emit([start + self._schema_message], len(start) + len(self._schema_message))
        self.counts[0] += 1

    def _emit(self, pieces: list[Piece], size: int) -> None:
        try:
            self._output.write(pieces, size)
        except BaseException:
            self.failed = True
            raise
        self._position += size

    def _hash(self, pieces: list[Piece]) -> None:
        """Compute the checksum of the message that goes out next.

        Not in another thread: at 30 GB/s, handing it over costs as much again.
        """
        if self._is_file and self.settings.checksums:
            self._digests[self._position] = digest(pieces)

    def _describe(self, zones: "ZoneBuilder", batch: Any, is_compressed: bool) -> None:
        """Describe a batch, in another thread where that takes longer than to ask for one."""
        if self._describing is not None:
            self._describing.result()
            self._describing = None
        if batch.num_rows < FEW_ROWS:
            zones.add(batch, compressed=is_compressed)
        else:
            self._describing = pool().submit(zones.add, batch, compressed=is_compressed)

    def _settle(self) -> None:
        """Wait for the thread that reads the batches, to describe them."""
        if self._describing is not None:
            self._describing.result()
            self._describing = None

    def _flush(self) -> None:
        try:
            self._output.flush()
        except BaseException:
            self.failed = True
            raise

    def _count(self, dictionary_id: int | None, is_delta: bool, block: Block) -> None:
        self.counts[0] += 1
        if dictionary_id is None:
            self.counts[1] += 1
            if self._is_file:  # a stream may go on for ever
                self._batches.append(block)
            return
        self.counts[2] += 1
        known = self._dictionaries.setdefault(dictionary_id, [])
        if is_delta:
            self.counts[3] += 1
        else:
            self.counts[4] += bool(known) and not self._is_file
            known.clear()
        known.append(block)

    def _raw_buffers(self, lowered: Lowered) -> frozenset[int]:
        """Numbers of the buffers of the columns that stay raw, data buffers of views counted."""
        plan = lowered.plan
        if plan is not self.plan:
            return frozenset()
        shift = np.zeros(len(plan.kind) + 1, np.int64)
        for number, count in zip(plan.views, lowered.variadic, strict=True):
            shift[number + 1 :] += count
        ends = [number + int(shift[number]) for number in plan.columns]
        return frozenset(number for column in self._raw for number in range(ends[column], ends[column + 1]))


def _schema_message(schema: Any) -> bytes:
    """The encapsulated schema message; the last one is kept, since many small payloads are often of one schema."""
    global _latest  # noqa: PLW0603  replaced as a whole, so that threads see one or the other
    kept, message = _latest
    if schema is not kept:  # schemas that are equal may list their metadata in another order
        message = schema.serialize().to_pybytes()
        _latest = schema, message
    return message


_latest: tuple[Any, bytes] = pa.schema([]), pa.schema([]).serialize().to_pybytes()


def _zone_builder(schema: Any) -> "ZoneBuilder":
    from aljava.ipc.zones import ZoneBuilder  # with pyarrow.compute, a fifth of the time to import pyarrow

    return ZoneBuilder(schema)


_PLAIN = WriteOptions(compression="none", statistics=False, checksums=False, unify_dictionaries=False)
_UNCOMPRESSED = Compression(None)
_parse = cache(Compression.parse)


def _place(packed: Sequence[Packed], is_compressed: bool, start: int | None) -> tuple[bytes, list[Piece], int]:
    """Place buffers in a body.

    Args:
        packed: the buffers.
        is_compressed: whether the body is a compressed one, in which each buffer begins with its length.
        start: where the body stands in page-aligned memory, to mind the page trap; None not to.

    Returns:
        (the (offset, length) of each buffer, as bytes; the pieces, with padding; bytes of the body).
    """
    table: list[int] = []
    pieces: list[Piece] = []
    at = 0
    for data, raw_size in packed:
        if data is None:
            table += (at, 0)
            continue
        size = len(data)
        place = at + -at % 8
        if is_compressed:
            if raw_size < 0 and size >= LARGE:
                place += -(place + 8) % 64
            pieces.append(bytes(place - at) + raw_size.to_bytes(8, "little", signed=True))
            table += (place, size + 8)
            at = place + 8 + size
        else:
            if size >= LARGE:
                place += -place % 64
                if start is not None:
                    ahead = (start + place - data.address) % PAGE
                    if 0 < ahead <= PAGE_TRAP:
                        place += PAGE_TRAP + 1 - ahead + -(PAGE_TRAP + 1 - ahead) % 64
            if place > at:
                pieces.append(bytes(place - at))
            table += (place, size)
            at = place + size
        pieces.append(data)
    if at % 8:
        pieces.append(bytes(-at % 8))
        at += -at % 8
    return struct.pack(f"<{len(table)}q", *table), pieces, at


def _raised(lowered: Lowered, schema: Any) -> Any:
    """The batch of plain columns that was lowered, standing in its trimmed buffers."""
    assert lowered.header.batch is not None
    rest = iter(lowered.buffers)
    columns = [
        pa.Array.from_buffers(kind, rows, [next(rest), *(next(rest) or _EMPTY for _ in range(kind.num_buffers - 1))])
        for kind, (rows, _) in zip(schema.types, lowered.header.batch.nodes.tolist(), strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


_EMPTY = pa.py_buffer(b"")


def _lower_dictionary(dictionary_id: int, values: Any, plan: Plan) -> list[Lowered]:
    """The messages of one dictionary: those that stand within its values, then its own."""
    inner = plan.of_dictionary(dictionary_id)
    batch = prepare(pa.record_batch([values], names=[""]), inner)
    sink = Sink()
    writer = pa.lib._RecordBatchStreamWriter()
    writer._open(sink, batch.schema, options=_LOWERING)
    writer.write_batch(batch)
    lowered = []
    for _, header, buffers in messages(sink.take()):
        if header.dictionary_id is None:
            own = header._replace(kind=DICTIONARY, dictionary_id=dictionary_id)
            lowered.append(lower(own, buffers, inner))
        else:
            # pyarrow numbered them from 0; in the schema of the whole they follow the one they stand in.
            number = dictionary_id + 1 + header.dictionary_id
            lowered.append(lower(header._replace(dictionary_id=number), buffers, plan.of_dictionary(number)))
    return lowered


_LOWERING = pa.lib.IpcWriteOptions(allow_64bit=True, use_threads=False)


def _settings(options: Any) -> tuple[WriteOptions, Any]:
    """(our settings, pyarrow's options for the writer that lowers, None for its own) from whatever the user gave."""
    if isinstance(options, WriteOptions):
        return options, None
    if options is None:
        legacy = os.environ.get("ARROW_PRE_0_15_IPC_FORMAT", "0") != "0"
        v4 = os.environ.get("ARROW_PRE_1_0_METADATA_VERSION", "0") != "0"
        if not legacy and not v4:
            return _PLAIN, None
        version = pa.lib.MetadataVersion.V4 if v4 else pa.lib.MetadataVersion.V5
        return _PLAIN, pa.lib.IpcWriteOptions(use_legacy_format=legacy, metadata_version=version)
    if not isinstance(options, pa.lib.IpcWriteOptions):
        raise TypeError(f"expected WriteOptions or IpcWriteOptions, got {type(options)}")
    name = options.compression or "none"
    level = getattr(options, "compression_level", None)
    settings = replace(
        _PLAIN,
        compression=name if level is None else f"{name}:{level}",
        unify_dictionaries=options.unify_dictionaries,
        dictionary_deltas=options.emit_dictionary_deltas,
        use_threads=options.use_threads,
        batch_rows=None,
    )
    if _is_old(options) and options.compression:
        raise InvalidOption("the format of the past (legacy framing, metadata V4) is written uncompressed only.")
    lowering = pa.lib.IpcWriteOptions(
        allow_64bit=options.allow_64bit,
        use_legacy_format=options.use_legacy_format,
        metadata_version=options.metadata_version,
        use_threads=options.use_threads,
        emit_dictionary_deltas=options.emit_dictionary_deltas,
        unify_dictionaries=options.unify_dictionaries,
    )
    return settings, lowering


def _is_old(options: Any) -> bool:
    return options.use_legacy_format or options.metadata_version != pa.lib.MetadataVersion.V5


def _columns(schema: Any, names: Sequence[str], option: str) -> list[int]:
    """The numbers of the columns with these names."""
    if not names:
        return []
    unknown = set(names) - set(schema.names)
    if unknown:
        raise InvalidOption(f"{option} names {sorted(unknown)}; the schema has the columns {schema.names}.")
    return [number for number, name in enumerate(schema.names) if name in names]


def _mismatch(reason: Exception, batch: Any, engine: _Engine) -> SchemaMismatch:
    text = str(reason)
    if "Dictionary replacement" in text or "delta" in text.lower():
        return SchemaMismatch(
            f"{text}. WriteOptions(unify_dictionaries=True) gathers the dictionaries of all batches into one."
        )
    return SchemaMismatch(f"{text}. The writer has {engine.plan.columns and len(engine.plan.columns) - 1} columns.")
