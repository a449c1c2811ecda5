"""Datasets in PyTorch and Dask against loaders over `pyarrow.dataset` and Dask's own reader of Parquet.

PyTorch is measured where it is installed (`pip install 'aljava[torch]'`).
"""

import atexit
import importlib.util
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.feather
import pyarrow.parquet

import aljava
from bench.data import notebook
from bench.harness import Scenario

WIDTH = 64
BATCH = 8192
FILES = 8


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """A training loop, where PyTorch is installed, and a query of one part in a hundred."""
    found = {"dask-pruned": lambda: _dask(500_000 if quick else 10_000_000)}
    if importlib.util.find_spec("torch") is not None:
        found["torch"] = lambda: _torch((100 if quick else 5000) * 1_000_000)
    return found


def _torch(nbytes: int) -> Scenario:
    """Linear regression by gradient descent, one pass over the rows, by two loader workers.

    All of it is in memory: the peers' files in the page cache, in eight files so that their workers can divide them.
    """
    import torch
    from torch.utils.data import DataLoader

    from aljava.torch import IterableDataset

    torch.set_num_threads(1)  # of three processes on two cores
    rows = nbytes // (4 * WIDTH + 4) // FILES
    values = np.random.default_rng(7).standard_normal(rows * WIDTH, dtype=np.float32)
    file = pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH),
            "y": values.reshape(rows, WIDTH) @ np.linspace(-1, 1, WIDTH, dtype=np.float32),
        }
    )
    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")
    store = aljava.Store(f"bench-engines-{os.getpid()}")
    atexit.register(store.destroy)
    store["points"] = pa.concat_tables([file] * FILES)
    for number in range(FILES):
        pyarrow.feather.write_feather(file, f"{folder.name}/{number}.arrow", "uncompressed", chunksize=8 * BATCH)
        pyarrow.parquet.write_table(file, f"{folder.name}/{number}.parquet", row_group_size=8 * BATCH)

    class Peer(torch.utils.data.IterableDataset[dict[str, Any]]):
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def __iter__(self) -> Iterator[dict[str, Any]]:
            info = torch.utils.data.get_worker_info()
            mine = range(FILES) if info is None else range(info.id, FILES, info.num_workers)
            suffix = "arrow" if self.kind == "ipc" else "parquet"
            dataset = pyarrow.dataset.dataset(
                [f"{folder.name}/{number}.{suffix}" for number in mine],
                format=self.kind,
                filesystem=pa.fs.LocalFileSystem(use_mmap=True),
            )
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            for batch in dataset.to_batches(batch_size=BATCH):
                x = batch.column("x").flatten().to_numpy().reshape(-1, WIDTH)
                yield {"x": torch.from_numpy(x), "y": torch.from_numpy(batch.column("y").to_numpy())}

    facts: dict[str, dict[str, float]] = {"aljava": {}, "pyarrow.dataset, IPC": {}, "pyarrow.dataset, Parquet": {}}

    def train(name: str, dataset: Any) -> None:
        start = time.perf_counter()
        weights, count, done = torch.zeros(WIDTH), 0, 0
        for batch in DataLoader(dataset, batch_size=None, num_workers=2):
            x, y = batch["x"], batch["y"]
            weights -= 0.1 / len(y) * (x.T @ (x @ weights - y))
            count += 1
            done += len(y)
        if done != rows * FILES or not torch.allclose(weights, torch.linspace(-1, 1, WIDTH), atol=0.2):
            raise AssertionError(f"{name}: {done} rows, and weights {weights}")
        facts[name]["batches a second"] = round(count / (time.perf_counter() - start))

    ours = IterableDataset(f"shm://{store.name}/points", BATCH)
    return Scenario(
        f"training loop over {nbytes / 1e9:g} GB, 2 loader workers",
        {
            "aljava": lambda: train("aljava", ours),
            "pyarrow.dataset, IPC": lambda: train("pyarrow.dataset, IPC", Peer("ipc")),
            "pyarrow.dataset, Parquet": lambda: train("pyarrow.dataset, Parquet", Peer("parquet")),
        },
        nbytes,
        {"pyarrow.dataset, IPC": 3, "pyarrow.dataset, Parquet": 5},
        facts=facts,
    )


def _dask(rows: int) -> Scenario:
    """The mean of a column over one part in a hundred of the rows, by Dask's threads; opening and planning included."""
    import dask.dataframe as dd

    folder = tempfile.TemporaryDirectory(prefix="aljava-bench-")
    table = notebook(rows)
    aljava.write(table, f"{folder.name}/table.arrow")
    pyarrow.parquet.write_table(table, f"{folder.name}/table.parquet", row_group_size=131_072)
    low, high = rows // 2, rows // 2 + rows // 100

    def ours() -> float:
        wanted = (pc.field("id") >= low) & (pc.field("id") < high)
        frame = aljava.open(f"{folder.name}/table.arrow").to_dask(filter=wanted)
        return float(frame.value.mean().compute(scheduler="threads"))

    def parquet() -> float:
        path = f"{folder.name}/table.parquet"
        frame = dd.read_parquet(path, filters=[("id", ">=", low), ("id", "<", high)], split_row_groups=True)
        return float(frame.value.mean().compute(scheduler="threads"))

    assert abs(ours() - parquet()) < 1e-9
    return Scenario(
        f"Dask: 1 % of {rows:,} rows",
        {"aljava": ours, "dask.dataframe.read_parquet": parquet},
        targets={"dask.dataframe.read_parquet": 1},
        why="The rows lie in one or two batches of 384,616, of which the column of the filter is decoded whole; "
        "Parquet has 131,072 in a group. Dask itself takes some 8 ms of either.",
    )
