"""Tables as people have them, real and made: written, read, one column read, and their size, against each format.

Everybody writes an Arrow table with what is their own default, apart from the codec that stands in the name, and reads
it back as theirs is: Polars as a frame, the others as an Arrow table. Columns that are mapped pay for their pages: one
byte of each is looked at within the time.
"""

import os
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet

import aljava
from bench.data import embeddings, kept, lineitem, lineitem_parquet, notebook, scratch, wide
from bench.harness import Scenario, installed

pl = installed("polars")


def nested(scale: float) -> pa.Table:
    """Orders of TPC-H, each with the list of its items: a list of structs, as JSON and Parquet have it."""
    query = f"""
        select l_orderkey, min(l_shipdate) as shipped, list({{
            'part': l_partkey, 'quantity': l_quantity, 'price': l_extendedprice, 'comment': l_comment}}) as items
        from '{lineitem_parquet(scale)}' group by l_orderkey order by l_orderkey
    """
    return kept(f"nested-{scale:g}", lambda: duckdb.sql(query).to_arrow_table().combine_chunks())


def long_text(times: int) -> pa.Table:
    """Python's standard library, four thousand characters to a row: what people call documents.

    So many times over, cut at other places each time, or whoever keeps a row once would keep a tenth.
    """
    texts, names = [], []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/*.py")):
        text = path.read_text(errors="replace")
        parts = [text[start : start + 4000] for turn in range(times) for start in range(397 * turn, len(text), 4000)]
        texts += parts
        names += [path.name] * len(parts)
    order = np.random.default_rng(7).permutation(len(names))
    return pa.table({"name": names, "part": np.arange(len(names)), "text": texts}).take(order).combine_chunks()


def numbered(table: pa.Table) -> pa.Table:
    """With a column `id`, as embeddings have it that belong to something."""
    return table.add_column(0, "id", pa.array(np.arange(table.num_rows)))


def many_batches(count: int) -> pa.Table:
    """What a program leaves that writes as rows come: batches of a hundred rows."""
    return pa.Table.from_batches(notebook(count * 100).to_batches(max_chunksize=100))


#: By name: what it is, how it is made (quick or not), and the column that is read alone.
TABLES: dict[str, tuple[str, Callable[[bool], pa.Table], str]] = {
    "tpch": ("TPC-H lineitem", lambda quick: lineitem(0.01 if quick else 0.5), "l_extendedprice"),
    "notebook": ("the notebook's table", lambda quick: notebook(100_000 if quick else 10_000_000), "value"),
    "wide": ("a table of 5,000 columns", lambda quick: wide(200 if quick else 5_000, 2_000), "c7"),
    "batches": ("a table in 20,000 batches", lambda quick: many_batches(500 if quick else 20_000), "value"),
    "embeddings": (
        "embeddings, 128 float32 each",
        lambda quick: numbered(embeddings(10_000 if quick else 500_000)),
        "id",
    ),
    "nested": ("orders with lists of items", lambda quick: nested(0.01 if quick else 0.5), "items"),
    "text": ("long text", lambda quick: long_text(1 if quick else 10), "part"),
}
#: What is done with each.
OPERATIONS = ("write", "read", "column")
_SMALLER = (
    "Aljava chooses a codec for each column, here zstd for nearly all: the file is two fifths smaller than with lz4, "
    "which is quicker both ways; `compression='lz4'` has its speed."
)
_EACH = (
    "Each of the 5,000 columns is tried, packed, described and checked by itself, which costs more than its 16 kB; the "
    "footer tells the extremes and checksums of every column, and is read whole."
)
#: Why Aljava loses, where it does.
WHY: dict[str, str] = {
    **dict.fromkeys(
        ("tpch-write", "tpch-read", "tpch-column", "nested-write", "nested-read", "nested-column"), _SMALLER
    ),
    "notebook-write": "Aljava first tries on a sample what each codec would save, and checksums what it writes.",
    **dict.fromkeys(("wide-write", "wide-read", "wide-column"), _EACH),
    **dict.fromkeys(
        ("embeddings-column", "text-column"),
        "A small column of few rows a batch: each batch is looked up, checked and handed on in Python, 0.1 ms of it, "
        "where the peers have one or a few batches, or row groups, and C++.",
    ),
    "text-read": _SMALLER,
    "batches-write": "The 20,000 batches are gathered into 40 in Python, 10 µs each; Parquet's writers use C++.",
}


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """Every table times every operation."""
    return {
        f"{name}-{operation}": partial(_scenario, name, operation, quick) for name in TABLES for operation in OPERATIONS
    }


def _scenario(name: str, operation: str, quick: bool) -> Scenario:
    title, make, column = TABLES[name]
    table = make(quick)
    folder = scratch()
    facts: dict[str, dict[str, float]] = {contestant: {} for contestant in FORMATS}

    def written(contestant: str) -> str:
        path = f"{folder}/{contestant}"
        FORMATS[contestant][0](table, path)
        facts[contestant]["size"] = float(os.path.getsize(path))
        return path

    def reader(contestant: str) -> Callable[[], Any]:
        read, path = FORMATS[contestant][1], written(contestant)
        return lambda: _looked_at(read(path, [column] if operation == "column" else None))

    call = partial(partial, written) if operation == "write" else reader
    contestants = {it: call(it) if pl or not it.startswith("Polars") else None for it in FORMATS}
    return Scenario(
        f"{title}, {f'read the column {column}' if operation == 'column' else operation}",
        contestants,
        (table.select([column]) if operation == "column" else table).nbytes,
        facts=facts if operation == "write" else {},
        why=WHY.get(f"{name}-{operation}", ""),
    )


def _looked_at(table: Any) -> Any:
    """The table, after one byte of each of its pages has been read."""
    if isinstance(table, pa.Table):
        for column in table.columns:
            for buffer in (it for chunk in column.chunks for it in chunk.buffers() if it):
                np.frombuffer(buffer, np.uint8)[::4096].max(initial=0)
    return table


#: By contestant: how it writes a table, and how it reads all or some columns.
FORMATS: dict[str, tuple[Callable[[pa.Table, str], Any], Callable[[str, list[str] | None], Any]]] = {
    "aljava": (aljava.write, lambda path, columns: aljava.read(path, columns=columns)),
    "pyarrow Feather, lz4": (
        lambda table, path: pa.feather.write_feather(table, path, compression="lz4"),
        lambda path, columns: pa.feather.read_table(path, columns=columns),
    ),
    "pyarrow Feather, zstd": (
        lambda table, path: pa.feather.write_feather(table, path, compression="zstd"),
        lambda path, columns: pa.feather.read_table(path, columns=columns),
    ),
    "pyarrow Parquet, zstd": (
        lambda table, path: pa.parquet.write_table(table, path, compression="zstd"),
        lambda path, columns: pa.parquet.read_table(path, columns=columns),
    ),
    "Polars Parquet, zstd": (
        lambda table, path: pl.from_arrow(table).write_parquet(path, compression="zstd"),
        lambda path, columns: pl.read_parquet(path, columns=columns),
    ),
    "DuckDB Parquet, zstd": (
        lambda table, path: duckdb.from_arrow(table).write_parquet(path, compression="zstd"),
        lambda path, columns: duckdb.read_parquet(path).select(*columns or [duckdb.StarExpression()]).to_arrow_table(),
    ),
}
