"""What is held stays as it was: over replacements, forks, threads, and thousands of tables at once."""

import contextlib
import gc
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from aljava.errors import KeyNotFound
from aljava.store import Store, kernel
from tests.store.actors import ROWS, Actor, run, table, value_of, values


def test_a_numpy_view_never_changes_while_its_key_is_replaced_a_thousand_times(store: Store) -> None:
    store["k"] = table(7)
    view = store["k"]["first"].chunk(0).to_numpy()
    words = pa.table({"w": [f"word {number:07}" for number in range(20_000)]})
    store["w"] = words
    strings = store["w"]["w"].chunk(0).slice(5_000, 10)
    for number in range(1_000):
        store["k"] = table(number)
        store["w"] = table(number)
    assert (view == 7).all()
    assert strings.to_pylist() == [f"word {number:07}" for number in range(5_000, 5_010)]
    # Only the two that are held could not be used again.
    assert store.stats().fresh_writes <= 6
    assert store.stats().recycled_writes >= 1_996


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_five_thousand_tables_are_held_under_a_limit_of_256_descriptors(store: Store, few_descriptors: None) -> None:
    rows = 8_500  # 68 kB: the smallest that is mapped
    for key in range(10):
        store[f"{key}"] = table(key, rows)
    held = [(number % 10, store[f"{number % 10}"]) for number in range(5_000)]
    for key in range(10):
        store[f"{key}"] = table(99, rows)
    assert store.info("0").readers == 0
    assert all(value_of(got) == key for key, got in held)
    held.clear()
    gc.collect()
    assert store.trim() > 0


def test_a_forked_child_keeps_what_its_parent_held(store: Store) -> None:
    store["k"] = table(7)
    held = [store["k"]]

    def child() -> object:
        time.sleep(0.2)
        return value_of(held[0]), store.put(table(8), "from the child"), values(store, "k")

    with Actor(child) as actor:
        held.clear()
        for number in range(20):
            store["k"] = table(number)
        store.trim()
        assert actor.wait() == "ended"
        assert actor.result() == "(7, 'from the child', [19])"
    assert values(store, "from the child") == [8]
    store.trim()
    assert store.stats().bytes_pooled == 0


def test_a_child_that_lives_on_takes_no_lock_of_its_parent_along(store: Store) -> None:
    """Forks in one thread, while another gets and puts all the time."""
    store["k"] = table(1)
    stop = threading.Event()
    failures: list[object] = []

    def busy() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store["k"] = table(number)
            if not isinstance(found := value_of(store["k"]), int):
                failures.append(found)

    thread = threading.Thread(target=busy)
    thread.start()
    children = [Actor(lambda: time.sleep(60)) for _ in range(40)]
    stop.set()
    thread.join()
    try:
        assert not failures
        # Forty children live, each forked in the midst of a get or a put: all memory can be recycled but what a child
        # has inherited as a map.
        del store["k"]
        inherited = set()
        for child in children:
            with open(f"/proc/{child.pid}/maps") as maps:
                inherited |= {line.split()[4] for line in maps if store.path in line}
        store.trim()
        kept = {str(int(name.partition("-")[2], 16)) for name in os.listdir(f"{store.path}/.pool")}
        assert kept <= inherited
    finally:
        for child in children:
            child.__exit__()
    store.trim()
    assert os.listdir(f"{store.path}/.pool") == []


def test_a_fork_waits_for_a_lock_that_is_half_taken(store: Store) -> None:
    """In the midst of a get its descriptor holds a lock: a child that inherited it would hold it for life."""
    store["k"] = table(3)
    inside = threading.Event()

    def pause(frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code.co_name == "_still_named" and event == "c_return" and argument.__name__ == "flock":
            inside.set()
            time.sleep(0.3)

    def get_slowly() -> None:
        sys.setprofile(pause)
        values(store, "k")
        sys.setprofile(None)

    def child() -> object:
        mine = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return [path for path in mine if store.path in path], store.put(table(4), "child"), values(store, "k")

    thread = threading.Thread(target=get_slowly)
    thread.start()
    inside.wait()
    assert run(child) == "([], 'child', [3])"
    thread.join()


def test_threads_share_one_store(store: Store) -> None:
    store.update({f"{key}": table(0) for key in range(5)})
    failures: list[object] = []

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        for number in range(60):
            key = f"{chosen.randrange(5)}"
            try:
                match chosen.randrange(4):
                    case 0:
                        store[key] = table(number, chosen.choice([100, ROWS, 2 * ROWS]))
                    case 1:
                        del store[key]
                    case _:
                        if not isinstance(found := value_of(store[key]), int):
                            failures.append(found)
            except KeyNotFound:
                continue

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(f"{store.path}/.work") == []
    store.clear()
    store.trim()
    assert store._folder.usage() == 0


def test_closing_while_another_thread_puts_harms_nothing(store: Store) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield from table(5).to_batches()
        store.close()
        with Store(store.name) as other:  # would sweep it away, were its writer taken for dead
            other._folder.sweep(now=True)
        yield from table(5).to_batches()

    store["k"] = pa.RecordBatchReader.from_batches(table(5).schema, batches())
    assert values(store, "k") == [5]
    assert store["k"].num_rows == ROWS


@pytest.fixture
def like_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch for macOS, on this system's calls: maps that keep no lock, so that duplicate descriptors do."""

    def renamex_np(source: bytes, target: bytes, flags: int) -> int:
        return kernel._renameat2(kernel._AT_FDCWD, source, kernel._AT_FDCWD, target, flags)

    monkeypatch.setattr(kernel, "_LINUX", False)
    monkeypatch.setattr(kernel, "_renamex_np", renamex_np, raising=False)


def read_locks(path: str) -> int:
    """Open descriptors of this process that hold a shared lock on a file below a folder."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(path):
                with open(f"/proc/self/fdinfo/{name}") as lines:
                    found += any("FLOCK" in line and "READ" in line for line in lines)
    return found


def test_where_a_map_keeps_no_lock_a_duplicate_descriptor_does(store: Store, like_macos: None) -> None:
    store["k"] = table(7)
    views = [store["k"]["first"].chunk(0).to_numpy()]
    for number in range(20):
        store["k"] = table(number)
    gc.collect()
    assert read_locks(store.path) == 1
    assert (views[0] == 7).all()

    def child() -> object:
        return set(views[0].tolist()), values(store, "k"), store.put(table(30), "child")

    assert run(child) == "({7}, [19], 'child')"
    assert values(store, "child", "k") == [30, 19]
    views.clear()
    gc.collect()
    assert read_locks(store.path) == 0
    assert store.stats().fresh_writes <= 4
    with pytest.raises(FileExistsError):
        kernel.rename_new(f"{store.path}/k.arrow", f"{store.path}/child.arrow")
    store.trim()
    assert store.stats().bytes_pooled == 0


def test_a_view_over_numpy_is_read_only(store: Store) -> None:
    store["k"] = table(5)
    view = store["k"]["first"].chunk(0).to_numpy()
    assert not view.flags.writeable
    assert not np.frombuffer(store.buffer("k"), np.uint8).flags.writeable
