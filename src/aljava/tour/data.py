"""The table that the tour is about: any file that `aljava.read` knows, CSV, JSON lines, or the notebook's own."""

import io
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from aljava import api
from aljava.address import locate
from aljava.errors import InvalidData, InvalidOption
from aljava.places.place import Place

SAMPLE_ROWS = 1_000_000
SEED = 7

_CSV = {".csv": ",", ".tsv": "\t"}
_JSON = {".json", ".jsonl", ".ndjson"}
# What begins a binary table, whatever its file is called.
_BINARY = (b"ARROW1", b"PAR1", b"FEA1", b"\xff\xff\xff\xff")


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
    place = locate(address)
    extension = os.path.splitext(address)[1].lower()
    if extension in _CSV or extension in _JSON:
        source = place.source()
        if not source.read(min(source.size(), 8)).startswith(_BINARY):
            source.seek(0)
            table = _csv(source, place, _CSV[extension]) if extension in _CSV else _json(source, place)
            return TourData(place.address, "CSV" if extension in _CSV else "JSON lines", _first(table, rows))
    dataset = api.open(place)
    table = dataset.to_table() if rows is None else _beginning(dataset.to_reader(), rows)
    return TourData(place.address, dataset.format.value, table)


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


def _first(table: pa.Table, rows: int | None) -> pa.Table:
    return table if rows is None else table.slice(0, rows)


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


def _csv(source: Any, place: Place, delimiter: str) -> pa.Table:
    from pyarrow import csv

    try:
        return csv.read_csv(source, parse_options=csv.ParseOptions(delimiter=delimiter))
    except pa.ArrowInvalid as error:
        raise _ragged(place, delimiter) or InvalidData(f"{place.address} cannot be read as CSV: {error}") from error


def _ragged(place: Place, delimiter: str) -> InvalidData | None:
    """The first row with too many or too few values. pyarrow counts rows only on one thread: once more, then."""
    from pyarrow import csv

    found = []

    def note(row: Any) -> str:
        found.append(row)
        return "error"

    with suppress(pa.ArrowInvalid):
        csv.read_csv(
            place.source(),
            read_options=csv.ReadOptions(use_threads=False),
            parse_options=csv.ParseOptions(delimiter=delimiter, invalid_row_handler=note),
        )
    if not found:
        return None
    row = found[0]
    line = _line_of_row(place, row.number)
    return InvalidData(
        f"{place.address}, line {line}: {row.actual_columns} values where the header has {row.expected_columns} "
        f"({row.text[:60]!r}). Mend that line, or quote values that hold {delimiter!r}"
    )


def _line_of_row(place: Place, row: int) -> int:
    """The number of a row's line in the file: pyarrow does not count empty lines."""
    for number, line in enumerate(io.BufferedReader(place.source()), start=1):
        row -= bool(line.strip(b"\r\n"))
        if not row:
            return number
    return row


def _json(source: Any, place: Place) -> pa.Table:
    from pyarrow import json

    if source.read(min(source.size(), 64)).lstrip()[:1] == b"[":
        raise InvalidData(
            f"{place.address} is one JSON array, and Aljava reads JSON lines: one object a line. "
            f"Convert it, for example with: jq -c '.[]'"
        )
    source.seek(0)
    try:
        # A block must hold the longest line.
        return json.read_json(source, read_options=json.ReadOptions(block_size=16 << 20))
    except pa.ArrowInvalid as error:
        raise InvalidData(
            f"{place.address} cannot be read as JSON lines (one object a line): {error}. Mend that line and try again"
        ) from error
