"""Copying tables between formats: what a text keeps, what is refused, and how little memory it takes."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import aljava
from aljava.errors import InvalidData, InvalidOption, UnsupportedType

pytestmark = pytest.mark.usefixtures("no_leaks")


class Somewhere:
    """A path that is no `pathlib.Path`, and whose text is not where it leads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


@pytest.mark.parametrize("suffix", ["csv", "tsv.gz", "jsonl", "parquet"])
def test_great_whole_numbers_and_paths(tmp_path, suffix) -> None:
    table = pa.table(
        {
            "great": pa.array([1, 2**63, 2**64 - 1, None], pa.uint64()),
            "small": pa.array([1, -(2**63), 2**63 - 1, 0]),
            "real": [1e19, 0.5, 2.0**63, None],
            "power": [1e19, 1.0e19, None, 1e18],
        }
    )
    there, back = Somewhere(tmp_path / f"there.{suffix}"), Somewhere(tmp_path / "back.arrow")
    aljava.write(table, tmp_path / "table.arrow")
    assert aljava.copy(Somewhere(tmp_path / "table.arrow"), there).rows == 4
    aljava.copy(there, back)
    copied = aljava.read(back)
    assert copied.select(["great", "small", "real"]).equals(table.select(["great", "small", "real"]))
    assert copied["power"].to_pylist() == table["power"].to_pylist()


def test_great_powers_stay_floating(tmp_path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1e19,10000000000000000001\n")
    (tmp_path / "x.jsonl").write_text('{"a":1e19,"b":10000000000000000001}\n')
    for name in ("x.csv", "x.jsonl"):
        aljava.copy(tmp_path / name, tmp_path / "x.arrow")
        table = aljava.read(tmp_path / "x.arrow")
        assert table.schema.types == [pa.float64(), pa.uint64()]
        assert table.to_pylist() == [{"a": 1e19, "b": 10**19 + 1}]


def test_no_rows(tmp_path) -> None:
    aljava.write({"a": pa.array([], pa.int64())}, tmp_path / "none.arrow")
    for suffix in ("jsonl", "jsonl.gz"):
        aljava.copy(tmp_path / "none.arrow", tmp_path / f"none.{suffix}")
        with pytest.raises(InvalidData, match=r"is empty.*says nothing of columns"):
            aljava.copy(tmp_path / f"none.{suffix}", tmp_path / "back.arrow")
    aljava.copy(tmp_path / "none.arrow", tmp_path / "none.csv")
    aljava.copy(tmp_path / "none.csv", tmp_path / "back.arrow")
    assert aljava.read(tmp_path / "back.arrow").schema.names == ["a"]


@pytest.mark.parametrize("nested", [False, True])
def test_unions_in_json_lines(tmp_path, nested) -> None:
    def written(*values: pa.Array) -> Path:
        union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), list(values))
        column = pa.StructArray.from_arrays([union], ["inside"]) if nested else union
        aljava.write(pa.table({"mix": column}), tmp_path / "union.arrow")
        return tmp_path / "union.arrow"

    with pytest.raises(UnsupportedType, match="column 'mix'"):
        aljava.copy(written(pa.array([1, 2]), pa.array(["a", "b"])), tmp_path / "union.jsonl")
    assert not (tmp_path / "union.jsonl").exists()
    aljava.copy(written(pa.array([1, 2]), pa.array([0.5, 4.5])), tmp_path / "union.jsonl")
    aljava.copy(tmp_path / "union.jsonl", tmp_path / "back.arrow")
    values = aljava.read(tmp_path / "back.arrow")["mix"].to_pylist()
    assert values == ([{"inside": 1}, {"inside": 4.5}] if nested else [1, 4.5])


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is told by /proc")
@pytest.mark.parametrize(
    ("batches", "copies"),
    [
        (10, ["source.arrow x.zstd.arrow", "source.arrow x.parquet"]),
        # What CSV and Parquet read ahead is some 300 MB, however long the table is.
        pytest.param(
            20, ["source.arrow x.csv", "x.csv x.parquet", "x.parquet x.arrow", "x.csv x.arrow"], marks=pytest.mark.long
        ),
    ],
)
def test_memory_stays_small(tmp_path, batches, copies) -> None:
    """Private memory: the pages of a mapped file are the system's, which takes them back when it needs them."""
    rows = 500_000
    dice = np.random.default_rng(1)
    batch = pa.record_batch({f"c{number}": dice.integers(0, 10**6, rows) for number in range(10)})
    source = tmp_path / "source.arrow"
    with pa.OSFile(str(source), "w") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    size = source.stat().st_size
    for pair in copies:
        start, end = (tmp_path / name for name in pair.split())
        options = ("--compression", "zstd") if "zstd" in end.name else ()
        command = [sys.executable, "-m", "aljava", "copy", start, end, *options]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        most = 0
        while process.poll() is None:
            found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            most = max(most, int(found[1]) << 10 if found else 0)
            time.sleep(0.01)
        assert f"{batches * rows:,} rows" in process.communicate()[1]
        assert 20 << 20 < most < size * 2 // 3, (pair, most)


def test_a_compression_that_parquet_has_not(tmp_path: Path) -> None:
    aljava.write({"id": [1]}, tmp_path / "it.arrow")
    with pytest.raises(InvalidOption, match="'rar' is none of Parquet's: zstd"):
        aljava.copy(tmp_path / "it.arrow", tmp_path / "it.parquet", compression="rar")
    assert os.listdir(tmp_path) == ["it.arrow"]
