"""`python -m bench`: measures scenarios, each in a process of its own, and prints what came out.

A run of all scenarios writes `docs/benchmarks.md` and its charts. What was measured is kept in `bench/results/`,
scenario by scenario, so that a run that was cut short goes on with `--resume`, and a run of one scenario with `--only`
takes its place among the others when the page is made again with `--page`.
"""

import argparse
import fnmatch
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bench
from bench.harness import machine, measure
from bench.page import block, make

KEPT = Path(__file__).parent / "results" / "kept.json"
#: Seconds after which a scenario is taken to hang.
PATIENCE = 480


def main() -> int:
    """Runs what was asked for; the exit status is 1 where a scenario could not run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", metavar="PATTERN", help="scenarios whose ROOM or ROOM/NAME matches, e.g. 'store/put*'"
    )
    parser.add_argument("--quick", action="store_true", help="small data and two rounds, to see that it runs")
    parser.add_argument(
        "--rounds", type=int, help="counted rounds of each scenario (as many as fit into a few seconds)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a run of all scenarios that was cut short")
    parser.add_argument("--page", action="store_true", help="only make the page, from what was measured before")
    parser.add_argument("--list", action="store_true", help="name the scenarios and stop")
    parser.add_argument(
        "--record", metavar="FILE", help="measure in this very process, and write what came out as JSON"
    )
    arguments = parser.parse_args()
    known = scenarios(arguments.quick, arguments.only if arguments.record else None)
    names = [name for name in known if _matches(name, arguments.only)]
    if not names:
        parser.error(f"no scenario matches {arguments.only!r}: see --list")
    if arguments.list:
        print("\n".join(names))
        return 0
    rounds = arguments.rounds or (2 if arguments.quick else None)
    if arguments.record:
        Path(arguments.record).write_text(json.dumps(measure(known[names[0]](), rounds)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and what it started ends with it
    kept = _Kept()
    if not arguments.page:
        whole = not (arguments.only or arguments.quick)
        if whole and not arguments.resume:
            kept.begin()
        records = {}
        for name in names:
            if arguments.resume and kept.measured(name):
                continue
            records[name] = record = _apart(name, arguments.quick, rounds)
            print(block(name, record), flush=True)
            if not arguments.quick:
                kept.add(name, record)
        if not whole:
            return int(any("failed" in record for record in records.values()))
    measured = {name: kept.records[name] for name in known if name in kept.records}
    for path in make(measured, kept.machine, [name for name in known if name not in measured]):
        print(f"wrote {path}", file=sys.stderr)
    return int(any("failed" in record for record in measured.values()))


def scenarios(quick: bool, one: str | None = None) -> dict[str, Any]:
    """The scenarios of all rooms, as ROOM/NAME: modules of this package that have a function `scenarios`.

    Args:
        quick: on small data.
        one: the name of the only scenario that is wanted, so that its room alone is imported.
    """
    found = {}
    modules = sorted(it.name for it in pkgutil.iter_modules(bench.__path__) if it.name != "__main__")
    for module in [one.partition("/")[0]] if one else modules:
        room = importlib.import_module(f"bench.{module}")
        if hasattr(room, "scenarios"):
            found.update({f"{module}/{name}": prepare for name, prepare in room.scenarios(quick).items()})
    return found


def _matches(name: str, pattern: str | None) -> bool:
    return not pattern or any(fnmatch.fnmatch(it, pattern) for it in (name, name.partition("/")[0]))


def _apart(name: str, quick: bool, rounds: int | None) -> dict[str, Any]:
    """Measures in a process of its own: what one scenario leaves in memory does not reach the next."""
    begun = time.monotonic()
    with tempfile.NamedTemporaryFile(prefix="aljava-bench-", suffix=".json") as file:
        command = [sys.executable, "-m", "bench", "--only", name, "--record", file.name, *["--quick"] * quick]
        if rounds:
            command += ["--rounds", str(rounds)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, complaint = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            record: dict[str, Any] = {"failed": f"it did not end within {PATIENCE} s"}
        else:
            record = {"failed": (complaint.strip().splitlines() or ["it ended without a word"])[-1]}
            if process.returncode == 0:
                record = json.loads(file.read())
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return {**record, "took": time.monotonic() - begun, "at": datetime.now(UTC).isoformat(timespec="seconds")}


class _Kept:
    """What was measured on this machine, with these versions or earlier ones, scenario by scenario."""

    def __init__(self) -> None:
        self.machine = machine()
        self.records: dict[str, dict[str, Any]] = {}
        self._begun = ""
        if KEPT.exists():
            content = json.loads(KEPT.read_text())
            hardware = ("cpu", "cores", "memory")
            if [content["machine"][it] for it in hardware] == [self.machine[it] for it in hardware]:
                self.records, self._begun = content["records"], content["begun"]

    def begin(self) -> None:
        """From here on a run of all scenarios counts."""
        self._begun = datetime.now(UTC).isoformat(timespec="seconds")
        self._write()

    def measured(self, name: str) -> bool:
        """Whether the run of all scenarios has come to this one."""
        return name in self.records and self.records[name]["at"] >= self._begun

    def add(self, name: str, record: dict[str, Any]) -> None:
        self.records[name] = {**record, "versions": self.machine["versions"]}
        self._write()

    def _write(self) -> None:
        KEPT.parent.mkdir(exist_ok=True)
        partial = KEPT.with_suffix(".partial")
        partial.write_text(
            json.dumps({"machine": self.machine, "begun": self._begun, "records": self.records}, indent=1)
        )
        partial.replace(KEPT)


if __name__ == "__main__":
    sys.exit(main())
