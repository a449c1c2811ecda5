"""The few calls of the operating system that the store is built on and Python does not offer.

`exchange` and `rename_new` are the two renames that let many writers work without a lock between them. `Mapping` is a
memory map that keeps a file lock alive without keeping a descriptor open: on Linux the map itself refers to the open
file description that carries the lock, so that thousands of tables can be held under a limit of 256 descriptors.
"""

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable

import pyarrow as pa

_LINUX = sys.platform == "linux"

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_POPULATE = 1, 0x8000
_MAP_NORESERVE = 0x4000
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = mmap.MAP_PRIVATE, 0x10, mmap.MAP_ANONYMOUS
_AT_FDCWD = -100
# <linux/fs.h>: RENAME_NOREPLACE, RENAME_EXCHANGE; <sys/stdio.h> of macOS: RENAME_EXCL, RENAME_SWAP.
_NOREPLACE, _EXCHANGE = (1, 2) if _LINUX else (4, 2)
_KEEP_SIZE_AND_PUNCH_HOLE = 1 | 2
# <linux/mman.h>, since Linux 5.14. The same number means other things on macOS.
_MADV_POPULATE_WRITE = 23


def _function(name: str, result: object, *arguments: object) -> Callable[..., int]:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = result
    function.argtypes = arguments
    return function


_mmap = _function(
    "mmap",
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_ssize_t,
)
_munmap = _function("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_madvise = _function("madvise", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
if _LINUX:
    _renameat2 = _function(
        "renameat2", ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    )
    _fallocate = _function("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ssize_t, ctypes.c_ssize_t)
else:
    _renamex_np = _function("renamex_np", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)


def exchange(first: str, second: str) -> None:
    """Swaps two names in one step; `FileNotFoundError` where one of them names nothing."""
    _rename(first, second, _EXCHANGE)


def rename_new(source: str, target: str) -> None:
    """Renames in one step and never replaces; `FileExistsError` where `target` names something."""
    _rename(source, target, _NOREPLACE)


def _rename(source: str, target: str, flags: int) -> None:
    first, second = os.fsencode(source), os.fsencode(target)
    failed = _renameat2(_AT_FDCWD, first, _AT_FDCWD, second, flags) if _LINUX else _renamex_np(first, second, flags)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source, None, target)


def punch(descriptor: int, size: int) -> None:
    """Gives the memory of a file's first `size` bytes back, even where someone still maps it; its size stays.

    A file system without holes keeps the memory until the file's last user is gone.
    """
    if _LINUX and _fallocate(descriptor, _KEEP_SIZE_AND_PUNCH_HOLE, 0, size):
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))


class Mapping:
    """The bytes of a file in this process's memory, for as long as anything refers to this object.

    A file lock that `descriptor` holds lives as long as the map does, after the descriptor has been closed too: on
    Linux the map keeps the open file description, elsewhere a duplicate of the descriptor does.

    Args:
        descriptor: of the file, which may be closed afterwards.
        size: bytes to map, from the first.
        writable: whether what is written to the map is written to the file.
        populate: whether all pages are mapped at once.
        private: whether the map can be written to, and what is written is seen by this process alone.
    """

    __slots__ = ("_kept", "address", "populated", "size")

    def __init__(
        self, descriptor: int, size: int, *, writable: bool = False, populate: bool = False, private: bool = False
    ) -> None:
        # Populating in one call takes a tenth of the time of the page faults of one who touches every page.
        flags = _MAP_SHARED | (_MAP_POPULATE if populate and _LINUX else 0)
        if private:
            # Linux would count all of it as memory that may be needed, and refuse to map a file larger than that.
            flags = _MAP_PRIVATE | (_MAP_NORESERVE if _LINUX else 0)
        protection = _PROT_READ | (_PROT_WRITE if writable or private else 0)
        self.size = 0
        self._kept = -1
        address = _mmap(None, size, protection, flags, descriptor, 0)
        if address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot map {size} bytes: {os.strerror(number)}")
        self.address = address
        self.size = size
        self.populated = populate
        if not _LINUX:
            self._kept = os.dup(descriptor)

    def buffer(self) -> pa.Buffer:
        """The mapped bytes, read-only; the map lives as long as the buffer and all that is sliced from it."""
        return pa.foreign_buffer(self.address, self.size, base=self)

    def populate(self, low: int, high: int) -> bool:
        """Gives all pages of some bytes memory, for writing; false where the system has none left, or cannot.

        Args:
            low: the first byte.
            high: the last byte + 1.
        """
        low -= low % mmap.PAGESIZE
        return _LINUX and _madvise(self.address + low, high - low, _MADV_POPULATE_WRITE) == 0

    def detach(self, descriptor: int, low: int, high: int) -> None:
        """Gives the map a copy of its own of some bytes: what a writer does to them in the file is not seen here.

        Args:
            descriptor: of the mapped file.
            low: the first byte; the page that it lies in is copied from its start.
            high: the last byte + 1.
        """
        low -= low % mmap.PAGESIZE
        size = high - low
        # All pages at once: a page fault takes ten times as long as to copy the page. And read, not copied from the
        # map, which would have to get its pages first: half the time.
        flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS | (_MAP_POPULATE if _LINUX else 0)
        if _mmap(self.address + low, size, _PROT_READ | _PROT_WRITE, flags, -1, 0) != self.address + low:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot copy {size} bytes of a map: {os.strerror(number)}")
        copy = memoryview((ctypes.c_char * size).from_address(self.address + low)).cast("B")
        done = 0
        while done < size and (read := os.preadv(descriptor, [copy[done:]], low + done)):
            done += read

    # At interpreter exit the names of this module may be gone before the last map is.
    def __del__(self, munmap: Callable[..., int] = _munmap, close: Callable[[int], None] = os.close) -> None:
        if self.size:
            munmap(self.address, self.size)
        if self._kept >= 0:
            close(self._kept)
