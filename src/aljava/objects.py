"""Single objects to bytes and back as the same kind of thing.

The payload is a plain Arrow IPC stream of one column (or of the frame's own columns) that any Arrow reader can read.
What the object was stands beside it, in the schema's metadata::

    aljava.kind     array, chunked_array, scalar, record_batch, table, schema, tensor,
                    pandas.DataFrame, pandas.Series, polars.DataFrame, polars.Series, numpy.ndarray
    aljava.detail   JSON: names, shapes, types; what the columns do not say
"""

import json
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from aljava import ipc
from aljava.errors import InvalidData, MissingDependency, UnsupportedType
from aljava.frames import is_of, to_table

KIND = b"aljava.kind"
DETAIL = b"aljava.detail"
COLUMN = "values"


def dumps(obj: Any, *, compression: str | None = None) -> pa.Buffer:
    """An object as bytes: an Arrow IPC stream that any Arrow reader can read.

    Args:
        obj: a pyarrow Array, ChunkedArray, Scalar, RecordBatch, Table, Schema or Tensor; a pandas DataFrame or Series;
            a Polars DataFrame or Series; a NumPy array or scalar; or anything else that is table-like.
        compression: None, "lz4", "zstd" or "zstd:LEVEL", or "auto". Without it, `loads` copies nothing.

    Returns:
        a `pyarrow.Buffer`, which goes wherever `bytes` go.

    Raises:
        UnsupportedType: an object of another kind, or with a type that Arrow lacks.
        InvalidOption: an unknown codec.

    Examples:
        >>> import numpy as np
        >>> buffer = dumps(np.arange(6).reshape(2, 3))
        >>> loads(buffer)
        array([[0, 1, 2],
               [3, 4, 5]])
        >>> pa.ipc.open_stream(buffer).read_all().column_names
        ['values']
    """
    kind, batches, schema, detail = _taken_apart(obj)
    metadata = dict(schema.metadata or {})
    metadata[KIND] = kind.encode()
    if detail is not None:
        metadata[DETAIL] = json.dumps(detail).encode()
    sink = _Pieces()
    with ipc.new_stream(
        sink, schema.with_metadata(metadata), options=ipc.WriteOptions(compression or "none")
    ) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    return sink.joined()


def loads(buffer: Any) -> Any:
    """The object that `dumps` made bytes of, as the same kind of thing; of any other IPC stream, its `pyarrow.Table`.

    Arrow objects, NumPy arrays and Polars frames stand on the buffer's own memory where it is not compressed.

    Args:
        buffer: anything with the buffer protocol.

    Raises:
        InvalidData: no IPC stream, or a damaged one.
        MissingDependency: a frame of a library that is not installed here.

    Examples:
        >>> loads(dumps(pa.array(["flecha", None]))).to_pylist()
        ['flecha', None]
    """
    try:
        reader = ipc.open_stream(pa.py_buffer(buffer))
        batches = list(reader)
        for batch in batches:
            batch.validate()
    except (pa.ArrowInvalid, pa.ArrowSerializationError, OSError) as error:
        raise InvalidData(f"the buffer is not an Arrow IPC stream, or is damaged: {error}") from error
    metadata = dict(reader.schema.metadata or {})
    kind = metadata.pop(KIND, b"table").decode("utf-8", "replace")
    schema = reader.schema
    try:
        detail = json.loads(metadata.pop(DETAIL, b"null"))
        if kind not in _REBUILD:
            raise InvalidData(f"the buffer holds an object of kind {kind!r}, which this version does not know")
        schema = schema.with_metadata(metadata or None)
        batches = [batch.replace_schema_metadata(metadata or None) for batch in batches]
        return _REBUILD[kind](schema, batches, detail)
    except (KeyError, TypeError, IndexError, ValueError, pa.ArrowException) as error:
        if isinstance(error, InvalidData):
            raise
        raise InvalidData(
            f"the buffer says that it holds a {kind}, and its columns do not fit that: {error}"
        ) from error


class _Pieces:
    """A sink that keeps what it is given, and joins it into one buffer of just that size: each byte is copied once."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self._size = 0

    def write(self, piece: Any) -> int:
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """`joined` ends it."""

    def joined(self) -> pa.Buffer:
        """All pieces, one behind the other."""
        buffer = pa.allocate_buffer(self._size)
        writer = pa.FixedSizeBufferWriter(buffer)
        for piece in self._pieces:
            writer.write(piece)
        return buffer


Parts = tuple[str, list[pa.RecordBatch], pa.Schema, Any]


def _taken_apart(obj: Any) -> Parts:
    """Kind, record batches, schema and detail of an object."""
    match obj:
        case pa.Table():
            return "table", obj.to_batches(), obj.schema, None
        case pa.RecordBatch():
            return "record_batch", [obj], obj.schema, None
        case pa.ChunkedArray():
            return _of_arrays("chunked_array", obj.chunks, obj.type)
        case pa.Array():
            return _of_arrays("array", [obj], obj.type)
        case pa.Scalar():
            return _of_arrays("scalar", [_array_of_scalar(obj)], obj.type)
        case pa.Schema():
            return "schema", [], obj, None
        case pa.Tensor():
            values = _of_ndarray(obj.to_numpy())
            return _of_arrays("tensor", [values[0]], values[0].type, {**values[1], "names": list(obj.dim_names or [])})
        case np.ndarray() | np.generic():
            array, detail = _of_ndarray(np.asarray(obj))
            return _of_arrays("numpy.ndarray", [array], array.type, detail)
    if is_of(obj, "pandas", "Series"):
        # A frame of one column; the name, which need not be text, is kept by pandas itself in the frame's attributes.
        frame = obj.to_frame(COLUMN)
        frame.attrs = {}
        table = to_table(frame)
        detail = {"name": _plain_name(obj.name), "attrs": obj.attrs, "arrow": _arrow_backed(frame)}
        return "pandas.Series", table.to_batches(), table.schema, detail
    if is_of(obj, "pandas", "DataFrame"):
        table = to_table(obj)
        return "pandas.DataFrame", table.to_batches(), table.schema, {"arrow": _arrow_backed(obj)}
    if is_of(obj, "polars", "Series"):
        table = to_table(obj.to_frame(COLUMN))
        return (
            "polars.Series",
            table.to_batches(),
            table.schema,
            {"name": obj.name, **_polars_types(obj.to_frame(COLUMN))},
        )
    if is_of(obj, "polars", "DataFrame"):
        table = to_table(obj)
        return "polars.DataFrame", table.to_batches(), table.schema, _polars_types(obj)
    table = to_table(obj)
    return "table", table.to_batches(), table.schema, None


def _of_arrays(kind: str, arrays: list[pa.Array], type: pa.DataType, detail: Any = None) -> Parts:
    schema = pa.schema([pa.field(COLUMN, type)])
    return kind, [pa.RecordBatch.from_arrays([array], schema=schema) for array in arrays], schema, detail


def _array_of_scalar(scalar: pa.Scalar) -> pa.Array:
    return pa.repeat(scalar, 1)


def _arrow_backed(frame: Any) -> list[int]:
    """Which columns of a pandas frame hold Arrow arrays.

    pandas writes their types down as text that it cannot always read back: decimals come back as objects, and text in
    another class.
    """
    arrow_dtype = sys.modules["pandas"].ArrowDtype
    return [index for index, dtype in enumerate(frame.dtypes) if isinstance(dtype, arrow_dtype)]


def _plain_name(name: Any) -> Any:
    if name is None or isinstance(name, str | int | float | bool):
        return name
    raise UnsupportedType(
        f"a pandas Series whose name is a {type(name).__qualname__} ({name!r}): rename it to text first"
    )


def _polars_types(frame: Any) -> dict[str, Any]:
    """Types of Polars that Arrow does not tell apart: categories and enumerations come back by name."""
    polars = sys.modules["polars"]
    return {"categorical": [name for name, dtype in frame.schema.items() if dtype == polars.Categorical]}


def _of_ndarray(array: np.ndarray[Any, Any]) -> tuple[pa.Array, dict[str, Any]]:
    """The values in a flat column, and the shape, order and type that make an array of them again."""
    order: Literal["C", "F"] = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = array.reshape((array.size,), order=order)
    detail = {"shape": list(array.shape), "order": order, "dtype": array.dtype.str}
    kind = flat.dtype.kind
    if kind in "iuf" and flat.dtype.itemsize <= 8:
        return pa.array(flat.astype(flat.dtype.newbyteorder("="), copy=False)), detail
    if kind == "b":  # a byte each, as in NumPy: Arrow's own booleans are bits and would be copied
        return pa.array(flat.view(np.uint8)), detail
    if kind in "mM":  # as numbers: units and NaT are NumPy's own
        return pa.array(flat.astype(flat.dtype.newbyteorder("="), copy=False).view(np.int64)), detail
    if kind == "U":
        return pa.array(flat, pa.large_string()), detail
    if kind in "cfSV" and not flat.dtype.hasobject and flat.dtype.itemsize:
        if flat.dtype.names is not None:
            detail["dtype"] = flat.dtype.descr
        raw = pa.py_buffer(np.ascontiguousarray(flat).view(np.uint8))
        return pa.Array.from_buffers(pa.binary(flat.dtype.itemsize), len(flat), [None, raw]), detail
    raise UnsupportedType(
        f"a NumPy array of dtype {array.dtype} has no Arrow type; convert it first, for example with astype(str)"
    )


def _to_ndarray(batches: list[pa.RecordBatch], detail: Any) -> np.ndarray[Any, Any]:
    described = detail["dtype"]
    dtype = np.dtype([_field(field) for field in described] if isinstance(described, list) else described)
    if dtype.hasobject:
        raise InvalidData("a NumPy array of objects cannot come out of a payload")
    column = batches[0].column(0)
    native = dtype.newbyteorder("=")
    if pa.types.is_large_string(column.type):
        flat = np.array(column.to_pylist(), dtype=dtype)
    elif pa.types.is_fixed_size_binary(column.type):
        data = column.buffers()[1]
        flat = (
            np.frombuffer(data, dtype, len(column), column.offset * dtype.itemsize)
            if len(column)
            else np.empty(0, dtype)
        )
    else:
        flat = column.to_numpy().view(native).astype(dtype, copy=False)
    return flat.reshape(detail["shape"], order=detail["order"])


def _field(described: Any) -> Any:
    """One field of a structured dtype, as JSON gives it back."""
    name, kind, *shape = described
    kind = [_field(field) for field in kind] if isinstance(kind, list) else kind
    return (name, kind, *(tuple(part) for part in shape))


def _only(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) != 1:
        raise InvalidData(f"the buffer says that it holds one object, and has {len(batches)} record batches")
    return batches[0]


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(f"the buffer holds a {name} object: pip install 'aljava[{name}]' to load it") from error


def _to_series(schema: pa.Schema, batches: list[pa.RecordBatch], detail: Any) -> Any:
    series = _to_pandas(schema, batches, detail)[COLUMN]
    series.name = detail["name"]
    series.attrs = detail["attrs"]
    return series


def _to_pandas(schema: pa.Schema, batches: list[pa.RecordBatch], detail: Any) -> Any:
    pandas = _library("pandas")
    table = pa.Table.from_batches(batches, schema)
    arrow = [] if detail is None else detail["arrow"]
    # By type where that is clear, so that decimals never become Python objects, 100 bytes each.
    elsewhere = {field.type for index, field in enumerate(schema) if index not in arrow}
    mapped = {schema.field(index).type for index in arrow} - elsewhere
    frame = table.to_pandas(types_mapper=lambda kind: pandas.ArrowDtype(kind) if kind in mapped else None)
    for index in arrow:
        if frame.dtypes.iloc[index] != pandas.ArrowDtype(schema.field(index).type):
            frame.isetitem(index, pandas.arrays.ArrowExtensionArray(table.column(index)))
    return frame


def _to_polars(schema: pa.Schema, batches: list[pa.RecordBatch], detail: Any) -> Any:
    polars = _library("polars")
    frame = polars.from_arrow(pa.Table.from_batches(batches, schema))
    unknown = set(detail["categorical"]) - set(frame.columns)
    if unknown:
        raise InvalidData(f"the buffer names categorical columns that it does not have: {sorted(unknown)}")
    return frame.with_columns(polars.col(name).cast(polars.Categorical) for name in detail["categorical"])


def _to_tensor(batches: list[pa.RecordBatch], detail: Any) -> pa.Tensor:
    return pa.Tensor.from_numpy(_to_ndarray(batches, detail), dim_names=detail["names"] or None)


_REBUILD: dict[str, Callable[[pa.Schema, list[pa.RecordBatch], Any], Any]] = {
    "table": lambda schema, batches, detail: pa.Table.from_batches(batches, schema),
    "record_batch": lambda schema, batches, detail: _only(batches),
    "chunked_array": lambda schema, batches, detail: pa.chunked_array(
        [batch.column(0) for batch in batches], schema.field(0).type
    ),
    "array": lambda schema, batches, detail: _only(batches).column(0),
    "scalar": lambda schema, batches, detail: _only(batches).column(0)[0],
    "schema": lambda schema, batches, detail: schema,
    "tensor": lambda schema, batches, detail: _to_tensor([_only(batches)], detail),
    "numpy.ndarray": lambda schema, batches, detail: _to_ndarray([_only(batches)], detail),
    "pandas.DataFrame": _to_pandas,
    "pandas.Series": _to_series,
    "polars.DataFrame": _to_polars,
    "polars.Series": lambda schema, batches, detail: _to_polars(schema, batches, detail)[COLUMN].rename(detail["name"]),
}
