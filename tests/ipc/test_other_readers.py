"""What Aljava writes is read by Polars, nanoarrow, arro3 and JavaScript, wherever they read what pyarrow writes.

Each reader gets each type in several shapes, as file and stream, under each compression. The types that a reader does
not know are listed; where a newer release of it reads pyarrow's payload of such a type, it must read ours, too.
"""

import functools
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arro3.io
import nanoarrow.ipc
import polars
import pyarrow as pa
import pytest

from tests.ipc.payloads import COMPRESSIONS, FORMATS, written, written_by_pyarrow
from tests.types import arrays

RUN_ENDS = {"run_end", "run_end_string", "list_of_run_end"}
LIST_VIEWS = {"list_view", "list_view_shuffled", "large_list_view"}
UNIONS = {"sparse_union", "dense_union", "dense_union_codes", "struct_of_unions"}
VIEWS = {"string_view", "binary_view", "list_string_view"}
DICTIONARIES = {
    *("dictionary", "dictionary_with_null", "dictionary_of_lists", "dictionary_of_dictionaries"),
    *("list_of_dictionary", "struct_of_dictionaries"),
}

# arro3 raises Exception itself, and a panic of Polars is not even that.
ERRORS = (Exception, polars.exceptions.PanicException)

JAVASCRIPT = {"apache-arrow": "21.2.0", "lz4js": "0.2.0", "fzstd": "0.1.1"}


@dataclass(frozen=True)
class Reader:
    """One peer, and what it does not know."""

    # From a payload and its format to what equals `expected` of the table that was written.
    read: Callable[[bytes, str], Any]
    expected: Callable[[pa.Table], Any]
    # Types that it refuses, whoever wrote them.
    unknown: frozenset[str]


def read_by_polars(payload: bytes, format_: str) -> polars.DataFrame:
    return polars.read_ipc(io.BytesIO(payload)) if format_ == "file" else polars.read_ipc_stream(io.BytesIO(payload))


def read_by_nanoarrow(payload: bytes, format_: str) -> pa.Table:
    # It reads streams only; a file holds one, after the 8 bytes of its magic.
    stream = payload[8:] if format_ == "file" else payload
    with nanoarrow.ipc.InputStream.from_readable(io.BytesIO(stream)) as source:
        return valid(pa.RecordBatchReader.from_stream(source).read_all())


def read_by_arro3(payload: bytes, format_: str) -> pa.Table:
    read = arro3.io.read_ipc if format_ == "file" else arro3.io.read_ipc_stream
    return valid(pa.table(read(io.BytesIO(payload))))


def valid(table: pa.Table) -> pa.Table:
    """The table, once every offset and index in it is known to point into it."""
    table.validate(full=True)
    return table


READERS = {
    "polars": Reader(
        read_by_polars,
        # Not in chunks: Polars 2.1 takes a slice of a fixed-size list with nulls for one of another length.
        lambda table: polars.from_arrow(table.combine_chunks()),
        frozenset(RUN_ENDS | LIST_VIEWS | UNIONS | {"decimal256", "interval"}),
    ),
    "nanoarrow": Reader(read_by_nanoarrow, lambda table: table, frozenset(RUN_ENDS | LIST_VIEWS | VIEWS)),
    "arro3": Reader(read_by_arro3, lambda table: table, frozenset()),
}
JAVASCRIPT_UNKNOWN = frozenset(RUN_ENDS | LIST_VIEWS)


@functools.cache
def tables() -> dict[tuple[str, str], pa.Table]:
    """A table of one column for each type and shape: two batches that are slices, one row, no rows, no batch."""
    made = {}
    for name, array in arrays().items():
        schema = pa.schema([pa.field("column", array.type)])
        shapes = {
            "two batches": [array.slice(0, 600), array.slice(600)],
            "one row": [array.slice(7, 1)],
            "no rows": [array.slice(7, 0)],
            "no batch": [],
        }
        for shape, chunks in shapes.items():
            batches = [pa.record_batch([chunk], schema=schema) for chunk in chunks]
            made[name, shape] = pa.Table.from_batches(batches, schema=schema)
    return made


def all_columns(unknown: frozenset[str]) -> pa.Table:
    """One table of all types that a reader knows: raw and compressed buffers, big and small, meet in its batches."""
    return pa.table({name: array for name, array in arrays().items() if name not in unknown})


def ours(table: pa.Table, format_: str, compression: str) -> bytes:
    return written(table.schema, table.to_batches(max_chunksize=600), format_, compression)


def theirs(table: pa.Table, format_: str) -> bytes:
    """pyarrow's payload of the table, uncompressed."""
    return written_by_pyarrow(table.schema, table.to_batches(max_chunksize=600), format_, "none")


def fault(reader: Reader, table: pa.Table, payload: bytes, format_: str) -> str | None:
    """What went wrong when the reader read the payload of the table, or None."""
    try:
        found = reader.read(payload, format_)
        return None if found.equals(reader.expected(table)) else f"wrong values: {found}"
    except ERRORS as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_reads_every_type_it_knows(reader: Reader, format_: str, compression: str) -> None:
    faults = {}
    for (name, shape), table in tables().items():
        found = fault(reader, table, ours(table, format_, compression), format_)
        if found is None:
            continue
        if name not in reader.unknown or fault(reader, table, theirs(table, format_), format_) is None:
            faults[name, shape] = found
    assert not faults


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_reads_all_columns_in_one_batch(reader: Reader, format_: str, compression: str) -> None:
    table = all_columns(reader.unknown)
    assert fault(reader, table, ours(table, format_, compression), format_) is None


def test_polars_scans_our_files(tmp_path: Path) -> None:
    """By path, where it maps the file and reads the footer."""
    table = all_columns(READERS["polars"].unknown)
    for compression in COMPRESSIONS:
        path = tmp_path / f"{compression}.arrow"
        path.write_bytes(ours(table, "file", compression))
        assert polars.scan_ipc(path).collect().equals(polars.from_arrow(table))
        assert (
            polars.scan_ipc(path).select("int64").tail(3).collect()["int64"].to_list()
            == (table["int64"].to_pylist()[-3:])
        )


@pytest.mark.skipif(
    not importlib.metadata.version("polars").startswith("2.1."), reason="the fault may be mended in this release"
)
@pytest.mark.parametrize("format_", FORMATS)
def test_polars_panics_on_empty_buffers_of_views(format_: str) -> None:
    """A fault of Polars 2.1: pyarrow writes an empty buffer for short strings, which it takes for a compressed one.

    Ours have no such buffer, so it reads them.
    """
    reader = READERS["polars"]
    table = pa.table({"column": pa.array(["a", "bc", None] * 400, pa.string_view())})
    for codec in ("lz4", "zstd"):
        compressed = written_by_pyarrow(table.schema, table.to_batches(), format_, codec)
        assert "panic" in str(fault(reader, table, compressed, format_)).lower()
        assert fault(reader, table, ours(table, format_, codec), format_) is None


@pytest.mark.skipif(
    not importlib.metadata.version("nanoarrow").startswith("0.9."), reason="the fault may be mended in this release"
)
def test_nanoarrow_misreads_compressed_dictionaries() -> None:
    """A fault of nanoarrow 0.9: it takes compressed dictionaries for raw ones. Ours stay raw, so it reads them."""
    reader = READERS["nanoarrow"]
    for name in DICTIONARIES:
        table = tables()[name, "two batches"]
        for codec in ("lz4", "zstd"):
            compressed = written_by_pyarrow(table.schema, table.to_batches(), "stream", codec)
            assert fault(reader, table, compressed, "stream") is not None
            assert fault(reader, table, ours(table, "stream", codec), "stream") is None


# JavaScript


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder with the JavaScript packages, installed once for this virtual environment."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("JavaScript is not tried: node and npm are not installed")
    versions = "-".join(JAVASCRIPT.values())
    home = Path(sys.prefix) if os.access(sys.prefix, os.W_OK) else Path(tempfile.gettempdir())
    folder = home / "share" / f"aljava-test-javascript-{versions}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=folder.parent))
        packages = [f"{name}@{version}" for name, version in JAVASCRIPT.items()]
        command = [npm, "install", "--prefix", str(fresh), "--ignore-scripts", "--no-audit", "--no-fund", *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            shutil.rmtree(fresh)
            assert not os.environ.get("CI"), done.stderr
            pytest.skip(f"JavaScript is not tried: npm could not install {' '.join(packages)}: {done.stderr[-300:]}")
        try:
            fresh.rename(folder)
        except OSError:  # another worker was faster
            shutil.rmtree(fresh)
    return folder / "node_modules"


def read_by_javascript(node_modules: Path, payloads: list[bytes], folder: Path) -> list[dict[str, Any]]:
    """What JavaScript finds in each payload: {"columns": {name: values}} or {"error": message}."""
    names = []
    for i, payload in enumerate(payloads):
        names.append(str(folder / str(i)))
        Path(names[-1]).write_bytes(payload)
    script = Path(__file__).parent / "js" / "read.cjs"
    done = subprocess.run(
        ["node", str(script), str(node_modules)],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(payloads)
    return found


# Types of which JavaScript's values can be told in Python without knowing its classes.
TOLD = {
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"),
    *("bool", "bool_without_nulls", "null", "string", "large_string", "binary", "large_binary", "fixed_binary"),
    *("list", "large_list", "list_list_string", "fixed_list", "fixed_list_bool", "map", "struct", "json", "opaque"),
    *("sparse_union", "dense_union", "dense_union_codes"),
    *VIEWS,
    *DICTIONARIES,
}


def told(value: Any, type_: pa.DataType) -> Any:
    """A value as `js/read.cjs` prints it."""
    types = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return told(value, type_.storage_type)
    if types.is_dictionary(type_):
        return told(value, type_.value_type)
    if value is None:
        return None
    if types.is_int64(type_) or types.is_uint64(type_) or (types.is_union(type_) and isinstance(value, int)):
        return str(value)
    if types.is_map(type_):
        return {key: told(item, type_.item_type) for key, item in value}
    if types.is_struct(type_):
        return {field.name: told(value[field.name], field.type) for field in type_}
    if isinstance(value, list):
        return [told(item, type_.value_type) for item in value]
    return value.hex() if isinstance(value, bytes) else value


@pytest.mark.parametrize("format_", FORMATS)
def test_javascript_reads_ours_as_it_reads_pyarrows(node_modules: Path, tmp_path: Path, format_: str) -> None:
    cases = list(tables().items())
    payloads = [theirs(table, format_) for _, table in cases]
    for compression in COMPRESSIONS:
        payloads += [ours(table, format_, compression) for _, table in cases]
    reference, *rest = batched(read_by_javascript(node_modules, payloads, tmp_path), len(cases))
    for compression, found in zip(COMPRESSIONS, rest, strict=True):
        for ((name, shape), table), on_theirs, on_ours in zip(cases, reference, found, strict=True):
            if "error" in on_theirs:
                assert name in JAVASCRIPT_UNKNOWN, (name, shape, on_theirs)
                assert "error" in on_ours, (name, shape)
                continue
            assert on_ours == on_theirs, (name, shape, compression)
            if name in TOLD:
                column = table["column"]
                values = [told(value, column.type) for value in column.to_pylist()]
                assert on_ours["columns"]["column"] == values, (name, shape, compression)


def batched(items: list[Any], size: int) -> list[list[Any]]:
    """The items in lists of that size."""
    return [items[start : start + size] for start in range(0, len(items), size)]


@pytest.mark.parametrize("format_", FORMATS)
def test_javascript_reads_all_columns_in_one_batch(node_modules: Path, tmp_path: Path, format_: str) -> None:
    table = all_columns(JAVASCRIPT_UNKNOWN)
    payloads = [theirs(table, format_), *(ours(table, format_, compression) for compression in COMPRESSIONS)]
    reference, *found = read_by_javascript(node_modules, payloads, tmp_path)
    assert reference.keys() == {"columns"}, reference
    assert reference["columns"].keys() == set(table.column_names)
    for compression, on_ours in zip(COMPRESSIONS, found, strict=True):
        assert on_ours == reference, compression
