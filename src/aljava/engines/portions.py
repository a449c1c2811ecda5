"""Portions of a dataset, for workers of other processes and machines: planned here, read there.

::

    dataset, filter ──> files and batches that can match ──> portions of some 64 MB ──> one task each
                        (partitions and zones, at the client)    (addresses and numbers)     (opened by the worker)

No row travels from the client: a portion says where its payloads stand and which of their record batches to read.
"""

import functools
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from aljava.errors import InvalidData, InvalidOption, NotFound
from aljava.fragments import TASK_BYTES, Fragment, Task, Wanted, width
from aljava.kept import KeptFiles
from aljava.listing import Part
from aljava.payloads import Payloads
from aljava.places.local import LocalFile
from aljava.scanning import Selection

#: Bytes in memory, of the columns that are read, that a portion has about.
PORTION_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """Record batches of one payload."""

    #: Where it stands, and what its folders say.
    part: Part
    #: Its number among the payloads of the dataset.
    number: int
    #: The batches, and the rows of them that can match.
    wanted: tuple[Wanted, ...]
    #: Bytes of the payload when this was planned.
    payload_bytes: int


@dataclass(frozen=True)
class Portion:
    """What one task reads: record batches that stand one after the other, of one payload or of several small ones."""

    pieces: tuple[Piece, ...]
    #: Rows that zones do not rule out.
    rows: int
    #: About how many bytes they take in memory.
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """All portions of a dataset that can hold a row that matches, and what their readers have in common."""

    portions: tuple[Portion, ...]
    reader: "Reader"


class Reader:
    """Reads portions, in any process that can open their addresses.

    Args:
        dataset: what they are portions of.
        filter: an expression that a row must fulfil, or None.
    """

    def __init__(self, dataset: Any, filter: Any) -> None:
        self._address, self._schema, self._filter = dataset.address, dataset.schema, filter
        self._file_schema, self._partitions = dataset._file_schema, dataset._partitions
        _, self._options = dataset._opened_from
        self._planned_on = platform.node()

    def batches(self, portion: Portion, columns: Any = None) -> Iterator[pa.RecordBatch]:
        """The rows of a portion that match, in order.

        Raises:
            NotFound: this machine has nothing at one of the addresses.
            InvalidData: a payload is damaged, or is another than it was when the portion was planned.
        """
        return self._open(portion).to_batches(columns, self._filter)

    def table(self, portion: Portion, columns: Any = None) -> pa.Table:
        """The same as one table."""
        return self._open(portion).to_table(columns, self._filter)

    def _open(self, portion: Portion) -> "_Opened":
        fragments = [self._fragment(piece) for piece in portion.pieces]
        partitions = self._partitions
        if partitions.num_columns:
            partitions = partitions.take([piece.number for piece in portion.pieces])
        wanted = [piece.wanted for piece in portion.pieces]
        return _Opened(fragments, partitions, self._file_schema, wanted)

    def _fragment(self, piece: Piece) -> Fragment:
        place = piece.part.place
        try:
            fragment = _kept().open(place, **self._options)
        except NotFound as error:
            here = platform.node()
            if place.remote or here == self._planned_on:
                raise
            raise NotFound(
                f"{error} on {here}: it was found on {self._planned_on}, and each machine that reads it needs it at "
                "the same address; give addresses that all of them reach, or write it once on each machine"
            ) from error
        if fragment.nbytes != piece.payload_bytes:
            raise InvalidData(
                f"{place.address} has {fragment.nbytes:,} bytes and had {piece.payload_bytes:,} when the work was "
                "planned: open it anew"
            )
        return fragment


class _Opened(Payloads):
    """The payloads of one portion, of which its batches are read and no others."""

    def __init__(
        self,
        fragments: Sequence[Fragment],
        partitions: pa.Table,
        file_schema: pa.Schema,
        wanted: Sequence[Sequence[Wanted]],
    ) -> None:
        self._wanted = wanted
        self._begin(fragments, partitions, None, file_schema)

    def _table(self, selection: Selection) -> pa.Table | None:
        return None

    def _tasks(self, selection: Selection) -> Iterator[Task]:
        for number, wanted in enumerate(self._wanted):
            fragment = self._fragments[number]
            columns, finish = self._fitting(number, selection)
            for group in _gathered(wanted, fragment.extents[1], TASK_BYTES):
                task = fragment.task(group, columns)
                yield task if finish is None else task.then(finish)


def plan(dataset: Any, columns: Any = None, filter: Any = None, portion_bytes: int | None = None) -> Plan:
    """Cuts a dataset into portions; only metadata is read.

    Args:
        dataset: an `aljava.Dataset`.
        columns: what will be read, as in `Dataset.scanner`.
        filter: a `pyarrow.compute.Expression`; files and batches that cannot match are in no portion.
        portion_bytes: about how many bytes a portion is to take in memory; 64 MB by default.

    Raises:
        InvalidOption: other processes cannot open the dataset: a stream, a buffer, a file object.
        QueryError: a column that does not exist, a filter that cannot be evaluated.
    """
    if portion_bytes is None:
        portion_bytes = PORTION_BYTES
    if portion_bytes < 1:
        raise InvalidOption(f"a portion of {portion_bytes} bytes: it must have at least 1")
    dataset.must_travel()
    filter = dataset._and(filter)
    selection = Selection(dataset.schema, columns, filter, dataset.address)
    share = _share(dataset._file_schema, selection.needed)
    parts, _ = dataset._opened_from
    portions: list[Portion] = []
    pieces: list[Piece] = []
    rows = nbytes = 0.0
    for number, (part, fragment, kept) in enumerate(zip(parts, dataset._fragments, dataset._kept(filter), strict=True)):
        if not kept:
            continue
        row_counts, sizes = fragment.extents
        group: list[Wanted] = []
        for wanted in fragment.wanted(filter, dataset.schema):
            every = int(row_counts[wanted.number])
            here = every if wanted.spans is None else sum(count for _, count in wanted.spans)
            if not here:
                continue
            group.append(wanted)
            rows += here
            nbytes += float(sizes[wanted.number]) * share * here / every
            if nbytes >= portion_bytes:
                pieces.append(Piece(_absolute(part), number, tuple(group), fragment.nbytes))
                portions.append(Portion(tuple(pieces), int(rows), int(nbytes)))
                pieces, group, rows, nbytes = [], [], 0.0, 0.0
        if group:
            pieces.append(Piece(_absolute(part), number, tuple(group), fragment.nbytes))
    if pieces:
        portions.append(Portion(tuple(pieces), int(rows), int(nbytes)))
    return Plan(tuple(portions), Reader(dataset, filter))


@functools.cache
def _kept() -> KeptFiles:
    # The tasks of one file follow each other in a worker: it is opened once.
    return KeptFiles()


def _gathered(wanted: Sequence[Wanted], sizes: Any, least: int) -> Iterator[list[Wanted]]:
    held: list[Wanted] = []
    nbytes = 0
    for one in wanted:
        held.append(one)
        nbytes += int(sizes[one.number])
        if nbytes >= least:
            yield held
            held, nbytes = [], 0
    if held:
        yield held


def _absolute(part: Part) -> Part:
    """The same file for a worker that runs in another folder."""
    if isinstance(part.place, LocalFile):
        return replace(part, place=LocalFile(os.path.abspath(part.place.path)))
    return part


def _share(schema: pa.Schema, names: Sequence[str] | None) -> float:
    """Which part of the bytes of all columns some columns take, about."""
    if names is None:
        return 1.0
    every = sum(width(field.type) for field in schema)
    return sum(width(field.type) for field in schema if field.name in names) / every if every else 1.0
