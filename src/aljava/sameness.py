"""Whether two tables are the same to the last value, told exactly and in bounded memory.

"The same" is what a round trip must keep: schema with all metadata, number of rows, nulls, and every value; a NaN is
equal to a NaN. How the rows are cut into chunks does not matter, nor what lies beneath a null.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

# Rows looked at together where pyarrow's own comparison, which holds NaN unequal to NaN, does not settle it.
PIECE_ROWS = 1 << 16


def difference(expected: pa.Table, found: pa.Table) -> str | None:
    """How `found` differs from `expected`, in words; None where it does not.

    Args:
        expected: what went in.
        found: what came back.

    Example:
        >>> before = pa.table({"id": [1, 2], "value": [0.5, float("nan")]})
        >>> difference(before, before.slice(0)) is None
        True
        >>> difference(before, pa.table({"id": [1, 3], "value": [0.5, float("nan")]}))
        "column 'id' differs in row 1"
    """
    if not found.schema.equals(expected.schema, check_metadata=True):
        return _schema_difference(expected.schema, found.schema)
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows:,} rows came back of {expected.num_rows:,}"
    for name, before, after in zip(expected.column_names, expected.columns, found.columns, strict=True):
        # The quick way: no memory, whatever the chunks.
        if not after.equals(before):
            row = _first_different_row(before, after)
            if row is not None:
                return f"column {name!r} differs in row {row:,}"
    return None


def checksum(table: pa.Table) -> str:
    """A checksum of a table's schema and values, the same in every process and however the rows are chunked.

    Returns:
        32 hexadecimal digits.

    Example:
        >>> table = pa.table({"id": [1, 2, None]})
        >>> checksum(table) == checksum(pa.concat_tables([table.slice(0, 1), table.slice(1)]))
        True
    """
    digest = xxhash.xxh3_128(table.schema.serialize())
    for column in table.columns:
        for offset in range(0, len(column), PIECE_ROWS):
            for part in _content(_piece(column, offset)):
                digest.update(part)
    return digest.hexdigest()


def _schema_difference(expected: pa.Schema, found: pa.Schema) -> str:
    if found.names != expected.names:
        return f"the columns {', '.join(found.names)} came back, not {', '.join(expected.names)}"
    for before, after in zip(expected, found, strict=True):
        if after.type != before.type:
            return f"column {before.name!r} was {before.type} and came back as {after.type}"
        if not after.equals(before, check_metadata=True):
            return f"the nullability or the metadata of column {before.name!r} changed"
    return f"the schema's metadata was {expected.metadata} and came back as {found.metadata}"


def _first_different_row(before: pa.ChunkedArray, after: pa.ChunkedArray) -> int | None:
    for offset in range(0, len(before), PIECE_ROWS):
        left, right = _piece(before, offset), _piece(after, offset)
        if _same(left, right):
            continue
        low, high = 0, len(left)
        while high - low > 1:
            middle = (low + high) // 2
            if _same(left.slice(low, middle - low), right.slice(low, middle - low)):
                low = middle
            else:
                high = middle
        return offset + low
    return None


def _same(left: pa.Array, right: pa.Array) -> bool:
    return bool(left.equals(right)) or all(
        np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after
        for before, after in zip(_content(left), _content(right), strict=True)
    )


def _piece(column: pa.ChunkedArray, offset: int) -> pa.Array:
    piece = column.slice(offset, PIECE_ROWS)
    return piece.chunk(0) if piece.num_chunks == 1 else pa.concat_arrays(piece.chunks)


def _content(array: pa.Array) -> Iterator[Any]:
    """The length, the validity and the bytes of the valid values: equal if, and only if, the arrays are.

    Floats are given as bytes, so that a NaN is equal to itself.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    if _is_text(array.type):
        array = array.cast(pa.large_binary())
    yield len(array).to_bytes(8, "little")
    if pa.types.is_null(array.type):
        return
    if not _is_plain(array.type):
        # Unions, maps and run-end encoded values: rare, and Python's own text of a value tells all of it.
        yield repr(array.to_pylist()).encode("utf-8", "surrogatepass")
        return
    if array.null_count:
        yield np.packbits(array.is_valid().to_numpy(zero_copy_only=False))
        array = array.drop_null()
    if pa.types.is_large_binary(array.type):
        offsets = np.frombuffer(array.buffers()[1] or b"\0" * 8, np.int64)[array.offset :][: len(array) + 1]
        yield np.ascontiguousarray(np.diff(offsets))
        if array.buffers()[2] is not None:
            yield np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    elif pa.types.is_struct(array.type):
        for child in array.flatten():
            yield from _content(child)
    elif pa.types.is_nested(array.type):
        if not pa.types.is_fixed_size_list(array.type):
            yield pc.list_value_length(array).to_numpy(zero_copy_only=False)
        yield from _content(array.flatten())
    elif pa.types.is_boolean(array.type):
        yield array.cast(pa.uint8()).to_numpy(zero_copy_only=False)
    elif len(array):
        width = array.type.bit_width // 8
        yield np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]


def _is_text(type: pa.DataType) -> bool:
    return any(
        check(type)
        for check in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_binary_view,
        )
    )


def _is_plain(type: pa.DataType) -> bool:
    """Whether `_content` knows the layout of the type's buffers."""
    return bool(
        pa.types.is_primitive(type)
        or pa.types.is_decimal(type)
        or pa.types.is_fixed_size_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_struct(type)
        or pa.types.is_list(type)
        or pa.types.is_large_list(type)
        or pa.types.is_fixed_size_list(type)
    )
