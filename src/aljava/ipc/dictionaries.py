"""Dictionaries in files: one for each column, growing batch by batch.

A stream may replace a dictionary between two batches. A file may not: its reader loads the dictionaries that the
footer lists, then the batches in any order. So the values of all batches are gathered in one dictionary for each
column, the old values first, and the indices of each batch are pointed into it. When it has grown it is written
again in full, and the footer lists only the last one. Read as a stream, or mended after a crash, such a file is
right at every point too.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from aljava.errors import SchemaMismatch
from aljava.ipc.lowering import Plan, children
from aljava.ipc.metadata import Int64s


class Unifier:
    """The dictionaries of a file so far.

    Args:
        plan: of the file's schema.
    """

    def __init__(self, plan: Plan):
        self._plan = plan
        self._values: dict[int, Any] = {}

    def add(self, batch: Any) -> tuple[dict[int, Int64s], dict[int, Any]]:
        """Take in the dictionaries of a batch.

        Returns:
            (for index buffers by their number in the plan, the new index for each old one; the dictionaries that
            have changed, whole, by their id).

        Raises:
            SchemaMismatch: a dictionary has grown beyond what its indices can count.
        """
        remaps: dict[int, Int64s] = {}
        changed: dict[int, Any] = {}
        found = [dictionary for column in batch.columns for dictionary in outermost(column)]
        for index, dictionary in zip(self._plan.indices, found, strict=True):
            known = self._values.get(index.dictionary_id)
            whole, mapping = (dictionary, None) if known is None else _unify(known, dictionary)
            most = np.iinfo(index.dtype).max
            if len(whole) - 1 > most:
                raise SchemaMismatch(
                    f"the dictionaries of one column hold {len(whole)} values together; its {index.dtype} indices "
                    f"count to {most}. Write it with wider indices: column.cast(pa.dictionary(pa.int32(), ...))."
                )
            if mapping is not None:
                remaps[index.buffer] = mapping
            if whole is not known:
                changed[index.dictionary_id] = self._values[index.dictionary_id] = whole
        return remaps, changed


def _unify(known: Any, new: Any) -> tuple[Any, Int64s | None]:
    """(the known values, then what is new; the new index for each old one, or None where they stay)."""
    if _same(known, new) or _begins(known, new):
        return known, None
    if _begins(new, known):
        return new, None
    import pyarrow.compute as pc  # a fifth of the time to import pyarrow

    try:
        places = pc.index_in(new, value_set=known)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError, pa.ArrowInvalid):
        # Lists, structs, floats of 16 bits: not to be looked up. Values may stand in a dictionary twice.
        return _concat(known, new), np.arange(len(new), dtype=np.int64) + len(known)
    missing = places.is_null().to_numpy(zero_copy_only=False)
    mapping = places.fill_null(0).to_numpy().astype(np.int64)
    mapping[missing] = len(known) + np.arange(missing.sum())
    if not missing.any():
        return known, mapping
    return _concat(known, new.filter(pa.array(missing))), mapping


def _same(a: Any, b: Any) -> bool:
    """Whether two arrays are the same memory: dictionaries are shared by the batches of a table."""
    return len(a) == len(b) and a.offset == b.offset and [*map(_address, a.buffers())] == [*map(_address, b.buffers())]


def _address(buffer: Any) -> int:
    return 0 if buffer is None else int(buffer.address)


def _begins(whole: Any, start: Any) -> bool:
    return len(start) <= len(whole) and bool(whole.slice(0, len(start)).equals(start))


def _concat(known: Any, new: Any) -> Any:
    return pa.concat_arrays([known, new])


def outermost(array: Any) -> list[Any]:
    """The values of the dictionaries of an array, in the order of their ids; nested ones are not looked for."""
    kind, types = array.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return outermost(array.storage)
    if types.is_dictionary(kind):
        return [array.dictionary]
    if types.is_run_end_encoded(kind):
        return outermost(array.run_ends) + outermost(array.values)
    if types.is_struct(kind) or types.is_union(kind):
        return [found for number in range(kind.num_fields) for found in outermost(array.field(number))]
    if types.is_map(kind):
        return outermost(array.keys) + outermost(array.items)
    return outermost(array.values) if children(kind) else []
