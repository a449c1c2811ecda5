"""The tables that the scenarios use, made once and kept in `bench/data/`."""

import os
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

FOLDER = Path(os.environ.get("ALJAVA_BENCH_DATA") or Path(__file__).parent / "data")


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


@cache
def lineitem(scale: float = 1) -> pa.Table:
    """TPC-H lineitem as `tpchgen-cli` makes it; its text columns arrive as `string_view`.

    Raises:
        FileNotFoundError: `tpchgen-cli` is not installed; it comes with the `bench` extra.
    """
    import pyarrow.parquet as pq

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
    return pq.read_table(path)
