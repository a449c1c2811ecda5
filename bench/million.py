"""A job of a million files that are listed and not there: what planning, running and resuming cost.

    python -m bench.million 1000000 --on processes

The file system is one of fsspec's, made here: it lists a thousand folders of a thousand files, and refuses to read.
Each step is a client of its own: one plans and does nothing else; one runs the job and is killed with -9 at its half;
one goes on with it; one finds that all is done. Prints one JSON object. Memory is that of the client at its peak, in
bytes, beyond what it had before the job.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import fsspec

from aljava import jobs
from aljava.jobs.planning import checked
from bench.harness import memory_of

NAME = "part-{:07d}-6f9a3c.parquet"
STEPS = ("planned", "killed at the half", "resumed", "again")


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
    return jobs.Done(1, task.source.size, "0123456789abcdef", output="")


def named(task: jobs.Task) -> jobs.Done:
    """Writes the source's name."""
    content = task.source.name.encode()
    with task.place().sink() as sink:
        sink.write(content)
    return jobs.Done(1, len(content), "0123456789abcdef")


def planned(sources: Any) -> Any:
    """A task for each source."""
    return (jobs.Task(trivial, (source,)) for source in sources)


def sources(count: int) -> Any:
    """The listing."""
    return jobs.listed("listed://bucket", storage_options={"count": count})


def job(folder: str, *, writes: bool = False) -> jobs.Job:
    """The job, with its manifest in a folder.

    Args:
        folder: the target.
        writes: whether each task writes a file there.
    """
    target = jobs.Root.of(folder)

    def written(sources: Any) -> Any:
        return (jobs.Task(named, (source,), target, source.name) for source in sources)

    return jobs.Job("named" if writes else "trivial", written if writes else planned, target)


def client(step: str, folder: str, count: int, engine: str, writes: bool) -> None:
    """One step, in this process: prints a line of JSON when it is ready, at its half, and at its end."""
    wanted = job(folder, writes=writes)
    said = {"first": False, "half": False}
    start = 0.0

    def say(what: str, **more: Any) -> None:
        seconds = time.perf_counter() - start
        print(json.dumps({"said": what, "seconds": seconds, "memory": memory_of("VmRSS"), **more}), flush=True)

    def tell(progress: jobs.Progress) -> None:
        done = progress.files - progress.kept
        if done and not said["first"]:
            said["first"] = True
            say("first", listed=progress.files_listed, complete=progress.listed)
        if progress.files >= count // 2 and not said["half"]:
            said["half"] = True
            say("half", listed=progress.files_listed, complete=progress.listed)

    with jobs.executor_for(engine) as executor, tempfile.TemporaryDirectory() as other:
        # What is imported, and the workers, are there before anything is measured.
        for _ in range(2):
            jobs.run(job(other), sources(5_000), executor=executor)
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        start = time.perf_counter()
        say("ready")
        if step == "planned":
            assert sum(1 for _ in checked(wanted, sources(count))) == count
            say("end")
            return
        done = jobs.run(wanted, sources(count), executor=executor, progress=tell)
        say("end", done=done.done, kept=done.kept, failed=done.failed)


def measured(step: str, folder: str, count: int, engine: str, writes: bool) -> dict[str, Any]:
    """One step, in a process of its own, killed where its name says so."""
    command = [sys.executable, "-m", "bench.million", str(count), "--on", engine, "--step", step, "--folder", folder]
    report: dict[str, Any] = {}
    before = 0
    with subprocess.Popen([*command, *["--writes"] * writes], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            match said.pop("said"):
                case "ready":
                    before = said["memory"]
                    continue
                case "first":
                    report["the first was done after"] = {
                        "seconds": said["seconds"],
                        "files listed": said["listed"],
                        "listing ended": said["complete"],
                    }
                    continue
                case "half" if "killed" not in step:
                    continue
            report["seconds"] = said["seconds"]
            report["bytes a source"] = (memory_of("VmHWM", process.pid) - before) / count
            if "killed" in step:
                process.kill()
            else:
                report |= {name: said[name] for name in ("done", "kept", "failed") if name in said}
                through = said.get("done") or count
                report["microseconds a task"] = said["seconds"] / through * 1e6
    assert process.returncode == (-9 if "killed" in step else 0), process.returncode
    return report


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="files")
    parser.add_argument("--on", default="processes", help="what it runs on")
    parser.add_argument("--writes", action="store_true", help="each task writes a small file")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        client(asked.step, asked.folder, asked.count, asked.on, asked.writes)
        return
    report: dict[str, Any] = {"files": asked.count, "on": asked.on, "bytes of a name": len("00000/" + NAME.format(0))}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for step in STEPS:
            report[step] = measured(step, folder, asked.count, asked.on, asked.writes)
        report["manifest"] = {"bytes a source": os.path.getsize(f"{folder}/_manifest.arrow") / asked.count}
    resumed = report["resumed"]
    assert resumed["done"] + resumed["kept"] == asked.count
    assert resumed["kept"] >= asked.count * 0.4
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
