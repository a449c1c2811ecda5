"""The table that the tour is about: any file that `aljava.read` knows, CSV, JSON lines, or the notebook's own."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from aljava import api
from aljava.copying import text_places
from aljava.errors import InvalidOption
from aljava.foreign import Kind, read

SAMPLE_ROWS = 1_000_000
SEED = 7


@dataclass(frozen=True)
class TourData:
    """A table, and where it came from."""

    #: What a reader would call it: an address, or what was made.
    name: str
    #: The format that it was read from, or how it was made.
    origin: str
    #: The data.
    table: pa.Table


def load(address: str | None = None, rows: int | None = None) -> TourData:
    """The table at an address, or the notebook's own.

    Args:
        address: whatever `aljava.read` takes, or a CSV or JSON-lines file, told by its ending; None for the notebook's
            table: `id` counts up, `value` is standard normal, `category` is one of A to E, from a fixed seed.
        rows: how many rows to make (1,000,000 by default), or to take from the file's beginning (all by default).

    Raises:
        InvalidOption: a negative number of rows.
        NotFound, AccessDenied: there is no such file, or it may not be read.
        InvalidData: no table, or a damaged one; for a CSV row with too many or too few values, says which line.

    Example:
        >>> load(rows=2).table.column_names
        ['id', 'value', 'category']
    """
    if rows is not None and rows < 0:
        raise InvalidOption(f"--rows {rows}: it must be 0 or more")
    if address is None:
        return TourData("the notebook's table", f"made with seed {SEED}", sample(SAMPLE_ROWS if rows is None else rows))
    kind = Kind.of(address)
    if texts := text_places(address, kind):
        reader, origin = read(texts, kind), "JSON lines" if kind.format == "json" else "CSV"
    else:
        dataset = api.open(address)
        reader, origin = dataset.to_reader(), dataset.format.value
    return TourData(address, origin, reader.read_all() if rows is None else _beginning(reader, rows))


def sample(rows: int) -> pa.Table:
    """The notebook's table: `id` int64 counting up, `value` float64 standard normal, `category` one of A to E."""
    random = np.random.default_rng(SEED)
    letters = pa.array(["A", "B", "C", "D", "E"])
    return pa.table(
        {
            "id": pa.array(np.arange(rows, dtype=np.int64)),
            "value": pa.array(random.standard_normal(rows)),
            "category": letters.take(pa.array(random.integers(0, 5, rows))),
        }
    )


def _beginning(reader: pa.RecordBatchReader, rows: int) -> pa.Table:
    """The first rows; what comes after them is not read."""
    batches: list[pa.RecordBatch] = []
    while rows > 0:
        try:
            batches.append(reader.read_next_batch().slice(0, rows))
        except StopIteration:
            break
        rows -= batches[-1].num_rows
    return pa.Table.from_batches(batches, reader.schema)
