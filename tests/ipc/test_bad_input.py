"""Whatever is wrong ends in an error of ours, and what was complete before stays readable."""

import io
import os
import random
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aljava import ipc
from aljava.errors import AljavaError, InvalidData, InvalidOption, SchemaMismatch, TransferError, UnsupportedType
from aljava.ipc.message import Messages
from aljava.ipc.writer import lay_out
from tests.ipc.samples import columns

TABLE = pa.table({"n": np.arange(5000), "s": [f"row {number}" for number in range(5000)]})
BATCH = TABLE.to_batches()[0]
WRITERS = [(ipc.new_stream, pa.ipc.open_stream), (ipc.new_file, pa.ipc.open_file)]
OPTIONS = [None, ipc.WriteOptions(), ipc.WriteOptions(compression="none")]


@pytest.mark.parametrize(("new", "open_"), WRITERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_another_schema_midway_is_refused_and_the_rest_goes_on(new: Any, open_: Any, options: Any) -> None:
    sink = io.BytesIO()
    with new(sink, TABLE.schema, options=options) as writer:
        writer.write_batch(BATCH)
        for wrong in (pa.record_batch({"n": [1]}), pa.record_batch({"n": ["x"], "s": ["y"]}), BATCH.select(["s", "n"])):
            with pytest.raises(SchemaMismatch):
                writer.write_batch(wrong)
        writer.write_batch(BATCH)
    assert open_(sink.getvalue()).read_all() == pa.concat_tables([TABLE, TABLE])


@pytest.mark.parametrize(("new", "open_"), WRITERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_batches_before_a_refused_one_are_written(new: Any, open_: Any, options: Any) -> None:
    sink = io.BytesIO()
    with new(sink, TABLE.schema, options=options) as writer:
        with pytest.raises(SchemaMismatch):
            writer.write_batches([BATCH, BATCH, pa.record_batch({"n": [1]}), BATCH])
        assert writer.stats.num_record_batches == 2
        with pytest.raises(ZeroDivisionError):
            writer.write_batches(BATCH if number < 1 else 1 / 0 for number in range(2))
    assert open_(sink.getvalue()).read_all() == pa.concat_tables([TABLE] * 3)


@pytest.mark.parametrize(("new", "open_"), WRITERS)
@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_is_written_after_the_end(new: Any, open_: Any, options: Any) -> None:
    sink = io.BytesIO()
    writer = new(sink, TABLE.schema, options=options)
    writer.write_batch(BATCH)
    writer.close()
    writer.close()
    payload = sink.getvalue()
    with pytest.raises(InvalidOption, match="closed"):
        writer.write_batch(BATCH)
    assert sink.getvalue() == payload
    assert open_(payload).read_all() == TABLE


class Full(io.RawIOBase):
    """A disk with little room."""

    def __init__(self, room: int):
        self.data = bytearray()
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        taken = min(len(data), self.room - len(self.data))
        if not taken:
            raise OSError(28, "No space left on device")
        self.data += bytes(data[:taken])
        return taken


@pytest.mark.parametrize("new", [ipc.new_stream, ipc.new_file])
@pytest.mark.parametrize("options", OPTIONS)
def test_what_was_complete_before_the_disk_was_full_stays_readable(new: Any, options: Any) -> None:
    sink = Full(200_000)
    writer = new(sink, TABLE.schema, options=options)
    written = 0

    def fill() -> None:
        nonlocal written
        while True:
            writer.write_batch(BATCH)
            written += 1

    with pytest.raises(TransferError, match="No space left") as caught:
        fill()
    assert caught.value.errno == 28
    with pytest.raises(InvalidOption, match="failed before"):
        writer.write_batch(BATCH)
    writer.close()
    assert len(sink.data) == 200_000
    start = 8 if new is ipc.new_file else 0
    found = [one for one in Messages(sink.data, start) if one.header.kind == "record batch"]
    assert len(found) == written > 1
    batches = iter(ipc.open_stream(bytes(sink.data[start:])))
    assert all(next(batches) == BATCH for _ in range(written))


def test_a_full_device_and_a_broken_pipe_are_told() -> None:
    if os.path.exists("/dev/full"):
        with pytest.raises(TransferError, match="No space left"), ipc.new_file("/dev/full", TABLE.schema) as writer:
            writer.write_table(TABLE)
    left, right = socket.socketpair()
    right.close()
    with (
        left,
        pytest.raises(TransferError, match="Broken pipe") as caught,
        ipc.new_stream(left, TABLE.schema) as writer,
    ):
        writer.write_table(TABLE)
    assert caught.value.errno == 32


def test_memory_that_is_too_small_or_read_only_is_told() -> None:
    with pytest.raises(TransferError), ipc.new_file(bytearray(1000), TABLE.schema) as writer:
        writer.write_table(TABLE)
    for sink in (b"bytes", pa.py_buffer(b"bytes"), 7, None):
        with pytest.raises(UnsupportedType):
            ipc.new_file(sink, TABLE.schema)


def test_a_second_dictionary_in_a_file_is_refused_where_they_are_not_unified() -> None:
    batches = [
        pa.record_batch({"d": pa.array(values).dictionary_encode()}) for values in (["a", "b"], ["c"], ["a", "b"])
    ]
    sink = io.BytesIO()
    with ipc.new_file(sink, batches[0].schema) as writer:
        writer.write_batch(batches[0])
        with pytest.raises(SchemaMismatch, match="unify_dictionaries"):
            writer.write_batch(batches[1])
    assert pa.ipc.open_file(sink.getvalue()).read_all().to_pylist() == batches[0].to_pylist()


def test_a_dictionary_that_outgrows_its_indices_is_refused() -> None:
    def batch(start: int) -> pa.RecordBatch:
        values = pa.array([f"value {number}" for number in range(start, start + 100)])
        return pa.record_batch({"d": pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), values)})

    sink = io.BytesIO()
    with ipc.new_file(sink, batch(0).schema, options=ipc.WriteOptions()) as writer:
        writer.write_batch(batch(0))
        with pytest.raises(SchemaMismatch, match="int8"):
            writer.write_batch(batch(100))
        writer.write_batch(batch(0))
    assert pa.ipc.open_file(sink.getvalue()).read_all().num_rows == 200


def test_columns_may_share_a_name() -> None:
    table = pa.table([pa.array([1]), pa.array(["x"]), pa.array([2])], names=["a", "a", "b"])
    for options in (*OPTIONS, ipc.WriteOptions(raw=("a",))):
        sink = io.BytesIO()
        with ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        assert ipc.open_file(sink.getvalue()).read_all() == table


def test_metadata_that_is_neither_text_nor_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="text or bytes"):
        ipc.new_file(io.BytesIO(), TABLE.schema, metadata={"k": 3})


def test_an_unknown_option_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "never.arrow"
    with pytest.raises(InvalidOption, match="nowhere"):
        ipc.new_file(path, TABLE.schema, options=ipc.WriteOptions(raw=("nowhere",)))
    for options in (True, "zstd", {"compression": "zstd"}):
        with pytest.raises(TypeError):
            ipc.new_file(path, TABLE.schema, options=options)
    with pytest.raises(TypeError):
        ipc.new_file(path, "schema")
    assert not path.exists()


def test_a_body_over_two_gigabytes(tmp_path: Path) -> None:
    """In a sparse file: what is zero is left out, so that the test costs neither memory nor disk."""
    rows = 2**28 + 10
    zeros = pa.array(np.zeros(rows, np.int64))
    batch = pa.record_batch([zeros, zeros], names=["a", "b"])
    layout = lay_out(batch.schema, [batch, BATCH.select([0]).rename_columns(["a"]).append_column("b", BATCH["n"])])
    path = tmp_path / "big.arrow"
    with open(path, "wb") as file:
        file.truncate(layout.size)
        for offset, data in layout.parts():
            if len(data) < 1 << 20:
                file.seek(offset)
                file.write(data)
    assert layout.size > 2**32
    with ipc.open_file(path) as reader:
        assert reader.get_batch(0).num_rows == rows
        assert reader.get_batch(0)["b"][rows - 1].as_py() == 0
        assert reader.get_batch(1)["b"].equals(BATCH["n"])


def test_a_message_that_claims_a_gigantic_body_costs_nothing() -> None:
    sink = io.BytesIO()
    with ipc.new_stream(sink, TABLE.schema, options=ipc.WriteOptions(compression="zstd")) as writer:
        writer.write_table(TABLE)
    payload = bytearray(sink.getvalue())
    batch = list(Messages(payload))[1]
    size = struct.pack("<q", batch.header.body_length)
    for claim in (2**40, 2**62, -8):
        hostile = payload.replace(size, struct.pack("<q", claim), 1) if size in payload else payload
        before = pa.total_allocated_bytes()
        for source in (bytes(hostile), io.BytesIO(hostile)):
            with pytest.raises(InvalidData):
                ipc.open_stream(source).read_all()
        assert pa.total_allocated_bytes() - before < 1 << 20


def test_a_buffer_that_claims_to_hold_gigabytes_is_refused() -> None:
    """pyarrow allocates what the eight bytes before a compressed buffer say."""
    for compression in ("zstd", "lz4"):
        sink = io.BytesIO()
        with ipc.new_file(sink, TABLE.schema, options=ipc.WriteOptions(compression=compression)) as writer:
            writer.write_table(TABLE)
        payload = bytearray(sink.getvalue())
        block = ipc.open_file(payload).footer.batches[0]
        for claim in (2**40, 2**33, 50_000_000 if compression == "zstd" else 2**31, -2):
            struct.pack_into("<q", payload, block.offset + block.metadata_length, claim)
            for open_, data in ((ipc.open_file, payload), (ipc.open_stream, payload[8:])):
                for source in (bytes(data), io.BytesIO(data)):
                    with pytest.raises(InvalidData, match="claim"):
                        open_(source).read_all()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_damage_ends_in_our_error_or_a_valid_table(options: Any, kind: str) -> None:
    source = random.Random(f"{options} {kind}")
    sink = io.BytesIO()
    table = pa.table(columns(40))
    with getattr(ipc, f"new_{kind}")(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=20)
    whole = sink.getvalue()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(source.randrange(1, 6)):
            at = source.randrange(len(data))
            data[at] = source.choice([0, 255, data[at] ^ 1 << source.randrange(8)])
        try:
            read = getattr(ipc, f"open_{kind}")(bytes(data), options=ipc.ReadOptions(untrusted=True)).read_all()
        except (AljavaError, MemoryError):
            continue
        read.validate(full=True)
