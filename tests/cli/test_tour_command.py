"""`aljava tour` and `aljava compare` as a user meets them: real processes, their output, their errors, their status."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

import aljava
from aljava.comparison.contenders import CODECS, FORMATS
from aljava.store import stores
from aljava.tour import load
from tests.cli.terminal import received

NAMES = ["IPC stream", "Feather", "Serialization", "Shared memory", "Compression", "SQL"]


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aljava", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command keeps its temporary files; a test fails that finds one there afterwards."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    before = stores()
    yield folder
    assert os.listdir(folder) == []
    assert stores() == before


# --- what it shows ----------------------------------------------------------------------------------------------------


def widest(lines: list[str], folder: Path) -> int:
    """Columns of the widest line; a path is never broken, however long this machine's temporary folder is."""
    return max(len(line) for line in lines if str(folder) not in line)


def test_the_tour_in_a_pipe(temporary: Path, tmp_path: Path) -> None:
    done = command("tour", "--rows", "20000", "--html", str(tmp_path / "tour.html"), COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert widest(lines, tmp_path) <= 80
    assert "\x1b" not in done.stdout
    for number, name in enumerate(NAMES, start=1):
        assert any(line.startswith(f"{number}. {name}") for line in lines)
    assert "21 of 21 steps verified" in done.stdout
    assert "GB/s" in done.stdout or "MB/s" in done.stdout
    assert "What Aljava would choose" in lines
    html = (tmp_path / "tour.html").read_text()
    assert all(name in html for name in NAMES)


def test_json_is_one_object_and_nothing_else(temporary: Path) -> None:
    done = command("tour", "--rows", "20000", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(told) == ["data", "sections", "advice", "verified"]
    assert (told["data"]["rows"], told["verified"]) == (20_000, True)
    assert [section["name"] for section in told["sections"]] == NAMES
    for section in told["sections"]:
        for step in section["steps"]:
            assert {"name", "seconds", "bytes", "verified"} <= set(step)
            assert step["verified"] is True
            assert step["seconds"] > 0
    assert [it["codec"] for it in told["sections"][4]["codecs"]] == ["none", "lz4", "zstd", "auto"]
    assert "compression=" in told["advice"]


def test_a_terminal_that_knows_no_unicode(temporary: Path) -> None:
    done = command("tour", "--rows", "100", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "21 of 21 steps verified" in done.stdout
    assert done.stdout.isascii()


def test_progress_is_for_a_terminal_and_on_standard_error(temporary: Path) -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "aljava", "tour", "--rows", "100", "--json"], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    shown = received(ours)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert json.loads(output)["verified"] is True
    assert b"Shared memory" in shown


def test_the_users_own_table_and_kept_files(temporary: Path, tmp_path: Path) -> None:
    pa.parquet.write_table(load(rows=1_000).table, tmp_path / "mine.parquet")
    done = command("tour", str(tmp_path / "mine.parquet"), "--rows", "10", "--keep", str(tmp_path / "kept"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["data"]["origin"] == "Parquet"
    assert aljava.read(tmp_path / "kept" / "table.feather").num_rows == 10


def test_a_reader_who_has_seen_enough(temporary: Path) -> None:
    line = f"{sys.executable} -m aljava tour --rows 1000 | head -1"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("A tour of Aljava")
    assert done.stderr == ""


def test_comparing_codecs(temporary: Path, tmp_path: Path) -> None:
    aljava.write(load(rows=10_000).table, tmp_path / "it.arrow")
    page = tmp_path / "comparison.html"
    arguments = ["--codec", "none", "--codec", "zstd:5", "--repeat", "1", "--goal", "size", "--html", str(page)]
    done = command("compare", str(tmp_path / "it.arrow"), *arguments, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "")
    assert widest(done.stdout.splitlines(), tmp_path) <= 80
    assert 'compression="zstd:5"' in done.stdout
    assert page.read_text().count("<svg") == 7
    assert "○" in done.stdout or "●" in done.stdout


def test_a_comparison_as_json(temporary: Path, tmp_path: Path) -> None:
    aljava.write(load(rows=1_000).table, tmp_path / "it.arrow")
    done = command("compare", str(tmp_path / "it.arrow"), "--json", "--formats", "--repeat", "1")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["rows"] == 1_000
    assert [it["codec"] for it in told["codecs"]] == [*CODECS, *FORMATS]
    assert set(told["advice"]) == {"speed", "size", "balanced"}
    assert {it["column"] for it in told["columns"]} == {"id", "value", "category"}


# --- bad input --------------------------------------------------------------------------------------------------------


def refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """One or two lines on standard error, and nothing on standard output."""
    assert done.returncode == status
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2, done.stderr
    assert lines[0].startswith("aljava: ")
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("verb", ["tour", "compare"])
def test_a_missing_file(verb: str, temporary: Path) -> None:
    refused(command(verb, "nothing.arrow"), 1, "nothing.arrow", "does not exist", "check the name")


def test_a_folder(temporary: Path, tmp_path: Path) -> None:
    refused(command("tour", str(tmp_path)), 1, str(tmp_path), "holds no files")


def test_an_empty_file(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.arrow").touch()
    refused(command("tour", str(tmp_path / "empty.arrow")), 1, "empty.arrow", "0 bytes", "write it again")


def test_a_text_file_called_arrow(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "text.arrow").write_text("dear diary\n")
    refused(command("tour", str(tmp_path / "text.arrow")), 1, "text.arrow", "looks like text", "aljava copy")


def test_a_parquet_file_cut_in_half(temporary: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.parquet"
    pa.parquet.write_table(load(rows=10_000).table, path)
    os.truncate(path, path.stat().st_size // 2)
    refused(command("tour", str(path)), 1, "half.parquet", "no footer", "copy or write it again")


def test_a_csv_file_with_ragged_rows(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3,4,5\n")
    refused(command("tour", str(tmp_path / "ragged.csv")), 1, "ragged.csv, line 3", "3 values", "Mend that line")


def test_a_number_of_rows_below_zero(temporary: Path) -> None:
    refused(command("tour", "--rows", "-1"), 2, "--rows -1", "must be 0 or more")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tour", "--rows", "many"], ["--rows", "integer"]),
        (["tour", "one", "two"], ["two"]),
        (["tour", "--colour"], ["--colour"]),
        (["compare"], ["data"]),
        (["compare", "x.arrow", "--goal"], ["--goal"]),
    ],
)
def test_wrong_usage(arguments: list[str], words: list[str], temporary: Path) -> None:
    refused(command(*arguments), 2, *words, "--help")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--codec", "ztsd"], ["'ztsd'", "did you mean 'zstd'"]),
        (["--codec", "zstd:50"], ["-131072 to 22", "50"]),
        (["--repeat", "0"], ["repeat is 0", "at least 1"]),
        (["--sample", "0"], ["sample is 0", "at least 1 row"]),
        (["--goal", "beauty"], ["'beauty'", "speed, balanced, size"]),
    ],
)
def test_a_comparison_that_cannot_be_meant(arguments: list[str], words: list[str], temporary: Path) -> None:
    refused(command("compare", "nothing.arrow", *arguments), 2, *words)


def test_what_is_no_table_to_compare(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "text.arrow").write_text("dear diary\n")
    refused(command("compare", str(tmp_path / "text.arrow")), 1, "text.arrow", "looks like text")
    refused(command("compare", str(tmp_path)), 1, str(tmp_path))


@pytest.mark.parametrize("option", ["--html", "--keep"])
def test_a_target_that_cannot_be(option: str, temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(command("tour", option, str(tmp_path / "file" / "below")), 1, str(tmp_path / "file"))
    if option == "--html":
        refused(command("tour", option, str(tmp_path)), 2, "is a folder")
        refused(command("tour", option, str(tmp_path / "no" / "page.html")), 1, "does not exist", "make it first")
    else:
        refused(command("tour", option, str(tmp_path / "file")), 2, "is a file", "name a folder")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount, to make a small file system")
def test_a_full_disk(small_disk: Path, temporary: Path) -> None:
    done = command("tour", "--rows", "500000", "--keep", str(small_disk), "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["verified"] is False
    outcome = {section["name"]: [step["verified"] for step in section["steps"]] for section in told["sections"]}
    # The systems that need no disk went on.
    assert outcome["IPC stream"] == outcome["Shared memory"] == [True, True, True]
    assert outcome["Feather"][0] is False
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert "steps failed" in lines[0]
    assert str(small_disk) in lines[0]
    assert "no space left" in lines[0]
    assert "ree some" in lines[0]
    # What could not be written whole is not there at all.
    for name in os.listdir(small_disk):
        assert aljava.read(small_disk / name).num_rows == 500_000


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount, to make a read-only file system")
def test_a_read_only_folder(small_disk: Path, temporary: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for option in (["--keep", str(small_disk)], ["--html", str(small_disk / "tour.html")]):
        refused(command("tour", *option), 1, str(small_disk), "ead-only", "Choose another folder")
