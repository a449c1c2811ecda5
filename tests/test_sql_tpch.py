"""All 22 TPC-H queries over Aljava's files, over the store and over a mix give DuckDB's own answers on Parquet."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import aljava
from aljava.store import Store
from tests.tpch import QUERIES, TABLES

pytestmark = pytest.mark.long

SCALE = 0.1
STORE = "sql-tpch"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    """The addresses of the eight tables, by the kind of place."""
    program = shutil.which("tpchgen-cli", path=os.path.dirname(sys.executable)) or shutil.which("tpchgen-cli")
    if program is None:
        pytest.skip("no TPC-H data without its generator: pip install tpchgen-cli")
    folder = tmp_path_factory.mktemp("tpch")
    subprocess.run([program, "parquet", "-s", str(SCALE), "--output-dir", folder], check=True, capture_output=True)
    found: dict[str, dict[str, str]] = {"parquet": {name: f"{folder}/{name}.parquet" for name in TABLES}}
    for compression in ("none", "zstd", "auto"):
        found[compression] = {name: f"{folder}/{name}-{compression}.arrow" for name in TABLES}
    found["store"] = {name: f"shm://{STORE}/{name}" for name in TABLES}
    for kind, addresses in found.items():
        for name, address in addresses.items():
            if kind != "parquet":
                compression = kind if kind != "store" else "none"
                aljava.write(aljava.open(found["parquet"][name]), address, compression=compression)
    kinds = ["none", "store", "parquet", "zstd", "auto"]
    found["a mix"] = {name: found[kinds[number % 5]][name] for number, name in enumerate(TABLES)}
    yield found
    Store(STORE).destroy()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def answers(places: dict[str, dict[str, str]]) -> dict[int, list[tuple[Any, ...]]]:
    return {number: aljava.sql(query.format(**places["parquet"])).fetchall() for number, query in QUERIES.items()}


@pytest.mark.parametrize("kind", ["none", "zstd", "auto", "store", "a mix"])
def test_the_22_queries(kind: str, places: Any, answers: Any) -> None:
    for number, query in QUERIES.items():
        rows = aljava.sql(query.format(**places[kind])).fetchall()
        assert len(rows) == len(answers[number]), f"query {number}"
        assert rows, f"query {number} has no rows: it would show nothing"
        for row, expected in zip(rows, answers[number], strict=True):
            assert all(map(_same, row, expected)), f"query {number}: {row} and not {expected}"


def _same(value: Any, expected: Any) -> bool:
    # Sums of floats depend on the order of the rows, which threads decide; everything else is exact.
    if isinstance(value, float):
        return math.isclose(value, expected, rel_tol=1e-9)
    assert not isinstance(value, Decimal) or value.as_tuple().exponent == expected.as_tuple().exponent
    return bool(value == expected)


def test_the_view_of_query_15(places: Any, answers: Any) -> None:
    address = places["auto"]
    view, rest = QUERIES[15].format(**address).split(")\nselect s_suppkey", 1)
    script = f"{view.replace('with revenue as (', 'create temp view revenue as ')};\nselect s_suppkey{rest}"
    assert aljava.sql(script).fetchall() == answers[15]


def test_the_view_lives_no_longer_than_its_connection(tmp_path: Path) -> None:
    with pytest.raises(aljava.AljavaError, match="revenue"):
        aljava.sql("from revenue")
