"""The tables that the scenarios use, made once and kept in `bench/data/`."""

import atexit
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

FOLDER = Path(os.environ.get("ALJAVA_BENCH_DATA") or Path(__file__).parent / "data")


def kept(name: str, make: Callable[[], pa.Table]) -> pa.Table:
    """A table that takes long to make: made once, kept as a raw Arrow file, and mapped from then on."""
    path = FOLDER / f"{name}.arrow"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        table = make()
        partial = path.with_suffix(f".{os.getpid()}")
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        partial.rename(path)
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def scratch() -> str:
    """A folder for what is written while it is measured; it goes with this process."""
    folder = tempfile.mkdtemp(prefix="aljava-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def notebook(rows: int) -> pa.Table:
    """The notebook's own table: `id` counting up, `value` standard normal, `category` one of A to E."""
    rng = np.random.default_rng(7)
    return pa.table(
        {
            "id": np.arange(rows, dtype=np.int64),
            "value": rng.standard_normal(rows),
            "category": pa.array(np.array(["A", "B", "C", "D", "E"])[rng.integers(0, 5, rows)]),
        }
    )


def embeddings(rows: int, width: int = 128) -> pa.Table:
    """Random float32 vectors: what no codec can shrink."""
    values = np.random.default_rng(7).standard_normal(rows * width, dtype=np.float32)
    return pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(values), width)})


def wide(columns: int = 10_000, rows: int = 1_000) -> pa.Table:
    """Many columns of few rows."""
    values = np.random.default_rng(7).integers(0, 1000, rows)
    return pa.table({f"c{i}": values + i for i in range(columns)})


def lineitem(scale: float = 1) -> pa.Table:
    """TPC-H lineitem with `string` for its text, as most files have it."""

    def strings() -> pa.Table:
        table = pq.read_table(lineitem_parquet(scale))
        fields = [it.with_type(pa.string()) if pa.types.is_string_view(it.type) else it for it in table.schema]
        return table.cast(pa.schema(fields))

    return kept(f"lineitem-{scale:g}", strings)


def lineitem_parquet(scale: float = 1) -> Path:
    """TPC-H lineitem as `tpchgen-cli` makes it; its text columns arrive as `string_view`.

    Raises:
        FileNotFoundError: `tpchgen-cli` is not installed; it comes with the `bench` extra.
    """
    path = FOLDER / f"sf{scale:g}" / "lineitem.parquet"
    if not path.exists():
        beside = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
        program = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
        if program is None:
            raise FileNotFoundError("tpchgen-cli is not installed: pip install 'aljava[bench]'")
        partial = path.parent.with_suffix(f".{os.getpid()}")
        partial.mkdir(parents=True)
        subprocess.run(
            [program, "parquet", "-s", f"{scale:g}", "--tables=lineitem", "--output-dir", str(partial)], check=True
        )
        shutil.rmtree(path.parent, ignore_errors=True)
        partial.rename(path.parent)
    return path
