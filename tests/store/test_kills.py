"""Kill −9 at every call: no half-written table is seen, no memory leaks, no lock remains."""

import contextlib
import fcntl
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from aljava.errors import KeyNotFound, StoreFull
from aljava.store import Store, filling
from tests.store.actors import ROWS, Actor, before, kill_at, table, value_of, values
from tests.systems import mounted

SMALL = 100  # rows: below the limit under which objects are small


def share_all_work() -> None:
    """Lets this process, a forked one, fill all new memory on two threads."""
    filling._SHARED_WORK = 1


OPERATIONS: dict[str, Callable[[Store], object]] = {
    "new key, new memory": lambda store: store.put(table(9, 3 * ROWS), "n"),
    "new key, new memory, on two threads": lambda store: [share_all_work(), store.put(table(9, 40 * ROWS), "n")],
    "new key, recycled memory": lambda store: store.put(table(9), "n"),
    "replace, recycled memory": lambda store: store.put(table(9), "a"),
    "new small": lambda store: store.put(table(9, SMALL), "n"),
    "small over small": lambda store: store.put(table(9, SMALL), "small"),
    "small over large": lambda store: store.put(table(9, SMALL), "big"),
    "large over small": lambda store: store.put(table(9), "small"),
    "delete large": lambda store: store.pop("b"),
    "delete small": lambda store: store.pop("small"),
    "stream": lambda store: store.put(table(9).to_reader(10_000), "n"),
    "trim": lambda store: store.trim(),
    "put that has to make room": lambda store: store.put(table(9, 5 * ROWS), "n"),
    "several": lambda store: [store.put(table(9, [SMALL, ROWS, 2 * ROWS][i % 3]), f"k{i % 2}") for i in range(6)],
}
# What each key may hold, before and after any of them.
ALLOWED = {"a": (2, 9), "b": (3, None), "small": (4, 9, None), "big": (5, 9), "n": (9, None)}


def fill(store: Store, litter: bool) -> None:
    for key, value, rows in (("a", 1, ROWS), ("a", 2, ROWS), ("b", 3, ROWS), ("small", 4, SMALL), ("big", 5, 4 * ROWS)):
        store[key] = table(value, rows)
    if litter:  # of a writer that died before, so that the sweep is killed too
        with Actor(lambda: store.put(table(7, 2 * ROWS), "zz"), before("exchange"), signal.SIGKILL) as dead:
            assert dead.state == "killed"
        assert os.listdir(f"{store.path}/.work")


def check(store: Store) -> None:
    """After the next write of anyone: whole objects, one name for each segment, no lock, no litter."""
    # More than anything in the pool, so that a dead writer is looked for; as good as any where there is no room.
    with contextlib.suppress(StoreFull):
        store["after"] = table(8, 6 * ROWS)
    store._folder.sweep(now=True)
    for key, allowed in ALLOWED.items():
        assert values(store, key)[0] in allowed, key
    assert values(store, "after")[0] in (8, None)
    assert os.listdir(f"{store.path}/.work") == []
    assert os.listdir(f"{store.path}/.writers") == [store._folder._writer]
    objects = [f"{store.path}/{name}" for name, _ in store._folder.objects()]
    pooled = [f"{store.path}/.pool/{name}" for name in os.listdir(f"{store.path}/.pool")]
    for path in objects + pooled:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            assert os.fstat(descriptor).st_nlink == 1
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    capacity = store.stats().capacity
    assert capacity is None or store._folder.usage() <= capacity


def kill_everywhere(operation: Callable[[Store], object], *, capacity: int | None, litter: bool, stride: int) -> int:
    """Kills a process at each `stride`-th moment of an operation, and checks each time; returns how often."""
    moment = stride
    while True:
        with Store("kills", capacity=capacity) as store:
            fill(store, litter)

            def work(store: Store = store) -> None:
                with contextlib.suppress(StoreFull, KeyNotFound):
                    operation(store)

            killed = kill_at(moment, work)
            check(store)
            store.destroy()
        if not killed:
            return moment // stride - 1
        moment += stride


@pytest.mark.parametrize("litter", [False, True], ids=["clean", "litter"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_any_call(name: str, litter: bool) -> None:
    """Every seventh call of most; `python -m tests.store.test_kills` takes every one."""
    assert kill_everywhere(OPERATIONS[name], capacity=None, litter=litter, stride=21 if name == "several" else 7) >= 4


CAPACITY = table(0, 13 * ROWS).nbytes


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "several"])
def test_killed_at_any_call_within_a_capacity(name: str) -> None:
    assert kill_everywhere(OPERATIONS[name], capacity=CAPACITY, litter=True, stride=6) >= 5


def test_writers_killed_at_random_instants(store: Store) -> None:
    """Not between calls but anywhere, in the middle of a copy too."""
    store["a"] = store["b"] = table(0, 64 * ROWS)

    def write_for_ever() -> None:
        number = 0
        while True:
            number += 1
            store[random.choice("ab")] = table(number % 100, random.choice([SMALL, ROWS, 64 * ROWS]))

    for _ in range(60):
        with Actor(write_for_ever):
            time.sleep(random.uniform(0.002, 0.03))
        assert all(isinstance(value, int) for value in values(store, "a", "b"))
    store["after"] = table(1, 100 * ROWS)
    store._folder.sweep(now=True)
    assert os.listdir(f"{store.path}/.work") == []


def test_readers_killed_at_any_call_leave_no_lock(store: Store) -> None:
    store["k"] = table(1)
    moment = 0
    killed = True
    while killed:
        moment += 1
        killed = kill_at(moment, lambda: value_of(store["k"]))
        store["k"] = table(moment)
        store.trim()
        assert store.stats().bytes_pooled == 0
    assert moment > 15


@pytest.fixture
def tmpfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A memory file system of 8 MiB of our own."""
    with mounted(tmp_path, "size=8m") as folder:
        monkeypatch.setenv("ALJAVA_SHM", str(folder))
        yield folder


def used(folder: Path) -> int:
    system = os.statvfs(folder)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def test_the_file_system_agrees_after_kills(tmpfs: Path) -> None:
    """Pool plus objects equals what the file system says, after the next write."""
    with Store("agreed") as store:
        empty = used(tmpfs)
        for moment in range(5, 150, 5):
            kill_at(moment, lambda: store.put(table(9), "n"))
        store["after"] = table(8, 2 * ROWS)
        store._folder.sweep(now=True)
        stats = store.stats()
        # An empty file of ours in .writers takes no memory; each object whole pages.
        assert used(tmpfs) - empty == stats.bytes_used + stats.bytes_pooled
        store.destroy()


def test_rows_that_come_batch_by_batch_take_the_room_of_deleted_ones(tmpfs: Path) -> None:
    with Store("full", evict=True) as store:
        many = table(2, ROWS * (6 << 20) // table(1).nbytes)
        store["a"] = table(1, many.num_rows // 2)
        del store["a"]  # its memory is kept for the next object
        store["b"] = many.to_reader(10_000)
        assert store["b"].equals(many)
        store["c"] = many.to_reader(10_000)  # and evicts where that is allowed
        assert store["c"].equals(many)
        assert list(store) == ["c"]
        store["d"] = many
        assert list(store) == ["d"]
        with pytest.raises(StoreFull, match="the machine's shared memory has"):
            for number in range(4):
                Store(f"other-{number}").prefault(2 << 20)


@pytest.mark.parametrize("shared_from", [1, 1 << 40], ids=["two threads", "one thread"])
def test_a_full_file_system_is_an_error_and_nothing_is_lost(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch, shared_from: int
) -> None:
    monkeypatch.setattr("aljava.store.filling._SHARED_WORK", shared_from)
    with Store("full") as store:
        store["a"] = table(1)
        empty = used(tmpfs)
        with pytest.raises(StoreFull, match="the machine's shared memory has"):
            store["huge"] = table(2, 64 * ROWS)
        with pytest.raises(StoreFull, match="the machine's shared memory has"):
            store["huge"] = table(2, 64 * ROWS).to_reader(10_000)
        with pytest.raises(StoreFull):
            store.update({f"{number}": table(number) for number in range(100)})
        kept = len(store)
        assert kept > 20
        assert values(store, "a", "0", "1") == [1, 0, 1]
        del store["0"]
        store["again"] = table(5)
        assert values(store, "again") == [5]
        for key in store:
            if key != "a":
                del store[key]
        store.trim()
        assert used(tmpfs) == empty
        store.destroy()


def test_a_full_file_system_takes_back_the_pool(tmpfs: Path) -> None:
    with Store("pool") as store:
        store["a"] = table(1, 7 * ROWS)
        del store["a"]
        assert store.stats().bytes_pooled > 0
        for number in range(27):  # 6.75 of 8 MiB, which the pool's 1.75 MiB stand in the way of
            store[f"{number}"] = table(number)
        assert values(store, "0", "26") == [0, 26]
        store.destroy()


def test_memory_that_a_killed_writer_never_filled_is_not_counted_on(tmpfs: Path) -> None:
    """Writing through a map to a segment with holes would be SIGBUS on a full file system: none is kept."""
    with Store("holes") as store:
        with Actor(lambda: store.put(table(1, 7 * ROWS), "a"), before("write_all/pwritev"), signal.SIGKILL) as dead:
            assert dead.state == "killed"
        store["b"] = pa.table({"x": [b"x" * 7_000_000]})
        with pytest.raises(StoreFull):
            store["c"] = table(2, 7 * ROWS)
        assert store.stats().bytes_pooled == 0
        store.destroy()


if __name__ == "__main__":
    points = 0
    for capacity in (None, CAPACITY):
        for name, operation in OPERATIONS.items():
            for litter in (False, True):
                points += kill_everywhere(operation, capacity=capacity, litter=litter, stride=1)
                print(f"{name}, capacity {capacity}, litter {litter}: {points} kills so far", flush=True)
