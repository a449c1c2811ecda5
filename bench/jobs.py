"""Jobs over many files: small ones made into few; a pool against one process, Dask and Ray against the pool."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor
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


def parquet_files(folder: Path, count: int, rows: int) -> Path:
    """Files of about 10 MB at 400,000 rows: numbers that shrink, numbers that do not, and words; four, many times."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    for number in range(min(count, 4)):
        table = pa.table(
            {
                "id": np.arange(number * rows, (number + 1) * rows),
                "price": rng.standard_normal(rows),
                "volume": rng.integers(0, 1_000_000, rows),
                "customer": pa.array(rng.integers(0, 10**9, rows)).cast(pa.string()),
                "category": pa.array(np.array(["A", "B", "C", "D", "E"])[rng.integers(0, 5, rows)]),
            }
        )
        pa.parquet.write_table(table, folder / f"part-{number:05d}.parquet", compression="zstd")
    for number in range(4, count):
        (folder / f"part-{number:05d}.parquet").hardlink_to(folder / f"part-{number % 4:05d}.parquet")
    return folder


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

    count, parquet_rows = (8, 100_000) if quick else (int(os.environ.get("ALJAVA_BENCH_FILES", "200")), 400_000)
    out = Path(folder.name) / "converted"

    @cache
    def parquet() -> Path:
        return parquet_files(Path(folder.name) / "in", count, parquet_rows)

    @cache
    def started(text: str, workers: int) -> Executor:
        executor = jobs.executor_for(text, workers)
        atexit.register(executor.shutdown)
        # A worker imports what it needs with its first task, which is no part of how fast it works.
        few = [next(jobs.listed(parquet() / name)) for name in sorted(os.listdir(parquet()))[: 2 * workers]]
        jobs.convert(few, Path(folder.name) / "warm", executor=executor)
        shutil.rmtree(Path(folder.name) / "warm")
        return executor

    def emptied() -> None:
        shutil.rmtree(out, ignore_errors=True)

    def converted(executor: Executor) -> Callable[[], Any]:
        def run() -> None:
            assert jobs.convert(parquet(), out, executor=executor).done == count

        return run

    def parquet_bytes() -> int:
        return sum(entry.stat().st_size for entry in os.scandir(parquet()))

    def on_one_core() -> Callable[[], Any]:
        executor = jobs.executor_for("processes", 1)
        atexit.register(executor.shutdown)
        executor.submit(os.sched_setaffinity, 0, {0}).result()
        return converted(executor)

    def processes() -> Scenario:
        return Scenario(
            f"{count} Parquet files of {parquet_bytes() / count / 1e6:.0f} MB to IPC, two processes",
            {
                "aljava, 2 processes": converted(started("processes", 2)),
                "1 process": converted(started("processes", 1)),
                "1 process on one core": on_one_core(),
            },
            parquet_bytes(),
            {"1 process": 1.7, "1 process on one core": 1.7},
            emptied,
            why="One process decodes and compresses on both cores already: 200 files take 16.4 s of processor, that is "
            "8.2 s on two cores at best, and what two processes take.",
        )

    def engine(text: str, least: float) -> Scenario:
        # The pool's time / the engine's: what Dask and Ray have to reach is seen from them.
        return Scenario(
            f"the same on {text.title()}, two workers",
            {f"aljava on {text}": converted(started(text, 2)), "our pool": converted(started("processes", 2))},
            parquet_bytes(),
            {"our pool": least},
            emptied,
            why=f"{text.title()} takes milliseconds more for a task, and its scheduler has the workers' cores.",
        )

    def a_task() -> Scenario:
        from bench.million import planned, sources

        many = 2_000 if quick else 20_000

        def run(text: str) -> Callable[[], Any]:
            executor = started(text, 2)
            return lambda: jobs.run(jobs.Job("trivial", planned), sources(many), executor=executor)

        return Scenario(
            f"{many:,} tasks that do nothing",
            {"aljava on processes": run("processes"), "threads": run("threads"), "Dask": run("dask")},
            why="A task for another process is pickled and sent; a thread takes it as it is.",
        )

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
            why="A small Parquet file takes Python and pyarrow 0.4 ms, on threads that wait for each other; DuckDB's "
            "reader takes 0.2 ms of one core. From Arrow files Aljava takes less than DuckDB.",
        )

    found: dict[str, Callable[[], Scenario]] = {
        "compact": compact,
        "processes": processes,
        "dask": lambda: engine("dask", 0.85),
        "task": a_task,
    }
    if importlib.util.find_spec("ray") is not None:
        found["ray"] = lambda: engine("ray", 0.7)
    return found
