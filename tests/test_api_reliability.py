"""Writers and appenders killed -9 at each call that changes a file: nothing older is lost, and no litter stays.

A child process performs a write or an append, and kills itself at the n-th call of `os` that changes a file: before
it, and, for what writes bytes, with a part of them written. Every point is tried. That these calls are all there are
is checked against the kernel's own account, by strace, where that is installed.
"""

import errno
import functools
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import aljava
from aljava.errors import NotFound, TransferError, TruncatedFile

#: The calls that change a file or a folder, as Aljava makes them.
CALLS = ("pwrite", "write", "writev", "ftruncate", "rename", "replace", "link", "unlink", "fchmod", "fsync", "open")
SYSTEM_CALLS = (
    "pwrite64,write,writev,pwritev,ftruncate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,fchmod,fsync,openat"
)


#: Rows of the new record batches: a column takes 64 KiB, so that each is written by a call of its own.
ROWS = 8192


@functools.cache
def old_table() -> pa.Table:
    return made(3000, 0)


@functools.cache
def new_table() -> pa.Table:
    return made(10 * ROWS, 10_000)


def made(rows: int, first: int) -> pa.Table:
    noise = np.random.default_rng(first)
    return pa.table(
        {
            "id": np.arange(first, first + rows),
            "value": noise.random(rows),
            "kind": pa.array(["x", "y", f"kind {first}", None]).take(pa.array(np.arange(rows) % 4)).dictionary_encode(),
            "more": noise.random(rows),
        }
    )


def write_new(path: str) -> None:
    aljava.write(new_table(), path, compression="none", batch_rows=ROWS, durable=True)


def write_compressed(path: str) -> None:
    aljava.write(new_table(), path, compression="zstd", batch_rows=ROWS)


def create_new(path: str) -> None:
    aljava.write(new_table(), path, compression="none", batch_rows=ROWS, mode="create")


def append_new(path: str) -> None:
    aljava.append(new_table(), path, compression="none", batch_rows=ROWS)


def append_compressed(path: str) -> None:
    aljava.append(new_table(), path, compression="zstd", batch_rows=ROWS, durable=True)


def append_little(path: str) -> None:
    aljava.append(new_table().slice(0, 3), path)


def child(action, path: str, point: int, part: float | None) -> None:
    """Performs an action, and dies at its point-th change; prints how many there were if it lives."""
    real = {name: getattr(os, name) for name in CALLS}
    done = 0

    def watched(name):
        def call(*arguments, **options):
            nonlocal done
            if name == "open" and not (len(arguments) > 1 and arguments[1] & os.O_CREAT):
                return real[name](*arguments, **options)
            done += 1
            if done == point:
                if part is not None and name == "pwrite":
                    real[name](arguments[0], memoryview(arguments[1])[: int(part * len(arguments[1]))], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name))
    action(path)
    real["write"](1, str(done).encode())


class Zygote:
    """A process that has everything imported and forks a child for each point: a fraction of starting Python anew."""

    def __init__(self, action) -> None:
        self.action = action
        code = (
            "import os, pickle, sys\n"
            "import aljava, aljava.appending, aljava.fragments, aljava.payloads, tests.test_api_reliability as here\n"
            "action = getattr(here, sys.argv[1])\n"
            "here.old_table(), here.new_table()\n"
            "for line in sys.stdin:\n"
            "    path, point, part = pickle.loads(bytes.fromhex(line))\n"
            "    read, write = os.pipe()\n"
            "    pid = os.fork()\n"
            "    if not pid:\n"
            "        os.dup2(write, 1)\n"
            "        here.child(action, path, point, part)\n"
            "        os._exit(0)\n"
            "    os.close(write)\n"
            "    said = os.read(read, 100).decode()\n"
            "    os.close(read)\n"
            "    _, status = os.waitpid(pid, 0)\n"
            "    print(status, said, flush=True)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, action.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, path, point: int, part: float | None = None) -> int | None:
        """Forks a child; returns how many changes it made, or None if it was killed."""
        print(pickle.dumps((str(path), point, part)).hex(), file=self.process.stdin, flush=True)
        status, *said = self.process.stdout.readline().split()
        if int(status) == signal.SIGKILL:
            return None
        assert status == "0"
        return int(said[0])

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait() == 0
        self.process.stdout.close()


@pytest.fixture
def zygote(request):
    made = Zygote(request.param)
    yield made
    made.close()


def points(zygote: Zygote, fresh):
    """Kills at every point, before the call and amid it; yields the path after each. `fresh` makes the state before."""
    count = zygote.run(fresh(), 0)
    assert count > 4
    for point in range(1, count + 1):
        for part in (None, 0.5):
            path = fresh()
            assert zygote.run(path, point, part) is None
            yield path


def same(table: pa.Table, *others: pa.Table) -> bool:
    wanted = pa.concat_tables([plain(other) for other in others])
    return plain(table).equals(wanted)


def plain(table: pa.Table) -> pa.Table:
    return table.set_column(2, "kind", table["kind"].cast(pa.string()))


@pytest.mark.long
@pytest.mark.parametrize("zygote", [write_new, write_compressed], indirect=True)
def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path, zygote) -> None:
    path, template = tmp_path / "table.arrow", tmp_path / "template"
    aljava.write(old_table(), template, compression="none")
    old, new = template.read_bytes(), None

    def fresh():
        path.write_bytes(old)
        return path

    tried = 0
    for _ in points(zygote, fresh):
        tried += 1
        left = path.read_bytes()
        if left != old:
            new = new or left
            assert left == new
            assert same(aljava.read(path), new_table())
        # The next write in that folder, of whatever, sweeps what the dead one left.
        aljava.write({"a": [1]}, tmp_path / "other.arrow")
        assert sorted(os.listdir(tmp_path)) == ["other.arrow", "table.arrow", "template"]
    # Behind the rename only a durable write has anything to do.
    assert (new is not None) == (zygote.action is write_new)
    assert tried >= 20


@pytest.mark.long
@pytest.mark.parametrize("zygote", [create_new], indirect=True)
def test_a_killed_creator_leaves_nothing_or_all(tmp_path, zygote) -> None:
    path = tmp_path / "table.arrow"

    def fresh():
        path.unlink(missing_ok=True)
        return path

    for _ in points(zygote, fresh):
        if path.exists():
            assert same(aljava.read(path), new_table())
        aljava.write({"a": [1]}, tmp_path / "other.arrow")
        assert set(os.listdir(tmp_path)) <= {"other.arrow", "table.arrow"}


@pytest.mark.long
@pytest.mark.parametrize("zygote", [append_new, append_compressed, append_little], indirect=True)
def test_a_killed_appender_loses_nothing_older(tmp_path, zygote) -> None:
    path, template = tmp_path / "table.arrow", tmp_path / "template"
    aljava.write(old_table(), template, compression="none", batch_rows=1000)
    old = template.read_bytes()

    def fresh():
        path.write_bytes(old)
        return path

    outcomes = {"old": 0, "repaired": 0, "new": 0}
    for _ in points(zygote, fresh):
        try:
            added = aljava.read(path).num_rows - 3000
            assert added in (0, 3, 10 * ROWS)
            outcomes["new" if added else "old"] += 1
        except TruncatedFile:
            repaired = aljava.repair(path)
            added = aljava.read(path).num_rows - 3000
            assert repaired.rows == 3000 + added
            assert added % ROWS in (0, 3)
            outcomes["repaired"] += 1
        assert same(aljava.read(path), old_table(), new_table().slice(0, added))
        aljava.append({"id": [-1], "value": [0.0], "kind": ["x"], "more": [0.0]}, path)
        assert aljava.verify(path).findings == ()
        assert sorted(os.listdir(tmp_path)) == ["table.arrow", "template"]
    assert outcomes["repaired"] >= 4


@pytest.mark.long
def test_an_append_cut_at_any_byte(tmp_path) -> None:
    """Not only between calls: a power cut can leave any part of what was written."""
    path = tmp_path / "table.arrow"
    aljava.write(old_table(), path, compression="zstd", batch_rows=1000)
    data_end = aljava.ipc.open_file(path).footer.batches[-1].end
    aljava.append(new_table().slice(0, 3000), path, compression="zstd", batch_rows=1000)
    content = path.read_bytes()
    ends = [block.end for block in aljava.ipc.open_file(path).footer.batches]
    for cut in random.Random(3).sample(range(data_end, len(content)), 120):
        path.write_bytes(content[:cut])
        repaired = aljava.repair(path)
        assert repaired.batches == sum(end <= cut for end in ends)
        assert same(aljava.read(path), old_table(), new_table().slice(0, repaired.rows - 3000))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed (apt-get install strace)")
@pytest.mark.parametrize("action", [write_new, append_new], ids=lambda action: action.__name__)
def test_the_points_are_all_that_the_kernel_sees(tmp_path, action) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(old_table(), path, compression="none")
    before = path.read_bytes()
    zygote = Zygote(action)
    counted = zygote.run(path, 0)
    zygote.close()
    path.write_bytes(before)
    code = f"import sys, tests.test_api_reliability as here; here.{action.__name__}(sys.argv[1])"
    command = ["strace", "-f", "-qq", "-y", "-e", f"trace={SYSTEM_CALLS}", "-o", tmp_path / "log"]
    done = subprocess.run([*command, sys.executable, "-c", code, path], capture_output=True, text=True)
    if "ptrace" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip("this machine does not let one process trace another")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "log").read_text().splitlines()
    changes = [line for line in lines if str(tmp_path) in line or "table.arrow" in line]
    changes = [line for line in changes if not re.search(r"openat\(", line) or "O_CREAT" in line]
    assert len(changes) == counted, "\n".join(line[:200] for line in changes)


def test_a_kernel_that_takes_a_part(tmp_path, monkeypatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: real(descriptor, memoryview(data)[:4000], at))
    path = tmp_path / "table.arrow"
    aljava.write(old_table(), path, compression="none")
    aljava.append(new_table(), path, compression="none")
    monkeypatch.undo()
    assert same(aljava.read(path), old_table(), new_table())
    assert aljava.verify(path).findings == ()


def test_a_folder_that_goes_away_in_the_middle(tmp_path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()

    def batches():
        yield from old_table().to_batches()
        shutil.rmtree(folder)
        yield from old_table().to_batches()

    with pytest.raises(NotFound, match="the folder does not exist"):
        aljava.write(pa.RecordBatchReader.from_batches(old_table().schema, batches()), folder / "table.arrow")
    assert os.listdir(tmp_path) == []


def test_an_error_of_the_disk_amid_an_append_puts_the_old_end_back(tmp_path, monkeypatch) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(old_table(), path, compression="none")
    before, real, calls = path.read_bytes(), os.pwrite, []

    def failing(descriptor, data, at):
        calls.append(at)
        if len(calls) == 12:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(TransferError, match=r"table\.arrow cannot be appended to: Input/output error"):
        aljava.append(new_table(), path, compression="none", batch_rows=ROWS)
    assert path.read_bytes() == before
