"""Placing a payload in a segment, at the speed of memory.

Into a dense segment the copy goes through a map that is kept from put to put, since both fresh memory and fresh page
tables cost more than the copy. Into any other it goes through `pwrite`, where a full file system is an error and not
the end of the process.
"""

import ctypes
import errno
import os
from collections.abc import Iterable

import pyarrow as pa

from aljava.errors import StoreFull
from aljava.ipc.writer import Layout
from aljava.store.folder import Folder, Segment

# IOV_MAX is 1024 on Linux and macOS. Linux moves at most 2 GiB - 4 KiB in one call.
_BUFFERS_A_CALL = 512
_BYTES_A_CALL = 1 << 30


def place(folder: Folder, layout: Layout) -> Segment:
    """A segment that holds a payload, and is still ours: for `Folder.publish` or `Folder.set_aside`.

    Raises:
        StoreFull: there is no room within the capacity, or in the machine's shared memory.
    """
    try:
        return _place(folder, layout)
    except OSError as error:
        # The machine's memory is full: what the folder keeps for later goes first.
        if not is_full(error) or not folder.make_room(layout.size):
            raise translated(folder, error, layout.size) from error
    try:
        return _place(folder, layout)
    except OSError as error:
        raise translated(folder, error, layout.size) from error


def is_full(error: OSError) -> bool:
    """Whether the system says that there is no memory left."""
    return error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


def translated(folder: Folder, error: OSError, size: int) -> Exception:
    """What a user should read when `size` bytes met an error of the system."""
    if not is_full(error):
        return error
    system = os.statvfs(folder.path)
    free, total = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    return StoreFull(
        f"{folder.path}: no room for {size} bytes: the machine's shared memory has {free} of {total} bytes left. "
        "Delete keys, trim other stores, or choose another place with ALJAVA_SHM"
    )


def _place(folder: Folder, layout: Layout) -> Segment:
    segment = folder.allocate(layout.size)
    try:
        # Zeros go wherever there is no part: what an older object left there is not for the readers of this one.
        if segment.dense:
            _fill_mapped(folder, segment, layout.parts(segment.size))
        else:
            _fill_file(segment, layout.parts(segment.size or None))
    except BaseException:
        folder.discard(segment)
        raise
    return segment


def _fill_mapped(folder: Folder, segment: Segment, parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> None:
    mapping = folder.mapping(segment)
    position = 0
    for offset, part in parts:
        if offset > position:
            ctypes.memset(mapping.address + position, 0, offset - position)
        buffer = part if isinstance(part, pa.Buffer) else pa.py_buffer(part)
        _copy(mapping.address + offset, buffer.address, buffer.size)
        position = offset + buffer.size


def _copy(target: int, source: int, size: int) -> None:
    ctypes.memmove(target, source, size)  # without the GIL


def _fill_file(segment: Segment, parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> None:
    run: list[memoryview] = []
    start = position = 0
    for offset, part in parts:
        if offset > position:
            run += _zeros(offset - position)
        view = memoryview(part).cast("B")
        run.append(view)
        position = offset + len(view)
        if len(run) >= _BUFFERS_A_CALL or position - start >= _BYTES_A_CALL:
            write_all(segment.descriptor, run, start)
            run, start = [], position
    write_all(segment.descriptor, run, start)


def _zeros(size: int) -> list[memoryview]:
    block = memoryview(bytes(min(size, 1 << 20)))
    return [block] * (size // len(block)) + [block[: size % len(block)]]


def write_all(descriptor: int, views: list[memoryview], offset: int) -> None:
    """Writes views one after the other from `offset` on, however many calls that takes."""
    first = 0
    while first < len(views):
        written = os.pwritev(descriptor, views[first:], offset)
        offset += written
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
