"""Jobs: many small files made into few."""

import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

import aljava
from aljava import jobs
from bench.harness import Scenario


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """What a job over many files takes."""
    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")
    files = 200 if quick else 10_000

    def path(name: str) -> str:
        return str(Path(folder.name) / name)

    @cache
    def small_files() -> int:
        """Ten thousand files of a thousand rows, as Arrow by us and by pyarrow, and as Parquet; bytes in memory."""
        rng, rows, nbytes = np.random.default_rng(7), 1000, 0
        for kind in ("arrow", "feather", "parquet"):
            Path(path(kind)).mkdir()
        for number in range(files):
            table = pa.table(
                {
                    "id": np.arange(number * rows, (number + 1) * rows),
                    "day": rng.integers(0, 3650, rows),
                    "price": rng.standard_normal(rows),
                    "volume": rng.integers(0, 1000, rows),
                    "customer": rng.integers(0, 100_000, rows),
                    "category": pa.array(np.array(["A", "B", "C", "D", "E"])[rng.integers(0, 5, rows)]),
                }
            )
            nbytes += table.nbytes
            aljava.write(table, path(f"arrow/{number:05}.arrow"))
            pa.feather.write_feather(table, path(f"feather/{number:05}.arrow"))
            pa.parquet.write_table(table, path(f"parquet/{number:05}.parquet"))
        return nbytes

    def compact() -> Scenario:
        import duckdb

        nbytes = small_files()

        def clear() -> None:
            shutil.rmtree(path("out"), ignore_errors=True)
            Path(path("out")).mkdir()

        def ours(kind: str) -> Any:
            done = jobs.compact(path(kind), path("out/ours"), sort_by="day")
            assert done.ok, done
            return done

        def copied() -> Any:
            query = f"from '{path('parquet')}/*.parquet' order by day"
            return duckdb.sql(f"copy ({query}) to '{path('out/theirs.parquet')}' (format parquet)")

        return Scenario(
            f"compact {files:,} files of 1,000 rows, sorted by a column",
            {
                "aljava": lambda: ours("arrow"),
                "aljava, of pyarrow's Feather": lambda: ours("feather"),
                "aljava, of Parquet": lambda: ours("parquet"),
                "DuckDB COPY, Parquet to Parquet": copied,
            },
            nbytes,
            {"DuckDB COPY, Parquet to Parquet": 1},
            clear,
        )

    return {"compact": compact}
