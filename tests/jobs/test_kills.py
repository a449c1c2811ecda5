"""A client that is killed at any moment, again and again: nothing is lost, nothing is done twice that was kept.

`ALJAVA_KILLS` says how many clients die of each kind of job, and `ALJAVA_KILLS_ON` on which engines: "processes threads
dask ray" are all.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xxhash import xxh3_64_hexdigest

from aljava import jobs
from aljava.jobs.manifest import SCHEMA
from aljava.listing import MANIFEST
from tests.jobs.test_jobs import digests

FILES = 40


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "in"
    for number in range(FILES):
        path = folder / f"day={number % 5}" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"id": pa.array(range(number, number + 60_000)), "text": [f"{number}"] * 60_000})
        pq.write_table(table, path)
    return folder


WAYS = {"convert": {}, "compact": {"size": 1_000_000}}


@pytest.fixture(scope="module")
def references(sources: Path) -> dict[str, dict[str, str]]:
    """What jobs make that nobody disturbs."""
    with jobs.executor_for("threads", 2) as executor:
        for kind, options in WAYS.items():
            getattr(jobs, kind)(sources, sources.parent / kind, executor=executor, **options)
    return {kind: digests(sources.parent / kind) for kind in WAYS}


@pytest.fixture
def reference(references) -> dict[str, str]:
    return references["convert"]


def made(target: Path) -> int:
    """Files that were made so far."""
    return sum(path.suffix == ".arrow" for path in target.rglob("*") if not path.name.startswith(("_", ".")))


def entries(target: Path) -> list[dict]:
    """What the manifest of a client that was killed says: whole messages only, whatever stands behind them."""
    content = (target / MANIFEST).read_bytes()
    if not content:
        return []
    if content.startswith(b"ARROW1"):
        return pa.ipc.open_file(content).read_all().to_pylist()
    rows = []
    reader = pa.ipc.open_stream(content)
    assert reader.schema.equals(SCHEMA)
    while True:
        try:
            rows += reader.read_next_batch().to_pylist()
        except (StopIteration, OSError, pa.ArrowInvalid):  # a message cut short
            return rows


@pytest.mark.parametrize("engine", os.environ.get("ALJAVA_KILLS_ON", "processes threads").split())
@pytest.mark.parametrize("kind", WAYS)
def test_a_killed_client(kind: str, engine: str, sources: Path, references, tmp_path: Path) -> None:
    kills = int(os.environ.get("ALJAVA_KILLS", "2"))
    chance = random.Random(f"{kind} {engine} {kills}")
    command = [sys.executable, "-m", "tests.jobs.client", kind, str(sources)]
    span, killed, rounds, partly = {"dask": 5.0, "ray": 9.0}.get(engine, 1.5), 0, 0, 0
    while killed < kills:
        target = tmp_path / f"out-{rounds}"
        rounds += 1
        known = 0
        while killed < kills:
            client = subprocess.Popen(
                [*command, str(target), engine],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                text=True,
            )
            assert client.stdout is not None
            assert client.stdout.readline() == "begins\n"
            # At any moment; mostly when some more outputs are there, and there is something to lose.
            there, wanted = made(target), chance.choice((0, 1, 1, 2, 3, 5, 8, 13, 21))
            deadline = time.monotonic() + (60 if wanted else chance.uniform(0, span))
            while (
                client.poll() is None and time.monotonic() < deadline and (made(target) < there + wanted or not wanted)
            ):
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.02))
            workers = psutil.Process(client.pid).children(recursive=True) if client.poll() is None else []
            client.kill()
            said = client.stdout.read()
            client.wait()
            # Workers end with their client.
            assert not psutil.wait_procs(workers, timeout=180)[1]
            if client.returncode == 0:
                assert f"{FILES - known} file" in said
                break
            killed += 1
            if (target / MANIFEST).exists():
                rows = entries(target)
                partly += known < len(rows) < FILES
                # No entry that was once there is lost, none is there twice, and what it says was made is there.
                assert len({row["source"] for row in rows}) == len(rows) >= known
                known = len(rows)
                for row in rows:
                    assert row["status"] == "done"
                    assert xxh3_64_hexdigest((target / row["output"]).read_bytes()) == row["checksum"]
        with jobs.executor_for("threads", 2) as executor:
            last = getattr(jobs, kind)(sources, target, executor=executor, **WAYS[kind])
        assert (last.kept + last.done, last.failed) == (FILES, 0)
        assert last.kept >= known
        assert len(last.table) == FILES
        # Temporary files of the dead would be among them.
        assert digests(target) == references[kind]
    print(f"{kind} on {engine}: {killed} clients killed, {partly} with a part of the work done, {rounds} jobs")


@pytest.mark.parametrize("engine", ["processes", "threads"])
def test_control_c(engine: str, sources: Path, reference: dict[str, str], tmp_path: Path) -> None:
    interrupted = 0
    for number in range(3):
        target = tmp_path / f"out-{number}"
        command = [sys.executable, "-m", "aljava", "convert", str(sources), str(target), "--on", engine]
        client = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        deadline = time.monotonic() + 60
        # When there is something to lose.
        while time.monotonic() < deadline and len(list(target.rglob("*.arrow"))) < 4 + number and client.poll() is None:
            time.sleep(0.002)
        workers = psutil.Process(client.pid).children(recursive=True) if client.poll() is None else []
        if client.poll() is None:
            os.killpg(client.pid, signal.SIGINT)
        _, said = client.communicate(timeout=60)
        if client.returncode == 0:  # it was through before
            continue
        interrupted += 1
        assert client.returncode == 130, said
        assert "Traceback" not in said
        assert "The same command goes on" in said
        assert not psutil.wait_procs(workers, timeout=30)[1]
        rows = entries(target)
        assert len({row["source"] for row in rows}) == len(rows) >= 1
        for row in rows:
            assert xxh3_64_hexdigest((target / row["output"]).read_bytes()) == row["checksum"]
        with jobs.executor_for("threads", 2) as executor:
            last = jobs.convert(sources, target, executor=executor)
        assert (last.kept, last.kept + last.done, last.failed) == (len(rows), FILES, 0)
        assert {name: it for name, it in digests(target).items() if not name.endswith(".aljava")} == reference
    assert interrupted


def test_a_manifest_cut_anywhere(sources: Path, reference: dict[str, str], tmp_path: Path) -> None:
    """A stream of entries, cut at every kind of place: the entries before the cut are known, the others done again."""
    target = tmp_path / "out"
    with jobs.executor_for("threads", 2) as executor:
        jobs.convert(sources, target, executor=executor)
        whole = pa.ipc.open_file(target / MANIFEST).read_all()
        pieces = [whole.schema.serialize().to_pybytes()]
        pieces += [
            whole.slice(at, 10).combine_chunks().to_batches()[0].serialize().to_pybytes() for at in range(0, FILES, 10)
        ]
        stream = b"".join(pieces)
        ends = [sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]
        cuts = sorted({*ends, *(end + extra for end in ends for extra in (-1, 1, 4, 9, 100)), 0, 1, 7, 8, 100})
        for cut in cuts:
            if cut > len(stream):
                continue
            (target / MANIFEST).write_bytes(stream[:cut])
            again = jobs.convert(sources, target, executor=executor)
            assert again.kept == 10 * max(0, sum(end <= cut for end in ends) - 1), cut
            assert (again.kept + again.done, again.failed) == (FILES, 0)
    assert digests(target) == reference
