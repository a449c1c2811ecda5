"""From any readable format to any place: Arrow IPC, Parquet, CSV and JSON lines, batch by batch."""

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from aljava import foreign
from aljava.address import locate
from aljava.api import Written, open, write
from aljava.foreign import Kind
from aljava.frames import Progress, regroup
from aljava.listing import parts
from aljava.places.fileobject import FileObject
from aljava.places.pipes import NamedPipe
from aljava.places.place import Counting, Place
from aljava.received import ReceivedDataset


def source_of(
    address: Any, columns: Sequence[str] | None = None, where: str | None = None, *, format: str | None = None
) -> pa.RecordBatchReader:
    """The rows at an address, which may be CSV or JSON lines too, by the end of its name.

    Args:
        address: as in `aljava.open`.
        columns: names of the columns to read.
        where: a condition in SQL.
        format: "csv", "tsv" or "json", where the name does not say it.

    Raises:
        QueryError: a column that does not exist, a condition that cannot be evaluated.
    """
    return _source(address, columns, where, format)[0]


def _source(
    address: Any, columns: Sequence[str] | None, where: str | None, format: str | None
) -> tuple[pa.RecordBatchReader, int | None]:
    """The rows, and how many they are where that is known without reading them."""
    kind = Kind.of(address[0] if isinstance(address, list | tuple) and address else address, format)
    places = text_places(address, kind)
    rows: Any = open(address) if places is None else foreign.read(places, kind)
    if where is None and places is None:
        total = None if isinstance(rows, ReceivedDataset) else rows.num_rows
        return rows.to_reader(columns), total
    if where is None and columns is None:
        return rows, None
    from aljava.queries import sql

    names = "*" if columns is None else ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    condition = "" if where is None else f" where ({where})"
    return sql(f"select {names} from copied_rows{condition}", copied_rows=rows).to_arrow_reader(), None


def copy(
    source: Any,
    target: Any,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    compression: str | None = None,
    source_format: str | None = None,
    target_format: str | None = None,
    progress: Progress | None = None,
) -> Written:
    """Copies a table to another place, in the format of the target's name: `.parquet`, `.csv`, `.jsonl`, else Arrow.

    What CSV, JSON and Parquet cannot hold is told by the error, or spelled as `aljava.foreign` says.

    Args:
        source: an address, or a list of several that become one table; Arrow IPC, Feather and Parquet by their bytes,
            CSV and JSON lines by the name (`.csv`, `.tsv`, `.json`, `.jsonl`, `.ndjson`, with `.gz`, `.bz2` or `.zst`).
        target: an address.
        columns: names of the columns to copy.
        where: a condition in SQL.
        compression: as in `aljava.write`; of Parquet "zstd" (the default), "snappy", "gzip" or "none".
        source_format: "arrow", "parquet", "csv", "tsv" or "json", where the name does not say it.
        target_format: the same of the target.
        progress: called after each batch with the rows done and the rows in all (None where not known).

    Raises:
        UnsupportedType: names the column that the format cannot hold; nothing was written.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = write({"id": [1, 2, 3], "name": ["a", "", None]}, folder + "/t.arrow")
        >>> copy(folder + "/t.arrow", folder + "/t.csv", where="id > 1").rows
        2
        >>> print(__import__("builtins").open(folder + "/t.csv").read())
        "id","name"
        2,""
        3,
        <BLANKLINE>
    """
    reader, total = _source(source, columns, where, source_format)
    kind = Kind.of(target, target_format)

    def told(done: int, _: int | None = None) -> None:
        if progress:
            progress(done, total)

    if kind.format == "arrow":
        return write(reader, target, compression=compression or "auto", progress=told)
    start = time.perf_counter()
    rows = batches = 0
    place = FileObject(sys.stdout.buffer) if isinstance(target, str) and target == "-" else locate(target)
    with place.sink() as sink:
        counted = Counting(sink)
        # Closed also where it fails, while the sink still takes what a writer says at its end.
        with closing(foreign.writer(kind, counted, reader.schema, compression, place.address)) as writer:
            # Gathered: a batch becomes a row group of Parquet.
            for batch in regroup(reader):
                writer.write(batch)
                rows += batch.num_rows
                batches += 1
                told(rows)
    return Written(rows, batches, counted.bytes, time.perf_counter() - start)


def text_places(address: Any, kind: Kind) -> list[Place] | None:
    """Where the texts of an address stand; None if what is called a text is a binary table."""
    if not kind.is_text:
        return None
    if isinstance(address, str) and address == "-":
        return [FileObject(sys.stdin.buffer)]
    places = [part.place for part in parts(address)]
    if any(isinstance(place, NamedPipe) for place in places):
        # Read as it comes: nothing can be tried first.
        return [FileObject(place.opened()) if isinstance(place, NamedPipe) else place for place in places]
    return None if kind.codec is None and foreign.is_binary(places[0]) else places
