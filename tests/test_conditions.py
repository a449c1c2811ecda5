"""Conditions as text: what they mean, and what they cannot say."""

import contextlib
import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aljava.conditions import condition
from aljava.errors import QueryError

TABLE = pa.table(
    {
        "id": [1, 2, 3, None],
        "price": [0.5, 1.5, 2.5, 3.5],
        "day": pa.array([datetime.date(2024, 2, day) for day in (27, 28, 29)] + [None]),
        "name": ["a", "it's", "b", "c"],
        "ok": [True, False, True, None],
        "kind": pa.array(["x", "y", "x", "y"]).dictionary_encode(),
        "odd name": [1, 2, 3, 4],
    }
)


@pytest.mark.parametrize(
    ("text", "prices"),
    [
        ("id = 2", [1.5]),
        ("id <> 2", [0.5, 2.5]),
        ("price >= 1.5 and price < 3.5", [1.5, 2.5]),
        ("price < 1 or price > 3", [0.5, 3.5]),
        ("not (price < 1 or price > 3)", [1.5, 2.5]),
        ("id is null", [3.5]),
        ("id is not null and ok", [0.5, 2.5]),
        ("day = '2024-02-29'", [2.5]),
        ("day between '2024-02-28' and '2024-02-29'", [1.5, 2.5]),
        ("name = 'it''s'", [1.5]),
        ("name in ('a', 'b')", [0.5, 2.5]),
        ("name not in ('a', 'b')", [1.5, 3.5]),
        ("ok = false", [1.5]),
        ("kind = 'x'", [0.5, 2.5]),
        ('"odd name" > 3', [3.5]),
        ("price = 5e-1 or price=+2.5", [0.5, 2.5]),
        ("price < 1 or price < 2 and id = 9", [0.5]),
        ("NOT ok IS NULL AND Price IS NULL".replace("Price", "price"), []),
    ],
)
def test_meaning(text: str, prices: list[float]) -> None:
    assert TABLE.filter(condition(text, TABLE.schema))["price"].to_pylist() == prices


@pytest.mark.parametrize(
    "text",
    ["", "id = ", "id 3", "nothing = 1", "id = id", "(id = 1", "id = 1)", "id = 'x'", "day = '2024-13-01'",
     "id in ()", "id in (1,", "id is 3", "id not 3", "1 = 1", "id = 1; drop", "(" * 1000, "id = '", "x" * 20_000],
)  # fmt: skip
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(QueryError):
        condition(text, TABLE.schema)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    with contextlib.suppress(QueryError):
        condition(text, TABLE.schema)
