"""Doing a job: tasks go to an executor, a bounded number of them at a time, and what becomes of them into the manifest.

::

    listing ──> planning ──────────────────┐ a slot for each task in flight: planning waits for one
                                           ▼
                      events ──> this loop ──> executor ──> workers
                        ▲         │  └──> manifest                │
                        └─────────┼───────────────────────────────┘
                                  └──> progress
"""

import multiprocessing
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass
from itertools import chain, islice

from aljava.errors import InvalidOption, JobError, NotFound
from aljava.jobs.executors import Processes, drop, fitting, is_alone, width
from aljava.jobs.manifest import Entry, Manifest
from aljava.jobs.planning import Backlog, checked
from aljava.jobs.result import Progress, Result
from aljava.jobs.sources import Source
from aljava.jobs.tasks import Job, Known, Task, attempt, explained, failed
from aljava.listing import MANIFEST

#: Sources that are looked at before any work starts, so that what is wrong with a short list is said at once; and
#: seconds that may take.
LOOKED_AT, LOOK_SECONDS = 1000, 0.5
#: Tasks in flight for each worker: one is worked on, one waits, one is on its way.
IN_FLIGHT = 3
#: Workers that may die while they do a task, before it is given up.
DEATHS = 3
#: Seconds between two calls of `progress`.
TELL_SECONDS = 0.1
#: Seconds between two looks whether there are workers at all, where nothing ends; and without any, before it is given
#: up: a cluster may be about to start some.
LOOK_AFTER, ALONE_SECONDS = 5.0, 60.0


def run(
    job: Job,
    sources: Iterable[Source],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Does a job: all of its tasks that are not done yet, on any executor.

    Args:
        job: what is to be done.
        sources: of which files; taken while the work goes on.
        executor: any of `concurrent.futures`, Dask's or Ray's (`executor_for`); by default a pool of processes, which
            is shut down at the end.
        workers: processes of that pool; by default one for each processor.
        progress: called ten times a second at most, and at the end.

    Returns:
        what was done, with the table of all sources. Files that failed raise nothing.

    Raises:
        NotFound: no sources.
        InvalidOption: a target that is also a source, two sources with one output: where the list is short, before
            any work; of a long one these sources fail.
        JobError: workers that do not fit, a manifest of another job, an executor that broke.
        KeyboardInterrupt: control-C. What has ended stands in the manifest, what was running is dropped: its output
            is not there, or whole.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise JobError(
            "a worker process imports the script that started it, and this script starts a job when it is imported: "
            'put that under  if __name__ == "__main__":'
        )
    start = time.monotonic()
    backlog = Backlog(sources)
    try:
        tasks = checked(job, backlog)
        head = _look(tasks, start)
        own = executor is None
        pool: Executor = Processes(workers) if executor is None else executor
        try:
            fitting(pool)
            kept = job.manifest or (job.target.place(MANIFEST) if job.target is not None else None)
            manifest = Manifest(kept, job.kind, job.options)
            running = _Running(job, pool, manifest=manifest, backlog=backlog, progress=progress, start=start)
            try:
                running.work(chain(head, tasks), job.known(manifest) if job.known else manifest.done(job.target))
            except BaseException:
                manifest.close(complete=False)
                raise
            manifest.close(complete=True)
            return running.result()
        finally:
            if own:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        backlog.stop()


def _look(tasks: Iterator[tuple[Task, str | None]], start: float) -> list[tuple[Task, str | None]]:
    """The first tasks, checked before there is any work."""
    head = []
    for task, problem in islice(tasks, LOOKED_AT):
        if problem is not None and not any(source.problem for source in task.sources):
            raise InvalidOption(f"{task.sources[0].address}: {problem}")
        head.append((task, problem))
        if time.monotonic() - start > LOOK_SECONDS:
            break
    if not head:
        raise NotFound("there are no files to work on: the folders are empty, or the pattern matches nothing")
    return head


@dataclass(eq=False)
class _Flight:
    """A task that was handed to the executor."""

    task: Task
    future: Future[list[Entry]] | None = None
    #: How often workers died while it was in flight: it is tried again, alone.
    deaths: int = 0
    #: What speaks against doing it at all.
    problem: str | None = None


@dataclass
class _Counts:
    """What has become of the sources so far."""

    done: int = 0
    failed: int = 0
    kept: int = 0
    rows: int = 0
    bytes: int = 0
    read: int = 0
    kept_bytes: int = 0


class _Running:
    def __init__(
        self,
        job: Job,
        executor: Executor,
        *,
        manifest: Manifest,
        backlog: Backlog,
        progress: Callable[[Progress], None] | None,
        start: float,
    ) -> None:
        self._job, self._executor, self._manifest, self._backlog = job, executor, manifest, backlog
        self._progress, self._start, self._told = progress, start, 0.0
        self._began = time.time_ns() // 1000
        self._counts = _Counts()
        self._events: queue.SimpleQueue[_Flight | BaseException | None] = queue.SimpleQueue()
        self._slots = threading.Semaphore(max(8, IN_FLIGHT * width(executor)))
        self._flying: set[_Flight] = set()
        #: Tasks that wait while suspects are tried one at a time.
        self._suspects: deque[_Flight] = deque()
        self._held: deque[_Flight] = deque()
        self._planned = self._stopped = False
        #: When workers were looked for, and when some were there.
        self._looked = self._accompanied = start

    def result(self) -> Result:
        """What was done."""
        counts = self._counts
        return Result(
            self._job.kind,
            counts.done,
            counts.kept,
            counts.failed,
            counts.rows,
            counts.read,
            counts.bytes,
            time.monotonic() - self._start,
            self._manifest.address,
            self._began,
            self._manifest,
        )

    def work(self, tasks: Iterator[tuple[Task, str | None]], known: Known) -> None:
        """Does all tasks but those that are known to be done."""
        planner = threading.Thread(target=self._plan, args=(tasks, known), name="aljava-planning", daemon=True)
        planner.start()
        try:
            while not self._planned or self._flying or self._suspects or self._held:
                self._tell()
                try:
                    event = self._events.get(timeout=self._patience())
                except queue.Empty:
                    self._manifest.flush()
                    self._look_for_workers()
                    continue
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    self._planned = True
                elif event.problem is not None:
                    self._record(event.task, failed(event.task, event.problem))
                    self._slots.release()
                elif event.future is None:
                    self._held.append(event)
                else:
                    self._end(event)
                self._launch()
                if self._manifest.due() == 0.0:
                    self._manifest.flush()
        except BaseException:
            self._stop()
            raise
        finally:
            self._stopped = True
            self._slots.release()
            planner.join(1)
        self._tell(at_end=True)

    def _plan(self, tasks: Iterator[tuple[Task, str | None]], known: Known) -> None:
        try:
            for task, problem in tasks:
                if self._stopped:
                    return
                if problem is None and known.holds(task):
                    self._counts.kept += len(task.sources)
                    self._counts.kept_bytes += task.bytes
                else:
                    self._slots.acquire()
                    self._events.put(_Flight(task, problem=problem))
        except BaseException as error:  # noqa: BLE001 - it is raised by the loop
            self._events.put(error)
        self._events.put(None)

    def _launch(self) -> None:
        """Hands tasks to the executor; while the workers' death is looked into, one at a time."""
        while self._suspects or self._held:
            if self._suspects and self._flying:
                return
            flight = (self._suspects or self._held).popleft()
            try:
                flight.future = self._executor.submit(attempt, flight.task)
            except (BrokenExecutor, RuntimeError) as error:
                raise JobError(
                    f"the executor takes no more tasks ({explained(error)}). What was done is kept: started again on "
                    "another, the job goes on"
                ) from error
            self._flying.add(flight)
            flight.future.add_done_callback(lambda _, flight=flight: self._events.put(flight))  # type: ignore[misc]

    def _end(self, flight: _Flight) -> None:
        self._flying.discard(flight)
        assert flight.future is not None
        try:
            entries = flight.future.result()
        except CancelledError:
            raise JobError(
                "the executor cancelled tasks that nobody asked it to: its scheduler or its workers are gone. What was "
                "done is kept: started again, the job goes on"
            ) from None
        except BrokenExecutor as error:
            if flight.deaths < DEATHS:
                # One of those in flight killed its worker, or someone else did: each is tried again, alone.
                self._suspects.append(_Flight(flight.task, deaths=flight.deaths + 1))
                return
            entries = failed(flight.task, f"its worker died (killed, out of memory, or crashed): {explained(error)}")
        except Exception as error:  # noqa: BLE001 - a task that could not be sent, or whose worker is gone for good
            entries = failed(flight.task, explained(error))
        self._record(flight.task, entries)
        self._slots.release()

    def _record(self, task: Task, entries: list[Entry]) -> None:
        counts = self._counts
        for entry in entries:
            if entry.status == "done":
                counts.done += 1
                counts.rows += entry.rows or 0
            else:
                counts.failed += 1
        counts.bytes += sum({entry.output: entry.bytes or 0 for entry in entries}.values())
        counts.read += task.bytes
        self._manifest.add(entries)

    def _patience(self) -> float:
        due = self._manifest.due()
        return min(LOOK_AFTER if self._progress is None else TELL_SECONDS, LOOK_AFTER if due is None else due)

    def _look_for_workers(self) -> None:
        """Ends the job where nobody is left who could do it: it would wait without an end."""
        now = time.monotonic()
        if now - self._looked < LOOK_AFTER:
            return
        self._looked = now
        if not self._flying or not is_alone(self._executor):
            self._accompanied = now
        elif now - self._accompanied > ALONE_SECONDS:
            raise JobError(
                f"no worker has been there for {now - self._accompanied:.0f} s: they have died, or lost their "
                "scheduler. What was done is kept: started again, the job goes on"
            )

    def _stop(self) -> None:
        """Drops what is in flight, but for what has ended already."""
        self._stopped = True
        for flight in self._flying:
            assert flight.future is not None
            flight.future.cancel()
        drop(self._executor)
        for flight in self._flying:
            future = flight.future
            if future is not None and future.done() and not future.cancelled() and future.exception() is None:
                self._record(flight.task, future.result())

    def _tell(self, *, at_end: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or not (at_end or now - self._told >= TELL_SECONDS):
            return
        self._told = now
        counts, backlog = self._counts, self._backlog
        seconds = now - self._start
        listed = backlog.complete
        remaining = None
        if listed and counts.done + counts.failed:
            # By bytes, as far as the listing knows them.
            total, did = backlog.bytes - counts.kept_bytes, counts.read
            if not total:
                total, did = backlog.files - counts.kept, counts.done + counts.failed
            remaining = max(0.0, seconds * (total - did) / did) if did else None
        self._progress(
            Progress(
                counts.done + counts.kept + counts.failed,
                counts.failed,
                counts.kept,
                backlog.files,
                counts.read + counts.kept_bytes,
                backlog.bytes,
                listed,
                seconds,
                0.0 if at_end else remaining,
            )
        )
