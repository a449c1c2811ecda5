import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

import aljava


@pytest.fixture
def table() -> pa.Table:
    return pa.table({"id": list(range(20_000)), "name": [f"n{number % 7}" for number in range(20_000)]})


@pytest.fixture
def mixed(tmp_path: Path, table: pa.Table) -> Path:
    """A folder of one table in every format, in folders, with what is no data beside it."""
    folder = tmp_path / "in"
    (folder / "year=2025" / "deep").mkdir(parents=True)
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    pyarrow.feather.write_feather(table, folder / "year=2025" / "b.feather")
    aljava.write(table, folder / "year=2025" / "deep" / "c.arrow")
    with gzip.open(folder / "d.csv.gz", "wt", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows(
            [["id", "name"], *zip(*table.to_pydict().values(), strict=True)]
        )
    with open(folder / "e.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    with pa.OSFile(str(folder / "f.arrows"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "_SUCCESS").write_text("")
    (folder / ".hidden.csv").write_text("no")
    return folder


@pytest.fixture(scope="module")  # its watch over its processes would look like a leak to tests of other modules
def dask():
    """A cluster of Dask's: a scheduler and two worker processes."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster
