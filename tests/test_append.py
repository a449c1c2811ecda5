"""Appending: what is there stays, what comes is added, and it costs what is added."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import aljava
from aljava.errors import AccessDenied, InvalidOption, SchemaMismatch, TransferError, TruncatedFile
from aljava.places import local
from tests.store.actors import run

pytestmark = pytest.mark.usefixtures("no_leaks")


def part(number: int, rows: int = 6000) -> pa.Table:
    first = number * rows
    return pa.table(
        {
            "id": pa.array(range(first, first + rows), pa.int64()),
            "text": pa.array([f"text {number} {i % 100}" for i in range(rows)]),
            "kind": pa.array(["old", f"kind {number}"] * (rows // 2)).dictionary_encode(),
        }
    ).replace_schema_metadata({"source": "test"})


def plain(table: pa.Table) -> list:
    return table.to_pylist()


@pytest.fixture(params=["none", "zstd", "auto"])
def compression(request):
    return request.param


def test_rows_follow_rows(tmp_path, compression) -> None:
    path = tmp_path / "table.arrow"
    for number in range(4):
        written = aljava.append(part(number), path, compression=compression)
        assert written.rows == 6000
    wanted = pa.concat_tables([part(number) for number in range(4)], promote_options="permissive")
    for table in (aljava.read(path), pa.ipc.open_file(path).read_all(), pl.read_ipc(path).to_arrow()):
        assert plain(table) == plain(wanted)
    assert aljava.open(path).schema.metadata == {b"source": b"test"}
    assert aljava.verify(path).findings == ()
    assert os.listdir(tmp_path) == ["table.arrow"]


def test_it_costs_what_is_added(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.write({"a": np.arange(4_000_000)}, path, compression="none")
    before = path.read_bytes()
    written = aljava.append({"a": np.arange(1000)}, path, compression="none")
    assert written.bytes < len(before) / 50
    assert path.read_bytes()[: len(before) - 100_000] == before[: len(before) - 100_000]


def test_statistics_stay_complete(tmp_path, compression) -> None:
    path = tmp_path / "table.arrow"
    for number in range(3):
        aljava.write(part(number), path, mode="append", compression=compression)
    dataset = aljava.open(path)
    filter = pc.field("id") == 12_345
    assert dataset.explain(filter).batches_read == 1
    assert dataset.count_rows(filter) == 1
    assert pc.sum(dataset.zones["rows"]).as_py() == 18_000
    assert aljava.verify(path).checksums


def test_files_of_others(tmp_path) -> None:
    table = part(0).set_column(2, "kind", part(0)["kind"].cast(pa.string()))
    more = part(1).set_column(2, "kind", part(1)["kind"].cast(pa.string()))
    wanted = plain(pa.concat_tables([table, more]))
    with pa.ipc.new_file(tmp_path / "pyarrow.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=1000)
    with pa.ipc.new_stream(tmp_path / "stream.arrows", table.schema) as writer:
        writer.write_table(table)
    pl.from_arrow(table).write_ipc(tmp_path / "polars.arrow", compat_level=pl.CompatLevel.oldest())
    for name in ("pyarrow.arrow", "stream.arrows", "polars.arrow"):
        aljava.append(more, tmp_path / name)
        assert plain(aljava.read(tmp_path / name)) == wanted
        assert plain(pa.ipc.open_file(tmp_path / name).read_all()) == wanted
    kinds = part(0)
    with pa.ipc.new_file(tmp_path / "kinds.arrow", kinds.schema) as writer:
        writer.write_table(kinds)
    aljava.append(part(1), tmp_path / "kinds.arrow")
    assert pa.ipc.open_file(tmp_path / "kinds.arrow").read_all()["kind"].to_pylist() == [row["kind"] for row in wanted]


def test_columns_find_their_place(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(pa.table({"a": pa.array([1], pa.int64()), "b": ["x"]}), path)
    aljava.append(pa.table({"b": pa.array(["y"], pa.large_string()), "a": pa.array([2], pa.int8())}), path)
    aljava.append({"b": pa.nulls(1), "a": pa.array([3.0])}, path)
    assert aljava.read(path).to_pydict() == {"a": [1, 2, 3], "b": ["x", "y", None]}


@pytest.mark.parametrize(
    ("here", "there", "value"),
    [
        (pa.large_string(), pa.string(), "x"),
        (pa.dictionary(pa.int8(), pa.string()), pa.string_view(), "x"),
        (pa.string_view(), pa.dictionary(pa.int8(), pa.string()), "x"),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.large_string()), "x"),
        (pa.binary(), pa.large_binary(), b"x"),
        (pa.decimal128(5, 1), pa.decimal256(50, 1), Decimal("1.5")),
        (pa.timestamp("s", "UTC"), pa.timestamp("ns", "America/Sao_Paulo"), datetime(2025, 1, 2)),
        (pa.date32(), pa.date64(), date(2025, 1, 2)),
        (pa.time32("s"), pa.time64("us"), time_of_day(12)),
        (pa.duration("s"), pa.duration("ns"), timedelta(seconds=3)),
        (pa.null(), pa.list_(pa.int8()), None),
    ],
    ids=str,
)
def test_what_means_the_same_is_cast(tmp_path, here, there, value) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(pa.table({"a": pa.nulls(1, there)}), path)
    aljava.append(pa.table({"a": pa.array([value], here)}), path)
    column = aljava.read(path)["a"]
    assert column.type == there
    assert column.to_pylist() == [None, pa.array([value], there).to_pylist()[0]]


def test_columns_of_one_name(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(pa.table([[1], [2], ["x"]], names=["a", "a", "b"]), path)
    aljava.append(pa.table([pa.array([3], pa.int8()), pa.array([4]), ["y"]], names=["a", "a", "b"]), path)
    with pytest.raises(SchemaMismatch, match="must have them in its order"):
        aljava.append(pa.table([[5], ["z"], [6]], names=["a", "b", "a"]), path)
    assert aljava.read(path).columns[1].to_pylist() == [2, 4]


def test_no_null_where_none_may_be(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(pa.table([[1]], schema=pa.schema([pa.field("a", pa.int64(), nullable=False)])), path)
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="takes no nulls, and what is to be appended has 1 of them"):
        aljava.append({"a": [2, None]}, path)
    assert path.read_bytes() == before
    assert aljava.append({"a": [2]}, path).rows == 1


def test_a_file_that_becomes_shorter(tmp_path) -> None:
    """What another writer left behind its batches is written over; what remains of it goes."""
    table, sink = pa.table({"a": [1, 2]}), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    footer = len(content) - 10 - int.from_bytes(content[-10:-6], "little")
    path = tmp_path / "table.arrow"
    path.write_bytes(content[:footer] + bytes(100_000) + content[footer:])
    aljava.append({"a": [3]}, path)
    assert path.stat().st_size < 20_000
    assert aljava.read(path)["a"].to_pylist() == pa.ipc.open_file(path).read_all()["a"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"a": [1]}, "no column 'b'"),
        ({"a": [1], "b": ["x"], "c": [1]}, "a column 'c'"),
        ({"a": ["1"], "b": ["x"]}, "column 'a' is string"),
        ({"a": [1.5], "b": ["x"]}, "column 'a'"),
        ({"a": pa.array([2**70 % 2**64], pa.uint64()), "b": ["x"]}, None),
        ({"a": pa.array([2**63], pa.uint64()), "b": ["x"]}, "column 'a'"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path, data, complaint) -> None:
    path = tmp_path / "table.arrow"
    aljava.write({"a": [1], "b": ["x"]}, path)
    if complaint is None:
        assert aljava.append(data, path).rows == 1
        return
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match=complaint):
        aljava.append(data, path)
    assert path.read_bytes() == before


def test_a_source_that_fails_changes_nothing(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(part(0), path)
    before = path.read_bytes()

    def batches():
        yield from part(1).to_batches()
        raise ZeroDivisionError

    reader = pa.RecordBatchReader.from_batches(part(1).schema, batches())
    with pytest.raises(ZeroDivisionError):
        aljava.append(reader, path, batch_rows=1000)
    assert path.read_bytes() == before


def test_a_full_disk_changes_nothing(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(part(0), path, compression="none")
    before = path.read_bytes()
    script = (
        "import resource, signal, sys, numpy as np, aljava\n"
        "from tests.test_append import part\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]) + 50_000, -1))\n"
        "try: aljava.append(part(1), sys.argv[1], compression='none')\n"
        "except aljava.errors.TransferError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path, str(len(before))], capture_output=True, text=True)
    assert "table.arrow" in done.stdout, done.stderr
    assert path.read_bytes() == before


def test_nothing_and_nowhere(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.append({"a": [1]}, path)
    before = path.read_bytes()
    assert aljava.append(pa.table({"a": pa.array([], pa.int64())}), path).rows == 0
    assert path.read_bytes() == before
    with pytest.raises(InvalidOption, match="metadata"):
        aljava.append({"a": [1]}, path, metadata={"x": "y"})
    path.write_bytes(before[:-20])
    with pytest.raises(TruncatedFile, match="repair"):
        aljava.append({"a": [1]}, path)
    empty = tmp_path / "empty.arrow"
    aljava.write(part(0).slice(0, 0), empty)
    aljava.append(part(0), empty)
    assert plain(aljava.read(empty)) == plain(part(0))
    assert aljava.verify(empty).findings == ()


def test_a_reader_keeps_what_it_opened(tmp_path, compression) -> None:
    path = tmp_path / "table.arrow"
    aljava.write(part(0), path, compression=compression)
    dataset, table = aljava.open(path), aljava.read(path)
    for number in range(1, 5):
        aljava.append(part(number), path, compression=compression)
    assert plain(table) == plain(part(0))
    assert plain(dataset.to_table()) == plain(part(0))
    assert plain(dataset.to_table(["kind", "id"])) == plain(part(0).select(["kind", "id"]))
    assert dataset.count_rows(pc.field("id") < 100) == 100


def test_appenders_take_turns_and_readers_never_meet_a_half(tmp_path) -> None:
    path = tmp_path / "table.arrow"
    aljava.append(part(0, 100), path)
    appender = (
        "import sys, aljava\nfrom tests.test_append import part\n"
        "for i in range(25): aljava.append(part(int(sys.argv[2]), 100), sys.argv[1])\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", appender, path, str(number)]) for number in (1, 2)]
    seen = [100]
    while any(writer.poll() is None for writer in writers):
        table = aljava.read(path)
        assert table.num_rows % 100 == 0
        assert table.num_rows >= seen[-1]
        seen.append(table.num_rows)
    assert [writer.wait() for writer in writers] == [0, 0]
    table = aljava.read(path)
    assert table.num_rows == 5100
    assert sorted(table["id"].to_pylist()) == sorted([*range(100), *(list(range(100, 300)) * 25)])
    assert aljava.verify(path).findings == ()


@pytest.fixture(params=["a whole copy", "btrfs", "xfs"])
def cloning(request, tmp_path, monkeypatch):
    """A folder in which files are cloned: of a real file system where one can be made, and with a copy for a clone."""
    folder = tmp_path / "folder"
    folder.mkdir()
    if request.param == "a whole copy":

        def cloned(descriptor, target):
            temporary, clone = local._claim(*os.path.split(target))
            os.pwrite(clone, Path(target).read_bytes(), 0)
            return temporary, clone

        monkeypatch.setattr(local, "_cloned", cloned)
        yield folder
        return
    make = shutil.which(f"mkfs.{request.param}", path=f"{os.environ['PATH']}:/sbin:/usr/sbin")
    if make is None or os.geteuid() != 0:
        pytest.skip(f"needs mkfs.{request.param}, and root to mount what it makes")
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    subprocess.run([make, "-q", image], check=True)
    said = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True)
    if said.returncode:
        pytest.skip(f"this system does not mount {request.param}: {said.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_where_the_file_system_clones(cloning) -> None:
    path = cloning / "table.arrow"
    aljava.write(part(0), path)
    inode = path.stat().st_ino
    held = aljava.read(path)
    aljava.append(part(1), path, durable=True)
    assert path.stat().st_ino != inode
    assert aljava.read(path).num_rows == 12_000
    assert held.equals(part(0))
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch):
        aljava.append({"id": [1], "text": [1], "kind": ["x"]}, path)
    assert path.read_bytes() == before
    results = []
    threads = [threading.Thread(target=lambda: results.append(aljava.append(part(2), path).rows)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [6000] * 4
    assert aljava.read(path).num_rows == 36_000
    assert os.listdir(cloning) == ["table.arrow"]
    assert aljava.verify(path).findings == ()


def test_a_storm_of_signals_interrupts_nothing(tmp_path) -> None:
    """Every call of the system may end early with EINTR: 2,000 times a second."""
    code = """
import signal, sys, threading, time
import pyarrow as pa, pyarrow.compute as pc
import aljava

path, seen = sys.argv[1], 0

def count(*_):
    global seen
    seen += 1

signal.signal(signal.SIGALRM, count)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
part = pa.table({"id": range(20_000), "text": [str(row) for row in range(20_000)]})
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end or seen < 500:
    aljava.append(part, path)
    assert aljava.read(path, filter=pc.field("id") == 7)["text"].unique().to_pylist() == ["7"]
    aljava.write(part, path + f".{sys.argv[3]}", durable=True)
    assert aljava.read(path + f".{sys.argv[3]}").equals(part)
signal.setitimer(signal.ITIMER_REAL, 0)
print(aljava.verify(path + f".{sys.argv[3]}").findings == (), flush=True)
"""
    path = tmp_path / "table.arrow"
    aljava.write({"id": [7], "text": ["7"]}, path)
    # Two, so that each also waits for the other's lock.
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(path), "3", str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(2)
    ]
    assert [process.communicate(timeout=120)[0] for process in both] == ["True\n", "True\n"]
    table = aljava.read(path)
    assert table.num_rows % 20_000 == 1
    assert table.num_rows > 20_000
    assert aljava.verify(path).findings == ()
    assert len(os.listdir(tmp_path)) == 3


def test_no_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path: that is its owner's alone
        os.chmod(folder, 0o755)
        path = Path(folder) / "table.arrow"
        aljava.write(part(0), path)
        path.chmod(0o444)
        before = path.read_bytes()

        def append() -> str:
            if os.geteuid() == 0:  # who may write everywhere
                os.setgroups([])
                os.setgid(65_534)
                os.setuid(65_534)
            try:
                aljava.append(part(1), path)
            except (AccessDenied, TransferError) as error:
                return f"{type(error).__name__}: {error}"
            return "written"

        assert str(path) in run(append)
        assert path.read_bytes() == before


def test_append_appends(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"use write\(…, mode='create'\)"):
        aljava.append(part(1), tmp_path / "it.arrow", mode="create")
    assert aljava.append(part(1), tmp_path / "it.arrow", mode="append").rows == 6000
