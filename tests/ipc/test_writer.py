"""Writers: pyarrow's calls, dictionaries in streams and files, sinks of every kind, footers that describe the file."""

import io
import os
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

import aljava
from aljava import ipc
from aljava.errors import InvalidOption
from aljava.ipc.checksums import read_checksums
from aljava.ipc.message import Messages
from aljava.ipc.writer import lay_out
from aljava.layout import layout as layout_of
from tests.ipc.samples import NAMES, columns

TABLE = pa.table({"n": np.arange(20_000), "s": [f"row {number}" for number in range(20_000)]})
SAMPLES = columns(200)


def file_of(table: pa.Table, options: object = None, **keywords: object) -> bytes:
    sink = io.BytesIO()
    with ipc.new_file(sink, table.schema, options=options, **keywords) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_every_kind_of_sink(tmp_path: Path) -> None:
    expected = file_of(TABLE)
    unbuffered, buffered = tmp_path / "unbuffered", tmp_path / "buffered"
    memory, native = bytearray(len(expected)), pa.BufferOutputStream()
    with open(unbuffered, "wb", buffering=0) as raw, open(buffered, "wb") as file:
        for sink in (tmp_path / "path", str(tmp_path / "text"), raw, file, memory, native):
            with ipc.new_file(sink, TABLE.schema) as writer:
                writer.write_table(TABLE)
    for path in (tmp_path / "path", tmp_path / "text", unbuffered, buffered):
        assert path.read_bytes() == expected
    assert memory == expected
    assert native.getvalue().to_pybytes() == expected


def test_a_socket_takes_a_stream_and_gives_it_back() -> None:
    left, right = socket.socketpair()
    read: list[pa.Table] = []
    thread = threading.Thread(target=lambda: read.append(ipc.open_stream(right).read_all()))
    thread.start()
    with left, ipc.new_stream(left, TABLE.schema, options=ipc.WriteOptions()) as writer:
        writer.write_table(TABLE, max_chunksize=3000)
    thread.join()
    right.close()
    assert read == [TABLE]


def test_a_batch_has_reached_the_sink_when_the_call_returns() -> None:
    """A reader at the other end of a stream is not kept waiting for the next batch."""
    sink = io.BytesIO()
    writer = ipc.new_stream(sink, TABLE.schema, options=ipc.WriteOptions(compression="zstd"))
    for number, batch in enumerate(TABLE.to_batches(max_chunksize=5000), 1):
        writer.write_batch(batch)
        assert len(list(pa.ipc.open_stream(sink.getvalue()))) == number
    writer.close()


@pytest.mark.parametrize("options", [None, ipc.WriteOptions(), ipc.WriteOptions(compression="lz4")])
def test_batches_keep_their_metadata(options: object) -> None:
    for new, open_ in ((ipc.new_stream, pa.ipc.open_stream), (ipc.new_file, pa.ipc.open_file)):
        sink = io.BytesIO()
        with new(sink, TABLE.schema, options=options) as writer:
            for batch in (TABLE.to_batches()[0], TABLE.slice(0, 2).to_batches()[0]):
                writer.write_batch(batch, custom_metadata={"text": "größer", b"bytes": b"\x00\xff"})
                writer.write_batch(batch)
        reader = open_(sink.getvalue())
        if open_ is pa.ipc.open_file:
            found = [reader.get_batch_with_custom_metadata(number) for number in range(4)]
        else:
            found = list(reader.iter_batches_with_custom_metadata())
        kept = [one.custom_metadata and dict(one.custom_metadata) for one in found]
        assert kept == [{b"text": "größer".encode(), b"bytes": b"\x00\xff"}, None] * 2


def test_the_metadata_of_schema_field_and_file_is_kept() -> None:
    schema = pa.schema(
        [pa.field("a", pa.int8(), metadata={b"k\xff": b"\x00"})], metadata={b"pandas": b"{}", b"x": b"\xfe"}
    )
    table = pa.table({"a": pa.array([1], pa.int8())}, schema=schema)
    payload = file_of(table, ipc.WriteOptions(), metadata={"who": "me", b"raw\xff": b"\x00\xff"})
    assert pa.ipc.open_file(payload).schema.equals(schema, check_metadata=True)
    assert ipc.open_file(payload).metadata == {b"who": b"me", b"raw\xff": b"\x00\xff"}


def test_statistics_are_counted_as_pyarrow_counts() -> None:
    for new, theirs in ((ipc.new_stream, pa.ipc.new_stream), (ipc.new_file, pa.ipc.new_file)):
        counted = []
        for make in (new, theirs):
            with make(pa.BufferOutputStream(), TABLE.schema) as writer:
                writer.write_table(TABLE, max_chunksize=7000)
                counted.append(tuple(writer.stats))
        assert counted[0] == counted[1]


# Dictionaries


def dictionary(values: list[object], picks: list[int | None], kind: pa.DataType | None = None) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(picks, pa.int8()), pa.array(values, kind))


GROWING = [
    dictionary(["a", "b"], [0, 1, None]),
    dictionary(["b", "c"], [0, 1, 1]),
    dictionary(["a", "b"], [1, 1, 0]),
    dictionary(["d", None, "a"], [0, 1, 2]),
    dictionary([], [None], pa.string()),
]


def test_a_file_gathers_its_dictionaries() -> None:
    batches = [pa.record_batch([column], names=["d"]) for column in GROWING]
    sink = io.BytesIO()
    with ipc.new_file(sink, batches[0].schema, options=ipc.WriteOptions()) as writer:
        for batch in batches:
            writer.write_batch(batch)
        assert tuple(writer.stats) == (9, 5, 3, 0, 0)
    payload = sink.getvalue()
    values = [batch.column(0).to_pylist() for batch in batches]
    reader = pa.ipc.open_file(payload)
    assert [reader.get_batch(number).column(0).to_pylist() for number in range(5)] == values
    assert reader.get_batch(0).column(0).dictionary.to_pylist() == ["a", "b", "c", "d", None]
    # Read as a stream, up to any batch, the file is right as well.
    assert [batch.column(0).to_pylist() for batch in pa.ipc.open_stream(payload[8:])] == values


def test_a_stream_replaces_its_dictionaries() -> None:
    batches = [pa.record_batch([column], names=["d"]) for column in GROWING]
    sink = io.BytesIO()
    with ipc.new_stream(sink, batches[0].schema, options=ipc.WriteOptions()) as writer:
        for batch in batches:
            writer.write_batch(batch)
    read = list(pa.ipc.open_stream(sink.getvalue()))
    assert [batch.column(0).dictionary for batch in read] == [column.dictionary for column in GROWING]
    assert read == batches


def test_deltas_are_written_when_asked_for() -> None:
    options = ipc.WriteOptions(dictionary_deltas=True, unify_dictionaries=False)
    batches = [
        pa.record_batch([dictionary(list("abcd"[:count]), [count - 1, 0])], names=["d"]) for count in (1, 2, 2, 4)
    ]
    for new, open_ in ((ipc.new_stream, pa.ipc.open_stream), (ipc.new_file, pa.ipc.open_file)):
        sink = io.BytesIO()
        with new(sink, batches[0].schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
            assert tuple(writer.stats)[1:] == (4, 3, 2, 0)
        assert open_(sink.getvalue()).read_all().to_pylist() == pa.Table.from_batches(batches).to_pylist()


@pytest.mark.parametrize("name", [name for name in NAMES if "dictionar" in name])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_dictionaries_that_differ_come_together(name: str, compression: str) -> None:
    """Nested ones, of lists, with nulls, in lists: each batch has a dictionary of its own."""
    parts = [columns(30, seed)[name].slice(2, 20) for seed in range(3)]
    table = pa.table({"d": pa.chunked_array(parts)})
    payload = file_of(table, ipc.WriteOptions(compression=compression))
    for read in (pa.ipc.open_file(payload).read_all(), pa.ipc.open_stream(payload[8:]).read_all()):
        read.validate(full=True)
        assert read.to_pylist() == table.to_pylist()
    dictionaries = ipc.open_file(payload).footer.dictionaries
    ids = [
        found.header.dictionary_id for found in Messages(payload, 8) if found.offset in {d.offset for d in dictionaries}
    ]
    assert len(ids) == len(set(ids))


# What a file says about itself


def test_checksums_are_those_of_the_messages() -> None:
    payload = file_of(TABLE, ipc.WriteOptions(batch_rows=7000))
    footer = ipc.open_file(payload).footer
    checksums = read_checksums(footer)
    assert sorted(checksums) == [block.offset for block in footer.batches]
    for block in footer.batches:
        assert checksums[block.offset] == xxhash.xxh3_64_intdigest(payload[block.offset : block.end])


def test_a_file_carries_no_more_than_was_asked_for() -> None:
    plain = pa.ipc.open_file(file_of(TABLE)).metadata
    assert plain is None
    described = pa.ipc.open_file(file_of(TABLE, ipc.WriteOptions())).metadata
    assert sorted(described) == [b"aljava.checksums", b"aljava.footer", b"aljava.zones"]
    assert ipc.open_file(file_of(TABLE, ipc.WriteOptions())).metadata is None


# Layouts


@pytest.mark.parametrize("page_offsets", [False, True])
@pytest.mark.parametrize("slack", [0, 1, 4096])
def test_a_layout_is_a_file(page_offsets: bool, slack: int) -> None:
    for table in (TABLE, pa.table(SAMPLES), TABLE.slice(0, 0), pa.table({})):
        layout = lay_out(table.schema, table.to_batches(), ipc.WriteOptions(), {"k": "v"}, page_offsets)
        memory = bytearray(os.urandom(layout.size + slack))
        ends = 0
        for offset, data in layout.parts(len(memory)):
            assert offset >= ends
            ends = offset + len(data)
            memory[offset:ends] = bytes(data)
        assert ends == len(memory)
        reader = ipc.open_file(memory)
        assert reader.read_all() == table
        assert reader.metadata == {b"k": b"v"}
        assert pa.ipc.open_file(memory).read_all() == table


def test_a_layout_minds_the_page_trap() -> None:
    """DESIGN: copying is slow to a place 1 to 500 bytes ahead of its source modulo 4096."""
    values = np.zeros(3_000_000, np.uint8)
    arrays = [pa.array(values[1000 * number :][:20_000]) for number in range(60)]
    table = pa.table(arrays, names=[str(number) for number in range(60)])
    layout = lay_out(table.schema, table.to_batches(), page_offsets=True)
    addresses = {column.chunk(0).buffers()[1].address + column.chunk(0).offset for column in table.columns}
    large = [
        (offset, data) for offset, data in layout.parts() if isinstance(data, pa.Buffer) and data.address in addresses
    ]
    assert len(large) == 60
    for offset, data in large:
        assert not 0 < (offset - data.address) % 4096 <= 500


def test_a_large_buffer_in_a_layout_is_not_copied() -> None:
    layout = lay_out(TABLE.schema, TABLE.to_batches())
    address = TABLE["n"].chunk(0).buffers()[1].address
    assert address in [data.address for _, data in layout.parts() if isinstance(data, pa.Buffer)]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_tiny_slice_and_its_copy_give_the_same_bytes(compression: str) -> None:
    """However a tiny batch lay in memory; it takes another way through the writer than a slice does."""
    whole = pa.record_batch(
        {
            "number": [1, None, 3, 4, None],
            "flag": [True, False, None, True, True],
            "text": ["a", "bcd", None, "", "e"],
            "empty": ["", "", "", "", "x"],
        }
    )
    for start in range(5):
        for rows in range(1, 5 - start):
            part = whole.slice(start, rows)
            copy = pa.record_batch(part.to_pydict(), schema=part.schema)
            payloads = []
            for batch in (part, copy):
                sink = pa.BufferOutputStream()
                with ipc.new_stream(sink, batch.schema, options=ipc.WriteOptions(compression=compression)) as writer:
                    writer.write_batch(batch)
                payloads.append(sink.getvalue())
            assert payloads[0].equals(payloads[1])
            assert pa.ipc.open_stream(payloads[0]).read_all().to_batches() == [part]


def test_lists_of_no_rows_without_offsets_are_written_again() -> None:
    """As other writers leave them out, and as they are read back."""
    kind = pa.map_(pa.int8(), pa.dictionary(pa.int8(), pa.string()))
    values = pa.nulls(0, pa.struct([kind.key_field, kind.item_field]))
    batch = pa.record_batch([pa.Array.from_buffers(kind, 0, [None, pa.py_buffer(b"")], children=[values])], ["a"])
    for _ in range(100):
        sink = pa.BufferOutputStream()
        with ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        assert pa.ipc.open_stream(sink.getvalue()).read_all().num_rows == 0


def test_what_a_writer_takes(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3]})
    with ipc.new_file(tmp_path / "it.arrow", table.schema) as writer:
        for data in (table, table.to_batches()[0], table.to_reader(1)):
            writer.write(data)
        with pytest.raises(ValueError, match=r"RecordBatch, Table or RecordBatchReader; got <class 'list'>"):
            writer.write([1])
        with pytest.raises(TypeError, match=r"takes a pyarrow\.RecordBatch; got Table"):
            writer.write_batch(table)
    with pa.ipc.open_file(tmp_path / "it.arrow") as reader:
        assert reader.num_record_batches == 5
        assert reader.read_all()["a"].to_pylist() == [1, 2, 3] * 3
    with pytest.raises(InvalidOption, match="raw names columns in a tuple; got the text 'a'"):
        ipc.WriteOptions(raw="a")  # type: ignore[arg-type]


def test_the_format_of_the_past() -> None:
    table = pa.table({"a": [1, 2, 3]})
    for old in ({"use_legacy_format": True}, {"metadata_version": pa.ipc.MetadataVersion.V4}):
        sink = io.BytesIO()
        with ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**old)) as writer:
            writer.write_table(table, max_chunksize=2)
        assert pa.ipc.open_stream(sink.getvalue()).read_all() == ipc.open_stream(sink.getvalue()).read_all() == table
        with pytest.raises(InvalidOption, match="written uncompressed only"):
            ipc.new_stream(io.BytesIO(), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd", **old))


def test_a_layout_takes_the_room_that_it_takes() -> None:
    table = pa.table({"a": [1, 2, 3]})
    layout = lay_out(table.schema, table.to_batches())
    with pytest.raises(InvalidOption, match=f"the file takes {layout.size} bytes; 10 are not enough"):
        list(layout.parts(10))


def test_views_that_stay_raw_in_a_compressed_file(tmp_path: Path) -> None:
    text = pa.array([f"a text that is the same but for {number}" for number in range(5000)], pa.string_view())
    table = pa.table({"n": range(5000), "raw": text, "packed": text})
    with ipc.new_file(tmp_path / "it.arrow", table.schema, options=ipc.WriteOptions("zstd", raw=("raw",))) as writer:
        writer.write_table(table)
    assert aljava.read(tmp_path / "it.arrow") == pa.ipc.open_file(tmp_path / "it.arrow").read_all() == table
    sizes = layout_of(tmp_path / "it.arrow").table().group_by("column").aggregate([("bytes", "sum")])
    kept = dict(zip(sizes["column"].to_pylist(), sizes["bytes_sum"].to_pylist(), strict=True))
    assert kept["raw"] > text.nbytes > 3 * kept["packed"]


@pytest.mark.parametrize(
    "values",
    [["a", "b", "c", "d"], [[1], [2], None, [3, 4]], pa.array([0.5, 1.5, 2.5, 3.5], pa.float16())],
    ids=["text", "lists", "half floats"],
)
def test_dictionaries_that_grow(values: Any) -> None:
    """Those of lists and of half floats cannot be looked up: theirs are put one behind the other."""
    values = pa.array(values)
    parts = [
        pa.DictionaryArray.from_arrays([0, 1, None], values[:2]),
        pa.DictionaryArray.from_arrays([2, 0, 1], values[:3]),
        pa.DictionaryArray.from_arrays([0, 1], values[2:]),
        pa.DictionaryArray.from_arrays([0], values[:1]),
    ]
    sink = io.BytesIO()
    with ipc.new_file(sink, pa.schema([("a", parts[0].type)]), options=ipc.WriteOptions()) as writer:
        for part in parts:
            writer.write_batch(pa.record_batch({"a": part}))
    expected = [value for part in parts for value in part.to_pylist()]
    assert pa.ipc.open_file(sink.getvalue()).read_all()["a"].to_pylist() == expected
    assert ipc.open_file(sink.getvalue()).read_all()["a"].to_pylist() == expected


def test_a_sink_that_does_not_say_how_much_it_took() -> None:
    class Silent:
        def __init__(self) -> None:
            self.content = b""

        def write(self, data: Any) -> None:
            self.content += bytes(data)

    sink, table = Silent(), pa.table({"a": range(100_000)})
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert pa.ipc.open_stream(sink.content).read_all() == table
