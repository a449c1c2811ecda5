"""A listing that is longer than memory, or than patience."""

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from aljava import jobs
from aljava.errors import AccessDenied, InvalidOption
from aljava.jobs.planning import Backlog, Seen, checked
from aljava.jobs.running import LOOKED_AT
from aljava.listing import parts
from tests.jobs import work


def test_a_source_takes_64_bytes_beyond_its_name() -> None:
    """Listed, planned and watched for doubles; what waits is packed."""
    count, name = 60_000, len("0000/part-0000000.parquet")
    tracemalloc.start()
    backlog = Backlog(work.many(count))
    backlog._thread.join()
    listed, _ = tracemalloc.get_traced_memory()
    assert listed / count <= name + 32
    assert (backlog.files, backlog.bytes, backlog.complete) == (count, 1000 * count, True)
    seen = Seen()
    for source in backlog:
        assert seen.add(source.name, source.address) == "new"
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # By the end the names are gone, and the table of what was met is there.
    assert max(peak, listed) / count <= name + 64
    assert after / count <= 64


def test_work_starts_before_the_listing_ends(tmp_path: Path) -> None:
    worked = threading.Event()

    def slow_listing():
        yield from work.many(LOOKED_AT + 10)
        # Only the end of a task lets the listing go on.
        assert worked.wait(60)
        yield from (jobs.Source(jobs.Root("/later"), f"{number}") for number in range(10))

    def told(progress: jobs.Progress) -> None:
        if progress.files:
            worked.set()

    with jobs.executor_for("threads", 2) as executor:
        done = jobs.run(work.job(work.touch), slow_listing(), executor=executor, progress=told)
    assert done.done == LOOKED_AT + 20


def test_a_listing_that_never_rests_lets_the_work_go_on() -> None:
    """pyarrow calls fsspec back so often that the thread has Python's lock again before anybody else gets it."""
    from bench.million import sources

    seen = []
    with jobs.executor_for("threads", 2) as executor:
        done = jobs.run(work.job(work.touch), sources(100_000), executor=executor, progress=seen.append)
    assert done.done == 100_000
    assert any(progress.files > 100 and not progress.listed for progress in seen)


def test_a_listing_that_fails_on_the_way(tmp_path: Path) -> None:
    """What was done until then is kept."""

    def breaks():
        yield from work.many(LOOKED_AT + 500)
        raise AccessDenied("s3://bucket/ cannot be listed any further")

    kept = tmp_path / "m.arrow"
    with jobs.executor_for("threads", 2) as executor:
        from aljava.address import locate

        with pytest.raises(AccessDenied, match="any further"):
            jobs.run(work.job(work.touch, manifest=locate(kept)), breaks(), executor=executor)
        again = jobs.run(work.job(work.touch, manifest=locate(kept)), work.many(LOOKED_AT + 500), executor=executor)
    assert again.kept > 0
    assert again.kept + again.done == LOOKED_AT + 500
    assert len(again.table) == LOOKED_AT + 500


def test_what_is_found_late_is_one_failure(tmp_path: Path) -> None:
    """Beyond what is looked at before the work, a second source of one name fails, and the first is not replaced."""

    def plan(sources):
        for source in sources:
            yield jobs.Task(work.touch, (source,), jobs.Root(str(tmp_path)), source.name.rpartition(".")[0])

    def sources():
        yield from work.many(LOOKED_AT + 5)
        yield jobs.Source(jobs.Root("/nowhere/at/all"), "0000/part-0000000.csv", 10)

    job = jobs.Job("test", plan, jobs.Root(str(tmp_path)))
    with jobs.executor_for("threads", 2) as executor:
        found = jobs.run(job, sources(), executor=executor)
    assert (found.done, found.failed) == (LOOKED_AT + 5, 1)
    assert "another source" in found.failures["reason"][0].as_py()
    with pytest.raises(InvalidOption, match="another source"):
        short = [jobs.Source(jobs.Root("/a"), "x.csv"), jobs.Source(jobs.Root("/a"), "x.parquet")]
        jobs.run(job, short)


def test_a_folder_that_cannot_be_listed_is_one_failure(mixed: Path, tmp_path: Path, monkeypatch) -> None:
    real = os.scandir

    def refusing(path):
        # Tests may run as root, whom no permission stops.
        if str(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with jobs.executor_for("threads", 2) as executor:
        found = jobs.convert(mixed, tmp_path / "out", executor=executor)
        assert (found.done, found.failed) == (5, 1)
        assert "cannot be listed" in found.failures["reason"][0].as_py()
        with pytest.raises(AccessDenied, match="cannot be listed"):
            jobs.convert(mixed / "year=2025" / "deep", tmp_path / "out2", executor=executor)


def test_links_that_go_in_circles(mixed: Path, tmp_path: Path) -> None:
    (mixed / "year=2025" / "round").symlink_to(mixed)
    (mixed / "year=2025" / "itself").symlink_to("itself")
    # A folder that is linked to twice has two names, and is no circle.
    (mixed / "year=2026").symlink_to("year=2025")
    for address in (mixed, f"{mixed}/**", f"{mixed}/**/*", f"{mixed}/[!_]*"):
        names = sorted(os.path.relpath(source.place().path, mixed) for source in jobs.listed(address))
        assert len(names) == 10, names
        assert [name for name in names if name.endswith("c.arrow")] == [
            "year=2025/deep/c.arrow",
            "year=2026/deep/c.arrow",
        ]
        assert len(parts(str(address))) == 10
    assert len(list(jobs.listed(f"{mixed}/**/*.arrow"))) == 2
    with jobs.executor_for("threads", 2) as executor:
        found = jobs.convert(mixed, tmp_path / "out", executor=executor)
    assert (found.done, found.failed) == (8, 2)
    assert "symbolic links" in found.failures["reason"][0].as_py()


def test_distinct(mixed: Path) -> None:
    twice = jobs.distinct(jobs.listed([mixed, f"{mixed}/**/*.arrow"]))
    assert len(list(twice)) == 6
    tasks = checked(work.job(work.touch), jobs.listed([mixed, mixed]))
    assert len(list(tasks)) == 6


@pytest.mark.long
def test_a_long_job_killed_and_resumed() -> None:
    """Each step a client of its own; none keeps much of a source in memory."""
    command = [sys.executable, "-m", "bench.million", "100000", "--on", "threads"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2]).stdout)
    assert report["again"]["kept"] == 100_000
    assert not report["killed at the half"]["the first was done after"]["listing ended"]
