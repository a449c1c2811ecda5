"""Each buffer is compressed where that pays, and stays raw, aligned and in the map where it does not."""

import io

import numpy as np
import pyarrow as pa
import pytest

from aljava import ipc
from aljava.errors import InvalidOption
from aljava.ipc.compression import Compression
from aljava.ipc.message import Messages
from aljava.ipc.metadata import BatchHeader
from tests.ipc.samples import columns

ROWS = 50_000
RANDOM = np.random.default_rng(3)
MIXED = pa.table(
    {
        "id": np.arange(ROWS),
        "noise": RANDOM.standard_normal(ROWS),
        "word": pa.array(["north", "south", "east"] * (ROWS // 3) + ["west"] * (ROWS % 3)),
        "more noise": RANDOM.integers(-(2**62), 2**62, ROWS),
    }
)


def written(table: pa.Table, *, file: bool = True, **options: object) -> bytes:
    sink = io.BytesIO()
    with (ipc.new_file if file else ipc.new_stream)(sink, table.schema, options=ipc.WriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def batches(payload: bytes) -> list[tuple[int, BatchHeader]]:
    """(place of the body, header) of each record batch of a file."""
    return [
        (found.offset + found.metadata_length, found.header.batch)
        for found in Messages(payload, 8)
        if found.header.batch is not None and found.header.dictionary_id is None
    ]


def raw_buffers(payload: bytes) -> list[list[bool]]:
    """For each batch, which of its filled buffers stay raw."""
    return [
        [
            header.codec is None or payload[start + offset : start + offset + 8] == b"\xff" * 8
            for offset, length in header.buffers.tolist()
            if length
        ]
        for start, header in batches(payload)
    ]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd", "zstd:9", "lz4:12", "zstd:-5", "auto"])
@pytest.mark.parametrize("file", [True, False])
def test_every_compression_comes_back(compression: str, file: bool) -> None:
    for table in (MIXED, pa.table(columns(300))):
        payload = written(table, file=file, compression=compression)
        read = (pa.ipc.open_file if file else pa.ipc.open_stream)(payload).read_all()
        read.validate(full=True)
        assert read == table
        assert written(table, file=file, compression=compression) == payload


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd", "auto"])
def test_empty_arrays_as_pyarrow_reads_them_are_written(compression: str) -> None:
    """Their buffers can be null; pyarrow's own compressor, and its `nbytes`, die of them."""
    source, sink = io.BytesIO(), io.BytesIO()
    batch = pa.table(columns(20)).to_batches()[0].slice(0, 0)
    with pa.ipc.new_file(source, batch.schema) as writer:
        writer.write_batch(batch)
    read = pa.ipc.open_file(source.getvalue()).get_batch(0)
    with ipc.new_file(sink, read.schema, options=ipc.WriteOptions(compression=compression)) as writer:
        writer.write_batch(read)
        writer.write_batch(read)
    assert pa.ipc.open_file(sink.getvalue()).read_all().num_rows == 0


def test_threads_change_no_byte() -> None:
    assert written(MIXED, use_threads=False) == written(MIXED, use_threads=True)


def test_auto_leaves_noise_raw_and_shrinks_the_rest() -> None:
    payload = written(MIXED, compression="auto", batch_rows=ROWS)
    assert raw_buffers(payload) == [[False, True, False, False, True]]
    assert len(payload) < 1.01 * (16 * ROWS + len(written(MIXED.select(["id", "word"]), compression="zstd")))


def test_raw_columns_stay_raw_and_can_be_mapped(tmp_path: object) -> None:
    path = f"{tmp_path}/raw.arrow"
    with ipc.new_file(path, MIXED.schema, options=ipc.WriteOptions(compression="zstd", raw=("id", "noise"))) as writer:
        writer.write_table(MIXED)
    before = pa.total_allocated_bytes()
    table = ipc.open_file(path, options=ipc.ReadOptions(columns=("id", "noise"))).read_all()
    assert pa.total_allocated_bytes() - before < 10_000
    assert table == MIXED.select(["id", "noise"])
    assert all(chunk.buffers()[1].address % 64 == 0 for column in table.columns for chunk in column.chunks)
    with open(path, "rb") as file:
        assert [raws[:2] for raws in raw_buffers(file.read())] == [[True, True]]


def test_nothing_that_shrank_nothing_said() -> None:
    """A batch in which nothing shrank is an uncompressed one: some readers refuse raw buffers in compressed batches."""
    noise = pa.table({"noise": RANDOM.standard_normal(ROWS)})
    for compression in ("auto", "zstd", "lz4"):
        incompressible = (
            noise if compression == "auto" else pa.table({"bytes": RANDOM.bytes(8 * ROWS) and noise["noise"]})
        )
        payload = written(incompressible, compression=compression)
        for _, header in batches(payload):
            if all(flags := raw_buffers(payload)[0]):
                assert header.codec is None, flags


def test_a_compressed_file_is_never_larger_than_an_uncompressed_one() -> None:
    table = pa.table({"noise": pa.array([RANDOM.bytes(5000) for _ in range(50)], pa.binary())})
    for compression in ("lz4", "zstd", "auto"):
        assert (
            len(written(table, compression=compression, batch_rows=50)) <= len(written(table, compression="none")) + 64
        )


@pytest.mark.parametrize("compression", ["none", "auto"])
def test_large_buffers_are_aligned_in_the_file(compression: str) -> None:
    payload = written(MIXED, compression=compression)
    for start, header in batches(payload):
        for offset, length in header.buffers.tolist():
            is_raw = header.codec is None
            if header.codec is not None and length and payload[start + offset : start + offset + 8] == b"\xff" * 8:
                is_raw, offset, length = True, offset + 8, length - 8
            if is_raw and length >= 4096:
                assert (start + offset) % 64 == 0


def test_small_dictionaries_stay_uncompressed_and_large_ones_do_not() -> None:
    for size, codec in ((10, None), (20_000, "zstd")):
        values = [f"a value of a dictionary, {number}" for number in range(size)]
        table = pa.table({"d": pa.DictionaryArray.from_arrays(pa.array(range(size)), pa.array(values))})
        found = [one.header for one in Messages(written(table, compression="zstd"), 8) if one.header.dictionary_id == 0]
        assert [header.batch.codec for header in found if header.batch] == [codec]


@pytest.mark.parametrize("name", ["gzip", "zstd:23", "lz4:0", "zstd:", "zstd:x", "none:1", "auto:3", "", None, 3])
def test_an_unknown_codec_or_level_is_refused_at_once(name: object) -> None:
    with pytest.raises(InvalidOption):
        ipc.WriteOptions(compression=name)  # type: ignore[arg-type]


def test_names_stand_for_codecs() -> None:
    assert Compression.parse("zstd:9") == Compression("zstd", 9)
    assert Compression.parse("auto").codec == "zstd"
    assert Compression.parse("none").codec is None
