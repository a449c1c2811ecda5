"""What a job promises: every file once, one bad file alone, only what is missing or changed, errors before work."""

import hashlib
import importlib.metadata
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import Executor, Future
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import aljava
from aljava import jobs
from aljava.address import locate
from aljava.errors import AccessDenied, InvalidData, InvalidOption, JobError, NotFound
from aljava.jobs.manifest import Entry, Manifest
from aljava.jobs.sources import listed
from tests.jobs import work
from tests.types import arrays

OUTPUTS = ["a.arrow", "d.arrow", "e.arrow", "f.arrow", "year=2025/b.arrow", "year=2025/deep/c.arrow"]


@pytest.fixture
def threads():
    with jobs.executor_for("threads", 2) as executor:
        yield executor


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "_manifest.arrow"
    }


def test_every_format_becomes_arrow(mixed: Path, tmp_path: Path, table: pa.Table, threads) -> None:
    seen = []
    done = jobs.convert(mixed, tmp_path / "out", compression="zstd", executor=threads, progress=seen.append)
    assert (done.done, done.kept, done.failed, done.rows, done.ok) == (6, 0, 0, 120_000, True)
    assert sorted(digests(tmp_path / "out")) == OUTPUTS
    for name in OUTPUTS:
        made = aljava.open(tmp_path / "out" / name)
        assert made.to_table().equals(table)
        assert made.zones.num_rows >= 1
        assert aljava.verify(tmp_path / "out" / name).checksums
    last = seen[-1]
    assert (last.files, last.files_listed, last.listed, last.remaining) == (6, 6, True, 0.0)
    assert last.bytes == last.bytes_listed == done.bytes_read


def test_the_manifest_says_what_became_of_each(mixed: Path, tmp_path: Path, threads) -> None:
    (mixed / "bad.parquet").write_bytes(b"PAR1 no PAR1")
    done = jobs.convert(mixed, tmp_path / "out", executor=threads)
    rows = {row["source"]: row for row in aljava.read(tmp_path / "out" / "_manifest.arrow").to_pylist()}
    assert len(rows) == 7
    row = rows[str(mixed / "year=2025" / "b.feather")]
    made = (tmp_path / "out" / row["output"]).read_bytes()
    assert row["output"] == "year=2025/b.arrow"
    assert (row["status"], row["rows"], row["bytes"]) == ("done", 20_000, len(made))
    from xxhash import xxh3_64_hexdigest

    assert row["checksum"] == xxh3_64_hexdigest(made)
    assert row["size"] == os.path.getsize(mixed / "year=2025" / "b.feather")
    bad = rows[str(mixed / "bad.parquet")]
    assert bad["status"] == "failed"
    assert "bad.parquet" in bad["reason"]
    assert done.failures["source"].to_pylist() == [str(mixed / "bad.parquet")]
    assert "1 failed" in repr(done)
    assert "bad.parquet" in repr(done)
    assert "bad.parquet" in done._repr_html_()
    # Any Arrow program reads it.
    assert pa.ipc.open_file(tmp_path / "out" / "_manifest.arrow").read_all().num_rows == 7


def test_only_what_is_missing_or_changed_is_done_again(mixed: Path, tmp_path: Path, table: pa.Table, threads) -> None:
    out = tmp_path / "out"
    bad = mixed / "bad.parquet"
    bad.write_bytes(b"no")
    first = jobs.convert(mixed, out, executor=threads)
    assert (first.done, first.failed) == (6, 1)
    again = jobs.convert(mixed, out, executor=threads)
    assert (again.done, again.kept, again.failed) == (0, 6, 1)
    (out / "a.arrow").unlink()  # missing
    (out / "f.arrow").write_bytes(b"cut")  # not what was made
    pq.write_table(table.slice(0, 10), mixed / "year=2025" / "new.parquet")
    aljava.write(table.slice(0, 5), mixed / "year=2025" / "deep" / "c.arrow")  # changed
    pq.write_table(table.slice(0, 1), bad)  # mended
    third = jobs.convert(mixed, out, executor=threads)
    assert (third.done, third.kept, third.failed) == (5, 3, 0)
    assert aljava.open(out / "year=2025" / "deep" / "c.arrow").num_rows == 5
    rows = third.table
    assert len(rows) == 8
    assert set(rows["status"].to_pylist()) == {"done"}
    assert len(third.failures) == 0


def test_columns_and_conditions_and_back_to_parquet(mixed: Path, tmp_path: Path, table: pa.Table, threads) -> None:
    jobs.convert(mixed, tmp_path / "some", columns=["name"], where="id < 10", executor=threads)
    assert aljava.read(tmp_path / "some" / "d.arrow").equals(table.select(["name"]).slice(0, 10))
    done = jobs.convert(tmp_path / "some", tmp_path / "back", format="parquet", compression="snappy", executor=threads)
    assert done.ok
    found = pq.ParquetFile(tmp_path / "back" / "year=2025" / "b.parquet")
    assert found.read().equals(table.select(["name"]).slice(0, 10))
    assert found.metadata.row_group(0).column(0).compression == "SNAPPY"


def test_a_glob_keeps_the_paths_below_its_folder(mixed: Path, tmp_path: Path, threads) -> None:
    done = jobs.convert(f"{mixed}/**/*.[af]*", tmp_path / "out", executor=threads)
    assert sorted(digests(tmp_path / "out")) == ["f.arrow", "year=2025/b.arrow", "year=2025/deep/c.arrow"]
    assert done.done == 3
    # The manifest beside the outputs is none of them, unless it is asked for by its name.
    made = f"{tmp_path}/out/*.arrow"
    jobs.convert(f"{mixed}/f*", tmp_path / "out", executor=threads)
    assert aljava.open(made).num_rows == aljava.open(f"{tmp_path}/out/f.arrow").num_rows
    assert jobs.verify(made, executor=threads).done == 1
    assert "status" in aljava.read(f"{tmp_path}/out/_manifest.arrow").column_names
    # What two patterns name is done once.
    twice = jobs.convert([f"{mixed}/a*", f"{mixed}/*.parquet"], tmp_path / "twice", executor=threads)
    assert twice.done == 1


def test_verify_finds_the_flipped_bit_among_many(mixed: Path, tmp_path: Path, threads) -> None:
    out = tmp_path / "out"
    jobs.convert(mixed, out, executor=threads)
    assert jobs.verify(out, executor=threads).ok
    content = bytearray((out / "e.arrow").read_bytes())
    content[len(content) // 3] ^= 4
    (out / "e.arrow").write_bytes(content)
    found = jobs.verify(out, executor=threads, manifest=tmp_path / "checks.arrow")
    assert (found.done, found.failed) == (5, 1)
    assert "damage" in found.failures["reason"][0].as_py()
    again = jobs.verify(out, executor=threads, manifest=tmp_path / "checks.arrow")
    assert (again.done, again.kept, again.failed) == (0, 5, 1)


def test_repair_mends_the_damaged_and_leaves_the_sound(tmp_path: Path, threads) -> None:
    table = pa.table({"id": range(10_000)})
    for name in ("sound", "cut"):
        aljava.write(table, tmp_path / f"{name}.arrow", batch_rows=1000, compression="none")
    content = (tmp_path / "cut.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(content[:50_000])
    (tmp_path / "other.csv").write_text("no table\n")
    before = os.stat(tmp_path / "sound.arrow")
    aside = jobs.repair(tmp_path, f"{tmp_path}-mended", executor=threads)
    assert sorted(os.listdir(f"{tmp_path}-mended")) == ["_manifest.arrow", "cut.arrow"]
    assert (aside.done, aside.failed) == (2, 1)
    assert jobs.repair(tmp_path, f"{tmp_path}-mended", executor=threads).kept == 2
    done = jobs.repair(tmp_path, executor=threads)
    assert (done.done, done.failed) == (2, 1)
    assert aljava.read(tmp_path / "cut.arrow").equals(table.slice(0, 6000))
    assert os.stat(tmp_path / "sound.arrow").st_mtime_ns == before.st_mtime_ns
    said = {os.path.basename(row["source"]): json.loads(row["details"] or "{}") for row in done.table.to_pylist()}
    assert said["sound.arrow"] == {"sound": True}
    assert said["cut.arrow"]["batches"] == 6
    assert said["cut.arrow"]["lost"]


def test_stats_without_reading_the_data(mixed: Path, threads) -> None:
    found = jobs.stats(mixed, executor=threads)
    said = {os.path.basename(row["source"]): row for row in found.table.to_pylist()}
    details = json.loads(said["c.arrow"]["details"])
    assert said["c.arrow"]["rows"] == 20_000
    assert details["schema"] == {"id": "int64", "name": "string"}
    assert details["columns"]["id"] == {"min": 0, "max": 19_999, "nulls": 0}
    assert json.loads(said["a.parquet"]["details"])["format"] == "Parquet"
    assert found.failed == 2  # a text says nothing of itself


def test_stats_leave_out_what_one_zone_does_not_know(tmp_path: Path, threads) -> None:
    measure = [float(row) for row in range(29_999)] + [math.nan]  # the zone of the greatest values has no bounds
    aljava.write({"measure": measure, "some": [None] * 20_000 + [*range(10_000)]}, tmp_path / "a.arrow")
    (row,) = jobs.stats(tmp_path, executor=threads).table.to_pylist()
    assert json.loads(row["details"])["columns"] == {
        "measure": {"nulls": 0},
        "some": {"min": 0, "max": 9_999, "nulls": 20_000},
    }


class TestBadInput:
    def test_a_target_that_is_a_source(self, mixed: Path, tmp_path: Path, threads) -> None:
        (tmp_path / "link").symlink_to(mixed)
        (mixed / "a.arrow").hardlink_to(mixed / "year=2025" / "deep" / "c.arrow")
        before = digests(mixed)
        for sources, target in [
            (mixed, mixed),
            (mixed, mixed / "out"),
            (mixed, tmp_path / "link"),
            (tmp_path / "link", mixed / "year=2025"),
            (f"{mixed}/*", mixed),
            (f"{mixed}/**/*.parquet", mixed / "x"),
            ([f"{tmp_path}/nowhere*", mixed], mixed),
        ]:
            with pytest.raises(InvalidOption, match="would be a source as well"):
                jobs.convert(sources, target, executor=threads)
        with pytest.raises(InvalidOption, match="would be replaced"):
            jobs.convert(f"{mixed}/year=2025/deep/c.arrow", mixed / "year=2025" / "deep", executor=threads)
        # A link to the source stands where its output would go.
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "c.arrow").hardlink_to(mixed / "year=2025" / "deep" / "c.arrow")
        with pytest.raises(InvalidOption, match="would be replaced"):
            jobs.convert(mixed / "year=2025" / "deep", tmp_path / "out", executor=threads)
        assert digests(mixed) == before
        # Beside the sources there is room for what no pattern matches.
        assert jobs.convert(f"{mixed}/*.jsonl", mixed, executor=threads).done == 1

    def test_two_sources_of_one_name(self, mixed: Path, tmp_path: Path, threads) -> None:
        (mixed / "a.csv").write_text("id\n1\n")
        with pytest.raises(InvalidOption, match=r"a\.arrow .* another source"):
            jobs.convert(mixed, tmp_path / "out", executor=threads)
        assert not (tmp_path / "out").exists()

    def test_nothing_there(self, mixed: Path, tmp_path: Path, threads) -> None:
        (tmp_path / "empty").mkdir()
        for nothing in (tmp_path / "empty", f"{mixed}/*.orc", tmp_path / "nowhere", []):
            with pytest.raises(NotFound):
                jobs.convert(nothing, tmp_path / "out", executor=threads)
        assert not (tmp_path / "out").exists()

    def test_the_manifest_of_another_job(self, mixed: Path, tmp_path: Path, threads) -> None:
        jobs.convert(mixed, tmp_path / "out", compression="lz4", executor=threads)
        with pytest.raises(JobError, match="compression was 'lz4', and now it is 'zstd'"):
            jobs.convert(mixed, tmp_path / "out", compression="zstd", executor=threads)
        with pytest.raises(JobError, match="'convert' and not 'repair'"):
            jobs.repair(f"{mixed}/*.arrow*", tmp_path / "out", executor=threads)
        (tmp_path / "out" / "_manifest.arrow").write_bytes(b"something else " * 100)
        with pytest.raises(JobError, match="no manifest"):
            jobs.convert(mixed, tmp_path / "out", executor=threads)

    @pytest.mark.parametrize("complete", [True, False], ids=["file", "stream"])
    def test_a_damaged_manifest(self, complete: bool, tmp_path: Path) -> None:
        """Whatever bit of it has flipped: an error that says so, or what it says of other sources."""
        place, chance = locate(tmp_path / "manifest.arrow"), random.Random(7)
        begun = Manifest(place, "test", {"a": 1})
        rest = (None, "a.arrow", 1, 1, "0" * 16, None, 0.5, 0)
        for start in range(0, 200, 50):
            begun.add(Entry(f"/in/{number}", 9, 1, "done", *rest) for number in range(start, start + 50))
            begun.flush()
        begun.close(complete=complete)
        content = (tmp_path / "manifest.arrow").read_bytes()
        found = Counter()
        for _ in range(300):
            damaged = bytearray(content)
            for _ in range(chance.choice((1, 3, 20))):
                damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            (tmp_path / "manifest.arrow").write_bytes(damaged)
            try:
                again = Manifest(place, "test", {"a": 1})
                try:
                    found["went on"] += len(again.done(None)) <= 200
                finally:
                    again.close(complete=False)
            except (InvalidData, JobError) as error:
                found["said so"] += "without that file the job begins anew" in str(error)
        assert sum(found.values()) == 300
        assert found["said so"] > 50

    @pytest.mark.skipif(os.getuid() == 0 and not os.path.exists("/proc/self/uid_map"), reason="root may do all")
    def test_no_permission(self, mixed: Path, tmp_path: Path, threads) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(AccessDenied):
            jobs.convert(mixed, tmp_path / "file" / "out", executor=threads)

    def test_options_that_cannot_be_meant(self, mixed: Path, tmp_path: Path, threads) -> None:
        with pytest.raises(InvalidOption, match="format 'orc'"):
            jobs.convert(mixed, tmp_path / "out", format="orc", executor=threads)
        with pytest.raises(InvalidOption, match="'everywhere'"):
            jobs.executor_for("everywhere")
        with pytest.raises(InvalidOption, match="0 workers"):
            jobs.executor_for("processes", 0)
        for wrong, words in (("dask://here:99999", "Port out of range"), ("dask:///x", "no address of a scheduler")):
            with pytest.raises(InvalidOption, match=words):
                jobs.executor_for(wrong)
        with pytest.raises(InvalidOption, match="has the workers that it has: leave workers=2 out"):
            jobs.executor_for("ray://here", 2)
        with pytest.raises(InvalidOption, match="takes folders by their addresses"):
            jobs.convert(mixed, 5, executor=threads)
        for wrong in (5, b"bytes"):
            with pytest.raises(InvalidOption, match="takes addresses of files, not a "):
                jobs.verify(wrong, executor=threads)
        with pytest.raises(InvalidOption, match="no folder"):
            jobs.convert(mixed, "shm://desk", executor=threads)


def test_one_run_at_a_time(mixed: Path, tmp_path: Path, threads) -> None:
    held = Manifest(locate(tmp_path / "m.arrow"), "verify", {})
    with pytest.raises(JobError, match="another run"):
        jobs.verify(mixed, manifest=tmp_path / "m.arrow", executor=threads)
    held.close(complete=False)
    assert jobs.verify(mixed, manifest=tmp_path / "m.arrow", executor=threads).done == 4


class Own(Executor):
    """An executor that the user brings."""

    def __init__(self, version: str | None = None) -> None:
        self.version, self.calls = version, 0

    def submit(self, fn, /, *args, **kwargs):
        self.calls += 1
        future: Future = Future()
        if fn is importlib.metadata.version and args == ("pyarrow",) and self.version != "right":
            future.set_exception(OSError("no disk")) if self.version is None else future.set_result(self.version)
            return future
        future.set_result(fn(*args, **kwargs))
        return future


def test_an_executor_of_the_users_own(mixed: Path, tmp_path: Path) -> None:
    own = Own("right")
    assert jobs.convert(mixed, tmp_path / "out", executor=own).done == 6
    assert own.calls >= 6
    with pytest.raises(JobError, match=r"a worker has pyarrow 0\.1, and here it is"):
        jobs.verify(mixed, executor=Own("0.1"))
    with pytest.raises(JobError, match="a worker cannot say which pyarrow it has: no disk"):
        jobs.verify(mixed, executor=Own())


def test_sources_of_every_kind(tmp_path: Path, threads) -> None:
    table = pa.table({"id": [1, 2]})
    aljava.write(table, tmp_path / "a.arrow")
    with aljava.Store("jobs-source") as store:
        store["b"] = table
        listing = list(listed([tmp_path / "a.arrow", (tmp_path / "a.arrow").as_uri(), "shm://jobs-source/b"]))
        assert [source.address for source in listing] == [str(tmp_path / "a.arrow")] * 2 + ["shm://jobs-source/b"]
        assert jobs.verify(iter(listing), executor=threads).rows == 4  # each once
        out = jobs.convert("shm://jobs-source/b", tmp_path / "out", format="csv", executor=threads)
        assert (out.ok, out.rows) == (True, 2)
        store.destroy()


def test_a_process_pool_and_its_dead(tmp_path: Path) -> None:
    """A worker that is killed takes its task along, and no other; a task that kills every worker is a failure."""
    for number in range(30):
        (tmp_path / f"{number:02d}").write_text({7: "once", 19: "always"}.get(number, "lives"))
    found = jobs.run(work.job(work.dies), jobs.listed(tmp_path), workers=2)
    assert (found.done, found.failed) == (29, 1)
    (row,) = found.failures.to_pylist()
    assert row["source"] == str(tmp_path / "19")
    assert "worker died" in row["reason"]
    assert len(found.table) == 30


def test_names_that_are_no_text(tmp_path: Path, threads) -> None:
    (tmp_path / "in").mkdir()
    aljava.write({"id": [1]}, os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.arrow"))
    aljava.write({"id": [1]}, tmp_path / "in" / "olá mundo.arrow")
    assert jobs.convert(tmp_path / "in", tmp_path / "out", executor=threads).done == 2
    assert sorted(os.listdir(os.fsencode(tmp_path / "out")))[1:] == [b"caf\xe9.arrow", "olá mundo.arrow".encode()]
    assert jobs.convert(tmp_path / "in", tmp_path / "out", executor=threads).kept == 2


def test_executors_that_fail(mixed: Path, tmp_path: Path) -> None:
    """What was done is kept, and the job says what became of it."""

    class Failing(Own):
        def __init__(self, end) -> None:
            super().__init__("right")
            self.end = end

        def submit(self, fn, /, *args, **kwargs):
            if fn is importlib.metadata.version or self.calls < 5:
                return super().submit(fn, *args, **kwargs)
            return self.end()

    def cancelled() -> Future:
        future: Future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    def lost() -> Future:
        future: Future = Future()
        future.set_exception(OSError("the worker is gone for good"))
        return future

    def closed() -> Future:
        raise RuntimeError("cannot schedule new futures after shutdown")

    with pytest.raises(JobError, match="cancelled tasks that nobody asked it to"):
        jobs.verify(mixed, executor=Failing(cancelled))
    with pytest.raises(JobError, match="cannot schedule new futures after shutdown"):
        jobs.verify(mixed, executor=Failing(closed))
    done = jobs.verify(mixed, executor=Failing(lost))
    assert "OSError: the worker is gone for good" in done.failures["reason"].to_pylist()


@pytest.mark.parametrize(("name", "spec"), [("distributed", "dask"), ("ray", "ray")])
def test_what_is_not_installed_is_named(name: str, spec: str) -> None:
    code = f"import sys; sys.modules[{name!r}] = None; from aljava import jobs; jobs.executor_for({spec!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "which is not installed: pip install 'aljava[cluster]'" in done.stderr


def test_progress_of_sources_whose_sizes_nobody_knows(threads) -> None:
    with aljava.Store("jobs-sizes") as store:
        for number in range(5):
            store[f"{number}"] = pa.table({"id": [number]})
        told: list = []
        addresses = [f"shm://jobs-sizes/{number}" for number in range(5)]
        assert jobs.verify(addresses, executor=threads, progress=told.append).ok
        store.destroy()
    assert told[-1].files == 5


def test_stats_of_every_type(tmp_path: Path, threads) -> None:
    aljava.write(pa.table(arrays()), tmp_path / "it.arrow")
    numbers = pa.array(range(20_000))
    table = pa.table({"day": numbers.cast(pa.duration("s")), "list": [[n] for n in range(20_000)], "id": numbers})
    aljava.write(table, tmp_path / "large.arrow", batch_rows=5000)
    done = jobs.stats(tmp_path, executor=threads)
    assert done.ok
    (large,) = (row for row in done.table.to_pylist() if row["source"].endswith("large.arrow"))
    columns = json.loads(large["details"])["columns"]
    assert (columns["id"]["min"], columns["id"]["max"], columns["id"]["nulls"]) == (0, 19_999, 0)


def test_a_target_without_locks(mixed: Path, tmp_path: Path, threads, without_locks) -> None:
    assert jobs.convert(mixed, tmp_path / "out", executor=threads).done == 6
    assert jobs.convert(mixed, tmp_path / "out", executor=threads).kept == 6
