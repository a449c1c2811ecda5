"""The commands over files, as a user runs them: real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

import aljava
from aljava.layout import layout
from tests.cli.terminal import shown_while


def run(*arguments, status: int = 0, input: str | None = None, env=None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "aljava", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        input=input,
        env=os.environ | (env or {}),
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
    few = path.with_name("few.arrow")
    aljava.write({"id": [1]}, few)
    assert "few.arrow has no zones" in run("zones", few).stdout
    assert run("zones", few, "--json").stdout == ""
    assert "statistics" in run("zones", path, "-c", "nothing", status=1).stderr


def test_layout(path, tmp_path) -> None:
    parts = [json.loads(line) for line in run("layout", path, "--json").stdout.splitlines()]
    assert sum(part["bytes"] for part in parts) == path.stat().st_size
    table = layout(path).table()
    assert table.column_names == ["column", "kind", "bytes", "share"]
    assert table["bytes"].to_pylist() == [part["bytes"] for part in parts]
    assert sum(table["share"].to_pylist()) == pytest.approx(1)
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
    assert run("--version").stdout == f"aljava {aljava.__version__}\n"
    assert "no column" in run("head", path, "-c", "nothing", status=1).stderr
    for command in ("info", "head", "tail", "layout", "zones", "copy", "append", "verify", "repair", "concat"):
        assert "Example" in run(command, "--help").stdout


def test_parquet_from_elsewhere(tmp_path) -> None:
    pyarrow.parquet.write_table(pa.table({"id": [1, 2]}), tmp_path / "x.parquet")
    assert "Parquet" in run("info", tmp_path / "x.parquet").stdout
    with pytest.raises(aljava.errors.InvalidOption, match="aljava copy"):
        aljava.write({"id": [1]}, tmp_path / "y.parquet")


def completed(*words: str) -> list[str]:
    """What bash would get for the last word; it splits words at colons."""
    split = [part for word in words for part in re.split("(:)", word) if part or not word]
    environment = os.environ | {
        "COMP_WORDS": "\n".join(split),
        "COMP_CWORD": str(len(split) - 1),
        "_ALJAVA_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [str(Path(sys.executable).parent / "aljava")], env=environment, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_completion(path, tmp_path) -> None:
    with aljava.Store("completed") as store:
        store["trades"] = {"day": [1]}
        assert completed("aljava", "head", "shm://compl") == ["//completed/trades"]
        assert completed("aljava", "copy", "x.arrow", "shm://completed/t") == ["//completed/trades"]
        assert completed("aljava", "head", "shm://completed/trades", "-c", "d") == ["day"]
        store.destroy()
    shutil.copy(path, tmp_path / "x.arrow")
    assert completed("aljava", "head", str(tmp_path / "x.arrow"), "-c", "id,n") == ["id,name"]
    assert completed("aljava", "head", str(tmp_path / "none.arrow"), "-c", "i") == []
    assert completed("aljava", "head", "-c", "i") == []
    assert completed("aljava", "copy", "a", "b", "--compression", "z") == ["zstd"]
    assert completed("aljava", "compare", "a", "--goal", "s") == ["speed", "size"]
    assert completed("aljava", "convert", "a", "b", "--to", "p") == ["parquet"]
    assert completed("aljava", "convert", "a", "b", "--on", "th") == ["threads"]
    assert completed("aljava", "ver") == ["verify"]
    assert completed("aljava", "head", "no") == []  # the shell's own file names, then


@pytest.mark.parametrize("shell", ["fish", "zsh"])
def test_completion_of_other_shells(path, tmp_path, shell) -> None:
    shutil.copy(path, tmp_path / "x.arrow")
    program = str(Path(sys.executable).parent / "aljava")
    for line, expected in (("aljava ver", "verify"), (f"aljava head {tmp_path}/x.arrow -c id,n", "id,name")):
        answer = {
            f"_TYPER_COMPLETE_{shell.upper()}_ACTION": "get-args",
            "_TYPER_COMPLETE_ARGS": line,
            "_ALJAVA_COMPLETE": f"complete_{shell}",
        }
        done = subprocess.run([program], env=os.environ | answer, capture_output=True, text=True)
        assert expected in done.stdout
        assert done.stderr == ""
        if shell == "fish" and shutil.which("fish"):
            script = f"set PATH {Path(program).parent} $PATH; env _ALJAVA_COMPLETE=source_fish aljava | source; "
            script += f"complete -C '{line}'"
            done = subprocess.run(["fish", "-c", script], capture_output=True, text=True)
            assert done.stdout.split()[0] == expected


ODD_NAMES = ["a b\nc", '50%20#b?c [a]* it\'s "x"', "\x1b[31m" + os.fsdecode(b"caf\xe9")]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name(tmp_path, name) -> None:
    path = tmp_path / f"{name}.arrow"
    aljava.write({"id": [1, 2]}, path)
    for command in ("info", "head", "tail", "layout", "zones", "verify"):
        shown = run(command, path)
        assert "\x1b" not in shown.stdout
    run("copy", path, tmp_path / "copied.arrow")
    run("append", path, tmp_path / "copied.arrow")
    run("concat", path, path, tmp_path / "both.arrow")
    assert aljava.read(tmp_path / "both.arrow").num_rows == 4
    path.write_bytes(path.read_bytes()[:-20])
    assert "\x1b" not in run("info", path, status=1).stderr
    assert json.loads(run("repair", path, "--json").stdout)["rows"] == 2


def test_what_is_no_table(tmp_path) -> None:
    import socket

    cases = {
        "zeros": (bytes(1000), "begins with the bytes 00"),
        "text": (b"hello world\n" * 10, "aljava copy"),
        "five": (b"ARROW", "ends, after 5 bytes"),
        "empty": (b"", "is empty"),
    }
    for name, (content, _) in cases.items():
        (tmp_path / name).write_bytes(content)
    os.mkdir(tmp_path / "folder")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "sock"))
    others = {"folder": "folder", "sock": "a socket", "/dev/zero": "not a regular file", "nothing*": "nothing*"}
    expected = {name: said for name, (_, said) in cases.items()} | others
    for command in ("head", "append", "verify"):
        more = [tmp_path / "out.arrow"] if command in ("copy", "append", "concat") else []
        for name, said in expected.items():
            done = run(command, tmp_path / name, *more, status=1)
            assert said in (done.stderr or done.stdout), (command, name)
            assert name in (done.stderr or done.stdout)
            assert len(done.stderr.splitlines()) <= 1
    assert not (tmp_path / "out.arrow").exists()
    listening.close()


def test_what_may_not_be_written(path, tmp_path) -> None:
    for target, said in ((tmp_path / "no" / "x.arrow", "make it first"), ("/proc/x.arrow", "cannot be written")):
        assert said in run("copy", path, target, status=1).stderr
    before = path.read_bytes()
    assert "column 'name'" in run("append", "-", path, "--from", "csv", status=1, input="id\n1\n").stderr
    assert path.read_bytes() == before


def test_odd_tables(tmp_path) -> None:
    aljava.write(pa.table({}), tmp_path / "no columns.arrow")
    aljava.write(pa.table({"id": pa.array([], pa.int64())}), tmp_path / "no rows.arrow")
    aljava.write(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "twice.arrow")
    aljava.write(pa.table({f"c{i}": [i] for i in range(3000)}), tmp_path / "wide.arrow")
    for name in ("no columns", "no rows", "twice", "wide"):
        for command in ("info", "head", "layout"):
            run(command, tmp_path / f"{name}.arrow")
    assert "0 rows, 0 columns" in run("head", tmp_path / "no columns.arrow").stdout
    assert "'a' is there twice" in run("head", "--json", tmp_path / "twice.arrow", status=1).stderr
    assert "smaller parts" in run("layout", tmp_path / "wide.arrow").stdout


def test_as_many_rows_as_asked_for(path) -> None:
    assert "100 rows, 2 columns" in run("head", "-n", 100, path).stdout
    assert run("head", "-n", 100, path).stdout.count("name ") == 100 + 1


@pytest.mark.parametrize("words", ["info {x}", "head -n 5000 {x}", "copy {x} - --to csv", "cat {x}"])
def test_standard_output_without_room(path, words) -> None:
    command = [sys.executable, "-m", "aljava", *(word.format(x=path) for word in words.split())]
    with open("/dev/full", "wb") as full:
        failed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert failed.returncode == 1
    assert failed.stderr.endswith("No space left on device\n")
    assert len(failed.stderr.splitlines()) == 1


def test_what_a_terminal_shows(path, tmp_path) -> None:
    shown, status = shown_while([sys.executable, "-m", "aljava", "copy", str(path), "x.csv"], cwd=tmp_path)
    assert status == 0
    assert "10,000 rows" in shown
    assert "x.csv: 10,000 rows, " in shown.splitlines()[-1]


def test_names_with_commas(tmp_path) -> None:
    aljava.write({"net, gross": [1], "day": [2]}, tmp_path / "x.arrow")
    assert json.loads(run("head", "--json", "-c", 'day,"net, gross"', tmp_path / "x.arrow").stdout) == {
        "day": 2,
        "net, gross": 1,
    }


def test_through_a_pipe(path, tmp_path) -> None:
    text = run("copy", path, "-", "--to", "csv").stdout
    assert text.splitlines()[:2] == ['"id","name"', '0,"name 0"']
    run("copy", "-", tmp_path / "back.arrow", "--from", "csv", input=text)
    assert aljava.read(tmp_path / "back.arrow").equals(aljava.read(path).replace_schema_metadata())


def test_no_codes_where_nobody_looks(path) -> None:
    for command in ("info", "head", "verify"):
        plain = run(command, path, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1"})
        assert "\x1b" not in plain.stdout + plain.stderr
    folded = run("verify", path, env={"COLUMNS": "20"})
    assert len(folded.stdout.splitlines()) == 1


def test_an_interrupted_copy_leaves_nothing(tmp_path) -> None:
    source = pa.table({"id": range(3_000_000), "text": [str(i) for i in range(3_000_000)]})
    aljava.write(source, tmp_path / "big.arrow")
    interrupted = []
    signals = (signal.SIGINT, "csv"), (signal.SIGINT, "parquet"), (signal.SIGINT, "arrow"), (signal.SIGKILL, "csv")
    for number, kind in signals:
        target = tmp_path / f"{number} {kind}" / f"x.{kind}"
        target.parent.mkdir()
        target.write_text("old")
        command = [sys.executable, "-m", "aljava", "copy", str(tmp_path / "big.arrow"), str(target)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not any(
            entry.name.startswith(".") and entry.stat().st_size for entry in os.scandir(target.parent)
        ):
            time.sleep(0.001)
        process.send_signal(number)
        assert "Traceback" not in process.communicate(timeout=60)[1]
        if process.returncode == 0:  # it was done already
            continue
        assert process.returncode == (130 if number == signal.SIGINT else -9)
        assert target.read_text(errors="replace") == "old"
        interrupted.append(number)
        if number == signal.SIGINT:
            assert os.listdir(target.parent) == [target.name]
    assert len(interrupted) >= 2
