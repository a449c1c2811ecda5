"""How things are measured here: contestants alternate in one run, and ratios are quoted, not times.

A scenario is a function that prepares its data and returns a `Scenario`: named contestants, each a function without
arguments, of which one is Aljava. The harness warms each up, then runs them in turn, A B C A B C …, and compares each
round's figures with Aljava's of the same round, so that a machine that drifts does not decide the outcome.
"""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

#: Ratios of the slowest to the fastest round beyond which a figure is marked as noisy.
NOISY = 1.5


@dataclass(frozen=True)
class Scenario:
    """One thing to do, and who can do it."""

    #: What is done, as it stands in the table.
    name: str
    #: A function for each contestant; the one that begins with "aljava" is measured against the others.
    contestants: dict[str, Callable[[], Any]]
    #: Bytes of Arrow data that one round moves, for GB/s; None where that says nothing.
    nbytes: int | None = None
    #: What Aljava has to reach against each peer: peer's time / Aljava's time, at least.
    targets: dict[str, float] = field(default_factory=dict)
    #: Called before each timed call and not timed: to drop what the last one left.
    prepare: Callable[[], None] | None = None
    #: Further facts by contestant (a size in bytes, peak memory), filled in by the scenario.
    facts: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came out, for one contestant of one scenario."""

    scenario: str
    contestant: str
    #: Wall-clock seconds of each counted round.
    seconds: list[float]
    #: Median of the rounds' ratios: this contestant's time / Aljava's of the same round. Above 1, Aljava is faster.
    ratio: float
    #: The smallest and the largest of those ratios.
    spread: tuple[float, float]
    #: GB/s at the median, where bytes are the point.
    gb_per_second: float | None
    #: What the ratio has to reach, where the scenario says so.
    target: float | None
    #: Whether the rounds differ so much that the figure says little.
    noisy: bool
    facts: dict[str, float]

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds."""
        return statistics.median(self.seconds)


def run(scenario: Scenario, rounds: int = 5) -> list[Result]:
    """Runs one scenario, contestants alternating.

    Args:
        scenario: what to run.
        rounds: counted rounds, after one that is not.
    """
    names = list(scenario.contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds + 1):
        # The order turns, so that nobody always runs on the heels of the same neighbour.
        for name in names[round_ % len(names) :] + names[: round_ % len(names)]:
            if scenario.prepare:
                scenario.prepare()
            gc.collect()
            start = time.perf_counter()
            kept = scenario.contestants[name]()
            elapsed = time.perf_counter() - start
            del kept
            if round_:
                seconds[name].append(elapsed)
    ours = next((name for name in names if name.startswith("aljava")), names[0])
    results = []
    for name in names:
        ratios = [theirs / mine for theirs, mine in zip(seconds[name], seconds[ours], strict=True)]
        median = statistics.median(seconds[name])
        results.append(
            Result(
                scenario.name,
                name,
                seconds[name],
                statistics.median(ratios),
                (min(ratios), max(ratios)),
                scenario.nbytes / median / 1e9 if scenario.nbytes else None,
                scenario.targets.get(name),
                max(seconds[name]) > NOISY * min(seconds[name]),
                scenario.facts.get(name, {}),
            )
        )
    return results


@contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Measures how much the resident memory of this process grows at most, in bytes (Linux)."""
    grown = {"bytes": 0}
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    yield grown
    grown["bytes"] = max(0, _memory("VmHWM") - before)


def _memory(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| scenario | contestant | median | GB/s | time / Aljava's (spread) | to reach | facts |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for result in results:
        low, high = result.spread
        row = [
            result.scenario,
            result.contestant,
            _seconds(result.median) + (" (noisy)" if result.noisy else ""),
            "" if result.gb_per_second is None else f"{result.gb_per_second:.2f}",
            "1" if low == high == 1 else f"{result.ratio:.2f} ({low:.2f} – {high:.2f})",
            "" if result.target is None else f"{result.target:g} {'✓' if result.ratio >= result.target else '✗'}",
            ", ".join(f"{name} {_figure(value)}" for name, value in result.facts.items()),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The machine and the versions, as they go with every figure."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("aljava", "pyarrow", "polars", "duckdb", "pandas", "numpy", "ray"):
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
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def report(results: list[Result]) -> dict[str, Any]:
    """All of it as one JSON object."""
    return {"machine": machine(), "results": [{**asdict(result), "median": result.median} for result in results]}


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """Runs `python -m MODULE ARGUMENTS`, which prints one JSON object: for what only a process of its own can show."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def _seconds(value: float) -> str:
    return f"{value * 1e6:.0f} µs" if value < 1e-3 else f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def _figure(value: float) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 1e5 else f"{value:g}"
