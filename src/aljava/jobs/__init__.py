"""Bulk jobs: what Aljava does with one file, done with ten files or a million, on the engine that is there.

A job is a list of independent tasks, one a file. Each can be done any number of times, anywhere, and its output
appears whole or not at all. A manifest beside the outputs says of each source what became of it; started again, a job
does what is missing or has changed, and nothing else. One bad file never stops the others.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from aljava.errors import InvalidOption
from aljava.ipc.compression import Compression
from aljava.jobs import compacting, kinds
from aljava.jobs.executors import executor_for
from aljava.jobs.planning import distinct
from aljava.jobs.result import Progress, Result
from aljava.jobs.running import run
from aljava.jobs.sorting import LEAST_MEMORY, MEMORY
from aljava.jobs.sources import Root, Source, feeding, listed
from aljava.jobs.tasks import Done, Job, Task
from aljava.places.place import Place

__all__ = [
    "Done",
    "Job",
    "Progress",
    "Result",
    "Root",
    "Source",
    "Task",
    "compact",
    "convert",
    "distinct",
    "executor_for",
    "listed",
    "repair",
    "run",
    "stats",
    "verify",
]


def convert(
    sources: Any,
    target: Any,
    *,
    format: str = "arrow",
    compression: str | None = None,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    source_format: str | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Result:
    """Converts many files: Parquet, CSV, JSON lines, Feather and Arrow IPC into Arrow IPC with codec, zones and
    checksums; or into another format.

    `2026/june.csv.gz` below a source becomes `2026/june.arrow` below the target. The manifest is `_manifest.arrow` in
    the target.

    Args:
        sources: a folder, a glob, one of an object store, a file, or any iterable of these.
        target: the folder where the outputs go; it is made.
        format: "arrow", "parquet", "csv", "tsv" or "json".
        compression: as in `aljava.copy`: "auto", "none", "lz4", "zstd", "zstd:LEVEL"; of Parquet "zstd", "snappy", …
        columns: names of the columns to keep.
        where: a condition in SQL that rows have to meet.
        source_format: the sources' format, where their names do not say it.
        executor: any `concurrent.futures.Executor`; by default a pool of processes of this machine.
        workers: processes of that pool; by default one for each processor.
        progress: called ten times a second at most with how far the job is.
        storage_options: for fsspec's file systems, of the sources and of the target.

    Returns:
        what was done; files that failed are in `Result.failures`, and raise nothing.

    Raises:
        NotFound: no files there.
        InvalidOption: the target is a source too; two sources have one output.
        AccessDenied: the sources cannot be listed, or the target cannot be written.
        JobError: as `run`.

    Examples:
        >>> import tempfile, aljava
        >>> folder = tempfile.mkdtemp()
        >>> for day in ("monday", "tuesday"):
        ...     _ = open(f"{folder}/{day}.csv", "w").write("id\\n1\\n2\\n")
        >>> with executor_for("threads") as executor:
        ...     done = convert(folder + "/*.csv", folder + "/out", executor=executor)
        >>> done.done, done.rows, done.ok
        (2, 4, True)
        >>> aljava.read(folder + "/out/monday.arrow").num_rows
        2
    """
    if format not in kinds.SUFFIXES:
        raise InvalidOption(f"format {format!r} is none of {', '.join(kinds.SUFFIXES)}")
    goal = Root.of(target, storage_options=storage_options)
    options = {
        "format": format,
        "compression": compression,
        "columns": None if columns is None else list(columns),
        "where": where,
        "source_format": source_format,
    }
    apart(sources, goal, lambda name: kinds.output_name(name, format), storage_options)
    found = listed(sources, storage_options=storage_options)
    return run(kinds.convert(goal, options), found, executor=executor, workers=workers, progress=progress)


def compact(
    sources: Any,
    target: Any,
    *,
    size: int = 256 << 20,
    sort_by: str | Sequence[str] | None = None,
    compression: str = "auto",
    memory: int = MEMORY,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Result:
    """Makes few files of many small ones: Arrow IPC with codec, zones and checksums, named `compacted-00000.arrow`, ….

    Rows keep the order of their files, by name, and of several sources as these are given; or they are sorted, so that
    zones separate and a filter reads little. Rows that are equal in `sort_by` keep their order, nulls come last. The
    same sources give the same bytes on every executor. Hive partitions (`day=2026-01-31/`) stay apart, and their
    folders are made again in the target.

    A source that cannot be read, or whose checksums tell of damage, is left out and stands in `Result.failures`. The
    target belongs to the job: files called `compacted-…` there that are not its outputs, as its sources now are, are
    removed when it is started again. Sources are never removed.

    Args:
        sources: as in `convert`. All need the same columns: their order may differ, and types that cast without loss.
        target: the folder where the outputs go; it is made.
        size: bytes of an output, about. What is left over, and all of a small partition, makes a smaller one.
        sort_by: a column, or several, to sort by, ascending; DuckDB does it, with what does not fit into memory in the
            folder for temporary files. All rows of a partition then are one task: by default it is done in this
            process, with all processors.
        compression: as in `aljava.write`.
        memory: bytes of memory to sort in, on each worker; what needs more goes to the folder for temporary files.
        executor: as in `convert`.
        workers: as in `convert`.
        progress: as in `convert`.
        storage_options: as in `convert`.

    Returns:
        as `convert`; the manifest names for each source an output that it went into.

    Raises:
        NotFound, InvalidOption, AccessDenied, JobError: as `convert`.
        SchemaMismatch: a source of other columns, before any work; names it and the column.
        QueryError: no such column to sort by.
        UnsupportedType: a column that DuckDB cannot sort, or carry.

    Examples:
        >>> import tempfile, aljava
        >>> folder, out = tempfile.mkdtemp(), tempfile.mkdtemp()
        >>> for day in (3, 1, 2):
        ...     _ = aljava.write({"day": [day, 9], "id": [day * 10, 0]}, f"{folder}/{day}.arrow")
        >>> compact(folder, out, sort_by="day").rows
        6
        >>> aljava.read(out)["day"].to_pylist()
        [1, 2, 3, 9, 9, 9]
    """
    if size < 1:
        raise InvalidOption(f"size is {size}: an output has at least 1 byte")
    if memory < LEAST_MEMORY:
        raise InvalidOption(f"memory is {memory:,}: sorting takes at least {LEAST_MEMORY:,} bytes")
    Compression.parse(compression)
    by = [sort_by] if isinstance(sort_by, str) else list(sort_by or ())
    goal = Root.of(target, storage_options=storage_options)
    apart(sources, goal, compacting.output_name, storage_options)
    job = compacting.compact(goal, {"size": size, "sort_by": by, "compression": compression}, memory)
    found = listed(sources, storage_options=storage_options)
    with ExitStack() as stack:
        if by and executor is None and workers is None:
            executor = stack.enter_context(ThreadPoolExecutor(1, "aljava-job"))
        return run(job, found, executor=executor, workers=workers, progress=progress)


def verify(
    sources: Any,
    *,
    manifest: Any = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Result:
    """Looks at every byte of many files, as `aljava.verify` does of one. A file that is not sound is a failure.

    Args:
        sources: as in `convert`.
        manifest: an address where what was found is kept; started again with it, files that are sound and have not
            changed since are not read again.
        executor: as in `convert`.
        workers: as in `convert`.
        progress: as in `convert`.
        storage_options: as in `convert`.

    Examples:
        >>> import tempfile, aljava
        >>> folder = tempfile.mkdtemp()
        >>> _ = aljava.write({"id": [1, 2, 3]}, folder + "/good.arrow")
        >>> _ = open(folder + "/bad.arrow", "w").write("no table")
        >>> with executor_for("threads") as executor:
        ...     found = verify(folder, executor=executor)
        >>> found.done, found.failed, found.failures["source"][0].as_py().endswith("bad.arrow")
        (1, 1, True)
    """
    job = kinds.verify(_place(manifest, storage_options))
    found = listed(sources, storage_options=storage_options)
    return run(job, found, executor=executor, workers=workers, progress=progress)


def repair(
    sources: Any,
    target: Any = None,
    *,
    manifest: Any = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Result:
    """Saves what can be saved of the damaged ones among many files, as `aljava.repair` does of one.

    Sound files are left as they are. What was lost of a file stands in the `details` of its row.

    Args:
        sources: as in `convert`.
        target: a folder where repaired files go; by default they take the damaged ones' places.
        manifest: as in `verify`; with a target it is kept there.
        executor: as in `convert`.
        workers: as in `convert`.
        progress: as in `convert`.
        storage_options: as in `convert`.

    Examples:
        >>> import tempfile, aljava
        >>> folder = tempfile.mkdtemp()
        >>> _ = aljava.write({"id": range(10_000)}, folder + "/a.arrow", batch_rows=1000, compression="none")
        >>> content = open(folder + "/a.arrow", "rb").read()
        >>> _ = open(folder + "/a.arrow", "wb").write(content[:50_000])
        >>> with executor_for("threads") as executor:
        ...     repair(folder, executor=executor).rows
        6000
    """
    goal = None if target is None else Root.of(target, storage_options=storage_options)
    if goal is not None:
        apart(sources, goal, str, storage_options)
    job = kinds.repair(goal, _place(manifest, storage_options))
    found = listed(sources, storage_options=storage_options)
    return run(job, found, executor=executor, workers=workers, progress=progress)


def stats(
    sources: Any,
    *,
    manifest: Any = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Result:
    """What many files hold: rows, batches, columns and their types, the least and greatest values. No data is read.

    The `details` of each row of `Result.table` are a JSON object: `format`, `batches`, `schema`, `zones`, and for each
    of the `columns` that has statistics its `min`, `max` and `nulls`.

    Args:
        sources: as in `convert`.
        manifest: as in `verify`.
        executor: as in `convert`.
        workers: as in `convert`.
        progress: as in `convert`.
        storage_options: as in `convert`.

    Examples:
        >>> import json, tempfile, aljava
        >>> folder = tempfile.mkdtemp()
        >>> _ = aljava.write({"id": range(100_000)}, folder + "/a.arrow")
        >>> with executor_for("threads") as executor:
        ...     (row,) = stats(folder, executor=executor).table.to_pylist()
        >>> row["rows"], json.loads(row["details"])["columns"]["id"]
        (100000, {'min': 0, 'max': 99999, 'nulls': 0})
    """
    job = kinds.stats(_place(manifest, storage_options))
    found = listed(sources, storage_options=storage_options)
    return run(job, found, executor=executor, workers=workers, progress=progress)


def apart(
    sources: Any, target: Root, rename: Callable[[str], str], storage_options: Mapping[str, Any] | None = None
) -> None:
    """Makes sure that outputs are not listed as sources: a target is no folder of sources, and lies in none.

    Args:
        sources: as in `convert`.
        target: where outputs go.
        rename: makes the name of an output of that of a source.
        storage_options: as in `convert`.

    Raises:
        InvalidOption: it is, or lies in one.
    """
    for each in sources if isinstance(sources, list | tuple | set | frozenset) else [sources]:
        folder = feeding(each, target, rename, storage_options)
        if folder is not None:
            raise InvalidOption(
                f"the target {target.shown} lies in {folder.shown}, where the sources are: what is made would be a "
                "source as well. Choose a target elsewhere, or name the sources with a glob that does not match outputs"
            )


def _place(address: Any, storage_options: Mapping[str, Any] | None) -> Place | None:
    from aljava.address import SCHEME, locate

    if address is None:
        return None
    return locate(address, storage_options=storage_options if SCHEME.match(str(address)) else None)
