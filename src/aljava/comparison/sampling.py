"""What is measured: all of the data where that is little, else pieces from all over it.

What a file holds is listed by its metadata, so that of 20 GB only the batches are read that are measured. What comes
as a stream has to be read to its end, but is thinned on the way: memory stays at twice the sample.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from aljava import api, foreign
from aljava.copying import text_places
from aljava.foreign import Kind
from aljava.frames import in_memory, regroup, to_reader, to_table
from aljava.payloads import Payloads
from aljava.received import ReceivedDataset
from aljava.scanning import Selection

#: More data than this is sampled unless the caller says how much to take: zstd:9 writes about 50 MB/s.
SAMPLE_BYTES = 128 << 20
#: Places that a sample is taken from, at least.
PLACES = 8


@dataclass(frozen=True)
class Sample:
    """Rows that stand for a table."""

    #: The rows.
    table: pa.Table
    #: How many rows there are in all.
    total_rows: int
    #: How they were taken; empty where they are all.
    how: str


def sample_of(data: Any, rows: int | None = None) -> Sample:
    """Rows that stand for data of any size.

    Args:
        data: table-like, or an address: as in `aljava.copy`, so CSV and JSON lines too.
        rows: how many; by default as many as 128 MiB hold.

    Raises:
        UnsupportedType: `data` is not table-like.
        NotFound, InvalidData: there is nothing at the address, or no table.

    Example:
        >>> sample = sample_of({"row": range(1000)}, rows=4)
        >>> sample.table["row"].to_pylist(), sample.total_rows
        ([0, 333, 666, 999], 1000)
    """
    if isinstance(data, str | bytes | os.PathLike | pa.Buffer):
        kind = Kind.of(data) if isinstance(data, str | os.PathLike) else Kind("arrow")
        places = text_places(data, kind)
        data = api.open(data) if places is None else foreign.read(places, kind)
    if isinstance(data, Payloads) and not isinstance(data, ReceivedDataset):
        return _of_payloads(data, rows)
    if in_memory(data):
        return _of_table(to_table(data), rows)
    return _of_stream(to_reader(data) if _streams(data) else to_table(data).to_reader(), rows)


def _streams(data: Any) -> bool:
    return isinstance(data, pa.RecordBatchReader) or not hasattr(data, "__arrow_c_array__")


def _of_table(table: pa.Table, rows: int | None) -> Sample:
    wanted = _wanted(rows, table.num_rows, table.nbytes)
    if wanted >= table.num_rows:
        return Sample(table, table.num_rows, "")
    places = min(PLACES, wanted)
    pieces = [
        table.slice(first, count)
        for first, count in zip(_starts(table.num_rows, wanted, places), _shares(wanted, places), strict=True)
    ]
    return Sample(_compact(pa.concat_tables(pieces)), table.num_rows, f"taken from {places} places")


def _compact(table: pa.Table) -> pa.Table:
    """The rows in memory of their own: pickle, for one, writes all of what a slice is a part of."""
    sink = pa.BufferOutputStream()
    api.write(table, sink, compression="none", statistics=False, checksums=False)
    return api.read(sink.getvalue())


def _of_payloads(dataset: Payloads, rows: int | None) -> Sample:
    tasks = list(dataset._tasks(Selection(dataset.schema, None, None, dataset.address)))
    total = dataset.num_rows
    if not total or all(task.free for task in tasks):  # what is only pointed at is cut as a table is
        return _of_table(dataset.to_table(), rows)
    beginning = tasks[0].read()
    looked_at = sum(batch.num_rows for batch in beginning)
    wanted = _wanted(rows, total, sum(batch.nbytes for batch in beginning) * total // max(1, looked_at))
    if wanted >= total:
        return Sample(dataset.to_table(), total, "")
    spread = np.linspace(0, len(tasks) - 1, min(len(tasks), max(PLACES, -(-len(tasks) * wanted // total))))
    first = [int(number) for number in spread.round()]
    # Where those are too short, the others make up for it.
    order = [*first, *sorted(set(range(len(tasks))) - set(first))]
    taken: dict[int, list[pa.RecordBatch]] = {}
    left = wanted
    for position, number in enumerate(order):
        if not left:
            break
        quota = -(-left // max(1, len(first) - position))
        taken[number] = list(_beginning(tasks[number].read() if number else beginning, quota))
        left -= sum(batch.num_rows for batch in taken[number])
    batches = [batch for number in sorted(taken) for batch in taken[number]]
    table = pa.Table.from_batches(batches).replace_schema_metadata(dataset.schema.metadata)
    return Sample(_compact(table), total, f"taken from {len(taken)} places; the other batches were not read")


def _beginning(batches: list[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if rows > 0:
            yield batch.slice(0, rows)
        rows -= batch.num_rows


def _of_stream(reader: pa.RecordBatchReader, rows: int | None) -> Sample:
    kept: list[pa.RecordBatch] = []
    total, step = 0, 1
    for number, batch in enumerate(regroup(reader)):
        total += batch.num_rows
        if number % step:
            continue
        kept.append(batch)
        weight = sum(it.nbytes if rows is None else it.num_rows for it in kept)
        if weight > 2 * (rows or SAMPLE_BYTES) and len(kept) > 1:
            kept, step = kept[::2], 2 * step
    sample = _of_table(pa.Table.from_batches(kept, reader.schema), rows)
    how = "taken from all over a stream, which was read once" if sample.table.num_rows < total else ""
    return Sample(sample.table, total, how)


def _wanted(rows: int | None, total: int, nbytes: int) -> int:
    if rows is None:
        return total if nbytes <= SAMPLE_BYTES else max(1, total * SAMPLE_BYTES // nbytes)
    return min(rows, total)


def _shares(rows: int, places: int) -> list[int]:
    cuts = [rows * index // places for index in range(places + 1)]
    return [after - before for before, after in pairwise(cuts)]


def _starts(total: int, rows: int, places: int) -> list[int]:
    """First rows of the pieces: the first at the beginning, the last where it ends at the end, gaps as wide."""
    return [(total - rows) * index // max(1, places - 1) + rows * index // places for index in range(places)]
