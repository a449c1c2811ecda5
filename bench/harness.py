"""How things are measured here: contestants alternate in one run, and ratios are quoted, not times.

A scenario is a function that prepares its data and returns a `Scenario`: named contestants, each a function without
arguments, of which one is Aljava. The harness warms each up, then runs them in turn, A B C A B C …, and compares each
round's figures with Aljava's of the same round, so that a machine that drifts does not decide the outcome.

A round in which the rest of the machine was at work is run again. What cannot be mended so is said of the scenario.
"""

import gc
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

#: The share of the machine's processors that others may take before a round is run again.
DISTURBED = 0.05
#: Ratio of the third to the first quartile of a contestant's rounds beyond which its figure is marked.
UNSTEADY = 1.3
#: How far a memory copy may differ before and after a scenario.
DRIFTED = 0.15
#: Seconds of rounds that a scenario may take; it gets from `FEWEST` to `MOST` rounds within that.
BUDGET = 6.0
FEWEST, MOST = 3, 15


@dataclass(frozen=True)
class Scenario:
    """One thing to do, and who can do it."""

    #: What is done, as it stands in the table.
    name: str
    #: A function for each contestant; the one that begins with "aljava" is measured against the others. None stands
    #: for a peer that is not installed.
    contestants: dict[str, Callable[[], Any] | None]
    #: Bytes of Arrow data that one round moves, for GB/s; None where that says nothing.
    nbytes: int | None = None
    #: What Aljava has to reach against each peer: peer's time / Aljava's time, at least.
    targets: dict[str, float] = field(default_factory=dict)
    #: Called before each timed call and not timed: to drop what the last one left.
    prepare: Callable[[], object] | None = None
    #: Further facts by contestant (a size in bytes, peak memory), filled in by the scenario.
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    #: Why Aljava loses to a peer, or falls short of what it has to reach: one sentence for the page.
    why: str = ""
    #: Contestants that do less than the scenario asks, such as a bare copy of memory: a floor, not a peer to beat.
    floors: tuple[str, ...] = ()
    #: At most so many rounds, for what takes long.
    rounds: int = MOST


def installed(module: str) -> Any:
    """The module of that name, or None where it is not installed."""
    return importlib.import_module(module) if importlib.util.find_spec(module) else None


def measure(scenario: Scenario, rounds: int | None = None) -> dict[str, Any]:
    """Runs one scenario, contestants alternating, and returns what happened as a JSON object.

    Args:
        scenario: what to run.
        rounds: counted rounds; as many as fit into `BUDGET` if not given.
    """
    contestants = {name: call for name, call in scenario.contestants.items() if call}
    names = list(contestants)
    copy_before = memory_copy()
    idle = _calm(1 if rounds else 20)

    def one(number: int) -> dict[str, float]:
        taken = {}
        # The order turns, so that nobody always runs on the heels of the same neighbour.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            if scenario.prepare:
                scenario.prepare()
            gc.collect()
            start = time.perf_counter()
            kept = contestants[name]()
            taken[name] = time.perf_counter() - start
            del kept
        return taken

    start = time.perf_counter()
    warm_up = sum(one(0).values())
    wanted = rounds or min(scenario.rounds, max(FEWEST, min(MOST, int(BUDGET / warm_up))))
    calm: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    whole = _Watch()
    most = 2 * wanted
    while len(calm) < wanted and len(calm) + len(disturbed) < most:
        watch = _Watch()
        taken = one(1 + len(calm) + len(disturbed))
        (disturbed if watch.disturbed() else calm).append(taken)
        steady = all(_steady([it[name] for it in calm]) for name in names)
        if len(calm) == wanted < most and not steady and warm_up * wanted < BUDGET and not rounds:
            wanted = most  # more rounds, to find the middle of what varies
    counted = calm if len(calm) >= min(FEWEST, wanted) else calm + disturbed
    during = whole.others()
    copy_after = memory_copy()
    seconds = {name: [round(it[name], 9) for it in counted] for name in names}
    return {
        "name": scenario.name,
        "nbytes": scenario.nbytes,
        "contestants": [
            {
                "name": name,
                "seconds": seconds[name],
                "target": scenario.targets.get(name),
                "floor": name in scenario.floors,
                "facts": scenario.facts.get(name, {}),
            }
            for name in names
        ],
        "missing": [name for name in scenario.contestants if name not in names],
        "why": scenario.why,
        "repeated": len(disturbed) if counted is calm else 0,
        "memcpy": [round(copy_before, 2), round(copy_after, 2)],
        "noise": list(
            _noise(idle, during if counted is not calm or whole.short() else 0, seconds, copy_before, copy_after)
        ),
        "took": round(time.perf_counter() - start, 1),
    }


def _calm(looks: int) -> float:
    """Waits until the machine is at rest, within so many quarters of a second, and returns what others took."""
    for _ in range(looks):
        watch = _Watch()
        time.sleep(0.25)
        if (others := watch.others()) < DISTURBED:
            break
    return others


def _noise(
    before: float, during: float, seconds: dict[str, list[float]], copy_before: float, copy_after: float
) -> Iterator[str]:
    """What speaks against the figures of a scenario, in words."""
    if before > DISTURBED:
        yield f"others used {before:.0%} of the processors before it began"
    if during > DISTURBED:
        yield f"others used {during:.0%} of the processors while it ran"
    if abs(copy_after / copy_before - 1) > DRIFTED:
        yield f"a memory copy made {copy_before:.1f} GB/s before and {copy_after:.1f} GB/s after"
    for name, rounds in seconds.items():
        if not _steady(rounds):
            yield f"the rounds of {name} took {min(rounds):.3g} to {max(rounds):.3g} s"


def _steady(rounds: list[float]) -> bool:
    if len(rounds) < FEWEST:
        return True
    first, _, third = statistics.quantiles(rounds, n=4, method="inclusive")
    return third <= UNSTEADY * first


def memory_copy() -> float:
    """GB/s of a copy of 32 MiB, the best of ten: what the machine can do just now."""
    source, target = _two_buffers()
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return float(source.nbytes / best / 1e9)


@cache
def _two_buffers() -> tuple[Any, Any]:
    """The same before and after: where the kernel puts them makes a difference of its own."""
    return np.ones(32 << 20, np.uint8), np.ones(32 << 20, np.uint8)


class _Watch:
    """Looks at how much of the machine's processors others take: other programs, other machines (steal), the kernel."""

    def __init__(self) -> None:
        self._total, self._busy, self._own = _ticks()

    def _passed(self) -> tuple[float, float]:
        total, busy, own = _ticks()
        return total - self._total, max(0.0, (busy - self._busy) - (own - self._own))

    def others(self) -> float:
        """Their share since this was made, of all processors."""
        total, others = self._passed()
        return others / total if total else 0.0

    def short(self) -> bool:
        """Whether so little time has passed that single rounds could not be judged."""
        return self._passed()[0] < 200 * (os.cpu_count() or 1)

    def disturbed(self) -> bool:
        """Whether that was too much; what is too short to tell, at 10 ms a tick, is not."""
        total, others = self._passed()
        return others >= 4 and others > DISTURBED * total


def _ticks() -> tuple[float, float, float]:
    """Ticks of all processors so far, those that were not idle, and those of this process and what it started."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except OSError:  # not Linux: nothing is known of others
        return 0, 0, 0
    times: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    words = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            times[int(entry)] = sum(map(int, words[11:15]))
            children.setdefault(int(words[1]), []).append(int(entry))
    own, family = 0, [os.getpid()]
    while family:
        member = family.pop()
        own += times.get(member, 0)
        family += children.get(member, [])
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4], own


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Measures how much the resident memory of this process grows at most, in bytes (Linux)."""
    grown = {"bytes": 0}
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_of("VmRSS")
    yield grown
    grown["bytes"] = max(0, memory_of("VmHWM") - before)


def memory_of(key: str, process: int | str = "self") -> int:
    """What the kernel says of a process's memory, in bytes (Linux).

    Args:
        key: "VmRSS" for what is resident, "VmHWM" for the most that was.
        process: its id.
    """
    with open(f"/proc/{process}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def machine() -> dict[str, Any]:
    """The machine and the versions, as they go with every figure."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("aljava", "pyarrow", "polars", "duckdb", "duckdb-cli", "pandas", "numpy", "ray", "dask", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as info:
            model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """Runs `python -m MODULE ARGUMENTS`, which prints one JSON object: for what only a process of its own can show."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))
