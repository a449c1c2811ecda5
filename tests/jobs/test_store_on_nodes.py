"""The store on many nodes, as the guide shows it: written once on each node, read there by all of its workers."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

import aljava
from aljava.errors import NotFound

GUIDE = Path(__file__).parents[2] / "docs" / "jobs.md"
NODES, WORKERS = ("127.0.0.2", "127.0.0.3"), 2


@pytest.fixture
def nodes():
    """Two nodes of two workers each: every node has an address and a shared memory of its own."""
    from distributed import Nanny, Scheduler, SpecCluster

    stores = {host: tempfile.mkdtemp(prefix="aljava-test-node-", dir="/dev/shm") for host in NODES}
    options = {"nthreads": 1, "dashboard_address": None}
    spec = {
        f"{host}-{number}": {
            "cls": Nanny,
            "options": {**options, "host": host, "env": {"ALJAVA_SHM": stores[host]}},
        }
        for host in NODES
        for number in range(WORKERS)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": ":0"}}
    with SpecCluster(workers=spec, scheduler=scheduler) as cluster:
        yield cluster, stores
    for folder in stores.values():
        shutil.rmtree(folder)


def test_written_once_on_each_node(nodes, tmp_path: Path) -> None:
    from distributed import Client

    cluster, stores = nodes
    (code,) = re.findall(r"```python\n(import pyarrow.compute.*?)```", GUIDE.read_text(), re.S)
    shown: dict = {"__name__": "__main__"}  # so that the functions travel as those of a script do
    exec(code, shown)
    rng = np.random.default_rng(7)
    trades = {"day": np.arange(100_000) // 1000, "volume": rng.integers(0, 100, 100_000)}
    aljava.write(trades, tmp_path / "trades.arrow")
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(len(NODES) * WORKERS, timeout=60)
        found = shown["on_all_nodes"](client, str(tmp_path / "trades.arrow"), "trades", range(100))
        assert found == {day: int(trades["volume"][trades["day"] == day].sum()) for day in range(100)}
        for folder in stores.values():
            assert os.path.exists(f"{folder}/desk/trades.arrow")
        with pytest.raises(NotFound):
            client.submit(shown["volume"], "no-such-table", 1, pure=False).result()
