"""What an object is, read from the few hundred bytes of metadata that stand around its data."""

import os
import time
from dataclasses import dataclass

import pyarrow as pa

from aljava.errors import InvalidData
from aljava.ipc.metadata import decode_footer, decode_message

_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
# The schema of most tables fits in here, so that one read gets it.
_HEAD = 4096


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of one object."""

    key: str
    rows: int
    """Rows of all record batches."""
    bytes: int
    """Bytes of shared memory."""
    schema: pa.Schema
    readers: int | None
    """Gets of large objects (64 KiB and more) whose data is in use now, in all processes; `None` where the system does
    not tell. Small objects are copied when they are got, and count none."""
    age: float
    """Seconds since it was put."""
    damage: str | None = None
    """What is wrong with an object that is none, whose rows and schema nobody knows; only `infos` lists such."""


def damaged(key: str, status: os.stat_result, readers: int | None, reason: str) -> ObjectInfo:
    """What there is to say of a file that is no Arrow IPC file."""
    age = max(0.0, time.time() - status.st_mtime)
    return ObjectInfo(key, 0, status.st_size, pa.schema([]), readers, age, reason)


def describe(key: str, descriptor: int, status: os.stat_result, readers: int | None) -> ObjectInfo:
    """Reads the footer, the schema and each batch's length from an open file.

    Raises:
        InvalidData: the file is no Arrow IPC file.
    """
    end = os.pread(descriptor, 10, max(0, status.st_size - 10))
    length = int.from_bytes(end[:4], "little")
    start = status.st_size - 10 - length
    if end[4:] != _MAGIC or start < 8:
        raise InvalidData(f"{key!r} ends with {end[4:]!r}, not with {_MAGIC!r}: no Arrow IPC file was put there")
    footer = decode_footer(os.pread(descriptor, length, start), start)
    return ObjectInfo(
        key=key,
        rows=sum(_rows(os.pread(descriptor, block.metadata_length, block.offset)) for block in footer.batches),
        bytes=status.st_size,
        schema=_schema(key, descriptor, status.st_size),
        readers=readers,
        age=max(0.0, time.time() - status.st_mtime),
    )


def _rows(message: bytes) -> int:
    header = decode_message(message[8 if message.startswith(_CONTINUATION) else 4 :])
    return 0 if header.batch is None else header.batch.length


def _schema(key: str, descriptor: int, size: int) -> pa.Schema:
    head = os.pread(descriptor, _HEAD, 0)
    needed = 16 + int.from_bytes(head[12:16], "little")
    if needed > size:
        raise InvalidData(f"{key!r} has a schema of {needed - 16:,} bytes in a file of {size:,}: it is damaged")
    if needed > len(head):
        head = os.pread(descriptor, needed, 0)
    try:
        return pa.ipc.read_schema(pa.py_buffer(head[8:needed]))
    except (pa.ArrowException, OSError) as error:
        raise InvalidData(f"{key!r} has a schema that cannot be read: {error}") from error


def readers_by_inode(device: int) -> dict[int, int] | None:
    """How many shared locks the kernel counts on each file of a file system; `None` where it does not say."""
    try:
        with open("/proc/locks") as locks:
            lines = locks.read().splitlines()
    except FileNotFoundError:
        return None
    counts: dict[int, int] = {}
    here = f"{os.major(device):02x}:{os.minor(device):02x}"
    for line in lines:
        # 5: FLOCK  ADVISORY  READ 4711 00:1a:97 0 EOF
        _, kind, _, mode, _, file, *_ = line.replace("->", "").split()
        where, _, inode = file.rpartition(":")
        if kind == "FLOCK" and mode == "READ" and where == here:
            counts[int(inode)] = counts.get(int(inode), 0) + 1
    return counts
