"""`aljava send`, `receive` and `cat`, as a shell runs them."""

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios

import pyarrow as pa
import pytest

import aljava
from tests.streams.peers import numbers, table

ALJAVA = [sys.executable, "-m", "aljava"]


def run(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*ALJAVA, *arguments], capture_output=True, timeout=60, **options)


def test_send_and_receive(tmp_path) -> None:
    aljava.write(table(5000), tmp_path / "x.arrow")
    address = f"unix://{tmp_path}/s"
    if len(address) > 100:
        pytest.skip("the temporary folder's name is too long for a Unix socket")
    with subprocess.Popen([*ALJAVA, "receive", address, f"{tmp_path}/y.arrow"], stderr=subprocess.PIPE) as receiver:
        done = run("send", f"{tmp_path}/x.arrow", address)
        assert (done.returncode, done.stderr) == (0, b"")
        assert receiver.communicate(timeout=60)[1] == b""
    assert receiver.returncode == 0
    assert aljava.read(tmp_path / "y.arrow").equals(table(5000))


def test_cat_into_a_pipe(tmp_path) -> None:
    aljava.write(numbers(10), tmp_path / "a.arrow")
    aljava.write(numbers(20), tmp_path / "b.arrow")
    done = run("cat", f"{tmp_path}/a.arrow", f"{tmp_path}/b.arrow", "-")
    assert done.stderr == b""
    assert pa.ipc.open_stream(done.stdout).read_all().num_rows == 30
    done = run("cat", f"{tmp_path}/b.arrow", "--where", "value >= 2 and id != 5", "--columns", "id", "--limit", "3")
    assert pa.ipc.open_stream(done.stdout).read_all().to_pydict() == {"id": [4, 6, 7]}


def test_from_one_machine_to_the_next(tmp_path) -> None:
    """`aljava cat big.arrow --where … - | ssh host aljava receive - shm://desk/big`, without the ssh."""
    aljava.write(table(1000), tmp_path / "x.arrow")
    address = f"shm://desk-{os.getpid()}/big"
    shell = f'"$0" -m aljava cat {tmp_path}/x.arrow --where "id < 10" - | "$0" -m aljava receive - {address}'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", shell, sys.executable], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert aljava.read(address)["id"].to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    aljava.Store(f"desk-{os.getpid()}").destroy()


def test_a_reader_that_has_seen_enough(tmp_path) -> None:
    aljava.write(numbers(3_000_000), tmp_path / "x.arrow", compression="none")
    shell = f'"$0" -m aljava cat {tmp_path}/x.arrow | head -c 1000 > /dev/null'
    done = subprocess.run(["bash", "-c", shell, sys.executable], capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["cat", "none.arrow"], 1, b"none.arrow does not exist"),
        (["cat", "{x}", "--where", "colour = 3"], 1, b"no column 'colour'"),
        (["cat", "{x}", "--where", "id = "], 1, b"ends where a value"),
        (["receive", "tcp://127.0.0.1:1", "x.arrow", "--compression", "brotli"], 2, b"brotli"),
        (["cat", "{x}", "--columns", "id,,"], 2, b"commas"),
        (["cat", "{x}", "{y}"], 1, b"different columns"),
        (["send", "{x}", "tcp://127.0.0.1:1?timeout=0.1"], 1, b"nobody receives there"),
        (["receive", "tcp://nonsense", "y"], 2, b"HOST:PORT"),
        (["serve", "{x}"], 2, b"say where to listen"),
        (["serve", "{x}", "--http", "0.0.0.0:0"], 1, b"token"),
        (["serve", "none.arrow", "--http", "127.0.0.1:0"], 1, b"does not exist"),
        (["serve", "{x}", "--http", "nowhere"], 2, b"HOST:PORT"),
    ],
)
def test_mistakes(arguments: list[str], status: int, words: bytes, tmp_path) -> None:
    aljava.write(numbers(10), tmp_path / "x.arrow")
    aljava.write(table(10), tmp_path / "y.arrow")
    done = run(*[part.format(x=tmp_path / "x.arrow", y=tmp_path / "y.arrow") for part in arguments], cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert b"Traceback" not in done.stderr


def test_what_a_terminal_shows(tmp_path) -> None:
    """Who is waited for, then what came; nothing of either where there was nothing."""
    aljava.write(numbers(1000), tmp_path / "x.arrow")
    address = f"unix://{tmp_path}/s"
    if len(address) > 100:
        pytest.skip("the temporary folder's name is too long for a Unix socket")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with subprocess.Popen([*ALJAVA, "receive", address, f"{tmp_path}/y.arrow"], stderr=theirs) as receiver:
        shown = b""
        while b"waiting" not in shown:
            assert select.select([ours], [], [], 60)[0]
            shown += os.read(ours, 1 << 16)
        assert f"waiting for a sender at {address}"[:70].encode() in shown
        assert run("send", f"{tmp_path}/x.arrow", address).returncode == 0
    assert receiver.returncode == 0
    assert b"1,000 rows, 0.0 MB; " in os.read(ours, 1 << 16)
    command = [*ALJAVA, "send", f"{tmp_path}/x.arrow", f"{address}?timeout=0.1"]
    assert subprocess.run(command, stderr=theirs, timeout=60).returncode == 1
    shown = os.read(ours, 1 << 16)
    assert b"calling" in shown
    assert b"nobody receives there" in shown
    assert b" rows" not in shown
    os.close(ours)
    os.close(theirs)
