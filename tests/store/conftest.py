"""Every store test runs under the leak check and in a store of its own."""

import gc
import os
import time
import uuid
from collections.abc import Iterator

import psutil
import pytest

from aljava.store import Store

PLACE = os.environ["ALJAVA_SHM"]


@pytest.fixture(autouse=True)
def _no_leaks(no_leaks: None) -> Iterator[None]:
    """The leak check of the whole suite, around every test of this folder; and no file or lock may be left either."""
    files, locks = set(os.listdir(PLACE)), _locks()
    yield
    gc.collect()
    assert set(os.listdir(PLACE)) <= files, f"files left: {set(os.listdir(PLACE)) - files}"
    left, end = _locks() - locks, time.monotonic() + 10
    while left and time.monotonic() < end:
        # Of a test beside this one, a process may be dead while a child that it forked still has its locks.
        time.sleep(0.05)
        left &= _locks()
    assert not left, f"locks left: {left}"


def _locks() -> set[str]:
    """File locks in shared memory that this process has taken, or one that is dead: lines of `/proc/locks`."""
    device = os.stat(PLACE).st_dev
    here = f"{os.major(device):02x}:{os.minor(device):02x}:"
    with open("/proc/locks") as lines:
        taken = [line.split(maxsplit=1)[1] for line in lines if " FLOCK " in line and here in line and "->" not in line]
    mine = os.getpid()
    return {line for line in taken if (pid := int(line.split()[3])) == mine or not psutil.pid_exists(pid)}


@pytest.fixture
def store(no_leaks: None) -> Iterator[Store]:
    """A new store, destroyed at the end."""
    with Store(f"test-{uuid.uuid4().hex}") as made:
        yield made
        made.destroy()
