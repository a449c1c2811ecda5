"""Real processes that stop or die at a chosen call of the store's code, and the objects they write.

The store's code has no hooks for this: a profile function in the forked process sees each function that the code calls,
Python's own and the system's, before and after it, and sends the signal there.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa

import aljava.store
from aljava.errors import KeyNotFound
from aljava.store import Store

CODE = os.path.dirname(aljava.store.__file__)
ROWS = 32 * 1024  # of 8 bytes: four times the limit under which objects are small
PATIENCE = 30.0  # seconds after which a process counts as hanging


@dataclass(frozen=True)
class Moment:
    """A point in the run of a process."""

    when: str
    """`before` or `after`."""
    function: str
    """The name of a function of the store, or of a system call that the store makes: `CALLER/CALL`."""
    count: int = 1
    """Which call of it."""

    def __str__(self) -> str:
        return f"{self.when} {self.function} {self.count}"


def before(function: str, count: int = 1) -> Moment:
    return Moment("before", function, count)


def after(function: str, count: int = 1) -> Moment:
    return Moment("after", function, count)


class Actor:
    """A process that runs `work`, and gets `sent` at a moment: a named one, or the n-th of all that there are."""

    def __init__(
        self, work: Callable[[], object], at: Moment | int | None = None, sent: signal.Signals = signal.SIGSTOP
    ) -> None:
        self._reading, writing = os.pipe()
        self.state = "running"
        self.pid = os.fork()
        if self.pid == 0:
            self._act(work, at, sent, writing)
        os.close(writing)
        if at is not None:
            self.wait()

    @staticmethod
    def _act(work: Callable[[], object], at: Moment | int | None, sent: signal.Signals, writing: int) -> None:
        seen = 0

        def watch(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal seen
            if not frame.f_code.co_filename.startswith(CODE):
                return
            if event.startswith("c_") and argument.__module__ not in ("posix", "fcntl"):
                return
            when = "before" if event.endswith("call") else "after"
            name = frame.f_code.co_name
            if event.startswith("c_"):
                name += f"/{argument.__name__}"
            if isinstance(at, int) or (at.when, at.function) == (when, name):
                seen += 1
            else:
                return
            if seen == (at if isinstance(at, int) else at.count):
                os.kill(os.getpid(), sent)

        try:
            if at is not None:
                sys.setprofile(watch)
            result = work()
            sys.setprofile(None)
            os.write(writing, repr(result).encode()[:4000])
            os._exit(0)
        finally:
            sys.setprofile(None)
            os.write(writing, repr(sys.exception()).encode()[:4000])
            os._exit(1)

    def wait(self, seconds: float = PATIENCE) -> str:
        """Waits until it stops, ends or dies; says which: `stopped`, `ended`, `failed`, `killed`, or `hangs`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG)
            if pid:
                if os.WIFSTOPPED(status):
                    self.state = "stopped"
                elif os.WIFSIGNALED(status):
                    self.state = "killed"
                else:
                    self.state = "failed" if os.WEXITSTATUS(status) else "ended"
                return self.state
            select.select([], [], [], 0.0005)
        self.state = "hangs"
        return self.state

    def go_on(self) -> str:
        """Lets a stopped process continue, and waits for it."""
        if self.state == "stopped":
            os.kill(self.pid, signal.SIGCONT)
            return self.wait()
        return self.state

    def result(self) -> str:
        """What its work returned, or the error that it ended with."""
        return os.read(self._reading, 4000).decode() if self.state in ("ended", "failed") else ""

    def __enter__(self) -> "Actor":
        return self

    def __exit__(self, *error: object) -> None:
        if self.state in ("running", "stopped", "hangs"):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._reading)


def run(work: Callable[[], object]) -> str:
    """Runs `work` in a process of its own, and returns the `repr` of its result."""
    with Actor(work) as actor:
        assert actor.wait() == "ended", (actor.state, actor.result())
        return actor.result()


def kill_at(moment: int, work: Callable[[], object]) -> bool:
    """Kills a process at the n-th moment of `work`; false if it came to its end before."""
    with Actor(work, moment, signal.SIGKILL) as actor:
        assert actor.state in ("killed", "ended"), (actor.state, actor.result())
        return actor.state == "killed"


def table(value: int, rows: int = ROWS) -> pa.Table:
    """A table that carries its own checksum: every cell holds the same number."""
    return pa.table({"first": np.full(rows // 2, value), "second": np.full(rows // 2, value)})


def value_of(got: pa.Table) -> int | str:
    """The number that all cells of a `table` hold, or what was found in its place."""
    found = {int(value) for column in got.columns for value in np.unique(column.to_numpy())}
    return found.pop() if len(found) == 1 else f"MIXED {sorted(found)[:5]}"


def values(store: Store, *keys: str) -> list[int | str | None]:
    """The number under each key, `None` where the key is missing."""
    found: list[int | str | None] = []
    for key in keys:
        try:
            found.append(value_of(store[key]))
        except KeyNotFound:
            found.append(None)
    return found
