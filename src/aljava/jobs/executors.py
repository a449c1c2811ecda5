"""What a job runs on: threads, processes, Dask, Ray, each behind `concurrent.futures.Executor`.

Nothing here spreads work: that is done by `concurrent.futures`, by Dask and by Ray. What is added is that workers end
with their client, that a pool whose worker was killed begins anew, and that workers which do not fit are found out
before they are given work.
"""

import importlib.metadata
import multiprocessing
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from aljava.errors import InvalidOption, JobError, MissingDependency

#: What `executor_for` takes.
ENGINES = ("threads", "processes", "dask", "dask://HOST:8786", "ray", "ray://HOST:10001")
#: Seconds within which a scheduler has to answer.
PATIENCE = 5.0
#: Workers of an executor that does not say how many it has.
UNKNOWN_WIDTH = 16
#: What has to be the same on a worker as on the client, for outputs that are the same.
_COMPARED = ("aljava", "pyarrow")


def executor_for(text: str = "processes", workers: int | None = None) -> Executor:
    """The executor of a name; use it in a `with` statement.

    Args:
        text: "threads" or "processes" of this machine; "dask" for a cluster of Dask's on this machine, or
            "dask://HOST:PORT" for a scheduler; "ray" for a Ray on this machine, or "ray://HOST:PORT" for a cluster.
        workers: how many, where they are started here; by default one for each processor.

    Raises:
        InvalidOption: no such executor.
        JobError: no scheduler answers there.
        MissingDependency: Dask or Ray is not installed.

    Examples:
        >>> with executor_for("threads", 2) as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
    """
    if workers is not None and workers < 1:
        raise InvalidOption(f"{workers} workers: at least 1 has to do the work")
    kind, separator, rest = text.partition("://")
    if kind in ("dask", "ray") and separator:
        parts = urlsplit(f"//{rest}")
        try:
            host, port = parts.hostname, parts.port or (8786 if kind == "dask" else 10001)
        except ValueError as error:
            raise InvalidOption(f"{text}: {error}") from None
        if not host or parts.path or parts.query:
            raise InvalidOption(f"{text} is no address of a scheduler: {kind}://HOST:PORT is")
        if workers is not None:
            raise InvalidOption(f"{text} has the workers that it has: leave workers={workers} out")
        _must_answer(text, host, port)
        return _dask(f"tcp://{host}:{port}", text) if kind == "dask" else _ray(f"ray://{host}:{port}", None)
    match text:
        case "threads":
            return ThreadPoolExecutor(workers or _processors(), thread_name_prefix="aljava-job")
        case "processes":
            return Processes(workers)
        case "dask":
            return _dask(None, text, workers or _processors())
        case "ray":
            return _ray(None, workers or _processors())
    raise InvalidOption(f"{text!r} is nothing that a job runs on: {', '.join(ENGINES)}")


def width(executor: Executor) -> int:
    """How many tasks an executor does at a time, as far as it says so."""
    client = getattr(executor, "_client", None)
    if client is not None:
        return max(1, sum(client.nthreads().values()))
    for name in ("workers", "_max_workers"):
        found = getattr(executor, name, None)
        if isinstance(found, int):
            return found
    return UNKNOWN_WIDTH


def is_alone(executor: Executor) -> bool:
    """Whether nobody is there who could do the work, as far as an executor says so."""
    client = getattr(executor, "_client", None)
    if client is None:
        return False
    try:
        return not client.nthreads()
    except (OSError, TimeoutError):
        return True


def drop(executor: Executor) -> None:
    """Lets go of what was handed to an executor and is not done; so its shutdown does not wait for it."""
    if isinstance(executor, Processes):
        executor.kill()
    client = getattr(executor, "_client", None)
    if client is not None:  # a future of Dask's executor cannot be cancelled by itself
        with suppress(OSError, TimeoutError):
            client.cancel(list(executor._futures))  # type: ignore[attr-defined]


class Processes(Executor):
    """A pool of processes of this machine that begins anew when a worker was killed, and ends with its client.

    Args:
        workers: how many; by default one for each processor.
    """

    def __init__(self, workers: int | None = None) -> None:
        #: How many there are.
        self.workers = workers or _processors()
        self._pool = self._new()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        try:
            return self._submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            self._pool.shutdown(wait=True)
            self._pool = self._new()
            return self._submit(fn, *args, **kwargs)

    def _submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._pool._processes:
            return self._pool.submit(fn, *args, **kwargs)
        with _uninterrupted():  # workers start with the first call
            return self._pool.submit(fn, *args, **kwargs)

    def kill(self) -> None:
        """Ends the workers, whatever they are doing."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _new(self) -> ProcessPoolExecutor:
        # Not forked: threads of pyarrow and locks of the client would be copied in whatever state they are.
        return ProcessPoolExecutor(
            self.workers,
            multiprocessing.get_context("spawn"),
            _begin_worker,
            (max(1, _processors() // self.workers),),
        )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes and threads that begin meanwhile know nothing of control-C, from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(threads: int) -> None:
    """Readies a worker: control-C is the client's business, and a worker whose client is gone has none."""
    import pyarrow as pa

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(threads)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="aljava-client-watch", daemon=True).start()


def _end_with(parent: Any) -> None:
    # A pool's worker holds both ends of its queue, and would wait there for a client that was killed.
    parent.join()
    os._exit(1)


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _must_answer(text: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), PATIENCE).close()
    except OSError as error:
        raise JobError(
            f"no scheduler answers at {text}: {error}. Start one there, or check the host and port"
        ) from None


def _dask(address: str | None, text: str, workers: int = 1) -> Executor:
    try:
        from distributed import Client, LocalCluster
        from distributed.cfexecutor import ClientExecutor
    except ImportError as error:
        raise MissingDependency(f"{text} needs Dask, which is not installed: pip install 'aljava[cluster]'") from error
    cluster = None
    if address is None:
        cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
    client = _answered(lambda: Client(cluster or address, timeout=PATIENCE, set_as_default=False), text)

    class DaskExecutor(ClientExecutor):
        """Dask's own, which closes what was opened for it."""

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait and not cancel_futures)
            client.close()
            if cluster is not None:
                cluster.close()

    return DaskExecutor(client, pure=False)


def _answered(connect: Callable[[], Any], text: str) -> Any:
    """A client, if the scheduler makes one: what takes the call and is none may leave Dask waiting without an end."""
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(connect())
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=ask, name="aljava-scheduler", daemon=True).start()
    try:
        return answer.result(2 * PATIENCE)
    except (OSError, TimeoutError) as error:
        raise JobError(
            f"no Dask scheduler answers at {text}: {str(error) or 'it takes the call and says nothing'}"
        ) from None


def _ray(address: str | None, workers: int | None) -> Executor:
    from aljava.jobs.on_ray import RayExecutor

    return RayExecutor.start(address, workers)


def fitting(executor: Executor) -> None:
    """Finds out before the work whether the workers fit.

    Raises:
        JobError: there are none; one has no Aljava, or other versions than the client.
    """
    if isinstance(executor, Processes | ProcessPoolExecutor | ThreadPoolExecutor):
        return
    client = getattr(executor, "_client", None)
    if client is not None:
        found = _versions_on_dask(client)
    elif hasattr(executor, "versions"):
        found = executor.versions(_COMPARED)
    else:
        found = {"a worker": [_outcome(executor.submit(importlib.metadata.version, name)) for name in _COMPARED]}
        found["a worker"].append(_outcome(executor.submit(platform.python_version)))
    here = [*map(importlib.metadata.version, _COMPARED), platform.python_version()]
    for worker, there in found.items():
        for name, theirs, ours in zip((*_COMPARED, "Python"), there, here, strict=True):
            if isinstance(theirs, importlib.metadata.PackageNotFoundError | ModuleNotFoundError):
                raise JobError(f"{worker} has no {name}: install {name} {ours} on every worker, as it is here")
            if isinstance(theirs, BaseException):
                raise JobError(f"{worker} cannot say which {name} it has: {theirs}")
            if _shortened(name, theirs) != _shortened(name, ours):
                raise JobError(
                    f"{worker} has {name} {theirs}, and here it is {ours}: outputs could differ, and tasks may not be "
                    "understood. Install the same everywhere"
                )


def _shortened(name: str, version: str) -> str:
    """What has to be the same of a version: a patch of Python changes nothing that matters here."""
    return ".".join(version.split(".")[:2]) if name == "Python" else version


def _outcome(future: Future[str]) -> Any:
    return future.exception() or future.result()


def _versions_on_dask(client: Any) -> dict[str, list[Any]]:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise JobError(
            f"the Dask scheduler at {client.scheduler.address} has no workers: start some with `dask worker ADDRESS`"
        ) from None
    answers = [client.run(importlib.metadata.version, name, on_error="return") for name in _COMPARED]
    answers.append(client.run(platform.python_version, on_error="return"))
    # One that dies while it is asked is not there to be given work either.
    alive = [
        worker for worker in answers[0] if all(not isinstance(it.get(worker, OSError()), OSError) for it in answers)
    ]
    return {f"the worker {worker}": [answer[worker] for answer in answers] for worker in alive}
