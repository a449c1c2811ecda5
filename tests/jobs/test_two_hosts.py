"""Two hosts: Dask's scheduler and the client on one, the worker on the other, and a cable that loses packets."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import aljava
from aljava import jobs
from tests.jobs.test_jobs import digests
from tests.streams.cable import HOSTS, Cable

pytestmark = pytest.mark.long

SCHEDULER = """
import asyncio, sys
from distributed import Scheduler
async def main():
    async with Scheduler(host=sys.argv[1], port=8786, dashboard=False) as scheduler:
        print("ready", flush=True)
        await scheduler.finished()
asyncio.run(main())
"""
WORKER = """
import asyncio, os, sys
from distributed import Worker
async def main():
    async with Worker(f"tcp://{sys.argv[1]}:8786", host=sys.argv[2], nthreads=1) as worker:
        print(os.getpid(), flush=True)
        await worker.finished()
asyncio.run(main())
"""
CLIENT = """
import sys
from aljava import jobs
source, target, host, kind = sys.argv[1:]
with jobs.executor_for(f"dask://{host}:8786") as executor:
    options = {"size": 3_000_000} if kind == "compact" else {}
    done = getattr(jobs, kind)(source, target, executor=executor, **options)
print(done.done, done.kept, done.failed, flush=True)
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    yield cable
    cable.close()


def test_jobs_on_another_host_whose_worker_is_killed_and_replaced(cable: Cable, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(40):
        aljava.write({"row": np.arange(200_000) + number}, folder / f"{number:02}.arrow", compression="none")
    with jobs.executor_for("threads", 2) as executor:
        jobs.convert(folder, tmp_path / "convert-here", executor=executor)
        jobs.compact(folder, tmp_path / "compact-here", size=3_000_000, executor=executor)
    scheduler = cable.start(0, SCHEDULER, HOSTS[0])
    assert scheduler.stdout.readline() == "ready\n", scheduler.stderr.read()
    worker = cable.start(1, WORKER, *HOSTS)
    assert int(worker.stdout.readline())
    client = cable.start(0, CLIENT, str(folder), str(tmp_path / "convert"), HOSTS[0], "convert")
    while not list((tmp_path / "convert").glob("*.arrow")):
        assert client.poll() is None
    worker.kill()
    assert int(cable.start(1, WORKER, *HOSTS).stdout.readline())
    said, errors = client.communicate(timeout=120)
    assert said == "40 0 0\n", errors
    assert digests(tmp_path / "convert") == digests(tmp_path / "convert-here")
    client = cable.start(0, CLIENT, str(folder), str(tmp_path / "compact"), HOSTS[0], "compact")
    said, errors = client.communicate(timeout=120)
    assert said == "40 0 0\n", errors
    assert digests(tmp_path / "compact") == digests(tmp_path / "compact-here")
    assert len(digests(tmp_path / "compact")) > 1
