"""Rows in the order of a column.

Rows that are equal in all columns of the order keep the order they came in, which DuckDB by itself does not promise:
each row carries its number, and is sorted by that last. So the outcome is the same on every machine, with any number
of threads.

DuckDB sorts, in one of two ways::

    rows that fit into memory      keys, numbers ──DuckDB──> numbers;   rows ──take(numbers)──> rows in order
    more                           rows, numbers ──DuckDB, which lets some wait on the disk──> rows in order

It has not all types of Arrow, and some of its own are coarser (a timestamp with a zone counts microseconds): a column
goes through it as a type that it keeps to the last bit, and is what it was when it comes out, in both ways::

    timestamp[ns, tz=…]  ──view──> int64    ──sort──> int64    ──view──> timestamp[ns, tz=…]
    dictionary<string>   ──cast──> string   ──sort──> string   ──cast──> dictionary<string>
"""

import fcntl
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aljava.errors import QueryError, TransferError, UnsupportedType
from aljava.fragments import Task
from aljava.frames import regroup
from aljava.scanning import ahead

#: Bytes of memory that rows are sorted in, unless told otherwise.
MEMORY = 2 << 30
#: With less DuckDB cannot begin.
LEAST_MEMORY = 64 << 20
#: Rows of a vector of DuckDB's: batches of it are multiples.
VECTOR = 2048
#: Rows whose numbers take 4 bytes.
NARROW = 1 << 32
#: Bytes of rows that are held in memory at most: more may be too long for one array.
HELD_BYTES = 1 << 30
#: Whole numbers that lie no further apart are counted rather than compared, in a tenth of the time.
COUNTED = 1 << 16
_SCRATCH = "aljava-sort-"


def in_order(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    by: Sequence[str],
    *,
    memory: int = MEMORY,
    batch_rows: int = 131_072,
    most_rows: int = NARROW,
) -> Iterator[pa.RecordBatch]:
    """The rows in ascending order; nulls come last, and before them NaN.

    Args:
        batches: the rows.
        schema: of the batches.
        by: the columns to sort by, the first one first.
        memory: bytes of memory that may be used; what needs more goes to the folder for temporary files.
        batch_rows: rows of each batch that comes out; the last one has fewer.
        most_rows: rows that there are at most; beyond 4,294,967,296 it takes half as long again.

    Raises:
        QueryError: a column that there is not, or twice.
        UnsupportedType: a column that cannot go through DuckDB unchanged, or cannot be sorted by.
        TransferError: DuckDB failed, because the disk is full for example.
        OverflowError: there are more than `most_rows`.

    Examples:
        >>> table = pa.table({"day": [2, 1, None, 1], "id": [1, 2, 3, 4]})
        >>> pa.Table.from_batches(in_order(table.to_batches(), table.schema, ["day"]))["id"].to_pylist()
        [2, 4, 1, 3]
    """
    carriers = carriers_of(schema, by)
    plain = pa.schema([(f"c{number}", carrier.type) for number, carrier in enumerate(carriers)])
    keys = [f"c{schema.get_field_index(name)}" for name in by]

    def unpacked(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = [carrier.unpack(column) for carrier, column in zip(carriers, batch.columns, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    packed = (
        pa.RecordBatch.from_arrays(
            [carrier.pack(column) for carrier, column in zip(carriers, batch.columns, strict=True)], schema=plain
        )
        for batch in batches
    )
    # Half of the memory for the rows; the rest for the one column that there is twice, and for what comes out.
    held, left = _held(packed, min(memory // 2, HELD_BYTES))
    rows = None if left else _end_to_end(held, plain)
    if rows is None:
        limits = {"memory": memory, "batch_rows": batch_rows, "most": most_rows}
        found = _by_rows(chain(_drained(held), packed), plain, keys, **limits)
        yield from map(unpacked, found)
        return
    numbers = _numbers(rows, keys, memory)

    def task(start: int) -> Task:
        nbytes = rows.nbytes * batch_rows // len(numbers)
        return Task(lambda: [rows.take(numbers.slice(start, batch_rows))], nbytes, free=False)

    tasks = map(task, range(0, len(numbers), batch_rows))
    yield from ahead(tasks, lambda some, _: list(map(unpacked, some)), threads=True, work=True, remote=False)


def _held(batches: Iterator[pa.RecordBatch], most: int) -> tuple[deque[pa.RecordBatch], bool]:
    """The first of the batches, until they take more than so many bytes; whether others may follow."""
    held: deque[pa.RecordBatch] = deque()
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size > most:
            return held, True
    return held, False


def _drained(batches: deque[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, of which none is kept."""
    while batches:
        yield batches.popleft()


def _end_to_end(batches: deque[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch | None:
    """All rows in one batch, and the batches gone; None where its arrays would be too long."""
    columns = pa.Table.from_batches(list(_drained(batches)), schema).columns
    try:
        # One by one, each in place of what it is made of.
        for number in range(len(columns)):
            columns[number] = pa.concat_arrays(columns[number].chunks or [pa.array([], schema.types[number])])
    except pa.ArrowInvalid:
        batches.extend(pa.Table.from_arrays(columns, schema=schema).to_batches())
        return None
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _numbers(rows: pa.RecordBatch, keys: Sequence[str], memory: int) -> pa.Array:
    """Numbers of the rows in the order of the columns that are keys."""
    first = rows[keys[0]]
    if pa.types.is_date32(first.type):
        first = first.view(pa.int32())
    if len(keys) == 1 and pa.types.is_integer(first.type):
        least, most = pc.min_max(first).values()
        if least.is_valid and most.as_py() - least.as_py() < COUNTED:
            return pc.sort_indices(first)
    counter = _counter(len(first))
    numbers = pa.array(np.arange(len(first), dtype=counter.to_pandas_dtype()))
    fed = pa.table([*(rows[key] for key in keys), numbers], names=[*keys, "number"])
    with _sorted(fed, "number", keys, memory) as query:
        return pa.concat_arrays([pa.array([], counter), *(batch["number"] for batch in query.to_arrow_reader())])


def _by_rows(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    keys: Sequence[str],
    *,
    memory: int,
    batch_rows: int,
    most: int,
) -> Iterator[pa.RecordBatch]:
    """The rows in order, as DuckDB has them."""
    failure: list[BaseException] = []
    counter = _counter(most)
    fed_schema = schema.append(pa.field("number", counter, False))

    def fed() -> Iterator[pa.RecordBatch]:
        number = 0
        try:
            for batch in batches:
                number += batch.num_rows
                if number > most:
                    raise OverflowError(f"more than {most:,} rows")
                numbers = np.arange(number - batch.num_rows, number, dtype=counter.to_pandas_dtype())
                yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(numbers)], schema=fed_schema)
        except BaseException as error:
            failure.append(error)
            raise

    try:
        with _sorted(pa.RecordBatchReader.from_batches(fed_schema, fed()), "* exclude (number)", keys, memory) as query:
            yield from regroup(query.to_arrow_reader(-(-batch_rows // VECTOR) * VECTOR), batch_rows)
    except TransferError:
        if failure:
            raise failure[0] from None
        raise


def _counter(most: int) -> pa.DataType:
    """Of the numbers of so many rows: with a key of 16 bytes DuckDB sorts in two thirds of the time of one of 24."""
    return pa.uint32() if most <= NARROW else pa.uint64()


@contextmanager
def _sorted(
    fed: pa.Table | pa.RecordBatchReader, what: str, keys: Sequence[str], memory: int
) -> Iterator[duckdb.DuckDBPyRelation]:
    """Columns of numbered rows, in the order of the keys.

    Raises:
        TransferError: DuckDB failed, here or in what was done with the rows.
    """
    with _scratch() as folder:
        config = {"temp_directory": folder, "memory_limit": f"{memory >> 20}MiB", "threads": pa.cpu_count()}
        connection = duckdb.connect(config=config)
        try:
            # It would print on standard output, after two seconds.
            connection.execute("set enable_progress_bar = false")
            connection.register("fed", fed)
            order = ", ".join([*(f"{key} asc nulls last" for key in keys), "number"])
            yield connection.sql(f"select {what} from fed order by {order}")
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise TransferError(f"sorting failed: {error}") from error
        finally:
            connection.close()


Step = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True)
class Carrier:
    """How a column goes through DuckDB."""

    #: As what type.
    type: pa.DataType
    #: Into it, and out of it.
    pack: Step = lambda array: array
    unpack: Step = lambda array: array


def carriers_of(schema: pa.Schema, by: Sequence[str]) -> list[Carrier]:
    """How each column goes through DuckDB.

    Args:
        schema: of the rows.
        by: the columns to sort by.

    Raises:
        QueryError, UnsupportedType: as `in_order`.
    """
    for name in by:
        if schema.names.count(name) != 1:
            many = "no" if name not in schema.names else "more than one"
            raise QueryError(f"there is {many} column {name!r} to sort by; there are {', '.join(schema.names)}")
    found = []
    for field in schema:
        carrier = _carrier(field.type, field.name in by)
        if carrier is None:
            what = "cannot be sorted by" if field.name in by else "cannot go through DuckDB unchanged, which sorts"
            raise UnsupportedType(f"column {field.name!r} is {field.type}, which {what}: leave it out, or do not sort")
        found.append(carrier)
    return found


def _carrier(kind: pa.DataType, is_key: bool) -> Carrier | None:
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _through(
            _carrier(kind.storage_type, is_key),
            lambda array: array.storage,
            lambda array: pa.ExtensionArray.from_storage(kind, array),
        )
    if types.is_dictionary(kind):
        values = _carrier(kind.value_type, is_key)
        return None if values is None or types.is_nested(values.type) else _unencoded(kind, values)
    if types.is_run_end_encoded(kind) and is_kept(kind.value_type) and not types.is_nested(kind.value_type):
        return Carrier(
            kind.value_type,
            pc.run_end_decode,
            lambda array: pc.run_end_encode(array, run_end_type=kind.run_end_type),
        )
    if types.is_timestamp(kind) or types.is_time64(kind) or types.is_duration(kind) or types.is_date64(kind):
        return _viewed(kind, pa.int64())
    if types.is_time32(kind):
        return _viewed(kind, pa.int32())
    if kind in _KEPT:
        return Carrier(kind)
    if types.is_decimal(kind) and 0 <= kind.scale <= kind.precision <= 38:
        wide = pa.decimal128(kind.precision, kind.scale)
        return Carrier(wide, lambda array: array.cast(wide), lambda array: array.cast(kind))
    if kind in _SPELLED:
        plain = _SPELLED[kind]
        return Carrier(plain, lambda array: array.cast(plain), lambda array: array.cast(kind))
    if types.is_fixed_size_binary(kind):
        return Carrier(pa.binary(), lambda array: array.cast(pa.binary()), lambda array: array.cast(kind))
    if is_key:
        return None
    if types.is_null(kind):
        return Carrier(pa.bool_(), lambda array: pa.nulls(len(array), pa.bool_()), lambda array: pa.nulls(len(array)))
    if types.is_float16(kind) or types.is_decimal(kind) or types.is_interval(kind):
        return _as_bytes(kind)
    if types.is_nested(kind) and is_kept(kind):
        plain = _unnamed(kind)
        return Carrier(plain, lambda array: array.view(plain), lambda array: _named(_whole(array), kind))
    return None


def _unnamed(kind: pa.DataType) -> pa.DataType:
    """A nested type with names that DuckDB takes, and everything nullable: it keeps neither."""
    types = pa.types
    if types.is_struct(kind):
        return pa.struct([(f"f{number}", _unnamed(field.type)) for number, field in enumerate(kind)])
    if types.is_fixed_size_list(kind):
        return pa.list_(_unnamed(kind.value_type), kind.list_size)
    if types.is_list(kind):
        return pa.list_(_unnamed(kind.value_type))
    return pa.large_list(_unnamed(kind.value_type)) if types.is_large_list(kind) else kind


def _whole(array: pa.Array) -> pa.Array:
    """The same, and no slice."""
    return pa.concat_arrays([array.slice(0, 0), array]) if array.offset else array


def _named(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values under a type of other names; what is never null may be so where what is around it is null."""
    types = pa.types
    mask = array.is_null() if array.null_count else None
    if types.is_struct(kind):
        fields = list(kind)
        children = [_named(array.field(number), field.type) for number, field in enumerate(fields)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=mask)
    if types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(_named(array.values, kind.value_type), type=kind, mask=mask)
    if types.is_list(kind):
        return pa.ListArray.from_arrays(array.offsets, _named(array.values, kind.value_type), type=kind, mask=mask)
    if types.is_large_list(kind):
        offsets = array.offsets.cast(pa.int64())
        return pa.LargeListArray.from_arrays(offsets, _named(array.values, kind.value_type), type=kind, mask=mask)
    return array


def _through(inner: Carrier | None, pack: Step, unpack: Step) -> Carrier | None:
    """A column of another type goes as that one goes."""
    if inner is None:
        return None
    return Carrier(inner.type, lambda array: inner.pack(pack(array)), lambda array: unpack(inner.unpack(array)))


def _unencoded(kind: pa.DataType, values: Carrier) -> Carrier:
    """A dictionary goes as its values."""

    def pack(array: pa.Array) -> pa.Array:
        return values.pack(array.dictionary).take(array.indices)

    def unpack(array: pa.Array) -> pa.Array:
        found = array.dictionary_encode()
        indices = found.indices.cast(kind.index_type)
        return pa.DictionaryArray.from_arrays(indices, values.unpack(found.dictionary), ordered=kind.ordered)

    return Carrier(values.type, pack, unpack)


def _viewed(kind: pa.DataType, numbers: pa.DataType) -> Carrier:
    return Carrier(numbers, lambda array: array.view(numbers), lambda array: array.view(kind))


def _as_bytes(kind: pa.DataType) -> Carrier:
    """Values of one width each, of whatever they are made."""
    fixed = pa.binary(kind.bit_width // 8)

    def pack(array: pa.Array) -> pa.Array:
        return pa.Array.from_buffers(fixed, len(array), array.buffers(), offset=array.offset).cast(pa.binary())

    def unpack(array: pa.Array) -> pa.Array:
        values = array.cast(fixed)
        return pa.Array.from_buffers(kind, len(values), values.buffers(), offset=values.offset)

    return Carrier(pa.binary(), pack, unpack)


#: What DuckDB gives back as it was.
_KEPT = {
    *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32()),
}
#: What differs only in how it is laid out.
_SPELLED = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}


def is_kept(kind: pa.DataType) -> bool:
    """Whether a nested type comes back with the values that it had."""
    types = pa.types
    if types.is_fixed_size_list(kind) and not kind.list_size:
        return False  # DuckDB divides by the size, and the process ends
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return is_kept(kind.value_type)
    if types.is_struct(kind):
        return kind.num_fields > 0 and all(is_kept(field.type) for field in kind)
    return kind in _KEPT or kind == pa.timestamp("us")


@contextmanager
def _scratch() -> Iterator[str]:
    """A folder for what does not fit into memory; those of processes that were killed are removed."""
    above = tempfile.gettempdir()
    with os.scandir(above) as entries:
        for left in [entry.path for entry in entries if entry.name.startswith(_SCRATCH)]:
            with suppress(OSError):
                descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left)
                finally:
                    os.close(descriptor)
    while True:
        folder = tempfile.mkdtemp(prefix=_SCRATCH)
        with suppress(FileNotFoundError):  # taken for one of a dead process, between the two calls
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.isdir(folder):
                break
            os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
