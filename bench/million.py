"""A job of a million files that are listed and not there: what planning, running and resuming cost.

    python -m bench.million 1000000 processes

The file system is one of fsspec's, made here: it lists a thousand folders of a thousand files, and refuses to read.
Prints one JSON object; memory is that of the client, in bytes, beyond what it had before the job.
"""

import json
import sys
import tempfile
import time
from typing import Any

import fsspec

from aljava import jobs
from aljava.address import locate
from aljava.jobs.planning import checked
from bench.harness import peak_memory

NAME = "part-{:07d}-6f9a3c.parquet"


class Listed(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """So many small files, in folders of a thousand."""

    protocol = "listed"
    cachable = False

    def __init__(self, count: int, **more: Any) -> None:
        super().__init__(**more)
        self.count = count

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path).strip("/")
        if path == "bucket":
            folders = range((self.count + 999) // 1000)
            found = [{"name": f"bucket/{number:05d}", "size": 0, "type": "directory"} for number in folders]
        else:
            start = int(path.rpartition("/")[2]) * 1000
            found = [
                {"name": f"{path}/{NAME.format(number)}", "size": 100_000, "type": "file", "mtime": 1_700_000_000.0}
                for number in range(start, min(start + 1000, self.count))
            ]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": 0, "type": "directory"}


fsspec.register_implementation("listed", "bench.million.Listed", clobber=True)


def trivial(task: jobs.Task) -> jobs.Done:
    """What every file takes at least."""
    return jobs.Done(1, task.source.size, "0123456789abcdef")


def planned(sources: Any) -> Any:
    """A task for each source."""
    return (jobs.Task(trivial, (source,)) for source in sources)


def sources(count: int) -> Any:
    """The listing."""
    return jobs.listed("listed://bucket", storage_options={"count": count})


def million(folder: str, count: int, executor: str, report: dict[str, Any] | None = None) -> list[jobs.Result]:
    """Runs the job and runs it again.

    Args:
        folder: for the manifest.
        count: files.
        executor: what it runs on.
        report: takes seconds and bytes.
    """
    job = jobs.Job("trivial", planned, manifest=locate(f"{folder}/manifest.arrow"))
    results = []
    for step in ("run", "resumed"):
        start = time.perf_counter()
        with jobs.executor_for(executor) as pool, peak_memory() as grown:
            results.append(jobs.run(job, sources(count), executor=pool))
        if report is not None:
            report[step] = {
                "seconds": time.perf_counter() - start,
                "microseconds a task": (time.perf_counter() - start) / count * 1e6,
                "bytes a source": grown["bytes"] / count,
            }
    return results


def main() -> None:
    """Measures, and prints."""
    count, executor = int(sys.argv[1]), sys.argv[2]
    report: dict[str, Any] = {"files": count, "executor": executor, "bytes of a name": len("00000/" + NAME.format(0))}
    # Planning alone: listing, a task for each, doubles watched for.
    with peak_memory() as grown:
        start = time.perf_counter()
        tasks = sum(1 for _ in checked(jobs.Job("trivial", planned), sources(count)))
        seconds = time.perf_counter() - start
    assert tasks == count
    report["planned"] = {"microseconds a task": seconds / count * 1e6, "bytes a source": grown["bytes"] / count}
    with tempfile.TemporaryDirectory() as folder:
        million(folder, count, executor, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
