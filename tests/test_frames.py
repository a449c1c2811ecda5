"""Anything table-like goes in, and its rows come out."""

import datetime
import decimal
import subprocess
import sys
import types

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aljava
from aljava import frames
from aljava.errors import InvalidOption, UnsupportedType

TABLE = pa.table({"id": [1, 2, 3], "name": ["a", None, "c"]})


class OnlyStream:
    def __arrow_c_stream__(self, requested_schema=None):
        return TABLE.__arrow_c_stream__(requested_schema)


class OnlyArray:
    def __arrow_c_array__(self, requested_schema=None):
        return TABLE.to_batches()[0].__arrow_c_array__(requested_schema)


TABLE_LIKE = {
    "table": lambda: TABLE,
    "batch": lambda: TABLE.to_batches()[0],
    "reader": lambda: TABLE.to_reader(),
    "dataset": lambda: pa.dataset.dataset(TABLE),
    "scanner": lambda: pa.dataset.dataset(TABLE).scanner(),
    "pandas": lambda: TABLE.to_pandas(),
    "polars": lambda: pl.from_arrow(TABLE),
    "lazy polars": lambda: pl.from_arrow(TABLE).lazy(),
    "relation": lambda: duckdb.connect().sql("select * from (values (1, 'a'), (2, null), (3, 'c')) as t(id, name)"),
    "result": lambda: duckdb.connect().execute("select * from (values (1, 'a'), (2, null), (3, 'c')) as t(id, name)"),
    "dict of lists": lambda: TABLE.to_pydict(),
    "dict of arrays": lambda: {"id": np.array([1, 2, 3]), "name": TABLE["name"]},
    "dict of series": lambda: {"id": pd.Series([1, 2, 3]), "name": pl.Series(["a", None, "c"])},
    "__arrow_c_stream__": OnlyStream,
    "__arrow_c_array__": OnlyArray,
}


@pytest.mark.filterwarnings("ignore:Arrow output on a DB-API result")
@pytest.mark.parametrize("kind", TABLE_LIKE)
@pytest.mark.parametrize("convert", [frames.to_table, lambda data: frames.to_reader(data).read_all()])
def test_table_like(kind, convert) -> None:
    table = convert(TABLE_LIKE[kind]())
    assert isinstance(table, pa.Table)
    assert table.to_pylist() == TABLE.to_pylist()


@pytest.mark.parametrize("data", [5, "x.arrow", None, [1, 2], np.arange(3), pa.array([1]), pa.chunked_array([[1]])])
def test_not_table_like(data) -> None:
    for convert in (frames.to_table, frames.to_reader):
        with pytest.raises(UnsupportedType, match="Aljava takes a pyarrow Table"):
            convert(data)


def test_bad_columns_are_named() -> None:
    with pytest.raises(UnsupportedType, match="column 'mixed'"):
        frames.to_table({"id": [1, 2], "mixed": [1, "x"]})
    with pytest.raises(UnsupportedType, match="mixed"):
        frames.to_table(pd.DataFrame({"mixed": [1, "x"]}))
    with pytest.raises(InvalidOption, match="'a': 2, 'b': 1"):
        frames.to_table({"a": [1, 2], "b": [1]})
    with pytest.raises(UnsupportedType, match="needs text as keys"):
        frames.to_table({1: [1]})


def test_two_dimensional_arrays_become_fixed_size_lists() -> None:
    table = frames.to_table({"embedding": np.arange(6, dtype=np.float32).reshape(3, 2)})
    assert table.schema.field(0).type == pa.list_(pa.float32(), 2)
    assert table.to_pylist()[2] == {"embedding": [4, 5]}


def test_pandas_index_and_attributes_survive() -> None:
    frame = pd.DataFrame(
        {"when": pd.date_range("2024-01-01", periods=2, tz="Europe/Lisbon"), "price": [decimal.Decimal("1.50"), None]},
        index=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"]),
    )
    frame.attrs = {"source": "test"}
    back = frames.to_table(frame).to_pandas()
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs == frame.attrs


def test_lazy_polars_is_streamed() -> None:
    reader = frames.to_reader(pl.LazyFrame({"id": range(500_000)}).filter(pl.col("id") % 2 == 0))
    assert reader.schema.names == ["id"]
    assert sum(batch.num_rows for batch in reader) == 250_000


def test_optional_libraries_are_not_imported(tmp_path) -> None:
    path = tmp_path / "x.arrow"
    aljava.write(TABLE, path)
    code = "import sys, aljava; aljava.write(aljava.read(sys.argv[1]), sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert not {"pandas", "polars", "duckdb", "matplotlib", "fsspec", "rich"} & set(done.stdout.split())


def reader_of(sizes: list[int], width: int = 1) -> pa.RecordBatchReader:
    schema = pa.schema([(f"c{i}", pa.int64()) for i in range(width)])
    start, batches = 0, []
    for size in sizes:
        values = pa.array(range(start, start + size), pa.int64())
        batches.append(pa.record_batch([values] * width, schema=schema))
        start += size
    return pa.RecordBatchReader.from_batches(schema, batches)


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 40))
def test_regroup_by_rows(sizes: list[int], rows: int) -> None:
    batches = list(frames.regroup(reader_of(sizes), rows))
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == list(range(sum(sizes)))
    assert all(batch.num_rows == rows for batch in batches[:-1])
    assert all(0 < batch.num_rows <= rows for batch in batches[-1:])


def test_regroup_gathers_small_batches_and_splits_large_ones() -> None:
    small = list(frames.regroup(reader_of([100] * 1000)))
    assert len(small) == 1
    large = reader_of([20_000_000])
    sizes = [batch.num_rows for batch in frames.regroup(large)]
    assert sum(sizes) == 20_000_000
    assert all(4 << 20 < rows * 8 <= 16 << 20 for rows in sizes)
    assert len(list(frames.regroup(reader_of([20_000_000]), split=False))) == 1


@pytest.mark.parametrize(
    "value",
    [datetime.date(2024, 2, 29), datetime.timedelta(seconds=1), decimal.Decimal("1.1"), b"x", True, [1], {"a": 1}],
)
def test_values_of_python(value) -> None:
    assert frames.to_table({"value": [value, None]}).to_pylist() == [{"value": value}, {"value": None}]


def test_a_polars_type_that_arrow_lacks() -> None:
    frame = pl.DataFrame({"id": [1], "wide": pl.Series([1], dtype=pl.Int128)})
    with pytest.raises(UnsupportedType, match="column 'wide' is Int128"):
        frames.to_table(frame)


def test_wide_tables_come_in_batches_that_have_something_of_each_column() -> None:
    wide = pa.table({f"c{number}": np.arange(1000) for number in range(4096)})
    assert [batch.num_rows for batch in frames.regroup(wide.to_reader())] == [1000]
    assert [batch.num_rows for batch in frames.regroup(wide.to_reader(max_chunksize=300))] == [300, 300, 300, 100]
    long = pa.concat_tables([wide] * 5).combine_chunks()
    assert [batch.num_rows for batch in frames.regroup(long.to_reader())] == [1667, 3333]
    little = wide.to_reader(max_chunksize=10)  # 320 kB each: gathered to an eighth of what is sensible
    assert [batch.num_rows for batch in frames.regroup(little)] == [260, 260, 260, 220]


def test_a_pandas_frame_with_two_columns_of_one_name() -> None:
    with pytest.raises(UnsupportedType, match="cannot become an Arrow table: Duplicate column names"):
        frames.to_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_a_module_that_another_thread_is_importing_has_not_all_of_its_classes(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "half", types.ModuleType("half"))
    assert not frames.is_of(5, "half", "Frame")
    assert not frames.is_of(5, "absent", "Frame")
