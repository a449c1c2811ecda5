"""Writers and readers on the same keys, killed, stopped and forked at random, each object carrying its own checksum.

`python -m tests.store.torture --seconds 60` runs it by hand, at full size; `test_torture.py` for a few seconds.
"""

import argparse
import contextlib
import os
import random
import select
import signal
import time
import traceback
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from aljava.errors import AljavaError, KeyNotFound, StoreFull
from aljava.store import Store

SIZES = [1_000, 8_192, 12_500, 32_768, 131_072]  # rows of 8 bytes: small ones and large ones


@dataclass
class Counts:
    """What happened."""

    puts: int = 0
    gets: int = 0
    checks: int = 0
    full: int = 0
    forks: int = 0
    wrong: int = 0
    lost: int = 0
    errors: int = 0
    kills: int = 0
    stops: int = 0
    hangs: int = 0
    crashes: int = 0


_NAMES = [field.name for field in fields(Counts)]
_BEAT = len(_NAMES)


class Scoreboard:
    """Counters in memory that all processes share, one line for each."""

    def __init__(self, processes: int) -> None:
        import mmap

        self._memory = mmap.mmap(-1, processes * 16 * 8)
        self.lines = np.frombuffer(self._memory, np.int64).reshape(processes, 16)

    def total(self) -> Counts:
        sums = self.lines.sum(axis=0)
        return Counts(**{name: int(sums[index]) for index, name in enumerate(_NAMES)})


def _object(key: int, number: int, rows: int) -> pa.Table:
    values = np.full(rows, number)
    values[:3] = (0xA17A, key, rows)
    return pa.table({"v": values}, metadata={"number": str(number)})


def _number(table: pa.Table, key: int) -> int | None:
    """The number of an object, or `None` if any byte of it is wrong."""
    number = int(table.schema.metadata[b"number"])
    values = table["v"].chunk(0).to_numpy()
    right = values[:3].tolist() == [0xA17A, key, len(values)] and bool((values[3:] == number).all())
    return number if right else None


class _Worker:
    def __init__(self, line: np.ndarray, index: int, name: str, keys: int, capacity: int | None) -> None:
        random.seed(os.urandom(8))
        self.line, self.index, self.keys = line, index, keys
        self.store = Store(name, capacity=capacity)
        self.children: list[int] = []
        self.mine: int | None = None
        self.held: list[tuple[pa.Table, int, int]] = []

    def count(self, what: str) -> None:
        self.line[_NAMES.index(what)] += 1

    def wrong(self, what: str, detail: object) -> None:
        self.count(what)
        if self.line[_NAMES.index(what)] < 3:
            print(f"[{self.index}] {what}: {detail}", flush=True)

    def run(self, step: str) -> None:
        while True:
            self.line[_BEAT] = time.monotonic_ns()
            try:
                getattr(self, step)()
            except StoreFull:
                self.count("full")
                time.sleep(0.002)
            except KeyNotFound:
                time.sleep(0.001)
            except (AljavaError, OSError, ValueError):
                self.wrong("errors", traceback.format_exc())
            self.reap()

    def write(self) -> None:
        key, number, rows = random.randrange(self.keys), random.getrandbits(60), random.choice(SIZES)
        chance = random.random()
        if chance < 0.05:
            del self.store[f"k{key}"]
        elif chance < 0.3:
            # Nobody else writes this one: what was put is what is there.
            self.mine = None
            self.store[f"own{self.index}"] = _object(-1, number, rows)
            self.mine = number
        else:
            self.store[f"k{key}"] = _object(key, number, rows)
        self.count("puts")
        if self.mine is not None and random.random() < 0.3:
            try:
                found = _number(self.store[f"own{self.index}"], -1)
            except KeyNotFound:
                self.wrong("lost", f"own{self.index}")
            else:
                self.count("checks")
                if found != self.mine:
                    self.wrong("lost" if found else "wrong", (found, self.mine))
        if random.random() < 0.02 and self.fork():
            with contextlib.suppress(StoreFull):
                if random.random() < 0.5:
                    self.store[f"k{key}"] = _object(key, number + 1, rows)
                else:
                    time.sleep(random.random() * 0.1)
            os._exit(0)

    def read(self) -> None:
        key = random.randrange(self.keys)
        table = self.store[f"k{key}"]
        self.count("gets")
        number = _number(table, key)
        if number is None:
            self.wrong("wrong", f"k{key} when it was got")
        else:
            self.held.append((table, key, number))
        del table
        if random.random() < 0.3:
            time.sleep(random.random() * 0.01)
        while len(self.held) > 3 or (self.held and random.random() < 0.4):
            self.check(self.held.pop(random.randrange(len(self.held))))
        if random.random() < 0.005 and self.held and self.fork():
            time.sleep(random.random() * 0.2)
            for one in self.held:
                self.check(one)
            os._exit(0)

    def check(self, held: tuple[pa.Table, int, int]) -> None:
        table, key, number = held
        self.count("checks")
        if _number(table, key) != number:
            self.wrong("wrong", f"k{key} while it was held")

    def fork(self) -> bool:
        child = os.fork()
        if child == 0:
            return True
        self.children.append(child)
        self.count("forks")
        return False

    def reap(self) -> None:
        self.children = [child for child in self.children if not os.waitpid(child, os.WNOHANG)[0]]


def torture(
    seconds: float,
    *,
    writers: int = 8,
    readers: int = 32,
    keys: int = 20,
    capacity: int | None = None,
    every: float = 0.03,
    kills: int = 0,
) -> Counts:
    """Runs it, and checks the store at the end.

    Args:
        seconds: How long.
        writers: Processes that put and delete.
        readers: Processes that get and hold.
        keys: Keys that all of them use.
        capacity: Of the store, in bytes.
        every: Mean seconds between two kills, and between two stops.
        kills: It goes on until there were as many.
    """
    name = f"torture-{os.getpid()}"
    board = Scoreboard(writers + readers)
    # Imports what pyarrow imports at first use, before there are forty processes that would each do so.
    with Store(name) as store:
        store["warm"] = _object(0, 1, 10_000)
        _number(store.pop("warm"), 0)

    def start(index: int) -> int:
        board.lines[index, _BEAT] = time.monotonic_ns()
        child = os.fork()
        if child == 0:
            try:
                worker = _Worker(board.lines[index], index, name, keys, capacity)
                worker.run("write" if index < writers else "read")
            finally:
                traceback.print_exc()
                os._exit(3)
        return child

    # Every process below inherits its end, those too that workers fork: it is at its end when all of them are gone.
    gone, alive = os.pipe()
    result = Counts()
    running = {index: start(index) for index in range(writers + readers)}
    asleep: dict[int, float] = {}
    begin = next_kill = next_stop = time.monotonic()
    while (now := time.monotonic()) - begin < seconds or result.kills < kills:
        if now > next_kill:
            index = random.randrange(writers if random.random() < 0.6 else writers + readers)
            os.kill(running[index], signal.SIGKILL)
            # Its last call of the system may still end: a successor would find what that did in place of its own.
            os.waitpid(running[index], 0)
            asleep.pop(index, None)
            running[index] = start(index)
            result.kills += 1
            next_kill = now + random.expovariate(1 / every)
        if now > next_stop:
            index = random.randrange(writers + readers)
            if index not in asleep:
                os.kill(running[index], signal.SIGSTOP)
                asleep[index] = now + random.random() * 0.3
                result.stops += 1
            next_stop = now + random.expovariate(1 / every)
        for index, until in list(asleep.items()):
            if now > until:
                board.lines[index, _BEAT] = time.monotonic_ns()
                os.kill(running[index], signal.SIGCONT)
                del asleep[index]
        for index, child in running.items():
            if os.waitpid(child, os.WNOHANG)[0]:  # nobody has killed it
                result.crashes += 1
                running[index] = start(index)
                asleep.pop(index, None)
            elif index not in asleep and time.monotonic_ns() - board.lines[index, _BEAT] > 20e9:
                result.hangs += 1
                board.lines[index, _BEAT] = time.monotonic_ns()
        time.sleep(0.002)
    for child in running.values():
        os.kill(child, signal.SIGKILL)
    for child in running.values():
        os.waitpid(child, 0)
    os.close(alive)
    result.hangs += not select.select([gone], [], [], 20)[0]
    os.close(gone)
    time.sleep(0.5)  # the last of their locks go a moment later
    counted = board.total()
    for field in _NAMES:
        setattr(result, field, getattr(result, field) + getattr(counted, field))
    with Store(name, capacity=capacity) as store:
        _check_the_end(store, result)
        store.destroy()
    return result


def _check_the_end(store: Store, result: Counts) -> None:
    with contextlib.suppress(StoreFull):
        store["last"] = _object(-2, 1, 400_000)
    store._folder.sweep(now=True)
    for key in store:
        if _number(store[key], {"k": int(key[1:]) if key[1:].isdigit() else 0, "o": -1, "l": -2}[key[0]]) is None:
            result.wrong += 1
    for folder, allowed in ((".work", 0), (".writers", 1)):
        if len(os.listdir(f"{store.path}/{folder}")) > allowed:
            print(f"left in {folder}: {os.listdir(f'{store.path}/{folder}')}")
            result.errors += 1
    pooled = store.stats().bytes_pooled
    if store.trim() != pooled:
        print(f"locks remain: of {pooled} bytes in the pool {store.stats().bytes_pooled} cannot be had")
        result.errors += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--capacity", type=int)
    chosen = parser.parse_args()
    print(torture(chosen.seconds, capacity=chosen.capacity))
