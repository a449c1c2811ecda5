"""Which zones can hold a row that a filter selects, and which hold no other.

What a filter says of columns and constants is judged from the bounds of all zones at once: see `aljava.ipc.outcomes`.
Where it says more, pyarrow is asked about the zones that are left. A throw-away `pyarrow.dataset.FileSystemDataset`
gets one fragment a zone, with the zone's bounds as its partition expression: a *guarantee*, true of every row.
`get_fragments(filter=…)` then leaves out the fragments whose guarantee contradicts the filter, at about 10 µs a zone.
Groups of zones are asked first, then the zones of those that are left.

The way a guarantee is written matters. With nulls it reads `((a >= min) | a.is_null()) & ((a <= max) | a.is_null())`:
the shorter `(a >= min & a <= max) | a.is_null()` is as true and prunes nothing. And what pyarrow simplifies wrongly
must not be asked at all: casts, and comparisons with NaN. Nor what it dies of.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import and_

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aljava.ipc.bounds import Rows, bounds_type, comparable, sort_order
from aljava.ipc.filters import Call, Field, Literal, Mask, Node, Verdict, parse, walk
from aljava.ipc.outcomes import Column, is_plain, judge

# Zones that are asked about together before each is asked about alone.
GROUP = 64
# Sets of columns whose guarantees are kept, so that the next filter over the same columns finds them made.
REMEMBERED = 16
# What may be asked of a column in another type than its own.
PLAIN_FUNCTIONS = frozenset(
    ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "is_in", "is_null", "is_valid"]
)


class Pruner:
    """Answers for one zone map. Threads may share it.

    Args:
        table: the zone map, as `aljava.ipc.zones.Zones` has it.
        schema: the schema of the file.
    """

    def __init__(self, table: pa.Table, schema: pa.Schema) -> None:
        self._table = table
        self._schema = schema
        self._columns: dict[str, Column] = {}
        self._levels: dict[tuple[str, ...], _Levels] = {}
        self._last: tuple[Node, Verdict] | None = None

    def judge(self, filter: pc.Expression) -> Verdict:
        """Return what a filter can select."""
        tree = parse(filter)
        rows = np.asarray(self._table["rows"])
        if tree is None:
            return Verdict(np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_))
        # A query planner asks what a filter would spare, and then scans with it.
        last = self._last
        if last is not None and last[0] is tree:
            return last[1]
        outcomes = judge(tree, self._schema, self._column, len(rows))
        kept = outcomes.true & (rows > 0)
        sure = kept & ~outcomes.false & ~outcomes.null
        if kept.any() and not is_plain(tree, self._schema):
            kept = self._not_ruled_out(filter, tree, kept)
        kept.flags.writeable = sure.flags.writeable = False
        verdict = Verdict(kept, sure)
        self._last = (tree, verdict)
        return verdict

    def _column(self, name: str) -> Column | None:
        column = self._columns.get(name)
        if column is None and self._table.schema.field("columns").type.get_field_index(name) >= 0:
            column = Column(_chunk(self._table["columns"]).field(name), np.asarray(self._table["rows"]))
            self._columns[name] = column
        return column

    def _not_ruled_out(self, filter: pc.Expression, tree: Node, candidates: Mask) -> Mask:
        """Return those of the candidates that pyarrow does not rule out."""
        if not _can_be_judged(tree) or not _is_alike(tree, self._schema):
            return candidates
        names = tuple(sorted({node.path[0] for node in walk(tree) if isinstance(node, Field)}))
        bounded = [name for name in names if self._has_bounds(name)]
        if not bounded or any(self._schema.names.count(name) != 1 for name in names):
            return candidates
        levels = self._levels.get(names)
        if levels is None:
            levels = _Levels.of(self._table, self._schema, names, bounded)
            if len(self._levels) >= REMEMBERED:
                self._levels.clear()
            self._levels[names] = levels
        return levels.prune(filter, candidates)

    def _has_bounds(self, name: str) -> bool:
        columns = self._table.schema.field("columns").type
        index = columns.get_field_index(name)
        return index >= 0 and columns.field(index).type.get_field_index("min") >= 0


def _can_be_judged(tree: Node) -> bool:
    """Return whether pyarrow simplifies a filter rightly: not with a cast in it, a NaN, or certain nulls."""
    for node in walk(tree):
        if isinstance(node, Literal) and (_may_hold_nan(node.value.type, [node.value]) or _is_large_null(node.value)):
            return False
        if isinstance(node, Call):
            values = _value_set(node)
            if node.function == "cast" or (values is not None and _may_hold_nan(values.type, values)):
                return False
    return True


def _is_alike(tree: Node, schema: pa.Schema) -> bool:
    """Return whether a filter means the same for the type that pyarrow is asked in as for a column's own.

    Where these differ, a dictionary and its values say, only the plain questions do: of two units of time, pyarrow 26
    takes the one for the other in `coalesce(column, value)`, but not if the column is a dictionary.
    """
    for node in walk(tree):
        if isinstance(node, Call) and node.function not in PLAIN_FUNCTIONS:
            for argument in node.arguments:
                if isinstance(argument, Field) and argument.path[0] in schema.names:
                    type = schema.field(schema.names.index(argument.path[0])).type
                    bound = bounds_type(type)
                    if bound is not None and _asked(pa.nulls(0, bound)).type != type:
                        return False
    return True


def _may_hold_nan(type: pa.DataType, values: Iterable[pa.Scalar]) -> bool:
    if pa.types.is_floating(type):
        return any(value.is_valid and math.isnan(value.as_py()) for value in values)
    return pa.types.is_nested(type) or pa.types.is_dictionary(type) or isinstance(type, pa.BaseExtensionType)


def _is_large_null(value: pa.Scalar) -> bool:
    """Return whether this is a null that pyarrow 26 dies of, by a segmentation fault, when it has to be cast."""
    return not value.is_valid and (pa.types.is_large_string(value.type) or pa.types.is_large_binary(value.type))


def _value_set(node: Call) -> pa.Array | None:
    """Return the values that `is_in` and `index_in` look for."""
    if node.options is None or "value_set" not in node.options.type.names:
        return None
    values = node.options["value_set"]
    return values.values if isinstance(values, pa.ListScalar) else None


@dataclass(frozen=True, eq=False)
class _Bounds:
    """What is known of one column: an entry a zone, or a group of zones."""

    low: pa.Array
    high: pa.Array
    # How many nulls; -1 where nobody knows.
    nulls: Rows
    rows: Rows

    @classmethod
    def of(cls, statistics: pa.StructArray, rows: Rows) -> "_Bounds":
        low, high = (_asked(statistics.field(end)) for end in ("min", "max"))
        nulls = np.asarray(pc.fill_null(statistics.field("nulls"), -1))
        return cls(low, high, np.where(rows == 0, 0, nulls), rows)

    def groups(self, starts: Rows) -> "_Bounds":
        """Return the bounds of groups, each of which begins at one of these zones."""
        empty = self.nulls == self.rows
        unbounded = ~empty & ~np.asarray(pc.and_(self.low.is_valid(), self.high.is_valid()))
        known = ~np.logical_or.reduceat(unbounded, starts)
        unknown_nulls = np.logical_or.reduceat(self.nulls < 0, starts)
        return _Bounds(
            _least(self.low, starts, known),
            _greatest(self.high, starts, known),
            np.where(unknown_nulls, -1, np.add.reduceat(self.nulls, starts)),
            np.add.reduceat(self.rows, starts),
        )

    def guarantee(self, column: pc.Expression, zone: int) -> pc.Expression | None:
        """Return what holds for every row of a zone, or None if nothing is known."""
        nulls = self.nulls[zone]
        if nulls == self.rows[zone]:
            return column.is_null()
        low, high = self.low[zone], self.high[zone]
        if not low.is_valid or not high.is_valid:
            return None
        if nulls != 0:
            absent = column.is_null()
            return ((column >= pc.scalar(low)) | absent) & ((column <= pc.scalar(high)) | absent)
        # Not for floats: 0.0 equals -0.0, and yet pyarrow's functions tell them apart.
        if low.equals(high) and not pa.types.is_floating(low.type):
            return column == pc.scalar(low)
        return (column >= pc.scalar(low)) & (column <= pc.scalar(high))


class _Levels:
    """The guarantees over one set of columns, for groups of zones and for zones, each made when first asked for."""

    def __init__(self, schema: pa.Schema, rows: Rows, bounds: dict[str, _Bounds]) -> None:
        self._schema = schema
        self._rows = rows
        self._bounds = bounds
        self._starts = np.arange(0, len(rows), GROUP)
        self._groups = {name: column.groups(self._starts) for name, column in bounds.items()} if len(rows) else {}
        self._of_groups: dict[int, pc.Expression] = {}
        self._of_zones: dict[int, pc.Expression] = {}

    @classmethod
    def of(cls, table: pa.Table, schema: pa.Schema, names: Iterable[str], bounded: Iterable[str]) -> "_Levels":
        """Read the bounds of the columns `bounded` from a zone map; `names` are all that the filter names."""
        rows = np.asarray(table["rows"])
        columns = _chunk(table["columns"])
        bounds = {name: _Bounds.of(columns.field(name), rows) for name in bounded}
        asked = [(name, bounds[name].low.type if name in bounds else schema.field(name).type) for name in names]
        return cls(pa.schema(asked), rows, bounds)

    def prune(self, filter: pc.Expression, candidates: Mask) -> Mask:
        """Return those of the candidates, zones, that can hold a row that a filter selects."""
        groups = np.arange(len(candidates)) // GROUP
        left = self._ask(np.unique(groups[candidates]), self._groups, self._of_groups, filter)
        kept = np.zeros(len(candidates), np.bool_)
        kept[self._ask(np.flatnonzero(candidates & np.isin(groups, left)), self._bounds, self._of_zones, filter)] = True
        return kept

    def _ask(
        self, candidates: Rows, bounds: dict[str, _Bounds], made: dict[int, pc.Expression], filter: pc.Expression
    ) -> list[int]:
        """Return those of the candidates, zones or groups, that nothing rules out."""
        asked = candidates.tolist()
        for index in asked:
            if index not in made:
                known = (column.guarantee(pc.field(name), index) for name, column in bounds.items())
                made[index] = reduce(and_, (part for part in known if part is not None), pc.scalar(True))
        return self._not_ruled_out(asked, made, filter)

    def _not_ruled_out(
        self, candidates: list[int], guarantees: dict[int, pc.Expression], filter: pc.Expression
    ) -> list[int]:
        import pyarrow.dataset as ds
        from pyarrow.fs import LocalFileSystem

        try:
            fragments = ds.FileSystemDataset.from_paths(
                [str(index) for index in candidates],
                schema=self._schema,
                format=ds.IpcFileFormat(),
                filesystem=LocalFileSystem(),
                partitions=[guarantees[index] for index in candidates],
            )
            return [int(fragment.path) for fragment in fragments.get_fragments(filter=filter)]
        except pa.ArrowException:
            return candidates


def _asked(bounds: pa.Array) -> pa.Array:
    """Return bounds in the type that pyarrow is asked in.

    It has no comparisons for narrow decimals. And it would put a null for a column that is null throughout a zone: see
    `_is_large_null`.
    """
    if pa.types.is_large_string(bounds.type):
        return bounds.cast(pa.string())
    if pa.types.is_large_binary(bounds.type):
        return bounds.cast(pa.binary())
    return comparable(bounds) if pa.types.is_decimal(bounds.type) else bounds


def _least(values: pa.Array, starts: Rows, known: Mask) -> pa.Array:
    """Return the least value of each group, where known; nulls do not count."""
    order = sort_order(values)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return values.take(pa.array(order[np.minimum.reduceat(rank, starts)], mask=~known))


def _greatest(values: pa.Array, starts: Rows, known: Mask) -> pa.Array:
    """Return the greatest value of each group, where known; nulls do not count."""
    order = sort_order(values)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    # Nulls have been sorted to the end.
    rank[np.asarray(values.is_null())] = -1
    greatest = np.maximum.reduceat(rank, starts)
    return values.take(pa.array(order[np.maximum(greatest, 0)], mask=~known | (greatest < 0)))


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    """Return a column of a zone map, which has but one chunk, as an array."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
