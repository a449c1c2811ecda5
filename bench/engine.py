"""The format layer by itself: writing, reading, choosing what to compress, many columns, and memory."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq

from aljava import ipc
from bench.data import embeddings, lineitem, lineitem_parquet, notebook, wide
from bench.harness import Scenario, in_fresh_process, installed

pl = installed("polars")

BATCH_ROWS = 131_072


_DESCRIBED = "Beyond what pyarrow does, all bytes are gone through twice more, for checksums and for extremes."
_NOTEBOOK = (
    "`value` is left as it is and costs next to nothing; what remains is `id`, of which zstd makes an eighth, and both "
    "give it the same time. Left as it is too it would cost nothing, and the file would be half as large again."
)


def write(module: Any, sink: Any, table: pa.Table, options: Any, batch_rows: int | None = None) -> Any:
    """The same calls for Aljava and for pyarrow: only the module differs."""
    with module.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table, batch_rows)
    return sink


def plain(codec: str | None) -> Any:
    """What pyarrow is told."""
    return pa.ipc.IpcWriteOptions(compression=codec)


def ours(compression: str, described: bool = False) -> Any:
    """What Aljava is told; statistics and checksums only where the scenario is about them."""
    return ipc.WriteOptions(compression=compression, statistics=described, checksums=described)


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """The table of the format layer."""
    scale = 0.01 if quick else 1
    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")

    def path(name: str) -> str:
        return str(Path(folder.name) / name)

    def write_raw(where: str, described: bool) -> Scenario:
        table = lineitem(scale)
        place = {
            "memory": lambda name: pa.BufferOutputStream(),
            "file": path,
        }[where]
        with_what = "with zones and checksums" if described else "plain"
        return Scenario(
            f"write lineitem uncompressed to {where}, {with_what}",
            {
                "aljava": lambda: write(ipc, place("a"), table, ours("none", described), BATCH_ROWS),
                "pyarrow": lambda: write(pa.ipc, place("b"), table, plain(None), BATCH_ROWS),
            },
            table.nbytes,
            {"pyarrow": 1 / 1.2 if described else 1.0},
            why=_DESCRIBED if described else "Both give the same bytes to the same system call, and wait for it.",
        )

    def write_zstd() -> Scenario:
        table = lineitem(scale)
        contestants = {
            "aljava": lambda: write(ipc, path("a"), table, ours("zstd"), BATCH_ROWS),
            "pyarrow": lambda: write(pa.ipc, path("b"), table, plain("zstd"), BATCH_ROWS),
        }
        for contestant in contestants.values():
            contestant()
        facts = {"aljava": {"size": os.path.getsize(path("a"))}, "pyarrow": {"size": os.path.getsize(path("b"))}}
        why = "Two thirds of the processors' time are zstd's own, in both, at the same level and on both cores."
        return Scenario("write lineitem, zstd", contestants, table.nbytes, {"pyarrow": 1.25}, facts=facts, why=why)

    def read(codec: str) -> Scenario:
        table = lineitem(scale)
        write(pa.ipc, path("r"), table, plain(codec), BATCH_ROWS)
        reach = {"lz4": 1.2, "zstd": 1.3}[codec]
        return Scenario(
            f"read lineitem, {codec}",
            {
                "aljava": lambda: ipc.open_file(pa.memory_map(path("r"))).read_all(),
                "pyarrow": lambda: pa.ipc.open_file(pa.memory_map(path("r"))).read_all(),
                "polars": pl and (lambda: pl.read_ipc(path("r"))),
            },
            table.nbytes,
            {"pyarrow": reach, "polars": reach},
            why="Both decode with the same library on both cores; what Aljava wins is that a core has whole batches.",
        )

    def notebook_auto(step: str) -> Scenario:
        table = notebook(100_000 if quick else 10_000_000)
        contestants = {
            "aljava auto": lambda: write(ipc, path("n1"), table, ours("auto"), 1 << 20),
            "pyarrow zstd": lambda: write(pa.ipc, path("n2"), table, plain("zstd"), 1 << 20),
        }
        for contestant in contestants.values():
            contestant()
        sizes = [os.path.getsize(path("n1")), os.path.getsize(path("n2"))]
        facts = {"aljava auto": {"size": sizes[0], "size/zstd's": round(sizes[0] / sizes[1], 3)}}
        if step == "write":
            return Scenario(
                "the notebook's table, write",
                contestants,
                table.nbytes,
                {"pyarrow zstd": 1.5},
                facts=facts,
                why=_NOTEBOOK,
            )
        return Scenario(
            "the notebook's table, read",
            {
                "aljava auto": lambda: ipc.open_file(pa.memory_map(path("n1"))).read_all(),
                "pyarrow zstd": lambda: pa.ipc.open_file(pa.memory_map(path("n2"))).read_all(),
            },
            table.nbytes,
            {"pyarrow zstd": 3},
            why=_NOTEBOOK,
        )

    def read_embeddings() -> Scenario:
        table = embeddings(10_000 if quick else 1_000_000)
        write(ipc, path("e"), table, ours("auto"), BATCH_ROWS)
        for codec in ("lz4", "zstd"):
            write(pa.ipc, path(codec), table, plain(codec), BATCH_ROWS)
        before = pa.total_allocated_bytes()
        kept = ipc.open_file(pa.memory_map(path("e"))).read_all()
        facts = {"aljava auto": {"bytes allocated to read": pa.total_allocated_bytes() - before}}
        del kept
        return Scenario(
            "random embeddings, read",
            {
                "aljava auto": lambda: ipc.open_file(pa.memory_map(path("e"))).read_all(),
                "pyarrow lz4": lambda: pa.ipc.open_file(pa.memory_map(path("lz4"))).read_all(),
                "pyarrow zstd": lambda: pa.ipc.open_file(pa.memory_map(path("zstd"))).read_all(),
            },
            table.nbytes,
            {"pyarrow lz4": 3, "pyarrow zstd": 3},
            facts=facts,
        )

    def views() -> Scenario:
        # As Polars has it: one chunk, whose views point into hundreds of buffers that all batches share.
        read = pl.from_arrow(pq.read_table(lineitem_parquet(scale / 2))).rechunk()
        table = read.to_arrow(compat_level=pl.CompatLevel.newest())
        contestants = {
            "aljava": lambda: write(ipc, path("v1"), table, ours("none"), BATCH_ROWS),
            "pyarrow": lambda: write(pa.ipc, path("v2"), table, plain(None), BATCH_ROWS),
        }
        for contestant in contestants.values():
            contestant()
        facts = {name: {"size": os.path.getsize(path(f"v{i + 1}"))} for i, name in enumerate(contestants)}
        facts["pyarrow"]["size/ours"] = round(facts["pyarrow"]["size"] / facts["aljava"]["size"], 1)
        return Scenario(
            "half of lineitem from Polars, with string_view, write",
            contestants,
            table.nbytes,
            {"pyarrow": 3},
            facts=facts,
            why="pyarrow writes all text again with each batch: twice the rows take four times as long.",
        )

    def many_columns(step: str) -> Scenario:
        table = wide(1_000 if quick else 10_000)
        written = write(pa.ipc, pa.BufferOutputStream(), table, plain(None)).getvalue()
        if step == "write":
            contestants: dict[str, Callable[[], Any]] = {
                "aljava": lambda: write(ipc, pa.BufferOutputStream(), table, ours("none")),
                "pyarrow": lambda: write(pa.ipc, pa.BufferOutputStream(), table, plain(None)),
            }
        else:
            contestants = {
                "aljava": lambda: ipc.open_file(written).read_all(),
                "pyarrow": lambda: pa.ipc.open_file(written).read_all(),
            }
        return Scenario(
            f"10,000 columns x 1,000 rows, {step}",
            contestants,
            table.nbytes,
            {"pyarrow": 1 / 1.5},
            why="A column has 8 kB here: what is done once a column decides, and pyarrow does it in C++.",
        )

    def tiny(step: str) -> Scenario:
        batch = pa.record_batch({"a": list(range(10)), "b": [i / 2 for i in range(10)]})
        times = 200 if quick else 2_000

        def write_one(module: Any, options: Any) -> pa.Buffer:
            sink = pa.BufferOutputStream()
            with module.new_stream(sink, batch.schema, options=options) as writer:
                writer.write_batch(batch)
            return sink.getvalue()

        def repeated(call: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                for _ in range(times):
                    call()

            return run

        our_options, their_options = ours("none"), plain(None)
        written = write_one(pa.ipc, their_options)
        if step == "write":
            contestants: dict[str, Callable[[], Any]] = {
                "aljava": repeated(lambda: write_one(ipc, our_options)),
                "pyarrow": repeated(lambda: write_one(pa.ipc, their_options)),
            }
        else:
            contestants = {
                "aljava": repeated(lambda: ipc.open_stream(written).read_all()),
                "pyarrow": repeated(lambda: pa.ipc.open_stream(written).read_all()),
            }
        return Scenario(
            f"{times:,} x one batch of 10 rows x 2 columns, {step}",
            contestants,
            None,
            {"pyarrow": 1 / 3},
            why="Of ten rows nothing remains but the calls, which are Python's in Aljava and C++'s in pyarrow.",
        )

    def memory() -> Scenario:
        megabytes = 100 if quick else 2000
        grown = {
            compression: in_fresh_process("bench.peak_of_writing", path("m"), compression, str(megabytes))
            for compression in ("none", "zstd", "auto")
        }
        facts = {"aljava": {f"peak above the reader's, {name}": it["bytes"] for name, it in grown.items()}}
        return Scenario(
            f"peak memory while writing {megabytes} MB from a reader (to stay under 300 MB)",
            {
                "aljava": lambda: in_fresh_process("bench.peak_of_writing", path("m"), "auto", str(megabytes)),
            },
            megabytes * 1_000_000,
            facts=facts,
            rounds=1,
        )

    return {
        "write-raw-memory": lambda: write_raw("memory", False),
        "write-raw-memory-described": lambda: write_raw("memory", True),
        "write-raw-file": lambda: write_raw("file", False),
        "write-raw-file-described": lambda: write_raw("file", True),
        "write-zstd": write_zstd,
        "read-lz4": lambda: read("lz4"),
        "read-zstd": lambda: read("zstd"),
        "notebook-write": lambda: notebook_auto("write"),
        "notebook-read": lambda: notebook_auto("read"),
        "embeddings-read": read_embeddings,
        **({"string-views": views} if pl else {}),
        "wide-write": lambda: many_columns("write"),
        "wide-read": lambda: many_columns("read"),
        "tiny-write": lambda: tiny("write"),
        "tiny-read": lambda: tiny("read"),
        "memory": memory,
    }
