"""Files: filters that skip, counting, appending, reading a column from afar, many small batches, no copies."""

import atexit
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet

import aljava
from bench.data import kept
from bench.harness import Scenario, installed

CODEC = {"raw": "uncompressed", "zstd": "zstd"}
OURS = {"raw": "none", "zstd": "zstd"}


def sales(rows: int) -> pa.Table:
    """Sorted by `id`; numbers that shrink and numbers that do not, and a word: 60 bytes a row."""
    rng = np.random.default_rng(7)
    return kept(
        f"sales-{rows}",
        lambda: pa.table(
            {
                "id": np.arange(rows),
                "day": np.arange(rows, dtype=np.int64) // 10_000,
                "price": rng.standard_normal(rows),
                "volume": rng.integers(0, 1000, rows),
                "customer": rng.integers(0, 100_000, rows),
                "score": rng.random(rows),
                "category": pa.array(np.array(["A", "B", "C", "D", "E"])[rng.integers(0, 5, rows)]),
            }
        ),
    )


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """The table of files."""
    rows = 200_000 if quick else 19_000_000
    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")
    one_percent = (pc.field("id") >= rows // 2) & (pc.field("id") < rows // 2 + rows // 100)

    def path(name: str) -> str:
        return str(Path(folder.name) / name)

    def ours(kind: str) -> str:
        aljava.write(sales(rows), path(f"ours-{kind}.arrow"), compression=OURS[kind])
        return path(f"ours-{kind}.arrow")

    def theirs(kind: str) -> str:
        pa.feather.write_feather(sales(rows), path(f"theirs-{kind}.arrow"), compression=CODEC[kind])
        return path(f"theirs-{kind}.arrow")

    def parquet() -> str:
        pa.parquet.write_table(sales(rows), path("theirs.parquet"), compression="zstd")
        return path("theirs.parquet")

    def filtered(kind: str) -> Scenario:
        import duckdb

        mine, other, columns = ours(kind), theirs(kind), parquet()
        query = f"from '{columns}' where id >= {rows // 2} and id < {rows // 2 + rows // 100}"
        return Scenario(
            f"1 % of the rows of a {sales(rows).nbytes / 1e9:.1f} GB file sorted by that column, {kind}",
            {
                "aljava": lambda: aljava.read(mine, filter=one_percent),
                "pyarrow.dataset": lambda: pa.dataset.dataset(other, format="ipc").to_table(filter=one_percent),
                "pyarrow, Parquet": lambda: pa.parquet.read_table(columns, filters=one_percent),
                "DuckDB, Parquet": lambda: duckdb.sql(query).to_arrow_table(),
            },
            None,
            {"pyarrow.dataset": 20, "pyarrow, Parquet": 2, "DuckDB, Parquet": 1},
        )

    def counted(with_filter: bool) -> Scenario:
        mine, other = ours("raw"), theirs("raw")
        filter = one_percent if with_filter else None
        return Scenario(
            f"count_rows {'with' if with_filter else 'without'} a filter on the sorted column, raw",
            {
                "aljava": lambda: aljava.open(mine).count_rows(filter),
                "pyarrow.dataset": lambda: pa.dataset.dataset(other, format="ipc").count_rows(filter=filter),
            },
            None,
            {"pyarrow.dataset": 20},
        )

    def appended() -> Scenario:
        many, few = (400_000, 10_000) if quick else (38_000_000, 190_000)
        more = sales(rows).slice(0, few)
        big = pa.concat_tables([sales(rows)] * (many // rows))
        aljava.write(big, path("grows.arrow"), compression="none")
        pa.feather.write_feather(big, path("rewritten.arrow"), compression="uncompressed")
        size = big.nbytes

        def rewrite() -> None:
            table = pa.feather.read_table(path("rewritten.arrow"))
            both = pa.concat_tables([table.slice(0, many), more])
            pa.feather.write_feather(both, path("new.arrow"), compression="uncompressed")
            os.replace(path("new.arrow"), path("rewritten.arrow"))

        return Scenario(
            f"append {more.nbytes / 1e6:.0f} MB to a {size / 1e9:.1f} GB file",
            {"aljava": lambda: aljava.append(more, path("grows.arrow"), compression="none"), "pyarrow": rewrite},
            None,
            {"pyarrow": 50},
        )

    def remote() -> Scenario:
        from pyarrow.fs import S3FileSystem

        count = 100_000 if quick else 2_500_000
        rng = np.random.default_rng(7)
        table = pa.table({f"c{number}": rng.random(count) for number in range(10)})
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "tests/places/servers.py"), "s3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert server.stdout is not None
        port = int(server.stdout.readline())
        system = S3FileSystem(
            access_key="a", secret_key="b", endpoint_override=f"127.0.0.1:{port}", scheme="http",
            region="us-east-1", allow_bucket_creation=True,
        )  # fmt: skip
        system.create_dir("bench")
        aljava.write(table, "bench/ours.arrow", filesystem=system, compression="zstd")
        pa.feather.write_feather(table, path("remote.arrow"), compression="zstd")
        with open(path("remote.arrow"), "rb") as file, system.open_output_stream("bench/theirs.arrow") as sink:
            sink.write(file.read())
        atexit.register(server.kill)

        def pyarrow_reads() -> Any:
            with system.open_input_file("bench/theirs.arrow") as file:
                options = pa.ipc.IpcReadOptions(included_fields=[4])
                return pa.ipc.open_file(file, options=options).read_all()

        return Scenario(
            f"one column of ten from a {table.nbytes / 1e6:.0f} MB file in an object store (moto)",
            {
                "aljava": lambda: aljava.read("bench/ours.arrow", columns=["c4"], filesystem=system),
                "pyarrow": pyarrow_reads,
            },
            None,
            {"pyarrow": 1},
        )

    def many_batches() -> Scenario:
        pl = installed("polars")
        count = 2_000 if quick else 100_000
        batch = pa.record_batch({"a": np.arange(10), "b": np.arange(10) / 2})
        with pa.ipc.new_file(path("tiny.arrow"), batch.schema) as writer:
            for _ in range(count):
                writer.write_batch(batch)

        def pyarrow_reads() -> pa.Table:
            with pa.memory_map(path("tiny.arrow")) as file:
                return pa.ipc.open_file(file).read_all()

        return Scenario(
            f"read a file of {count:,} batches of 10 rows",
            {
                "aljava": lambda: aljava.read(path("tiny.arrow")),
                "pyarrow": pyarrow_reads,
                "Polars": pl and (lambda: pl.read_ipc(path("tiny.arrow"))),
            },
            None,
            {"pyarrow": 1, "Polars": 1},
        )

    def to_pandas() -> Scenario:
        pd = installed("pandas")
        count = 100_000 if quick else 5_000_000
        rng = np.random.default_rng(7)
        table = pa.table({f"c{number}": rng.random(count) for number in range(8)})
        aljava.write(table, path("floats.arrow"), compression="none")
        pa.feather.write_feather(table, path("floats.feather"), compression="uncompressed")
        return Scenario(
            f"to_pandas of {8 * count:,} float64 in 8 columns from a raw file",
            {
                "aljava": lambda: aljava.open(path("floats.arrow")).to_pandas(),
                "pandas.read_feather": pd and (lambda: pd.read_feather(path("floats.feather"))),
            },
            table.nbytes,
            {"pandas.read_feather": 50},
        )

    return {
        "filter-raw": lambda: filtered("raw"),
        "filter-zstd": lambda: filtered("zstd"),
        "count": lambda: counted(False),
        "count-filter": lambda: counted(True),
        "append": appended,
        "remote": remote,
        "many-batches": many_batches,
        "to-pandas": to_pandas,
    }
