"""Sorting: in order, stable, every type as it was, in bounded memory; held in memory, or by DuckDB as a whole."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aljava.errors import QueryError, UnsupportedType
from aljava.jobs import sorting
from aljava.jobs.sorting import in_order
from tests import strategies


@pytest.fixture(scope="module", params=["held", "not held"], autouse=True)
def way(request) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "not held":
            patch.setattr(sorting, "HELD_BYTES", -1)
        yield request.param


def ordered(table: pa.Table, *by: str, **options) -> pa.Table:
    return pa.Table.from_batches(in_order(table.to_batches(), table.schema, by, **options), table.schema)


def _is_refused(type_: pa.DataType) -> bool:
    """Nested types with what DuckDB has not, or lays out in another way."""
    types = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return _is_refused(type_.storage_type)
    if types.is_dictionary(type_):
        return types.is_nested(type_.value_type) or _is_refused(type_.value_type)
    if types.is_run_end_encoded(type_):
        return not sorting.is_kept(type_.value_type) or types.is_nested(type_.value_type)
    return types.is_nested(type_) and not sorting.is_kept(type_)


@given(st.data(), strategies.data_types(1), st.integers(0, 60), st.booleans())
@settings(max_examples=150)
def test_every_type_comes_through_as_it_was_or_is_refused_by_name(data, type_, rows, nulls) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    keys = rng.integers(0, 7, rows)
    column = strategies.array_of(type_, rows, rng, 0.2 if nulls else 0.0)
    payload = pa.field("payload", type_, metadata={"a": "b"})
    schema = pa.schema([payload, pa.field("key", pa.int64(), False)], {"c": "d"})
    table = pa.table([column, pa.array(keys)], schema=schema)
    if _is_refused(type_):
        with pytest.raises(UnsupportedType, match="column 'payload'"):
            ordered(table, "key")
        return
    found = ordered(table, "key")
    assert found.schema.equals(schema, check_metadata=True)
    found.validate(full=True)
    values = column.to_pylist()
    # Python's sort is stable, as this one is.
    assert found["payload"].to_pylist() == [values[row] for row in sorted(range(rows), key=lambda row: keys[row])]


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("", pa.int8()), ("a", pa.int8()), ("A", pa.string())]),
        pa.struct([pa.field("a", pa.int8(), False)]),
        pa.list_(pa.field("z", pa.int8(), False), 2),
        pa.list_(pa.int8(), 0),
        pa.large_list(pa.field("z", pa.struct([pa.field("", pa.string(), False)]))),
        pa.run_end_encoded(pa.int16(), pa.timestamp("us")),
    ],
)
def test_names_and_limits_that_duckdb_does_not_know(kind) -> None:
    values = strategies.array_of(kind, 40, np.random.default_rng(1), 0.3)
    table = pa.table({"key": pa.array(range(40, 0, -1)), "payload": values})
    if _is_refused(kind):
        with pytest.raises(UnsupportedType, match="column 'payload'"):
            ordered(table, "key")
        return
    found = ordered(table, "key", batch_rows=1024)["payload"]
    assert found.type == kind
    found.validate(full=True)
    assert found.to_pylist() == values.to_pylist()[::-1]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, None, 1, 2, 1, None]),
        pa.array([3, None, 1 << 40, -(1 << 62), 1 << 40, None]),
        pa.array([3, None, (1 << 64) - 1, 0, (1 << 64) - 1, None], pa.uint64()),
        pa.array([3, None, -2, 0, -2, None], pa.date32()),
        pa.array([2.5, float("nan"), None, -0.0, 0.0, float("-inf")]),
        pa.array(["b", "", None, "ção", "a", "b\0"]),
        pa.array(["x", "y", None, "x", "a", "y"]).dictionary_encode(),
        pa.array([3, None, 1, 2, 1, 5], pa.timestamp("ns", "Europe/Lisbon")),
        pa.array([b"b", b"", None, b"\xff", b"a", b"b\0"], pa.binary_view()),
        pa.array([1, 2, None, -3, 4, 5], pa.decimal128(38, 2)),
        pa.array([True, False, None, True, False, True]),
    ],
    ids=lambda values: str(values.type),
)
def test_nulls_come_last_and_equal_rows_keep_their_order(values: pa.Array) -> None:
    table = pa.table({"key": values, "row": range(len(values))})
    found = ordered(table, "key")["row"].to_pylist()
    numbers = pa.int32() if pa.types.is_date(values.type) else pa.int64()
    plain = values.cast(numbers) if pa.types.is_temporal(values.type) else values
    keys = [(2, 0) if value is None else _key(value) for value in plain.to_pylist()]
    assert found == sorted(range(len(keys)), key=keys.__getitem__)


def _key(value):
    """Texts by their bytes, NaN behind all numbers."""
    if isinstance(value, float) and math.isnan(value):
        return 1, 0
    return 0, value.encode() if isinstance(value, str) else value


def test_several_columns() -> None:
    rng = np.random.default_rng(7)
    table = pa.table({"a": rng.integers(0, 5, 10_000), "b": rng.integers(0, 5, 10_000), "row": np.arange(10_000)})
    order = np.lexsort([table["row"], table["b"], table["a"]])
    assert ordered(table, "a", "b")["row"].to_pylist() == order.tolist()


def test_batches_have_the_rows_that_were_asked_for_whatever_came() -> None:
    table = pa.table({"a": np.arange(10_000)[::-1]})
    came = [batch for size in (1, 7, 1000) for batch in table.slice(0, 3000).to_batches(max_chunksize=size)]
    found = list(in_order(came, table.schema, ["a"], batch_rows=1500))
    assert [batch.num_rows for batch in found] == [1500] * 6


def test_what_cannot_be_sorted_is_said_before_a_row_is_read() -> None:
    table = pa.table({"a": [1], "b": [[1]], "u": pa.array([None]), "h": pa.array([1], pa.float16())})

    def never():
        raise AssertionError
        yield

    for by, kind, said in (
        ("c", QueryError, "there is no column 'c' to sort by; there are a, b, u, h"),
        ("b", UnsupportedType, "column 'b' is list<item: int64>, which cannot be sorted by"),
        ("h", UnsupportedType, "column 'h' is halffloat, which cannot be sorted by"),
    ):
        with pytest.raises(kind, match=said):
            next(in_order(never(), table.schema, [by]))


def test_an_error_of_the_rows_is_what_comes_out() -> None:
    table = pa.table({"a": range(10)})

    def failing():
        yield from table.to_batches()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(in_order(failing(), table.schema, ["a"]))


_SORTS_MUCH = """
import json, sys, numpy as np, pyarrow as pa, psutil
from aljava.jobs import sorting
from aljava.jobs.sorting import in_order
ROWS = 200_000
schema = pa.schema([("key", pa.int64())] + [(f"c{n}", pa.float64()) for n in range(9)])
def batches():
    for number in range(30):
        rng = np.random.default_rng(number)
        columns = [rng.integers(0, 2**40, ROWS), *(rng.random(ROWS) for _ in range(9))]
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=schema)
before = psutil.Process().memory_info().rss
open("/proc/self/clear_refs", "w").write("5")
rows, last, right = 0, -1, True
for batch in in_order(batches(), schema, ["key"], memory=int(sys.argv[1]) << 20, batch_rows=50_000):
    keys = np.asarray(batch["key"])
    right &= bool(keys[0] >= last and (np.diff(keys) >= 0).all())
    rows, last = rows + len(keys), keys[-1]
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"rows": rows, "right": right, "grown": peak - before}))
"""


def test_memory_is_bounded(way) -> None:
    memory, most = (96, 300) if way == "not held" else (1500, 1500)
    done = subprocess.run([sys.executable, "-c", _SORTS_MUCH, str(memory)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (found["rows"], found["right"]) == (6_000_000, True)
    # 480 MB of rows. With less memory than that, some for the batches on their way beside what DuckDB has.
    assert found["grown"] < most << 20


def test_more_rows_than_numbers_tell() -> None:
    table = pa.table({"day": [3, 1, 2] * 10, "word": ["a", "b", "c"] * 10})
    assert ordered(table, "day", most_rows=30)["day"].to_pylist() == sorted(table["day"].to_pylist())
    if sorting.HELD_BYTES < 0:  # what memory holds is not numbered
        with pytest.raises(OverflowError, match="more than 29 rows"):
            ordered(table, "day", most_rows=29)


def test_what_a_killed_sort_left_is_swept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{sorting._SCRATCH}left" / "inner").mkdir(parents=True)
    ordered(pa.table({"day": [2, 1]}), "day")
    if sorting.HELD_BYTES < 0:
        assert list(tmp_path.iterdir()) == []
