"""A record batch becomes its metadata and its buffers, trimmed to exactly the bytes of its rows.

pyarrow's stream writer does the hard part. Given a plain Python object as its sink it hands every body buffer over
as a `pyarrow.Buffer`, without a copy, rebased and bit-shifted for every type that it knows; what is framing and
padding arrives as `bytes`. What it does not do is cut: the buffers of a sliced batch can reach beyond the slice, and
so carry another row's secret out. So:

- `Plan` walks a schema once and knows, for each buffer in the order of the format, what it is and how many bytes a
  row takes;
- `prepare` rebuilds the few arrays that pyarrow writes whole whatever their slice: dense unions, list-views, and
  anything in a batch of no rows;
- `lower` cuts each buffer to its rows, blanks the bits behind the last row, and packs the strings that views refer to.

So equal rows give equal bytes, whatever they were sliced from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aljava.errors import UnsupportedType
from aljava.ipc.message import CONTINUATION
from aljava.ipc.metadata import Int64s, MessageHeader, decode_message

Part: TypeAlias = pa.Buffer | None
"""The bytes of one buffer; None where it is empty."""

VIEW_LIMIT = 1 << 30
"""Bytes at which the packed strings of views go on in another buffer; a view's offset has 32 bits."""


class Sink:
    """What pyarrow's writer writes to: keeps the parts, copies nothing."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[Any] = []
        self.write = self._parts.append  # pyarrow does not look at what `write` returns

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def take(self) -> list[Any]:
        """The parts since the last time."""
        parts = self._parts.copy()
        self._parts.clear()
        return parts


class Kind(IntEnum):
    """What a buffer holds, as far as its length depends on it."""

    BITS = 0
    """One bit a row."""
    FIXED = 1
    """A constant number of bytes a row."""
    OFFSETS = 2
    """A constant number of bytes a row, and once more."""
    DATA = 3
    """As many bytes as the last of the offsets before it says."""


@dataclass(frozen=True)
class Index:
    """Where the indices of one outermost dictionary stand in a batch."""

    buffer: int
    """Number of the index buffer in the plan."""
    dictionary_id: int
    """The id of its dictionary."""
    dtype: str
    """NumPy's name for the type of the indices."""


SIMPLE = {
    **dict.fromkeys((pa.lib.Type_INT8, pa.lib.Type_UINT8), (Kind.FIXED, 1)),
    **dict.fromkeys((pa.lib.Type_INT16, pa.lib.Type_UINT16, pa.lib.Type_HALF_FLOAT), (Kind.FIXED, 2)),
    **dict.fromkeys((pa.lib.Type_INT32, pa.lib.Type_UINT32, pa.lib.Type_FLOAT), (Kind.FIXED, 4)),
    **dict.fromkeys((pa.lib.Type_DATE32, pa.lib.Type_TIME32), (Kind.FIXED, 4)),
    **dict.fromkeys((pa.lib.Type_INT64, pa.lib.Type_UINT64, pa.lib.Type_DOUBLE), (Kind.FIXED, 8)),
    **dict.fromkeys((pa.lib.Type_DATE64, pa.lib.Type_TIME64), (Kind.FIXED, 8)),
    **dict.fromkeys((pa.lib.Type_TIMESTAMP, pa.lib.Type_DURATION), (Kind.FIXED, 8)),
    pa.lib.Type_BOOL: (Kind.BITS, 0),
    **dict.fromkeys((pa.lib.Type_STRING, pa.lib.Type_BINARY), (Kind.DATA, 4)),
    **dict.fromkeys((pa.lib.Type_LARGE_STRING, pa.lib.Type_LARGE_BINARY), (Kind.DATA, 8)),
}
"""The types of one array whose width is known from the type's number: a table may have 10,000 columns of them."""


class Plan:
    """What each buffer of a batch is, in the order in which the format lists them.

    Args:
        types: the types of the columns.

    Attributes:
        kind: the `Kind` of each buffer, int8.
        width: bytes a row for FIXED and OFFSETS, bytes of one offset for DATA.
        node: number of the array (line of `BatchHeader.nodes`) to which each buffer belongs.
        views: numbers of the buffers that hold views; their data buffers follow them, and are not in the plan.
        columns: for each column, the number of its first buffer; one more number closes the last.
        indices: the outermost dictionaries of the columns.
        values: the type of the values of each dictionary, by its id, nested ones included.
        rebuilt: numbers of the columns that hold a dense union or a list-view somewhere.
        flat: for each column, what its values are and their width, where all columns are numbers, booleans, strings
            and the like; else None.
    """

    def __init__(self, types: Sequence[Any]):
        self._kind: list[int] = []
        self._width: list[int] = []
        self._node: list[int] = []
        self._nodes = 0
        self._ids = 0
        self.views: list[int] = []
        self.columns: list[int] = [0]
        self.indices: list[Index] = []
        self.values: dict[int, Any] = {}
        self.rebuilt: list[int] = []
        self._dictionary_plans: dict[int, Plan] = {}
        simple = [SIMPLE.get(kind.id) for kind in types]
        self.flat = [each for each in simple if each is not None] if None not in simple else None
        if self.flat is not None:
            self._fill(np.array(simple, np.int64).reshape(-1, 2))
        else:
            for number, kind in enumerate(types):
                self._walk(kind)
                self.columns.append(len(self._kind))
                if contains(kind, _is_placed):
                    self.rebuilt.append(number)
            self.kind: npt.NDArray[np.int8] = np.array(self._kind, np.int8)
            self.width: Int64s = np.array(self._width, np.int64)
            self.node: Int64s = np.array(self._node, np.int64)
        self._is_bits = self.kind == Kind.BITS
        self._is_data = self.kind == Kind.DATA
        self._extra = (self.kind == Kind.OFFSETS).astype(np.int64)
        self._data = np.flatnonzero(self._is_data)

    @staticmethod
    def of(schema: Any) -> "Plan":
        """The plan of a schema; those of the latest schemas are kept."""
        global _latest  # noqa: PLW0603  replaced as a whole, so that threads see one or the other
        for kept, plan in _latest:
            # At once where both stand for the same schema; else pyarrow compares 10,000 fields in a fifth of the time
            # to plan them.
            if kept.equals(schema):
                return plan
        plan = Plan(schema.types)
        # Runs of an extension type are equal to those of any other one, as pyarrow 26 has it.
        if plan.flat is not None or not any(contains(kind, pa.types.is_run_end_encoded) for kind in schema.types):
            _latest = ((schema, plan), *_latest[: KEPT_PLANS - 1])
        return plan

    def of_dictionary(self, dictionary_id: int) -> "Plan":
        """The plan of the values of a dictionary."""
        plan = self._dictionary_plans.get(dictionary_id)
        if plan is None:
            plan = self._dictionary_plans[dictionary_id] = Plan([self.values[dictionary_id]])
        return plan

    def exact(self, nodes: Int64s) -> Int64s:
        """Bytes of each buffer when it holds the rows of its array and no more; -1 for DATA."""
        rows = nodes[self.node, 0]
        sizes = np.where(self._is_bits, (rows + 7) >> 3, (rows + self._extra) * self.width)
        sizes[(rows == 0) & (self._extra > 0)] = 0
        sizes[self._data] = -1
        return sizes

    @property
    def data(self) -> npt.NDArray[np.intp]:
        """Numbers of the DATA buffers; the offsets of each stand right before it."""
        return self._data

    def _add(self, kind: Kind, width: int, node: int) -> None:
        self._kind.append(kind)
        self._width.append(width)
        self._node.append(node)

    def _fill(self, columns: Int64s) -> None:
        """What `_walk` does, for plain columns alone, all at once: a table may have 10,000 of them."""
        kind, width = columns[:, 0], columns[:, 1]
        is_data = kind == Kind.DATA
        ends = np.cumsum(np.where(is_data, 3, 2))
        self.columns += ends.tolist()
        starts, lasts = ends - np.where(is_data, 3, 2), ends - 1
        total = int(ends[-1]) if len(ends) else 0
        self.kind, self.width = np.full(total, Kind.BITS, np.int8), np.zeros(total, np.int64)
        self.kind[lasts], self.width[lasts] = kind, width
        self.kind[starts[is_data] + 1], self.width[starts[is_data] + 1] = Kind.OFFSETS, width[is_data]
        self.node = np.repeat(np.arange(len(columns)), np.where(is_data, 3, 2))

    def _walk(self, kind: Any) -> None:
        kind = _storage(kind)
        types = pa.types
        if types.is_dictionary(kind):
            dictionary_id, self._ids = self._ids, self._ids + 1
            self.values[dictionary_id] = kind.value_type
            self._number_nested(kind.value_type)
            kind = kind.index_type
            self.indices.append(Index(len(self._kind) + 1, dictionary_id, str(kind)))
        node, self._nodes = self._nodes, self._nodes + 1
        if types.is_null(kind):
            return
        if types.is_union(kind):
            self._add(Kind.FIXED, 1, node)
            if kind.mode == "dense":
                self._add(Kind.FIXED, 4, node)
            self._walk_children(kind)
            return
        if types.is_run_end_encoded(kind):
            self._walk_children(kind)
            return
        self._add(Kind.BITS, 0, node)
        if types.is_boolean(kind):
            self._add(Kind.BITS, 0, node)
        elif types.is_string_view(kind) or types.is_binary_view(kind):
            self.views.append(len(self._kind))
            self._add(Kind.FIXED, 16, node)
        elif types.is_string(kind) or types.is_binary(kind):
            self._add(Kind.OFFSETS, 4, node)
            self._add(Kind.DATA, 4, node)
        elif types.is_large_string(kind) or types.is_large_binary(kind):
            self._add(Kind.OFFSETS, 8, node)
            self._add(Kind.DATA, 8, node)
        elif types.is_list(kind) or types.is_map(kind) or types.is_large_list(kind):
            self._add(Kind.OFFSETS, 8 if types.is_large_list(kind) else 4, node)
            self._walk_children(kind)
        elif types.is_list_view(kind) or types.is_large_list_view(kind):
            width = 8 if types.is_large_list_view(kind) else 4
            self._add(Kind.FIXED, width, node)
            self._add(Kind.FIXED, width, node)
            self._walk_children(kind)
        elif kind.num_fields or types.is_struct(kind):
            self._walk_children(kind)  # structs and fixed size lists
        else:
            self._add(Kind.FIXED, kind.byte_width, node)

    def _walk_children(self, kind: Any) -> None:
        for child in children(kind):
            self._walk(child)

    def _number_nested(self, kind: Any) -> None:
        """Dictionaries within the values of a dictionary have ids of their own, right after it."""
        kind = _storage(kind)
        if pa.types.is_dictionary(kind):
            dictionary_id, self._ids = self._ids, self._ids + 1
            self.values[dictionary_id] = kind.value_type
            self._number_nested(kind.value_type)
        else:
            for child in children(kind):
                self._number_nested(child)


KEPT_PLANS = 4
"""Plans that are kept: a schema of 10,000 fields takes 10 ms to plan, and each table makes its schema object anew."""
_latest: tuple[tuple[Any, Plan], ...] = ()


@dataclass(slots=True)
class Lowered:
    """One dictionary batch or record batch, ready to be laid out."""

    header: MessageHeader
    """What pyarrow's metadata says; the places of the buffers in it no longer hold."""
    buffers: list[Part]
    """The body, buffer by buffer, data buffers of views included."""
    variadic: tuple[int, ...]
    """For each array of views, how many data buffers it has."""
    plan: Plan


def messages(parts: Sequence[Any]) -> Iterator[tuple[bytes, MessageHeader, list[Part]]]:
    """Take apart what pyarrow's writer wrote before its end: (metadata, header, body buffers) of each batch."""
    rest = iter(parts)
    for part in rest:
        if not (isinstance(part, bytes) and part == CONTINUATION):
            continue  # the magic of a file, padding
        next(rest)
        metadata = next(rest)
        header = decode_message(metadata)
        if header.batch is None:
            continue
        filled = (part for part in rest if type(part) is not bytes)
        yield metadata, header, [next(filled) if length else None for length in header.batch.buffers[:, 1].tolist()]


def lower(
    header: MessageHeader, buffers: list[Part], plan: Plan, remaps: Mapping[int, Int64s] | None = None
) -> Lowered:
    """Cut the buffers of one batch to the bytes of its rows.

    Args:
        header: the batch's metadata.
        buffers: its body as pyarrow handed it over.
        plan: of its schema, or of its dictionary's values.
        remaps: for the index buffers with these numbers, the new index for each old one.
    """
    assert header.batch is not None
    nodes, variadic = header.batch.nodes, header.batch.variadic
    if plan.views:
        fixed, data = _split_views(buffers, plan.views, variadic)
        have = np.fromiter((0 if part is None else part.size for part in fixed), np.int64, len(fixed))
    else:
        fixed, data = buffers, []
        have = header.batch.buffers[:, 1]
    want = plan.exact(nodes)
    for number in np.flatnonzero((want < have) & (want >= 0)).tolist():
        fixed[number] = _cut(fixed[number], int(want[number]))
    rows = nodes[plan.node, 0]
    for number in np.flatnonzero((plan.kind == Kind.BITS) & (rows & 7 != 0) & (have > 0)).tolist():
        fixed[number] = _blank(fixed[number], int(rows[number]))
    for number in plan.data.tolist():
        offsets, width = fixed[number - 1], int(plan.width[number])
        last = 0 if offsets is None else int.from_bytes(offsets[offsets.size - width : offsets.size], "little")
        if have[number] > last:
            fixed[number] = _cut(fixed[number], last)
    for index in plan.indices:
        mapping, part = (remaps or {}).get(index.buffer), fixed[index.buffer]
        if mapping is not None and len(mapping) and part is not None:
            # What stands under a null can be any number.
            old = np.frombuffer(part, index.dtype).astype(np.int64)
            fixed[index.buffer] = pa.py_buffer(mapping.take(old, mode="clip").astype(index.dtype))
    if plan.views:
        for order, number in enumerate(plan.views):
            fixed[number], data[order] = pack_views(fixed[number - 1], fixed[number], data[order])
        buffers, variadic = _join_views(fixed, plan.views, data)
    return Lowered(header, buffers, variadic, plan)


def is_exact(batch: Any, flat: Sequence[tuple[int, int]], limit: int) -> bool:
    """Whether a batch of plain columns is small, and its buffers hold its rows and nothing else.

    For small batches, where to lower costs more than to write; a no need not mean that they do not.

    Args:
        batch: the batch, of one row at least.
        flat: of its `Plan`.
        limit: bytes of buffers under which it is small.
    """
    rows, left = batch.num_rows, limit
    for (kind, width), column in zip(flat, batch.columns, strict=True):
        validity, values, *data = column.buffers()
        if column.offset or values is None or (column.null_count and not _is_blank(validity, rows)):
            return False
        if kind == Kind.FIXED:
            if values.size != rows * width:
                return False
        elif kind == Kind.BITS:
            if not _is_blank(values, rows):
                return False
        else:
            if values.size != (rows + 1) * width or int.from_bytes(values[:width], "little"):
                return False
            last = int.from_bytes(values[rows * width :], "little")
            if last != (data[0].size if data[0] is not None else 0):
                return False
            left -= last
        left -= values.size
        if left <= 0:
            return False
    return True


def _is_blank(bits: Part, rows: int) -> bool:
    """Whether a bitmap holds so many rows, and zeros behind the last."""
    if bits is None or bits.size != (rows + 7) >> 3:
        return False
    return not rows & 7 or bits[bits.size - 1] >> (rows & 7) == 0


def prepare(batch: Any, plan: Plan) -> Any:
    """An equal batch without the arrays that pyarrow writes whole whatever their slice."""
    if not batch.num_rows and batch.num_columns:
        columns = [_empty(column) for column in batch.columns]
    elif plan.rebuilt:
        columns = batch.columns
        for number in plan.rebuilt:
            columns[number] = _compact(columns[number])
    else:
        return batch
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def pack_views(validity: Part, views: Part, data: list[Part], limit: int = VIEW_LIMIT) -> tuple[Part, list[Part]]:
    """The views and the data buffers that hold the strings they refer to, and no more.

    A view of up to 12 bytes holds its string itself. The longer ones are packed in the order of the rows; strings
    that several views share are kept once.

    Args:
        validity: the validity bitmap, or None where all rows are valid.
        views: 16 bytes a row.
        data: the data buffers that the views refer to.
        limit: bytes at which a new data buffer begins.
    """
    if views is None or not data:
        return views, []
    table = np.frombuffer(views, _VIEW)
    lengths = table["length"]
    is_long = lengths > _INLINE
    nulls = None
    if validity is not None:
        valid = np.unpackbits(np.frombuffer(validity, np.uint8), count=len(table), bitorder="little").view(bool)
        nulls = ~valid
        is_long &= valid
    rows = np.flatnonzero(is_long)
    need = int(lengths[rows].sum(dtype=np.int64))
    if _is_packed(table, rows, data, need) and (nulls is None or not lengths[nulls].any()):
        return views, data
    packed = table.copy()
    if nulls is not None:
        packed[nulls] = 0  # what stands there may belong to another row
    if not need:
        return pa.py_buffer(packed), []
    have = sum(part.size for part in data if part is not None)
    merged = _merge(table, rows) if need > have else None
    if merged is not None:
        starts, pieces, positions = merged
        contents = [data[buffer][start:stop] for buffer, start, stop in pieces]  # type: ignore[index]
    else:
        positions = np.cumsum(lengths[rows], dtype=np.int64) - lengths[rows]
        starts = positions
        contents = _gather(table, data, is_long, need)
    # A data buffer ends where the next string would pass the limit.
    ends = positions + lengths[rows]
    cuts = [0]
    total = int(ends.max())
    while total - cuts[-1] > limit:
        fits = starts[(starts > cuts[-1]) & (starts <= cuts[-1] + limit)]
        following = starts[starts > cuts[-1]]
        if not len(following):
            break
        cuts.append(int(fits.max() if len(fits) else following.min()))
    group = np.searchsorted(np.array(cuts), positions, "right") - 1
    packed["buffer"][rows] = group
    packed["offset"][rows] = positions - np.array(cuts)[group]
    whole = contents[0] if len(contents) == 1 else pa.py_buffer(b"".join(contents))
    return pa.py_buffer(packed), [whole[low:high] for low, high in zip(cuts, [*cuts[1:], total], strict=True)]


_INLINE = 12
_VIEW = np.dtype([("length", "<i4"), ("prefix", "<i4"), ("buffer", "<i4"), ("offset", "<i4")])


def _is_packed(table: Any, rows: Any, data: list[Part], need: int) -> bool:
    """Whether the long strings already stand row after row in one buffer that ends with the last."""
    if len(data) != 1 or data[0] is None or data[0].size != need or not need:
        return False
    offsets = table["offset"][rows]
    ends = np.cumsum(table["length"][rows], dtype=np.int64)
    return bool(offsets[0] == 0 and np.array_equal(offsets[1:], ends[:-1]))


def _gather(table: Any, data: list[Part], is_long: Any, need: int) -> list[Any]:
    """The long strings, row after row. Through a cast, which is 5 times as fast as NumPy over the views."""
    views = table
    if not is_long.all():
        views = table.copy()
        views[~is_long] = 0
    parts = [pa.py_buffer(b"") if part is None else part for part in data]
    array = pa.Array.from_buffers(pa.binary_view(), len(table), [None, pa.py_buffer(views), *parts], 0)
    # pyarrow does not notice that offsets of 32 bits overflow.
    wide = array.cast(pa.large_binary() if need > 0x7FFFFFFF else pa.binary())
    return [wide.buffers()[2][:need]]


def _merge(table: Any, rows: Any) -> tuple[Any, list[tuple[int, int, int]], Any]:
    """The stretches of the data buffers that are referred to at all, each once.

    Returns:
        (place of each stretch when they stand one behind the other, (buffer, start, stop) of each, place of the
        string of each row).
    """
    buffer = table["buffer"][rows].astype(np.int64)
    low = (buffer << 32) + table["offset"][rows]
    high = low + table["length"][rows]
    order = np.argsort(low, kind="stable")
    reach = np.maximum.accumulate(high[order])
    first = np.concatenate(([True], low[order][1:] >= reach[:-1]))
    starts_at = low[order][first]
    stops_at = reach[np.concatenate((np.flatnonzero(first)[1:] - 1, [len(order) - 1]))]
    places = np.concatenate(([0], np.cumsum(stops_at - starts_at)[:-1]))
    stretch = np.searchsorted(starts_at, low, "right") - 1
    pieces = [
        (int(start >> 32), int(start & 0xFFFFFFFF), int((start & 0xFFFFFFFF) + stop - start))
        for start, stop in zip(starts_at.tolist(), stops_at.tolist(), strict=True)
    ]
    return places, pieces, places[stretch] + (low - starts_at[stretch])


def _split_views(buffers: list[Part], views: list[int], variadic: Sequence[int]) -> tuple[list[Part], list[list[Part]]]:
    fixed: list[Part] = []
    data: list[list[Part]] = []
    at = 0
    for number, count in zip(views, variadic, strict=True):
        behind = at + number - len(fixed) + 1
        fixed += buffers[at:behind]
        data.append(buffers[behind : behind + count])
        at = behind + count
    return fixed + buffers[at:], data


def _join_views(fixed: list[Part], views: list[int], data: list[list[Part]]) -> tuple[list[Part], tuple[int, ...]]:
    buffers: list[Part] = []
    at = 0
    for number, parts in zip(views, data, strict=True):
        buffers += fixed[at : number + 1]
        buffers += parts
        at = number + 1
    return buffers + fixed[at:], tuple(len(parts) for parts in data)


def _cut(part: Part, size: int) -> Part:
    return part[:size] if part is not None and size else None


def _blank(bits: Part, rows: int) -> Part:
    """The bits, those behind the last row at zero."""
    assert bits is not None
    last = bits[bits.size - 1]
    kept = last & ((1 << (rows & 7)) - 1)
    return bits if kept == last else pa.py_buffer(bits[: bits.size - 1].to_pybytes() + bytes([kept]))


def children(kind: Any) -> list[Any]:
    """The types of the child arrays of a type."""
    types = pa.types
    if types.is_run_end_encoded(kind):
        return [kind.run_end_type, kind.value_type]
    if types.is_map(kind):
        return [pa.struct([kind.key_field, kind.item_field])]
    return [kind.field(number).type for number in range(kind.num_fields)]


def contains(kind: Any, wanted: Any) -> bool:
    """Whether a type, or one nested in it, is wanted. The values of dictionaries are not looked at."""
    kind = _storage(kind)
    return wanted(kind) or (
        not pa.types.is_dictionary(kind) and any(contains(child, wanted) for child in children(kind))
    )


def _storage(kind: Any) -> Any:
    while isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind


def _is_placed(kind: Any) -> bool:
    """Whether the rows of a type point at places in its children, which then are written whole."""
    types = pa.types
    return (types.is_union(kind) and kind.mode == "dense") or types.is_list_view(kind) or types.is_large_list_view(kind)


def _empty(array: Any) -> Any:
    """No rows of the array's type. Dictionaries are kept: they belong to the column, not to its rows."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return array.slice(0, 0)
    if pa.types.is_run_end_encoded(kind):
        return pa.RunEndEncodedArray.from_arrays(pa.nulls(0, kind.run_end_type), _empty(array.values), type=kind)
    # `pa.nulls` gives nested run-end encoded arrays a validity bitmap, which they must not have.
    if not contains(kind, pa.types.is_dictionary) and not contains(kind, pa.types.is_run_end_encoded):
        return pa.nulls(0, kind)
    return _rebuild(array.slice(0, 0), _empty)


def _compact(array: Any) -> Any:
    """An equal array whose children hold the rows that it refers to and no more."""
    return _rebuild(array, _compact) if contains(array.type, _is_placed) else array


def _rebuild(array: Any, inner: Any) -> Any:
    """An equal array, rebuilt from its children's own rows after `inner` went over each child."""
    kind, types = array.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _rebuild(array.storage, inner))
    mask = array.is_null() if array.null_count and not types.is_union(kind) else None
    if types.is_struct(kind):
        fields = [inner(array.field(number)) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=mask)
    if types.is_union(kind):
        return _rebuild_union(array, inner)
    if types.is_fixed_size_list(kind):
        size = kind.list_size
        values = inner(array.values.slice(array.offset * size, len(array) * size))
        # Not `FixedSizeListArray.from_arrays`: it divides by the size, and the process dies where that is 0.
        bits = None if mask is None else np.packbits(~mask.to_numpy(zero_copy_only=False), bitorder="little")
        return pa.Array.from_buffers(
            kind, len(array), [bits if bits is None else pa.py_buffer(bits)], children=[values]
        )
    if types.is_run_end_encoded(kind):
        first, count = array.find_physical_offset(), array.find_physical_length()
        ends = np.minimum(array.run_ends.to_numpy()[first : first + count] - array.offset, len(array))
        values = inner(array.values.slice(first, count))
        return pa.RunEndEncodedArray.from_arrays(pa.array(ends, kind.run_end_type), values, type=kind)
    is_view = types.is_list_view(kind) or types.is_large_list_view(kind)
    if is_view:
        starts, sizes = array.offsets.to_numpy(), array.sizes.to_numpy()
        if mask is not None:
            sizes = np.where(mask.to_numpy(zero_copy_only=False), 0, sizes)
        values = inner(_pick(array.values, _places(starts, sizes)))
        offsets = pa.array(np.cumsum(sizes) - sizes, pa.int64() if types.is_large_list_view(kind) else pa.int32())
        return type(array).from_arrays(offsets, pa.array(sizes, offsets.type), values, type=kind, mask=mask)
    # An array of no rows may have no offsets, not even one; pyarrow 26 reads one beyond the end.
    offsets = array.offsets.to_numpy() if len(array) else np.zeros(1, np.int64)
    values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
    based = pa.array(offsets - offsets[0], pa.int64() if types.is_large_list(kind) else pa.int32())
    if types.is_map(kind):
        entries = inner(values)
        return pa.MapArray.from_arrays(based, entries.field(0), entries.field(1), type=kind, mask=mask)
    return type(array).from_arrays(based, inner(values), type=kind, mask=mask)


def _rebuild_union(array: Any, inner: Any) -> Any:
    # Not `array.type_codes` and `array.offsets`: pyarrow 26 forgets there that the array is a slice.
    kind, buffers = array.type, array.buffers()
    own = slice(array.offset, array.offset + len(array))
    codes = np.frombuffer(buffers[1] or b"", np.int8)[own]
    fields = [array.field(number) for number in range(kind.num_fields)]
    parts = [None, pa.py_buffer(codes.tobytes())]
    if kind.mode == "dense":
        offsets = np.frombuffer(buffers[2] or b"", np.int32)[own]
        places = np.zeros(len(array), np.int32)
        for number, code in enumerate(kind.type_codes):
            rows = np.flatnonzero(codes == code)
            places[rows] = np.arange(len(rows))
            fields[number] = _pick(fields[number], offsets[rows])
        parts.append(pa.py_buffer(places))
    return pa.Array.from_buffers(kind, len(array), parts, 0, children=[inner(field) for field in fields])


def _places(starts: Any, sizes: Any) -> Any:
    """The place of each child value of lists: its list's start, and its place within the list."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)


def _pick(array: Any, places: Any) -> Any:
    """The values of an array at some places, of any type: consecutive places are sliced, the slices concatenated."""
    if not len(places):
        return array.slice(0, 0)
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    firsts = places[np.concatenate(([0], breaks))]
    counts = np.diff(np.concatenate(([0], breaks, [len(places)])))
    if len(firsts) == 1:
        return array.slice(firsts[0], counts[0])
    try:
        return array.take(pa.array(places))
    except pa.ArrowNotImplementedError:
        if contains(array.type, _is_run_of_extension):
            return _pick_within(array, places)
        return pa.concat_arrays([array.slice(first, count) for first, count in zip(firsts, counts, strict=True)])


def _is_run_of_extension(kind: Any) -> bool:
    """Runs of an extension type, which pyarrow neither takes from nor concatenates."""
    return pa.types.is_run_end_encoded(kind) and isinstance(kind.value_type, pa.BaseExtensionType)


def _pick_within(array: Any, places: Any) -> Any:
    """`_pick`, child by child."""
    kind, types = array.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, _pick(array.storage, places))
    if types.is_run_end_encoded(kind):
        runs = np.searchsorted(array.run_ends.to_numpy(), places + array.offset, "right")
        first = np.flatnonzero(np.diff(runs, prepend=-1))
        ends = pa.array(np.append(first[1:], len(runs)), kind.run_end_type)
        return pa.RunEndEncodedArray.from_arrays(ends, _pick(array.values, runs[first]), type=kind)
    mask = array.is_null().take(pa.array(places)) if array.null_count else None
    if types.is_struct(kind):
        fields = [_pick(array.field(number), places) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=mask)
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        starts, sizes = array.offsets.take(pa.array(places)), array.sizes.take(pa.array(places))
        return type(array).from_arrays(starts, sizes, array.values, type=kind, mask=mask)
    if types.is_list(kind) or types.is_large_list(kind):
        offsets = array.offsets.to_numpy()
        starts, sizes = offsets[places], np.diff(offsets)[places]
        values = _pick(array.values, _places(starts, sizes))
        ends = pa.array(np.append(0, np.cumsum(sizes)), array.offsets.type)
        return type(array).from_arrays(ends, values, type=kind, mask=mask)
    raise UnsupportedType(f"a column within lists that share their values is {kind}: pyarrow cannot gather its rows")
