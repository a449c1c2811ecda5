"""Compacting: many small files into few of a wanted size.

::

    a, b, c, d, e, f, …   ──>   compacted-00000.arrow (a b c d)   compacted-00001.arrow (e f …)       rows as they came
                          ──>   compacted-00000.arrow (the least)   compacted-00000-1.arrow …         rows by a column

Without an order, groups of sources are tasks that know nothing of each other. With one, all rows go through one task,
since any row may have to be anywhere. Where the folders of sources are Hive partitions (`day=2026-01-31`), these stay
what they are: each is compacted for itself.

A target belongs to its job. What is called `compacted-…` there and is not an output of the job as its sources now are
is removed before the work begins, so that no row is ever there twice.
"""

import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aljava import ipc
from aljava.errors import AljavaError
from aljava.frames import BATCH_BYTES, regroup
from aljava.ipc.writer import BATCH_ROWS
from aljava.jobs.gathering import Broken, Gathering, check_schemas, head_of
from aljava.jobs.kinds import Hashed
from aljava.jobs.manifest import Manifest, fingerprint
from aljava.jobs.planning import distinct
from aljava.jobs.sorting import MEMORY, NARROW, carriers_of, in_order
from aljava.jobs.sources import Root, Source, shown
from aljava.jobs.tasks import Done, Job, Task, explained
from aljava.places.local import LocalFile
from aljava.places.place import Place
from aljava.places.remote import RemoteFile

#: Bytes and sources that are compacted for a try, to learn how large the outcome is.
SAMPLE_BYTES, SAMPLE_SOURCES = 4 << 20, 64
#: How much larger than wanted an output of a group may become before it is cut: else a sliver would be left over.
TOLERANCE = 1.25
#: Batches that are written at a time, most: they are compressed side by side.
ABREAST = 8
#: Bytes of sources that may well hold more rows than are numbered in 4 bytes.
MANY_BYTES = 8 << 30
#: What outputs are called.
_OUTPUT = re.compile(r"(?:.*/)?compacted-\d{5,}(?:_\d{3,})?\.arrow", re.S)


def compact(target: Root, options: Mapping[str, Any], memory: int = MEMORY) -> Job:
    """Many small files into few.

    Args:
        target: where the outputs go.
        options: `size` (bytes of an output), `sort_by` (names of columns) and `compression`.
        memory: bytes of memory to sort in.
    """
    planned: list[tuple[_Listing, list[_Group]]] = []

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        listing = _Listing(distinct(sources))
        groups: list[_Group] = []
        said: dict[str, Any] = {}
        if len(listing):
            head, model = _model(listing)
            if options["sort_by"]:
                carriers_of(pa.ipc.read_schema(pa.py_buffer(head)), options["sort_by"])
            check_schemas(listing, head, model)
            said = {**options, "memory": memory, "head": head, "model": model}
            groups += _grouped(listing, said)
        planned.append((listing, groups))
        for source in listing.problems:
            yield Task(compact_one, (source,))
        for group in groups:
            yield Task(compact_one, tuple(listing.part(group.start, group.stop)), target, group.output, said)

    return Job(
        "compact",
        plan,
        target,
        options,
        known=lambda manifest: _Known(target, *planned[0], manifest, bool(options["sort_by"])),
    )


def output_name(name: str, number: int = 0) -> str:
    """What an output of a source's partition is called.

    Examples:
        >>> output_name("sales/day=1/06.csv"), output_name("sales/06.csv", 12)
        ('day=1/compacted-00000.arrow', 'compacted-00012.arrow')
    """
    return "/".join(filter(None, [_partition(name), f"compacted-{number:05}.arrow"]))


def _further(output: str, number: int, is_sorted: bool) -> str:
    """What further outputs of a task are called: in the order of their names rows are in theirs."""
    if not number:
        return output
    if is_sorted:
        return output_name(output, number)
    return output.removesuffix(".arrow") + f"_{number:03}.arrow"


def _first(output: str, is_sorted: bool) -> str:
    """The first output of the task that an output is of."""
    return output_name(output) if is_sorted else re.sub(r"_\d{3,}(?=\.arrow$)", "", output)


class _Group(NamedTuple):
    """Sources that become one output, or a few where they are large or sorted."""

    #: The first of them in the listing, and the one behind the last.
    start: int
    stop: int
    output: str


class _Listing:
    """All sources, in order: partition by partition, in each by their folders as these were given, and by name.

    Takes some 30 bytes a source beyond its name.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        root = -1
        self._roots: list[Root] = []
        #: Sources that the listing found to be none.
        self.problems: list[Source] = []
        names, roots, sizes, modified = [], array("I"), array("q"), array("q")
        partitions: dict[str, int] = {}
        belongs = array("I")
        for source in sources:
            if source.problem is not None:
                self.problems.append(source)
                continue
            if not self._roots or source.root != self._roots[roots[-1]]:
                if source.root not in self._roots:
                    self._roots.append(source.root)
                root = self._roots.index(source.root)
            names.append(os.fsencode(source.name))
            roots.append(root)
            sizes.append(source.size)
            modified.append(source.modified)
            belongs.append(partitions.setdefault(_partition(source.name), len(partitions)))
        #: The partitions, and which of them each source is in.
        self.partitions = sorted(partitions)
        rank = np.array([self.partitions.index(name) for name in partitions], np.int64)
        table = pa.table({
            "partition": rank[np.array(belongs, np.int64)] if names else np.array([], np.int64),
            "root": np.array(roots),
            "name": pa.array(names, pa.large_binary()),
            "size": np.array(sizes),
            "modified": np.array(modified),
        })  # fmt: skip
        order = pc.sort_indices(table, [(name, "ascending") for name in ("partition", "root", "name")])
        self._table = table.take(order).combine_chunks()
        self.sizes = self._table["size"].to_numpy()
        self.belongs = self._table["partition"].to_numpy()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __iter__(self) -> Iterator[Source]:
        for start in range(0, len(self), 4096):
            yield from self.part(start, start + 4096)

    def part(self, start: int, stop: int) -> list[Source]:
        """Some of them, by their numbers."""
        rows = self._table.slice(start, stop - start).to_pydict()
        columns = (rows[name] for name in ("root", "name", "size", "modified"))
        return [
            Source(self._roots[root], os.fsdecode(name), size, modified)
            for root, name, size, modified in zip(*columns, strict=True)
        ]


def _partition(name: str) -> str:
    """The folders that are Hive partitions, as they are spelled."""
    return "/".join(folder for folder in name.split("/")[:-1] if "=" in folder)


def _model(listing: _Listing) -> tuple[bytes, str]:
    """The schema message that all rows get, and the source that it is from: the first one that can be read."""
    first: AljavaError | None = None
    for source in listing:
        try:
            return head_of(source), source.address
        except AljavaError as error:
            first = first or error
    assert first is not None
    raise first


def _grouped(listing: _Listing, options: Mapping[str, Any]) -> Iterator[_Group]:
    ends = np.searchsorted(listing.belongs, np.arange(len(listing.partitions)), "right").tolist()
    ratio = 1.0 if options["sort_by"] else _ratio(listing, options)
    start = 0
    for partition, end in zip(listing.partitions, ends, strict=True):
        number = 0
        totals = np.cumsum(listing.sizes[start:end])
        first = start
        while first < end:
            before = int(totals[first - start - 1]) if first > start else 0
            stop = end
            if not options["sort_by"]:
                stop = start + int(np.searchsorted(totals, before + options["size"] / ratio, "right"))
            stop = max(first + 1, min(stop, end))
            yield _Group(first, stop, output_name(f"{partition}/", number))
            first, number = stop, number + 1
        start = end


def _ratio(listing: _Listing, options: Mapping[str, Any]) -> float:
    """How many bytes become of one, tried with the first of the sources."""
    few = min(SAMPLE_SOURCES, int(np.searchsorted(np.cumsum(listing.sizes), SAMPLE_BYTES, "right")))
    total = int(listing.sizes[:few].sum())
    if not total:
        return 1.0
    gathering = Gathering(listing.part(0, few), options["head"], options["model"])
    sink = pa.MockOutputStream()
    settings = ipc.WriteOptions(options["compression"])
    with suppress(Broken), ipc.new_file(sink, gathering.schema, options=settings) as writer:
        writer.write_batches(regroup(gathering))
    return max(0.01, sink.size() / total) if gathering.rows else 1.0


class _Known:
    """Which groups need not be done again. What is left of others is removed when this is made.

    Args:
        target: where the outputs are.
        listing: the sources as they are now.
        groups: what is to become of them.
        manifest: what became of them so far.
        is_sorted: whether all outputs of a partition are one task's.
    """

    def __init__(
        self, target: Root, listing: _Listing, groups: Sequence[_Group], manifest: Manifest, is_sorted: bool
    ) -> None:
        made: dict[str, int] = {}
        outputs: dict[str, dict[str, int]] = {}
        for entries in manifest.latest():
            batch = entries.filter(pc.equal(entries["status"], "done"))
            columns = (batch[name].to_pylist() for name in ("source", "size", "output", "details"))
            changed = batch["modified"].cast(pa.int64()).to_pylist()
            for source, size, output, details, modified in zip(*columns, changed, strict=True):
                group = _first(output, is_sorted)
                made[group] = made.get(group, 0) + fingerprint(source, size, modified or 0, None)
                if details:
                    outputs.setdefault(group, {}).update(json.loads(details)["outputs"])
        planned = {
            shown(group.output): sum(
                fingerprint(source.address, source.size, source.modified, None)
                for source in listing.part(group.start, group.stop)
            )
            for group in groups
        }
        there = {file.name: file.size for file in target.files() if _OUTPUT.fullmatch(file.name)}
        sizes = {shown(name): size for name, size in there.items()}
        self._groups = {
            group
            for group, prints in planned.items()
            if prints == made.get(group)
            and all(sizes.get(name) == size for name, size in outputs.get(group, {group: -1}).items())
        }
        kept = {name for group in self._groups for name in outputs[group]}
        for name in there:
            if shown(name) not in kept:
                _remove(target.place(name))

    def holds(self, task: Task) -> bool:
        """Whether a task has been done, from its sources as they are."""
        return task.output is not None and shown(task.output) in self._groups


class _Output(NamedTuple):
    """A file that was made."""

    name: str
    bytes: int
    checksum: str


def compact_one(task: Task) -> list[Done]:
    """Compacts some files."""
    options = task.options
    assert task.target is not None
    without: dict[int, Exception] = {}
    most = 1 << 64 if task.bytes > MANY_BYTES else NARROW
    made: list[_Output] = []
    while True:
        gathering = Gathering(task.sources, options["head"], options["model"], without)
        try:
            made.extend(_outputs(task, gathering, most))
            break
        except Broken as broken:
            without[broken.number] = broken.reason
        except OverflowError:
            most = 1 << 64
        except BaseException:
            # A part of the rows must not stand there like a table.
            _unmake(task, made)
            raise
        _unmake(task, made)
        made = []
    failures = {**gathering.failures, **without}
    details: str | None = json.dumps({"outputs": {shown(output.name): output.bytes for output in made}})
    done = []
    for number, _ in enumerate(task.sources):
        if number in failures:
            done.append(Done(failure=explained(failures[number]), output=""))
            continue
        # Each output has a source that stands for it.
        output = made[number * len(made) // len(task.sources)]
        rows = gathering.rows[number]
        done.append(Done(rows, output.bytes, output.checksum, details=details, output=shown(output.name)))
        details = None
    return done


def _unmake(task: Task, made: Iterable[_Output]) -> None:
    assert task.target is not None
    for output in made:
        _remove(task.target.place(output.name))


def _outputs(task: Task, gathering: Gathering, most: int) -> Iterator[_Output]:
    options, schema = task.options, gathering.schema
    assert task.target is not None
    assert task.output is not None
    batches = iter(gathering)
    first = next(batches, None)
    if first is None and not gathering.rows:
        return  # none of them can be read
    rows = batches if first is None else chain([first], batches)
    limit = options["size"]
    batch_rows = None if first is None else _batch_rows(first, limit)
    if options["sort_by"] and batch_rows is not None:
        limits = {"batch_rows": batch_rows, "most_rows": most, "memory": options["memory"]}
        rows = in_order(rows, schema, options["sort_by"], **limits)
    else:
        # Batches as they come, unless they may be larger than an output.
        reader = pa.RecordBatchReader.from_batches(schema, rows)
        rows, limit = regroup(reader, batch_rows if limit < 4 * BATCH_BYTES else None), limit * TOLERANCE
    settings = ipc.WriteOptions(options["compression"])
    following = next(rows, None)
    for number in count():
        name = _further(task.output, number, bool(options["sort_by"]))
        place = Hashed(task.target.output(name))
        done = 0
        with place.sink() as sink, ipc.new_file(sink, schema, options=settings) as writer:
            while following is not None and sink.bytes < limit:
                size = sink.bytes / done if done else following.nbytes
                abreast = max(1, min(ABREAST, int((limit - sink.bytes) / max(size, 1))))
                some = [following, *islice(rows, abreast - 1)]
                writer.write_batches(some)
                done += len(some)
                following = next(rows, None)
        yield _Output(name, place.bytes, place.digest)
        if following is None:
            return


def _batch_rows(batch: pa.RecordBatch, size: int) -> int:
    """Rows of the batches of an output: as many as make a batch of the usual size, and a file of four batches."""
    wanted = min(BATCH_BYTES, size // 4) * max(1, batch.num_rows) // max(1, batch.nbytes)
    return max(1024, min(BATCH_ROWS, wanted))


def _remove(place: Place) -> None:
    with suppress(FileNotFoundError):
        if isinstance(place, LocalFile):
            with place.explained("removed"):
                os.unlink(place.path)
        elif isinstance(place, RemoteFile):
            with place.explained("removed"):
                place.filesystem.delete_file(place.path)
