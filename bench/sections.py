"""The notebook's five sections, with Aljava and with plain pyarrow as the notebook has it."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc

import aljava
from bench.data import notebook
from bench.harness import Scenario


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """Each section, on the notebook's table."""
    rows = 200_000 if quick else 10_000_000
    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")

    def path(name: str) -> str:
        return str(Path(folder.name) / name)

    def stream() -> Scenario:
        table = notebook(rows)

        def theirs() -> pa.Table:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            return pa.ipc.open_stream(sink.getvalue()).read_all()

        return Scenario(
            "1 IPC stream to memory and back",
            {"aljava": lambda: aljava.loads(aljava.dumps(table)), "pyarrow": theirs},
            table.nbytes,
        )

    def feather_write() -> Scenario:
        table = notebook(rows)
        return Scenario(
            "2 Feather: write, uncompressed",
            {
                "aljava": lambda: aljava.write(table, path("a"), compression="none"),
                "pyarrow": lambda: pa.feather.write_feather(table, path("b"), compression="uncompressed"),
            },
            table.nbytes,
            why="Aljava also describes each batch and checksums it, and the file appears whole or not at all.",
        )

    def feather_read() -> Scenario:
        table = notebook(rows)
        pa.feather.write_feather(table, path("c"), compression="lz4")
        return Scenario(
            "2 Feather: read what pyarrow wrote, lz4",
            {"aljava": lambda: aljava.read(path("c")), "pyarrow": lambda: pa.feather.read_table(path("c"))},
            table.nbytes,
        )

    def array_to_disk() -> Scenario:
        array = notebook(rows)["value"].chunk(0)

        def ours() -> pa.Array:
            with open(path("array"), "wb") as file:
                file.write(aljava.dumps(array))
            with pa.memory_map(path("array")) as mapped:
                return aljava.loads(mapped.read_buffer())

        def theirs() -> pa.Array:
            batch = pa.record_batch([array], names=["v"])
            with pa.OSFile(path("array2"), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
                writer.write_batch(batch)
            with pa.memory_map(path("array2")) as mapped:
                return pa.ipc.open_stream(mapped).read_next_batch().column(0)

        return Scenario(
            "3 an Array to disk and back",
            {"aljava": ours, "pyarrow": theirs},
            array.nbytes,
            why="`dumps` makes all the bytes in memory before they are written; pyarrow writes them as it makes them.",
        )

    def shared() -> Scenario:
        table = notebook(rows)
        address = f"shm://bench-{os.getpid()}/table"
        in_memory = f"/dev/shm/aljava-bench-{os.getpid()}.arrow"

        def ours() -> int:
            aljava.write(table, address)
            return aljava.read(address).num_rows

        def theirs() -> int:
            pa.feather.write_feather(table, in_memory, compression="uncompressed")
            rows = pa.feather.read_table(in_memory, memory_map=True).num_rows
            os.unlink(in_memory)
            return rows

        return Scenario("4 shared memory: put and get", {"aljava": ours, "pyarrow, /dev/shm": theirs}, table.nbytes)

    def compressed_write() -> Scenario:
        table = notebook(rows)
        contestants = {
            "aljava auto": lambda: aljava.write(table, path("auto")),
            "pyarrow lz4": lambda: pa.feather.write_feather(table, path("lz4"), compression="lz4"),
            "pyarrow zstd": lambda: pa.feather.write_feather(table, path("zstd"), compression="zstd"),
        }
        for write in contestants.values():
            write()
        facts = {name: {"size": float(os.path.getsize(path(name.split()[1])))} for name in contestants}
        return Scenario(
            "5 compression: write",
            contestants,
            table.nbytes,
            {"pyarrow zstd": 1.5},
            facts=facts,
            why="Aljava tries on a sample what each codec would save, describes each batch and checksums it.",
        )

    def compressed_read() -> Scenario:
        table = notebook(rows)
        aljava.write(table, path("auto"))
        pa.feather.write_feather(table, path("lz4"), compression="lz4")
        pa.feather.write_feather(table, path("zstd"), compression="zstd")
        return Scenario(
            "5 compression: read",
            {
                "aljava auto": lambda: aljava.read(path("auto")),
                "pyarrow lz4": lambda: pa.feather.read_table(path("lz4")),
                "pyarrow zstd": lambda: pa.feather.read_table(path("zstd")),
            },
            table.nbytes,
            {"pyarrow zstd": 3},
            why="`id`, which both decode from zstd, takes nearly all of Aljava's time; `value` is mapped.",
        )

    return {
        "stream": stream,
        "feather-write": feather_write,
        "feather-read": feather_read,
        "array-to-disk": array_to_disk,
        "shared-memory": shared,
        "compressed-write": compressed_write,
        "compressed-read": compressed_read,
    }
