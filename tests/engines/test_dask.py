"""`Dataset.to_dask`, on a real cluster of two worker processes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet
import pytest
from dask.dataframe.utils import assert_eq
from distributed import Client, LocalCluster

import aljava
from aljava.engines.portions import Reader
from aljava.errors import InvalidData, InvalidOption, MissingDependency, NotFound, QueryError

ROWS = 40_000


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def trades() -> pa.Table:
    rng = np.random.default_rng(7)
    return pa.table(
        {
            "id": np.arange(ROWS),
            "price": rng.random(ROWS),
            "some": pa.array([None if row % 7 == 0 else row for row in range(ROWS)], pa.int64()),
            "flag": pa.array([None, True] * (ROWS // 2)),
            "side": ["buy", "sell"] * (ROWS // 2),
            "desk": pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode(),
            "at": pa.array(np.arange(ROWS), pa.timestamp("us")),
            "tags": [["x", "y"], []] * (ROWS // 2),
            "day": pa.array(np.arange(ROWS, dtype=np.int32), pa.date32()),
        }
    )


def written(path: Path, table: Any = None, **options: Any) -> aljava.Dataset:
    aljava.write(trades() if table is None else table, path, batch_rows=5000, **options)
    return aljava.open(path)


def test_every_row_comes_back(client: Client, tmp_path: Path) -> None:
    frame = written(tmp_path / "trades.arrow").to_dask(partition_bytes=1)
    assert isinstance(frame, dd.DataFrame)
    assert frame.npartitions == 8
    whole = frame.compute().reset_index(drop=True)
    assert pa.Table.from_pandas(whole, schema=trades().schema, preserve_index=False).equals(trades())


def test_all_partitions_have_the_types_that_dask_was_told(client: Client, tmp_path: Path) -> None:
    frame = written(tmp_path / "trades.arrow").to_dask(partition_bytes=1)
    told = frame.dtypes.drop("desk")
    for part in frame.to_delayed():
        assert part.compute().dtypes.drop("desk").equals(told)
    assert told["id"] == np.int64
    assert told["some"] == pd.Int64Dtype()
    assert told["flag"] == pd.BooleanDtype()
    assert told["tags"] == pd.ArrowDtype(pa.list_(pa.string()))


@pytest.mark.parametrize("kind", ["stream", "parquet", "store", "feather", "bare"])
def test_types_without_statistics(client: Client, tmp_path: Path, kind: str) -> None:
    table = trades().select(["id", "some"])
    path = str(tmp_path / "trades")
    if kind == "stream":
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 5000)
    elif kind == "parquet":
        pa.parquet.write_table(table, path, row_group_size=5000)
    elif kind == "store":
        path = "shm://engines-dask/trades"
        aljava.write(table, path)
    elif kind == "feather":
        pa.feather.write_feather(table, path, version=1)
    else:
        aljava.write(table, path, statistics=False)
    try:
        frame = aljava.open(path).to_dask(partition_bytes=1)
        known = kind not in ("stream", "feather")  # there nobody knows before it has been read
        assert frame.dtypes.to_dict() == {"id": np.int64 if known else pd.Int64Dtype(), "some": pd.Int64Dtype()}
        assert_eq(
            frame.sum(),
            pd.Series({"id": ROWS * (ROWS - 1) // 2, "some": pc.sum(table["some"]).as_py()}),
            check_dtype=False,
        )
        assert all(part.compute().dtypes.equals(frame.dtypes) for part in frame.to_delayed())
    finally:
        if kind == "store":
            aljava.Store("engines-dask").destroy()


def test_pruned_before_any_task_is_made(client: Client, tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        aljava.write({"id": np.arange(ROWS) + day * ROWS}, tmp_path / f"day={day}" / "x.arrow", batch_rows=5000)
    dataset = aljava.open(tmp_path)
    assert dataset.to_dask(partition_bytes=1).npartitions == 16
    assert dataset.to_dask(filter=pc.field("day") == 2, partition_bytes=1).npartitions == 8
    wanted = (pc.field("day") == 2) & (pc.field("id") < 2 * ROWS + 7000)
    frame = dataset.to_dask(filter=wanted, partition_bytes=1)
    assert frame.npartitions == 2
    assert frame.compute().to_dict("list") == dataset.to_table(filter=wanted).to_pydict()
    assert dataset.filter(wanted).to_dask(partition_bytes=1).npartitions == 2


def test_small_files_share_a_partition(client: Client, tmp_path: Path) -> None:
    for number in range(20):
        aljava.write({"id": [number]}, tmp_path / f"{number:02}.arrow")
    frame = aljava.open(tmp_path).to_dask()
    assert frame.npartitions == 1
    assert frame.id.compute().tolist() == list(range(20))


def test_only_the_columns_that_a_computation_needs_are_read(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    whole = Reader.table
    monkeypatch.setattr(
        Reader, "table", lambda self, portion, columns: read.append(columns) or whole(self, portion, columns)
    )
    frame = written(tmp_path / "trades.arrow").to_dask()
    with dask.config.set(scheduler="synchronous"):
        assert frame.price.sum().compute() == pytest.approx(pc.sum(trades()["price"]).as_py())
    assert read == [["price"]]


def test_divisions_from_zones(client: Client, tmp_path: Path) -> None:
    dataset = written(tmp_path / "trades.arrow")
    frame = dataset.to_dask(["price"], index="at", partition_bytes=1)
    assert frame.known_divisions
    assert frame.divisions[1] == pd.Timestamp(5000, unit="us")
    assert_eq(frame, trades().to_pandas().set_index("at")[["price"]])
    some = frame.loc[pd.Timestamp(7000, unit="us") : pd.Timestamp(7010, unit="us")]
    assert some.compute().price.tolist() == trades()["price"][7000:7011].to_pylist()
    assert some.optimize().npartitions == 1
    for unsorted in ("price", "some", "tags"):
        assert not dataset.to_dask(["id"], index=unsorted, partition_bytes=1).known_divisions


def test_files_in_another_order_than_their_rows(client: Client, tmp_path: Path) -> None:
    for name, low in (("a", 2000), ("b", 0), ("c", 1000)):
        aljava.write({"id": np.arange(low + 999, low - 1, -1), "x": np.arange(1000)}, tmp_path / f"{name}.arrow")
    aljava.write({"id": np.arange(5000, 10000), "x": np.arange(5000)}, tmp_path / "d.arrow")
    frame = aljava.open(tmp_path).to_dask(index="id", partition_bytes=1)
    whole = frame.compute()
    assert whole.index.is_monotonic_increasing or not frame.known_divisions
    assert len(whole) == 8000


def test_the_index_that_pandas_wrote(client: Client, tmp_path: Path) -> None:
    one = pd.DataFrame({"x": np.arange(9000)}, index=np.arange(9000) * 2)
    named = one.rename_axis("when")
    for number, written_frame in enumerate((one, named)):
        aljava.write(written_frame, tmp_path / f"{number}.arrow", batch_rows=4500)
        frame = aljava.open(tmp_path / f"{number}.arrow").to_dask(partition_bytes=1)
        assert frame.known_divisions
        assert_eq(frame, written_frame, check_index=True)
    assert aljava.open(tmp_path / "1.arrow").to_dask(["x"]).columns.tolist() == ["x"]


def test_a_filter_without_matches(client: Client, tmp_path: Path) -> None:
    dataset = written(tmp_path / "trades.arrow")
    unfiltered = dataset.to_dask()
    for nothing in (pc.field("id") < 0, (pc.field("id") == 3) & (pc.field("price") > 1)):
        frame = dataset.to_dask(filter=nothing)
        assert len(frame) == 0
        assert frame.dtypes.equals(unfiltered.dtypes)
        assert frame.compute().dtypes.drop("desk").equals(unfiltered.dtypes.drop("desk"))


def test_a_relative_address_for_a_worker_in_another_folder(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = written(Path("trades.arrow")).to_dask()
    monkeypatch.chdir("/")
    assert len(frame) == ROWS


def test_what_changed_since_it_was_planned(client: Client, tmp_path: Path) -> None:
    dataset = written(tmp_path / "trades.arrow")
    frame = dataset.to_dask()
    aljava.append(trades(), tmp_path / "trades.arrow")
    with pytest.raises(InvalidData, match="open it anew"):
        frame.price.sum().compute()


def test_an_address_that_a_worker_does_not_have(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "client-host")
    frame = written(tmp_path / "trades.arrow").to_dask()
    os.unlink(tmp_path / "trades.arrow")
    with pytest.raises(NotFound, match="found on client-host, and each machine that reads it needs it"):
        frame.price.sum().compute()


def test_what_no_worker_can_open(tmp_path: Path) -> None:
    table = pa.table({"id": [1]})
    with pytest.raises(InvalidOption, match="this process only"):
        aljava.open(aljava.dumps(table)).to_dask()
    reading, writing = os.pipe()
    aljava.write(table, f"fd:{writing}")
    os.close(writing)
    with pytest.raises(InvalidOption, match="received by this process"):
        aljava.open(f"fd:{reading}").to_dask()
    os.close(reading)


def test_bad_arguments(tmp_path: Path) -> None:
    dataset = written(tmp_path / "trades.arrow")
    for arguments in ({"columns": ["nix"]}, {"filter": pc.field("nix") == 1}, {"index": "nix"}):
        with pytest.raises(QueryError, match="no column 'nix'"):
            dataset.to_dask(**arguments)
    for columns in ("price", ["price", "price"]):
        with pytest.raises(QueryError, match="each of them once"):
            dataset.to_dask(columns)
    with pytest.raises(InvalidOption, match="at least 1"):
        dataset.to_dask(partition_bytes=0)


def test_without_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = written(tmp_path / "trades.arrow")
    monkeypatch.setitem(__import__("sys").modules, "dask.dataframe", None)
    with pytest.raises(MissingDependency, match=r"aljava\[cluster\]"):
        dataset.to_dask()


def test_text_of_views(client: Client, tmp_path: Path) -> None:
    table = pa.table({"s": pa.array(["a", None, "long enough for a view's buffer"], pa.string_view())})
    frame = written(tmp_path / "views.arrow", table).to_dask()
    assert frame.s.dropna().compute().tolist() == ["a", "long enough for a view's buffer"]
