"""The tour's second process: a new interpreter that shares nothing with the first but what it is handed.

`Peer` is the first process's side; run as a module, this file is the second's. It answers in JSON, one object a line.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from aljava.errors import TransferError


class Peer:
    """A second process, started anew rather than forked, so that it has no memory in common with this one.

    Args:
        arguments: what it is to do: the name of a task below, and what that needs.
    """

    def __init__(self, *arguments: str) -> None:
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        # -P: a file in the current folder that is called like a module must not be taken for it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "aljava.tour.peer", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.input: Any = self._process.stdin

    def answer(self) -> dict[str, Any]:
        """The next thing that it says.

        Raises:
            TransferError: it ended instead.
        """
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else "it said nothing"
            raise TransferError(f"the second process ended with status {self._process.wait()}: {reason}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        with suppress(OSError):  # closing flushes, and there may be nobody left to read
            self._process.__exit__(kind, error, traceback)


def receive() -> None:
    """Reads a stream from standard input; says how many rows came, then the checksum of what came."""
    from aljava import api
    from aljava.sameness import checksum

    _say(ready=True)
    table = api.read(sys.stdin.buffer)
    _say(rows=table.num_rows)
    _say(checksum=checksum(table))


def share(store: str, key: str, column: str) -> None:
    """Gets a table from a store and sums a column; says where its buffers lie and what that cost in memory."""
    import pyarrow.compute as pc

    from aljava.placement import mapped_ranges, placement
    from aljava.store import Store

    shared = Store(store)
    # What a first sum loads and allocates is not the table's doing.
    pc.sum([1, 2, 3])
    before = _private_bytes()
    start = time.perf_counter()
    table = shared[key]
    got = time.perf_counter() - start
    start = time.perf_counter()
    total = pc.sum(table.column(column)) if column else None
    summed = time.perf_counter() - start
    grown = _private_bytes() - before
    lie = placement(table, mapped_ranges(shared.path))
    _say(
        get_seconds=got,
        sum_seconds=summed,
        sum=None if total is None or not total.is_valid else str(total.as_py()),
        rows=table.num_rows,
        buffers=lie.buffers,
        buffers_inside=lie.buffers_inside,
        private_bytes=max(0, grown),
    )


def _private_bytes() -> int:
    """Memory that this process shares with no other, as the kernel counts it."""
    with open("/proc/self/smaps_rollup") as rollup:
        return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Private_"))


def _say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive()
    else:
        share(*sys.argv[2:])
