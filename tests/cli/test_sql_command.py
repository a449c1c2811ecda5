"""`aljava sql`, as a user runs it: real processes, real pipes and a real terminal."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import aljava

ALJAVA = [sys.executable, "-m", "aljava", "sql"]
#: A query that runs for hours, and has no row before it ends.
ENDLESS = "select sum(sin(a.range * b.range)) from range(10000000) a, range(10000000) b"


@pytest.fixture
def trades(tmp_path: Path) -> str:
    address = str(tmp_path / "trades.arrow")
    aljava.write({"id": [1, 2, 3], "day": ["mon", "tue", None], "tags": [["a"], [], ["b", "c"]]}, address)
    return address


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60, **options}
    if "input" in options:
        del options["stdin"]
    return subprocess.run([*ALJAVA, *arguments], **options)


def test_a_table(trades: str) -> None:
    shown = run(f"from '{trades}' order by id")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines()[1:8] == [
        "│    id │ day    │ tags            │",
        "│ int64 │ string │ list<l: string> │",
        "├───────┼────────┼─────────────────┤",
        "│     1 │ mon    │ [a]             │",
        "│     2 │ tue    │ []              │",
        "│     3 │ NULL   │ [b, c]          │",
        "╰───────┴────────┴─────────────────╯",
    ]
    assert "3 rows, 3 columns" in shown.stdout


def test_csv_and_json(trades: str) -> None:
    query = f"select id, day from '{trades}' order by id"
    assert run(query, "--format", "csv").stdout == "id,day\n1,mon\n2,tue\n3,\n"
    assert json.loads(run(query, "--format", "json").stdout) == [
        {"id": 1, "day": "mon"},
        {"id": 2, "day": "tue"},
        {"id": 3, "day": None},
    ]


@pytest.mark.long
def test_standard_output_is_appended_to(trades: str, tmp_path: Path) -> None:
    target = tmp_path / "log"
    target.write_text("before\n")
    with open(target, "a") as file:
        run(f"select id from '{trades}'", "--format", "csv", stdout=file, capture_output=False)
    assert target.read_text() == "before\nid\n1\n2\n3\n"


def test_arrow_through_a_pipe(trades: str) -> None:
    first = subprocess.run([*ALJAVA, f"from '{trades}'", "--format", "arrow"], stdout=subprocess.PIPE, timeout=60)
    assert pa.ipc.open_stream(first.stdout).read_all().num_rows == 3
    second = subprocess.run(
        [*ALJAVA, "select sum(id) as total from stdin", "--format", "csv"],
        input=first.stdout,
        capture_output=True,
        timeout=60,
    )
    assert second.stdout == b"total\n6\n"


@pytest.mark.long
def test_a_query_from_standard_input(trades: str) -> None:
    query = f"create temp table t as from '{trades}';\nselect count(*) as n from t;"
    assert run("--format", "csv", input=query).stdout == "n\n3\n"
    assert run("-", "--format", "csv", input=query).stdout == "n\n3\n"


@pytest.mark.long
@pytest.mark.parametrize("name", ["out.arrow", "out.parquet", "out.csv", "out.json"])
def test_to_an_address(trades: str, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    done = run(f"select id from '{trades}' where id > 1", "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert "2 rows" in done.stderr
    assert done.stdout == ""
    assert aljava.sql(f"select sum(id) from '{target}'").fetchall() == [(5,)]


@pytest.mark.long
def test_to_shared_memory(trades: str) -> None:
    assert run(f"from '{trades}'", "-o", "shm://sql-command/trades").returncode == 0
    assert run("select count(*) as n from 'shm://sql-command/trades'", "--format", "csv").stdout == "n\n3\n"


@pytest.mark.long
@pytest.mark.parametrize("name", ["out.arrow", "out.parquet", "out.csv", "out.json"])
def test_nothing_half_written_stays(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    query = "select case when range < 500000 then range else 'x'::int end from range(1000000)"
    failed = run(query.replace("'x'", "('x' || range)"), "-o", str(target))
    assert failed.returncode == 1
    assert "Conversion Error" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["selec 1"], 1, "LINE 1: selec 1"),
        (["from 'missing.arrow'"], 1, "missing.arrow does not exist"),
        (["select 'x'::int"], 1, "Could not convert string 'x'"),
        (["select 1", "--format", "xml"], 2, "xml"),
        (["select 1", "--format", "table", "-o", "x"], 2, "--format table is for the terminal"),
        ([""], 1, "no statement"),
        (["from 'nosuch://x/y.arrow'"], 2, "nosuch://x/y.arrow"),
    ],
)
def test_what_is_wrong(arguments: list[str], status: int, message: str) -> None:
    failed = run(*arguments)
    assert failed.returncode == status
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.long
def test_a_file_that_is_damaged_in_its_midst(tmp_path: Path) -> None:
    target = tmp_path / "damaged.arrow"
    aljava.write({"id": range(100_000)}, str(target), batch_rows=10_000)
    content = bytearray(target.read_bytes())
    message = content.index(b"\xff\xff\xff\xff", len(content) // 2)
    content[message + 8 : message + 72] = b"\xff" * 64  # the metadata of a record batch
    target.write_bytes(content)
    failed = run(f"select sum(id) from '{target}'")
    assert failed.returncode == 1
    assert re.match(r"aljava: .*damaged\.arrow", failed.stderr), failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_long_result_is_cut(tmp_path: Path) -> None:
    shown = run("from range(200_000)")
    assert shown.returncode == 0, shown.stderr
    assert "the first 40 of more than 10,000 rows, 1 column; all of them: -o ADDRESS" in shown.stdout


@pytest.mark.parametrize("format", ["table", "csv", "json", "arrow"])
def test_standard_output_without_room(format: str) -> None:
    with open("/dev/full", "wb") as full:
        failed = run("from range(100)", "--format", format, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (failed.returncode, "Traceback" in failed.stderr) == (1, False), failed.stderr
    assert "No space left on device" in failed.stderr


@pytest.mark.long
def test_a_reader_that_has_seen_enough() -> None:
    command = f"{sys.executable} -m aljava sql 'from range(10000000)' --format csv | head -n 2"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert shown.stdout == "range\n0\n"
    assert shown.stderr == ""


@pytest.mark.long
def test_control_c_ends_a_query() -> None:
    process = subprocess.Popen([*ALJAVA, ENDLESS], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(2.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in error


# -- the shell ---------------------------------------------------------------------------------------------------------


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, folder: Path, command: Sequence[str] = ALJAVA) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "TERM": "dumb", "COLUMNS": "100"}
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment, start_new_session=True
        )
        os.close(slave)
        self._seen = ""

    def expect(self, text: str, seconds: float = 30) -> str:
        """Waits until the terminal shows `text`; returns what came until then."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {text!r} on the terminal, but {self._seen!r}"
            try:
                self._seen += os.read(self._master, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"the shell ended without {text!r}: {self._seen!r}") from None
        before, _, self._seen = self._seen.partition(text)
        return before

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path, trades: str) -> Iterator[Terminal]:
    shell = Terminal(tmp_path)
    try:
        shell.expect("aljava> ")
        yield shell
    finally:
        shell.close()


@pytest.mark.long
def test_the_shell_asks_answers_and_leaves(terminal: Terminal, tmp_path: Path) -> None:
    terminal.send("select count(*) as n\n")
    terminal.expect("...> ")
    terminal.send("from 'trades.arrow';\n")
    terminal.expect("1 row, 1 column")
    terminal.expect("aljava> ")
    terminal.send("create temp view v as from 'trades.arrow'; select sum(id) + 36 as s from v;\n")
    terminal.expect("42")
    terminal.expect("aljava> ")
    terminal.send("selec 1;\n")
    terminal.expect("LINE 1: selec 1")
    terminal.expect("aljava> ")
    terminal.send("from 'missing.arrow';\n")
    terminal.expect("missing.arrow does not exist")
    terminal.expect("aljava> ")
    aljava.write({f"c{number}": [number] for number in range(300)}, tmp_path / "wide.arrow")
    terminal.send("from 'wide.arrow';\n")
    assert terminal.expect("1 row, 300 columns").count("…") > 1
    terminal.expect("aljava> ")
    terminal.send("\n")
    terminal.expect("aljava> ")
    terminal.send(".help\n")
    terminal.expect("control-D")
    terminal.expect("aljava> ")
    terminal.send(".exit\n")
    assert terminal.process.wait(30) == 0
    history = (tmp_path / "state" / "aljava" / "sql_history").read_text()
    assert "from 'trades.arrow';" in history


@pytest.mark.long
def test_control_c_interrupts_the_query_and_not_the_shell(terminal: Terminal) -> None:
    terminal.send(f"{ENDLESS};\n")
    time.sleep(2)
    terminal.interrupt()
    terminal.expect("interrupted")
    terminal.expect("aljava> ")
    terminal.send("select 6 * 7 as answer;\n")
    terminal.expect("42")
    terminal.expect("aljava> ")
    for number in range(20):
        terminal.send(f"select half a{number}")
        terminal.expect(f"half a{number}")
        terminal.interrupt()
        terminal.expect("^C")
        terminal.expect("aljava> ")
    terminal.send("\x04")
    assert terminal.process.wait(30) == 0


@pytest.mark.long
def test_the_shell_completes_addresses_columns_and_keywords(terminal: Terminal) -> None:
    terminal.send("select * from 'tra\t")
    terminal.expect("trades.arrow'")
    terminal.send(" where tag\t")
    terminal.expect("tags")
    terminal.send(" is not null;\n")
    terminal.expect("3 rows, 3 columns")
    terminal.expect("aljava> ")
    terminal.send("sele\t")
    terminal.expect("select")
    terminal.send(" 1 as one;\n")
    terminal.expect("1 row, 1 column")
    terminal.expect("aljava> ")
    terminal.send("create temp table quivers (flechas int);\n")
    terminal.expect("aljava> ")
    terminal.send("select flec\t")
    terminal.expect("flechas")
    terminal.send(" from quiv\t")
    terminal.expect("quivers")
    terminal.send(";\n")
    terminal.expect("0 rows, 1 column")
    terminal.expect("aljava> ")
    terminal.send("from 'nothing.arrow' where x\t\t;\n")
    terminal.expect("nothing.arrow does not exist")
    terminal.expect("aljava> ")
    terminal.send(".exit\n")
    assert terminal.process.wait(30) == 0


def test_options_without_a_query(tmp_path: Path) -> None:
    shell = Terminal(tmp_path, [*ALJAVA, "--format", "csv"])
    try:
        shell.expect("--output and --format are for a query: give one")
        assert shell.process.wait(30) == 2
    finally:
        shell.close()


@pytest.mark.long
def test_a_shell_without_a_history(tmp_path: Path, trades: str) -> None:
    """Where it cannot be kept, and where Python was built without readline."""
    (tmp_path / "state").write_text("a file where a folder has to be")
    without = (
        "import sys; sys.modules['readline'] = None; sys.argv = ['aljava', 'sql']; import aljava.cli as it; it.main()"
    )
    for command, said in ((ALJAVA, "the history is not kept: "), ([sys.executable, "-c", without], "")):
        shell = Terminal(tmp_path, command)
        try:
            shell.expect("aljava> ")
            shell.send("select count(*) * 14 as n from 'trades.arrow';\n")
            shell.expect("42")
            shell.expect("aljava> ")
            shell.send("\x04")
            if said:
                shell.expect(said)
            assert shell.process.wait(30) == 0
        finally:
            shell.close()
