"""The shared memory store against Ray, `multiprocessing`, pyarrow to `/dev/shm`, and plain memory copies.

Ray is measured where it is installed (`pip install 'aljava[bench]'`).
"""

import atexit
import functools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather

import aljava.multiprocessing
from aljava.store import Store
from bench.data import scratch
from bench.harness import Scenario, installed


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """Each row of the store's table of targets."""
    large = (64 if quick else 1024) << 20
    return {
        "put-recycled": lambda: _put_recycled(large),
        "put-cold": lambda: _put_cold(large),
        "put-8kB": lambda: _put_small(8_000, {"ray.put": 8}),
        "put-1MB": lambda: _put_small(1_000_000, {"ray.put": 2}),
        "get-8kB": lambda: _get(8_000, 200),
        "get-large": lambda: _get(large, 200),
        "pool": lambda: _pool((32 if quick else 500) * 1_000_000),
        "memory": lambda: _memory((32 if quick else 2048) << 20),
        "list": lambda: _list(500 if quick else 10_000),
    }


def _floats(nbytes: int) -> pa.Table:
    """Eight columns of random numbers, `nbytes` in all."""
    values = np.random.default_rng(7).random(nbytes // 64)
    return pa.table({f"c{number}": values + number for number in range(8)})


@functools.cache
def _store() -> Store:
    store = Store(f"bench-{os.getpid()}")
    atexit.register(store.destroy)
    return store


@functools.cache
def _ray() -> Any:
    """Ray with an object store of 4 GiB, or `None` where it is not installed."""
    ray = installed("ray")
    if ray:
        ray.init(num_cpus=2, object_store_memory=4 << 30, include_dashboard=False, logging_level="ERROR")
    return ray


def _put_recycled(nbytes: int) -> Scenario:
    table, store, ray = _floats(nbytes), _store(), _ray()
    for _ in range(4):  # two segments, new at first and then mapped
        store.put(table, "large")
    source = np.ones(nbytes, np.uint8)
    target = np.ones(nbytes, np.uint8)
    return Scenario(
        f"put {nbytes >> 20} MiB, memory recycled",
        {
            "aljava": lambda: store.put(table, "large"),
            "memcpy": lambda: np.copyto(target, source),
            "ray.put": ray and (lambda: ray.put(table)),
        },
        nbytes,
        {"memcpy": 0.9, "ray.put": 1},
        floors=("memcpy",),
        why="Both copy once, at the speed of memory.",
    )


def _put_cold(nbytes: int) -> Scenario:
    table, store = _floats(nbytes), _store()
    path = f"/dev/shm/aljava-bench-{os.getpid()}.arrow"
    atexit.register(Path(path).unlink, missing_ok=True)

    def prepare() -> None:
        store.clear()
        store.trim()
        Path(path).unlink(missing_ok=True)

    def to_file() -> None:
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    def to_shared_memory() -> None:
        memory = SharedMemory(create=True, size=nbytes + 100_000)
        buffer = pa.py_buffer(memory.buf)
        with pa.ipc.new_file(pa.FixedSizeBufferWriter(buffer), table.schema) as writer:
            writer.write_table(table)
        del writer, buffer
        memory.close()
        memory.unlink()

    return Scenario(
        f"put {nbytes >> 20} MiB, memory cold",
        {
            "aljava": lambda: store.put(table, "cold"),
            "pyarrow to /dev/shm": to_file,
            "multiprocessing.shared_memory": to_shared_memory,
        },
        nbytes,
        {"pyarrow to /dev/shm": 1, "multiprocessing.shared_memory": 3},
        prepare,
        why="The kernel clears every page that is new, which takes most of the time, whoever asks for it.",
    )


def _put_small(nbytes: int, targets: dict[str, float]) -> Scenario:
    table, store, ray = _floats(nbytes), _store(), _ray()
    times = 200

    def ours() -> None:
        for number in range(times):
            store[f"{number % 10}"] = table

    return Scenario(
        f"put {nbytes // 1000} kB, {times} times",
        {"aljava": ours, "ray.put": ray and (lambda: [ray.put(table) for _ in range(times)][:0])},
        nbytes * times,
        targets,
        why="A third of a put of 1 MB is laying out in Python; Ray does all of it in C++.",
    )


def _get(nbytes: int, times: int) -> Scenario:
    """Gets of one size; the facts are the time of a get, and those of a copied and of a mapped one in the same rounds.

    Up to 64 KiB a get copies, which is cheaper than a map; from there on it maps, and its time is that of any size.
    """
    table, store, ray = _floats(nbytes), _store(), _ray()
    store["got"], store["small"], store["mapped"] = table, _floats(8_000), _floats(128_000)
    facts: dict[str, float] = {}

    def ours(key: str = "got", fact: str = "µs a get") -> None:
        start = time.perf_counter()
        for _ in range(times):
            store[key]
        facts[fact] = round((time.perf_counter() - start) / times * 1e6, 1)

    reference = ray and ray.put(table)

    def theirs() -> None:
        for _ in range(times):
            ray.get(reference)

    size = f"{nbytes >> 20} MiB" if nbytes >> 20 else f"{nbytes // 1000} kB"
    return Scenario(
        f"get {size}, {times} times",
        {"aljava": ours, "ray.get": ray and theirs},
        targets={"ray.get": 4},
        prepare=lambda: (ours("small", "µs a get of 8 kB"), ours("mapped", "µs a get of 128 kB")),
        facts={"aljava": facts},
    )


def total(table: pa.Table) -> float:
    """One number from a table, which touches one of its columns."""
    return float(table["c0"].chunk(0).to_numpy().sum())


def _pool(nbytes: int) -> Scenario:
    table = _floats(nbytes)
    executor = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    atexit.register(executor.shutdown)

    def go(min_bytes: int) -> float:
        aljava.multiprocessing.activate(min_bytes)
        # New objects, so that nothing is known of the table from the round before.
        return sum(executor.map(total, [pa.Table.from_batches(table.to_batches())] * 2))

    return Scenario(
        f"pass {nbytes // 1_000_000} MB to a pool of 2 workers, one number back",
        {"aljava.multiprocessing": lambda: go(1 << 18), "pickle": lambda: go(1 << 62)},
        nbytes,
        {"pickle": 20},
    )


_USER = """if True:
    import sys
    import pyarrow.feather, aljava.store
    def memory():
        with open("/proc/self/smaps_rollup") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    pyarrow.table({"a": [1.0]})["a"].chunk(0).to_numpy().sum()  # what is imported at first use
    before = memory()
    kind, where = sys.argv[1:]
    if kind == "aljava":
        table = aljava.store.Store(where)["shared"]
    else:
        table = pyarrow.feather.read_table(where, memory_map=False)
    total = sum(column.chunk(0).to_numpy().sum() for column in table.columns)
    print("ready", flush=True)
    sys.stdin.readline()
    print(memory() - before, flush=True)
    sys.stdin.readline()
"""


def _memory(nbytes: int) -> Scenario:
    store = _store()
    store.clear()
    store.trim()
    table = _floats(nbytes)
    store["shared"] = table
    path = f"{scratch()}/table.feather"
    pa.feather.write_feather(table, path, compression="uncompressed")
    facts: dict[str, dict[str, float]] = {"aljava": {}, "Feather file": {}}

    def four(kind: str, where: str) -> None:
        """Four processes that sum all columns; what they take together, shared pages counted once."""
        command = [sys.executable, "-c", _USER, kind, where]
        users = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
        pipes = [(user.stdin, user.stdout) for user in users if user.stdin and user.stdout]
        for _, answer in pipes:
            answer.readline()
        for ask, _ in pipes:
            ask.write("\n")
            ask.flush()
        taken = sum(int(answer.readline()) for _, answer in pipes)
        facts["aljava" if kind == "aljava" else "Feather file"] = {
            "memory of four": taken,
            "copies": round(taken / nbytes, 2),
        }
        for user in users:
            user.communicate("\n")

    return Scenario(
        f"four processes use one table of {nbytes >> 20} MiB",
        {"aljava": lambda: four("aljava", store.name), "Feather file": lambda: four("feather", path)},
        nbytes,
        facts=facts,
        rounds=2,
    )


def _list(objects: int) -> Scenario:
    store = Store(f"bench-list-{os.getpid()}")
    atexit.register(store.destroy)
    for number in range(objects):
        store[f"{number:05}"] = _floats(1_000)
    facts: dict[str, float] = {"objects": objects}

    def ours() -> None:
        start = time.perf_counter()
        store.infos()
        facts["µs an object"] = round((time.perf_counter() - start) / objects * 1e6, 1)

    return Scenario(
        f"list {objects} objects with rows, schema, readers and age",
        {
            "aljava": ours,
            "os.listdir and os.stat": lambda: [os.stat(f"{store.path}/{name}") for name in os.listdir(store.path)],
        },
        facts={"aljava": facts},
        floors=("os.listdir and os.stat",),
    )
