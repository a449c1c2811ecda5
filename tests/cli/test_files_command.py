"""The commands over files, as a user runs them: real processes."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

import aljava


def run(*arguments, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "aljava", *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "a table.arrow"
    table = pa.table({"id": range(10_000), "name": [f"name {i}" for i in range(10_000)]})
    aljava.write(table, where, metadata={"author": "Ana"}, batch_rows=5000)
    return where


def test_info(path) -> None:
    shown = run("info", path).stdout
    assert "10,000 rows in 2 batches" in shown
    assert "name" in shown
    facts = json.loads(run("info", path, "--json").stdout)
    assert (facts["rows"], facts["batches"], facts["bytes"]) == (10_000, 2, path.stat().st_size)
    assert facts["columns"] == {"id": "int64", "name": "string"}
    assert facts["metadata"] == {"author": "Ana"}


def test_head_and_tail(path) -> None:
    assert "name 2" in run("head", path, "-n", 3).stdout
    lines = run("head", path, "-n", 2, "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"id": 0, "name": "name 0"}, {"id": 1, "name": "name 1"}]
    assert json.loads(run("tail", path, "-n", 1, "-c", "id", "--json").stdout) == {"id": 9999}


def test_zones(path) -> None:
    zones = [json.loads(line) for line in run("zones", path, "-c", "id", "--json").stdout.splitlines()]
    assert zones[0]["id min"] == 0
    assert zones[-1]["id max"] == 9999
    assert "id min" in run("zones", path).stdout
    assert "statistics" in run("zones", path, "-c", "nothing", status=1).stderr


def test_layout(path, tmp_path) -> None:
    parts = [json.loads(line) for line in run("layout", path, "--json").stdout.splitlines()]
    assert sum(part["bytes"] for part in parts) == path.stat().st_size
    assert {part["column"] for part in parts} == {"id", "name", None}
    assert "█" in run("layout", path, "--html", tmp_path / "page.html").stdout
    assert "<table" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("suffix", ["arrow", "parquet", "csv", "jsonl"])
def test_copy_there_and_back(path, tmp_path, suffix) -> None:
    there, back = tmp_path / f"there.{suffix}", tmp_path / "back.arrow"
    assert "10,000 rows" in run("copy", path, there).stderr
    run("copy", there, back)
    assert aljava.read(back).to_pylist() == aljava.read(path).to_pylist()
    run("copy", there, back, "--where", "id >= 9998", "-c", "name")
    assert aljava.read(back).to_pydict() == {"name": ["name 9998", "name 9999"]}


def test_copy_of_values_that_json_lacks(tmp_path) -> None:
    import datetime
    import decimal

    table = pa.table(
        {
            "f": [float("nan"), 1.5],
            "b": [b"\xff\x00", None],
            "d": [datetime.date(2025, 1, 2), None],
            "n": pa.array([decimal.Decimal("1.50"), None]),
            "l": [[1, None], []],
        }
    )
    aljava.write(table, tmp_path / "x.arrow")
    run("copy", tmp_path / "x.arrow", tmp_path / "x.jsonl")
    first = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert first == {"f": None, "b": "/wA=", "d": "2025-01-02", "n": "1.50", "l": [1, None]}


def test_append_and_concat(path, tmp_path) -> None:
    (tmp_path / "more.csv").write_text("name,id\nzoe,10000\n")
    assert "1 row," in run("append", tmp_path / "more.csv", path).stderr
    assert aljava.read(path).slice(9_999).to_pylist()[1] == {"id": 10_000, "name": "zoe"}
    run("concat", path, path, tmp_path / "both.arrow")
    assert aljava.open(tmp_path / "both.arrow").num_rows == 20_002
    assert "at least one file" in run("concat", path, status=2).stderr


def test_verify_and_repair(path, tmp_path) -> None:
    assert "sound; checksums match" in run("verify", path).stdout
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 5000])
    assert "no footer" in run("verify", path, status=1).stdout
    assert not json.loads(run("verify", path, "--json", status=1).stdout)["ok"]
    assert "aljava repair" in run("info", path, status=1).stderr
    assert "5,000 rows in 1 batch" in run("repair", path, "--to", tmp_path / "saved.arrow").stdout
    assert json.loads(run("repair", path, "--json").stdout)["rows"] == 5000
    assert aljava.read(path).num_rows == 5000


def test_mistakes(path, tmp_path) -> None:
    assert "does not exist" in run("info", tmp_path / "nothing", status=1).stderr
    assert "unknown kind" in run("info", "quiver://x", status=2).stderr
    assert "no column" in run("head", path, "-c", "nothing", status=1).stderr
    for command in ("info", "head", "tail", "layout", "zones", "copy", "append", "verify", "repair", "concat"):
        assert "Example" in run(command, "--help").stdout


def test_parquet_from_elsewhere(tmp_path) -> None:
    pyarrow.parquet.write_table(pa.table({"id": [1, 2]}), tmp_path / "x.parquet")
    assert "Parquet" in run("info", tmp_path / "x.parquet").stdout
    with pytest.raises(aljava.errors.InvalidOption, match="aljava copy"):
        aljava.write({"id": [1]}, tmp_path / "y.parquet")
