"""Commands about many files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import aljava
from tests.cli.terminal import shown_while


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        path = tmp_path / "in" / f"day={number}" / "part.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"id": range(number * 50_000, (number + 1) * 50_000)}), path)
    (tmp_path / "in" / "bad.csv").write_text("a,b\n1\n")
    return tmp_path


def run(folder: Path, *arguments: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "aljava", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_convert(folder: Path) -> None:
    said = run(folder, "convert", "in", "out", "--workers", "2", status=1)
    assert "failed" in said
    assert "bad.csv" in said
    assert "convert: 3 files, 1 failed; 150,000 rows" in said
    assert aljava.open(folder / "out" / "day=1" / "part.arrow").num_rows == 50_000
    (folder / "in" / "bad.csv").write_text("a,b\n1,2\n")
    found = json.loads(run(folder, "convert", "in", "out", "--on", "threads", "--json"))
    assert (found["ok"], found["done"], found["kept"], found["failures"]) == (True, 1, 3, [])
    assert "convert: 4 files;" in run(
        folder, "convert", "out", "back", "--to", "parquet", "--compression", "snappy", "--on", "threads"
    )
    assert pq.read_table(folder / "back" / "day=2" / "part.parquet", partitioning=None).num_rows == 50_000


def test_compact(folder: Path) -> None:
    options = ["--size", "20 kB", "--sort-by", "id", "--memory", "1GiB", "--compression", "zstd:3"]
    said = run(folder, "compact", "in", "lake", *options, status=1)
    assert "bad.csv" in said
    assert "compact: 3 files, 1 failed; 150,000 rows" in said
    for number in range(3):
        found = sorted((folder / "lake" / f"day={number}").iterdir())
        assert len(found) > 1
        rows = aljava.read([str(path) for path in found])["id"].to_pylist()
        assert rows == list(range(number * 50_000, (number + 1) * 50_000))
    (folder / "in" / "bad.csv").unlink()
    again = json.loads(run(folder, "compact", "in", "lake", *options, "--workers", "1", "--json"))
    assert (again["ok"], again["kept"], again["rows"]) == (True, 3, 0)
    said = run(folder, "compact", "in", "flat", "--on", "threads")
    assert "compact: 3 files; 150,000 rows" in said
    assert [path.name for path in (folder / "flat" / "day=1").iterdir()] == ["compacted-00000.arrow"]


def test_more_failures_than_are_shown(folder: Path) -> None:
    for number in range(25):
        (folder / "in" / f"bad{number:02}.csv").write_text("a,b\n1\n")
    said = run(folder, "convert", "in", "out", "--on", "threads", status=1)
    assert sum(line.startswith("failed ") for line in said.splitlines()) == 20
    (hint,) = (line for line in said.splitlines() if line.startswith("and 6 more"))
    asked = run(folder, "sql", hint.partition("aljava sql ")[2].strip('"'), "--format", "csv")
    assert asked.count(",failed,") == 26


def test_what_a_terminal_shows(folder: Path) -> None:
    command = [sys.executable, "-m", "aljava", "convert", "in", "out", "--on", "threads"]
    shown, status = shown_while(command, cwd=folder)
    assert status == 1
    for words in ("looking for files", "4 of 4 files, ", "1 failed"):
        assert words in shown


def test_control_c_says_how_far_it_came(folder: Path) -> None:
    rows = pa.table({"id": range(100_000), "text": [str(number**3) for number in range(100_000)]})
    for number in range(200):
        (folder / "many").mkdir(exist_ok=True)
        path = folder / "many" / f"{number}.parquet"
        pq.write_table(rows, path) if number == 0 else os.link(folder / "many" / "0.parquet", path)
    command = ["convert", "many", "out", "--on", "threads", "--workers", "1", "--compression", "zstd:15"]

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        while len(list((folder / "out").glob("*.arrow"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)

    shown, status = shown_while([sys.executable, "-m", "aljava", *command], cwd=folder, do=interrupt)
    assert status == 130
    assert "of 200 files are through. The same command goes on with the rest" in " ".join(shown.split())
    assert "Traceback" not in shown


def test_verify_and_repair_of_many(folder: Path) -> None:
    run(folder, "convert", "in/**/*.parquet", "out", "--on", "threads")
    cut = folder / "out" / "day=1" / "part.arrow"
    cut.write_bytes(cut.read_bytes()[:-30])
    said = run(folder, "verify", "out", "--on", "threads", "--manifest", "checked.arrow", status=1)
    assert "verify: 2 files, 1 failed" in said
    assert "day=1/part.arrow" in said
    assert "mended" in run(folder, "repair", "out", "--on", "threads")
    assert "verify: 1 file, 2 done before;" in run(
        folder, "verify", "out", "--on", "threads", "--manifest", "checked.arrow"
    )
    # One file is no job, and reads as it always did.
    assert "sound; checksums match" in run(folder, "verify", "out/day=1/part.arrow")


def test_stats(folder: Path) -> None:
    run(folder, "convert", "in/**/*.parquet", "out", "--on", "threads")
    said = run(folder, "stats", "out", "--on", "threads")
    assert "day=2/part.arrow" in said
    assert "149999" in said
    assert "3 files, 150,000 rows, 1 schema" in said
    rows = [json.loads(line) for line in run(folder, "stats", "out", "--on", "threads", "--json").splitlines()]
    assert [row["columns"]["id"]["min"] for row in rows] == [0, 50_000, 100_000]


def test_wrong_usage(folder: Path) -> None:
    assert "at least one source" in run(folder, "convert", "in", status=2)
    assert "would be a source as well" in run(folder, "convert", "in", "in/out", status=2)
    assert "at least one source" in run(folder, "compact", "in", status=2)
    assert "'much' is no size" in run(folder, "compact", "in", "out", "--size", "much", status=2)
    assert "'cloud'" in run(folder, "convert", "in", "out", "--on", "cloud", status=2)
    assert "no scheduler answers" in run(folder, "convert", "in", "out", "--on", "dask://127.0.0.1:1", status=1)
    assert "out* names no file" in run(folder, "verify", "out*", status=1)
