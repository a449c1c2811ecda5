"""Placing a payload in a segment, at the speed of memory.

Into a dense segment the copy goes through a map that is kept from put to put, since both fresh memory and fresh page
tables cost more than the copy. Into any other it goes through `pwrite`, where a full file system is an error and not
the end of the process; a second thread helps from the far end, through a map whose pages it asks for first.
"""

import contextlib
import ctypes
import errno
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

import pyarrow as pa

from aljava.errors import StoreFull
from aljava.ipc.writer import Layout
from aljava.store.folder import Folder, Segment
from aljava.store.kernel import Mapping

# IOV_MAX is 1024 on Linux and macOS. Linux moves at most 2 GiB - 4 KiB in one call, and macOS refuses more.
_BUFFERS_A_CALL = 512
_BYTES_A_CALL = 1 << 30
# Bytes that the speed of one thread is measured on, for how many large copies that is good, and how many one thread
# makes alone after two were no faster.
_PROBE = 32 << 20
_COPIES_BETWEEN_PROBES = 64
_COPIES_ALONE = 8
# New memory is filled in pieces of so many bytes, few enough that a processor's cache still holds the zeros that they
# replace; on two threads where there is more to fill than that.
_PIECE = 1 << 20
_SHARED_WORK = 64 << 20
# Pieces after which one thread knows how fast it is; and after which the second knows whether it helps: more, since it
# has to be started first, and less than a twentieth of the time is lost if it does not help.
_PROBED = 8
_TRIED = 32
_memmove = ctypes.memmove  # runs without the GIL


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


def translated(folder: Folder, error: OSError, size: int | None) -> Exception:
    """What a user should read when `size` bytes, or rows of which more were to come, met an error of the system."""
    if not is_full(error):
        return error
    system = os.statvfs(folder.path)
    free, total = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    return StoreFull(
        f"{folder.path}: no room for {'more rows' if size is None else f'{size:,} bytes'}: the machine's shared memory "
        f"has {free:,} of {total:,} bytes left. "
        "Delete keys, trim other stores, or choose another place with ALJAVA_SHM"
    )


def _place(folder: Folder, layout: Layout) -> Segment:
    segment = folder.allocate(layout.size)
    try:
        # Zeros go wherever there is no part: what an older object left there is not for the readers of this one.
        if segment.dense:
            _fill_mapped(folder, segment, layout.parts(segment.size))
        elif segment.size >= _SHARED_WORK and _has_two_processors():
            _fill_from_both_ends(folder, segment, layout.parts(segment.size))
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
        _copy(mapping, offset, buffer)
        position = offset + buffer.size


def _copy(mapping: Mapping, offset: int, buffer: pa.Buffer) -> None:
    if buffer.size >= 2 * _PROBE and _has_two_processors():
        _Pair.copy(mapping, offset, buffer)
    else:
        _memmove(mapping.address + offset, buffer.address, buffer.size)


class _Pair:
    """Copying on two threads, for as long as that is seen to be faster than one alone.

    It takes half of the time where a second processor is free, and as long as before where it is busy, or where one
    thread takes all that the memory gives.
    """

    # Seconds that one thread takes for a byte, and for how many copies that is believed.
    alone = 0.0
    copies_until_measured = 0
    # Copies to be made by one thread before two are tried again.
    copies_alone = 0

    @classmethod
    def copy(cls, mapping: Mapping, offset: int, buffer: pa.Buffer) -> None:
        """Copies at least twice `_PROBE` bytes."""
        if cls.copies_until_measured == 0:
            cls.copies_until_measured = _COPIES_BETWEEN_PROBES
            start = time.perf_counter()
            _memmove(mapping.address + offset, buffer.address, _PROBE)
            cls.alone = (time.perf_counter() - start) / _PROBE
            offset, buffer = offset + _PROBE, buffer.slice(_PROBE)
        cls.copies_until_measured -= 1
        if cls.copies_alone:
            cls.copies_alone -= 1
            _memmove(mapping.address + offset, buffer.address, buffer.size)
            return
        start = time.perf_counter()
        cls._on_two(mapping, offset, buffer)
        if time.perf_counter() - start > 0.9 * cls.alone * buffer.size:
            cls.copies_alone = _COPIES_ALONE

    @staticmethod
    def _on_two(mapping: Mapping, offset: int, buffer: pa.Buffer) -> None:
        half = buffer.size // 2 // 4096 * 4096

        def copy_the_rest() -> None:
            # Refers to map and buffer, so that an interrupt of `join` does not pull them from under it.
            _memmove(mapping.address + offset + half, buffer.address + half, buffer.size - half)

        other = threading.Thread(target=copy_the_rest)
        other.start()
        _memmove(mapping.address + offset, buffer.address, half)
        other.join()


def _fill_file(segment: Segment, parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> None:
    views: list[memoryview] = []
    position = 0
    for offset, part in parts:
        if offset > position:
            views.append(memoryview(bytes(offset - position)))
        views.append(memoryview(part).cast("B"))
        position = offset + len(views[-1])
    write_all(segment.descriptor, views, 0)


def _has_two_processors() -> bool:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) > 1
    return (os.cpu_count() or 1) > 1


def _fill_from_both_ends(folder: Folder, segment: Segment, parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> None:
    """Fills new memory on two threads, which takes two thirds of the time of one.

    Two that write to one file wait for each other, and two that populate a map zero what is about to be overwritten: so
    one writes, from the front, and the other populates and copies, from the back, until they meet. The other gives up
    where both are no faster than one was, since the second processor is busy.
    """
    mapping = Mapping(segment.descriptor, segment.size, writable=True)
    pieces = deque(_pieces(parts))

    def write_the_next() -> None:
        offset, piece = pieces.popleft()
        write_all(segment.descriptor, [memoryview(piece)], offset)

    def help_from_the_back(alone: float) -> None:
        start, left = time.perf_counter(), len(pieces)
        helped = 0
        with contextlib.suppress(IndexError):
            while helped < _TRIED or time.perf_counter() - start < 0.95 * alone * (left - len(pieces)):
                offset, piece = pieces.pop()
                if not mapping.populate(offset, offset + piece.size):
                    # The memory is full, most likely: whoever writes to the file finds out.
                    pieces.append((offset, piece))
                    return
                _memmove(mapping.address + offset, piece.address, piece.size)
                helped += 1

    start = time.perf_counter()
    for _ in range(min(_PROBED, len(pieces))):
        write_the_next()
    helper = threading.Thread(target=help_from_the_back, args=((time.perf_counter() - start) / _PROBED,))
    helper.start()
    try:
        with contextlib.suppress(IndexError):
            while True:
                write_the_next()
        helper.join()
        while pieces:  # what the helper gave back at the very end
            write_the_next()
    finally:
        pieces.clear()
        helper.join()
    folder.keep(segment, mapping)


def _pieces(parts: Iterable[tuple[int, pa.Buffer | bytes]]) -> Iterator[tuple[int, pa.Buffer]]:
    """Cuts what is to be written into pieces of at most `_PIECE` bytes, zeros between the parts among them."""
    position = 0
    for offset, part in parts:
        if offset > position:
            yield position, pa.py_buffer(bytes(offset - position))
        buffer = part if isinstance(part, pa.Buffer) else pa.py_buffer(part)
        for start in range(0, buffer.size, _PIECE):
            yield offset + start, buffer.slice(start, min(_PIECE, buffer.size - start))
        position = offset + buffer.size


def write_all(descriptor: int, views: list[memoryview], offset: int) -> None:
    """Writes views one after the other from `offset` on, however many calls that takes."""
    first = 0
    while first < len(views):
        size = 0
        call = []
        for view in views[first : first + _BUFFERS_A_CALL]:
            call.append(view[: _BYTES_A_CALL - size])
            size += len(call[-1])
            if size == _BYTES_A_CALL:
                break
        written = os.pwritev(descriptor, call, offset)
        offset += written
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
