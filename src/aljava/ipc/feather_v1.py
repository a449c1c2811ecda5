"""Feather version 1, checked before pyarrow reads it: its reader believes every offset and length that it meets.

The format is older than Arrow IPC. A file is the values of its columns, then a FlatBuffers table that says where they
stand, then the length of that table and the magic::

    "FEA1"  column  column  …  CTable  length: uint32  "FEA1"

Each column is one `PrimitiveArray`: its validity bits if it has nulls, its offsets if it is text, its values, each
padded to 8 bytes. A category has its distinct values as a second one.
"""

import struct
from typing import Any

from aljava.errors import InvalidData
from aljava.ipc.metadata import _I64, _U32, _Table

MAGIC = b"FEA1"

# Numbers of Feather's `Type`.
_INTEGERS = range(1, 9)
_WITHOUT_OFFSETS = range(11)
_WITH_OFFSETS = {11: 4, 12: 4, 17: 8, 18: 8}
# Numbers of the union `TypeMetadata`.
_NONE, _CATEGORY, _TIMESTAMP, _DATE, _TIME = range(5)
_UNITS = 4


def check(file: Any) -> None:
    """Check that every place which the metadata of a file names lies within the file.

    Args:
        file: a `pyarrow.NativeFile` that begins as Feather version 1.

    Raises:
        InvalidData: the file is cut short, damaged or hostile.
    """
    size = file.size()
    tail = bytes(file.read_at(8, max(size - 8, 0)))
    if size < 16 or tail[4:] != MAGIC:
        raise InvalidData(f"a Feather file ends with {MAGIC!r}; these {size} bytes end with {tail[4:]!r}: cut short.")
    length = int.from_bytes(tail[:4], "little")
    if length > size - 12:
        raise _damaged(f"its metadata claims {length} of {size} bytes")
    end = size - 8 - length
    try:
        view = memoryview(file.read_at(length, end)).cast("B")
        table = _Table(view, _U32.unpack_from(view, 0)[0])
        if not table.where(2):
            raise _damaged("its metadata names no columns")
        table.number(1, _I64), table.number(3, _U32)
        for column in table.children(2):
            _check_column(column, end)
    except struct.error as error:
        raise _damaged(f"its metadata points outside itself: {error}") from error


def _check_column(column: _Table, end: int) -> None:
    values, kind, details = column.child(1), column.byte(2), column.child(3)
    if not column.where(0) or values is None:
        raise _damaged("a column without name or values")
    column.text(0)
    is_known = kind in (_NONE, _CATEGORY, _TIMESTAMP, _DATE, _TIME)
    if not is_known or (details is None and kind != _NONE):
        raise _damaged(f"a column of kind {kind} with{'out' if details is None else ''} details")
    _check_values(values, end)
    if details is None:
        return
    if kind == _CATEGORY:
        levels = details.child(0)
        if levels is None or values.byte(0) not in _INTEGERS:
            raise _damaged("a category without levels, or whose codes are no integers")
        _check_values(levels, end)
        details.byte(1)
    elif kind in (_TIMESTAMP, _TIME):
        details.text(1)
        if details.byte(0) >= _UNITS:
            raise _damaged(f"a unit of time of number {details.byte(0)}")


def _check_values(values: _Table, end: int) -> None:
    """Check that a `PrimitiveArray` stands before the metadata and has room for its parts."""
    kind, (offset, length, nulls, total) = values.byte(0), (values.number(number, _I64) for number in range(2, 6))
    if kind not in _WITHOUT_OFFSETS and kind not in _WITH_OFFSETS:
        raise _damaged(f"values of type {kind}")
    if min(offset, length, nulls, total) < 0 or nulls > length or offset + total > end:
        raise _damaged(f"{length} values, {nulls} of them null, in {total} bytes at offset {offset} of {end}")
    parts = [(length + 7) // 8] if nulls else []
    parts += [(length + 1) * _WITH_OFFSETS[kind]] if kind in _WITH_OFFSETS else []
    if sum((part + 7) // 8 * 8 for part in parts) > total:
        raise _damaged(f"{length} values do not fit into {total} bytes")


def _damaged(what: str) -> InvalidData:
    return InvalidData(f"the Feather file (version 1) is damaged: {what}.")
