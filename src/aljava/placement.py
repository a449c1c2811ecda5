"""Where the buffers of a table lie: the proof that nothing was copied.

A buffer that lies inside a memory map, or inside the bytes that a payload was read from, was not copied out of it.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aljava.errors import UnsupportedPlatform

#: The first address and the one after the last.
Range = tuple[int, int]


@dataclass(frozen=True)
class Placement:
    """How much of a table lies in given ranges of memory."""

    #: Buffers that hold at least one byte.
    buffers: int
    #: Those of them that lie wholly inside the ranges.
    buffers_inside: int
    #: Names of the columns of which every buffer lies inside.
    columns_inside: tuple[str, ...]

    @property
    def all_inside(self) -> bool:
        """Whether nothing at all was copied."""
        return self.buffers == self.buffers_inside


def placement(table: pa.Table, ranges: Iterable[Range]) -> Placement:
    """Counts the buffers and columns of a table that lie inside ranges of memory.

    Example:
        >>> buffer = pa.py_buffer(bytes(range(64)))
        >>> array = pa.Array.from_buffers(pa.int64(), 8, [None, buffer])
        >>> placement(pa.table({"id": array}), [span(buffer)]).all_inside
        True
    """
    known = tuple(ranges)
    buffers = inside = 0
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        here = [_lies_in(buffer, known) for buffer in data_buffers(column)]
        buffers += len(here)
        inside += sum(here)
        if all(here):
            columns.append(name)
    return Placement(buffers, inside, tuple(columns))


def span(buffer: Any) -> Range:
    """The range of memory that a buffer takes."""
    held = buffer if isinstance(buffer, pa.Buffer) else pa.py_buffer(buffer)
    return held.address, held.address + held.size


def mapped_ranges(path: str) -> list[Range]:
    """Where this process has files mapped whose path begins with `path`, as the kernel says.

    Each range is that of the whole file: a reader of Aljava has the pages of the footer, behind the last buffer, for
    itself, and the kernel lists those without a name.

    Raises:
        UnsupportedPlatform: a system without `/proc`.
    """
    try:
        with open("/proc/self/maps") as maps:
            fields = [line.rstrip("\n").split(maxsplit=5) for line in maps]
    except FileNotFoundError as error:
        raise UnsupportedPlatform("only Linux tells a process which files it has mapped (/proc/self/maps)") from error
    found: list[Range] = []
    for entry in fields:
        if len(entry) == 6 and entry[5].startswith(path):
            start, end = (int(part, 16) for part in entry[0].split("-"))
            first = start - int(entry[2], 16)
            with suppress(FileNotFoundError):  # the name is gone, and the map is not
                end = max(end, first + os.stat(entry[5]).st_size)
            # The kernel lists one map of a file in several pieces where their flags differ.
            if found and found[-1][0] <= first < found[-1][1]:
                found[-1] = (found[-1][0], max(end, found[-1][1]))
            else:
                found.append((first, end))
    return found


def data_buffers(column: pa.ChunkedArray) -> Iterator[pa.Buffer]:
    """The buffers of a column that hold at least one byte, its dictionaries included."""
    for chunk in column.chunks:
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        for buffer in array.buffers():
            if buffer is not None and buffer.size:
                yield buffer
        if isinstance(array, pa.DictionaryArray):
            yield from data_buffers(pa.chunked_array([array.dictionary]))


def touch(table: pa.Table) -> None:
    """Reads one byte of each page: what is mapped is in memory after this, as what is copied has been before."""
    for column in table.columns:
        for buffer in data_buffers(column):
            np.frombuffer(buffer, np.uint8)[::4096].max()


def _lies_in(buffer: pa.Buffer, ranges: tuple[Range, ...]) -> bool:
    start, end = span(buffer)
    return any(first <= start and end <= last for first, last in ranges)
