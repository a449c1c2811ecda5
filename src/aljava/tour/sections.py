"""The six sections of the tour, and what each step of them did."""

import io
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from aljava import api, charts
from aljava.comparison import Comparison, Measured, measure
from aljava.errors import AljavaError, InvalidData, TransferError
from aljava.objects import dumps, loads
from aljava.placement import mapped_ranges, placement, span
from aljava.queries import sql
from aljava.sameness import checksum, difference
from aljava.tour.data import TourData
from aljava.tour.peer import Peer

CODECS = ("none", "lz4", "zstd", "auto")

# A table under this size is not worth a map: the store reads it whole.
SMALL_BYTES = 64 * 1024

# What a second process may need for itself around a table that it does not copy: arrays, a schema, a stack.
PRIVATE_BYTES = 16 << 20


@dataclass(frozen=True)
class Step:
    """One thing that was done with the table."""

    #: What was done.
    name: str
    #: Wall-clock seconds of the operation, without its verification; None where it failed before its end.
    seconds: float | None
    #: Bytes of Arrow data that the operation was about.
    bytes: int
    #: Whether what came back is what went in; None where the step was left out.
    verified: bool | None
    #: Whether the data was handed over without being copied, so that bytes a second would mean nothing.
    zero_copy: bool
    #: What there is to know about it, in a sentence.
    note: str
    #: What went wrong, for a step that failed.
    error: str | None = None

    @property
    def gb_per_second(self) -> float | None:
        """Bytes moved a second, in units of 10⁹; None where nothing was moved."""
        return None if self.zero_copy or not self.seconds or not self.bytes else self.bytes / self.seconds / 1e9


@dataclass(frozen=True)
class Section:
    """One of the systems that the table went through."""

    #: The system's name.
    name: str
    #: What it is for, in a sentence.
    about: str
    #: What was done, in this order.
    steps: tuple[Step, ...]
    #: The codecs side by side, in the section on compression.
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Tour:
    """What happened on the tour."""

    #: The table that it was about.
    data: TourData
    #: The systems that it went through.
    sections: tuple[Section, ...]
    #: What Aljava would choose for this table and why, in words.
    advice: str

    @property
    def failed(self) -> tuple[tuple[Section, Step], ...]:
        """The steps that failed, with their sections."""
        return tuple((section, step) for section in self.sections for step in section.steps if step.verified is False)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        table = self.data.table
        return {
            "data": {
                "name": self.data.name,
                "origin": self.data.origin,
                "rows": table.num_rows,
                "bytes": table.nbytes,
                "columns": [{"name": column.name, "type": str(column.type)} for column in table.schema],
            },
            "sections": [_section_to_dict(section) for section in self.sections],
            "advice": self.advice,
            "verified": not self.failed,
        }


#: Called with the names of section and step when a step begins.
Progress = Callable[[str, str], None]


def run(
    data: TourData,
    *,
    keep: str | None = None,
    progress: Progress | None = None,
    finished: Callable[[Section], None] | None = None,
) -> Tour:
    """Takes a table through all systems. A step that fails says so, and the others go on.

    Args:
        data: the table.
        keep: a folder for the files that are written; without it they go to a temporary one, which is removed.
        progress: called when a step begins.
        finished: called with each section when it is through.

    Returns:
        what happened, step by step.

    Raises:
        TransferError: there is no room for a temporary folder.

    Example:
        >>> from aljava.tour import load
        >>> tour = run(load(rows=100))
        >>> [section.name for section in tour.sections]
        ['IPC stream', 'Feather', 'Serialization', 'Shared memory', 'Compression', 'SQL']
        >>> tour.failed
        ()
    """
    from aljava.store import Store

    table = data.table
    sections: list[Section] = []
    _warm_up()
    with (
        nullcontext(keep) if keep else _temporary_folder() as folder,
        _temporary(Store(f"tour-{os.getpid()}-{secrets.token_hex(4)}")) as store,
    ):
        trip = _Trip(table, folder, store, keep is not None)
        for name, about, visit in _SECTIONS:
            recorder = _Recorder(name, progress)
            comparison = visit(trip, recorder)
            sections.append(Section(name, about, tuple(recorder.steps), comparison))
            if finished:
                finished(sections[-1])
    comparison = next((section.comparison for section in sections if section.comparison), None)
    return Tour(data, tuple(sections), _advice(comparison))


def _warm_up() -> None:
    """The first call of each kind imports what it needs and starts threads: that is not the table's doing."""
    tiny = pa.table({"id": [1]})
    loads(dumps(tiny, compression="zstd"))
    file = io.BytesIO()
    api.write(tiny, file)
    api.read(file)
    sql("select 1").fetchall()


@contextmanager
def _temporary_folder() -> Iterator[str]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="aljava-tour-")
    except OSError as error:
        raise TransferError(
            f"no temporary folder can be made: {error.strerror or error}. Set TMPDIR to another folder"
        ) from error
    with folder as path:
        yield path


@dataclass(frozen=True)
class _Trip:
    """What the sections share."""

    table: pa.Table
    folder: str
    store: Any
    keep: bool

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    @contextmanager
    def file(self, name: str) -> Iterator[str]:
        """A file for one step, which goes at its end unless the user keeps the files."""
        path = self.path(name)
        kept = False
        try:
            yield path
            kept = self.keep
        finally:
            if not kept and os.path.exists(path):
                os.unlink(path)


# What data and machine can do to a step. Anything else is a mistake of the tour itself, and shall be seen.
_FAILURES = (
    AljavaError,
    pa.ArrowException,
    duckdb.Error,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
)


class _Running:
    """A step while it runs."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.bytes = 0
        self.note = ""
        self.zero_copy = False
        self.verified = False

    @contextmanager
    def timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds = (self.seconds or 0.0) + time.perf_counter() - start

    def same(self, expected: pa.Table, found: pa.Table) -> None:
        """What came back must be what went in."""
        wrong = difference(expected, found)
        self.holds(wrong is None, f"what came back is not what went in: {wrong}")

    def holds(self, condition: bool, otherwise: str) -> None:
        if not condition:
            raise InvalidData(otherwise)
        self.verified = True


class _LeftOut(Exception):
    """A step that this machine cannot do, for want of an optional package."""


class _Recorder:
    """The steps of one section, as they come."""

    def __init__(self, section: str, progress: Progress | None) -> None:
        self._section = section
        self._progress = progress
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[_Running]:
        if self._progress:
            self._progress(self._section, name)
        # What the step before held is free now; an allocator that keeps it would add up to the memory of all steps.
        pa.default_memory_pool().release_unused()
        running = _Running()
        verified: bool | None = False
        error = None
        try:
            yield running
            verified = running.verified
        except _LeftOut as reason:
            running.note, verified = str(reason), None
        except _FAILURES as problem:
            running.verified = False
            error = str(problem).partition("\n")[0] or type(problem).__name__
        self.steps.append(Step(name, running.seconds, running.bytes, verified, running.zero_copy, running.note, error))


# --- 1: IPC stream ----------------------------------------------------------------------------------------------------


def _ipc_stream(trip: _Trip, recorder: _Recorder) -> None:
    table = trip.table
    buffer = None
    with recorder.step("to a buffer") as step:
        step.bytes = table.nbytes
        with step.timed():
            buffer = dumps(table)
        step.note = f"{charts.size(buffer.size)} of Arrow IPC stream"
        # pyarrow is the judge that we did not write.
        found = pa.ipc.open_stream(buffer).read_all()
        step.same(table, found.replace_schema_metadata(_without_ours(found.schema.metadata)))
    with recorder.step("back from the buffer") as step:
        content = _made(buffer, "to a buffer")
        step.bytes = table.nbytes
        with step.timed():
            found = loads(content)
        step.same(table, found)
        lie = placement(found, [span(content)])
        step.zero_copy = lie.all_inside
        step.note = (
            f"all {lie.buffers} buffers lie in the stream's own memory"
            if lie.all_inside
            else f"{lie.buffers - lie.buffers_inside} of {lie.buffers} buffers were copied"
        )
    buffer = content = found = None  # the second process will need as much again
    with recorder.step("through a pipe") as step, Peer("receive") as peer:
        peer.answer()
        step.bytes = table.nbytes
        with step.timed():
            api.write(table, peer.input, compression="none")
            peer.input.close()
            rows = peer.answer()["rows"]
        ours, theirs = checksum(table), peer.answer()["checksum"]
        step.note = f"a second process answers: {rows:,} rows, checksum {theirs[:8]}"
        step.holds(theirs == ours, f"the second process got something else: checksum {theirs[:8]}, not {ours[:8]}")


def _without_ours(metadata: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """Metadata without what `dumps` notes beside it."""
    return {key: value for key, value in (metadata or {}).items() if not key.startswith(b"aljava.")} or None


# --- 2: Feather -------------------------------------------------------------------------------------------------------


def _feather(trip: _Trip, recorder: _Recorder) -> None:
    from pyarrow import feather

    table = trip.table
    path = trip.path("table.feather")
    with recorder.step("write") as step:
        step.bytes = table.nbytes
        with step.timed():
            written = api.write(table, path)
        step.note = f"{charts.size(written.bytes)}, {_share(written.bytes, table.nbytes)} of its size in memory"
        step.same(table, feather.read_table(path))
    with recorder.step("read as Arrow") as step:
        _must_stand(path, "write")
        step.bytes = table.nbytes
        with step.timed():
            found = api.read(path)
        step.same(table, found)
        raw = placement(found, mapped_ranges(os.path.realpath(path))).columns_inside
        step.note = f"{_columns(raw, table)} taken from the map without a copy"
        step.zero_copy = len(raw) == table.num_columns
    found = None
    with recorder.step("read as pandas") as step:
        pandas = _pandas()
        _must_stand(path, "write")
        step.bytes = table.nbytes
        with step.timed():
            frame = api.open(path).to_pandas(types_mapper=_pandas_types(table))
        arrow_backed = sum(isinstance(kind, pandas.ArrowDtype) for kind in frame.dtypes)
        step.note = f"{len(frame.columns)} columns, {arrow_backed} of them Arrow-backed"
        step.same(_plain(table), _plain(_from_pandas(frame).select(table.column_names)))
    frame = None
    with recorder.step("read with a projection") as step:
        _must_stand(path, "write")
        names = list(dict.fromkeys([table.column_names[0], table.column_names[-1]]))
        expected = table.select(names)
        step.bytes = expected.nbytes
        with step.timed():
            found = api.read(path, columns=names)
        step.same(expected, found)
        step.note = f"{len(names)} of {table.num_columns} columns: {', '.join(names)}"
    found = None
    with recorder.step("through a memory map") as step, trip.file("table-raw.feather") as raw_path:
        api.write(table, raw_path, compression="none")
        step.bytes = table.nbytes
        with step.timed():
            found = api.read(raw_path)
        step.same(table, found)
        lie = placement(found, mapped_ranges(os.path.realpath(raw_path)))
        step.zero_copy = lie.all_inside
        step.note = f"{lie.buffers_inside} of {lie.buffers} buffers lie in the raw file's map"


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise _LeftOut("pandas is not installed: pip install 'aljava[pandas]'") from None
    return pandas


def _pandas_types(table: pa.Table) -> Callable[[pa.DataType], Any]:
    """NumPy where that keeps the values, Arrow elsewhere.

    In NumPy, integers with nulls become floats and lose digits, a null among floats becomes a NaN; dates and decimals
    become Python objects, about 100 bytes each. pandas' own text is of one kind, Arrow's of three.
    """
    import pandas

    nullable = {column.type for column in table.columns if column.null_count}

    def choose(kind: pa.DataType) -> Any:
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        return None if plain and kind not in nullable else pandas.ArrowDtype(kind)

    return choose


def _from_pandas(frame: Any) -> pa.Table:
    """A frame as a table in which a NaN stays a NaN: pandas itself takes those of NumPy for nulls."""
    table = pa.Table.from_pandas(frame)
    for index, kind in enumerate(frame.dtypes):
        if isinstance(kind, np.dtype) and kind.kind == "f":
            values = pa.array(frame.iloc[:, index].to_numpy(), from_pandas=False)
            table = table.set_column(index, table.schema.field(index), values)
    return table


def _plain(table: pa.Table) -> pa.Table:
    """Names, types, values and nulls: what a pandas frame can hold of a table."""
    return table.cast(pa.schema([pa.field(column.name, column.type) for column in table.schema]))


# --- 3: serialization -------------------------------------------------------------------------------------------------


def _serialization(trip: _Trip, recorder: _Recorder) -> None:
    table = trip.table
    local = fs.LocalFileSystem(use_mmap=True)
    batches = table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]

    with recorder.step("an Array") as step, trip.file("array.arrow") as path:
        array = batches[0].column(0)
        back = _there_and_back(local, path, array, step)
        step.holds(type(back) is type(array), f"a {type(array).__name__} came back as {type(back).__name__}")
        step.same(pa.table({"it": array}), pa.table({"it": back}))
        step.note = f"{array.type}, {len(array):,} values"
    with recorder.step("a RecordBatch") as step, trip.file("batch.arrow") as path:
        batch = batches[0]
        back = _there_and_back(local, path, batch, step)
        step.holds(isinstance(back, pa.RecordBatch), f"a RecordBatch came back as {type(back).__name__}")
        step.same(pa.Table.from_batches([batch]), pa.Table.from_batches([back]))
        step.note = f"{batch.num_rows:,} rows"
    with recorder.step("the Table") as step, trip.file("table.arrow") as path:
        back = _there_and_back(local, path, table, step)
        step.holds(isinstance(back, pa.Table), f"a Table came back as {type(back).__name__}")
        step.same(table, back)
        step.note = f"{table.num_rows:,} rows, {table.num_columns} columns"
    batches = array = batch = back = None
    with recorder.step("a pandas frame") as step, trip.file("frame.arrow") as path:
        _pandas()
        frame = table.replace_schema_metadata(None).to_pandas(types_mapper=_pandas_types(table))
        back = _there_and_back(local, path, frame, step)
        step.holds(type(back) is type(frame), f"a pandas frame came back as {type(back).__name__}")
        step.holds(back.dtypes.equals(frame.dtypes), "the frame's types changed")
        step.holds(back.index.equals(frame.index), "the frame's index changed")
        step.same(_from_pandas(frame), _from_pandas(back))
        step.note = f"{len(frame):,} rows, types and index included"
    frame = back = None
    with recorder.step("a NumPy tensor") as step, trip.file("tensor.arrow") as path:
        tensor, what = _tensor(table)
        back = _there_and_back(local, path, tensor, step)
        step.holds(isinstance(back, np.ndarray), f"an ndarray came back as {type(back).__name__}")
        step.holds(
            (back.dtype, back.shape) == (tensor.dtype, tensor.shape),
            f"{tensor.dtype} {tensor.shape} came back as {back.dtype} {back.shape}",
        )
        step.holds(np.array_equal(back, tensor, equal_nan=tensor.dtype.kind == "f"), "the tensor's values changed")
        step.note = f"{tensor.dtype}, shape {tensor.shape}: {what}"


def _there_and_back(local: fs.LocalFileSystem, path: str, obj: Any, step: _Running) -> Any:
    """Writes an object to disk through the file system, and reads it back."""
    with step.timed():
        try:
            with local.open_output_stream(path) as stream:
                if isinstance(obj, pa.Table):  # batch by batch, without the whole stream in memory
                    api.write(obj, stream, compression="none")
                else:
                    stream.write(dumps(obj))
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise TransferError(
                f"{path} cannot be written: {reason}. Free some space, or use --keep elsewhere"
            ) from error
        with local.open_input_file(path) as file:
            content = file.read_buffer()
        back = loads(content)
    step.bytes = content.size
    return back


def _tensor(table: pa.Table) -> tuple[np.ndarray[Any, Any], str]:
    """Columns of numbers side by side; of a table without any, where its nulls are."""
    numbers: dict[pa.DataType, list[str]] = {}
    for column, values in zip(table.schema, table.columns, strict=True):
        if (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and not values.null_count:
            numbers.setdefault(column.type, []).append(column.name)
    if numbers:
        names = max(numbers.values(), key=len)[:4]
        return np.column_stack([table.column(name).to_numpy() for name in names]), ", ".join(names)
    nulls = [column.is_null().to_numpy() for column in table.columns]
    return np.column_stack(nulls), "where the nulls are"


# --- 4: shared memory -------------------------------------------------------------------------------------------------


@contextmanager
def _temporary(store: Any) -> Iterator[Any]:
    try:
        yield store
    finally:
        store.destroy()


def _shared_memory(trip: _Trip, recorder: _Recorder) -> None:
    table, store = trip.table, trip.store
    held = None
    with recorder.step("put in the store") as step:
        step.bytes = table.nbytes
        with step.timed():
            store.put(table, "table")
        # Held until the second process is done: pages that two processes map are private to neither.
        held = store["table"]
        step.same(table, held)
        step.note = f"{charts.size(store.info('table').bytes)} in /dev/shm, as one Arrow file"
    said: dict[str, Any] = {}
    number = _number_column(table)
    with recorder.step("get in a second process") as step:
        _made(held, "put in the store")
        with Peer("share", store.name, "table", number or "") as peer:
            said = peer.answer()
        step.bytes, step.seconds = table.nbytes, said["get_seconds"]
        inside, buffers, grown = said["buffers_inside"], said["buffers"], said["private_bytes"]
        step.holds(said["rows"] == table.num_rows, f"it got {said['rows']:,} rows of {table.num_rows:,}")
        if store.info("table").bytes < SMALL_BYTES:
            step.note = "copied: what is under 64 KiB is read whole, which is faster"
        else:
            step.zero_copy = True
            step.note = f"all {buffers} buffers lie in the shared map; its private memory grew by {charts.size(grown)}"
            step.holds(inside == buffers, f"only {inside} of its {buffers} buffers lie in the shared map")
            step.holds(
                grown < PRIVATE_BYTES + table.nbytes // 20,
                f"its private memory grew by {charts.size(grown)}: it copied the table",
            )
    with recorder.step("sum there") as step:
        _made(said or None, "get in a second process")
        if number is None:
            raise _LeftOut("the table has no column of numbers to sum")
        column = table.column(number)
        step.bytes, step.seconds = column.nbytes, said["sum_seconds"]
        ours = pc.sum(column)
        step.holds(
            _same_sum(said["sum"], ours.as_py(), column),
            f"it says that {number} sums to {said['sum']}, and here it is {ours}",
        )
        step.note = f"sum({number}) = {said['sum']}, the same as here"


def _number_column(table: pa.Table) -> str | None:
    """A column that can be summed, one whose sum is exact if there is one."""
    for check in (_is_small_decimal, pa.types.is_integer, _is_float):
        for column in table.schema:
            if check(column.type):
                return str(column.name)
    return None


def _is_small_decimal(kind: pa.DataType) -> bool:
    """A decimal whose sum over billions of rows fits the 38 digits of Arrow and DuckDB."""
    return bool(pa.types.is_decimal128(kind) and kind.precision <= 28)


def _is_float(kind: pa.DataType) -> bool:
    return bool(pa.types.is_float32(kind) or pa.types.is_float64(kind))


def _same_sum(left: Any, right: Any, column: pa.ChunkedArray) -> bool:
    """Whether two sums of a column are the same; of floats, up to what the order of additions does."""
    if left is None or right is None or str(left) == str(right):
        return (left is None) == (right is None)
    if not _is_float(column.type):
        return False
    size = pc.sum(pc.abs(column)).as_py()
    return bool(np.isclose(float(left), float(right), rtol=0, atol=1e-9 * size, equal_nan=True))


# --- 5: compression ---------------------------------------------------------------------------------------------------


def _compression(trip: _Trip, recorder: _Recorder) -> Comparison | None:
    table = trip.table
    measured: list[Measured] = []
    for codec in CODECS:
        with recorder.step(codec) as step, trip.file(f"table-{codec}.arrow") as path:
            it = measure(table, codec, path)
            measured.append(it)
            step.bytes, step.seconds = table.nbytes, it.write_seconds + it.read_seconds
            step.verified = True  # `measure` has compared, and would have raised
            step.note = f"{_share(it.bytes, table.nbytes)} of its size; {_columns(it.raw_columns, table)} left raw"
    if not measured:
        return None
    return Comparison(tuple(measured), table.num_rows, table.num_rows, table.nbytes, "balanced")


# --- 6: SQL -----------------------------------------------------------------------------------------------------------


def _sql(trip: _Trip, recorder: _Recorder) -> None:
    table = trip.table
    path = trip.path("table.feather")
    with recorder.step("join the file and the shared table") as step:
        _must_stand(path, "write")
        group, number = _group_column(table), _number_column(table)
        step.bytes = 2 * table.select(list({name for name in (group, number) if name is not None})).nbytes
        query = _join(path, f"shm://{trip.store.name}/table", group, number)
        with step.timed():
            found = sql(query).to_arrow_table().to_pylist()
        expected = _grouped(table, group, number)
        step.holds(len(found) == len(expected), f"the join has {len(found)} rows, and it should have {len(expected)}")
        for row in found:
            rows, total = expected.get(row["k"], (0, None))
            step.holds(
                row["file_rows"] == row["shared_rows"] == rows
                and all(
                    number is None or _same_sum(row[name], total, table.column(number))
                    for name in ("file_sum", "shared_sum")
                ),
                f"the join says {row}, and the table has {rows} rows with the sum {total}",
            )
        step.note = f"{len(found):,} rows" + (f": by {group}, " if group else ": ") + "counts"
        step.note += f" and sums of {number} on both sides" if number else " on both sides"


def _join(file: str, shared: str, group: str | None, number: str | None) -> str:
    """Rows and sums of each group, of the file beside those of the shared table, both by their address."""
    file, shared = ("'" + address.replace("'", "''") + "'" for address in (file, shared))
    key = _quoted(group) if group else "cast(0 as integer)"
    total = f"sum({_quoted(number)})" if number else "null"
    return (
        f"with a as (select {key} as k, count(*) as file_rows, {total} as file_sum from {file} group by {key}), "
        f"b as (select {key} as k, count(*) as shared_rows, {total} as shared_sum from {shared} group by {key}) "
        "select a.k as k, file_rows, shared_rows, file_sum, shared_sum from a join b on a.k is not distinct from b.k"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _group_column(table: pa.Table) -> str | None:
    """The column with the fewest different values among those that make good keys; None where there is none."""
    best, fewest = None, 10_000
    for column in table.schema:
        if _is_key(column.type):
            # A look at the beginning is enough to tell a category from an identifier.
            different = len(pc.unique(_as_key(table.column(column.name).slice(0, 1 << 16))))
            if different < fewest:
                best, fewest = str(column.name), different
    return best


def _is_key(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    plain = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_date32)
    return any(check(value) for check in checks) or any(check(kind) for check in plain)


def _as_key(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text in the layout that pyarrow can group by, whatever its own."""
    text = pa.types.is_dictionary(column.type) or pa.types.is_string_view(column.type)
    return column.cast(pa.large_string()) if text else column


def _grouped(table: pa.Table, group: str | None, number: str | None) -> dict[Any, tuple[int, Any]]:
    """Rows and sum of each group, by pyarrow."""
    columns = {"k": _as_key(table.column(group)) if group else pa.repeat(pa.scalar(0), table.num_rows)}
    if number:
        values = table.column(number)
        # In 38 digits, as DuckDB sums integers: pyarrow's own sum of int64 wraps around.
        columns["n"] = values.cast(pa.decimal128(20, 0)) if pa.types.is_integer(values.type) else values
    sums = [("n", "sum")] if number else []
    groups = pa.table(columns).group_by("k").aggregate([([], "count_all"), *sums]).to_pylist()
    return {row["k"]: (row["count_all"], row.get("n_sum")) for row in groups}


# --- what a step may need ---------------------------------------------------------------------------------------------


def _made(thing: Any, step: str) -> Any:
    if thing is None:
        raise InvalidData(f"not done: it needs the step {step!r}, which failed")
    return thing


def _must_stand(path: str, step: str) -> None:
    _made(path if os.path.exists(path) else None, step)


# --- words ------------------------------------------------------------------------------------------------------------


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _columns(names: tuple[str, ...], table: pa.Table) -> str:
    """How many columns, and which where they are few."""
    if len(names) in (0, table.num_columns):
        return "all columns" if names else "no column"
    return f"{len(names)} of {table.num_columns} columns" + (f" ({', '.join(names)})" if len(names) <= 3 else "")


def _advice(comparison: Comparison | None) -> str:
    """What Aljava would choose and why: for a balance first, then for those who want one thing alone."""
    if comparison is None:
        return "No codec could be measured on this table, so there is nothing to advise."
    sentences = [comparison.advice]
    auto = next((it for it in comparison.measured if it.codec == "auto"), None)
    if auto and 0 < len(auto.raw_columns) < auto.columns:
        names = ", ".join(auto.raw_columns[:4]) + (" and others" if len(auto.raw_columns) > 4 else "")
        sentences.append(f"auto leaves {names} raw, where a codec would save too little to be worth its time.")
    speed, smallest = (comparison.choose(goal).codec for goal in ("speed", "size"))
    sentences.append(f"For speed alone choose {speed}, for the smallest size {smallest}.")
    return " ".join(sentences)


def _section_to_dict(section: Section) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": section.name,
        "steps": [
            {
                "name": step.name,
                "seconds": step.seconds,
                "bytes": step.bytes,
                "gb_per_second": step.gb_per_second,
                "verified": step.verified,
                "zero_copy": step.zero_copy,
                "note": step.note,
                "error": step.error,
            }
            for step in section.steps
        ],
    }
    if section.comparison:
        described["codecs"] = section.comparison.table.to_pylist()
    return described


_SECTIONS: tuple[tuple[str, str, Callable[[_Trip, _Recorder], Comparison | None]], ...] = (
    ("IPC stream", "The table as bytes, here and through a pipe.", _ipc_stream),
    ("Feather", "The table as a file that every Arrow program reads.", _feather),
    ("Serialization", "Single objects to disk and back, as what they were.", _serialization),
    ("Shared memory", "One copy in memory, for every process of the machine.", _shared_memory),
    ("Compression", "What each codec saves and costs on this table.", _compression),
    ("SQL", "One DuckDB query over the file and the shared table.", _sql),
)
