"""Datasets: what pyarrow would answer, and no more read than it takes."""

import datetime
import io
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet
import pytest

import aljava
from aljava.errors import (
    InvalidData,
    InvalidOption,
    NotFound,
    QueryError,
    SchemaMismatch,
    TruncatedFile,
    UnsupportedType,
)

ROWS = 40_000
TABLE = pa.table(
    {
        "id": pa.array(range(ROWS), pa.int64()),
        "value": pa.array([None if i % 7 == 0 else (i * 7919 % 1000) / 3 for i in range(ROWS)]),
        "day": pa.array([datetime.date(2025, 1, 1) + datetime.timedelta(i // 1000) for i in range(ROWS)]),
        "name": pa.array([f"name {i * 31 % 977}" for i in range(ROWS)]),
        "kind": pa.array(["ABCDE"[i // 8000] for i in range(ROWS)]).dictionary_encode(),
        "tags": pa.array([[i, i + 1] if i % 3 else None for i in range(ROWS)]),
        "view": pa.array([f"a text that is longer than twelve bytes {i}" for i in range(ROWS)], pa.string_view()),
    }
)

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(params=["none", "zstd", "auto"])
def path(request, tmp_path):
    where = tmp_path / "table.arrow"
    aljava.write(TABLE, where, compression=request.param, batch_rows=8000)
    return where


def expected(filter=None, columns=None) -> pa.Table:
    # pyarrow filters no views; as strings they are the same values.
    plain = TABLE.set_column(6, "view", TABLE["view"].cast(pa.string()))
    table = plain if filter is None else plain.filter(filter)
    return table if columns is None else table.select(columns)


FILTERS = [
    pc.field("id") == 12_345,
    (pc.field("id") >= 8_000) & (pc.field("value") < 100),
    pc.field("value").is_null(),
    pc.field("day") == datetime.date(2025, 1, 20),
    pc.field("kind").isin(["B", "D"]),
    ~(pc.field("id") < 39_990) | (pc.field("name") == "name 31"),
    pc.field("id") < 0,
    pc.scalar(True),
]


class TestReading:
    @pytest.mark.parametrize("filter", FILTERS, ids=str)
    def test_what_pyarrow_answers(self, path, filter) -> None:
        dataset = aljava.open(path)
        for columns in (None, ["id"], ["view", "kind", "id"], []):
            answer = dataset.to_table(columns, filter)
            answer.validate(full=True)
            wanted = expected(filter, columns)
            assert answer.num_rows == wanted.num_rows
            assert answer.to_pylist() == wanted.to_pylist()
        assert dataset.count_rows(filter) == expected(filter).num_rows
        assert dataset.head(7, filter=filter).to_pylist() == expected(filter).slice(0, 7).to_pylist()

    def test_expressions_as_columns(self, path) -> None:
        columns = {"twice": pc.field("id") * 2, "kind": pc.field("kind")}
        answer = aljava.open(path).to_table(columns, pc.field("id") < 3)
        assert answer.to_pydict() == {"twice": [0, 2, 4], "kind": ["A", "A", "A"]}
        assert aljava.read(path, columns=columns, filter=pc.field("id") < 0).num_rows == 0

    def test_what_is_known_without_reading(self, path) -> None:
        dataset = aljava.open(path)
        assert (dataset.num_rows, len(dataset), dataset.num_batches) == (ROWS, ROWS, 5)
        assert dataset.nbytes == path.stat().st_size
        assert dataset.schema.equals(TABLE.schema)
        zones = dataset.zones
        assert pc.sum(zones["rows"]).as_py() == ROWS
        assert pc.min(pc.struct_field(zones["columns"], ["id", "min"])).as_py() == 0
        assert pc.max(pc.struct_field(zones["columns"], ["id", "max"])).as_py() == ROWS - 1

    def test_rows_by_number(self, path) -> None:
        dataset = aljava.open(path)
        places = [5, 39_999, 5, 0, 8_000, 15_999]
        assert dataset.take(places).to_pylist() == expected().take(places).to_pylist()
        assert dataset.take(np.array([], np.int64), columns=["id"]).num_rows == 0
        assert dataset.take([1, 0], ["id"], pc.field("id") > 100).to_pydict() == {"id": [102, 101]}
        assert dataset.tail(3, ["id"]).to_pydict() == {"id": [ROWS - 3, ROWS - 2, ROWS - 1]}
        with pytest.raises(QueryError, match="by their numbers, not by float64: for a condition use a filter"):
            dataset.take([1.5])
        for ask in (dataset.head, dataset.tail, dataset.scanner().head):
            with pytest.raises(InvalidOption, match="num_rows is -1: it must be at least 0"):
                ask(-1)
        for wrong in ([ROWS], [-1]):
            with pytest.raises(QueryError, match="row "):
                dataset.take(wrong)

    def test_batches_of_a_size(self, path) -> None:
        batches = list(aljava.open(path).to_batches(["id"], batch_size=1000))
        assert all(batch.num_rows <= 1000 for batch in batches)
        assert pa.Table.from_batches(batches).equals(expected(columns=["id"]))

    def test_progress(self, path) -> None:
        seen = []
        aljava.read(path, progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (ROWS, ROWS)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    def test_filters_in_a_chain(self, path) -> None:
        dataset = aljava.open(path).filter(pc.field("id") < 20).filter(pc.field("id") >= 10)
        assert dataset.count_rows() == dataset.num_rows == 10
        assert dataset.to_table(["id"], pc.field("id") != 11)["id"].to_pylist() == [10, *range(12, 20)]
        assert dataset.explain().batches_read < dataset.num_batches

    def test_other_processes(self, path) -> None:
        dataset = pickle.loads(pickle.dumps(aljava.open(path).filter(pc.field("id") < 5)))
        assert dataset.to_table(["id"])["id"].to_pylist() == [0, 1, 2, 3, 4]
        with pytest.raises(InvalidOption, match="this process"):
            pickle.dumps(aljava.open(path.read_bytes()))

    def test_shown(self, path) -> None:
        dataset = aljava.open(path)
        assert "id: int64" in repr(dataset)
        assert "<td>name</td><td>string</td>" in dataset._repr_html_()

    def test_no_copy_of_raw_columns(self, tmp_path) -> None:
        path = tmp_path / "raw.arrow"
        aljava.write({"a": np.arange(1_000_000.0), "b": np.arange(1_000_000)}, path, compression="none")
        dataset = aljava.open(path)
        before = pa.total_allocated_bytes()
        numbers = dataset.to_numpy(["b"])["b"]
        frame = dataset.to_pandas()
        part = dataset.to_table(["a"])
        assert pa.total_allocated_bytes() - before < 1 << 20
        assert numbers[-1] == 999_999
        assert frame["a"].to_numpy()[7] == 7.0
        assert not frame["a"].to_numpy().flags.owndata
        assert part["a"].chunk(0).buffers()[1].address == dataset.to_table()["a"].chunk(0).buffers()[1].address


class TestPruning:
    def test_explain(self, path) -> None:
        survey = aljava.open(path).explain(pc.field("id") == 12_345)
        assert (survey.files, survey.files_read, survey.batches, survey.batches_read) == (1, 1, 5, 1)
        assert survey.zones_read == 1
        assert 0 < survey.bytes_read < survey.bytes / 3
        assert aljava.open(path).explain(pc.field("id") < 0).files_read == 0

    def test_rows_of_raw_batches_are_skipped(self, tmp_path) -> None:
        path = tmp_path / "raw.arrow"
        aljava.write({"a": np.arange(1_000_000)}, path, compression="none")
        dataset = aljava.open(path)
        assert dataset.num_batches == 1
        tasks = list(dataset._fragments[0].tasks(None, pc.field("a") == 500_000, dataset.schema))
        assert sum(batch.num_rows for task in tasks for batch in task.read()) < 10_000

    @pytest.mark.long
    def test_no_matching_row_is_ever_lost(self, tmp_path) -> None:
        """20,000 random expressions over random data, answered as pyarrow answers them on the table in memory."""
        dice = random.Random(4)
        pruned = asked = 0
        for round_ in range(40):
            table = random_table(dice)
            path = tmp_path / f"{round_}.arrow"
            compression = dice.choice(["none", "zstd", "auto"])
            aljava.write(table, path, compression=compression, batch_rows=dice.choice([None, 4500]))
            dataset = aljava.open(path)
            for number in range(500):
                filter = random_expression(dice, table)
                if number % 10 == 0:
                    survey = dataset.explain(filter)
                    pruned += survey.zones - survey.zones_read
                    asked += survey.zones
                assert dataset.count_rows(filter) == table.filter(filter).num_rows, (round_, filter)
        assert pruned > asked / 10


def random_table(dice: random.Random) -> pa.Table:
    rows = 9000
    ascending = sorted(dice.randrange(-50, 1000) for _ in range(rows))

    def holes(values):
        part = dice.choice([0, 0.1, 1.0])
        return [None if dice.random() < part else value for value in values]

    return pa.table(
        {
            "i": pa.array(holes(ascending), pa.int32()),
            "f": pa.array(
                holes(
                    [
                        dice.choice([value / 7, float("nan")]) if dice.random() < 0.01 else value / 7
                        for value in ascending
                    ]
                )
            ),
            "s": pa.array(holes([f"{value:05}" for value in ascending])),
            "d": pa.array(holes([f"{value // 50}" for value in ascending])).dictionary_encode(),
            "b": pa.array(holes([value > 300 for value in ascending])),
            "t": pa.array(holes([datetime.datetime(2025, 1, 1) + datetime.timedelta(hours=v) for v in ascending])),
        }
    )


def random_expression(dice: random.Random, table: pa.Table, depth: int = 2):
    if depth and dice.random() < 0.5:
        left, right = (random_expression(dice, table, depth - 1) for _ in "ab")
        return dice.choice([lambda: left & right, lambda: left | right, lambda: ~left])()
    name = dice.choice(table.column_names)
    column, field = table[name], pc.field(name)
    if dice.random() < 0.15:
        return field.is_null() if dice.random() < 0.5 else field.is_valid()
    values = [column[dice.randrange(len(column))].as_py() for _ in range(3)]
    known = [value for value in values if value is not None]
    if not known:
        return field.is_null()
    if dice.random() < 0.2:
        return field.isin(pa.array(known, column.type.value_type if name == "d" else column.type))
    literal = pa.scalar(known[0], pa.string() if name == "d" else column.type)
    compare = dice.choice(["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"])
    return getattr(field, compare)(literal)


class TestOtherEngines:
    def test_duckdb_pushes_down(self, path) -> None:
        # DuckDB pushes no filters into tables that have a column of views.
        aljava.write(expected(), path, batch_rows=8000)
        dataset = aljava.open(path)
        seen = watched(dataset)
        answer = duckdb.sql("select id, kind from dataset where id between 100 and 102 and name <> 'x'").fetchall()
        assert answer == [(100, "A"), (101, "A"), (102, "A")]
        assert seen
        assert set(seen[0][0]) == {"id", "kind", "name"} or set(seen[0][0]) == {"id", "kind"}
        assert "id >= 100" in str(seen[0][1])

    def test_polars_pushes_down(self, path) -> None:
        dataset = aljava.open(path)
        seen = watched(dataset)
        frame = dataset.to_polars().filter(pl.col("id").is_between(100, 102)).select("name")
        assert isinstance(frame, pl.LazyFrame)
        assert frame.collect()["name"].to_list() == TABLE["name"][100:103].to_pylist()
        assert seen
        assert set(seen[0][0]) == {"id", "name"}
        assert "id >= 100" in str(seen[0][1])
        assert pl.scan_pyarrow_dataset(dataset).select(pl.len()).collect().item() == ROWS

    def test_pyarrow_takes_it_for_a_dataset(self, path, tmp_path) -> None:
        dataset = aljava.open(path)
        assert isinstance(dataset, pa.dataset.Dataset)
        scanner = dataset.scanner(columns=["id"], filter=pc.field("id") < 3)
        assert isinstance(scanner, pa.dataset.Scanner)
        assert scanner.projected_schema.names == ["id"]
        assert scanner.dataset_schema.names == TABLE.column_names
        assert scanner.to_reader().read_all().num_rows == scanner.count_rows() == scanner.head(9).num_rows == 3
        assert scanner.take([2])["id"].to_pylist() == [2]
        assert next(scanner.scan_batches()).record_batch.num_rows == 3
        fragments = list(dataset.get_fragments(filter=pc.field("id") < 3))
        assert [fragment.count_rows() for fragment in fragments] == [ROWS]
        aljava.write(expected(columns=["id", "name"]), path)
        plain = aljava.open(path)
        assert plain.sort_by([("id", "descending")]).head(1)["id"].to_pylist() == [ROWS - 1]
        other = pa.table({"id": [1, 2], "more": ["x", "y"]})
        assert plain.join(other, "id", join_type="inner").count_rows() == 2
        times = pa.table({"id": [3], "name": [plain.take([5])["name"][0].as_py()], "seen": [7]})
        latest = plain.join_asof(times, on="id", by="name", tolerance=-5).to_table()
        assert latest.filter(pc.field("seen") == 7)["id"].to_pylist() == [5]
        assert plain.partition_expression.equals(pc.scalar(True))
        with pytest.raises(UnsupportedType, match="keeps its schema"):
            plain.replace_schema(pa.schema([("id", pa.int8())]))
        pa.parquet.write_table(dataset.to_table(["id"]), tmp_path / "x.parquet")
        assert pa.RecordBatchReader.from_stream(dataset).read_all().num_rows == ROWS


def watched(dataset) -> list:
    """The (columns, filter) of each scan of a dataset from now on."""
    seen, original = [], type(dataset).scanner

    class Watched(type(dataset)):
        def scanner(self, columns=None, filter=None, **options):
            seen.append((columns, filter))
            return original(self, columns, filter, **options)

    dataset.__class__ = Watched
    return seen


class TestManyFiles:
    @pytest.fixture
    def folder(self, tmp_path):
        for year in (2024, 2025, 2026):
            for part in range(2):
                where = tmp_path / f"year={year}" / f"zone=0{part}"
                where.mkdir(parents=True)
                rows = {"id": range(year * 100 + part * 10, year * 100 + part * 10 + 10)}
                aljava.write(pa.table({"id": pa.array(rows["id"], pa.int64())}), where / "part.arrow")
        return tmp_path

    def test_partitions_are_columns(self, folder) -> None:
        dataset = aljava.open(folder)
        theirs = pa.dataset.dataset(folder, format="feather", partitioning="hive").to_table().sort_by("id")
        assert dataset.schema.names == ["id", "year", "zone"]
        assert dataset.schema.types == [pa.int64(), pa.int64(), pa.string()]
        table = dataset.to_table()
        assert table["id"].to_pylist() == theirs["id"].to_pylist()
        assert table["year"].to_pylist() == theirs["year"].to_pylist()
        assert dataset.num_rows == 60
        assert dataset.head(11)["zone"].to_pylist() == ["00"] * 10 + ["01"]
        assert dataset.take([59, 0])["year"].to_pylist() == [2026, 2024]

    def test_files_are_skipped(self, folder) -> None:
        dataset = aljava.open(folder)
        filter = (pc.field("year") == 2025) & (pc.field("zone") == "01")
        assert dataset.explain(filter).files_read == 1
        assert dataset.to_table(["id"], filter)["id"].to_pylist() == list(range(202510, 202520))
        assert dataset.to_table(["year"], pc.field("id") == 202410).to_pydict() == {"year": [2024]}
        assert len(list(dataset.get_fragments(filter))) == 1
        assert duckdb.sql("select count(*) from dataset where year = 2026").fetchall() == [(20,)]
        assert dataset.to_polars().filter(pl.col("year") == 2026).collect().height == 20

    def test_globs_and_lists(self, folder) -> None:
        assert aljava.open(f"{folder}/year=2024/*/*.arrow").num_rows == 20
        one, two = (folder / "year=2024" / f"zone=0{part}" / "part.arrow" for part in range(2))
        assert aljava.read([two, one])["id"].to_pylist() == [*range(202410, 202420), *range(202400, 202410)]
        with pytest.raises(NotFound, match="matches no file"):
            aljava.open(f"{folder}/*.nothing")

    def test_columns_in_another_order_fit(self, tmp_path) -> None:
        aljava.write({"a": [1], "b": ["x"]}, tmp_path / "1.arrow")
        aljava.write({"b": ["y"], "a": [2]}, tmp_path / "2.arrow")
        assert aljava.read(tmp_path).to_pydict() == {"a": [1, 2], "b": ["x", "y"]}
        assert aljava.read(tmp_path, columns=["b"], filter=pc.field("a") == 2).to_pydict() == {"b": ["y"]}

    @pytest.mark.parametrize(
        ("other", "complaint"),
        [({"a": ["text"]}, "'a' is string"), ({"b": [1]}, "no column 'a'"), ({"a": [1], "c": [1]}, "a column 'c'")],
    )
    def test_columns_that_differ(self, tmp_path, other, complaint) -> None:
        aljava.write({"a": [1]}, tmp_path / "1.arrow")
        aljava.write(other, tmp_path / "2.arrow")
        with pytest.raises(SchemaMismatch, match=complaint) as caught:
            aljava.open(tmp_path)
        assert "2.arrow" in str(caught.value)

    def test_formats_mix(self, tmp_path) -> None:
        table = TABLE.select(["id", "name"])
        aljava.write(table, tmp_path / "1.arrow")
        pa.parquet.write_table(table, tmp_path / "2.parquet", row_group_size=5000)
        with pa.ipc.new_stream(tmp_path / "3.arrows", table.schema) as writer:
            writer.write_table(table)
        dataset = aljava.open(tmp_path)
        assert dataset.num_rows == 3 * ROWS
        assert dataset.to_table(["name"], pc.field("id") == 77)["name"].to_pylist() == [TABLE["name"][77].as_py()] * 3
        parquet = aljava.open(tmp_path / "2.parquet")
        assert parquet.explain(pc.field("id") == 77).batches_read == 1
        assert parquet.take([6000])["id"].to_pylist() == [6000]

    def test_more_files_than_descriptors(self, tmp_path) -> None:
        script = (
            "import resource, sys, aljava\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
            "for i in range(200): aljava.write({'a': [i]}, f'{sys.argv[1]}/{i:03}.arrow')\n"
            "print(sum(aljava.open(sys.argv[1]).to_table()['a'].to_pylist()))\n"
        )
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
        assert done.stdout.strip() == str(sum(range(200))), done.stderr


class TestErrors:
    def test_columns_and_filters(self, path) -> None:
        dataset = aljava.open(path)
        for call in (
            lambda: dataset.to_table(["nothing"]),
            lambda: dataset.to_table(filter=pc.field("nothing") == 1),
            lambda: dataset.count_rows(pc.field("id") == "text"),
            lambda: dataset.to_table("id"),
            lambda: dataset.to_table(filter="id = 1"),
            lambda: dataset.to_table(filter=pc.field("id") + 1),
            lambda: dataset.filter(pc.field("nothing") == 1),
        ):
            with pytest.raises(QueryError):
                call()
        with pytest.raises(InvalidOption):
            dataset.to_table(batch_size=0)

    def test_a_name_twice(self, tmp_path) -> None:
        table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["a", "a", "b"])
        aljava.write(table, tmp_path / "x.arrow")
        dataset = aljava.open(tmp_path / "x.arrow")
        assert dataset.to_table().equals(table)
        assert dataset.to_table(["b"]).to_pydict() == {"b": [3]}
        assert dataset.to_table(filter=pc.field("b") == 3).num_rows == 1
        for call in (lambda: dataset.to_table(["a"]), lambda: dataset.to_table(filter=pc.field("a") == 1)):
            with pytest.raises(QueryError, match="more than one column 'a'"):
                call()

    def test_truncated(self, path) -> None:
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(TruncatedFile, match=r"5 complete record batches with 40,000 rows: `aljava repair .*arrow`"):
            aljava.open(path)

    def test_damage_is_named_with_its_address(self, path) -> None:
        reader = pa.ipc.open_file(path.read_bytes())
        assert reader.num_record_batches == 5
        content = bytearray(path.read_bytes())
        start = content.index(b"\xff\xff\xff\xff", 8 + 1000)
        content[start + 8 : start + 200] = bytes(192)
        path.write_bytes(content)
        with pytest.raises(InvalidData, match=r"table\.arrow"):
            aljava.read(path, untrusted=True)

    def test_a_map_outlives_what_happens_to_the_file(self, path) -> None:
        table = aljava.read(path)
        aljava.write({"other": [1]}, path)
        assert table.equals(TABLE)

    def test_without_a_map(self, path) -> None:
        table = aljava.read(path, memory_map=False)
        os.truncate(path, 10)
        assert table.equals(TABLE)

    def test_abandoned_readers_end(self, path, no_leaks) -> None:
        for _ in range(3):
            next(aljava.open(path).to_batches(filter=pc.field("id") >= 0))
        reader = aljava.open(path).to_reader()
        reader.read_next_batch()
        reader.close()


class TestMemory:
    def test_a_dataset_larger_than_memory_streams(self, tmp_path) -> None:
        path = tmp_path / "large.arrow"
        script = (
            "import sys, numpy as np, pyarrow as pa, aljava\n"
            # Of this process alone: ru_maxrss begins at what the parent had at its fork.
            "def peak():\n"
            "    return next(int(line.split()[1]) for line in open('/proc/self/status') if 'VmHWM' in line)\n"
            "def batches():\n"
            "    for i in range(96):\n"
            "        yield pa.record_batch({'a': np.full(1 << 20, i), 'b': np.arange(1 << 20) // 64})\n"
            "first = next(batches())\n"
            "data = pa.RecordBatchReader.from_batches(first.schema, batches())\n"
            "aljava.write(data, sys.argv[1], compression='zstd')\n"
            "before = peak()\n"
            "total = sum(batch.num_rows for batch in aljava.open(sys.argv[1]).to_batches())\n"
            "after = peak()\n"
            "print(total, before, after)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
        total, before, after = map(int, done.stdout.split())
        assert total == 96 << 20
        # 1.6 GB of data; the process is far from holding it, while writing and while reading.
        assert before < 500_000
        assert after < 500_000


def test_a_stream_that_cannot_seek(tmp_path) -> None:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=9000)
    dataset = aljava.open(buffer.getvalue())
    assert dataset.num_rows == ROWS
    assert dataset.num_batches == 5
    assert dataset.to_table(["id"], pc.field("id") < 5)["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert dataset.tail(2, ["id"])["id"].to_pylist() == [ROWS - 2, ROWS - 1]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_zones_decide_is_what_a_scan_finds(tmp_path: Path, compression: str) -> None:
    rows = 60_000
    table = pa.table(
        {
            "id": pa.array(range(rows)),
            "gaps": pa.array([None if row // 9000 == 2 or row % 5000 == 0 else row / 2 for row in range(rows)]),
            "word": [f"{row // 7000:03}" for row in range(rows)],
        }
    )
    for day in range(3):
        path = tmp_path / f"day={day}" / "part.arrow"
        path.parent.mkdir()
        aljava.write(table.slice(day * 20_000, 20_000), path, compression=compression, batch_rows=9_000)
    dataset = aljava.open(tmp_path)
    whole = dataset.to_table()
    r = random.Random(3)
    for _ in range(150):
        low, high = sorted(r.choices(range(-10, rows + 10), k=2))
        conditions = [
            (pc.field("id") >= low) & (pc.field("id") < high),
            pc.field("gaps") < high,
            pc.field("gaps").is_null(),
            pc.field("word") >= f"{low // 7000:03}",
            pc.field("day") == r.randrange(4),
            pc.field("id").isin([low, high]),
            pc.field("id") - pc.field("id") / 3 * 3 == 1,
        ]
        one, other = r.sample(conditions, 2)
        filter = r.choice([one, one & other, one | other, one & ~other])
        expected = whole.filter(filter)
        assert dataset.count_rows(filter) == expected.num_rows, filter
        assert dataset.to_table(filter=filter).equals(expected), filter
    assert dataset.count_rows(pc.field("id") >= 0) == rows


def test_zones_that_match_are_counted_without_a_look_at_the_data(tmp_path: Path) -> None:
    path = tmp_path / "t.arrow"
    aljava.write({"id": list(range(50_000))}, path, compression="none", checksums=False)
    dataset = aljava.open(path)
    block = aljava.ipc.open_file(path).footer.batches[0]
    with open(path, "r+b") as file:
        file.seek(block.offset + block.metadata_length)
        file.write(bytes(block.body_length))
    assert dataset.count_rows(pc.field("id") >= 0) == 50_000
    assert dataset.count_rows(pc.field("id") >= 8192) == 50_000 - 8192


def test_a_raw_file_of_many_batches_is_read_as_it_was_written(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int64()), ("word", pa.string())], {"k": "v"})
    batches = [
        pa.record_batch({"id": [number] * (number % 3), "word": [str(number)] * (number % 3)}, schema=schema)
        for number in range(300)
    ]
    with pa.ipc.new_file(tmp_path / "t.arrow", schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    expected = pa.Table.from_batches(batches, schema)
    for dataset in (aljava.open(tmp_path / "t.arrow"), aljava.open(tmp_path / "t.arrow", untrusted=True)):
        assert dataset.to_table().equals(expected, check_metadata=True)
        assert dataset.to_table(["word", "id"]).equals(expected.select(["word", "id"]))
        assert pa.Table.from_batches(dataset.to_batches(), schema).equals(expected)
        assert dataset.count_rows(pc.field("id") < 100) == 99
        assert (dataset.num_rows, dataset.num_batches) == (300, 300)
