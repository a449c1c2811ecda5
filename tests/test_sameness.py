"""Two tables are the same, or not: told to the last value, wherever it stands."""

import decimal
import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aljava.sameness import PIECE_ROWS, checksum, difference

NAN = float("nan")

# A column of each layout, with a null, and a value to put in place of its second one.
COLUMNS: list[tuple[pa.DataType, list[Any], Any]] = [
    (pa.int64(), [1, 2, None, 4], 9),
    (pa.uint8(), [1, 2, None, 4], 9),
    (pa.float64(), [1.5, NAN, None, 4.0], 0.0),
    (pa.float32(), [1.5, NAN, None, 4.0], 0.0),
    (pa.bool_(), [True, False, None, True], True),
    (pa.decimal128(9, 2), [decimal.Decimal("1.25"), decimal.Decimal(0), None, decimal.Decimal(3)], decimal.Decimal(7)),
    (pa.date32(), [1, 2, None, 4], 9),
    (pa.timestamp("us", "UTC"), [1, 2, None, 4], 9),
    (pa.string(), ["a", "", None, "olá"], "b"),
    (pa.large_string(), ["a", "", None, "olá"], "b"),
    (pa.string_view(), ["a", "a text that is longer than twelve bytes", None, "b"], "c"),
    (pa.binary(), [b"a", b"", None, b"\0"], b"\0"),
    (pa.binary_view(), [b"a", b"", None, b"\0"], b"\0"),
    (pa.binary(2), [b"ab", b"cd", None, b"ef"], b"ce"),
    (pa.dictionary(pa.int8(), pa.string()), ["a", "b", None, "a"], "a"),
    (pa.list_(pa.float64()), [[1.0, NAN], [], None, [None]], [NAN]),
    (pa.large_list(pa.string()), [["a"], [], None, [None]], [""]),
    (pa.list_(pa.float32(), 2), [[1.0, NAN], [0.0, 1.0], None, [2.0, None]], [NAN, 1.0]),
    (pa.list_view(pa.int64()), [[1], [], None, [None]], [0]),
    (
        pa.struct([("x", pa.float64()), ("y", pa.string())]),
        [{"x": NAN, "y": "a"}, {"x": None, "y": "b"}, None, {"x": 1.0, "y": None}],
        {"x": NAN, "y": "b"},
    ),
    (pa.map_(pa.string(), pa.float64()), [[("a", NAN)], [], None, [("b", None)]], [("a", 1.0)]),
    (pa.run_end_encoded(pa.int32(), pa.float64()), [NAN, 1.0, None, 1.0], 2.0),
]


@pytest.mark.parametrize(("kind", "values", "other"), COLUMNS, ids=[str(kind) for kind, _, _ in COLUMNS])
def test_a_table_is_the_same_as_itself_however_it_is_chunked(kind: pa.DataType, values: list[Any], other: Any) -> None:
    whole = pa.table({"it": pa.array(values * 3, kind)})
    parts = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 6), whole.slice(7)])
    assert difference(whole, parts) is None
    assert checksum(whole) == checksum(parts)


@pytest.mark.parametrize(("kind", "values", "other"), COLUMNS, ids=[str(kind) for kind, _, _ in COLUMNS])
@pytest.mark.parametrize("replacement", ["another value", "a null"])
def test_one_changed_value_is_found(kind: pa.DataType, values: list[Any], other: Any, replacement: str) -> None:
    changed = [values[0], other if replacement == "another value" else None, *values[2:]]
    before, after = (pa.table({"it": pa.array(it * 3, kind)}).slice(4) for it in (values, changed))
    assert difference(before, after) == "column 'it' differs in row 1"
    assert checksum(before) != checksum(after)


def test_what_lies_beneath_a_null_does_not_matter() -> None:
    validity = pa.py_buffer(bytes([0b101]))
    arrays = [
        pa.Array.from_buffers(pa.int32(), 3, [validity, pa.array(values, pa.int32()).buffers()[1]])
        for values in ([1, 2, 3], [1, 99, 3])
    ]
    before, after = (pa.table({"it": array}) for array in arrays)
    assert difference(before, after) is None
    assert checksum(before) == checksum(after)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.rename_columns(["a", "c"]), "columns a, c came back, not a, b"),
        (lambda table: table.cast(pa.schema([("a", pa.int32()), ("b", pa.string())])), "was int64 and came back as"),
        (lambda table: table.replace_schema_metadata({"k": "v"}), "schema's metadata"),
        (
            lambda table: table.cast(pa.schema([pa.field("a", pa.int64(), metadata={"k": "v"}), ("b", pa.string())])),
            "metadata of column 'a' changed",
        ),
        (lambda table: table.slice(0, 1), "1 rows came back of 2"),
    ],
)
def test_a_changed_schema_and_missing_rows_are_found(change: Any, reason: str) -> None:
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    found = difference(table, change(table))
    assert found is not None
    assert reason in found


def test_a_value_deep_in_a_large_column_is_found() -> None:
    values = [math.nan] * (2 * PIECE_ROWS + 10)
    before = pa.table({"it": values})
    values[PIECE_ROWS + 7] = 1.0
    assert difference(before, pa.table({"it": values})) == f"column 'it' differs in row {PIECE_ROWS + 7:,}"


@given(st.lists(st.floats() | st.none(), max_size=50), st.integers(0, 49))
def test_floats_are_compared_bit_by_bit(values: list[float | None], at: int) -> None:
    before = pa.table({"it": pa.array(values, pa.float64())})
    assert difference(before, pa.table({"it": pa.array(list(values), pa.float64())})) is None
    if at < len(values) and values[at] is not None:
        values[at] = None
        assert difference(before, pa.table({"it": pa.array(values, pa.float64())})) is not None
