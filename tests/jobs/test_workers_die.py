"""Workers killed with -9 while a job runs, on every engine: the job ends, nothing is lost, nothing is there twice.

`ALJAVA_WORKER_KILLS` says how many workers die on each engine (4 by default).
"""

import os
import random
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

import aljava
from aljava import jobs
from tests.jobs.test_jobs import digests

KILLS = int(os.environ.get("ALJAVA_WORKER_KILLS", "4"))
FILES, ROWS = 24, 60_000


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Files that take their time: some tenths of a second each, with a high level of zstd."""
    folder = tmp_path_factory.mktemp("die") / "in"
    folder.mkdir()
    for number in range(FILES):
        rng = np.random.default_rng(number)
        words = rng.choice([f"word {word}" for word in range(999)], ROWS)
        table = pa.table({"row": np.arange(ROWS) + number * ROWS, "word": words, "n": rng.integers(0, 99, ROWS)})
        aljava.write(table, folder / f"{number:02}.arrow", compression="none")
    return folder


KINDS = {
    "convert": lambda *where, **how: jobs.convert(*where, compression="zstd:12", **how),
    "compact": lambda *where, **how: jobs.compact(*where, compression="zstd:12", size=500_000, **how),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, sources: Path):
    """A kind of job, and what it makes."""
    with jobs.executor_for("threads", 2) as executor:
        KINDS[request.param](sources, sources.parent / request.param, executor=executor)
    return KINDS[request.param], digests(sources.parent / request.param)


@contextmanager
def killing(workers, out: Path, seed: int):
    """Kills workers at random moments; whenever some more outputs are there, so that a slow machine gets on too.

    Args:
        workers: gives their process ids.
        out: where the outputs go.
        seed: of the moments.
    """
    chance, ended, killed = random.Random(seed), threading.Event(), []

    def kill() -> None:
        seen = 0
        while len(killed) < min(KILLS, 8) and not ended.wait(chance.uniform(0, 0.2)):
            made = len(list(out.glob("*.arrow")))
            if made < seen + chance.randint(1, 3) and killed:
                continue
            with suppress(psutil.NoSuchProcess, IndexError, OSError):
                process = psutil.Process(chance.choice(sorted(workers())))
                process.kill()
                killed.append(process.pid)
                seen = made

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def until_all_is_done(kind, sources: Path, target: Path, executor, workers) -> None:
    """Runs jobs while workers die, until so many have; and each once more in peace."""
    work, expected = kind
    deaths = rounds = failures = 0
    while deaths < KILLS:
        out = target / f"{rounds}"
        rounds += 1
        with killing(workers, out, rounds) as killed:
            first = work(sources, out, executor=executor)
        deaths += len(killed)
        table = first.table
        assert sorted(table["source"].to_pylist()) == sorted(str(path) for path in sources.iterdir())
        assert first.done + first.failed == FILES
        failures += first.failed
        for row in first.failures.to_pylist():
            assert "worker" in row["reason"].lower(), row
        last = work(sources, out, executor=executor)
        # Whoever failed for want of workers is done now.
        assert (last.done + last.kept, last.failed) == (FILES, 0)
        assert last.kept >= (first.done if work is KINDS["convert"] else 0)
        assert digests(out) == expected
    print(f"{deaths} workers killed in {rounds} jobs, {failures} sources tried in vain")


def test_on_a_process_pool(kind, sources: Path, tmp_path: Path) -> None:
    me = psutil.Process()

    def workers() -> list[int]:
        return [child.pid for child in me.children() if "spawn_main" in " ".join(child.cmdline())]

    with jobs.executor_for("processes", 2) as executor:
        until_all_is_done(kind, sources, tmp_path, executor, workers)


def test_on_dask(kind, sources: Path, tmp_path: Path, dask) -> None:
    def workers() -> list[int]:
        return [worker.pid for worker in dask.workers.values() if worker.pid]

    with jobs.executor_for("dask" + dask.scheduler_address.removeprefix("tcp")) as executor:
        until_all_is_done(kind, sources, tmp_path, executor, workers)


@pytest.mark.ray
def test_on_ray(kind, sources: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")

    def workers() -> list[int]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                name = "".join(process.cmdline()[:1])
                if name.startswith("ray::") and not name.endswith("Agent"):  # with which Ray itself would end
                    found.append(process.pid)
        return found

    with jobs.executor_for("ray", 2) as executor:
        until_all_is_done(kind, sources, tmp_path, executor, workers)
