"""What a filter can come to in each zone: true, false or null, as far as the zone's bounds can tell.

Of a comparison of a column with a constant of its own kind, of `is_in`, `is_null` and `is_valid`, the least and the
greatest value of a zone tell which answers its rows can get. For all zones at once that takes microseconds::

    zone          min  max  nulls     a > 3                     (a > 3) & (a < 9)
    0               0    2      0     false                     false
    1               2    6      0     true or false             true or false
    2               5    8      0     true                      true
    3               5    8      1     true or null              true or null

Answers are joined by `and`, `or` and `not` as their three values are; whatever else a filter says can come to anything.
A zone in which nothing comes to true need not be read; one in which all does need not be filtered.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aljava.ipc.bounds import Rows, bounds_type, comparable
from aljava.ipc.filters import Call, Field, Literal, Mask, Node, walk

# What is false where a comparison is true, and what it says with its sides exchanged.
OPPOSITE = {
    "less": "greater_equal",
    "less_equal": "greater",
    "greater": "less_equal",
    "greater_equal": "less",
    "equal": "not_equal",
    "not_equal": "equal",
}
MIRRORED = {
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
    "equal": "equal",
    "not_equal": "not_equal",
}
# Up to this one, every whole number is a float of so many bits; pyarrow refuses to compare with a greater one.
EXACT = {16: 1 << 11, 32: 1 << 24, 64: 1 << 53}
# Both a signed and an unsigned integer of 64 bits fit in.
WIDEST_INTEGER = pa.decimal128(20)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True, eq=False)
class Outcomes:
    """For each zone, which answers its rows may get: False where one is ruled out."""

    true: Mask
    false: Mask
    null: Mask

    @classmethod
    def any(cls, zones: int) -> "Outcomes":
        """Of what nothing is known."""
        return cls(*(np.ones(zones, np.bool_) for _ in range(3)))

    def inverted(self) -> "Outcomes":
        return Outcomes(self.false, self.true, self.null)

    def or_else(self, other: "Outcomes") -> "Outcomes":
        """Those of one or of the other, where it is not known which."""
        return Outcomes(self.true | other.true, self.false | other.false, self.null | other.null)


def _and_kleene(a: Outcomes, b: Outcomes) -> Outcomes:
    return Outcomes(a.true & b.true, a.false | b.false, (a.null & (b.null | b.true)) | (b.null & a.true))


def _and(a: Outcomes, b: Outcomes) -> Outcomes:
    return Outcomes(a.true & b.true, (a.false & (b.true | b.false)) | (b.false & (a.true | a.false)), a.null | b.null)


def _xor(a: Outcomes, b: Outcomes) -> Outcomes:
    return Outcomes((a.true & b.false) | (a.false & b.true), (a.true & b.true) | (a.false & b.false), a.null | b.null)


_JOINING: dict[str, Callable[..., Outcomes]] = {
    "invert": Outcomes.inverted,
    "and_kleene": _and_kleene,
    "or_kleene": lambda a, b: _and_kleene(a.inverted(), b.inverted()).inverted(),
    "and_not_kleene": lambda a, b: _and_kleene(a, b.inverted()),
    "and": _and,
    "or": lambda a, b: _and(a.inverted(), b.inverted()).inverted(),
    "and_not": lambda a, b: _and(a, b.inverted()),
    "xor": _xor,
}


class Column:
    """What is known of one column, zone by zone.

    Args:
        statistics: a struct of `min`, `max` and `nulls`, or only of `nulls`, for each zone.
        rows: the rows of each zone.
    """

    def __init__(self, statistics: pa.StructArray, rows: Rows) -> None:
        nulls = np.asarray(pc.fill_null(statistics.field("nulls"), -1))
        self._some_null: Mask = (nulls != 0) & (rows > 0)
        self._only_null: Mask = (nulls == rows) | (rows == 0)
        self._low = self._high = pa.nulls(len(rows))
        if statistics.type.get_field_index("min") >= 0:
            self._low, self._high = (comparable(statistics.field(end)) for end in ("min", "max"))
        # Of text in small zones, one bound may stand for several zones, those of nulls included.
        self._known = _mask(pc.and_(self._low.is_valid(), self._high.is_valid())) & ~self._only_null
        self._is_float = pa.types.is_floating(self._low.type)

    def compared(self, function: str, value: pa.Scalar) -> Outcomes:
        """The outcomes of a comparison with a constant; null is one that all rows come to null with."""
        if not value.is_valid:
            none = np.zeros(len(self._known), np.bool_)
            return Outcomes(none, none, self._some_null | ~self._only_null)
        return Outcomes(self._may(function, value), self._may(OPPOSITE[function], value), self._some_null)

    def _may(self, function: str, value: pa.Scalar) -> Mask:
        """Whether a value of a zone may compare so."""
        low, high = self._low, self._high
        if value.type != low.type:
            low, high = low.cast(value.type), high.cast(value.type)
        if function in ("less", "less_equal"):
            may = pc.call_function(function, [low, value])
        elif function in ("greater", "greater_equal"):
            may = pc.call_function(function, [high, value])
        elif function == "equal":
            may = pc.and_(pc.less_equal(low, value), pc.greater_equal(high, value))
        else:
            may = pc.or_(pc.not_equal(low, value), pc.not_equal(high, value))
        return np.where(self._known, _mask(may), ~self._only_null)

    def among(self, values: pa.Array, nulls: str) -> Outcomes:
        """The outcomes of `is_in`.

        Args:
            values: those that are looked for.
            nulls: what becomes of nulls: "match" each other, "skip" those looked for, or "unknown".
        """
        present = values.drop_null()
        low, high = self._low, self._high
        if present.type != low.type:
            low, high, present = (array.cast(WIDEST_INTEGER) for array in (low, high, present))
        # Adding nothing to a float makes 0.0 of -0.0: of these, each may be found where the other is.
        if self._is_float:
            low, high, present = (pc.add(array, pa.scalar(0, array.type)) for array in (low, high, present))
        ranks = pc.rank(pa.concat_arrays([present, low, high]), tiebreaker="dense").to_numpy().astype(np.int64)
        wanted, least, most = np.split(ranks, [len(present), len(present) + len(low)])
        wanted = np.sort(wanted)
        met = np.searchsorted(wanted, least, "left") < np.searchsorted(wanted, most, "right")
        true = np.where(self._known, met, ~self._only_null)
        # Of the two zeros, one may not be found though the other is: of floats, none is sure to be.
        sure = self._known & met & (least == most) & (not self._is_float)
        false = ~sure & ~self._only_null
        none = np.zeros(len(true), np.bool_)
        if nulls == "match" and values.null_count:
            return Outcomes(true | self._some_null, false, none)
        return Outcomes(true, false | self._some_null, none) if nulls != "unknown" else Outcomes.any(len(true))

    def absent(self, *, nan_is_null: bool) -> Outcomes:
        """The outcomes of `is_null`."""
        some = self._some_null
        if nan_is_null and self._is_float:
            some = some | ~self._known
        return Outcomes(some, ~self._only_null, np.zeros(len(some), np.bool_))


# A leaf of a filter: the column that it asks of, and how.
_Question = tuple[str, Callable[[Column], Outcomes]]


def is_plain(tree: Node, schema: pa.Schema) -> bool:
    """Return whether a filter says nothing but what `judge` understands, so that it fits the schema too.

    Example:
        >>> from aljava.ipc.filters import parse
        >>> schema = pa.schema([("a", pa.int8())])
        >>> is_plain(parse((pc.field("a") > 3) & ~pc.field("a").is_null()), schema)
        True
        >>> is_plain(parse(pc.field("a") + 1 > 3), schema)
        False
    """
    return all(
        (isinstance(node, Call) and node.function in _JOINING) or _constant(node) or _question(node, schema)
        for node in _parts(tree)
    )


def is_runnable(tree: Node, schema: pa.Schema) -> bool:
    """Return whether pyarrow can evaluate a filter, where that goes without trying: of plain ones, most.

    It has not all kernels for narrow decimals, half floats and views.
    """
    types = (schema.field(node.path[0]).type for node in walk(tree) if isinstance(node, Field))
    return is_plain(tree, schema) and all(
        type in _RUNNABLE or (pa.types.is_temporal(type) and not pa.types.is_interval(type)) for type in types
    )


def judge(tree: Node, schema: pa.Schema, column: Callable[[str], Column | None], zones: int) -> Outcomes:
    """Return what a filter can come to in each zone.

    Args:
        tree: the filter.
        schema: of the file.
        column: what is known of a column of the file, by name; None if nothing.
        zones: how many zones there are.
    """
    found: list[Outcomes] = []
    # From the last to the first, each part follows those that it joins.
    for node in reversed(list(_parts(tree))):
        if isinstance(node, Call) and node.function in _JOINING:
            first = len(found) - len(node.arguments)
            found[first:] = [_JOINING[node.function](*found[first:])]
        elif constant := _constant(node):
            found.append(Outcomes(*(np.full(zones, one) for one in constant)))
        else:
            question = _question(node, schema)
            known = None if question is None else column(question[0])
            found.append(Outcomes.any(zones) if question is None or known is None else question[1](known))
    return found[0]


def _parts(tree: Node) -> Iterator[Node]:
    """Return the conditions of a filter and what joins them, each before what it joins, the last first."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Call) and node.function in _JOINING:
            waiting.extend(node.arguments)


def _constant(node: Node) -> tuple[bool, bool, bool] | None:
    """Return whether a condition without a column is true, false or null; None if it is none."""
    if not isinstance(node, Literal) or not (pa.types.is_boolean(node.value.type) or pa.types.is_null(node.value.type)):
        return None
    value = node.value.as_py()
    return value is True, value is False, value is None


def _question(node: Node, schema: pa.Schema) -> _Question | None:
    """Return what a condition asks of a column; None if it asks of several, or what cannot be told from bounds."""
    if isinstance(node, Field):
        type = _type_of(node, schema)
        true = pa.scalar(True)
        return None if type != pa.bool_() else (node.path[0], lambda column: column.compared("equal", true))
    if not isinstance(node, Call) or not node.arguments:
        return None
    first = node.arguments[0]
    if node.function in OPPOSITE:
        second, function = node.arguments[1], node.function
        if isinstance(first, Literal):
            first, second, function = second, first, MIRRORED[function]
        type = _type_of(first, schema)
        values = _comparable_values(second.value, type) if type is not None and isinstance(second, Literal) else []
        return (_name(first), lambda column: _compared(column, function, values)) if values else None
    type = _type_of(first, schema)
    if type is None:
        return None
    if node.function == "is_valid":
        return _name(first), lambda column: column.absent(nan_is_null=False).inverted()
    if node.function == "is_null" and node.options is not None:
        nan_is_null = bool(node.options["nan_is_null"].as_py())
        return _name(first), lambda column: column.absent(nan_is_null=nan_is_null)
    if node.function == "is_in" and node.options is not None:
        return _membership(_name(first), type, node.options)
    return None


def _name(node: Node) -> str:
    assert isinstance(node, Field)
    return node.path[0]


def _type_of(node: Node, schema: pa.Schema) -> pa.DataType | None:
    """Return the type of a column of the file; None for all else."""
    if not isinstance(node, Field) or len(node.path) != 1:
        return None
    places = schema.get_all_field_indices(node.path[0])
    return schema.field(places[0]).type if len(places) == 1 else None


def _compared(column: Column, function: str, values: list[pa.Scalar]) -> Outcomes:
    first, *others = (column.compared(function, value) for value in values)
    for other in others:
        first = first.or_else(other)
    return first


def _membership(name: str, type: pa.DataType, options: pa.StructScalar) -> _Question | None:
    values, bound = options["value_set"], bounds_type(type)
    if bound is None or not isinstance(values, pa.ListScalar) or values.values is None:
        return None
    values = values.values
    if _is_text_or_bytes(bound) and _kin(values.type, bound):
        values = values.cast(bound)
    if values.type != bound and not (pa.types.is_integer(values.type) and pa.types.is_integer(bound)):
        return None
    if pa.types.is_floating(bound) and pc.any(pc.is_nan(comparable(values))).as_py():
        return None
    matching = options["null_matching_behavior"].as_py()
    nulls = {0: "match", 1: "skip"}.get(matching, "unknown")
    values = comparable(values)
    return name, lambda column: column.among(values, nulls)


def _comparable_values(value: pa.Scalar, type: pa.DataType) -> list[pa.Scalar]:
    """Return a constant in the type that the bounds of a column have.

    Where pyarrow may round it or not before it compares, both; nothing where nobody can tell what it does.
    """
    bound = bounds_type(type)
    if bound is None:
        return []
    if value.type == bound or (_is_text_or_bytes(bound) and _kin(value.type, bound)):
        same = comparable(pa.array([value]).cast(bound) if value.type != bound else pa.array([value], bound))[0]
        return [] if _is_nan(same) else [same]
    if not value.is_valid:
        return []
    if pa.types.is_integer(value.type) and pa.types.is_integer(bound):
        return [_integer(value.as_py(), bound)]
    if pa.types.is_floating(bound) and (pa.types.is_integer(value.type) or pa.types.is_floating(value.type)):
        return _floats(value.as_py(), comparable(pa.nulls(0, bound)).type, bound)
    if pa.types.is_timestamp(bound) and pa.types.is_timestamp(value.type) and value.type.tz == bound.tz:
        # Python has microseconds, pandas nanoseconds.
        factor, rest = divmod(PER_SECOND[bound.unit], PER_SECOND[value.type.unit])
        instant = value.value * factor
        return [] if rest or not -(1 << 63) <= instant < 1 << 63 else [pa.scalar(instant, pa.int64()).cast(bound)]
    return []


def _integer(value: int, bound: pa.DataType) -> pa.Scalar:
    low = -(1 << (bound.bit_width - 1)) if pa.types.is_signed_integer(bound) else 0
    high = low + (1 << bound.bit_width) - 1
    return pa.scalar(value, bound if low <= value <= high else WIDEST_INTEGER)


def _floats(value: float, type: pa.DataType, bound: pa.DataType) -> list[pa.Scalar]:
    if (isinstance(value, int) and abs(value) > EXACT[bound.bit_width]) or math.isnan(value):
        return []
    exact = float(value)
    with np.errstate(over="ignore"):
        rounded = float(np.dtype(bound.to_pandas_dtype()).type(exact))
    if rounded == exact:
        return [pa.scalar(rounded, type)]
    return [pa.scalar(exact, pa.float64()), pa.scalar(rounded, type)]


def _is_nan(value: pa.Scalar) -> bool:
    return value.is_valid and pa.types.is_floating(value.type) and math.isnan(value.as_py())


def _is_text_or_bytes(type: pa.DataType) -> bool:
    return type in (*_TEXT, *_BYTES)


_RUNNABLE = (
    pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.binary(), pa.large_binary(),
)  # fmt: skip
_TEXT = (pa.string(), pa.large_string(), pa.string_view())
_BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())


def _kin(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether two types differ but in how they lay out their text, or their bytes."""
    return any(one in family and other in family for family in (_TEXT, _BYTES))


def _mask(answers: pa.BooleanArray) -> Mask:
    """Return answers as booleans; a null, the answer of a zone without bounds, is False."""
    return np.asarray(pc.fill_null(answers, False) if answers.null_count else answers)
