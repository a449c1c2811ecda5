"""Copying tables between formats: what a text keeps, what is refused, and how little memory it takes."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

import aljava
from aljava.errors import InvalidData, InvalidOption, SchemaMismatch, UnsupportedType

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """pyarrow opens a pipe for signals when it first reads a CSV file whole, and keeps it."""
    pyarrow.csv.read_csv(io.BytesIO(b"a\n1\n"))


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

    uuids = pa.array([bytes(16)] * 2, pa.uuid())
    for one, another in [
        (pa.array([1, 2]), pa.array(["a", "b"])),
        (pa.array([1, 2]), pa.array(["a", "b"]).dictionary_encode()),
        (pa.array([1, 2]), pa.array([True, False])),
        (pa.array([1, 2]), uuids),
        (pa.array([[1], [2]]), pa.array([{"a": 1}, {"a": 2}])),
    ]:
        with pytest.raises(UnsupportedType, match="column 'mix'"):
            aljava.copy(written(one, another), tmp_path / "union.jsonl")
        assert not (tmp_path / "union.jsonl").exists()
    for one, another in [(pa.array(["a", "b"]), uuids), (pa.array([1, 2]), pa.nulls(2))]:
        assert aljava.copy(written(one, another), tmp_path / "union.jsonl").rows == 2
    aljava.copy(written(pa.array([1, 2]), pa.array([0.5, 4.5])), tmp_path / "union.jsonl")
    aljava.copy(tmp_path / "union.jsonl", tmp_path / "back.arrow")
    values = aljava.read(tmp_path / "back.arrow")["mix"].to_pylist()
    assert values == ([{"inside": 1}, {"inside": 4.5}] if nested else [1, 4.5])


NAN = float("nan")


def _like(first: Any, kind: pa.DataType) -> pa.Array:
    return pa.array([first, None], kind)


@pytest.mark.parametrize(
    ("values", "in_csv", "in_json"),
    [
        (_like("a", pa.string()).dictionary_encode(), '"a"', "a"),
        (_like("a", pa.string_view()), '"a"', "a"),
        (_like(b"a", pa.binary_view()), '"YQ=="', "YQ=="),
        (_like(b"\xff", pa.binary(1)), '"/w=="', "/w=="),
        (_like(Decimal("-2.50"), pa.decimal32(5, 2)), "-2.50", "-2.50"),
        (_like(Decimal("-2.50"), pa.decimal64(5, 2)), "-2.50", "-2.50"),
        (_like(1, pa.time64("ns")), "00:00:00.000000001", "00:00:00.000000001"),
        (_like(1, pa.timestamp("ns")), "1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000001"),
        (_like(-5, pa.duration("ms")), "-5", -5),
        (_like((1, 2, 3), pa.month_day_nano_interval()), None, {"months": 1, "days": 2, "nanoseconds": 3}),
        (_like([date(2025, 1, 2)], pa.large_list(pa.date32())), '"[""2025-01-02""]"', ["2025-01-02"]),
        (_like([1, None], pa.list_view(pa.int8())), '"[1, null]"', [1, None]),
        (_like([1, 2], pa.list_(pa.duration("s"), 2)), '"[1, 2]"', [1, 2]),
        (_like([("k", Decimal(1))], pa.map_(pa.string(), pa.decimal128(2, 1))), None, [{"key": "k", "value": "1.0"}]),
        (_like({"x": b"a", "y": NAN}, pa.struct({"x": pa.binary(), "y": pa.float16()})), None, {"x": "YQ==", "y": None}),  # noqa: E501
        (_like(UUID(int=1).bytes, pa.uuid()), f'"{UUID(int=1)}"', str(UUID(int=1))),
    ],
    ids=lambda it: str(it.type) if isinstance(it, pa.Array) else "",
)  # fmt: skip
def test_every_type_as_text(tmp_path: Path, values: pa.Array, in_csv: str | None, in_json: Any) -> None:
    aljava.write(pa.table({"id": [1, 2], "it": values}), tmp_path / "it.arrow")
    for suffix in ("csv", "jsonl"):
        aljava.copy(tmp_path / "it.arrow", tmp_path / f"it.{suffix}")
    in_csv = in_csv or '"' + json.dumps(in_json).replace('"', '""') + '"'
    assert (tmp_path / "it.csv").read_text() == f'"id","it"\n1,{in_csv}\n2,\n'
    lines = [json.loads(line) for line in (tmp_path / "it.jsonl").read_text().splitlines()]
    assert lines == [{"id": 1, "it": in_json}, {"id": 2, "it": None}]


def test_what_a_format_has_not(tmp_path: Path) -> None:
    span = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    aljava.write(pa.table({"id": [1], "span": span}), tmp_path / "it.arrow")
    with pytest.raises(UnsupportedType, match="column 'span' is month_day_nano_interval, which Parquet does not have"):
        aljava.copy(tmp_path / "it.arrow", tmp_path / "out.parquet")
    with pytest.raises(InvalidOption, match=r"csv, which has no compression='zstd': a name such as OUT\.csv\.gz"):
        aljava.copy(tmp_path / "it.arrow", tmp_path / "out.csv", compression="zstd")
    with pytest.raises(InvalidOption, match="format 'orc' is none of arrow"):
        aljava.copy(tmp_path / "it.arrow", tmp_path / "out", target_format="orc")
    assert os.listdir(tmp_path) == ["it.arrow"]


def test_texts_of_different_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,name\n1,a\n")
    (tmp_path / "2.csv").write_text("id,colour\n2,b\n")
    with pytest.raises(SchemaMismatch, match=r"2\.csv has a column 'colour', and .*1\.csv has no"):
        aljava.copy([tmp_path / "1.csv", tmp_path / "2.csv"], tmp_path / "out.arrow")
    assert not (tmp_path / "out.arrow").exists()


def test_the_line_of_a_row_with_too_many_values(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text('id,text\n\n1,"over\ntwo lines"\n2,b\n3,c,d\n')
    with pytest.raises(InvalidData, match="line 6: 3 values where the header has 2 "):
        aljava.copy(tmp_path / "it.csv", tmp_path / "out.arrow")


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


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("semicolons.csv", b"id;price\n1;0,5\n", r"';' between its values, .*read_csv\('.*semicolons.csv'\)"),
        ("tabs.csv", b"id\tname\n1\ta\n", r"'\\t' between its values, .*--from tsv"),
        ("bars.tsv", b"id|name\n", r"'\|' between its values, where TSV has '\\t'"),
        ("wide.csv", "id,name\n1,a\n".encode("utf-16"), "is UTF-16.*iconv -f utf-16"),
        ("latin.csv", b"id,name\n1,caf\xe9\n", "column 'name' holds text that is not UTF-8.*iconv -f latin1"),
        ("noise.csv", b"a\n\xff,\xfe\n", "is not CSV, or not UTF-8"),
        ("blank.csv", b"\n\n", "is empty"),
        (
            "open.csv",
            b'a,b\n1,x\n2,"y\n3,z\n4,w\n',
            "a quote that is not closed, and has .*: 'y",
        ),
        ("open.tsv.gz", gzip.compress(b'a\tb\n1\t"x\n2\ty'), "a quote that is not closed, .*: 'x"),
        ("plain.csv.gz", b"id\n1\n", "cannot be unpacked as gzip, .* give it the name that it should have"),
        ("plain.jsonl.gz", b'{"id": 1}', "cannot be unpacked as gzip"),
        ("plain.csv.zst", b"id\n1\n", "cannot be unpacked as zstd"),
    ],
)
def test_a_text_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidData, match=said):
        aljava.copy(tmp_path / name, tmp_path / "out.arrow")
    assert not (tmp_path / "out.arrow").exists()


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\n"])
def test_a_last_value_of_several_lines(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "lines.csv").write_bytes(b'a,b\n1,"x\ny\n"' + end)
    aljava.copy(tmp_path / "lines.csv", tmp_path / "out.arrow")
    assert aljava.read(tmp_path / "out.arrow").to_pydict() == {"a": [1], "b": ["x\ny\n"]}
    with open(tmp_path / "lines.csv", "rb") as file:  # as a pipe, which is read once
        aljava.copy(file, tmp_path / "out.arrow", source_format="csv")


@pytest.mark.parametrize("content", [b"a;b\n1\n", b'"a;b"\n1;2\n', b"\xef\xbb\xbfid\nx|y\n", b"id\n"])
def test_one_column_whose_values_hold_other_separators(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "one.csv").write_bytes(content)
    aljava.copy(tmp_path / "one.csv", tmp_path / "out.arrow")
    assert aljava.read(tmp_path / "out.arrow").num_columns == 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "csv.gz"])
def test_a_text_comes_through_a_named_pipe(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"id": [1, 2], "name": ["a", "b"]})
    aljava.write(table, tmp_path / "in.arrow")
    aljava.copy(tmp_path / "in.arrow", tmp_path / f"whole.{suffix}")
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    with subprocess.Popen(["sh", "-c", f"cat whole.{suffix} > pipe.{suffix}"], cwd=tmp_path):
        aljava.copy(tmp_path / f"pipe.{suffix}", tmp_path / "out.arrow")
    assert aljava.read(tmp_path / "out.arrow").equals(table)
