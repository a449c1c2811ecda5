"""Commands about many files."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import aljava


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
    assert "'cloud'" in run(folder, "convert", "in", "out", "--on", "cloud", status=2)
    assert "no scheduler answers" in run(folder, "convert", "in", "out", "--on", "dask://127.0.0.1:1", status=1)
    assert "out* names no file" in run(folder, "verify", "out*", status=1)
