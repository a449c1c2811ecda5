"""Tables that lie in shared memory already: sent as where they lie.

A table from a store stands on a map of the store's file. So the file itself is handed over, and with it a metadata
message whose offsets point into it, as if the file were the body of the message::

    metadata:  buffer 0 at 4,672   buffer 1 at 1,004,736   ...
                          |                  |
    file:      |  ...     ################   ################   ...  |

No byte of the table is copied. The file goes as a descriptor that holds the store's shared lock, which lives as long
as the receiver's map: the store does not use the memory again before the receiver has let go, or has died.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aljava.ipc.message import frame
from aljava.ipc.metadata import decode_message, encode_batch, peek
from aljava.store.names import root_folder

# Looking for maps takes a tenth of a millisecond, which a stream of other batches need not spend on each.
_SECONDS_BETWEEN_LOOKS = 0.01


@dataclass(frozen=True)
class Map:
    """A store's file in the memory of this process."""

    #: The first byte, and the last + 1.
    low: int
    high: int
    path: str
    device: int
    inode: int

    def open(self) -> tuple[int, int] | None:
        """A descriptor of the file that holds the store's shared lock, and the bytes of the file.

        None where the file has no name any more.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                # The map has the same lock: nobody can have taken the file in between.
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return descriptor, status.st_size
        except OSError:
            pass
        os.close(descriptor)
        return None


class Maps:
    """The maps of stores' files, found by the addresses of buffers.

    What is found is pinned until it is forgotten: a map that is gone leaves its addresses to the next one.
    """

    def __init__(self) -> None:
        self._pinned: dict[Map, pa.Buffer] = {}
        self._in_vain = 0.0
        self._root = os.path.realpath(root_folder()) + os.sep

    def under(self, batch: pa.RecordBatch) -> Map | None:
        """The map that all buffers of a batch stand on, if there is one."""
        buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None]
        buffers = [buffer for buffer in buffers if buffer.size]
        found = self._at(buffers[0]) if buffers else None
        if found is None or not all(found.low <= buffer.address < found.high for buffer in buffers):
            return None
        self._pinned.setdefault(found, buffers[0])
        return found

    def forget(self, map_: Map) -> None:
        """Lets go of a map."""
        self._pinned.pop(map_, None)

    def _at(self, buffer: pa.Buffer) -> Map | None:
        for known in self._pinned:
            if known.low <= buffer.address < known.high:
                return known
        now = time.monotonic()
        if now - self._in_vain < _SECONDS_BETWEEN_LOOKS:
            return None
        for found in _maps(self._root):
            if found.low <= buffer.address < found.high:
                return found
        self._in_vain = now
        return None


def _maps(root: str) -> Iterator[Map]:
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            # 7f35de000000-7f35e0000000 r--s 00000000 00:1c 87 /dev/shm/aljava-1000/desk/trades.arrow
            parts = line.rstrip("\n").split(maxsplit=5)
            if len(parts) < 6 or not parts[5].startswith(root) or int(parts[2], 16):
                continue
            low, high = (int(part, 16) for part in parts[0].split("-"))
            major, minor = (int(part, 16) for part in parts[3].split(":"))
            yield Map(low, high, parts[5], os.makedev(major, minor), int(parts[4]))


def split(parts: Sequence[Any], size: int) -> tuple[list[Any], list[Any]]:
    """Parts of the messages of a batch: (those before the last, which bring dictionaries, those of the last)."""
    at = 0
    while True:
        head = _head(parts, at)
        end = at + len(head) + peek(memoryview(head)[8:])[1]
        if end >= size:
            return list(_between(parts, 0, at)), list(_between(parts, at, size))
        at = end


def pointed(parts: Sequence[Any], low: int, size: int) -> bytes | None:
    """The framed metadata of a message that finds its buffers in a file that is mapped.

    Args:
        parts: the message as the writer hands it over: what lies on the map is there, and not copied.
        low: the address of the map.
        size: bytes of the file.

    Returns:
        None where the message needs bytes that do not stand on the map.
    """
    head = _head(parts, 0)
    batch = decode_message(memoryview(head)[8:]).batch
    if batch is None or batch.codec is not None:
        return None
    pieces = list(_between(parts, len(head), sum(map(len, parts))))
    starts = np.cumsum([0] + [len(piece) for piece in pieces[:-1]])
    addresses = np.array([pa.py_buffer(piece).address for piece in pieces], np.int64)
    table = batch.buffers.copy()
    full = table[:, 1] > 0
    which = np.searchsorted(starts, table[full, 0], "right") - 1
    places = addresses[which] + table[full, 0] - starts[which] - low
    if (places < 0).any() or (places + table[full, 1] > size).any() or (places % 8).any():
        return None
    table[:, 0] = 0
    table[full, 0] = places
    return frame(encode_batch(batch.length, batch.nodes, table, size - size % 8, variadic=batch.variadic), 0)


def _head(parts: Sequence[Any], at: int) -> bytes:
    """The framed metadata that stands `at` so many bytes from the start."""
    start = b"".join(map(bytes, _between(parts, at, at + 8)))
    return b"".join(map(bytes, _between(parts, at, at + 8 + int.from_bytes(start[4:], "little"))))


def _between(parts: Sequence[Any], low: int, high: int) -> Iterator[Any]:
    """What stands from `low` to `high` of all parts, one behind the other."""
    at = 0
    for part in parts:
        start, stop = max(low - at, 0), min(high - at, len(part))
        if start < stop:
            yield part if (start, stop) == (0, len(part)) else part[start:stop]
        at += len(part)
        if at >= high:
            return
