"""One payload as a part of a dataset: what it holds, and which pieces of it a query has to read.

A `Fragment` hands out *tasks*. A task is a handful of record batches that are read together, in any thread; the tasks
in their order give the rows in theirs. What a filter rules out by zones is in no task.
"""

import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aljava import ipc
from aljava.errors import AljavaError, InvalidData, TransferError, TruncatedFile
from aljava.formats import Format, recognise
from aljava.ipc.filters import Mask, Verdict
from aljava.ipc.message import CONTINUATION, FILE_START, Messages
from aljava.ipc.metadata import (
    BATCH,
    V5,
    Block,
    MessageHeader,
    Peeks,
    SchemaHeader,
    check_buffers,
    decode_message,
    decode_schema,
    peek,
    peek_batches,
)
from aljava.ipc.projection import Projection, compacted
from aljava.ipc.reader import check_compressed
from aljava.ipc.zones import Zones
from aljava.places.place import Place
from aljava.places.ranged import RangedSource

#: Bytes that a task gathers at least: less would cost more in threads than it takes to read.
TASK_BYTES = 4 << 20
#: The same for what comes over a network, where a round trip has to pay.
REMOTE_TASK_BYTES = 16 << 20
#: Most batches in a task, so that a hundred thousand tiny ones come in more than one.
TASK_BATCHES = 4096
#: From so many batches on it pays to look at the metadata of all of them at once.
MANY_BATCHES = 32
#: Bytes of a batch from which on threads pay that decode its columns side by side.
THREADED_BYTES = 1 << 20
#: Columns up to which a raw batch is read whole: to point at a column takes 1 µs, to plan how to leave it out 20.
FEW_COLUMNS = 64
#: Arrays, of all columns and batches, up to which a table that only points at memory is remembered.
REMEMBERED_ARRAYS = 1 << 14


class Wanted(NamedTuple):
    """What a query has to read of one record batch, or of what a format has in its place."""

    number: int
    #: Ranges of rows, each a first row and how many; None is all rows.
    spans: tuple[tuple[int, int], ...] | None
    #: For each of the ranges, or for all rows, whether every row is sure to match.
    sure: tuple[bool, ...]


@dataclass(frozen=True)
class Task:
    """Some record batches that are read together."""

    #: Reads them; threads may call it at once.
    read: Callable[[], list[pa.RecordBatch]]
    #: About as many bytes as it takes in memory when it has been read.
    nbytes: int
    #: Whether reading is but pointing at memory, which needs no thread.
    free: bool
    #: For each batch that `read` returns, whether all of its rows are sure to match; empty where nothing is known.
    sure: tuple[bool, ...] = ()

    def then(self, step: Callable[[pa.RecordBatch], pa.RecordBatch]) -> "Task":
        """The same with something done to each batch."""
        return replace(self, read=lambda: [step(batch) for batch in self.read()])


@dataclass(frozen=True)
class Survey:
    """What a query would read of a dataset, and what there is."""

    #: Files that hold a matching row, as far as partitions and zones can tell.
    files_read: int
    files: int
    #: Record batches of those files; in streams, whose batches nobody lists, they count when they have been read.
    batches_read: int
    batches: int
    #: Zones: ranges of rows whose least and greatest values are known.
    zones_read: int
    zones: int
    #: Stored bytes of the batches, of all of their columns.
    bytes_read: int
    bytes: int

    def __add__(self, other: "Survey") -> "Survey":
        mine, theirs = vars(self), vars(other)
        return Survey(**{name: mine[name] + theirs[name] for name in mine})


def open_fragment(place: Place, *, untrusted: bool = False, memory_map: bool = True) -> "Fragment":
    """The payload at a place.

    Args:
        place: where it stands.
        untrusted: whether every value is checked when it is read.
        memory_map: whether a file of this machine is mapped; else it is read into memory.

    Raises:
        NotFound, AccessDenied: nothing there, or not for us.
        TruncatedFile: a file without its end; says how much of it can be saved.
        InvalidData: no table.
    """
    with place.reading() as found:
        copied = not memory_map and isinstance(found, pa.BufferReader | pa.MemoryMappedFile)
        source = pa.BufferReader(found.read()) if copied else found
        try:
            kind = recognise(source, place.address)
        except TruncatedFile as error:
            raise _truncated(place, source, error) from None
        classes: dict[Format, type[Fragment]] = {
            Format.IPC_FILE: IpcFile,
            Format.IPC_STREAM: IpcStream,
            Format.PARQUET: ParquetFile,
            Format.FEATHER_V1: FeatherV1,
        }
        with explained(place.address):
            return classes[kind](place, source, kind, untrusted)


class Fragment(ABC):
    """One payload, opened."""

    def __init__(self, place: Place, source: pa.NativeFile, kind: Format, untrusted: bool) -> None:
        self.place, self.format = place, kind
        self._source, self._untrusted = source, untrusted
        #: What queries found out, for the next one to find: see `Payloads.answers`.
        self.answers: dict[str, Any] = {}
        #: The whole payload, where it is in memory or mapped.
        self._buffer: pa.Buffer | None = None
        if isinstance(source, pa.BufferReader | pa.MemoryMappedFile):
            source.seek(0)
            self._buffer = source.read_buffer()
        #: Bytes of the payload.
        self.nbytes: int = source.size()
        self.schema: pa.Schema = self._read_schema()

    def whole(self) -> pa.Buffer:
        """All bytes of the payload; what is not in memory is fetched."""
        if self._buffer is None:
            self._source.seek(0)
            self._buffer = self._source.read_buffer()
        return self._buffer

    @property
    def address(self) -> str:
        """Where it stands."""
        return self.place.address

    #: Rows, without touching the data where the format tells.
    num_rows: int
    #: Record batches, or what the format has in their place.
    num_batches: int

    @property
    def zones(self) -> Zones | None:
        """What is known of the values of each stretch of rows."""
        return None

    @abstractmethod
    def _read_schema(self) -> pa.Schema: ...

    def wanted(self, filter: Any, schema: pa.Schema) -> Iterable[Wanted]:
        """What a query has to read, in pieces that can be read one by one; a payload without such is one piece.

        Args:
            filter: as in `tasks`.
            schema: as in `tasks`.
        """
        return [Wanted(0, None, ())]

    @property
    def extents(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Of each piece, by the number in `Wanted`: its rows, and about how many bytes it takes in memory."""
        return np.array([self.num_rows]), np.array([self.nbytes])

    def has_no_nulls(self, name: str) -> bool:
        """Whether metadata at hand says that no value of a column is null; false where it does not say."""
        return False

    def task(self, wanted: Sequence[Wanted], columns: Sequence[str] | None) -> Task:
        """Pieces that are read together.

        Args:
            wanted: pieces, as `wanted` gives them.
            columns: as in `tasks`.
        """
        return Task(lambda: [batch for task in self.tasks(columns) for batch in task.read()], self.nbytes, False)

    @abstractmethod
    def tasks(self, columns: Sequence[str] | None, filter: Any = None, schema: pa.Schema = None) -> Iterator[Task]:
        """What has to be read.

        Args:
            columns: names, each once in the schema; None for all.
            filter: an expression; what cannot match may be left out, what matches is not.
            schema: of the dataset, with columns that only partitions have.
        """

    def table(self, columns: Sequence[str] | None) -> pa.Table | None:
        """All rows at once, where that is faster than task by task; else None.

        Args:
            columns: as in `tasks`.
        """
        return None

    def rows_that_may_match(self, filter: Any, schema: pa.Schema) -> int:
        """How many rows statistics do not rule out; arguments as of `tasks`."""
        return self.num_rows

    def undecided(self, columns: Sequence[str] | None, filter: Any, schema: pa.Schema) -> tuple[int, Iterator[Task]]:
        """How many rows are sure to match, and what has to be read to decide about the others.

        Args:
            columns: as in `tasks`.
            filter: as in `tasks`.
            schema: as in `tasks`.
        """
        return 0, self.tasks(columns, filter, schema)

    def survey(self, filter: Any = None, schema: pa.Schema = None) -> Survey:
        """What a query would read."""
        return Survey(1, 1, self.num_batches, self.num_batches, 0, 0, self.nbytes, self.nbytes)

    def tasks_with(self, rows: npt.NDArray[np.int64], columns: Sequence[str] | None) -> Iterator[tuple[int, Task]]:
        """What has to be read for some rows, each task with the number of its first row.

        Args:
            rows: numbers of the rows, ascending; those below 0 and beyond the end are not of this payload.
            columns: as in `tasks`.
        """
        at = 0
        for task in self.tasks(columns):
            batches = task.read()
            yield at, Task(lambda batches=batches: batches, task.nbytes, True)  # type: ignore[misc]
            at += sum(batch.num_rows for batch in batches)


def width(type: pa.DataType) -> int:
    """Bytes that a value takes, about: of text and lists, what points at them and a little."""
    try:
        return -(-type.bit_width // 8)
    except ValueError:
        return 16


class IpcFile(Fragment):
    """An Arrow IPC file: its footer says where each batch stands."""

    def _read_schema(self) -> pa.Schema:
        self._lock = threading.Lock()
        self._primed = False
        self._projections: dict[tuple[str, ...], Projection] = {}
        self._reader = ipc.open_file(self._source, options=ipc.ReadOptions(untrusted=self._untrusted))
        self.footer = self._reader.footer
        return self._reader.schema

    @property
    def num_batches(self) -> int:  # type: ignore[override]
        return len(self.footer.batches)

    @cached_property
    def num_rows(self) -> int:  # type: ignore[override]
        return int(self._row_counts.sum())

    @cached_property
    def _sizes(self) -> npt.NDArray[np.int64]:
        """About how many bytes each batch takes when it has been read.

        What is stored says little of it: numbers in order take a hundredth of their place, and so did a task that
        gathered 4 MB of them fill 400. Where nobody would know the rows without fetching them, it has to do.
        """
        stored: npt.NDArray[np.int64] = self.footer.batches.table[:, 2]
        if self.place.remote and self.zones is None:
            return stored
        return np.maximum(stored, self._row_counts * sum(map(width, self.schema.types)))

    def _sizes_of(self, columns: Sequence[str] | None) -> npt.NDArray[np.int64]:
        """About how many bytes some columns of each batch take; those of text and lists are not known by themselves."""
        if columns is None or self.place.remote:
            return self._sizes
        try:
            bits = sum(self.schema.field(name).type.bit_width for name in columns)
        except ValueError:
            return self._sizes
        return self._row_counts * -(-bits // 8)

    @cached_property
    def zones(self) -> Zones | None:
        with explained(self.address):
            return Zones.from_metadata(dict(self.footer.metadata), self.schema)

    @cached_property
    def _row_counts(self) -> npt.NDArray[np.int64]:
        counts = np.full(self.num_batches, -1, np.int64)
        if self.zones is not None and len(self.zones):
            batch, rows = (np.asarray(self.zones.table[name]) for name in ("batch", "rows"))
            if batch[-1] < len(counts):
                firsts = np.flatnonzero(np.diff(batch, prepend=-1))
                counts[batch[firsts]] = np.add.reduceat(rows, firsts)
        if (peeks := self._peeks) is not None:
            counts = np.where((counts < 0) & peeks.sound, peeks.rows, counts)
        rest = np.flatnonzero(counts < 0).tolist()
        if rest:
            headers = self._headers([self.footer.batches[number] for number in rest])
            counts[rest] = [header.batch.length if header.batch else 0 for header in headers]
        return counts

    def tasks(self, columns: Sequence[str] | None, filter: Any = None, schema: pa.Schema = None) -> Iterator[Task]:
        if self._verdict(filter, schema) is None and self._reads_as_stream(columns):
            return self._in_order(columns)
        return self._tasks(self.wanted(filter, schema), columns)

    def _reads_as_stream(self, columns: Sequence[str] | None) -> bool:
        """Whether the file is, from its schema to its footer, a raw stream of many batches in memory.

        Then pyarrow's stream reader takes 1 µs for a batch, its file reader 2, and nothing need be looked at batch by
        batch in Python, which takes 10.
        """
        peeks, footer = self._peeks, self.footer
        if peeks is None or footer.dictionaries or footer.version < V5 or (columns and len(self.schema) > FEW_COLUMNS):
            return False
        offset, metadata_length, body_length = footer.batches.table.T
        ends = np.concatenate([[self.schema_end], offset + metadata_length + body_length])
        return bool((peeks.sound & ~peeks.compressed).all() and (offset == ends[:-1]).all())

    def table(self, columns: Sequence[str] | None) -> pa.Table | None:
        if not self._reads_as_stream(columns):
            return None
        is_small = self.num_batches * len(self.schema) <= REMEMBERED_ARRAYS and not self._untrusted
        table = self._whole_table if is_small else self._read_table()
        return table if columns is None else table.select(columns)

    @cached_property
    def _whole_table(self) -> pa.Table:
        return self._read_table()

    def _read_table(self) -> pa.Table:
        with explained(self.address):
            # Not batch by batch: each would be an object of Python's, of no use to a table.
            table = self._as_stream().read_all()
            table.validate(full=self._untrusted)
        return table

    def _as_stream(self) -> Any:
        assert self._buffer is not None
        reader = pa.ipc.open_stream(self._buffer[len(FILE_START) : self.footer.batches[-1].end])
        if not reader.schema.equals(self.schema):
            raise InvalidData("the schema at the start of the file is not that of its footer: the file is damaged.")
        return reader

    def _in_order(self, columns: Sequence[str] | None) -> Iterator[Task]:
        with explained(self.address):
            reader = self._as_stream()
        ends = np.cumsum(self.footer.batches.table[:, 2])
        at = 0
        while at < len(ends):
            before = int(ends[at - 1]) if at else 0
            stop = min(int(np.searchsorted(ends, before + TASK_BYTES)) + 1, at + TASK_BATCHES, len(ends))
            with explained(self.address):
                batches = list(islice(reader, stop - at))
                for batch in batches:
                    batch.validate(full=self._untrusted)
            if columns is not None:
                batches = [batch.select(columns) for batch in batches]
            yield Task(lambda batches=batches: batches, int(ends[stop - 1]) - before, True)  # type: ignore[misc]
            at = stop

    @cached_property
    def _peeks(self) -> Peeks | None:
        """What the batches say in short, where they are many and in memory."""
        if self._buffer is None or self.num_batches < MANY_BATCHES:
            return None
        return peek_batches(self._buffer, self.footer.batches)

    def is_raw(self, number: int) -> bool:
        """Whether a batch is in memory and not compressed, so that to read it is to point at it."""
        if self._peeks is not None:
            return bool(self._peeks.sound[number] and not self._peeks.compressed[number])
        return self._buffer is not None and peek(self._metadata(self.footer.batches[number]))[2] is None

    def rows_that_may_match(self, filter: Any, schema: pa.Schema) -> int:
        verdict = self._verdict(filter, schema)
        if verdict is None or self.zones is None:
            return self.num_rows
        return self.num_rows - int(np.asarray(self.zones.table["rows"])[~verdict.kept].sum())

    def undecided(self, columns: Sequence[str] | None, filter: Any, schema: pa.Schema) -> tuple[int, Iterator[Task]]:
        verdict = self._verdict(filter, schema)
        if verdict is None or self.zones is None:
            return super().undecided(columns, filter, schema)
        settled = int(np.asarray(self.zones.table["rows"])[verdict.sure].sum())
        return settled, self._tasks(self._kept(verdict.kept & ~verdict.sure, verdict.sure), columns)

    def _tasks(self, every: Iterable[Wanted], columns: Sequence[str] | None) -> Iterator[Task]:
        groups = self._grouped(every, self._sizes_of(columns))
        first, second = next(groups, None), next(groups, None)
        if first is not None:
            # Side by side are the tasks; only where there is but one, the columns of its batches.
            yield self._task(*first, columns, use_threads=second is None and first[1] >= THREADED_BYTES * len(first[0]))
        for held, nbytes in chain([] if second is None else [second], groups):
            yield self._task(held, nbytes, columns)

    def _grouped(self, every: Iterable[Wanted], sizes: npt.NDArray[np.int64]) -> Iterator[tuple[list[Wanted], int]]:
        """What one task reads, and how many bytes that is."""
        least = REMOTE_TASK_BYTES if self.place.remote else TASK_BYTES
        held: list[Wanted] = []
        nbytes = 0
        for wanted in every:
            held.append(wanted)
            nbytes += int(sizes[wanted.number])
            if nbytes >= least or len(held) >= TASK_BATCHES:
                yield held, nbytes
                held, nbytes = [], 0
        if held:
            yield held, nbytes

    def tasks_with(self, rows: npt.NDArray[np.int64], columns: Sequence[str] | None) -> Iterator[tuple[int, Task]]:
        edges = np.concatenate([[0], np.cumsum(self._row_counts)])
        places = np.searchsorted(rows, edges)
        for number in np.flatnonzero(np.diff(places)).tolist():
            yield (
                int(edges[number]),
                self._task([Wanted(number, None, ())], self.footer.batches[number].body_length, columns),
            )

    def survey(self, filter: Any = None, schema: pa.Schema = None) -> Survey:
        read = [wanted.number for wanted in self.wanted(filter, schema)]
        verdict = self._verdict(filter, schema)
        zones = 0 if self.zones is None else len(self.zones)
        kept = zones if verdict is None else int(verdict.kept.sum())
        sizes = self.footer.batches.table[:, 1:].sum(axis=1)
        return Survey(bool(read), 1, len(read), len(sizes), kept, zones, int(sizes[read].sum()), int(sizes.sum()))

    def _verdict(self, filter: Any, schema: pa.Schema) -> Verdict | None:
        """What the filter can select of each zone; None where there is no filter, or there are no zones."""
        zones = None if filter is None else self.zones
        if zones is None or not len(zones):
            return None
        last = zones.table["batch"][-1].as_py()
        if last >= self.num_batches:
            raise InvalidData(
                f"{self.address}: its statistics describe record batch {last} of {self.num_batches}; "
                "the file is damaged, `aljava repair` writes them anew"
            )
        if schema is not None and schema.names != self.schema.names:
            # With the columns that partitions add, of which the zones know nothing and a filter may speak.
            zones = Zones(zones.table, schema)
        return zones.judge(filter)

    @property
    def extents(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        return self._row_counts, self._sizes

    def has_no_nulls(self, name: str) -> bool:
        bounds = None if self.zones is None else self.zones.bounds(name)
        if bounds is not None and self.zones is not None:
            nulls = bounds.field("nulls")
            if nulls.null_count == 0 and sum(self.zones.table["rows"].to_numpy()) == self.num_rows:
                return not nulls.to_numpy().any()
        if self._buffer is None:
            return self.num_batches == 0
        column = self.schema.get_field_index(name)
        before = Projection(self.schema, None, [column]).first_array
        return all(header.batch is None or header.batch.nodes[before][1] == 0 for header in self.headers())

    def wanted(self, filter: Any, schema: pa.Schema) -> Iterable[Wanted]:
        verdict = self._verdict(filter, schema)
        if verdict is None:
            return (Wanted(number, None, ()) for number in range(self.num_batches))
        return self._kept(verdict.kept, verdict.sure)

    def _kept(self, kept: Mask, sure: Mask) -> Iterator[Wanted]:
        """The batches of which a zone is kept, and those without zones."""
        assert self.zones is not None
        batch, offset, rows = (np.asarray(self.zones.table[name]) for name in ("batch", "offset", "rows"))
        # The zones of batch n are those from first[n] to first[n + 1]; of these, kept.
        first = np.searchsorted(batch, np.arange(self.num_batches + 1))
        zones = np.diff(first)
        count = np.diff(np.concatenate([[0], np.cumsum(kept)])[first])
        state = np.where(kept, 1 + sure, 0)
        for number in np.flatnonzero((count > 0) | (zones == 0)).tolist():
            low, high = first[number], first[number + 1]
            here = state[low:high]
            if low == high or (here == here[0]).all():
                yield Wanted(number, None, (bool(low < high and here[0] == 2),))
                continue
            edges = np.flatnonzero(np.diff(here, prepend=-1, append=-1)).tolist()
            runs = [(start, stop) for start, stop in pairwise(edges) if here[start]]
            spans = ((int(offset[low + start]), int(rows[low + start : low + stop].sum())) for start, stop in runs)
            yield Wanted(number, tuple(spans), tuple(bool(here[start] == 2) for start, _ in runs))

    def task(self, wanted: Sequence[Wanted], columns: Sequence[str] | None) -> Task:
        return self._task(wanted, int(self._sizes[[part.number for part in wanted]].sum()), columns)

    def _task(
        self, wanted: Sequence[Wanted], nbytes: int, columns: Sequence[str] | None, *, use_threads: bool = False
    ) -> Task:
        free = self.is_raw(wanted[0].number)
        sure = tuple(one for part in wanted for one in part.sure)
        return Task(lambda: self._read(wanted, columns, use_threads), nbytes, free, sure if any(sure) else ())

    def _read(self, wanted: Sequence[Wanted], columns: Sequence[str] | None, use_threads: bool) -> list[pa.RecordBatch]:
        with explained(self.address):
            numbers = [part.number for part in wanted]
            if self._reads_whole(columns, numbers):
                batches = self._whole(numbers, use_threads)
            else:
                batches = self._projected(numbers, columns, use_threads)
            found: list[pa.RecordBatch] = []
            for batch, (number, spans, _) in zip(batches, wanted, strict=True):
                taken = batch if columns is None else batch.select(columns)
                if spans is None:
                    found.append(taken)
                    continue
                if spans[-1][0] + spans[-1][1] > taken.num_rows:
                    raise InvalidData(f"statistics speak of more rows than record batch {number} has")
                found += [taken.slice(*span) for span in spans]
            return found

    def batches(self, numbers: Sequence[int]) -> list[pa.RecordBatch]:
        """Record batches by their numbers."""
        with explained(self.address):
            return list(self._whole(list(numbers), True))

    def dictionaries(self) -> list[tuple[Block, MessageHeader]]:
        """Where the dictionaries stand, in the order of the file, and what their metadata says."""
        blocks = sorted(self.footer.dictionaries)
        return list(zip(blocks, self._headers(blocks), strict=True))

    def headers(self) -> list[MessageHeader]:
        """What the metadata of each record batch says."""
        with explained(self.address):
            return self._headers(self.footer.batches)

    def schema_header(self) -> SchemaHeader:
        """The schema as the file's first message says it."""
        return decode_schema(self._fetch([(16, self.schema_end)])[0])

    @cached_property
    def schema_end(self) -> int:
        """Bytes from the start of the file to the end of its schema message."""
        return 16 + int.from_bytes(self._fetch([(12, 16)])[0], "little")

    def _reads_whole(self, columns: Sequence[str] | None, numbers: list[int]) -> bool:
        # Metadata before version 5 gives unions a further buffer: pyarrow knows.
        if self.footer.version < V5 or (columns is None and not self.place.remote):
            return True
        return len(self.schema) <= FEW_COLUMNS and all(map(self.is_raw, numbers))

    def _whole(self, numbers: list[int], use_threads: bool) -> Iterator[pa.RecordBatch]:
        # With and without threads are two readers, each of which would hold the dictionaries.
        get = partial(self._reader.get_batch, use_threads=use_threads or bool(self.footer.dictionaries))
        for number in numbers:
            if self._primed:
                yield get(number)
                continue
            with self._lock:
                # The first one loads the dictionaries, and only one thread may.
                batch = get(number)
                self._primed = True
            yield batch

    def _projected(
        self, numbers: list[int], columns: Sequence[str] | None, use_threads: bool
    ) -> Iterator[pa.RecordBatch]:
        projection = self._projection(columns)
        dictionaries = sorted(self.footer.dictionaries)
        blocks = [*dictionaries, *(self.footer.batches[number] for number in numbers)]
        messages = []
        for block, header in zip(blocks, self._headers(blocks), strict=True):
            if header.dictionary_id is None or projection.has_dictionary(header.dictionary_id):
                messages.append((block, projection.cut(header)))
        return projection.read(self._bodies(messages), untrusted=self._untrusted, use_threads=use_threads)

    def _projection(self, columns: Sequence[str] | None) -> Projection:
        key = tuple(self.schema.names if columns is None else columns)
        with self._lock:
            found = self._projections.get(key)
            if found is None:
                header = self.schema_header() if self.footer.dictionaries else None
                numbers = range(len(self.schema)) if columns is None else map(self.schema.get_field_index, key)
                found = self._projections[key] = Projection(self.schema, header, sorted(numbers))
            return found

    def _bodies(self, messages: list[tuple[Block, MessageHeader]]) -> Iterator[tuple[MessageHeader, Any]]:
        if self._buffer is not None:
            for block, header in messages:
                start = block.offset + block.metadata_length
                body = self._buffer[start : start + block.body_length]
                check_compressed(header, body)
                yield header, body
            return
        for _, header in messages:
            check_buffers(header)
        packed = [(block, *compacted(header)) for block, header in messages]
        every = [
            (block.offset + block.metadata_length + low, block.offset + block.metadata_length + high)
            for block, _, ranges in packed
            for low, high in ranges
        ]
        parts = iter(self._fetch(every))
        for _, header, ranges in packed:
            pieces: list[Any] = []
            for low, high in ranges:
                pieces += (next(parts), bytes(-(high - low) % 8))
            body = pa.py_buffer(b"".join(pieces))
            check_compressed(header, body)
            yield header, body

    def _headers(self, blocks: Sequence[Block]) -> list[MessageHeader]:
        if self._buffer is not None:
            return [decode_message(self._metadata(block)) for block in blocks]
        parts = self._fetch([(block.offset, block.offset + block.metadata_length) for block in blocks])
        return [decode_message(_unframed(part)) for part in parts]

    def _metadata(self, block: Block) -> memoryview:
        assert self._buffer is not None
        return _unframed(memoryview(self._buffer)[block.offset : block.offset + block.metadata_length])

    def _fetch(self, ranges: Sequence[tuple[int, int]]) -> list[Any]:
        if self._buffer is not None:
            return [memoryview(self._buffer)[low:high] for low, high in ranges]
        if isinstance(self._source, RangedSource):
            return self._source.ranged.fetch(ranges)
        return [self._source.read_at(high - low, low) for low, high in ranges]


class IpcStream(Fragment):
    """An Arrow IPC stream: read from its beginning, batch by batch."""

    def _read_schema(self) -> pa.Schema:
        return self._opened(None).schema

    def _opened(self, columns: Sequence[str] | None) -> Any:
        self._source.seek(0)
        options = ipc.ReadOptions(columns=None if columns is None else tuple(columns), untrusted=self._untrusted)
        return ipc.open_stream(self._source if self._buffer is None else self._buffer, options=options)

    @cached_property
    def _counted(self) -> tuple[int, int]:
        if self._buffer is None:
            counts = [batch.num_rows for batch in self._opened(None)]
        else:
            return _batches_and_rows(Messages(self._buffer))
        return len(counts), sum(counts)

    @property
    def num_batches(self) -> int:  # type: ignore[override]
        return self._counted[0]

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return self._counted[1]

    def tasks(self, columns: Sequence[str] | None, filter: Any = None, schema: pa.Schema = None) -> Iterator[Task]:
        reader = self._opened(columns)
        while True:
            held: list[pa.RecordBatch] = []
            nbytes = 0
            with explained(self.address):
                while nbytes < TASK_BYTES and len(held) < TASK_BATCHES:
                    try:
                        held.append(reader.read_next_batch())
                    except StopIteration:
                        break
                    nbytes += held[-1].nbytes
            if not held:
                return
            batches = held if columns is None else [batch.select(columns) for batch in held]
            yield Task(lambda batches=batches: batches, 0, True)  # type: ignore[misc]


class ParquetFile(Fragment):
    """A Parquet file: row groups with statistics of their own."""

    def _read_schema(self) -> pa.Schema:
        from pyarrow import parquet

        self._lock = threading.Lock()
        self._file = parquet.ParquetFile(self._source)
        return self._file.schema_arrow

    @property
    def num_batches(self) -> int:  # type: ignore[override]
        return int(self._file.metadata.num_row_groups)

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return int(self._file.metadata.num_rows)

    def tasks(self, columns: Sequence[str] | None, filter: Any = None, schema: pa.Schema = None) -> Iterator[Task]:
        return (self.task([wanted], columns) for wanted in self.wanted(filter, schema))

    def wanted(self, filter: Any, schema: pa.Schema) -> Iterable[Wanted]:
        return [Wanted(group, None, ()) for group in self._groups(filter, schema)]

    def has_no_nulls(self, name: str) -> bool:
        columns = [column for column in range(self._file.metadata.num_columns) if self._path(column) == name]
        groups = [self._file.metadata.row_group(number) for number in range(self.num_batches)]
        statistics = [group.column(column).statistics for group in groups for column in columns]
        return bool(columns) and all(
            found is not None and found.has_null_count and found.null_count == 0 for found in statistics
        )

    def _path(self, column: int) -> str:
        return str(self._file.metadata.schema.column(column).path)

    @property
    def extents(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        groups = [self._file.metadata.row_group(number) for number in range(self.num_batches)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        rows, nbytes = np.array(sizes, np.int64).reshape(-1, 2).T
        return rows, nbytes

    def task(self, wanted: Sequence[Wanted], columns: Sequence[str] | None) -> Task:
        groups = [part.number for part in wanted]

        def read() -> list[pa.RecordBatch]:
            # One reader, one file position; pyarrow decodes the columns of a group side by side.
            with self._lock, explained(self.address):
                table = self._file.read_row_groups(groups, columns=None if columns is None else list(columns))
                return (table if columns is None else table.select(columns)).to_batches()

        return Task(read, sum(self._file.metadata.row_group(group).total_byte_size for group in groups), False)

    def survey(self, filter: Any = None, schema: pa.Schema = None) -> Survey:
        sizes = [self._file.metadata.row_group(number).total_byte_size for number in range(self.num_batches)]
        read = self._groups(filter, schema)
        return Survey(bool(read), 1, len(read), len(sizes), 0, 0, sum(sizes[number] for number in read), sum(sizes))

    def rows_that_may_match(self, filter: Any, schema: pa.Schema) -> int:
        return sum(self._file.metadata.row_group(number).num_rows for number in self._groups(filter, schema))

    def _groups(self, filter: Any, schema: pa.Schema) -> list[int]:
        if filter is None or self._buffer is None or (schema is not None and schema.names != self.schema.names):
            return list(range(self.num_batches))
        import pyarrow.dataset

        fragment = pyarrow.dataset.ParquetFileFormat().make_fragment(pa.BufferReader(self._buffer))
        return [group.id for group in fragment.subset(filter, schema=self.schema).row_groups]


class FeatherV1(Fragment):
    """A file of Feather's first version, which is no Arrow IPC: read as one table."""

    def _read_schema(self) -> pa.Schema:
        return self._table.schema

    @cached_property
    def _table(self) -> pa.Table:
        from pyarrow import feather

        self._source.seek(0)
        with warnings.catch_warnings():
            # pyarrow would have the writer of the file change; its reader cannot.
            warnings.simplefilter("ignore", DeprecationWarning)
            return feather.read_table(self._source)

    @property
    def num_batches(self) -> int:  # type: ignore[override]
        return len(self._table.to_batches())

    @property
    def num_rows(self) -> int:  # type: ignore[override]
        return int(self._table.num_rows)

    def tasks(self, columns: Sequence[str] | None, filter: Any = None, schema: pa.Schema = None) -> Iterator[Task]:
        table = self._table if columns is None else self._table.select(columns)
        yield Task(table.to_batches, 0, True)


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turns errors without an address into errors with one, and pyarrow's into ours."""
    try:
        yield
    except AljavaError as error:
        if address in str(error):
            raise
        raise type(error)(f"{address}: {error}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise TransferError(f"{address} cannot be read: {error.strerror or error}") from error
        raise InvalidData(f"{address} is damaged: {error}") from error


def _truncated(place: Place, source: pa.NativeFile, error: TruncatedFile) -> TruncatedFile:
    """The same error with what can be saved, where looking costs no transfer."""
    source.seek(0)
    if place.remote or source.read(6) != b"ARROW1":
        return error
    source.seek(0)
    batches, rows = salvageable(source.read_buffer())
    complete = "1 complete record batch" if batches == 1 else f"{batches:,} complete record batches"
    return TruncatedFile(f"{error}. It holds {complete} with {rows:,} rows: `aljava repair {place.address}` saves them")


def salvageable(buffer: pa.Buffer) -> tuple[int, int]:
    """How many complete record batches a file without an end holds, and how many rows they have."""
    return _batches_and_rows(Messages(buffer, 8))


def _batches_and_rows(messages: Messages) -> tuple[int, int]:
    rows = [found.header.batch.length for found in messages if found.header.batch and found.header.kind == BATCH]
    return len(rows), sum(rows)


def _unframed(message: Any) -> memoryview:
    """The FlatBuffers bytes of a message's metadata; before Arrow 0.15 the length came without a marker."""
    view = memoryview(message)
    return view[8:] if bytes(view[:4]) == CONTINUATION else view[4:]
