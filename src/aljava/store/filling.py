"""Copying a payload into a segment, at the speed of memory.

Into a dense segment the copy goes through a map that is kept from put to put, since both fresh memory and fresh page
tables cost more than the copy. Into any other it goes through `pwrite`, where a full file system is an error and not
the end of the process.
"""

import ctypes
import os
from collections.abc import Iterable

import pyarrow as pa

from aljava.store.folder import Folder, Segment

# IOV_MAX is 1024 on Linux and macOS. Linux moves at most 2 GiB - 4 KiB in one call.
_BUFFERS_A_CALL = 512
_BYTES_A_CALL = 1 << 30

_memmove = ctypes.memmove
_memset = ctypes.memset


def fill(folder: Folder, segment: Segment, parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> None:
    """Writes `parts`, pairs of offset and bytes in rising order, and zeros wherever there is none.

    Raises:
        OSError: `ENOSPC`, when the memory file system is full.
    """
    if segment.dense:
        _fill_mapped(folder, segment, parts)
    else:
        _fill_file(segment, parts)


def _fill_mapped(folder: Folder, segment: Segment, parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> None:
    mapping = folder.mapping(segment)
    position = 0
    for offset, part in parts:
        if offset > position:
            # What an older object left here is not for the readers of this one.
            _memset(mapping.address + position, 0, offset - position)
        buffer = part if isinstance(part, pa.Buffer) else pa.py_buffer(part)
        _memmove(mapping.address + offset, buffer.address, buffer.size)
        position = offset + buffer.size


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
