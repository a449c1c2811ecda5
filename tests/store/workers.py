"""What the worker processes of `test_multiprocessing.py` run: importable under spawn and forkserver."""

import os
import signal
from typing import Any

import numpy as np
import pyarrow as pa


def total(table: pa.Table) -> int:
    return int(table["n"].chunk(0).to_numpy().sum())


def is_shared(table: pa.Table) -> bool:
    """Whether the data lies in a mapped file of a family's folder."""
    address = table["n"].chunk(0).buffers()[1].address
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, _, high = line.split()[0].partition("-")
            if int(low, 16) <= address < int(high, 16):
                return "/.family-" in line
    return False


def describe(table: pa.Table) -> tuple[int, bool]:
    return total(table), is_shared(table)


def double(table: pa.Table) -> pa.Table:
    return pa.table({"n": table["n"].to_numpy() * 2})


def make(rows: int) -> pa.Table:
    return pa.table({"n": np.arange(rows)})


def echo(thing: Any) -> Any:
    return thing


def change_in_place(frame: Any) -> Any:
    frame.loc[0, "n"] = -1
    return frame


def die(table: pa.Table) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def serve(queue: Any, answers: Any) -> None:
    for table in iter(queue.get, None):
        answers.put(describe(table))


def put_and_leave(queue: Any, rows: int) -> None:
    import aljava.multiprocessing

    aljava.multiprocessing.activate()
    queue.put(make(rows))
