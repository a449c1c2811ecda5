"""Readers: every source, any column, in place where the bytes stand in memory."""

import io
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aljava import ipc
from aljava.errors import InvalidData, InvalidOption, NotFound, TransferError, TruncatedFile, UnsupportedType
from aljava.ipc.message import Messages
from tests.ipc.samples import columns

TABLE = pa.table({"n": np.arange(30_000), "s": [f"row {number}" for number in range(30_000)], "d": ["a", "b"] * 15_000})
TABLE = TABLE.set_column(2, "d", TABLE["d"].dictionary_encode())
PLAIN = TABLE.select(["n", "s"])
OPTIONS = [None, ipc.WriteOptions(batch_rows=7000), ipc.WriteOptions(compression="none", batch_rows=7000)]


def payload(kind: str, options: Any, table: pa.Table = TABLE) -> bytes:
    sink = io.BytesIO()
    with getattr(ipc, f"new_{kind}")(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


SOURCES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda data, path: data,
    "buffer": lambda data, path: pa.py_buffer(data),
    "memoryview": lambda data, path: memoryview(data),
    "BytesIO": lambda data, path: io.BytesIO(data),
    "BufferReader": lambda data, path: pa.BufferReader(data),
    "path": lambda data, path: path,
    "text": lambda data, path: str(path),
    "open file": lambda data, path: path.open("rb"),
    "unbuffered file": lambda data, path: path.open("rb", buffering=0),
    "OSFile": lambda data, path: pa.OSFile(str(path)),
    "memory map": lambda data, path: pa.memory_map(str(path)),
}


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_read(kind: str, options: Any, source: str, tmp_path: Path) -> None:
    data = payload(kind, options)
    path = tmp_path / "data"
    path.write_bytes(data)
    opened = SOURCES[source](data, path)
    for reading in (None, ipc.ReadOptions(untrusted=True), ipc.ReadOptions(use_threads=False), ipc.IpcReadOptions()):
        if hasattr(opened, "seek"):
            opened.seek(0)
        assert getattr(ipc, f"open_{kind}")(opened, options=reading).read_all() == TABLE
    if hasattr(opened, "close"):
        opened.close()


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("chosen", [("n",), ("s", "n"), (1,), (0, 2), ("d",)])
def test_chosen_columns_are_read(kind: str, options: Any, chosen: tuple[Any, ...]) -> None:
    data = payload(kind, options)
    expected = TABLE.select(sorted({TABLE.schema.names.index(c) if isinstance(c, str) else c for c in chosen}))
    for source in (data, io.BytesIO(data)):
        table = getattr(ipc, f"open_{kind}")(source, options=ipc.ReadOptions(columns=chosen)).read_all()
        assert table == expected


def test_a_mapped_file_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "plain.arrow"
    path.write_bytes(payload("file", ipc.WriteOptions(compression="none"), PLAIN))
    for chosen in (None, ("s",)):
        before = pa.total_allocated_bytes()
        table = ipc.open_file(path, options=ipc.ReadOptions(columns=chosen)).read_all()
        assert pa.total_allocated_bytes() - before < 4096
        assert table == PLAIN.select(list(chosen or PLAIN.column_names))


def test_types_of_every_kind_are_read_in_any_order() -> None:
    table = pa.table(columns(300))
    data = payload("file", ipc.WriteOptions(batch_rows=50), table)
    reader = ipc.open_file(data, options=ipc.ReadOptions(untrusted=True))
    assert reader.num_record_batches == 6
    assert reader.count_rows() == 300
    for number in (5, 0, 3):
        assert reader.get_batch(number).to_pylist() == table.slice(50 * number, 50).to_pylist()
        assert reader.get_record_batch(number).num_rows == 50
    for number in (-1, 6):
        with pytest.raises(ValueError, match="out of range"):
            reader.get_batch(number)


def test_a_stream_goes_on_where_the_last_one_ended() -> None:
    one, two = payload("stream", None, PLAIN.slice(0, 5)), payload("stream", ipc.WriteOptions(), PLAIN)
    source = io.BytesIO(one + two)
    assert ipc.open_stream(source).read_all() == PLAIN.slice(0, 5)
    assert ipc.open_stream(source).read_all() == PLAIN


def test_a_reader_is_a_record_batch_reader() -> None:
    """DuckDB, Polars and pyarrow take it as such."""
    reader = ipc.open_stream(payload("stream", ipc.WriteOptions()))
    assert isinstance(reader, pa.RecordBatchReader)
    assert pa.RecordBatchReader.from_stream(reader).read_all() == TABLE


def test_a_file_within_a_larger_one_is_found_by_its_end() -> None:
    data = payload("file", None)
    assert ipc.open_file(data + b"something else", len(data)).read_all() == TABLE
    with pytest.raises(InvalidOption):
        ipc.open_file(data, len(data) + 1)


def test_a_socket_is_read_while_it_is_written() -> None:
    left, right = socket.socketpair()
    data = payload("stream", ipc.WriteOptions(batch_rows=5000))
    thread = threading.Thread(target=lambda: (left.sendall(data), left.close()))
    thread.start()
    with right:
        assert sum(batch.num_rows for batch in ipc.open_stream(right)) == TABLE.num_rows
    thread.join()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_cut_file_says_so(options: Any) -> None:
    data = payload("file", options)
    for cut in (8, len(data) // 2, len(data) - 1):
        with pytest.raises(TruncatedFile, match="aljava repair"):
            ipc.open_file(data[:cut])


@pytest.mark.parametrize("options", OPTIONS)
def test_a_cut_stream_gives_the_batches_that_are_whole_and_then_says_so(options: Any) -> None:
    data = payload("stream", options)
    ends = {found.end for found in Messages(data)}
    for cut in sorted({*range(100, len(data) - 8, len(data) // 23), *ends}):
        for source in (data[:cut], io.BytesIO(data[:cut])):
            seen, told = [], False
            try:
                for batch in ipc.open_stream(source):
                    seen.append(batch)
            except InvalidData:
                told = True
            assert pa.Table.from_batches(seen, TABLE.schema) == TABLE.slice(0, sum(batch.num_rows for batch in seen))
            assert told or cut in ends


def test_the_wrong_call_says_which_is_right() -> None:
    with pytest.raises(InvalidData, match="open_stream"):
        ipc.open_file(payload("stream", None))
    with pytest.raises(InvalidData):
        ipc.open_stream(payload("file", None))
    with pytest.raises(InvalidData, match="PAR1"):
        ipc.open_file(b"PAR1 and then some more bytes")


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.arrow"):
        ipc.open_file(tmp_path / "nothing.arrow")
    with pytest.raises(InvalidOption, match="no column 'x'"):
        ipc.open_file(payload("file", None), options=ipc.ReadOptions(columns=("x",)))
    with pytest.raises(TypeError):
        ipc.open_file(payload("file", None), options=True)
    with pytest.raises(InvalidOption):
        ipc.ReadOptions(columns="n")  # type: ignore[arg-type]


def test_a_source_that_fails_is_not_called_damaged() -> None:
    class Failing(io.RawIOBase):
        def __init__(self, data: bytes):
            self.data = io.BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            if self.data.tell() > 2000:
                raise ConnectionResetError(104, "Connection reset by peer")
            return self.data.read(size)

    reader = ipc.open_stream(Failing(payload("stream", ipc.WriteOptions(batch_rows=500))))
    with pytest.raises(TransferError, match="reset") as caught:
        reader.read_all()
    assert caught.value.errno == 104


def test_columns_are_names_in_a_tuple() -> None:
    with pytest.raises(InvalidOption, match="columns are a tuple of names; got the text 'a'"):
        ipc.ReadOptions(columns="a")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="names no column"):
        ipc.ReadOptions(columns=())


@pytest.mark.parametrize("length", [0, -1, 1 << 30])
def test_a_footer_of_an_impossible_length(length: int) -> None:
    sink = io.BytesIO()
    with ipc.new_file(sink, pa.schema([("a", pa.int64())])) as writer:
        writer.write_batch(pa.record_batch({"a": [1]}))
    content = sink.getvalue()
    with pytest.raises(InvalidData, match="the end of the file is damaged"):
        ipc.open_file(content[:-10] + length.to_bytes(4, "little", signed=True) + content[-6:])


def test_what_is_no_file_is_opened_by_the_user(tmp_path: Path) -> None:
    for path in (tmp_path, "/dev/null"):
        with pytest.raises(UnsupportedType, match="is no regular file: open it, and hand over the open file"):
            ipc.open_file(path)


def test_columns_of_a_file_in_memory_whose_schema_message_is_gone() -> None:
    """The footer has the schema too."""
    table, sink = pa.table({"a": [1, 2], "b": ["x", "y"]}), io.BytesIO()
    with ipc.new_file(sink, table.schema, options=ipc.WriteOptions("none")) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    content = content[:8] + b"\xff\xff\xff\xff" + bytes(4) + content[16:]
    reader = ipc.open_file(pa.py_buffer(content), options=ipc.ReadOptions(columns=("b",)))
    assert reader.read_all() == table.select(["b"])
