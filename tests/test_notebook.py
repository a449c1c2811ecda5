"""The notebook that the idea came from, section by section, with Aljava's modules in place of pyarrow's."""

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import fs

import aljava
from aljava import feather, ipc

ROWS = 100_000


@pytest.fixture(scope="module")
def data() -> pa.Table:
    rng = np.random.default_rng(7)
    return pa.table(
        {
            "id": range(ROWS),
            "valor": rng.standard_normal(ROWS),
            "categoria": rng.choice(["A", "B", "C", "D", "E"], ROWS),
        }
    )


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_1_ipc_format(data: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, data.schema) as writer:
        for batch in data.to_batches():
            writer.write_batch(batch)
    buffer = sink.getvalue()
    assert ipc.open_stream(buffer).read_all() == data
    assert pa.ipc.open_stream(buffer).read_all() == data


def test_2_feather_format(data: pa.Table) -> None:
    feather.write_feather(data, "dados_cap7.feather")
    assert feather.read_table("dados_cap7.feather") == data
    assert pa.feather.read_table("dados_cap7.feather") == data
    pd.testing.assert_frame_equal(feather.read_feather("dados_cap7.feather"), data.to_pandas())
    assert feather.read_table("dados_cap7.feather", columns=["id", "valor"]) == data.select(["id", "valor"])


def test_3_serialization_to_disk(data: pa.Table) -> None:
    array = pa.array([10, 20, 30, 40])
    batch = pa.RecordBatch.from_arrays([array], names=["v"])
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert ipc.open_stream(sink.getvalue()).read_next_batch() == batch
    assert aljava.loads(aljava.dumps(array)) == array

    local = fs.LocalFileSystem()
    with local.open_output_stream("raw_batches.arrow") as stream, ipc.new_file(stream, data.schema) as writer:
        writer.write_table(data)
    assert local.get_file_info("raw_batches.arrow").size > 0
    assert aljava.read("raw_batches.arrow") == data


def test_4_shared_memory(data: pa.Table) -> None:
    feather.write_feather(data, "shared_data.feather", compression="uncompressed")
    mapped = feather.read_table("shared_data.feather", memory_map=True)
    allocated = pa.total_allocated_bytes()
    assert mapped == data
    address = mapped["id"].chunk(0).buffers()[1].address
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps if "shared_data.feather" in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    assert any(low <= address < high for low, high in ranges)
    assert pa.total_allocated_bytes() <= allocated

    aljava.write(data, "shm://notebook/data")
    assert aljava.read("shm://notebook/data") == data
    aljava.Store("notebook").destroy()


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_5_compression(data: pa.Table, compression: str | None) -> None:
    def size(module: object) -> int:
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with module.new_file(sink, data.schema, options=options) as writer:  # type: ignore[attr-defined]
            writer.write_table(data)
        assert pa.ipc.open_file(sink.getvalue()).read_all() == data
        assert ipc.open_file(sink.getvalue()).read_all() == data
        return int(sink.getvalue().size)

    assert size(ipc) <= 1.01 * size(pa.ipc)


def test_duckdb_and_pandas_beside_it(data: pa.Table) -> None:
    aljava.write(data, "dados.arrow")
    rows = aljava.sql("select categoria, count(*) from 'dados.arrow' group by all order by all").fetchall()
    assert rows == duckdb.sql("select categoria, count(*) from data group by all order by all").fetchall()
    pd.testing.assert_frame_equal(aljava.open("dados.arrow").to_pandas(), data.to_pandas())
