"""The doorway: an address in, a table out; a table in, an address filled."""

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from aljava import frames, ipc
from aljava.address import locate
from aljava.errors import InvalidOption, NotFound
from aljava.frames import Progress
from aljava.places.place import Place
from aljava.places.stream import StreamPlace

if TYPE_CHECKING:
    # Brings pyarrow.dataset, which brings pandas.
    from aljava.dataset import Dataset
    from aljava.fragments import Fragment
    from aljava.payloads import Columns

MODES = ("replace", "create", "append")


@dataclass(frozen=True)
class Written:
    """What a write did.

    Examples:
        >>> import io
        >>> written = write({"id": [1, 2, 3]}, io.BytesIO())
        >>> written.rows, written.batches
        (3, 1)
    """

    #: Rows written by this call.
    rows: int
    #: Record batches written by this call.
    batches: int
    #: Bytes written by this call, all framing included.
    bytes: int
    #: Wall-clock time of the call.
    seconds: float


def write(
    data: Any,
    target: Any,
    *,
    compression: str = "auto",
    mode: str = "replace",
    batch_rows: int | None = None,
    statistics: bool = True,
    checksums: bool = True,
    metadata: Mapping[str, str] | None = None,
    durable: bool = False,
    progress: Progress | None = None,
    filesystem: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Written:
    """Writes a table to a place, whole or not at all.

    Args:
        data: anything table-like: a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, a pandas or Polars
            frame, a DuckDB relation, a dict of arrays, or anything with `__arrow_c_stream__`. What comes batch by
            batch is written batch by batch: memory stays at a few batches, whatever its length.
        target: an address: a path, `shm://STORE/KEY`, `s3://BUCKET/KEY` and its like, a writable buffer or an open
            file.
        compression: "auto" (buffer by buffer, where it pays), "none", "lz4", "zstd" or "zstd:LEVEL".
        mode: "replace", "create" (fails if something stands there) or "append".
        batch_rows: rows in each record batch; by default they are cut and gathered to a sensible number of bytes.
        statistics: write zone maps (min, max, null count), with which a filter skips what cannot match.
        checksums: write a checksum of each record batch, with which damage is found.
        metadata: text to keep with the schema, beside what is there.
        durable: return only when the bytes would survive a loss of power.
        progress: called after each batch with the rows done and the rows in all (None where not known).
        filesystem: of pyarrow or fsspec, in which `target` is a path.
        storage_options: for fsspec's file system of that address.

    Returns:
        what was written: rows, batches, bytes and seconds.

    Raises:
        UnsupportedType: `data` is not table-like.
        AlreadyExists: mode="create", and something stands there.
        AccessDenied, TransferError, StoreFull: the place cannot take it; what stood there before is intact.

    Examples:
        >>> import tempfile
        >>> address = tempfile.mkdtemp() + "/trades.arrow"
        >>> write({"id": [1, 2, 3], "price": [0.5, 1.5, 2.5]}, address).rows
        3
        >>> read(address, columns=["price"]).num_rows
        3
    """
    start = time.perf_counter()
    if mode not in MODES:
        raise InvalidOption(f"mode {mode!r} is none of {', '.join(MODES)}")
    if batch_rows is not None and batch_rows < 1:
        raise InvalidOption(f"batch_rows is {batch_rows}: it must be at least 1")
    place = locate(target, filesystem=filesystem, storage_options=storage_options)
    _must_be_arrow(place.address)
    if place.streams and mode != "replace":
        raise InvalidOption(f"{place.address} is a stream: mode={mode!r} is for places that keep what is written")
    if place.streams and compression == "auto":
        compression = "none"  # to compress takes longer than to send, on this machine and on a fast network
    options = ipc.WriteOptions(compression, statistics=statistics, checksums=checksums)
    if place.takes_tables and frames.in_memory(data) and mode != "append" and not metadata:
        table = frames.to_table(data)
        size = place.write(table, options, create=mode == "create", durable=durable)
        if progress:
            progress(table.num_rows, table.num_rows)
        return Written(table.num_rows, len(table.to_batches()), size, time.perf_counter() - start)
    reader = frames.to_reader(data)
    schema = reader.schema
    if metadata:
        schema = schema.with_metadata({**(schema.metadata or {}), **_encoded(metadata)})
    total = data.num_rows if isinstance(data, pa.Table | pa.RecordBatch) else None
    rows = batches = 0

    def counted(parts: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        nonlocal rows, batches
        for batch in parts:
            yield batch.replace_schema_metadata(schema.metadata) if metadata else batch
            rows += batch.num_rows
            batches += 1
            if progress:
                progress(rows, total)

    split = compression != "none"
    if mode == "append":
        from aljava import appending

        existing = _standing(place)
        if existing is not None:
            if metadata:
                raise InvalidOption(f"{place.address} has its metadata already: appending does not change it")
            schema = existing.schema
            fitting = appending.conformed(reader, schema, place.address)
            parts = counted(frames.regroup(fitting, batch_rows, split=split))
            if appending.can_append(existing):
                del existing
                written = appending.append(place, parts, options, durable)
            else:
                # A stream, a buffer, another format: there is no end to go on from, and it is written again.
                old = (batch for task in existing.tasks(None) for batch in task.read())
                both = pa.RecordBatchReader.from_batches(schema, itertools.chain(old, parts))
                written = place.write(both, options, durable=durable)
            return Written(rows, batches, written, time.perf_counter() - start)
    if place.streams and batch_rows is None and not frames.in_memory(data):
        parts = counted(iter(reader))  # as they come: a live stream does not wait to be gathered
    else:
        parts = counted(frames.regroup(reader, batch_rows, split=split))
    written = place.write(
        pa.RecordBatchReader.from_batches(schema, parts), options, create=mode == "create", durable=durable
    )
    return Written(rows, batches, written, time.perf_counter() - start)


def append(data: Any, target: Any, **options: Any) -> Written:
    """Adds rows to what stands at an address; the same as `write(..., mode="append")`.

    The cost is that of the rows that are added, however long the file is: new batches go where the footer stood, and
    a new footer, with the statistics and checksums of all, behind them. Two appenders wait for each other. Columns may
    come in another order, or with types that cast without loss. Where nothing stands yet, the file is made.

    Args:
        data: as in `write`.
        target: as in `write`. Object stores cannot append: there the object is fetched, extended and sent again.
        **options: those of `write`, but `mode` and `metadata`.

    Returns:
        what was added.

    Raises:
        InvalidOption: another mode.
        SchemaMismatch: names the column that does not fit; nothing was changed.
        TruncatedFile: an earlier append died; `aljava repair` first.
        AccessDenied, TransferError: the place cannot take it; what stood there before is intact.

    Examples:
        >>> import tempfile
        >>> address = tempfile.mkdtemp() + "/trades.arrow"
        >>> for day in (1, 2):
        ...     _ = append({"day": [day], "price": [day * 10.0]}, address)
        >>> read(address).to_pydict()
        {'day': [1, 2], 'price': [10.0, 20.0]}
    """
    mode = options.pop("mode", "append")
    if mode != "append":
        raise InvalidOption(f"mode={mode!r}: append appends; use write(…, mode={mode!r})")
    return write(data, target, mode="append", **options)


def read(
    source: Any,
    *,
    columns: "Columns" = None,
    filter: Any = None,
    untrusted: bool = False,
    memory_map: bool = True,
    progress: Progress | None = None,
    filesystem: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pa.Table:
    """The table at a place. Arrow IPC files and streams, Feather and Parquet are told apart by their bytes.

    Args:
        source: an address: a path, a glob or a folder, `shm://STORE/KEY`, `https://…`, `s3://BUCKET/KEY` and its
            like, bytes or another buffer, an open file; or a list of these, which are read as one table.
        columns: names of the columns to read, in this order, or name -> expression; all by default.
        filter: a `pyarrow.compute.Expression` that a row must fulfil.
        untrusted: check every value, as one must with data from strangers; costs a pass over the data.
        memory_map: whether a file of this machine is mapped. A map shows what the file holds: Aljava and whoever else
            replaces a file leaves it as it was, but a program that cuts the file short in place takes the pages
            away, and reading them then kills the process (SIGBUS). False copies the file into memory first.
        progress: called after each batch with the rows done and the rows in all (None where not known).
        filesystem: of pyarrow or fsspec, in which `source` is a path.
        storage_options: for fsspec's file system of that address, or `{"headers": …}` for http.

    Returns:
        a `pyarrow.Table`; raw data of a local file, a buffer or a store is not copied.

    Raises:
        NotFound: nothing stands there.
        TruncatedFile: a file without its end.
        InvalidData: no table, or a damaged one.
        QueryError: a column that does not exist, a filter that cannot be evaluated.

    Examples:
        >>> import tempfile, pyarrow.compute as pc
        >>> address = tempfile.mkdtemp() + "/trades.arrow"
        >>> _ = write({"day": [1, 1, 2], "price": [0.5, 1.5, 2.5]}, address)
        >>> read(address, columns=["price"], filter=pc.field("day") == 1).to_pydict()
        {'price': [0.5, 1.5]}
    """
    from aljava.payloads import Payloads

    payloads = opened(
        Payloads,
        source,
        untrusted=untrusted,
        memory_map=memory_map,
        filesystem=filesystem,
        storage_options=storage_options,
    )
    return payloads.to_table(columns, filter, progress=progress)


def open(
    source: Any,
    *,
    untrusted: bool = False,
    memory_map: bool = True,
    filesystem: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> "Dataset":
    """The table at a place, read when asked: only the columns and the rows that are wanted.

    Args:
        source: as in `read`.
        untrusted: as in `read`.
        memory_map: as in `read`.
        filesystem: as in `read`.
        storage_options: as in `read`.

    Returns:
        a `Dataset`, with `to_table`, `to_pandas`, `to_polars` and `to_numpy`; DuckDB and Polars take it too.

    Raises:
        NotFound, TruncatedFile, InvalidData: as in `read`.

    Examples:
        >>> import tempfile
        >>> address = tempfile.mkdtemp() + "/trades.arrow"
        >>> _ = write({"id": [1, 2, 3]}, address)
        >>> open(address).to_numpy()
        {'id': array([1, 2, 3])}
    """
    from aljava.dataset import Dataset

    return opened(
        Dataset,
        source,
        untrusted=untrusted,
        memory_map=memory_map,
        filesystem=filesystem,
        storage_options=storage_options,
    )


def opened(
    kind: Any,
    source: Any,
    *,
    untrusted: bool = False,
    memory_map: bool = True,
    filesystem: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """What stands at a place, as a `Dataset`, or as the `Payloads` that bring less with them; a stream as what it is.

    Args:
        kind: one of the two classes.
        source: as in `open`, and so are the others.
        untrusted: as in `open`.
        memory_map: as in `open`.
        filesystem: as in `open`.
        storage_options: as in `open`.
    """
    from aljava.listing import parts

    found = parts(source, filesystem=filesystem, storage_options=storage_options)
    if isinstance(found[0].place, StreamPlace):
        from aljava.received import ReceivedDataset

        return ReceivedDataset(found[0].place, untrusted=untrusted)
    return kind(found, untrusted=untrusted, memory_map=memory_map)


def _must_be_arrow(address: str) -> None:
    """Arrow in a file that says it is something else would be a trap for whoever opens it by its name."""
    suffix = address[address.rfind(".") :].lower() if "." in address else ""
    if suffix in (".parquet", ".csv", ".json", ".jsonl", ".ndjson"):
        raise InvalidOption(
            f"{address} says that it is {suffix[1:]}, and what is written here is Arrow IPC: name it .arrow, or make "
            f"that format of it with `aljava copy SOURCE {address}`"
        )


def _encoded(metadata: Mapping[str, str]) -> dict[bytes, bytes]:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidOption(f"metadata holds text, and {key!r}: {value!r} is not")
    return {key.encode(): value.encode() for key, value in metadata.items()}


def _standing(place: Place) -> "Fragment | None":
    """What stands at a place already."""
    from aljava.fragments import open_fragment

    try:
        return open_fragment(place)
    except NotFound:
        return None
