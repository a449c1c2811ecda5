"""A zone that is left out holds no row that the filter selects: random data, random filters, pyarrow as the oracle."""

import math
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pytest

import aljava
from aljava.ipc import filters
from aljava.ipc.filters import parse
from aljava.ipc.outcomes import is_plain, is_runnable
from aljava.ipc.zones import ZoneBuilder, Zones
from tests.ipc.columns import COLUMNS, moments

if TYPE_CHECKING:
    from collections.abc import Callable

Expression = Any

# What a column can be compared with besides its own type: pyarrow casts one side to the other.
TEXT = {
    pa.string(): (pa.large_string(), pa.binary()),
    pa.large_string(): (pa.string(), pa.binary(), pa.large_binary()),
    pa.string_view(): (pa.string(), pa.large_string()),
    pa.binary(): (pa.large_binary(), pa.string()),
    pa.large_binary(): (pa.binary(), pa.large_string()),
}
NUMBERS = (pa.int8(), pa.uint16(), pa.int64(), pa.float32(), pa.float64())


class Filters:
    """Draws filters over some of the columns."""

    def __init__(self, r: random.Random, names: list[str]) -> None:
        self.r = r
        self.names = names

    def draw(self, depth: int) -> Expression:
        if depth == 0 or self.r.random() < 0.3:
            return self.condition()
        if self.r.random() < 0.25:
            return ~self.draw(depth - 1)
        function = self.r.choice(["and_kleene", "or_kleene", "and", "or", "xor", "and_not_kleene"])
        return pc.Expression._call(function, [self.draw(depth - 1), self.draw(depth - 1)])

    def condition(self) -> Expression:
        name = self.r.choice(self.names)
        column = pc.field(name)
        choice = self.r.random()
        if choice < 0.12:
            return column.is_null(nan_is_null=self.r.random() < 0.3)
        if choice < 0.18:
            return column.is_valid()
        if choice < 0.32:
            return self.membership(name)
        if choice < 0.37 and COLUMNS[name].type in (pa.string(), pa.large_string()):
            return self.r.choice(
                [pc.starts_with(column, "a"), pc.match_substring(column, "b"), pc.match_like(column, "a%")]
            )
        if choice < 0.4 and COLUMNS[name].type == pa.bool_():
            return column
        left, right = self.term(name), self.constant(name)
        alike = [other for other in self.names if COLUMNS[other].type == COLUMNS[name].type]
        if self.r.random() < 0.1:
            right = pc.field(self.r.choice(alike))
        if self.r.random() < 0.2:
            left, right = right, left
        comparison = self.r.choice(["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"])
        return pc.Expression._call(comparison, [left, right])

    def membership(self, name: str) -> Expression:
        column = COLUMNS[name]
        values = [
            None if self.r.random() < 0.1 else column.draw(self.r) for _ in range(self.r.choice([0, 1, 2, 3, 60]))
        ]
        type = column.value_type
        if self.r.random() < 0.3:
            type = pa.int64() if pa.types.is_signed_integer(type) else self.r.choice(TEXT.get(type, (type,)))
        try:
            value_set = pa.array(values, type)
        except (pa.ArrowException, TypeError):
            value_set = pa.array(values, column.value_type)
        options = pc.SetLookupOptions(value_set, skip_nulls=self.r.random() < 0.5)
        return pc.Expression._call("is_in", [pc.field(name)], options)

    def term(self, name: str) -> Expression:
        """A column, or something computed from it."""
        column, type = pc.field(name), COLUMNS[name].type
        choices: list[Callable[[], Expression]] = [lambda: column] * 6
        choices.append(lambda: pc.coalesce(column, self.constant(name)))
        choices.append(lambda: pc.if_else(column.is_null(), self.constant(name), column))
        if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
            choices += [
                lambda: column + self.r.randint(-3, 3),
                lambda: column * self.r.randint(-2, 2),
                lambda: column - self.constant(name),
                lambda: column / 2,
                lambda: pc.negate(column),
                lambda: pc.abs(column),
                lambda: pc.floor(column),
                lambda: pc.sqrt(column),
                lambda: column.cast(self.r.choice(NUMBERS), safe=self.r.random() < 0.5),
            ]
        elif pa.types.is_timestamp(type):
            choices += [
                lambda: pc.year(column),
                lambda: pc.day(column),
                lambda: pc.floor_temporal(column, unit="day"),
                lambda: column.cast(self.r.choice([pa.timestamp("s", type.tz), pa.date32()]), safe=False),
            ]
        elif pa.types.is_date(type):
            choices.append(lambda: column.cast(pa.timestamp("us")))
        elif type in (pa.string(), pa.large_string()):
            choices += [lambda: pc.utf8_upper(column), lambda: pc.utf8_length(column), lambda: column.cast(pa.binary())]
        return self.r.choice(choices)()

    def constant(self, name: str) -> Expression:
        column, r = COLUMNS[name], self.r
        value, type = column.draw(r), column.value_type
        choice = r.random()
        # The oracle dies of a segmentation fault where it has to cast a null of these types.
        if choice < 0.03 and type not in (pa.large_string(), pa.large_binary()):
            return pc.scalar(pa.scalar(None, type))
        if pa.types.is_integer(type) or pa.types.is_floating(type):
            if choice < 0.35:
                return pc.scalar(r.choice([r.randint(-5, 20), r.uniform(-5, 20), 16777217, 2**53 + 1, Decimal("3.5")]))
            if choice < 0.38:
                return pc.scalar(math.nan)
            if choice < 0.45:
                return pc.scalar(pa.scalar(r.randint(0, 20), r.choice(NUMBERS)))
        if pa.types.is_decimal(type) and choice < 0.4:
            return pc.scalar(
                r.choice([r.randint(-5, 20), r.uniform(-5, 20), Decimal(r.randint(-5000, 20000)).scaleb(-3)])
            )
        if pa.types.is_timestamp(type) and choice < 0.3:
            zone = r.choice(["UTC", "Asia/Tokyo"]) if type.tz else None
            return pc.scalar(pa.scalar(value, pa.timestamp(r.choice(["s", "ms", "us", "ns"]), zone)))
        if pa.types.is_date(type) and choice < 0.3:
            return pc.scalar(pa.scalar(moments(r), pa.timestamp("us")))
        if type in TEXT and choice < 0.3:
            return pc.scalar(pa.scalar(value if isinstance(value, str) else b"ab", r.choice(TEXT[type])))
        return pc.scalar(pa.scalar(value, type))


def draw_table(r: random.Random, names: list[str]) -> list[pa.RecordBatch]:
    """Draw batches, some of them empty; now and then more zones than are asked about at once."""
    schema = pa.schema([(name, COLUMNS[name].type) for name in names])
    many = r.random() < 0.1
    batches = []
    for index in range(r.randint(3, 6)):
        rows = 0 if index and r.random() < 0.1 else r.randint(30, 80) if many else r.randint(1, 12)
        arrays = []
        for name in names:
            missing = r.choice([0, 0, 0.3, 1])
            values = [None if r.random() < missing else COLUMNS[name].draw(r) for _ in range(rows)]
            if r.random() < 0.3:
                values.sort(key=lambda value: (value is None, repr(value)))
            arrays.append(COLUMNS[name].array(values))
        batches.append(pa.record_batch(arrays, schema=schema))
    return batches


def describe(batches: list[pa.RecordBatch], r: random.Random) -> tuple[Zones, pa.Table]:
    """Return the zone map of batches, after a trip through its text, and the rows, each with its zone."""
    schema = batches[0].schema
    # A file that is appended to is described however small the batches are.
    builder = ZoneBuilder.resume(schema, None, 1, rows=r.choice([1, 2, 5]))
    for batch in batches:
        builder.add(batch, compressed=r.random() < 0.3)
    zones = Zones.from_metadata(builder.finish(), schema)
    assert zones is not None
    zone_of_row = np.repeat(np.arange(len(zones)), np.asarray(zones.table["rows"]))
    return zones, pa.Table.from_batches(batches).append_column("zone", [pa.array(zone_of_row)])


def matching_rows(table: pa.Table, filter: Expression) -> dict[int, int]:
    """Return how many rows match in each zone; zones that pyarrow cannot evaluate the filter on are left out."""
    rows = table["zone"].to_pylist()
    try:
        return {**dict.fromkeys(rows, 0), **Counter(table.filter(filter)["zone"].to_pylist())}
    except pa.ArrowException:
        pass
    try:
        table[:0].filter(filter)
    except pa.ArrowException:
        return {}
    # One row's value is enough to fail, an overflow say: on other zones the filter may well match.
    matching = {}
    for zone in set(rows):
        with suppress(pa.ArrowException):
            matching[zone] = table.filter(pc.field("zone") == zone).filter(filter).num_rows
    return matching


def kept_by_pyarrow(zones: Zones, filter: Expression) -> Any:
    """Return which zones pyarrow alone would keep."""
    tree = parse(filter)
    assert tree is not None
    return zones._pruner._not_ruled_out(filter, tree, np.asarray(zones.table["rows"]) > 0)


def fuzz(seed: int, filters: int) -> Counter[str]:
    r = random.Random(seed)
    seen: Counter[str] = Counter()
    while seen["filters"] < filters:
        names = r.sample(list(COLUMNS), r.randint(1, 3))
        zones, table = describe(draw_table(r, names), r)
        draws = Filters(r, names)
        for _ in range(25):
            try:
                filter = draws.draw(r.randint(0, 3))
            except pa.ArrowException:
                continue
            verdict = zones.judge(filter)
            assert verdict.kept.shape == verdict.sure.shape == (len(zones),)
            matching = matching_rows(table, filter)
            of_zone = Counter(table["zone"].to_pylist())
            lost = [zone for zone, count in matching.items() if count and not verdict.kept[zone]]
            untrue = [zone for zone, count in matching.items() if count < of_zone[zone] and verdict.sure[zone]]
            for what, found in (("lost", lost), ("promised all of", untrue)):
                assert not found, (
                    f"seed {seed}: {filter} {what} {table.filter(pc.field('zone') == found[0]).to_pydict()}"
                )
            seen["filters"] += 1
            seen["could be pruned"] += len(zones) - sum(count > 0 for count in matching.values())
            seen["pruned"] += len(zones) - int(verdict.kept.sum())
            seen["could be sure"] += sum(0 < count == of_zone[zone] for zone, count in matching.items())
            seen["sure"] += int(verdict.sure.sum())
            tree = parse(filter)
            if tree is not None and is_plain(tree, zones.schema):
                # pyarrow would prune no more.
                spared = verdict.kept & ~kept_by_pyarrow(zones, filter)
                assert not spared.any(), (
                    f"seed {seed}: {filter} prunes, where pyarrow is asked, "
                    f"{zones.table.take(np.flatnonzero(spared)[:1]).to_pydict()}"
                )
                seen["plain"] += 1
                if is_runnable(tree, zones.schema):
                    table[:0].filter(filter)
                    seen["runnable"] += 1
    return seen


@pytest.mark.parametrize("seed", range(2))
def test_no_matching_row_is_lost(seed: int) -> None:
    seen = fuzz(seed, 500)
    assert seen["pruned"] > 0.3 * seen["could be pruned"], seen
    assert seen["sure"] > 0.1 * seen["could be sure"], seen
    assert seen["plain"] > 100, seen


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 108))
def test_no_matching_row_is_lost_to_20_000_filters(seed: int) -> None:
    fuzz(seed, 2500)


def zones_over(**columns: pa.Array) -> Zones:
    """Describe columns in zones of 10 rows."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    builder = ZoneBuilder.resume(batch.schema, None, 1, rows=10)
    builder.add(batch, compressed=False)
    zones = Zones.from_metadata(builder.finish(), batch.schema)
    assert zones is not None
    return zones


def kept(zones: Zones, filter: Expression) -> list[int]:
    return np.flatnonzero(zones.prune(filter)).tolist()


A, S = pc.field("a"), pc.field("s")
THOUSAND = zones_over(
    a=pa.array(range(10_000)),
    s=pa.array([f"{row:05}" for row in range(10_000)], pa.large_string()),
    n=pa.array([None if row < 100 or row % 3 else row for row in range(10_000)]),
    inner=pa.array([{"a": row} for row in range(10_000)]),
)


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (A == 1234, [123]),
        ((A >= 20) & (A < 40), [2, 3]),
        ((A < 10) | (A > 9995), [0, 999]),
        (~(A >= 10), [0]),
        (A.isin([5, 9999]), [0, 999]),
        ((S == "00077") & (A < 20), [0, 1]),
        (A.is_null(), []),
        (pc.field("n").is_valid() & (A < 130), [10, 11, 12]),
        (pc.field("n") == 1200, [120]),
        (pc.field("inner", "a") == 3, list(range(1000))),
        ((pc.field("inner", "a") == 3) & (A == 3), [0]),
    ],
)
def test_what_is_pruned(filter: Expression, expected: list[int]) -> None:
    assert kept(THOUSAND, filter) == expected


@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()])
@pytest.mark.parametrize("literal", [pa.string(), pa.large_string(), pa.binary()])
def test_text_is_pruned_whatever_its_layout(type: pa.DataType, literal: pa.DataType) -> None:
    text = pa.array([f"{row:05}" for row in range(20_000)]).cast(type)
    builder = ZoneBuilder(pa.schema([("s", type)]), rows=2000)
    builder.add(pa.record_batch([text], names=["s"]), compressed=False)
    zones = Zones.from_metadata(builder.finish(), pa.schema([("s", type)]))
    assert zones is not None
    found = kept(zones, pc.scalar(pa.scalar("07777", literal)) == S)
    # pyarrow casts text to bytes: a constant beforehand, a column row by row.
    casts = "string" in str(type) and literal == pa.binary()
    assert found == (list(range(10)) if casts else [3])


def test_long_sets_are_pruned_by_their_values() -> None:
    values = list(range(0, 10_000, 100))
    assert kept(THOUSAND, A.isin(values)) == list(range(0, 1000, 10))
    assert kept(THOUSAND, A.isin(pa.array(values, pa.uint16()))) == list(range(0, 1000, 10))
    assert kept(THOUSAND, A.isin(values) & (A < 150)) == [0, 10]
    assert kept(THOUSAND, A.isin([-1] * 100)) == []
    assert kept(THOUSAND, ~A.isin(values)) == list(range(1000))
    assert kept(THOUSAND, A.isin(values) | (A == 11)) == [0, 1, *range(10, 1000, 10)]
    n = pc.field("n")
    assert kept(THOUSAND, n.isin(values)) == list(range(30, 1000, 30))
    assert kept(THOUSAND, n.isin(pa.array([*values, None]))) == list(range(1000))


UNJUDGED = [
    A.cast(pa.int8(), safe=False) == 3,
    pc.field("n") > math.nan,
    A.cast(pa.float64()).isin([math.nan]),
    pc.scalar(pa.scalar(None, pa.large_string())) == pc.utf8_length(S),
    pc.field("nowhere") == 1,
]


@pytest.mark.parametrize("filter", [*UNJUDGED, pc.field(0) < 10, pc.scalar(True)])
def test_what_cannot_be_judged_keeps_every_zone(filter: Expression) -> None:
    assert THOUSAND.prune(filter).all()


@pytest.mark.parametrize("filter", UNJUDGED)
def test_beside_what_cannot_be_judged_the_rest_is(filter: Expression) -> None:
    assert kept(THOUSAND, (A < 10) & filter) == [0]
    assert THOUSAND.prune((A < 10) | filter).all()
    assert not THOUSAND.judge((A < 10) & filter).sure.any()


@pytest.mark.parametrize(
    ("filter", "sure"),
    [
        ((A >= 15) & (A < 40), [2, 3]),
        (~(A >= 20), [0, 1]),
        (A.is_valid() & (A > 9985), [999]),
        (pc.field("n").is_null(), list(range(10))),
        (pc.field("n") < 10_000, []),
        ((pc.field("n") < 10_000) | (A < 10), [0]),
        (pc.scalar(False), []),
        ((S < "1") & (A < 10), [0]),
    ],
)
def test_zones_of_which_every_row_matches(filter: Expression, sure: list[int]) -> None:
    assert np.flatnonzero(THOUSAND.judge(filter).sure).tolist() == sure


def test_names_that_look_like_functions_hide_nothing() -> None:
    name = 'a "cast('
    zones = zones_over(**{name: pa.array(range(100)), 'x"y': pa.array(["cast("] * 100)})
    assert kept(zones, (pc.field(name) == 42) & (pc.field('x"y') == "cast(")) == [4]
    assert zones.prune(pc.field(name).cast(pa.int8()) == 42).all()


def test_nulls_of_large_types_do_not_reach_pyarrow() -> None:
    # pyarrow 26 dies of a segmentation fault where it casts one; a zone of nothing but nulls would make it one.
    zones = zones_over(s=pa.nulls(30, pa.large_string()), b=pa.array([b"x"] * 30))
    assert zones.prune(pc.scalar(pa.scalar(None, pa.large_string())) == pc.utf8_length(S)).all()
    assert kept(zones, pc.field("b") == S) == []


def test_threads_may_share_a_zone_map() -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda value: kept(THOUSAND, value == A), range(0, 10_000, 37)))
    assert found == [[value // 10] for value in range(0, 10_000, 37)]


def test_units_of_time_that_pyarrow_takes_for_each_other() -> None:
    # For a timestamp[us] pyarrow 26 takes the nanoseconds for microseconds; for a dictionary of them it does not.
    absent = pa.DictionaryArray.from_arrays(pa.array([None] * 30, pa.int8()), pa.array([], pa.timestamp("us")))
    first, later = (pc.scalar(pa.scalar(10**18 + hour, pa.timestamp("ns"))) for hour in (0, 3600 * 10**9))
    filter = pc.coalesce(pc.field("x"), first) <= later
    assert len(zones_over(x=absent)) == 3
    assert pa.table({"x": absent}).filter(filter).num_rows == 30
    assert zones_over(x=absent).prune(filter).all()


@pytest.mark.parametrize(
    "filter",
    [
        pc.scalar(True),
        pc.scalar(False),
        pc.scalar(pa.scalar(None, pa.bool_())),
        pc.field("flag"),
        ~pc.field("flag"),
        pc.field("id") == pa.scalar(None, pa.int64()),
        pc.field("id").isin([1, None, 3000]),
        pc.field("id").isin([*range(5000, 9000)]),
        pc.field("x") == float("nan"),
        pc.field("x").isin([float("nan"), 7.0]),
        pc.Expression._call("greater", [pc.Expression._call("random", []), pc.scalar(2.0)]),
    ],
    ids=lambda it: str(it)[:40],
)
def test_filters_of_unusual_forms(tmp_path: Path, filter: Expression) -> None:
    numbers = [None, *range(1, 10_000)]
    table = pa.table({"id": numbers, "x": [float(number or "nan") for number in numbers]})
    table = table.append_column("flag", pa.array([number and number > 5000 for number in numbers], pa.bool_()))
    aljava.write(table, tmp_path / "it.arrow", batch_rows=1000)
    found, expected = (
        aljava.read(tmp_path / "it.arrow", filter=filter),
        pa.dataset.dataset(table).to_table(filter=filter),
    )
    assert repr(found.to_pylist()) == repr(expected.to_pylist())  # a NaN is not equal to itself


def test_an_expression_in_a_form_that_is_not_known() -> None:
    """As another version of pyarrow may pickle it: such a filter prunes nothing, and is left to pyarrow."""
    _, (pickled,) = ((pc.field("aaa", "bbb") == 1) & pc.field("ccc")).__reduce__()
    content = pickled.to_pybytes()
    assert filters._taken_apart(content) is not None
    for known, other in (
        (b"nested_field_ref", b"nested_field_rex"),
        (b"call", b"cold"),
        (b"end", b"fin"),
        (b"literal", b"figural"),
        (b"ARROW1", b"WORRA1"),
        (b"ccc", b"\xff\xff\xff"),
    ):
        assert known in content
        assert filters._taken_apart(content.replace(known, other)) is None, known


def test_many_filters_over_one_dataset(tmp_path: Path) -> None:
    """What is remembered of each set of columns is bounded."""
    table = pa.table({f"c{number}": np.arange(20_000) + number for number in range(40)})
    aljava.write(table, tmp_path / "it.arrow", batch_rows=5000)
    dataset = aljava.open(tmp_path / "it.arrow")
    for number in range(40):
        assert dataset.count_rows(filter=pc.field(f"c{number}") < 100 + number) == 100


@pytest.mark.parametrize("kind", [pa.string_view(), pa.binary_view()])
def test_dictionaries_of_views(tmp_path: Path, kind: pa.DataType) -> None:
    words = pa.array([f"word {number:05}" for number in range(100)]).cast(kind)
    column = pa.DictionaryArray.from_arrays(pa.array(np.arange(20_000) // 200), words)
    aljava.write({"word": column}, tmp_path / "it.arrow", batch_rows=5000)
    assert aljava.read(tmp_path / "it.arrow")["word"].to_pylist() == column.to_pylist()
    assert aljava.verify(tmp_path / "it.arrow").ok
