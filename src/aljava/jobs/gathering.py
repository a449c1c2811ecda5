"""The rows of many sources as one stream: ten thousand small files are read at once, and not ten thousand times one.

::

    a.arrow   | ARROW1 | schema | batch | batch | end, footer |
    b.arrow   | ARROW1 | schema | batch | end, footer |             ┐ one stream, which pyarrow decodes in one go
                          └────────┴──┬────┴───────────────────────►│ schema | batch | batch | batch |

To open an Arrow file as a dataset takes 0.7 ms, however small it is: most of the time of a job over small files. Files
of one schema, of whose footers nothing is needed but that they confirm what stands before them, take a seventh of that.
All else (Parquet, texts, streams, files with dictionaries, another schema, damage) is opened as it always is.
"""

import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

import pyarrow as pa
import xxhash

from aljava import foreign
from aljava.appending import conformed
from aljava.errors import AljavaError, InvalidData
from aljava.foreign import Kind
from aljava.fragments import IpcFile, explained, open_fragment
from aljava.frames import joined
from aljava.ipc.checksums import KEY as CHECKSUMS
from aljava.ipc.checksums import encode_digests, read_checksums
from aljava.ipc.message import CONTINUATION, END_OF_STREAM, FILE_START, MAGIC
from aljava.ipc.metadata import BATCH, decode_message, peek
from aljava.ipc.reader import check_compressed
from aljava.jobs.sources import Source
from aljava.payloads import Payloads
from aljava.places.local import LocalFile
from aljava.places.memory import MemoryBuffer
from aljava.places.place import Place
from aljava.places.remote import RemoteFile

#: Sources of more bytes are read batch by batch; smaller ones whole, before a row of them is passed on.
LARGE = 16 << 20
#: A source of so many bytes is read sooner than mapped.
SMALL = 1 << 20
#: Bytes, and sources, that a thread reads at a time.
GROUP_BYTES, GROUP_SOURCES = 4 << 20, 256
#: Groups on their way, and threads that read them: over a network it is the round trips that are to overlap.
GROUPS, THREADS = 4, 2
REMOTE_GROUPS, REMOTE_THREADS, REMOTE_GROUP_SOURCES = 24, 16, 16
#: Bytes in which the schema of most files is found.
HEAD_BYTES, LONGEST_HEAD = 2048, 16 << 20

_PARQUET = b"PAR1"
_ERRORS = (AljavaError, pa.ArrowException, OSError)


class Broken(Exception):
    """A large source failed when some of its rows had been passed on: all has to begin again without it.

    Args:
        number: of the source.
        reason: what was wrong with it.
    """

    def __init__(self, number: int, reason: Exception) -> None:
        super().__init__(number, reason)
        self.number, self.reason = number, reason


class Gathering:
    """The rows of sources, one source after the other, in record batches of one schema. Iterate once.

    A source that cannot be read, or is not what its checksums say, is left out as a whole, and stands in `failures`.

    Args:
        sources: the files.
        head: the schema message of the rows (`head_of`); columns may come in another order, or with types that cast
            without loss.
        model: the address that it is from, for messages.
        without: numbers of sources to pass over.

    Raises:
        Broken: when iterated.
    """

    def __init__(self, sources: Sequence[Source], head: bytes, model: str, without: Iterable[int] = ()) -> None:
        self._sources, self._head, self._model = sources, head, model
        self._without = frozenset(without)
        #: The columns of the rows.
        self.schema: pa.Schema = pa.ipc.read_schema(pa.py_buffer(head))
        #: Rows of each source that was read, by its number.
        self.rows: dict[int, int] = {}
        #: What was wrong with each that was not.
        self.failures: dict[int, Exception] = {}

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        remote = any(not source.root.is_local for source in self._sources[:1])
        most = REMOTE_GROUPS if remote else GROUPS
        waiting: deque[tuple[list[int], Future[list[pa.RecordBatch]] | None]] = deque()
        with ThreadPoolExecutor(REMOTE_THREADS if remote else THREADS, "aljava-gathering") as pool:
            try:
                for group in self._groups(REMOTE_GROUP_SOURCES if remote else GROUP_SOURCES):
                    alone = len(group) == 1 and _is_large(self._sources[group[0]])
                    waiting.append((group, None if alone else pool.submit(self._group, group)))
                    if len(waiting) > most:
                        yield from self._taken(*waiting.popleft())
                while waiting:
                    yield from self._taken(*waiting.popleft())
            finally:
                for _, future in waiting:
                    if future is not None:
                        future.cancel()

    def _groups(self, most: int) -> Iterator[list[int]]:
        group: list[int] = []
        size = 0
        for number, source in enumerate(self._sources):
            if number in self._without:
                continue
            large = _is_large(source)
            if group and (large or len(group) >= most or size + source.size > GROUP_BYTES):
                yield group
                group, size = [], 0
            group.append(number)
            size += source.size
            if large:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _taken(self, group: list[int], future: "Future[list[pa.RecordBatch]] | None") -> Iterator[pa.RecordBatch]:
        if future is not None:
            yield from future.result()
            return
        (number,) = group
        source, rows = self._sources[number], 0
        try:
            for batch in self._fitting(source, opened(source, checked=source.root.is_local)):
                yield batch
                rows += batch.num_rows
        except _ERRORS as error:
            raise Broken(number, error) from error
        self.rows[number] = rows

    def _group(self, group: list[int]) -> list[pa.RecordBatch]:
        """What some sources hold; in any thread."""
        found: list[pa.RecordBatch] = []
        joined: list[tuple[int, bytes, list[memoryview]]] = []
        for number in group:
            source = self._sources[number]
            try:
                data = _bytes(source)
            except _ERRORS as error:
                self.failures[number] = error
                continue
            messages = messages_of(data, self._head)
            if messages is not None:
                joined.append((number, data, messages))
                continue
            found += self._decoded(joined)
            joined = []
            found += self._alone(number, data)
        return _one(found + self._decoded(joined))

    def _decoded(self, joined: list[tuple[int, bytes, list[memoryview]]]) -> list[pa.RecordBatch]:
        """The batches of files whose messages can stand in one stream."""
        if not joined:
            return []
        pieces: list[bytes | memoryview] = [self._head, *(message for _, _, messages in joined for message in messages)]
        try:
            stream = pa.ipc.open_stream(b"".join(pieces), options=pa.ipc.IpcReadOptions(use_threads=False))
            batches = list(stream)
            for batch in batches:
                batch.validate()
        except (pa.ArrowException, OSError, MemoryError):
            # One of them is damaged, or they are too long to be one: each tells for itself.
            return [batch for number, data, _ in joined for batch in self._alone(number, data)]
        at = 0
        for number, _, messages in joined:
            self.rows[number] = sum(batch.num_rows for batch in batches[at : at + len(messages)])
            at += len(messages)
        return batches

    def _alone(self, number: int, data: bytes) -> list[pa.RecordBatch]:
        """All batches of one source, opened as any payload is."""
        source = self._sources[number]
        try:
            table = _parquet(source, data)
            reader = opened(source, data, checked=True) if table is None else table.to_reader()
            batches = list(self._fitting(source, reader))
        except _ERRORS as error:
            self.failures[number] = error
            return []
        self.rows[number] = sum(batch.num_rows for batch in batches)
        return batches

    def _fitting(self, source: Source, reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
        return conformed(reader, self.schema, self._model, source.address)


def opened(source: Source, data: bytes | None = None, *, checked: bool = False) -> pa.RecordBatchReader:
    """The rows of one source, of any format, batch by batch.

    Args:
        source: the file.
        data: its bytes, where they are here.
        checked: whether its bytes are compared with its checksums first.

    Raises:
        AljavaError: it cannot be read.
    """
    place: Place = source.place()
    if data is not None:
        address, place = place.address, MemoryBuffer(data)
        place.address = address
    kind = Kind.of(source.name)
    if kind.is_text and not (kind.codec is None and foreign.is_binary(place)):
        return foreign.read([place], kind)
    fragment = open_fragment(place)
    if checked and isinstance(fragment, IpcFile):
        _check(fragment)
    return Payloads(place, opener=lambda *_, **__: fragment).to_reader()


def _parquet(source: Source, data: bytes) -> pa.Table | None:
    """All rows of a Parquet file; None of any other. In half of the time that it takes to open it as a dataset."""
    if not data.startswith(_PARQUET):
        return None
    from pyarrow import parquet

    with explained(source.address):
        return parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def _one(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The rows of small batches in one, which whoever takes them has less to do with; as they are where they differ."""
    if len(batches) < 2 or not all(batch.schema.equals(batches[0].schema) for batch in batches):
        return batches
    return joined(batches)


def head_of(source: Source) -> bytes:
    """The schema message of a source, as it stands in an Arrow file of this machine; of others, as pyarrow writes it.

    Raises:
        AljavaError: it cannot be read.
    """
    schema = opened(source).schema
    return _head(source.place()) or schema.serialize().to_pybytes()


def _schema(source: Source) -> pa.Schema:
    """The columns of a source; of a small Parquet file in a third of the time that it takes to open it as a dataset."""
    place = source.place()
    if isinstance(place, LocalFile) and source.name.endswith(".parquet") and source.size <= SMALL:
        from pyarrow import parquet

        with suppress(*_ERRORS):
            return parquet.ParquetFile(pa.BufferReader(place.fetch())).schema_arrow
    return opened(source).schema


def _check(fragment: IpcFile) -> None:
    with explained(fragment.address):
        digests = read_checksums(fragment.footer)
    view = memoryview(fragment.whole())
    for block in (*fragment.footer.dictionaries, *fragment.footer.batches) if digests else ():
        if xxhash.xxh3_64_intdigest(view[block.offset : block.end]) != digests[block.offset]:
            raise InvalidData(
                f"{fragment.address} is damaged: the bytes from {block.offset:,} to {block.end:,} are not what their "
                "checksum says. `aljava verify` says more, `aljava repair` saves the rest"
            )


def _is_large(source: Source) -> bool:
    """Whether it is better not read whole; of an address outside folders nobody knows."""
    return source.size > LARGE or not source.root.address


def _bytes(source: Source) -> bytes:
    """All bytes of a small file."""
    place = source.place()
    if isinstance(place, LocalFile):
        return place.fetch()
    assert isinstance(place, RemoteFile)
    with place.reading() as file:
        file.seek(0)
        return bytes(file.read())


def _head(place: Place) -> bytes | None:
    """The schema message of an Arrow file of this machine; None of what is none."""
    if not isinstance(place, LocalFile):
        return None
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        start = os.pread(descriptor, HEAD_BYTES, 0)
        if not start.startswith(FILE_START + CONTINUATION):
            return None
        end = 16 + int.from_bytes(start[12:16], "little")
        if end > len(start):
            start = os.pread(descriptor, min(end, LONGEST_HEAD), 0)
        return start[8:end] if len(start) >= end else None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def messages_of(data: bytes, head: bytes) -> list[memoryview] | None:
    """The record batches of an Arrow file, as they stand.

    Args:
        data: the file.
        head: the schema message that it must have.

    Returns:
        the messages, which stand one behind the other, which the footer lists in this order, and which are what its
        checksums say; None of any other file, and of one that is damaged.
    """
    start = 8 + len(head)
    end = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    if data[8:start] != head or not data.startswith(FILE_START) or not data.endswith(MAGIC) or end < start:
        return None
    view, footer, at = memoryview(data), data[end:-10], start
    messages, blocks, digests, packed = [], [], [], []
    try:
        while data[at : at + 8] != END_OF_STREAM:
            length = 8 + int.from_bytes(data[at + 4 : at + 8], "little")
            kind, body, codec = peek(view[at + 8 : at + length])
            stop = at + length + body
            if data[at : at + 4] != CONTINUATION or kind != BATCH or stop > end or (length + body) % 8:
                return None
            messages.append(view[at:stop])
            blocks.append(struct.pack("<qi4xq", at, length, body))
            digests.append(xxhash.xxh3_64_intdigest(messages[-1]))
            if codec is not None:
                packed.append((length, messages[-1]))
            at = stop
        # A vector of structs, as FlatBuffers has it: how many, then one behind the other.
        if struct.pack("<I", len(blocks)) + b"".join(blocks) not in footer:
            return None
        if CHECKSUMS in footer:
            return messages if encode_digests(digests) in footer else None
        for length, message in packed:
            check_compressed(decode_message(message[8:length]), message[length:])
    except (AljavaError, pa.ArrowException, struct.error):
        return None
    return messages


def check_schemas(sources: Iterable[Source], head: bytes, model: str) -> None:
    """Looks at the columns of sources before any of their rows is read; one that cannot be read is passed over.

    Args:
        sources: the files.
        head: the schema message that they are to fit.
        model: the address that it is from.

    Raises:
        SchemaMismatch: names the file and the column.
    """
    schema = pa.ipc.read_schema(pa.py_buffer(head))
    fitting = {head}

    def check(some: list[Source]) -> None:
        for source in some:
            theirs = _head(source.place())
            if theirs is not None and theirs in fitting:
                continue
            try:
                found = _schema(source) if theirs is None else pa.ipc.read_schema(pa.py_buffer(theirs))
            except _ERRORS:
                continue
            if not found.equals(schema):
                conformed(pa.RecordBatchReader.from_batches(found, []), schema, model, source.address)
            if theirs is not None:
                fitting.add(theirs)

    left, remote = iter(sources), False
    with ThreadPoolExecutor(REMOTE_THREADS, "aljava-schemas") as pool:
        while some := list(islice(left, GROUP_SOURCES)):
            remote = remote or not some[0].root.is_local
            # A local look takes 30 µs, mostly of Python's: threads only help where there is something to wait for.
            list(pool.map(check, [[source] for source in some] if remote else [some]))
