"""From any readable format to any place: Arrow IPC, Parquet, CSV and JSON lines, batch by batch."""

import base64
import datetime
import decimal
import json
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from aljava.address import locate
from aljava.api import Written, open, write
from aljava.errors import InvalidData
from aljava.frames import Progress

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}


def source_of(address: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.RecordBatchReader:
    """The rows at an address, which may be CSV or JSON lines too, by the end of its name.

    Args:
        address: as in `aljava.open`.
        columns: names of the columns to read.
        where: a condition in SQL.

    Raises:
        QueryError: a column that does not exist, a condition that cannot be evaluated.
    """
    kind = format_of(address)
    if kind in ("csv", "json"):
        rows: Any = _text_reader(address, kind)
    else:
        dataset = open(address)
        if where is None:
            return dataset.to_reader(columns)
        rows = dataset
    if where is None and columns is None:
        return rows
    from aljava.queries import sql

    names = "*" if columns is None else ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    condition = "" if where is None else f" where ({where})"
    return sql(f"select {names} from copied_rows{condition}", copied_rows=rows).to_arrow_reader()


def format_of(address: str) -> str | None:
    """What the end of a name says: "parquet", "csv", "json", or None for Arrow."""
    name = address.partition("?")[0] if "://" in address else address
    return next((kind for suffix, kind in FORMATS.items() if name.lower().endswith(suffix)), None)


def copy(
    source: str,
    target: str,
    *,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    compression: str | None = None,
    progress: Progress | None = None,
) -> Written:
    """Copies a table to another place, in the format of the target's name: `.parquet`, `.csv`, `.jsonl`, else Arrow.

    Args:
        source: an address; Arrow IPC, Feather and Parquet by their bytes, CSV and JSON lines by the name.
        target: an address.
        columns: names of the columns to copy.
        where: a condition in SQL.
        compression: as in `aljava.write`; of Parquet "zstd" (the default), "snappy", "gzip" or "none".
        progress: called after each batch with the rows done.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = write({"id": [1, 2, 3], "name": ["a", "b", None]}, folder + "/t.arrow")
        >>> copy(folder + "/t.arrow", folder + "/t.csv", where="id > 1").rows
        2
        >>> print(__import__("builtins").open(folder + "/t.csv").read())
        "id","name"
        2,"b"
        3,
        <BLANKLINE>
    """
    reader = source_of(source, columns, where)
    kind = format_of(target)
    if kind is None:
        return write(reader, target, compression=compression or "auto", progress=progress)
    return _write_foreign(reader, target, kind, compression, progress)


def _write_foreign(
    reader: pa.RecordBatchReader, target: str, kind: str, compression: str | None, progress: Progress | None
) -> Written:
    start = time.perf_counter()
    rows = batches = 0
    with locate(target).sink() as sink:
        counted = _Counted(sink)
        writer = _writer(kind, counted, reader.schema, compression)
        for batch in reader:
            writer.write(batch)
            rows += batch.num_rows
            batches += 1
            if progress:
                progress(rows, None)
        writer.close()
    return Written(rows, batches, counted.bytes, time.perf_counter() - start)


def _writer(kind: str, sink: Any, schema: pa.Schema, compression: str | None) -> Any:
    if kind == "parquet":
        from pyarrow import parquet

        return parquet.ParquetWriter(sink, schema, compression=compression or "zstd")
    if kind == "csv":
        from pyarrow import csv

        return csv.CSVWriter(pa.PythonFile(sink, "w"), schema)
    return JsonLines(sink)


def _text_reader(address: str, kind: str) -> pa.RecordBatchReader:
    place = locate(address)
    source = place.source()
    try:
        if kind == "csv":
            from pyarrow import csv

            reader = csv.open_csv(source)
        else:
            from pyarrow import json as arrow_json

            reader = arrow_json.open_json(source)
        schema = reader.schema
    except pa.ArrowInvalid as error:
        raise InvalidData(f"{place.address} cannot be read as {kind}: {error}") from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except pa.ArrowInvalid as error:
            raise InvalidData(f"{place.address} cannot be read as {kind}: {error}") from error

    return pa.RecordBatchReader.from_batches(schema, batches())


class JsonLines:
    """An object a row, a line each."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def write(self, batch: pa.RecordBatch) -> None:
        lines = [json.dumps(_plain(row), ensure_ascii=False, separators=(",", ":")) for row in batch.to_pylist()]
        self._sink.write("".join(line + "\n" for line in lines).encode())

    def close(self) -> None:
        """Nothing is held back."""


def _plain(value: Any) -> Any:
    """A value of a row as JSON has it."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode()
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal() | datetime.timedelta():
            return str(value)
    return value


class _Counted:
    """A sink that counts, for writers that want a file."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.bytes = 0

    def write(self, data: Any) -> int:
        self._sink.write(data)
        size = memoryview(data).nbytes
        self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def flush(self) -> None:
        """The place flushes at its end."""

    def close(self) -> None:
        """The place closes at its end."""
