"""What a query over an address reads: columns, zones and rows that it needs, and never a row less."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aljava
from aljava.scan import AddressTable

ROWS = 400_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    numbers = np.arange(ROWS)
    values = numbers / 10
    values[[7, 123_456]] = np.nan
    return pa.table(
        {
            "id": numbers,
            "value": pa.array(values, mask=numbers % 1000 == 3),
            "day": pa.array(numbers // 1000, pa.int32()).cast(pa.date32()),
            "name": [f"n{i // 5000:05}" for i in range(ROWS)],
            "shuffled": np.random.default_rng(0).permutation(ROWS),
        }
    )


@pytest.fixture(scope="module", params=["none", "zstd", "auto"])
def address(request: Any, table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("pushdown") / f"{request.param}.arrow")
    aljava.write(table, path, compression=request.param, batch_rows=50_000)
    return path


def read(address: str, where: str) -> tuple[int, int, str]:
    """Zones read, zones in all, and the whole line that EXPLAIN ANALYZE adds for an address."""
    (line,) = [
        text
        for key, text in aljava.sql(f"explain analyze select sum(id) from '{address}' where {where}").fetchall()
        if key == "address"
    ]
    words = line.removeprefix(f"{address}: ").split()
    return int(words[0]), int(words[2]), line


@pytest.mark.parametrize(
    ("where", "most"),
    [
        ("id between 100000 and 100999", 2),
        ("id = 5", 1),
        ("id in (5, 399999)", 2),
        ("value < 100", 3),
        ("value > 39990", 5),
        ("value between 5000 and 5001", 5),
        ("day = date '1970-02-01'", 2),
        ("name = 'n00003'", 2),
        ("name >= 'n00079'", 3),
        ("id < 0", 0),
    ],
)
def test_only_the_zones_that_a_range_needs_are_read(address: str, where: str, most: int) -> None:
    zones, in_all, line = read(address, where)
    assert zones <= most, line
    assert in_all >= 8
    assert "1 of 5 columns (id)" in line


@pytest.mark.parametrize("where", ["shuffled = 200000", "id % 1000 = 7", "name like '%042'", "id::varchar = '17'"])
def test_what_zones_cannot_serve_reads_all_and_finds_the_same(address: str, table: pa.Table, where: str) -> None:
    zones, in_all, _ = read(address, where)
    assert zones == in_all
    query = "select count(*), sum(id) from {} where " + where
    assert aljava.sql(query.format(f"'{address}'")).fetchall() == aljava.sql(query.format("t"), t=table).fetchall()


COLUMNS = {
    "id": st.integers(-5, ROWS + 5).map(str),
    "value": st.sampled_from(["-1", "0", "12.5", "0.7", "12345.6", "39999.9", "'nan'::double", "'infinity'::double"]),
    "day": st.integers(-5, 405).map(lambda day: f"(date '1970-01-01' + {day})"),
    "name": st.integers(0, 90).map(lambda number: f"'n{number:05}'"),
    "shuffled": st.integers(0, ROWS).map(str),
}


@st.composite
def comparisons(draw: Any) -> str:
    name = draw(st.sampled_from(list(COLUMNS)))
    values = COLUMNS[name]
    match draw(st.integers(0, 4)):
        case 0:
            return f"{name} between {draw(values)} and {draw(values)}"
        case 1:
            return f"{name} in ({', '.join(draw(st.lists(values, min_size=1, max_size=4)))})"
        case 2:
            return f"{name} is {draw(st.sampled_from(['', 'not ']))}null"
        case _:
            return f"{name} {draw(st.sampled_from(['=', '<>', '<', '<=', '>', '>=']))} {draw(values)}"


conditions = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"(not {text})"),
    ),
    max_leaves=4,
)


@pytest.mark.long
@settings(max_examples=120, deadline=None)
@given(where=conditions)
def test_no_condition_loses_a_row(where: str, table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "conditions.arrow"
    if not path.exists():
        aljava.write(table, path, compression="none")
    query = "select count(*), sum(id), sum(shuffled) from {} where " + where
    assert aljava.sql(query.format(f"'{path}'")).fetchall() == aljava.sql(query.format("t"), t=table).fetchall(), where


def test_duckdb_learns_how_many_rows_there_are(address: str) -> None:
    # Without it, it joins the two large tables of this query first: a product of all their rows.
    plan = aljava.sql(f"explain from '{address}'").fetchall()[0][1]
    assert f"{ROWS:,} rows" in plan
    table = AddressTable(address)
    assert table.rows() == ROWS


def test_a_folder_of_partitions(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        folder = tmp_path / f"day={day}"
        folder.mkdir()
        aljava.write({"id": np.arange(1000) + 1000 * day}, folder / "part.arrow")
    query = f"select count(*), min(id) from '{tmp_path}' where day = 2"
    assert aljava.sql(query).fetchall() == [(1000, 2000)]
    line = aljava.sql(f"explain analyze {query}").fetchall()[-1][1]
    assert "1 of 3 files" in line
    assert aljava.sql(f"select count(*) from '{tmp_path}/*/*.arrow'").fetchall() == [(3000,)]


def test_a_parquet_file_under_another_name_keeps_its_nan(tmp_path: Path) -> None:
    # The statistics of Parquet leave NaN out, which DuckDB holds to be greater than every number.
    path = tmp_path / "values.data"
    duckdb.sql("select unnest([1.0, 2.0, 'nan'::double]) as value").write_parquet(str(path) + ".parquet")
    (tmp_path / "values.data.parquet").rename(path)
    assert aljava.sql(f"select count(*) from '{path}' where value > 5").fetchall() == [(1,)]


TYPES = [
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT",
    "FLOAT", "DOUBLE", "DECIMAL(4,1)", "DECIMAL(9,2)", "DECIMAL(18,3)", "DECIMAL(38,4)", "VARCHAR", "BLOB", "DATE",
    "TIME", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ", "INTERVAL", "UUID", "JSON",
    "INTEGER[]", "VARCHAR[]", "FLOAT[3]", "STRUCT(a INTEGER, b VARCHAR)", "MAP(VARCHAR, INTEGER)",
    "UNION(n INTEGER, s VARCHAR)", "ENUM('a', 'b')", "INTEGER[][]", "STRUCT(a STRUCT(b INTEGER[]))",
]  # fmt: skip
VALUES = {
    "BOOLEAN": "true", "VARCHAR": "'olá'", "BLOB": "'\\x00\\xff'::blob", "DATE": "date '2024-02-29'",
    "TIME": "time '12:34:56.789'", "INTERVAL": "interval 3 days", "UUID": "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'",
    "JSON": "'{\"a\": 1}'", "INTEGER[]": "[1, null, 3]", "VARCHAR[]": "['a', '']", "FLOAT[3]": "[1, 2, 3]",
    "STRUCT(a INTEGER, b VARCHAR)": "{'a': 1, 'b': 'x'}", "MAP(VARCHAR, INTEGER)": "map {'k': 1}",
    "UNION(n INTEGER, s VARCHAR)": "union_value(s := 'x')", "ENUM('a', 'b')": "'b'", "INTEGER[][]": "[[1], []]",
    "STRUCT(a STRUCT(b INTEGER[]))": "{'a': {'b': [1]}}",
}  # fmt: skip


#: Types for which DuckDB writes another one into Arrow; `set arrow_lossless_conversion = true` keeps them.
BECOMES = {"UUID": "VARCHAR", "JSON": "VARCHAR", "HUGEINT": "DECIMAL(38,0)", "ENUM('a', 'b')": "VARCHAR"}


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_goes_both_ways(tmp_path: Path, kind: str) -> None:
    value = VALUES.get(kind) or ("timestamp '2024-02-29 12:34:56'" if kind.startswith("TIMESTAMP") else "42")
    query = f"select ({value})::{kind} as v union all select null::{kind} union all select ({value})::{kind}"
    target = str(tmp_path / "types.arrow")
    aljava.write(aljava.sql(query), target)
    back = aljava.sql(f"select typeof(v), v::varchar from '{target}'").fetchall()
    (name,) = duckdb.sql(f"select typeof(null::{kind})").fetchall()[0]
    texts = duckdb.sql(f"select v::varchar from ({query})").fetchall()
    assert back == [(BECOMES.get(kind, name), text) for (text,) in texts]
