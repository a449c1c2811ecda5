"""What became of each source: an Arrow table that grows while the job runs, and that the next run begins with.

::

    while it runs   | schema | entries | entries | entries …      an IPC stream: each write adds one message
    at its end      | ARROW1 | … the last entry of each source … | footer |      an IPC file, with statistics

A stream needs no end, and adding to it costs what is added: a client that is killed leaves at most a message cut
short, which the next run cuts off. Entries are gathered for a moment, so that a million of them are not a million
messages. In an object store, where nothing can be added to, it grows in a file of this machine and goes up as one, so
seldom that this takes a small part of the time.
"""

import fcntl
import json
import mmap
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from aljava import ipc
from aljava.errors import InvalidData, JobError, NotFound
from aljava.ipc.message import CONTINUATION, MAGIC, Messages
from aljava.jobs.sources import Root, Source, shown
from aljava.places.local import LocalFile, WholeWrites, lock
from aljava.places.place import Place

if TYPE_CHECKING:
    from aljava.jobs.tasks import Task

#: Seconds for which entries are gathered, and how many.
GATHER_SECONDS, GATHER_ENTRIES = 0.2, 1000
#: Rows that are looked at together, and rows of a record batch of the finished file.
PIECE, BATCH = 4096, 1 << 14
#: Seconds between two uploads, at least; and how many times longer than the last upload took.
UPLOAD_SECONDS, UPLOAD_SHARE = 10.0, 20.0
_KEY = b"aljava.job"

SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.timestamp("ns", "UTC")),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("output", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("checksum", pa.string()),
        pa.field("details", pa.string()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("ended", pa.timestamp("us", "UTC"), nullable=False),
    ]
)


class Entry(NamedTuple):
    """What became of one source."""

    #: Its address, as it may be shown.
    source: str
    #: Its bytes and when it was changed last (nanoseconds since 1970, None where not known), when it was listed.
    size: int
    modified: int | None
    #: "done" or "failed", and why.
    status: str
    reason: str | None
    #: The name of what was made of it, relative to the target.
    output: str | None
    #: Rows; bytes and XXH3-64 (16 hexadecimal digits) of the output, or of the source where there is none.
    rows: int | None
    bytes: int | None
    checksum: str | None
    #: What else the task found, as JSON.
    details: str | None
    #: How long it took, and when it was done (microseconds since 1970).
    seconds: float
    ended: int


class Manifest:
    """The manifest of one job, open for adding to it.

    Args:
        place: where it is kept; None keeps it only until it is let go of.
        kind: of the job.
        options: what decides what the job makes: a manifest with others belongs to another job.

    Raises:
        JobError: it belongs to another job, or another run is adding to it.
        AccessDenied: it cannot be written.
    """

    def __init__(self, place: Place | None, kind: str, options: Mapping[str, Any]) -> None:
        self.place = place
        self._job = {"kind": kind, "options": dict(options)}
        self._schema = SCHEMA.with_metadata({_KEY: json.dumps(self._job, sort_keys=True)})
        self._pending: list[Entry] = []
        self._gathered = self._uploaded = time.monotonic()
        self._upload_took = 0.0
        self._unsent = False
        self._kept = b""
        self._descriptor = self._begin()
        self._end = os.fstat(self._descriptor).st_size

    @property
    def address(self) -> str | None:
        """Where it stands; None where it is not kept."""
        return None if self.place is None else self.place.address

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes note of tasks that have ended."""
        self._pending += entries
        if len(self._pending) >= GATHER_ENTRIES:
            self.flush()

    def due(self) -> float | None:
        """Seconds until what was gathered is to be written; None where there is nothing."""
        return max(0.0, self._gathered + GATHER_SECONDS - time.monotonic()) if self._pending else None

    def flush(self) -> None:
        """Writes what was gathered."""
        self._gathered = time.monotonic()
        if self._pending:
            columns = zip(*self._pending, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
            self._append(pa.record_batch(arrays, schema=self._schema).serialize())
            self._pending = []
            self._unsent = True
        wait = max(UPLOAD_SECONDS, UPLOAD_SHARE * self._upload_took)
        if self._unsent and time.monotonic() - self._uploaded > wait:
            self._upload()

    def close(self, *, complete: bool) -> None:
        """Writes what is left.

        Args:
            complete: the job came to its end: the stream becomes a file, with the last entry of each source.
        """
        try:
            self.flush()
            if complete and self.place is not None:
                with self.place.sink() as sink:
                    self._write_file(sink)
            elif complete:
                kept = pa.BufferOutputStream()
                self._write_file(kept)
                self._kept = kept.getvalue()
            elif self._unsent:
                self._upload()
        finally:
            os.close(self._descriptor)

    def table(self) -> pa.Table:
        """The last entry of each source, when the job has come to its end."""
        from aljava.api import read

        return read(self._kept if self.place is None else self.place)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All entries, the older ones first, some thousand at a time. One such walk at a time.

        Raises:
            InvalidData: they are damaged.
        """
        self.flush()
        # Read and not mapped: what was read of a million entries would stay in memory.
        with _reading(self._descriptor) as file, self._told_if_damaged():
            for batch in pa.ipc.open_stream(file):
                batch.validate(full=True)
                yield from (batch.slice(at, PIECE) for at in range(0, batch.num_rows, PIECE))

    def latest(self) -> Iterator[pa.RecordBatch]:
        """The last entry of each source. Takes some 30 bytes for each."""
        kept, at = _last_of_each(_gathered(map(_keys, self.batches()))), 0
        for batch in self.batches():
            yield batch.filter(pa.array(kept[at : at + batch.num_rows]))
            at += batch.num_rows

    def done(self, target: Root | None) -> "Done":
        """What need not be done again, as long as the sources are what they were.

        Args:
            target: the folder of the outputs: what is gone from there has to be made again.
        """
        prints, made = array("Q"), array("Q")
        for batch in self.latest():
            entries = batch.filter(pc.equal(batch["status"], "done"))
            columns = [entries[name].to_pylist() for name in ("source", "size", "output", "bytes")]
            modified = entries["modified"].cast(pa.int64()).to_pylist()
            for source, size, output, made_bytes, changed in zip(*columns, modified, strict=True):
                prints.append(fingerprint(source, size, changed or 0, output))
                made.append(_output(output, made_bytes) if output else 0)
        known = np.frombuffer(prints, np.uint64)
        if target is not None and len(known):
            outputs = np.frombuffer(made, np.uint64)
            try:
                there = _gathered([_output(found.name, found.size)] for found in target.files())
            except NotFound:
                there = np.array([], np.uint64)
            known = known[(outputs == 0) | np.isin(outputs, there)]
        known.sort()
        return Done(known)

    def _begin(self) -> int:
        if isinstance(self.place, LocalFile):
            descriptor = self._open(self.place)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
            if self.place is not None:
                with suppress(NotFound):
                    _copy(self.place, descriptor)
        try:
            self._resume(descriptor)
            if self.place is not None and not isinstance(self.place, LocalFile):
                self._descriptor = descriptor
                self._upload()  # finds out before the work whether it can be written
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _open(self, place: LocalFile) -> int:
        with place.explained("written"):
            os.makedirs(os.path.dirname(place.path) or ".", exist_ok=True)
            descriptor = os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise JobError(f"{place.address} is in use: another run of this job has not ended") from None
        except OSError:  # a file system without locks
            return descriptor
        if not os.path.samestat(os.fstat(descriptor), os.stat(place.path)):
            os.close(descriptor)
            raise JobError(f"{place.address} is in use: another run of this job began just now")
        return descriptor

    def _resume(self, descriptor: int) -> None:
        """Brings what stands there into a state to go on from."""
        size = os.fstat(descriptor).st_size
        if not size:
            WholeWrites(descriptor).write(self._schema.serialize())
            return
        begins = os.pread(descriptor, 6, 0)
        if begins == MAGIC:
            self._rewrite(descriptor, self._as_stream(descriptor))
            return
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        messages = Messages(mapped)
        first = next(iter(messages), None)
        if first is not None and first.header.kind == "schema":
            with self._told_if_damaged():
                self._must_be_ours(pa.ipc.read_schema(pa.py_buffer(mapped[: first.end])))
            for _ in messages:
                mapped.madvise(mmap.MADV_DONTNEED)  # seen: no longer memory of this process
            os.ftruncate(descriptor, messages.end)
            return
        if begins[:4] != CONTINUATION[: len(begins)] or size >= self._schema.serialize().size:
            raise JobError(f"{self.address} is no manifest of a job: {_ANEW}")
        # Killed within its first write.
        self._rewrite(descriptor, [self._schema.serialize()])

    def _as_stream(self, descriptor: int) -> Iterator[Any]:
        with _reading(descriptor) as file, self._told_if_damaged(), pa.ipc.open_file(file) as reader:
            batches = map(reader.get_batch, range(reader.num_record_batches))
            try:
                self._must_be_ours(reader.schema)
            except JobError:
                # One that did nothing, of a command with a slip of the pen say, binds nobody.
                if not reader.schema.equals(SCHEMA) or any("done" in batch["status"].to_pylist() for batch in batches):
                    raise
            yield self._schema.serialize()
            yield from (batch.serialize() for batch in batches)

    def _rewrite(self, descriptor: int, pieces: Iterable[Any]) -> None:
        """A finished file becomes a stream again. What is killed here leaves the file: the stream takes its place."""
        if not isinstance(self.place, LocalFile):
            with tempfile.TemporaryFile() as file:
                _write_all(WholeWrites(file.fileno()), pieces)
                os.dup2(file.fileno(), descriptor, inheritable=False)
            return
        with self.place.sink() as sink:
            _write_all(sink, pieces)
        new = os.open(self.place.path, os.O_RDWR | os.O_CLOEXEC)
        lock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.dup2(new, descriptor, inheritable=False)
        os.close(new)

    def _must_be_ours(self, schema: pa.Schema) -> None:
        said = (schema.metadata or {}).get(_KEY)
        if said is None or not schema.equals(SCHEMA):
            raise JobError(f"{self.address} is no manifest of a job of this version: {_ANEW}")
        theirs, ours = json.loads(said), json.loads(json.dumps(self._job))
        if theirs["kind"] != ours["kind"]:
            raise JobError(
                f"{self.address} is the manifest of another job, {theirs['kind']!r} and not {ours['kind']!r}: {_ANEW}"
            )
        for name in sorted({*theirs["options"], *ours["options"]}):
            was, now = (job["options"].get(name) for job in (theirs, ours))
            if was != now:
                raise JobError(
                    f"{self.address} is the manifest of another job: its {name} was {was!r}, and now it is {now!r}. "
                    f"Go on with what it was, or {_ANEW}"
                )

    @contextmanager
    def _told_if_damaged(self) -> Iterator[None]:
        try:
            yield
        except JobError:
            raise
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise InvalidData(f"the manifest {self.address} is damaged ({error}): {_ANEW}") from error

    def _append(self, data: Any) -> None:
        place = self.place if isinstance(self.place, LocalFile) else LocalFile(tempfile.gettempdir())
        with place.explained("written"):
            # Not at the end of the file: a write that was interrupted may have left a part of itself there.
            self._end += WholeWrites(self._descriptor, self._end).write(data)

    def _upload(self) -> None:
        if self.place is None or isinstance(self.place, LocalFile):
            return
        start = time.monotonic()
        with open(os.dup(self._descriptor), "rb") as file, self.place.sink() as sink:
            file.seek(0)
            shutil.copyfileobj(file, sink, 16 << 20)
        self._uploaded = time.monotonic()
        self._upload_took = self._uploaded - start
        self._unsent = False

    def _write_file(self, sink: Any) -> None:
        from aljava.frames import regroup

        reader = pa.RecordBatchReader.from_batches(self._schema, self.latest())
        with ipc.new_file(sink, self._schema, options=ipc.WriteOptions("zstd")) as writer:
            for batch in regroup(reader, BATCH):
                writer.write_batch(batch)  # one at a time: in little memory


_ANEW = "another target, or without that file the job begins anew"


class Done:
    """The sources that need not be done again, 8 bytes each."""

    def __init__(self, prints: npt.NDArray[np.uint64]) -> None:
        self._prints = prints

    def __len__(self) -> int:
        return len(self._prints)

    def holds(self, task: "Task") -> bool:
        """Whether all sources of a task were done."""
        return all(self.has(source, task.output) for source in task.sources)

    def has(self, source: Source, output: str | None) -> bool:
        """Whether a source was done as it is now, and what was made of it is there."""
        if not len(self._prints):
            return False
        # What a task found needless to make (a sound file to repair) has no output.
        marks = {
            fingerprint(source.address, source.size, source.modified, name and shown(name)) for name in (output, None)
        }
        for mark in marks:
            at = int(self._prints.searchsorted(np.uint64(mark)))
            if at < len(self._prints) and int(self._prints[at]) == mark:
                return True
        return False


def fingerprint(source: str, size: int, modified: int, output: str | None) -> int:
    """A source as it was listed and what is made of it, in 64 bits; never 0."""
    return xxh3_64_intdigest(f"{source}\0{size}\0{modified}\0{output or ''}".encode()) or 1


def _output(name: str, size: int) -> int:
    return xxh3_64_intdigest(f"{shown(name)}\0{size}".encode()) or 1


def _keys(batch: pa.RecordBatch) -> list[int]:
    return [xxh3_64_intdigest(source.encode()) for source in batch["source"].to_pylist()]


def _gathered(pieces: Iterable[Iterable[int]]) -> npt.NDArray[np.uint64]:
    """Numbers, 8 bytes each; Python's own take 36."""
    gathered = array("Q")
    for piece in pieces:
        gathered.extend(piece)
    return np.frombuffer(gathered, np.uint64)


def _last_of_each(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    kept = np.ones(len(keys), bool)
    ordered = np.sort(keys)
    if (ordered[:-1] == ordered[1:]).any():  # else, as mostly, this is all and takes a third of the memory
        order = keys.argsort(kind="stable")
        ordered = keys[order]
        kept[order[:-1][ordered[:-1] == ordered[1:]]] = False
    return kept


def _reading(descriptor: int) -> pa.NativeFile:
    # From its beginning, and read by pyarrow itself: Python's own files wait for the thread that lists.
    return pa.OSFile(f"/dev/fd/{descriptor}")


def _write_all(sink: Any, pieces: Iterable[Any]) -> None:
    for piece in pieces:
        sink.write(piece)


def _copy(place: Place, descriptor: int) -> None:
    sink = WholeWrites(descriptor)
    with place.reading() as source:
        source.seek(0)
        while chunk := source.read(16 << 20):
            sink.write(chunk)
