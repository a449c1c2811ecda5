"""`aljava.sql`: addresses and tables in DuckDB's SQL, and a user's connection left as it was."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pytest

import aljava
from aljava.errors import (
    AccessDenied,
    InvalidData,
    InvalidOption,
    NotFound,
    QueryError,
    TransferError,
    TruncatedFile,
    UnsupportedType,
)

TRADES = {"id": [1, 2, 3, 4], "day": ["mon", "mon", "tue", None], "price": [0.5, 1.5, 2.5, None]}


@pytest.fixture
def trades(tmp_path: Path) -> str:
    address = str(tmp_path / "trades of März.arrow")
    aljava.write(TRADES, address)
    return address


def rows(query: str, **options: Any) -> list[tuple[Any, ...]]:
    return aljava.sql(query, **options).fetchall()


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select id from '{t}' where day = 'mon' order by id", [(1,), (2,)]),
        ('select count(*) from "{t}"', [(4,)]),
        ("from '{t}' select max(price)", [(2.5,)]),
        ("select count(*) from '{t}' a join '{t}' b using (day)", [(5,)]),
        ("with c as (from '{t}') select sum(id) from c", [(10,)]),
        ("select id from '{t}' where price = (select max(price) from '{t}')", [(3,)]),
        ("select sum(id) from (select * from '{t}' union all select * from '{t}')", [(20,)]),
        ("/* '{t}x' */ select 1 from '{t}' -- '{t}y'\nlimit 1", [(1,)]),
        ("select '{t}.no' as text from '{t}' limit 1", [("{t}.no",)]),
        ("select column_name from (describe '{t}')", [("id",), ("day",), ("price",)]),
        ("create table made as from '{t}'; select count(*) from made; drop table made", []),
        ("create temp table kept as from '{t}'; select sum(id) from kept", [(10,)]),
        ("create temp view seen(a, b, c) as from '{t}'; select sum(a) from seen", [(10,)]),
        ('create or replace view "a view" as from \'{t}\'; select count(*) from "a view"', [(4,)]),
        ("prepare p as select id from '{t}' where id > $1; execute p(3)", [(4,)]),
        ("pivot '{t}' on day using count(*) group by id order by id limit 1", [(1, 1, 0)]),
    ],
)
def test_statements_over_an_address(trades: str, query: str, expected: list[Any]) -> None:
    if expected == [("{t}.no",)]:
        expected = [(f"{trades}.no",)]
    assert rows(query.format(t=trades)) == expected


def test_explain_shows_the_filter_that_is_pushed_down(trades: str) -> None:
    plan = rows(f"explain select day from '{trades}' where id > 4")[0][1]
    assert "ARROW_SCAN" in plan
    assert "id" in plan
    assert "4" in plan
    assert "FILTER" not in plan, "DuckDB would filter again"


def test_parameters_by_position_and_by_name(trades: str) -> None:
    assert rows(f"select id from '{trades}' where id > ? and day = ?", parameters=[1, "mon"]) == [(2,)]
    assert rows(f"select id from '{trades}' where id = $id", parameters={"id": 3}) == [(3,)]
    assert rows("create temp table t as select $a as a; select a, $b from t", parameters={"a": 1, "b": 2}) == [(1, 2)]


def test_files_that_duckdb_reads_are_left_to_it(tmp_path: Path, trades: str) -> None:
    for name in ("t.parquet", "t.csv", "t.json"):
        aljava.sql(f"copy (from '{trades}') to '{tmp_path / name}'")
        assert rows(f"select sum(id) from '{tmp_path / name}'") == [(10,)]
        assert "ARROW" not in rows(f"explain from '{tmp_path / name}'")[0][1]


def test_streams_and_shared_memory(tmp_path: Path) -> None:
    table = pa.table(TRADES)
    stream = tmp_path / "trades.arrows"
    with pa.ipc.new_stream(str(stream), table.schema) as writer:
        writer.write_table(table)
    aljava.write(table, "shm://sql-test/trades")
    assert rows(f"select count(*) from '{stream}' join 'shm://sql-test/trades' using (id)") == [(4,)]


@pytest.mark.parametrize("kind", ["unix", "pipe"])
def test_a_stream_that_comes_once(tmp_path: Path, kind: str) -> None:
    address = f"unix://{tmp_path}/s" if kind == "unix" else str(tmp_path / "p")
    if kind == "pipe":
        os.mkfifo(address)
    rows = {"id": list(range(1000)), "half": [number / 2 for number in range(1000)]}

    def arriving(query: str) -> list[Any]:
        sender = threading.Thread(target=aljava.write, args=(rows, address))
        sender.start()
        try:
            return aljava.sql(query.format(f"'{address}'")).fetchall()
        finally:
            sender.join()

    assert arriving("select count(*), max(half) from {} where id >= 990") == [(10, 499.5)]
    assert arriving("select id % 2 as k, count(*) from {} group by k order by k") == [(0, 500), (1, 500)]
    assert arriving("explain analyze select max(id) from {}")[-1][1].endswith(
        "a stream, read from its start to its end"
    )


def test_common_table_expressions_views_and_tables_come_before_addresses(trades: str) -> None:
    connection = duckdb.connect()
    assert rows(f'with "{trades}" as (select 42) from "{trades}"') == [(42,)]
    connection.sql(f'create table "{trades}" as select 7 as seven')
    assert rows(f"from '{trades}'", connection=connection) == [(7,)]
    connection.sql(f'drop table "{trades}"')
    connection.sql(f'create view "{trades}" as select 8 as eight')
    assert rows(f"from '{trades}'", connection=connection) == [(8,)]


# -- tables of this process --------------------------------------------------------------------------------------------


class Capsule:
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.table({"a": [1, 2]}).__arrow_c_stream__(requested_schema)


TABLES: dict[str, Callable[[], Any]] = {
    "Table": lambda: pa.table({"a": [1, 2]}),
    "RecordBatch": lambda: pa.record_batch({"a": [1, 2]}),
    "RecordBatchReader": lambda: pa.table({"a": [1, 2]}).to_reader(),
    "pyarrow Dataset": lambda: pyarrow.dataset.dataset(pa.table({"a": [1, 2]})),
    "pyarrow Scanner": lambda: pyarrow.dataset.dataset(pa.table({"a": [1, 2]})).scanner(),
    "pandas": lambda: pandas.DataFrame({"a": [1, 2]}),
    "Polars": lambda: polars.DataFrame({"a": [1, 2]}),
    "Polars, lazy": lambda: polars.LazyFrame({"a": [1, 2]}),
    "dict of arrays": lambda: {"a": np.array([1, 2])},
    "dict of lists": lambda: {"a": [1, 2]},
    "capsule": Capsule,
    "relation of ours": lambda: aljava.sql("select unnest([1, 2]) as a"),
    "relation of another database": lambda: duckdb.connect().sql("select unnest([1, 2]) as a"),
    "payload": lambda: aljava.dumps(pa.table({"a": [1, 2]})),
    "Dataset": lambda: aljava.open(aljava.dumps(pa.table({"a": [1, 2]}))),
}


@pytest.mark.parametrize("kind", list(TABLES))
def test_keyword_tables(kind: str) -> None:
    # Capitals too: SQL does not tell T from t.
    assert rows("select sum(a) from T", t=TABLES[kind]()) == [(3,)]


def test_a_keyword_may_be_an_address(trades: str) -> None:
    assert rows("select count(*) from t where id > 1", t=trades) == [(3,)]
    assert rows("select count(*) from t where id > 1", t=Path(trades)) == [(3,)]


def test_a_keyword_that_is_not_table_like() -> None:
    with pytest.raises(UnsupportedType, match="list is not table-like"):
        aljava.sql("from t", t=[1, 2])


def test_a_keyword_that_the_connection_knows_already(trades: str) -> None:
    connection = duckdb.connect()
    connection.sql("create temp table t as select 1")
    with pytest.raises(InvalidOption, match="'t' already"):
        aljava.sql("from t", connection=connection, t={"a": [1]})


def test_variables_of_the_caller_are_not_in_sight() -> None:
    hidden = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="hidden"):
        aljava.sql("from hidden")
    assert hidden.num_rows == 1


# -- a connection of the user's ----------------------------------------------------------------------------------------


def test_nothing_is_left_behind_in_a_connection(trades: str) -> None:
    connection = duckdb.connect()
    connection.sql("create temp table mine as select 1 as id")
    before = connection.sql("select table_name from information_schema.tables").fetchall()
    assert rows(f"select id from '{trades}' join mine using (id)", connection=connection) == [(1,)]
    assert rows("from t", connection=connection, t={"a": [1]}) == [(1,)]
    assert connection.sql("select table_name from information_schema.tables").fetchall() == before
    with pytest.raises(duckdb.Error):
        connection.sql(f"from '{trades}'")
    with pytest.raises(duckdb.Error):
        connection.sql("from t")


def test_a_transaction_of_the_users_is_seen(trades: str) -> None:
    connection = duckdb.connect()
    connection.begin()
    aljava.sql(f"create table t as from '{trades}'", connection=connection)
    assert rows("select count(*) from t", connection=connection) == [(4,)]
    connection.rollback()
    with pytest.raises(QueryError, match="t does not exist"):
        aljava.sql("from t", connection=connection)


def test_a_view_over_an_address_works_without_aljava_and_reads_what_is_there_now(trades: str) -> None:
    connection = duckdb.connect()
    aljava.sql(f"create view v as select id from '{trades}' where id > 1", connection=connection)
    assert connection.sql("select count(*) from v").fetchall() == [(3,)]
    aljava.write({**TRADES, "id": [0, 0, 0, 9]}, trades)
    assert connection.cursor().sql("from v").fetchall() == [(9,)]
    aljava.sql(f"create view if not exists v as from '{trades}'", connection=connection)
    assert connection.sql("from v").fetchall() == [(9,)]
    with pytest.raises(QueryError, match="'v' already"):
        aljava.sql(f"create view v as from '{trades}'", connection=connection)
    aljava.write({"id": [1]}, trades)
    with pytest.raises(duckdb.Error, match="other columns"):
        connection.sql("from v").fetchall()


def test_attach(trades: str, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "base.db")) as connection:
        assert aljava.attach(connection) is connection
        assert connection.sql(f"select count(*) from '{trades}'").fetchall() == [(4,)]
        assert connection.execute(f"select id from '{trades}' where id > ?", [3]).fetchall() == [(4,)]
        for another in (connection.cursor(), connection.duplicate()):
            assert another.execute(f"select sum(id) from '{trades}'").fetchall() == [(10,)]
        for ask in (connection.query, connection.from_query):
            assert ask(f"select max(id) from '{trades}' where id < ?", params=[3]).fetchall() == [(2,)]
        connection.execute(f"create table t as from '{trades}'; insert into t from '{trades}'")
        assert connection.table("t").count("*").fetchall() == [(8,)]
        variable = pa.table({"a": [1]})
        assert connection.sql("from variable").fetchall() == [(1,)]
        assert variable.num_rows == 1
        with pytest.raises(NotFound, match=r"missing\.arrow"):
            connection.sql("from 'missing.arrow'")
        with pytest.raises(duckdb.ParserException):
            connection.sql("selec 1")
    with pytest.raises(InvalidOption, match="int is no DuckDB connection"):
        aljava.attach(1)  # type: ignore[arg-type]


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_result_is_written_anywhere(trades: str, tmp_path: Path) -> None:
    target = str(tmp_path / "out.arrow")
    query = f"select day, count(*) as n from '{trades}' group by day order by n, day"
    assert aljava.write(aljava.sql(query), target).rows == 3
    aljava.write(aljava.sql(query), "shm://sql-test/daily")
    assert aljava.read(target).to_pylist() == aljava.read("shm://sql-test/daily").to_pylist()
    assert aljava.read(target).num_rows == 3


def test_copy_to_an_address(trades: str, tmp_path: Path) -> None:
    target = str(tmp_path / "copy.arrow")
    assert rows(f"copy (select id from '{trades}' where id > ?) to '{target}'", parameters=[2]) == [(2,)]
    assert aljava.read(target).to_pydict() == {"id": [3, 4]}
    aljava.sql(f"copy t (a) to '{target}' (compression none)", t={"a": [1], "b": [2]})
    assert aljava.read(target).to_pydict() == {"a": [1]}
    aljava.sql("copy (select 1 as one) to 'shm://sql-test/copied' (format arrow)")
    assert aljava.read("shm://sql-test/copied").to_pydict() == {"one": [1]}
    with pytest.raises(QueryError, match="'delimiter'"):
        aljava.sql(f"copy (select 1) to '{target}' (delimiter ';')")
    with pytest.raises(QueryError, match="Conversion"):
        aljava.sql(f"copy (select 'x'::int as a from range(3)) to '{target}'")
    assert aljava.read(target).to_pydict() == {"a": [1]}, "a failed COPY left something half-written"


def test_a_relation_reads_what_stood_there_when_it_was_made(trades: str) -> None:
    relation = aljava.sql(f"select sum(id) from '{trades}'")
    aljava.write({"id": [100]}, trades)
    Path(trades).unlink()
    assert relation.fetchall() == [(10,)]
    assert relation.fetchall() == [(10,)]


def test_a_relation_is_kept_while_the_store_recycles() -> None:
    address = "shm://sql-recycling/t"
    n = 200_000
    relations = []
    for i in range(8):
        aljava.write({"a": np.full(n, i)}, address)
        relations.append(aljava.sql(f"select min(a), max(a), count(*) from '{address}'"))
    for i, relation in enumerate(relations):
        assert relation.fetchall() == [(i, i, n)]


def test_many_threads(trades: str) -> None:
    wrong: list[Any] = []

    def ask(number: int) -> None:
        for _ in range(3):
            answer = rows(f"select count(*), ? from '{trades}' where id <= ?", parameters=[number, number % 5])
            if answer != [(number % 5, number)]:
                wrong.append((number, answer))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_of_connections_of_one_database(trades: str) -> None:
    database = duckdb.connect()
    answers: list[Any] = []

    def ask() -> None:
        answers.append(rows(f"select sum(id) from '{trades}'", connection=database.cursor()))

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[(10,)]] * 100


def test_a_forked_child_asks_too(trades: str) -> None:
    program = f"""
import os, aljava
query = "select sum(id) from {trades!r}"
assert aljava.sql(query).fetchall() == [(10,)]
child = os.fork()
if not child:
    os._exit(0 if aljava.sql(query).fetchall() == [(10,)] else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


def test_importing_aljava_does_not_import_duckdb() -> None:
    program = "import aljava, sys; assert 'duckdb' not in sys.modules; aljava.sql; assert 'duckdb' in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_a_syntax_error_says_where() -> None:
    with pytest.raises(QueryError, match=r'syntax error at or near "selec"(.|\n)*LINE 1: selec 1(.|\n)*\^'):
        aljava.sql("selec 1 from 'x.arrow'")


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("from 'missing.arrow'", NotFound, r"missing\.arrow does not exist"),
        ('from "neither"', NotFound, "'neither' is no table, view"),
        ("from neither", QueryError, "Table with name neither does not exist"),
        ("from 'missing.parquet'", TransferError, r"missing\.parquet"),
        ("from 'nosuch://host/x.arrow'", aljava.errors.AddressError, "nosuch://host/x.arrow"),
        ("from '{short}'", TruncatedFile, "short"),
        ("from '{text}'", InvalidData, "text"),
        ("select nosuch from '{good}'", QueryError, "nosuch"),
        ("select ? from '{good}'", QueryError, "parameters"),
        ("copy (from '{good}') to 'shm://desk/x' (batch_rows -1)", QueryError, "give NAME VALUE pairs"),
        ("copy '{good}' to", QueryError, "syntax error"),
        ("copy '{good}'", QueryError, "syntax error"),
        ("", QueryError, "no statement"),
        ("-- nothing", QueryError, "no statement"),
    ],
)
def test_bad_queries(tmp_path: Path, trades: str, query: str, error: type[Exception], message: str) -> None:
    short, text = tmp_path / "short.arrow", tmp_path / "text.arrow"
    short.write_bytes(Path(trades).read_bytes()[:-20])
    text.write_text("id;price\n1;2\n")
    with pytest.raises(error, match=message):
        aljava.sql(query.format(short=short, text=text, good=trades))


def test_an_address_that_is_damaged_in_its_midst(tmp_path: Path) -> None:
    damaged, target = tmp_path / "damaged.arrow", tmp_path / "target.arrow"
    aljava.write({"id": range(100_000)}, damaged, batch_rows=10_000)
    content = bytearray(damaged.read_bytes())
    message = content.index(b"\xff\xff\xff\xff", len(content) // 2)
    content[message + 8 : message + 72] = b"\xff" * 64  # the metadata of a record batch
    damaged.write_bytes(content)
    with pytest.raises(InvalidData, match=r"damaged\.arrow"):
        aljava.write(aljava.sql(f"from '{damaged}'"), target)
    with pytest.raises(InvalidData, match=r"damaged\.arrow"):
        aljava.sql(f"copy (from '{damaged}') to '{target}'")
    assert not target.exists()
    # An error that keeps its relation alive would keep DuckDB alive, which says so when the process ends.
    program = f"""
import aljava, contextlib
with contextlib.suppress(aljava.AljavaError):
    aljava.write(aljava.sql("from '{damaged}'"), {str(target)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True)
    assert done.stderr == ""


def test_a_query_that_fails_while_it_is_written(tmp_path: Path) -> None:
    query = "select case when range < 500000 then range else ('x' || range)::int end from range(1000000)"
    with pytest.raises(QueryError, match="Could not convert string"):
        aljava.write(aljava.sql(query), tmp_path / "target.arrow")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments() -> None:
    with pytest.raises(InvalidOption, match="query is a int"):
        aljava.sql(1)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="parameters are a str"):
        aljava.sql("select ?", parameters="x")
    with pytest.raises(QueryError, match="excess"):
        aljava.sql("select ?", parameters=[1, 2])


@pytest.mark.parametrize("kind", [pa.float16(), pa.decimal256(50, 2)])
def test_a_type_that_duckdb_lacks_names_the_column(tmp_path: Path, kind: pa.DataType) -> None:
    address = str(tmp_path / "odd.arrow")
    aljava.write(pa.table({"id": [1], "odd": pa.nulls(1, kind)}), address)
    with pytest.raises(UnsupportedType, match=r"'odd' of .*odd\.arrow is of type .*cast"):
        aljava.sql(f"from '{address}'")


def test_a_persistent_view_over_an_address_is_refused(trades: str, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / "base.db")) as connection:
        with pytest.raises(QueryError, match="cannot be stored in a database file"):
            aljava.sql(f"create view v as from '{trades}'", connection=connection)
        assert rows(f"create temp view v as from '{trades}'; select count(*) from v", connection=connection) == [(4,)]


def test_statements_that_duckdb_has_taken_apart(trades: str) -> None:
    connection = aljava.attach(duckdb.connect())
    (statement,) = connection.extract_statements("select 42")
    assert connection.execute(statement).fetchall() == [(42,)]
    connection.execute("create view answer as select 42 as it")
    assert connection.sql("from answer").fetchall() == [(42,)]


def test_what_a_connection_may_not_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    connection = duckdb.connect(config={"enable_external_access": "false"})
    with pytest.raises(AccessDenied, match="disabled"):
        aljava.sql(f"from read_csv('{tmp_path}/x.csv')", connection=connection).fetchall()


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_all_rows_of_one_file(tmp_path: Path, compression: str) -> None:
    table = pa.table({"id": range(100_000)})
    aljava.write(table, tmp_path / "it.arrow", compression=compression)
    dataset = aljava.open(tmp_path / "it.arrow")
    assert dataset.to_reader().read_all() == dataset.to_table() == table
    assert rows(f"select count(*), sum(id) from '{tmp_path}/it.arrow'") == [(100_000, 4_999_950_000)]
