"""Damages payloads of Aljava's in many ways and reads them: `python -m tests.ipc.fuzz --cases 1000000`.

Each case is read by a worker process that lives on from case to case (`tests.ipc.fuzz_worker`). A worker that dies or
says nothing for ten seconds has made a finding. `--first N --cases 1 --keep FILE` repeats case N and keeps its payload.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.ipc import fuzz_worker

ROOT = Path(__file__).resolve().parents[2]
HANG_SECONDS = 10.0
START_SECONDS = 60.0
ENOUGH = 20  # findings after which a worker gives up: the rest are mostly the same


@dataclass
class Result:
    """What came of a number of requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    # What was asked, and what was on the worker's standard error when it died.
    findings: list[tuple[str, str]] = field(default_factory=list)


class Worker:
    """A process that reads damaged payloads. A watch kills it when it does not answer."""

    def __init__(self, hang_seconds: float) -> None:
        self.hang_seconds = hang_seconds
        self.errors: IO[bytes] = open(os.memfd_create("errors"), "w+b")  # noqa: SIM115 - closed by `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", fuzz_worker.__name__],
            cwd=ROOT,
            # Few threads and arenas, for the bound on the address space to mean something.
            env={**os.environ, "OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "2", "PYTHONPATH": f"{ROOT / 'src'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        assert self._line(START_SECONDS) == "ready", self.last_words()

    def ask(self, request: str) -> str:
        """The answer, or "" when the process died or was killed for its silence."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._line(self.hang_seconds)

    def _line(self, seconds: float) -> str:
        assert self.process.stdout is not None
        # SIGABRT lets faulthandler say where the process hangs.
        watch = threading.Timer(seconds, self.process.send_signal, (signal.SIGABRT,))
        watch.start()
        try:
            return self.process.stdout.readline().rstrip("\n")
        finally:
            watch.cancel()

    def last_words(self) -> str:
        """How the process ended, and the end of its standard error."""
        code = self.process.wait()
        self.errors.seek(0)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        return f"{how}\n{self.errors.read().decode(errors='replace')[-4000:]}"

    def end(self) -> None:
        """End the process, if it has not ended itself."""
        with self.process:
            self.process.kill()
        self.errors.close()


def run(requests: Iterable[str], hang_seconds: float = HANG_SECONDS) -> Result:
    """Put the requests to a worker, and to another after each death."""
    result = Result()
    worker = Worker(hang_seconds)
    for request in requests:
        answer = worker.ask(request)
        if answer:
            result.outcomes[answer] += 1
            continue
        result.findings.append((request, worker.last_words()))
        worker.end()
        if len(result.findings) == ENOUGH:
            return result
        worker = Worker(hang_seconds)
    worker.end()
    return result


def cases(first: int, count: int) -> Iterator[str]:
    """The requests for so many cases."""
    return (f"case {case}" for case in range(first, first + count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="how many cases (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case (default: 0)")
    parser.add_argument("--keep", type=Path, help="write the payload of the first case to this file")
    options = parser.parse_args()
    if options.keep:
        format_, payload = fuzz_worker.damaged(options.first)
        options.keep.write_bytes(payload)
        print(f"{options.keep}: a damaged {format_} of {len(payload)} bytes")
    result = run(cases(options.first, options.cases))
    for request, words in result.findings:
        print(f"{request}: {words}\n")
    print(f"{dict(result.outcomes)}, {len(result.findings)} findings")
    sys.exit(bool(result.findings))


if __name__ == "__main__":
    main()
