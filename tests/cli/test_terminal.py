"""Commands as a person sees them: standard output and error are one terminal, of eighty columns."""

import fcntl
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import aljava
from tests.cli.terminal import received
from tests.systems import mounted

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def at_a_terminal(*arguments: str, folder: Path) -> tuple[int, str]:
    """The exit status, and everything that the terminal was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    running = subprocess.Popen(
        [sys.executable, "-m", "aljava", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    shown = received(ours)
    return running.wait(60), shown.decode().replace("\r\n", "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    aljava.write({"day": [1, 2, 2], "price": [0.5, 1.5, 2.5]}, tmp_path / "trades.arrow")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("tour --rows 100", "21 of 21 steps verified"),
        ("compare trades.arrow --repeat 1", "write this data with compression="),
        ("verify trades.arrow", "3 rows in 1 batch, sound; checksums match"),
        ("repair trades.arrow --to saved.arrow", "3 rows in 1 batch saved"),
        ("copy trades.arrow trades.csv", "trades.csv: 3 rows"),
        ("""sql "select count(*) from 'trades.arrow'" """, "1 row, 1 column"),
        ("convert trades.arrow out --on threads", "1 file"),
        ("head trades.arrow", "3 rows, 2 columns"),
    ],
)
def test_each_command_shows_what_it_did(folder: Path, line: str, shown: str) -> None:
    status, text = at_a_terminal(*shlex.split(line), folder=folder)
    plain = ESCAPES.sub("", text)
    assert (status, shown in plain) == (0, True), plain


def test_no_line_that_says_what_goes_on_is_left_among_the_output(folder: Path) -> None:
    _, text = at_a_terminal("tour", "--rows", "100", folder=folder)
    assert "Making the notebook's table …" in text
    left = ESCAPES.sub("", re.sub(r"[^\n]*(\n\x1b\[\?25h\r?\x1b\[1A)?\x1b\[2K", "", text))
    assert "…" not in left


def test_rows_that_go_to_the_terminal_are_not_mixed_with_a_bar(folder: Path) -> None:
    status, text = at_a_terminal("copy", "trades.arrow", "-", "--to", "csv", folder=folder)
    assert (status, text) == (0, '"day","price"\n1,0.5\n2,1.5\n2,2.5\n-: 3 rows, 32 bytes\n')


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_outputs(folder: Path, closed: str) -> None:
    line = f"{shlex.quote(sys.executable)} -m aljava head trades.arrow {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("at", ["import pyarrow", "import typer", "aljava.cli.main"])
def test_control_c_while_python_imports(folder: Path, at: str) -> None:
    """Whoever changes their mind at once sees no traceback either."""
    program = f"""if True:
        import os, signal, sys
        class Interrupt:
            def find_spec(name, path, target=None):
                if {at!r} == "import " + name:
                    os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Interrupt)
        sys.argv = ["aljava", "head", "trades.arrow"]
        import aljava.__main__
        if "cli" in {at!r}:
            import aljava.cli
            aljava.cli.app = lambda **_: os.kill(os.getpid(), signal.SIGINT)
        aljava.__main__.main()
    """
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=60)
    expected = 130 if "cli" in at else -signal.SIGINT
    assert (done.returncode, done.stdout, done.stderr) == (expected, "", "")


def test_what_is_said_of_age_notes_and_files_that_stay(folder: Path) -> None:
    aljava.write({"id": range(10_000)}, folder / "long.arrow")
    _, text = at_a_terminal("compare", "long.arrow", "--sample", "1000", "--repeat", "1", folder=folder)
    assert "1,000 of 10,000 rows" in " ".join(ESCAPES.sub("", text).split())
    status, text = at_a_terminal("tour", "--rows", "100", "--keep", "kept", folder=folder)
    assert (status, "The files: " in text) == (0, True)
    assert os.listdir(folder / "kept")
    with aljava.Store("old-desk") as store:
        store["trades"] = aljava.read(folder / "trades.arrow")
        os.utime(f"{store.path}/trades.arrow", (time.time() - 7300,) * 2)
        _, text = at_a_terminal("store", "ls", "old-desk", folder=folder)
        store.destroy()
    assert "2 h" in ESCAPES.sub("", text)


def test_a_tour_where_nothing_can_be_shared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "shm").mkdir()
    monkeypatch.setenv("ALJAVA_SHM", str(folder / "shm"))
    with mounted(folder / "shm", "size=16k"):
        status, text = at_a_terminal("tour", "--rows", "10000", folder=folder)
    plain = ESCAPES.sub("", text)
    assert (status, "of 21 steps verified" in plain, "no room for" in plain, "Traceback" in plain) == (
        1,
        True,
        True,
        False,
    )
