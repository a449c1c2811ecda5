"""Files of this machine: read through a memory map, replaced by rename.

::

    write:  .NAME.PID-RANDOM.aljava  (its writer holds a lock on it)  --rename-->  NAME

A writer that dies leaves its temporary file behind, unlocked; the next write in that folder sweeps it.
"""

import aljava.store  # noqa: F401 - before what other systems lack, to say so

# isort: split
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from aljava.errors import AccessDenied, AddressError, AljavaError, AlreadyExists, InvalidData, NotFound, TransferError
from aljava.ipc.message import MAGIC
from aljava.places.place import Identity, Place
from aljava.store.kernel import Mapping

TEMPORARY = ".aljava"
#: Looking for what the dead left takes longer than this in large folders, seconds: there it is done so seldom that it
#: takes a twentieth of the time. A million files in one folder were looked through for each that was written.
SWEEP_SECONDS, SWEEP_SHARE = 0.001, 20.0
# <linux/fs.h>: the whole of one file becomes the whole of another, sharing its blocks (Btrfs, XFS, ZFS).
_FICLONE = 0x40049409
#: When a large folder is to be looked through again.
_SWEPT: dict[str, float] = {}


class LocalFile(Place):
    """A file of this machine.

    Args:
        path: where it is. Symbolic links are followed: the file they point to is read or replaced.

    Example:
        >>> import tempfile
        >>> place = LocalFile(tempfile.mkdtemp() + "/greeting")
        >>> with place.sink() as sink:
        ...     _ = sink.write(b"ol\\xc3\\xa1")
        >>> place.source().read().decode()
        'olá'
    """

    def __init__(self, path: str | bytes | os.PathLike[Any]) -> None:
        self.path = os.fsdecode(path)
        self.address = self.path.encode("utf-8", "backslashreplace").decode()
        if "\0" in self.path:
            raise AddressError(f"{self.path!r} has a NUL character, which no file name can hold")

    def source(self) -> pa.NativeFile:
        with self.reading() as source:
            return source

    @contextmanager
    def reading(self) -> Iterator[pa.NativeFile]:
        with self.explained("read"):
            descriptor = self._open_locked()
        try:
            with self.explained("read"):
                source = mapped(descriptor)
            yield source
        finally:
            # A map holds on to the open file, and would hold on to the lock with it.
            lock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def fetch(self) -> bytes:
        """All of its bytes, copied: of a small file this takes a fraction of the time of mapping it.

        Raises:
            NotFound, AccessDenied, InvalidData, TransferError: as `source`.
        """
        with self.explained("read"):
            descriptor = self._open_locked()
            try:
                left, pieces = os.fstat(descriptor).st_size, []
                while left and (piece := os.read(descriptor, left)):
                    pieces.append(piece)
                    left -= len(piece)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            finally:
                os.close(descriptor)  # and with it goes the lock

    def private_map(self) -> tuple[Mapping, Identity] | None:
        with self.explained("read"):
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                return Mapping(descriptor, found.st_size, private=True), (found.st_dev, found.st_ino)
            finally:
                os.close(descriptor)

    def _open_locked(self) -> int:
        # Not blocking: opening a named pipe that nobody writes would hang here.
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket, or a device that is not there
                raise InvalidData(
                    f"{self.address} is not a regular file but a {_kind(os.stat(self.path).st_mode)}"
                ) from error
            raise
        try:
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(kind):
                raise InvalidData(f"{self.address} is a folder, where a file is expected: name a file in it")
            if not stat.S_ISREG(kind):
                raise InvalidData(f"{self.address} is not a regular file but a {_kind(kind)}")
            lock(descriptor, fcntl.LOCK_SH)
            # Looked at under the lock: an append may just have come to its end.
            if os.fstat(descriptor).st_size == 0:
                raise InvalidData(
                    f"{self.address} is empty (0 bytes): its writer failed or is not done; write it again"
                )
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    @contextmanager
    def sink(self, *, create: bool = False, durable: bool = False) -> Iterator[Any]:
        target = os.path.realpath(self.path)
        folder, name = os.path.split(target)
        with self.explained("written"):
            if os.path.isdir(target):
                raise AlreadyExists(f"{self.address} is a folder: name a file in it")
            if create and os.path.lexists(target):
                raise self._exists()
            with suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(target).st_mode):
                    raise AlreadyExists(f"{self.address} is not a regular file, and Aljava does not replace it")
            _sweep(folder)
            temporary, descriptor = _claim(folder, name)
            committed = False
            try:
                with suppress(FileNotFoundError):
                    os.fchmod(descriptor, stat.S_IMODE(os.stat(target).st_mode))
                yield WholeWrites(descriptor)
                if durable:
                    os.fsync(descriptor)
                if create:
                    try:
                        os.link(temporary, target)
                    except FileExistsError:
                        raise self._exists() from None
                    os.unlink(temporary)
                else:
                    os.rename(temporary, target)
                committed = True
                if durable:
                    _sync_folder(folder)
            finally:
                if not committed:
                    with suppress(FileNotFoundError):
                        os.unlink(temporary)
                os.close(descriptor)

    @contextmanager
    def appending(self, *, durable: bool = False) -> Iterator[int]:
        """The file, open for reading and writing, while no other Aljava reads its end or appends to it.

        Where the file system can clone, it is a clone, which takes the file's place when the context ends: nobody
        ever sees a half of it. Elsewhere it is the file itself, and whoever fails restores it.

        Args:
            durable: do not return before the bytes would survive a loss of power.

        Yields:
            the descriptor.
        """
        target = os.path.realpath(self.path)
        with self.explained("appended to"):
            descriptor = self._open_alone(target)
        try:
            with self.explained("appended to"):
                _sweep(os.path.dirname(target))
                clone = _cloned(descriptor, target)
                if clone is None:
                    yield descriptor
                    if durable:
                        os.fsync(descriptor)
                else:
                    with _taking_the_place(*clone, target, durable):
                        yield clone[1]
        finally:
            lock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _open_alone(self, target: str) -> int:
        while True:
            descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise InvalidData(f"{self.address} is not a regular file")
                lock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), os.stat(target)):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            # Someone replaced the file while we waited: the new one is the one to append to.
            os.close(descriptor)

    def _exists(self) -> AlreadyExists:
        return AlreadyExists(f'{self.address} exists already, and mode="create" does not replace it')

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Turns the system's errors into ours, which say what to do."""
        try:
            yield
        except AljavaError as error:
            # What the engine says of a sink that failed does not know whose sink it was.
            if not isinstance(error, TransferError) or not isinstance(error.__cause__, OSError):
                raise
            with self.explained(done):
                raise error.__cause__ from None
        except FileNotFoundError as error:
            if done == "written":
                raise NotFound(f"{self.address} cannot be written: the folder does not exist; make it first") from error
            raise NotFound(f"{self.address} does not exist: check the name and the folder") from error
        except (PermissionError, NotADirectoryError) as error:
            raise AccessDenied(f"{self.address} cannot be {done}: {error.strerror}") from error
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise InvalidData(
                    f"{self.address} is a socket: a table comes or goes there as unix://{os.path.abspath(self.address)}"
                ) from error
            if error.errno == errno.EROFS:
                raise AccessDenied(f"{self.address} cannot be written: the file system is read-only") from error
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise TransferError(
                    f"{self.address} cannot be written: no space left; nothing was changed. Free some and try again"
                ) from error
            raise TransferError(f"{self.address} cannot be {done}: {error.strerror or error}") from error


def mapped(descriptor: int) -> pa.NativeFile:
    """All of an open file, whose lock nobody else holds exclusively, as a memory map.

    The footer of an Arrow file is a copy: pyarrow reads it again and again, and an append writes over it. Other files
    are mapped by pyarrow. Its readers of them read ahead in threads of their own, which may outlive the interpreter,
    and one that lets go of an object of Python's then (as a map of ours is) takes the process down with it.
    """
    size = os.fstat(descriptor).st_size
    end = max(0, size - 10)
    tail = os.pread(descriptor, 10, end)
    if tail[4:] != MAGIC:
        with pa.memory_map(f"/dev/fd/{descriptor}") as file:
            return pa.BufferReader(file.read_buffer())  # which holds no descriptor: a folder can have many files
    mapping = Mapping(descriptor, size)
    mapping.detach(descriptor, max(0, end - int.from_bytes(tail[:4], "little")), size)
    return pa.BufferReader(mapping.buffer())


def lock(descriptor: int, kind: int) -> bool:
    """Takes or lets go of a file lock; False where the file system has none.

    Args:
        descriptor: of the open file.
        kind: `fcntl.LOCK_SH`, `LOCK_EX` or `LOCK_UN`, with `LOCK_NB` not to wait.
    """
    try:
        fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.EBADF):
            return False
        raise
    return True


class WholeWrites:
    """A file by its descriptor, whose `write` takes everything: the kernel may take a part, and must be asked again."""

    closed = False

    def __init__(self, descriptor: int, position: int = 0) -> None:
        self._descriptor, self._position = descriptor, position

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            # Linux takes 2 GiB less a page at most; by position, so that two files of one descriptor do not meet.
            done += os.pwrite(self._descriptor, view[done : done + (1 << 30)], self._position + done)
        self._position += done
        return done

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The place closes the file when it appears."""


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def _claim(folder: str, name: str) -> tuple[str, int]:
    """A new temporary file beside the target, locked for as long as its writer lives."""
    # 255 bytes is the limit of common file systems; the target's own name may use all of it.
    stem = os.fsdecode(os.fsencode(name)[:180])
    while True:
        path = os.path.join(folder, f".{stem}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            locked = lock(descriptor, fcntl.LOCK_EX)
        except BaseException:
            os.close(descriptor)
            os.unlink(path)
            raise
        if not locked:  # a file system without locks: nothing is swept there either
            return path, descriptor
        # A sweep that came between the two calls took it for a dead writer's.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _cloned(descriptor: int, target: str) -> tuple[str, int] | None:
    """A clone of a file beside it, which shares its blocks; None where the file system cannot."""
    temporary, clone = _claim(*os.path.split(target))
    try:
        fcntl.ioctl(clone, _FICLONE, descriptor)
        os.fchmod(clone, stat.S_IMODE(os.fstat(descriptor).st_mode))
    except OSError:
        os.unlink(temporary)
        os.close(clone)
        return None
    return temporary, clone


@contextmanager
def _taking_the_place(temporary: str, descriptor: int, target: str, durable: bool) -> Iterator[None]:
    try:
        yield
        if durable:
            os.fsync(descriptor)
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        lock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
    if durable:
        _sync_folder(os.path.dirname(target))


def _sweep(folder: str) -> None:
    """Removes the temporary files of writers that are no more.

    What it takes grows with the folder: of a large one it is a small part of the time that writing there takes.
    """
    if time.monotonic() < _SWEPT.get(folder, 0.0):
        return
    start = time.thread_time()
    with os.scandir(folder or ".") as entries:
        left = [entry.path for entry in entries if entry.name.startswith(".") and entry.name.endswith(TEMPORARY)]
    took = time.thread_time() - start
    if took > SWEEP_SECONDS:
        _SWEPT[folder] = time.monotonic() + took * SWEEP_SHARE
    for path in left:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(descriptor)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
