"""The kinds of jobs: convert, verify, repair, stats. Each plans a task for a file, and says what the task does."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from xxhash import xxh3_64

from aljava.foreign import ENDS
from aljava.ipc.zones import Zones
from aljava.jobs.sources import Root, Source, stem
from aljava.jobs.tasks import Done, Job, Task
from aljava.places.memory import MemoryBuffer
from aljava.places.place import Place

#: What an output's name ends in.
SUFFIXES = {"arrow": ".arrow", "parquet": ".parquet", "csv": ".csv", "tsv": ".tsv", "json": ".jsonl"}
#: What the name of a source may end in that says its format, the longer ones first.
_KNOWN = (*ENDS, ".feather", ".arrows", ".arrow", ".ipc")


def output_name(name: str, format: str) -> str:
    """What a source is called when it has been converted.

    Args:
        name: of the source, relative to its folder.
        format: "arrow", "parquet", "csv", "tsv" or "json".

    Examples:
        >>> output_name("2026/june.csv.gz", "arrow"), output_name("part-0", "parquet")
        ('2026/june.arrow', 'part-0.parquet')
    """
    return stem(name, _KNOWN) + SUFFIXES[format]


def convert(target: Root, options: Mapping[str, Any], manifest: Place | None = None) -> Job:
    """Each file into another format.

    Args:
        target: where the outputs go.
        options: `format`, `compression`, `columns`, `where` and `source_format`, as `aljava.copy` takes them.
        manifest: where it is kept.
    """

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        for source in sources:
            yield Task(convert_one, (source,), target, output_name(source.name, options["format"]), options)

    return Job("convert", plan, target, options, manifest)


def convert_one(task: Task) -> Done:
    """Converts one file."""
    from aljava.copying import copy

    options = task.options
    target = Hashed(task.place())
    written = copy(
        task.source.place(),
        target,
        columns=options["columns"],
        where=options["where"],
        compression=options["compression"],
        source_format=options["source_format"],
        target_format=options["format"],
    )
    return Done(written.rows, target.bytes, target.digest)


def verify(manifest: Place | None = None) -> Job:
    """Each file looked at, every byte."""

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        return (Task(verify_one, (source,)) for source in sources)

    return Job("verify", plan, manifest=manifest)


def verify_one(task: Task) -> Done:
    """Verifies one file."""
    from aljava.mending import verify

    place = fetched(task.source.place())
    found = verify(place)
    said = [str(finding) for finding in found.findings]
    return Done(
        found.rows,
        found.bytes,
        _digest_of(place),
        _some(said) if said else None,
        json.dumps({"batches": found.batches, "checksums": found.checksums, "findings": said}, ensure_ascii=False),
    )


def repair(target: Root | None = None, manifest: Place | None = None) -> Job:
    """Each damaged file mended, in its place or in another folder; sound ones are left as they are.

    Args:
        target: where mended files go; None for their own places.
        manifest: where it is kept.
    """

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        for source in sources:
            yield Task(repair_one, (source,), target, source.name if target is not None else None)

    return Job("repair", plan, target, {}, manifest)


def repair_one(task: Task) -> Done:
    """Mends one file, if it has to be."""
    from aljava.mending import repair, verify

    place = fetched(task.source.place())
    found = verify(place)
    if found.ok:
        return Done(found.rows, found.bytes, _digest_of(place), None, json.dumps({"sound": True}), "")
    target = Hashed(task.place() if task.target is not None else task.source.place())
    saved = repair(place, target)
    said = {"sound": False, "batches": saved.batches, "lost": saved.lost, "unchecked": saved.unchecked}
    return Done(saved.rows, saved.bytes, target.digest, None, json.dumps(said, ensure_ascii=False))


def stats(manifest: Place | None = None) -> Job:
    """What each file holds, without reading its data."""

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        return (Task(stats_one, (source,)) for source in sources)

    return Job("stats", plan, manifest=manifest)


def stats_one(task: Task) -> Done:
    """Looks at what one file says of itself: rows, batches, columns, and the least and greatest value of each."""
    from aljava.fragments import open_fragment

    fragment = open_fragment(task.source.place())
    said: dict[str, Any] = {
        "format": fragment.format.value,
        "batches": fragment.num_batches,
        "schema": {field.name: str(field.type) for field in fragment.schema},
        "zones": 0 if fragment.zones is None else len(fragment.zones),
        "columns": {} if fragment.zones is None else _extremes(fragment.zones),
    }
    return Done(fragment.num_rows, fragment.nbytes, details=json.dumps(said, ensure_ascii=False))


def _extremes(zones: Zones) -> dict[str, dict[str, Any]]:
    """The least and the greatest value and the nulls of each column, over all zones; what one zone does not know of
    is left out, since it could lie beyond what the others know.
    """
    import pyarrow.compute as pc

    from aljava.foreign import plain_values

    rows = zones.table["rows"].combine_chunks()
    found: dict[str, dict[str, Any]] = {}
    for field in zones.table.schema.field("columns").type:
        column = zones.bounds(field.name)
        if column is None:
            continue
        said: dict[str, Any] = {}
        nulls = column.field("nulls")
        # A zone of nulls alone has no bounds, and nothing that could lie beyond those of the others.
        valued = pc.fill_null(pc.not_equal(nulls, rows), True)
        for name in ("min", "max"):
            if name not in column.type.names:
                continue
            values = column.field(name).filter(valued)
            if values.null_count:
                continue
            try:
                value = getattr(pc, name)(values)
            except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # a type without an order in pyarrow
                continue
            said[name] = plain_values(pa.array([value.as_py()], value.type))[0]
        if not nulls.null_count:
            said["nulls"] = pc.sum(nulls).as_py()
        found[field.name] = said
    return found


class Hashed(Place):
    """A place that keeps the checksum of what is written there.

    Args:
        place: where it goes.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.address, self.seekable, self.remote = place.address, place.seekable, place.remote
        #: Bytes that were written, and their XXH3-64 in hexadecimal digits.
        self.bytes, self.digest = 0, ""

    def source(self) -> pa.NativeFile:
        return self._place.source()

    @contextmanager
    def sink(self, *, create: bool = False, durable: bool = False) -> Iterator[Any]:
        with self._place.sink(create=create, durable=durable) as sink:
            hashing = _Hashing(sink)
            yield hashing
            self.bytes, self.digest = hashing.bytes, hashing.state.hexdigest()


class _Hashing:
    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink, self.state, self.bytes = sink, xxh3_64(), 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._sink.write(view)
        self.state.update(view)
        self.bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """The place flushes at its end."""


def fetched(place: Place) -> Place:
    """A place all of whose bytes are going to be read, more than once: from afar they come once."""
    if not place.remote:
        return place
    with place.reading() as source:
        source.seek(0)
        here = MemoryBuffer(source.read_buffer())
    here.address = place.address
    return here


def _digest_of(place: Place) -> str:
    state = xxh3_64()
    with place.reading() as source:
        source.seek(0)
        while chunk := source.read_buffer(16 << 20):
            state.update(chunk)
    return state.hexdigest()


def _some(said: Sequence[str]) -> str:
    return "; ".join(said[:3]) + (f"; and {len(said) - 3:,} more" if len(said) > 3 else "")
