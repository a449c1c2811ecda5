"""Large tables travel between the processes of `multiprocessing` through shared memory, without a copy for each.

After `activate()`, a table that goes through a queue, a pipe, a `Pool` or a `ProcessPoolExecutor` is placed in shared
memory once, and what travels is a token of a few bytes. Whoever receives it gets the table on the shared memory itself.

All processes that share an `authkey` (which parent and children do, under fork, spawn and forkserver) are a family with
a folder of its own, kept like a store's::

    .work/WRITER.N      a table that its sender holds: sent again, it is not placed again
    .tokens/ID          one link to a segment for each token under way; whoever receives it removes it
    .alive              locked by each member: when the last is gone, the folder goes too

A segment is recycled when no token leads to it and nobody reads it. So nothing is lost when the sender ends before its
table arrives, and nothing leaks when a worker is killed or a queue is never read.
"""

import aljava.store  # noqa: F401 - before what other systems lack, to say so

# isort: split
import contextlib
import fcntl
import glob
import hashlib
import multiprocessing.util
import os
import secrets
import shutil
import sys
import threading
import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar

import pyarrow as pa

from aljava.errors import InvalidOption, KeyNotFound, MissingDependency, StoreFull
from aljava.frames import to_table
from aljava.store import payload
from aljava.store.filling import place
from aljava.store.folder import SMALL, Folder
from aljava.store.names import root_folder

# Tables that stay in shared memory while their sender holds them, so that sending them again costs a token.
_KEPT_TABLES = 8
_TYPES = [("Table", "pyarrow"), ("RecordBatch", "pyarrow"), ("DataFrame", "pandas"), ("DataFrame", "polars")]


def activate(min_bytes: int = 1 << 18, *, pandas: bool = False, polars: bool = False) -> None:
    """Makes Arrow tables and record batches travel through shared memory, from this process to those of its family.

    Call it once, in the main process, before or after workers are started. Workers that receive a table are active from
    then on; for workers that only send, pass `initializer=aljava.multiprocessing.activate` to the pool.

    Args:
        min_bytes: Tables of fewer bytes are pickled as ever. At least 64 KiB.
        pandas: Also pandas frames. They arrive as private copies, which may be changed as ever.
        polars: Also Polars frames.

    Raises:
        InvalidOption: `min_bytes` is negative.
        MissingDependency: pandas or Polars is asked for and not installed.

    Examples:
        >>> import aljava.multiprocessing, multiprocessing, pyarrow as pa
        >>> aljava.multiprocessing.activate()
        >>> receiver, sender = multiprocessing.Pipe()
        >>> sender.send(pa.table({"n": range(100_000)}))  # more than a pipe holds, and nobody reads yet
        >>> receiver.recv().num_rows
        100000
        >>> aljava.multiprocessing.deactivate()
    """
    if min_bytes < 0:
        raise InvalidOption(f"min_bytes is a number of bytes; not {min_bytes}")
    with _lock:
        family = _Family.current or _Family()
        family.settings = (max(min_bytes, SMALL), pandas, polars)
        _Family.current = family
    ForkingPickler.register(pa.Table, _reduce_table)
    ForkingPickler.register(pa.RecordBatch, _reduce_batch)
    if pandas:
        ForkingPickler.register(_class("pandas"), _reduce_pandas)
    if polars:
        ForkingPickler.register(_class("polars"), _reduce_polars)


def deactivate() -> None:
    """Goes back to ordinary pickling. What is under way still arrives, if the family has another member to keep it."""
    for name, module in _TYPES:
        if module in sys.modules:
            # `ForkingPickler` has no public way to take a registration back.
            ForkingPickler._extra_reducers.pop(getattr(sys.modules[module], name), None)  # type: ignore[attr-defined]
    _leave()


def _class(module: str) -> Any:
    try:
        return __import__(module).DataFrame
    except ImportError as error:
        raise MissingDependency(f"{module} is not installed: pip install 'aljava[{module}]'") from error


class _Family:
    """This process as a member of its family."""

    current: "ClassVar[_Family | None]" = None

    def __init__(self, path: str | None = None) -> None:
        key = hashlib.sha256(bytes(multiprocessing.current_process().authkey)).hexdigest()[:32]
        self.path = path or os.path.join(root_folder(), f".family-{key}")
        self.settings = (SMALL, False, False)
        self._alive = self._join()
        # By the identity of each table that was sent: a reference that does not hold it, and the path of its segment.
        self._placed: dict[int, tuple[weakref.ref[pa.Table], str]] = {}
        multiprocessing.util.register_after_fork(self, _Family._register_leaving)
        self._register_leaving()
        _sweep_families(except_for=self.path)

    def send(self, table: pa.Table) -> str:
        """Makes a token for a table."""
        token = f".tokens/{secrets.token_hex(16)}"
        link = f"{self.path}/{token}"
        with self.folder.writing():
            found = self._placed.get(id(table))
            if found is not None and found[0]() is table:
                with contextlib.suppress(FileNotFoundError):  # it has gone, with the process that this one came from
                    os.link(found[1], link)
                    return token
            path = self.folder.set_aside(place(self.folder, payload.lower(table)))
            os.link(path, link)
            self._keep(table, path)
        return token

    def receive(self, token: str) -> pa.Table:
        """The table of a token, which is used up by it."""
        try:
            table = payload.read_table(self.folder.open(token), f"{self.path}/{token}")
            os.unlink(f"{self.path}/{token}")
        except FileNotFoundError:
            raise KeyNotFound(
                f"{self.path}/{token}: this table was received before, or its family of processes has ended. A token "
                "travels once, from one process to another of the same machine"
            ) from None
        return table

    def leave(self) -> None:
        """Ends the membership of this process; the last one to leave removes the folder."""
        self._leaving.cancel()
        for key in list(self._placed):
            self._drop(key)
        self.folder.close()
        os.close(self._alive)
        _sweep_families()

    def _keep(self, table: pa.Table, path: str) -> None:
        self._drop(id(table))
        self._placed[id(table)] = (weakref.ref(table), path)
        weakref.finalize(table, self._drop, id(table)).atexit = False
        while len(self._placed) > _KEPT_TABLES:
            self._drop(next(iter(self._placed)))

    def _drop(self, key: int) -> None:
        if found := self._placed.pop(key, None):
            self.folder.retire(found[1])

    def _register_leaving(self) -> None:
        # At the end of the main process and of workers, which end without Python's own exit handlers.
        self._leaving = multiprocessing.util.Finalize(None, _leave, exitpriority=-100)

    def _join(self) -> int:
        path = f"{self.path}/.alive"
        while True:
            # Whoever sweeps may remove the folder between any two of these steps: then it is made again.
            self.folder = Folder(self.path)
            with self.folder.writing(), contextlib.suppress(FileExistsError, FileNotFoundError):
                os.mkdir(f"{self.path}/.tokens", 0o700)
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                        return os.dup(descriptor)  # of the same open file, and so of the same lock
                finally:
                    os.close(descriptor)


_lock = threading.RLock()


def _leave() -> None:
    with _lock:
        family, _Family.current = _Family.current, None
        if family is not None:
            family.leave()


def _sweep_families(except_for: str = "") -> None:
    """Removes the folders of families that have no member left."""
    for path in set(glob.glob(os.path.join(glob.escape(root_folder()), ".family-*"))) - {except_for}:
        try:
            descriptor = os.open(f"{path}/.alive", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # another sweeper was faster
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(f"{path}/.alive")
            shutil.rmtree(path, ignore_errors=True)
        except (BlockingIOError, FileNotFoundError):  # alive
            continue
        finally:
            os.close(descriptor)


def _token(table: pa.Table) -> tuple[Any, ...] | None:
    """What stands for a table in a pickle; `None` where it goes the ordinary way."""
    family = _Family.current
    if family is None or table.nbytes < family.settings[0]:
        return None
    try:
        return family.path, family.send(table), family.settings
    except StoreFull:  # no reason not to send it
        return None


def _received(path: str, token: str, settings: tuple[int, bool, bool]) -> pa.Table:
    with _lock:
        if _Family.current is None:  # a worker under spawn or forkserver, which answers in the same way
            _Family.current = _Family(path)
            activate(settings[0], pandas=settings[1], polars=settings[2])
        family = _Family.current
    if family.path == path:
        return family.receive(token)
    other = _Family(path)
    try:
        return other.receive(token)
    finally:
        other.leave()


def _reduce_table(table: pa.Table) -> Any:
    token = _token(table)
    return table.__reduce_ex__(4) if token is None else (_received, token)


def _reduce_batch(batch: pa.RecordBatch) -> Any:
    token = _token(pa.Table.from_batches([batch]))
    return batch.__reduce_ex__(4) if token is None else (_received_batch, token)


def _received_batch(*token: Any) -> pa.RecordBatch:
    return _received(*token).to_batches()[0]


def _reduce_pandas(frame: Any) -> Any:
    token = _token(to_table(frame)) if frame.memory_usage().sum() >= SMALL else None
    return frame.__reduce_ex__(4) if token is None else (_received_pandas, token)


def _received_pandas(*token: Any) -> Any:
    # A frame that comes through a pickle may be changed in place; arrays on shared memory may not.
    return _received(*token).to_pandas().copy()


def _reduce_polars(frame: Any) -> Any:
    token = _token(to_table(frame)) if frame.estimated_size() >= SMALL else None
    return frame.__reduce_ex__(4) if token is None else (_received_polars, token)


def _received_polars(*token: Any) -> Any:
    import polars

    return polars.from_arrow(_received(*token))
