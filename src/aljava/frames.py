"""Whatever the user holds <-> Arrow.

Two doors in: `to_reader` for data that may be longer than memory, `to_table` for data that is here. Both take anything
table-like: pyarrow's tables, batches, readers and datasets, frames of pandas and Polars, DuckDB relations and results,
dicts of arrays, and any object with `__arrow_c_stream__` or `__arrow_c_array__`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from aljava.errors import InvalidOption, UnsupportedType

#: Called after each batch with the rows done and the rows in all (None where that is not known).
Progress = Callable[[int, int | None], None]

# A batch of about this size keeps framing, codecs and threads busy; a filter that wants a hundredth of a gigabyte
# reads two of them.
BATCH_BYTES = 8 << 20
# What each column of a wide table has of a batch, on average: a column costs some 5 µs a batch to read, whatever is in
# it. 5,000 columns in batches of 8 MiB took 3 times as long to read as in batches of this size.
COLUMN_BYTES = 16 << 10

ACCEPTED = (
    "a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, a pandas or Polars DataFrame, a DuckDB relation, "
    "a dict of arrays, or an object with __arrow_c_stream__ or __arrow_c_array__"
)


def to_reader(data: Any) -> pa.RecordBatchReader:
    """The rows of anything table-like, batch by batch.

    Args:
        data: what the module's docstring lists. A reader, a relation or a dataset is not gathered in memory.

    Raises:
        UnsupportedType: `data` is not table-like, or a column has no Arrow type.

    Example:
        >>> to_reader({"id": [1, 2], "category": ["A", "B"]}).read_all().num_rows
        2
    """
    if isinstance(data, pa.RecordBatchReader):
        return data
    if is_of(data, "pyarrow.dataset", "Dataset", "Scanner"):
        # A few batches ahead: by default sixteen of each of four files, which may be gigabytes.
        made = data.scanner(batch_readahead=2, fragment_readahead=1) if hasattr(data, "scanner") else data
        return made.to_reader()
    if is_of(data, "duckdb", "DuckDBPyRelation"):
        from aljava import relations

        return relations.to_reader(data)
    if is_of(data, "duckdb", "DuckDBPyConnection"):
        return data.to_arrow_reader()
    if is_of(data, "polars", "LazyFrame"):
        return _from_lazy_frame(data)
    if not isinstance(data, pa.Table) and hasattr(data, "__arrow_c_stream__") and not _is_frame(data):
        return _columns_only(data, pa.RecordBatchReader.from_stream)
    return to_table(data).to_reader()


def to_table(data: Any) -> pa.Table:
    """The rows of anything table-like, as one `pyarrow.Table`; a copy is made only where the types differ.

    Args:
        data: what the module's docstring lists.

    Raises:
        UnsupportedType: `data` is not table-like, or a column has no Arrow type.

    Example:
        >>> to_table({"id": [1, 2]}).column_names
        ['id']
    """
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if is_of(data, "pandas", "DataFrame"):
        return _from_pandas(data)
    if is_of(data, "polars", "DataFrame"):
        return _from_polars(data)
    if isinstance(data, Mapping):
        return _from_mapping(data)
    if hasattr(data, "__arrow_c_array__") and not hasattr(data, "__arrow_c_stream__"):
        return _columns_only(data, lambda it: pa.Table.from_batches([pa.record_batch(it)]))
    if (
        isinstance(data, pa.RecordBatchReader)
        or hasattr(data, "__arrow_c_stream__")
        or is_of(data, "pyarrow.dataset", "Dataset", "Scanner")
        or is_of(data, "duckdb", "DuckDBPyRelation", "DuckDBPyConnection")
        or is_of(data, "polars", "LazyFrame")
    ):
        return to_reader(data).read_all()
    raise UnsupportedType(f"{_name(data)} is not table-like. Aljava takes {ACCEPTED}.")


def in_memory(data: Any) -> bool:
    """Whether all rows of something table-like are here already, so that gathering them costs no memory.

    Example:
        >>> in_memory({"id": [1, 2]}), in_memory(to_reader({"id": [1, 2]}))
        (True, False)
    """
    return isinstance(data, pa.Table | pa.RecordBatch | Mapping) or _is_frame(data)


def regroup(reader: pa.RecordBatchReader, rows: int | None = None, split: bool = True) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of a sensible size: small ones are gathered, and large ones split.

    Args:
        reader: the batches.
        rows: rows in each batch (the last may have fewer). By default the size goes by bytes: what is under 1 MiB is
            gathered, what is over 16 MiB is cut into pieces of about 8 MiB. More of each from 512 columns on.
        split: whether large batches are cut when `rows` is not given. One large raw batch stays one large zero-copy
            column for whoever maps it.

    Yields:
        record batches with at least one row; none for data without rows.
    """
    sensible = max(BATCH_BYTES, COLUMN_BYTES * len(reader.schema))
    held: list[pa.RecordBatch] = []
    held_rows = held_bytes = 0
    for batch in reader:
        pending = batch
        while pending.num_rows:
            nbytes = pending.nbytes if rows is None else 0  # 5 µs
            piece = pending
            if rows is not None:
                piece = pending.slice(0, rows - held_rows)
            elif split and nbytes > 2 * sensible:
                pieces = -(-nbytes // sensible)
                piece = pending.slice(0, max(1, -(-pending.num_rows // pieces)))
                nbytes = piece.nbytes
            held.append(piece)
            held_rows += piece.num_rows
            held_bytes += nbytes
            if held_rows == rows or (rows is None and held_bytes >= sensible // 8):
                yield from joined(held)
                held, held_rows, held_bytes = [], 0, 0
            if piece.num_rows == pending.num_rows:
                break
            pending = pending.slice(piece.num_rows)
    if held:
        yield from joined(held)


def joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The rows of batches of one schema in one batch; as they are where their dictionaries cannot be one."""
    if len(batches) < 2:
        return batches
    try:
        return [pa.concat_batches(batches)]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # more values than indices can tell, or of a nested type
        return batches


def offsets_type(kind: pa.DataType) -> pa.DataType:
    """The type with offsets in place of one of views, also for the values of a dictionary.

    pyarrow compares, takes and casts little that is made of views, which Polars brings.

    Examples:
        >>> offsets_type(pa.dictionary(pa.uint32(), pa.string_view()))
        DictionaryType(dictionary<values=large_string, indices=uint32, ordered=0>)
    """
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, offsets_type(kind.value_type), kind.ordered)
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def with_offsets(column: pa.Array) -> pa.Array:
    """A column as its `offsets_type`."""
    kind = offsets_type(column.type)
    if kind == column.type:
        return column
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(column.indices, with_offsets(column.dictionary), ordered=kind.ordered)
    return column.cast(kind)


def _name(data: Any) -> str:
    return f"{type(data).__module__.partition('.')[0]}.{type(data).__qualname__}".removeprefix("builtins.")


def is_of(data: Any, module: str, *names: str) -> bool:
    """Whether `data` is of a class of an optional module, without importing that module."""
    loaded = sys.modules.get(module)
    # Another thread may be importing it just now: it has not all of its classes then.
    return isinstance(data, tuple(getattr(loaded, name) for name in names if hasattr(loaded, name)))


def _is_frame(data: Any) -> bool:
    return is_of(data, "pandas", "DataFrame") or is_of(data, "polars", "DataFrame")


def _columns_only(data: Any, convert: Any) -> Any:
    try:
        return convert(data)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UnsupportedType(
            f"{_name(data)} offers Arrow data that is not made of columns ({error}). Aljava takes {ACCEPTED}."
        ) from error


def _from_pandas(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = " ".join(str(part) for part in error.args)
        raise UnsupportedType(
            f"a column of the pandas frame has no Arrow type: {reason}. "
            "Convert it, for example with frame.astype({'COLUMN': 'str'})."
        ) from error
    except ValueError as error:  # duplicate column names
        raise UnsupportedType(f"the pandas frame cannot become an Arrow table: {error}") from error


def _from_polars(frame: Any) -> pa.Table:
    newest = sys.modules["polars"].CompatLevel.newest()
    try:
        return frame.to_arrow(compat_level=newest)
    except pa.ArrowInvalid as error:
        for column in frame.iter_columns():
            try:
                column.to_arrow(compat_level=newest)
            except pa.ArrowInvalid:
                raise UnsupportedType(
                    f"column {column.name!r} is {column.dtype}, which Arrow lacks: cast it"
                ) from error
        raise


def _from_mapping(columns: Mapping[Any, Any]) -> pa.Table:
    arrays = {}
    for name, values in columns.items():
        if not isinstance(name, str):
            raise UnsupportedType(f"a dict of arrays needs text as keys, and {name!r} is {_name(name)}")
        try:
            arrays[name] = _column(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise UnsupportedType(f"column {name!r} has no Arrow type: {error}") from error
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidOption(f"the columns have different lengths: {lengths}")
    return pa.table(arrays)


def _column(values: Any) -> pa.Array | pa.ChunkedArray:
    if getattr(values, "ndim", 1) == 2 and type(values).__module__ == "numpy":
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if hasattr(values, "__arrow_c_stream__"):
        return pa.chunked_array(values)
    return pa.array(values)


def _from_lazy_frame(frame: Any) -> pa.RecordBatchReader:
    newest = sys.modules["polars"].CompatLevel.newest()
    schema = frame.limit(0).collect().to_arrow(compat_level=newest).schema

    def batches() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches():
            yield from part.to_arrow(compat_level=newest).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
