"""The protocol: a folder of segments that many processes share, each of which may die or stop at any moment.

A segment is a file in the machine's memory. There is no server and no stored count of anything; the kernel keeps the
books. The rule that all else follows from: *a segment has exactly one name at any time, and the name says who may
write*::

    KEY.arrow               published: nobody writes it
    .pool/SIZE-INODE        free, or still read by someone: nobody writes it
    .work/WRITER.N          belongs to that writer alone
    .writers/WRITER         locked exclusively while the writer lives: one that can be locked marks a dead writer

A reader holds a shared lock (`flock`) through its memory map until the last reference to the data is gone, so a lock
lives exactly as long as the data is in use, and goes with a process that is killed. A writer recycles a segment only
after it has moved it to a name of its own *and* found nobody's lock on it. The order of the system calls below is what
was proved by attack (`tests/store/`): change it only with a proof of the other order.
"""

import contextlib
import fcntl
import itertools
import os
import random
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from aljava.errors import AccessDenied, StoreFull
from aljava.store.kernel import Mapping, exchange, punch, rename_new

# A smaller object lives in a file that is never recycled, so a reader needs neither lock nor map: up to about 64 KiB
# a copy costs less than they do.
SMALL = 64 * 1024
_PAGE = 4096
# A pool segment taken for `n` bytes may be larger by this part of `n`.
_SLACK = 0.25
# Segments of the pool that are tried before new memory is made: the first may still be read by someone.
_TRIES = 8
_KEPT_MAPPINGS = 64
# Bytes at both ends of an object in which the metadata of most tables stands.
_END = 4096
_SECONDS_BETWEEN_SWEEPS = 1.0
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_BETWEEN_USES = 1.0

_TEST = fcntl.LOCK_EX | fcntl.LOCK_NB
_SHARE = fcntl.LOCK_SH | fcntl.LOCK_NB

# Held while a lock is half taken. A fork at that moment would hand the child a descriptor that holds a lock for as long
# as the child lives; so a fork waits for the guard, which is never held longer than a few system calls.
_guard = threading.RLock()
_SHARING = "its owner shares it by making it with a mode such as 0o770, and all who use it open it with that mode"
_folders: "weakref.WeakSet[Folder]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _guard.release()
    for folder in list(_folders):
        folder.forget()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_after_fork_in_child)


@dataclass(frozen=True, slots=True)
class Segment:
    """A file that this writer alone may fill."""

    path: str
    """Its one name, in `.work`."""
    descriptor: int
    """Open for reading and writing, until the segment is published or discarded."""
    size: int
    """Bytes; 0 for one that grows as it is written."""
    inode: int
    """0 for one that grows as it is written."""
    dense: bool
    """Every page has memory, so that writing through a map cannot meet a full file system (which would be SIGBUS)."""


class Content(NamedTuple):
    """A published object, and its ends as they were read through the file.

    The first touch of a new map costs 8 µs at each end, and reading the file there costs one.
    """

    buffer: pa.Buffer
    """All of its bytes, safe from recycling until the last reference to them is gone."""
    head: bytes
    """Its first bytes, at most `_END` of a large object."""
    tail: bytes
    """Its last bytes, at most `_END` of a large object."""


class Folder:
    """A folder of segments, and this process as one of its readers and writers. Safe for threads and for forks."""

    def __init__(
        self,
        path: str,
        *,
        capacity: int | None = None,
        evict: bool = False,
        mode: int = 0o700,
        recycle: bool = True,
    ) -> None:
        self.path = path
        self.capacity = capacity
        self.evict = evict
        self.recycle = recycle
        self.recycled = 0
        self.fresh = 0
        self._mode = mode
        self._pool = f"{path}/.pool"
        self._work = f"{path}/.work"
        self._writers = f"{path}/.writers"
        self._writer = ""
        self._writer_lock: int | None = None
        self._puts_under_way = 0
        self._numbers = itertools.count()
        self._last_sweep = 0.0
        self._last_look = 0.0
        self._kept: dict[int, Mapping] = {}
        for folder in (os.path.dirname(path), path):
            _check_owner(folder, self._is_shared)
        if os.path.exists(path) and not os.access(path, os.R_OK | os.X_OK):
            raise AccessDenied(f"{path} is not shared with user {os.geteuid()}: {_SHARING}")
        with _guard:
            _folders.add(self)

    # ------------------------------------------------------------------------------------------------- reading

    def open(self, name: str) -> Content:
        """A published object.

        Never waits for anyone: if the segment is found to be taken in between, it starts again from the name.

        Raises:
            FileNotFoundError: the name stands for nothing.
        """
        path = f"{self.path}/{name}"
        while True:
            if (content := self.open_path(path)) is not None:
                return content

    def open_path(self, path: str) -> Content | None:
        """One try of `open`; `None` when the path named another segment by the time this one was locked."""
        with _guard:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                status = os.fstat(descriptor)
                if status.st_size < SMALL:
                    _note_use(descriptor, status)
                    whole = os.pread(descriptor, status.st_size, 0)
                    return Content(pa.py_buffer(whole), whole, whole)
                if not _still_named(path, descriptor, status):
                    return None
                _note_use(descriptor, status)
                buffer = Mapping(descriptor, status.st_size).buffer()
                tail = os.pread(descriptor, _END, status.st_size - _END)
                return Content(buffer, os.pread(descriptor, _END, 0), tail)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[tuple[int, os.stat_result]]:
        """The descriptor and status of an object, safe from recycling while the context lasts.

        For a few reads: forks of this process, and its other readers, wait until it ends.
        """
        path = f"{self.path}/{name}"
        with _guard:
            while True:
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    status = os.fstat(descriptor)
                    if status.st_size < SMALL or _still_named(path, descriptor, status):
                        yield descriptor, status
                        return
                finally:
                    os.close(descriptor)

    def objects(self) -> Iterator[tuple[str, os.stat_result]]:
        """File name and status of each object."""
        return _files(self.path)

    # ------------------------------------------------------------------------------------------------- writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What each step of a writer happens in: gives this process its identity and keeps it until the end."""
        with _guard:
            if self._writer_lock is None or not os.path.exists(f"{self._writers}/{self._writer}"):
                # A first write, or another process has destroyed the folder since: it begins anew.
                self.forget()
                self._identify()
            writer = self._writer
            self._puts_under_way += 1
        try:
            yield
        finally:
            with _guard:
                if self._writer == writer:
                    self._puts_under_way -= 1

    def allocate(self, size: int) -> Segment:
        """A segment to fill of `size` bytes or somewhat more: recycled where one is free, else of new memory.

        Raises:
            StoreFull: the capacity leaves no room, even with the pool given back.
        """
        if size < SMALL:
            self._look_sometimes(size)
            return self._create(0)
        if segment := self._claim(size, size + int(size * _SLACK)):
            self.recycled += 1
            return segment
        self.sweep()
        segment = self._reserve(size + -size % _PAGE)
        self.fresh += 1
        return segment

    def begin_stream(self) -> Segment:
        """An empty segment, which grows as it is written."""
        self.sweep()
        self.fresh += 1
        return self._create(0)

    def publish(self, segment: Segment, name: str, *, create: bool = False) -> None:
        """Makes a filled segment the object of a name, in one step; an object that it replaces goes to the pool.

        With `create` nothing is replaced: `FileExistsError` where the name is taken.
        """
        if segment.size:
            os.utime(segment.descriptor)  # writing through a map leaves no time
        os.close(segment.descriptor)
        path = f"{self.path}/{name}"
        if create:
            try:
                rename_new(segment.path, path)
            except FileExistsError:
                self._retire(segment.path)
                raise
            return
        while True:
            with contextlib.suppress(FileNotFoundError):
                exchange(segment.path, path)
                # A recycled segment has left the pool, so that it holds no more than before.
                self._retire(segment.path, bound=not segment.dense)
                return
            with contextlib.suppress(FileExistsError):
                rename_new(segment.path, path)
                return

    def set_aside(self, segment: Segment) -> str:
        """Keeps a filled segment under its name in `.work`, for links to lead to it; returns the path.

        It goes to the pool by `retire`, or when this process ends.
        """
        os.close(segment.descriptor)
        return segment.path

    def retire(self, path: str) -> None:
        """Gives up a segment that this process has set aside; whoever has a link to it or reads it keeps it."""
        if os.path.basename(path).startswith(f"{self._writer}."):  # else it is that of the process we were forked from
            with self.writing():
                self._retire(path)

    def withdraw(self, name: str, *, bound: bool = True) -> int:
        """Takes an object's name away; readers keep what they hold. `FileNotFoundError` where there is none.

        Returns:
            the bytes that are the machine's again once nobody reads them; 0 where the object went to the pool, which
            keeps to its limit only with `bound`.
        """
        with self.writing():
            work = self._next_work()
            os.rename(f"{self.path}/{name}", work)
            return self._retire(work, bound=bound)

    def discard(self, segment: Segment) -> None:
        """Gives up a segment that is ours, and its memory: at once, even where another process keeps a map of it."""
        if segment.size >= SMALL:
            punch(segment.descriptor, segment.size)
        self._kept.pop(segment.inode, None)
        os.unlink(segment.path)
        os.close(segment.descriptor)

    def mapping(self, segment: Segment) -> Mapping:
        """A writable map of a dense segment, kept from last time where it can be: making one costs 0.1 s a GiB."""
        mapping = self._kept.pop(segment.inode, None)
        if mapping is None or mapping.size != segment.size:
            mapping = Mapping(segment.descriptor, segment.size, writable=True, populate=True)
        elif not mapping.populated:
            mapping.populate(0, mapping.size)  # where it cannot, the pages come one by one
            mapping.populated = True
        self.keep(segment, mapping)
        return mapping

    def keep(self, segment: Segment, mapping: Mapping) -> None:
        """Keeps a writable map of a segment for when it is recycled."""
        if self.recycle:
            self._kept[segment.inode] = mapping
            while len(self._kept) > _KEPT_MAPPINGS:
                self._kept.pop(next(iter(self._kept)), None)

    # ------------------------------------------------------------------------------------------------- room

    def usage(self) -> int:
        """Bytes that objects, work and pool take: what the folder says, since a stored count could drift."""
        sizes: dict[int, int] = {}
        # A segment goes from .work to a key, to .work, to .pool: .work is looked at on both sides, to miss few.
        for folder in (self._work, self.path, self._pool, self._work):
            for _, status in _files(folder):
                sizes[status.st_ino] = status.st_size
        return sum(sizes.values())

    def pool(self) -> list[tuple[int, str]]:
        """Size in bytes and name of each segment that waits to be recycled."""
        with contextlib.suppress(FileNotFoundError):
            return [(int(name.partition("-")[0], 16), name) for name in os.listdir(self._pool)]
        return []

    def pool_limit(self) -> int:
        """Bytes that the pool may hold: a quarter of the memory file system, and no more than the capacity."""
        system = os.statvfs(self.path)
        quarter = system.f_blocks * system.f_frsize // 4
        return quarter if self.capacity is None else min(quarter, self.capacity)

    def require_room(self) -> None:
        """Raises `StoreFull` where a segment that grows has passed the capacity, and nothing can be given up for it."""
        if self.capacity is not None:
            over = self.usage() - self.capacity
            if over > 0 and self.make_room(over) < over:
                raise self._full(over)

    def prefault(self, size: int) -> None:
        """Puts a segment of `size` bytes, with all its memory, into the pool."""
        with self.writing():
            segment = self._reserve(size + -size % _PAGE)
            try:
                zeros, position = bytes(1 << 20), 0
                while position < segment.size:  # where memory ends, a part of them is written
                    position += os.pwrite(segment.descriptor, zeros[: segment.size - position], position)
            except BaseException:
                self.discard(segment)
                raise
            os.close(segment.descriptor)
            self._retire(segment.path)

    def trim(self, size: int | None = None) -> int:
        """Gives memory of the pool back to the machine: all that nobody reads, or about `size` bytes of it."""
        freed = 0
        with self.writing():
            # Each segment is asked once: those that are still read return to the pool.
            for _, name in sorted(self.pool(), reverse=True):
                if size is not None and freed >= size:
                    break
                if segment := self._claim_named(name):
                    freed += segment.size
                    self.discard(segment)
        return freed

    def make_room(self, size: int) -> int:
        """Frees about `size` bytes: the pool's, dead writers', and with `evict` the least recently used objects'."""
        freed = self.trim(size)
        if freed < size:
            self.sweep(now=True)
            freed += self.trim(size - freed)
        if self.evict and freed < size:
            for name, _ in sorted(self.objects(), key=lambda entry: entry[1].st_atime_ns):
                with contextlib.suppress(FileNotFoundError):
                    # Not bound: what the pool gave back to keep to its limit would not be counted.
                    freed += self.withdraw(name, bound=False)
                # An object that is still read has lost its name and not its memory: the next one goes too.
                freed += self.trim(size - freed)
                if freed >= size:
                    break
        return freed

    def sweep(self, *, now: bool = False) -> None:
        """Moves what dead writers left into the pool; at most once a second, unless `now`."""
        moment = time.monotonic()
        if not now and moment - self._last_sweep < _SECONDS_BETWEEN_SWEEPS:
            return
        self._last_sweep = moment
        with self.writing():
            working = {name.rpartition(".")[0] for name in os.listdir(self._work)}
            for writer in working.union(os.listdir(self._writers)) - {self._writer}:
                self._bury(writer)

    # ------------------------------------------------------------------------------------------------- single steps

    def _claim(self, at_least: int, at_most: int) -> Segment | None:
        """Takes a free segment out of the pool: first those whose maps are kept, then the best fit."""
        fitting = [(size, name) for size, name in self.pool() if at_least <= size <= at_most]
        fitting.sort(
            key=lambda entry: (int(entry[1].partition("-")[2], 16) not in self._kept, entry[0], random.random())
        )
        for _, name in fitting[:_TRIES]:
            if segment := self._claim_named(name):
                return segment
        return None

    def _claim_named(self, name: str) -> Segment | None:
        work = self._next_work()
        try:
            os.rename(f"{self._pool}/{name}", work)
        except FileNotFoundError:  # another writer was faster
            return None
        segment = self._take(work)
        if segment is None:
            self._retire(work, bound=False)
        return segment

    def _take(self, work: str) -> Segment | None:
        """Opens a segment that is ours by name, if nobody reads it and no second name (a token's) leads to it."""
        with _guard:
            try:
                descriptor = os.open(work, os.O_RDWR)
            except PermissionError:  # another user's, made with a narrower mode than the store's
                return None
            status = os.fstat(descriptor)
            free = False
            if status.st_nlink == 1:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, _TEST)
                    # Whoever holds a token locks first and unlinks then: one that is not seen as a lock is seen here.
                    free = os.fstat(descriptor).st_nlink == 1
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
            if not free:
                os.close(descriptor)
                return None
        return Segment(work, descriptor, status.st_size, status.st_ino, _is_dense(status))

    def _reserve(self, size: int) -> Segment:
        """A new segment of `size` bytes that has no memory yet, within the capacity."""
        waits = 3
        while self.capacity is None or size <= self.capacity:
            # Reserve first, look then: of two writers that reserve at once, whoever looks last sees both. Together they
            # may find no room where one alone would have, never the other way round; and neither waits for a lock.
            segment = self._create(size)
            if self.capacity is None or (over := self.usage() - self.capacity) <= 0:
                return segment
            self.discard(segment)
            if not self.make_room(over):
                if not waits:
                    break
                waits -= 1
                time.sleep(random.uniform(0.001, 0.005))
        raise self._full(size)

    def _look_sometimes(self, size: int) -> None:
        """Small objects are counted once a second: they can pass the capacity by what comes in one second."""
        moment = time.monotonic()
        if self.capacity is None or moment - self._last_look < _SECONDS_BETWEEN_LOOKS:
            return
        over = self.usage() + size - self.capacity
        if size > self.capacity or (over > 0 and self.make_room(over) < over):
            raise self._full(size)
        self._last_look = moment

    def _full(self, size: int) -> StoreFull:
        return StoreFull(
            f"{self.path}: no room for {size:,} bytes: {self.usage():,} of {self.capacity:,} bytes are used, by "
            "objects and by what is still read of deleted ones. Delete keys, raise the capacity, or open the store "
            "with evict=True"
        )

    def _create(self, size: int) -> Segment:
        work = self._next_work()
        descriptor = os.open(work, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._mode & 0o666)
        if self._is_shared:
            os.fchmod(descriptor, self._mode & 0o666)  # whatever the umask says
        if not size:
            return Segment(work, descriptor, 0, 0, dense=False)
        os.ftruncate(descriptor, size)
        return Segment(work, descriptor, size, os.fstat(descriptor).st_ino, dense=False)

    def _retire(self, work: str, *, bound: bool = True) -> int:
        """Moves a segment that is ours by name, and that others may still read, into the pool, or gives it up.

        Returns the bytes that it gave up.
        """
        status = os.stat(work)
        if status.st_size < SMALL or not self.recycle or not _is_dense(status):
            # One with holes was never filled: its writer died.
            os.unlink(work)
            return status.st_size
        try:
            rename_new(work, f"{self._pool}/{status.st_size:x}-{status.st_ino:x}")
        except FileExistsError:  # a second name of a segment that is in the pool already
            os.unlink(work)
            return 0
        if bound:
            self._bound_pool()
        return 0

    def _bound_pool(self) -> None:
        entries = self.pool()
        excess = sum(size for size, _ in entries) - self.pool_limit()
        # A few tries: where thousands of segments are still read, they are not all asked at each put.
        for _, name in random.sample(entries, min(_TRIES, len(entries))):
            if excess <= 0:
                return
            if segment := self._claim_named(name):
                excess -= segment.size
                self.discard(segment)

    def _bury(self, writer: str) -> None:
        """Finishes what a dead writer began. Another sweeper may do the same at once, or die in the middle."""
        path = f"{self._writers}/{writer}"
        with _guard:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except (FileNotFoundError, PermissionError):  # another has finished; another user has to
                return
            try:
                fcntl.flock(descriptor, _TEST)
                for name in os.listdir(self._work):
                    if name.rpartition(".")[0] == writer:
                        with contextlib.suppress(FileNotFoundError):
                            self._retire(f"{self._work}/{name}", bound=False)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            except BlockingIOError:  # alive
                pass
            finally:
                os.close(descriptor)

    # ------------------------------------------------------------------------------------------------- identity

    @property
    def _is_shared(self) -> bool:
        return bool(self._mode & 0o077)

    def _make(self) -> None:
        """Makes the folders at the first write, so that a look at a store that is not there leaves none behind."""
        root = os.path.dirname(self.path)
        for folder in (root, self.path, self._pool, self._work, self._writers):
            try:
                os.mkdir(folder, 0o700)
                if self._is_shared:
                    os.chmod(folder, 0o755 if folder == root else self._mode)
            except FileExistsError:
                pass
            except PermissionError as error:
                raise AccessDenied(f"{folder} cannot be made by user {os.geteuid()}: {error.strerror}") from error
            _check_owner(folder, self._is_shared)
        if not os.access(self._work, os.W_OK | os.X_OK):
            raise AccessDenied(f"{self.path} cannot be written by user {os.geteuid()}: {_SHARING}")

    def _identify(self) -> None:
        """Takes an identity as a writer: a file that stays locked for as long as this process lives."""
        while True:
            self._make()
            writer = f"{os.getpid()}-{secrets.token_hex(6)}"
            path = f"{self._writers}/{writer}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._mode & 0o666)
            try:
                fcntl.flock(descriptor, _TEST)
                # A sweeper may have locked and removed the name before we locked it.
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    self._writer, self._writer_lock = writer, descriptor
                    return
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(descriptor)

    def _next_work(self) -> str:
        return f"{self._work}/{self._writer}.{next(self._numbers)}"

    def forget(self) -> None:
        """Lets go of the identity and the kept maps and leaves the folder alone: a forked child starts anew."""
        if self._writer_lock is not None:
            os.close(self._writer_lock)
        self._writer_lock = None
        self._writer = ""
        self._puts_under_way = 0
        self._kept = {}

    def close(self) -> None:
        """Gives back what this process keeps: its maps, and its identity unless another thread is writing."""
        with _guard:
            self._kept = {}
            if self._writer_lock is not None and not self._puts_under_way:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._writers}/{self._writer}")
                self.forget()


def close_all(path: str) -> None:
    """Gives back what this process keeps of a folder, whichever `Folder` keeps it."""
    with _guard:
        for folder in list(_folders):
            if folder.path == path:
                folder.close()


def _check_owner(path: str, shared: bool) -> None:
    """Refuses a folder that another user made, who could read and change all that is put there."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise AccessDenied(f"{path} is not shared with user {os.geteuid()}: {_SHARING}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise AccessDenied(f"{path} is not a folder: remove it, or choose another place with ALJAVA_SHM")
    if status.st_uid != os.geteuid() and not shared:
        raise AccessDenied(
            f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}: choose another place with ALJAVA_SHM; or "
            f"{_SHARING}"
        )


def _still_named(path: str, descriptor: int, status: os.stat_result) -> bool:
    """Locks an open segment for reading, and says whether it is still the one that the path names."""
    try:
        fcntl.flock(descriptor, _SHARE)
    except BlockingIOError:  # a writer tests it: it has no such name any more
        return False
    return os.stat(path).st_ino == status.st_ino


def _is_dense(status: os.stat_result) -> bool:
    return status.st_blocks * 512 >= status.st_size


def _note_use(descriptor: int, status: os.stat_result) -> None:
    """Keeps the time of last use, which eviction goes by: a memory file system keeps none for maps."""
    now = time.time()
    if not 0 <= now - status.st_atime < _SECONDS_BETWEEN_USES:
        with contextlib.suppress(PermissionError):  # an object of another user, in a store that a group shares
            os.utime(descriptor, ns=(int(now * 1e9), status.st_mtime_ns))


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # gone in between
                    yield entry.name, entry.stat(follow_symlinks=False)
