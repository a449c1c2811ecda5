"""Measures the table in `docs/conformance.md`: which types each library takes from a raw Aljava file without a copy.

A column is written to a file, opened, and handed to the library; then the addresses of what the library holds are
looked up in the process's memory map. What lies where the file is mapped was not copied.

    python -m tests.conformance > docs/conformance.md
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas
import polars
import pyarrow as pa

import aljava

ROWS = 50_000
#: How libraries say that they do not take a type; Polars panics.
REFUSALS = (
    aljava.AljavaError,
    pa.lib.ArrowException,
    TypeError,
    KeyError,
    NotImplementedError,
    polars.exceptions.PolarsError,
    polars.exceptions.PanicException,
)
NO_COPY, IN_PART, COPY, NOT_SUPPORTED = "no copy", "in part", "copy", "–"


@cache
def columns() -> dict[str, pa.Array]:
    """A column of each type, none with a null unless its name says so."""
    numbers = np.arange(ROWS) % 100
    texts = pa.array([f"text number {i % 1000}" for i in range(ROWS)])
    lists = pa.ListArray.from_arrays(pa.array(np.arange(ROWS + 1) * 2, pa.int32()), pa.array(np.arange(ROWS * 2)))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(ROWS * 8, dtype="float32")), 8)
    found: dict[str, pa.Array] = {}
    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        found[kind] = pa.array(numbers.astype(kind))
    for kind in ("float16", "float32", "float64"):
        found[kind] = pa.array(numbers.astype(kind))
    found["int64 with nulls"] = pa.array(numbers, mask=numbers == 7)
    found["float64 with nulls"] = pa.array(numbers.astype("float64"), mask=numbers == 7)
    found["bool"] = pa.array(numbers > 50)
    found["null"] = pa.nulls(ROWS)
    for kind in (pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal128(38, 2), pa.decimal256(50, 2)):
        found[f"decimal{kind.bit_width}"] = pa.array(numbers.astype("int8"), pa.int8()).cast(kind)
    for kind in (pa.date32(), pa.date64()):
        days = pa.array(numbers.astype("int32"), pa.date32())
        found["date32" if kind == pa.date32() else "date64"] = days.cast(kind)
    for kind in (pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns")):
        found[str(kind)] = pa.array(numbers.astype(f"int{kind.bit_width}")).view(kind)
    for kind in (
        pa.timestamp("s"),
        pa.timestamp("ms"),
        pa.timestamp("us"),
        pa.timestamp("ns"),
        pa.timestamp("us", "UTC"),
    ):
        found[str(kind)] = pa.array(numbers.astype("int64")).view(kind)
    for unit in ("s", "ms", "us", "ns"):
        found[f"duration[{unit}]"] = pa.array(numbers.astype("int64")).view(pa.duration(unit))
    found["month_day_nano_interval"] = pa.array([(1, 2, 3)] * ROWS, pa.month_day_nano_interval())
    found["string"] = texts
    found["string with nulls"] = pa.array([None if i % 9 == 0 else f"text number {i % 1000}" for i in range(ROWS)])
    found["large_string"] = texts.cast(pa.large_string())
    found["string_view"] = texts.cast(pa.string_view())
    found["binary"] = texts.cast(pa.binary())
    found["large_binary"] = texts.cast(pa.large_binary())
    found["binary_view"] = texts.cast(pa.binary_view())
    found["fixed_size_binary[8]"] = pa.array([b"12345678"] * ROWS, pa.binary(8))
    found["dictionary of string"] = pa.DictionaryArray.from_arrays(
        pa.array((numbers % 10).astype("int32")), pa.array([f"category {i}" for i in range(10)])
    )
    found["list"] = lists
    found["large_list"] = lists.cast(pa.large_list(pa.int64()))
    found["list_view"] = pa.ListViewArray.from_arrays(
        pa.array(np.arange(ROWS) * 2, pa.int32()), pa.array(np.full(ROWS, 2), pa.int32()), lists.values
    )
    found["fixed_size_list of float32"] = vectors
    found["struct"] = pa.StructArray.from_arrays([pa.array(numbers), texts], ["a", "b"])
    found["map"] = pa.MapArray.from_arrays(
        pa.array(np.arange(ROWS + 1), pa.int32()), texts, pa.array(numbers.astype("int64"))
    )
    kinds = pa.array((numbers % 2).astype("int8"))
    found["sparse_union"] = pa.UnionArray.from_sparse(kinds, [pa.array(numbers), pa.array(numbers * 1.5)])
    found["dense_union"] = pa.UnionArray.from_dense(
        kinds, pa.array(np.arange(ROWS), pa.int32()), [pa.array(numbers), pa.array(numbers * 1.5)]
    )
    found["run_end_encoded"] = pa.RunEndEncodedArray.from_arrays(
        pa.array(np.arange(1, ROWS + 1), pa.int32()), pa.array(numbers)
    )
    found["uuid"] = pa.array([bytes(range(16))] * ROWS, pa.uuid())
    found["json"] = pa.array(['{"a": 1}'] * ROWS, pa.json_())
    found["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), pa.array((numbers % 2).astype("int8")))
    found["fixed_shape_tensor"] = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), (2, 4)), vectors)
    return found


def measure(column: pa.Array, folder: Path, *libraries: str) -> dict[str, str]:
    """What libraries make of a column in a raw file: a cell of the table by the library's name."""
    path = folder / "column.arrow"
    # A second column of the same type: some libraries gather equal types into one block of memory.
    aljava.write(pa.table({"a": column, "b": column}), path, compression="none")
    return {library: _cell(LIBRARIES[library], path) for library in libraries or LIBRARIES}


def _cell(take: Callable[[Any], list[int] | str], path: Path) -> str:
    try:
        held = take(aljava.open(path))
    except REFUSALS:
        return NOT_SUPPORTED
    if isinstance(held, str):
        return held
    mapped = _mapped(path)
    inside = [any(begin <= address < end for begin, end in mapped) for address in held]
    return NO_COPY if all(inside) else IN_PART if any(inside) else COPY


def _mapped(path: Path) -> list[tuple[int, int]]:
    ranges = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if line.rstrip().endswith(str(path)):
                begin, _, end = line.split()[0].partition("-")
                ranges.append((int(begin, 16), int(end, 16)))
    return ranges


# -- the addresses of what each library holds --------------------------------------------------------------------------

_KEPT: list[Any] = []  # alive while its addresses are looked up


def _pyarrow(dataset: Any) -> list[int]:
    table = dataset.to_table()
    _KEPT[:] = [table]
    return _buffers(table.column("a").chunk(0))


def _numpy(dataset: Any) -> list[int]:
    array = dataset.to_numpy()["a"]
    _KEPT[:] = [array]
    return [array.__array_interface__["data"][0]]


def _pandas(dataset: Any) -> list[int]:
    frame = dataset.to_pandas()
    _KEPT[:] = [frame]
    held = frame["a"].array
    if isinstance(held, pandas.Categorical):
        # The few categories are an index of Python's own; the codes are the rows.
        return [held.codes.__array_interface__["data"][0]]
    if hasattr(held, "_pa_array"):
        return _buffers(held._pa_array.chunk(0))
    return [frame["a"].to_numpy(copy=False).__array_interface__["data"][0]]


def _pandas_of_arrow(dataset: Any) -> list[int]:
    frame = dataset.to_pandas(types_mapper=pandas.ArrowDtype)
    _KEPT[:] = [frame]
    return _buffers(frame["a"].array._pa_array.chunk(0))


def _polars(dataset: Any) -> list[int]:
    frame = dataset.to_polars().collect()
    _KEPT[:] = [frame]
    arrow = frame["a"].rechunk().to_arrow(compat_level=polars.CompatLevel.newest())
    _KEPT.append(arrow)
    return _buffers(arrow)


def _duckdb(dataset: Any) -> str:
    relation = aljava.sql("select a from it", it=dataset)
    relation.to_arrow_table()
    return str(relation.types[0])


LIBRARIES = {
    "pyarrow": _pyarrow,
    "NumPy": _numpy,
    "pandas": _pandas,
    "pandas, `ArrowDtype`": _pandas_of_arrow,
    "Polars": _polars,
    "DuckDB reads it as": _duckdb,
}


def _buffers(array: pa.Array) -> list[int]:
    """The addresses of an array's buffers. Dictionaries are left out: they are small, and every library has its own."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.indices
    return [buffer.address for buffer in array.buffers() if buffer is not None and buffer.size]


# -- the page ----------------------------------------------------------------------------------------------------------

PAGE = """\
# What is copied on the way into a dataframe

`aljava.write(table, "x.arrow", compression="none")` writes a column as the bytes that Arrow has in memory, and
`aljava.open` maps them. This table says which types each library then uses where they are mapped (**no copy**), which
it turns into a layout of its own (**copy**), and which it does not take (**–**). **In part** means that the values stay
where they are mapped, and that what points to them (offsets, views) or one of several children is made anew.

With `compression="auto"`, the default, it holds for the columns that are left raw because compressing them would not
pay. Columns that are compressed are unpacked once, into memory, and taken from there without another copy.

Measured, not claimed: `python -m tests.conformance` writes this page by looking the addresses up in the memory map of
the process, and a test compares it. With {versions}.

{table}

- **pyarrow**: `aljava.open(address).to_table()`, or `aljava.read(address)`.
- **NumPy**: `aljava.open(address).to_numpy()`. Fixed-size lists become arrays of two dimensions. NumPy knows no nulls:
  a column with nulls is copied, integers then become floats.
- **pandas**: `aljava.open(address).to_pandas()`, and with `types_mapper=pandas.ArrowDtype`, which keeps the types of
  Arrow. Strings of pandas have offsets of 64 bits: `large_string` has them already, those of `string` are made anew.
- **Polars**: `aljava.open(address).to_polars()`, a lazy frame, collected.
- **DuckDB** reads Arrow data batch by batch into vectors of its own; the table has the SQL type that a column becomes
  in `aljava.sql`. The types without one can be cast first, which the error message offers.
"""


def versions() -> dict[str, str]:
    """The libraries that the page was measured with: their names and their releases, down to the minor one."""
    libraries = {"pyarrow": pa, "NumPy": np, "pandas": pandas, "Polars": polars, "DuckDB": duckdb}
    return {name: ".".join(library.__version__.split(".")[:2]) for name, library in libraries.items()}


def page() -> str:
    """The page, measured now."""
    head = ["type", *LIBRARIES]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    with tempfile.TemporaryDirectory() as folder:
        for name, column in columns().items():
            cells = measure(column, Path(folder))
            lines.append(f"| {name} | {' | '.join(cells.values())} |")
    _KEPT.clear()
    measured = ", ".join(f"{name} {version}" for name, version in versions().items())
    return PAGE.format(table="\n".join(lines), versions=measured)


if __name__ == "__main__":
    print(page(), end="")
