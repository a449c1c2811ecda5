"""write, read and open: an address in, a table out."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet
import pytest

import aljava
from aljava.errors import (
    AccessDenied,
    AddressError,
    AlreadyExists,
    InvalidData,
    InvalidOption,
    NotFound,
    QueryError,
    SchemaMismatch,
    TransferError,
    TruncatedFile,
)

TABLE = pa.table(
    {
        "id": pa.array(range(1000), pa.int64()),
        "value": pa.array([None if i % 7 == 0 else i / 3 for i in range(1000)]),
        "category": pa.array(["ABCDE"[i % 5] for i in range(1000)]),
    }
).replace_schema_metadata({"source": "test"})

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.arrow"


def same(back: pa.Table, table: pa.Table = TABLE) -> None:
    back.validate(full=True)
    assert back.schema.equals(table.schema, check_metadata=True)
    assert back.equals(table)


@pytest.mark.parametrize("compression", ["auto", "none", "lz4", "zstd"])
def test_round_trip(path, compression) -> None:
    written = aljava.write(TABLE, path, compression=compression)
    assert (written.rows, written.batches) == (1000, 1)
    assert written.bytes == path.stat().st_size
    assert written.seconds > 0
    same(aljava.read(path))
    same(pa.ipc.open_file(path).read_all())
    assert pl.read_ipc(path).equals(pl.from_arrow(TABLE))


def test_every_kind_of_address(path) -> None:
    for address in (str(path), path, f"file://{path}"):
        aljava.write(TABLE, address)
        same(aljava.read(address))
        path.unlink()
    memory = io.BytesIO()
    aljava.write(TABLE, memory)
    same(aljava.read(memory))
    same(aljava.read(memory.getvalue()))
    same(aljava.read(pa.py_buffer(memory.getvalue())))
    large_enough = bytearray(100_000)
    aljava.write(TABLE, large_enough)
    same(aljava.read(large_enough))
    with open(path, "wb") as file:
        aljava.write(TABLE, file)
    with open(path, "rb") as file:
        same(aljava.read(file))
    with pa.OSFile(str(path)) as file:
        same(aljava.read(file))


def test_shared_memory() -> None:
    address = "shm://test-api/table"
    store = aljava.Store("test-api")
    try:
        for data in (TABLE, TABLE.to_reader(), TABLE.to_pandas(), pl.from_arrow(TABLE)):
            written = aljava.write(data, address)
            assert (written.rows, written.batches) == (1000, 1)
            assert aljava.read(address).to_pylist() == TABLE.to_pylist()
        aljava.write(TABLE, address, metadata={"author": "Ana"})
        assert aljava.open(address).schema.metadata == {b"source": b"test", b"author": b"Ana"}
        aljava.write(TABLE, address)
        same(aljava.read(address))
        same(aljava.read(address, columns=["id"], filter=pc.field("id") < 3), TABLE.slice(0, 3).select(["id"]))
        with pytest.raises(AlreadyExists):
            aljava.write(TABLE, address, mode="create")
        aljava.write(TABLE.slice(0, 5), address, mode="append")
        assert aljava.read(address).num_rows == 1005
        with pytest.raises(InvalidOption, match="durable"):
            aljava.write(TABLE, address, durable=True)
        with pytest.raises(NotFound, match="shm://test-api/nothing"):
            aljava.read("shm://test-api/nothing")
    finally:
        store.destroy()


def test_a_whole_store_is_one_table() -> None:
    with aljava.Store("test-api-whole") as store:
        try:
            store["a/b ç"] = TABLE.slice(0, 400)
            store["z"] = TABLE.slice(400)
            same(aljava.read("shm://test-api-whole"))
            assert aljava.open("shm://test-api-whole").count_rows(pc.field("id") < 10) == 10
            assert aljava.sql("select count(*) from 'shm://test-api-whole'").fetchall() == [(1000,)]
            store["other"] = {"something": [1]}
            with pytest.raises(SchemaMismatch, match="shm://test-api-whole/"):
                aljava.open("shm://test-api-whole")
            with pytest.raises(AddressError, match="shm://STORE/KEY"):
                aljava.write(TABLE, "shm://test-api-whole")
        finally:
            store.destroy()
    with pytest.raises(NotFound, match="holds no tables"):
        aljava.read("shm://test-api-whole")


def test_relative_and_odd_names(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "plain.arrow",
        "with space",
        "new\nline",
        "per%cent#",
        "ação.arrow",
        os.fsdecode(b"not-\xff-utf8"),
        "x" * 255,
    ):
        aljava.write(TABLE, name)
        same(aljava.read(name))
        assert os.listdir(tmp_path) == [name]
        os.unlink(name)


def test_a_pipe_carries_a_stream() -> None:
    receive, send = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", "import sys, aljava; print(aljava.read(sys.stdin.buffer).num_rows)"],
        stdin=receive,
        stdout=subprocess.PIPE,
    ) as child:
        os.close(receive)
        with open(send, "wb") as file:
            aljava.write(TABLE, file)
        assert child.communicate()[0] == b"1000\n"


def test_formats_are_told_by_their_bytes(tmp_path) -> None:
    plain = TABLE.replace_schema_metadata(None)
    pa.parquet.write_table(plain, tmp_path / "parquet.arrow")
    pa.feather.write_feather(plain, tmp_path / "v1.parquet", version=1)
    pa.feather.write_feather(plain, tmp_path / "v2.csv", compression="zstd")
    with pa.ipc.new_stream(tmp_path / "stream", plain.schema) as writer:
        writer.write_table(plain)
    for name in os.listdir(tmp_path):
        same(aljava.read(tmp_path / name), plain)
        dataset = aljava.open(tmp_path / name)
        chosen = dataset.to_table(columns=["category", "id"], filter=pc.field("value") > 300)
        expected = plain.filter(pc.field("value") > 300).select(["category", "id"])
        assert chosen.equals(expected), name


def test_columns_and_filter(path) -> None:
    aljava.write(TABLE, path, batch_rows=100)
    same(aljava.read(path, columns=["value"]), TABLE.select(["value"]))
    same(aljava.read(path, columns=["value", "id"]), TABLE.select(["value", "id"]))
    wanted = (pc.field("category") == "B") & (pc.field("id") < 500)
    same(aljava.read(path, filter=wanted), TABLE.filter(wanted))
    same(aljava.read(path, columns=["value"], filter=wanted), TABLE.filter(wanted).select(["value"]))
    same(aljava.read(path, filter=pc.field("id") < 0), TABLE.slice(0, 0))
    assert aljava.read(path, columns=[]).num_rows == 1000


def test_frames_and_arrays(path) -> None:
    aljava.write(TABLE, path)
    dataset = aljava.open(path)
    pd.testing.assert_frame_equal(dataset.to_pandas(), TABLE.to_pandas())
    assert dataset.to_polars().collect().equals(pl.from_arrow(TABLE))
    lazy = dataset.to_polars().filter(pl.col("id") >= 990).select("category").head(3)
    assert lazy.collect().to_dict(as_series=False) == {"category": ["A", "B", "C"]}
    arrays = dataset.to_numpy(columns=["id", "value"], filter=pc.field("id") < 3)
    np.testing.assert_array_equal(arrays["id"], [0, 1, 2])
    np.testing.assert_array_equal(arrays["value"], [np.nan, 1 / 3, 2 / 3])
    assert pa.table(dataset).equals(TABLE)


def test_embeddings_are_matrices_without_a_copy(path) -> None:
    vectors = np.random.default_rng(1).standard_normal((1000, 16), dtype=np.float32)
    aljava.write({"embedding": vectors}, path, compression="none")
    back = aljava.open(path).to_numpy()["embedding"]
    np.testing.assert_array_equal(back, vectors)
    assert not back.flags.owndata


def test_a_pandas_frame_comes_back_whole(path) -> None:
    frame = pd.DataFrame({"price": [1.5, None]}, index=pd.Index(["a", "b"], name="stock"))
    frame.attrs = {"unit": "EUR"}
    aljava.write(frame, path)
    back = aljava.open(path).to_pandas()
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs == frame.attrs


def test_modes(path) -> None:
    aljava.write(TABLE, path, mode="create")
    with pytest.raises(AlreadyExists, match="exists already"):
        aljava.write(TABLE.slice(0, 1), path, mode="create")
    same(aljava.read(path))
    aljava.write(TABLE.slice(0, 1), path)
    same(aljava.read(path), TABLE.slice(0, 1))
    aljava.write(TABLE.slice(1, 4), path, mode="append")
    same(aljava.read(path), TABLE.slice(0, 5))
    with pytest.raises(SchemaMismatch, match="category"):
        aljava.write({"other": [1]}, path, mode="append")
    same(aljava.read(path), TABLE.slice(0, 5))
    with pytest.raises(InvalidOption, match="replace, create, append"):
        aljava.write(TABLE, path, mode="update")
    assert os.listdir(path.parent) == [path.name]


def test_create_is_safe_against_a_second_writer(path) -> None:
    code = (
        "import sys, aljava\n"
        "sys.stdin.read()\n"
        "try: aljava.write({'id': [int(sys.argv[2])]}, sys.argv[1], mode='create')\n"
        "except aljava.AljavaError as error: print(type(error).__name__)\n"
        "else: print('wrote', sys.argv[2])\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for i in range(4)
    ]
    for child in children:
        child.stdin.close()
        child.stdin = None
    said = [child.communicate()[0].strip() for child in children]
    winners = [words.split()[1] for words in said if words.startswith("wrote")]
    assert len(winners) == 1
    assert said.count("AlreadyExists") == 3
    assert aljava.read(path)["id"].to_pylist() == [int(winners[0])]


def test_metadata_is_added_to_what_is_there(path) -> None:
    aljava.write(TABLE, path, metadata={"author": "Inês"})
    assert aljava.open(path).schema.metadata == {b"source": b"test", b"author": "Inês".encode()}
    with pytest.raises(InvalidOption, match="metadata holds text"):
        aljava.write(TABLE, path, metadata={"n": 5})


def test_progress(path) -> None:
    calls: list[tuple[int, int | None]] = []
    aljava.write(TABLE, path, batch_rows=300, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(300, 1000), (600, 1000), (900, 1000), (1000, 1000)]
    calls.clear()
    aljava.read(path, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (1000, 1000)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_failing_source_leaves_what_was_there(path) -> None:
    aljava.write(TABLE, path)

    def batches():
        yield TABLE.to_batches()[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        aljava.write(pa.RecordBatchReader.from_batches(TABLE.schema, batches()), path)
    same(aljava.read(path))
    assert os.listdir(path.parent) == [path.name]


def test_a_reader_is_streamed(path) -> None:
    """2 GB go through a process that has far less than that."""
    code = """
import resource, sys
import numpy as np, pyarrow as pa, aljava
aljava.write({"a": np.zeros(1)}, sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
schema = pa.schema([("a", pa.float64())])
batch = pa.record_batch([np.zeros(1 << 21)], schema=schema)
written = aljava.write(pa.RecordBatchReader.from_batches(schema, (batch for _ in range(128))), sys.argv[1])
print(written.rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == 128 << 21
    assert grown < 300


@pytest.mark.parametrize("rows", [0, 1])
def test_little_data(path, rows) -> None:
    for table in (TABLE.slice(0, rows), pa.table({}), TABLE.slice(0, rows).select([])):
        aljava.write(table, path)
        back = aljava.read(path)
        assert back.schema.equals(table.schema, check_metadata=True)
        assert back.num_columns == table.num_columns


def test_a_link_stays_a_link_and_permissions_stay(tmp_path, path) -> None:
    aljava.write(TABLE, path)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    aljava.write(TABLE.slice(0, 1), link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    same(aljava.read(path), TABLE.slice(0, 1))


def test_durable(path) -> None:
    aljava.write(TABLE, path, durable=True)
    same(aljava.read(path))


def test_a_mapped_table_keeps_its_data_when_the_file_is_replaced(path) -> None:
    aljava.write(TABLE, path, compression="none")
    kept = aljava.read(path)
    for _ in range(10):
        aljava.write(TABLE.slice(0, 10), path, compression="none")
    same(kept)
    path.unlink()
    same(kept)


def test_raw_files_are_mapped(path) -> None:
    aljava.write(TABLE, path, compression="none")
    before = pa.total_allocated_bytes()
    table = aljava.read(path)
    assert pa.total_allocated_bytes() - before < 1000
    same(table)


BAD_FILES = {
    "empty": (b"", InvalidData, "is empty"),
    "text": (b"id,value\n1,2\n", InvalidData, "perhaps CSV"),
    "json": (b'{"id": 1}\n{"id": 2}\n', InvalidData, "looks like JSON"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), InvalidData, "gzip"),
    "zeros": (bytes(1000), InvalidData, "not a table"),
    "marker only": (b"\xff\xff\xff\xff", InvalidData, "not a table"),
    "a stream that says too much": (
        b"\xff\xff\xff\xff\x00\x00\x00\x7f" + bytes(64),
        InvalidData,
        "2130706432",
    ),
    "magic only": (b"ARROW1\0\0", TruncatedFile, "footer"),
    "parquet magic": (b"PAR1" + bytes(100), TruncatedFile, "Parquet"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(path, kind) -> None:
    content, error, words = BAD_FILES[kind]
    path.write_bytes(content)
    for source in (path, str(path)):
        with pytest.raises(error, match=words) as caught:
            aljava.read(source)
        assert str(path) in str(caught.value)
    if content:
        with pytest.raises(error, match=words):
            aljava.read(content)


@pytest.mark.parametrize("make", ["arrow", "parquet", "stream"])
def test_a_file_cut_anywhere_is_an_error(path, make) -> None:
    if make == "arrow":
        aljava.write(TABLE, path, batch_rows=300)
    elif make == "parquet":
        pa.parquet.write_table(TABLE, path)
    else:
        with pa.ipc.new_stream(path, TABLE.schema) as writer:
            writer.write_table(TABLE)
    content = path.read_bytes()
    end = len(content) - (8 if make == "stream" else 0)  # a stream's end marker says nothing new
    for size in sorted({*range(0, end, max(1, end // 97)), end - 1}):
        path.write_bytes(content[:size])
        with pytest.raises(InvalidData):
            aljava.read(path)


def test_bad_addresses(tmp_path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        aljava.read(tmp_path / "missing.arrow")
    with pytest.raises(NotFound, match="folder does not exist"):
        aljava.write(TABLE, tmp_path / "missing" / "x.arrow")
    with pytest.raises(AlreadyExists, match="folder"):
        aljava.write(TABLE, tmp_path)
    for address, words in [
        ("nosuch://x", "nosuch"),
        ("", "empty"),
        (5, "int"),
        ("file://elsewhere/x", "elsewhere"),
        ("a\0b", "NUL"),
        ("shm:///key", "shm://STORE/KEY"),
    ]:
        with pytest.raises(AddressError, match=words):
            aljava.open(address)
    with pytest.raises(InvalidOption, match="'rb' or 'wb'"):
        aljava.write(TABLE, io.StringIO())
    with pytest.raises(AccessDenied, match="read-only"):
        aljava.write(TABLE, b"constant")
    with pytest.raises(TransferError, match="too small"):
        aljava.write(TABLE, bytearray(100))


def test_bad_options(path) -> None:
    aljava.write(TABLE, path)
    with pytest.raises(InvalidOption, match="snappy"):
        aljava.write(TABLE, path, compression="snappy")
    with pytest.raises(InvalidOption, match="at least 1"):
        aljava.write(TABLE, path, batch_rows=0)
    with pytest.raises(QueryError, match="no column 'nope'; it has id, value, category"):
        aljava.read(path, columns=["nope"])
    with pytest.raises(QueryError, match="nope"):
        aljava.read(path, filter=pc.field("nope") == 1)
    with pytest.raises(QueryError, match="id"):
        aljava.read(path, filter=pc.field("id") == "text")
    same(aljava.read(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_leaves_what_was_there(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this system does not let us mount a small file system")
    try:
        aljava.write(TABLE, disk / "x.arrow")
        with pytest.raises(TransferError, match="no space left"):
            aljava.write({"noise": np.random.default_rng(1).random(1_000_000)}, disk / "x.arrow")
        assert os.listdir(disk) == ["x.arrow"]
        same(aljava.read(disk / "x.arrow"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_dead_writer_leaves_nothing_that_the_next_does_not_sweep(path) -> None:
    code = """
import os, signal, sys, pyarrow as pa, aljava
def batches():
    yield pa.record_batch({"id": [1]})
    os.kill(os.getpid(), signal.SIGKILL)
schema = pa.schema([("id", pa.int64())])
aljava.write(pa.RecordBatchReader.from_batches(schema, batches()), sys.argv[1], batch_rows=1)
"""
    aljava.write(TABLE, path)
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert len(os.listdir(path.parent)) == 2
    same(aljava.read(path))
    aljava.write(TABLE, path.parent / "other.arrow")
    assert sorted(os.listdir(path.parent)) == ["other.arrow", "table.arrow"]
