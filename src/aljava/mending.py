"""Is a file what it was when it was written, and what can be saved of one that is not.

`verify` looks at every byte: the messages against the footer's list and their checksums, the values of each batch,
the statistics against the data, the footer against what a writer would make of what it says. `repair` walks a file
whose end is missing or wrong, keeps every batch that is complete and sound, and writes a new end.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aljava.address import locate
from aljava.errors import AljavaError, InvalidData, UnsupportedType
from aljava.formats import Format, recognise
from aljava.fragments import Fragment, IpcFile, explained, open_fragment
from aljava.frames import offsets_type, with_offsets
from aljava.ipc.checksums import (
    FOOTER_KEY,
    SUPERSEDED_KEY,
    digest,
    encode_checksums,
    encode_superseded,
    footer_digest,
    read_checksums,
    read_superseded,
)
from aljava.ipc.checksums import KEY as CHECKSUMS_KEY
from aljava.ipc.message import (
    CONTINUATION,
    END_OF_STREAM,
    FILE_START,
    MAGIC,
    Found,
    Messages,
    find_message,
    schema_metadata,
)
from aljava.ipc.metadata import BATCH, DICTIONARY, SCHEMA, Block, Footer, decode_footer, decode_schema, encode_footer
from aljava.ipc.projection import Projection, dictionary_ids
from aljava.ipc.reader import check_compressed
from aljava.ipc.zones import KEY as ZONES_KEY
from aljava.ipc.zones import ZoneBuilder, Zones
from aljava.places.place import Place


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    #: "damage": data or what describes it has changed; "padding": bytes that nobody reads have.
    kind: str
    #: Bytes from the start of the payload to where it is; None where it has no one place.
    offset: int | None
    #: What was expected and what was found.
    what: str

    def __str__(self) -> str:
        return f"{self.kind}{'' if self.offset is None else f' at byte {self.offset:,}'}: {self.what}"


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    #: What was looked at.
    address: str
    #: Everything that is wrong; nothing in a sound payload.
    findings: tuple[Finding, ...]
    #: Record batches that were read.
    batches: int
    #: Their rows.
    rows: int
    #: Bytes of the payload.
    bytes: int
    #: Whether the file carries checksums. Without them a changed value may be as good as any other.
    checksums: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass(frozen=True)
class Repaired:
    """What `repair` did."""

    #: Where the repaired file stands.
    address: str
    #: Record batches that were saved, and their rows.
    batches: int
    rows: int
    #: What was lost, each with its place.
    lost: tuple[str, ...]
    #: Why what was saved could not be checked against checksums; None where each saved batch gave its own.
    unchecked: str | None
    #: Bytes of the repaired file.
    bytes: int


def verify(address: Any, *, filesystem: Any = None, storage_options: Any = None) -> Verification:
    """Looks at every byte of a payload.

    Args:
        address: as in `aljava.open`, of one payload.
        filesystem: as in `aljava.open`.
        storage_options: as in `aljava.open`.

    Returns:
        what was found; a damaged payload raises nothing.

    Raises:
        NotFound, AccessDenied, TransferError: it cannot be read at all.

    Examples:
        >>> import aljava, tempfile
        >>> address = tempfile.mkdtemp() + "/table.arrow"
        >>> _ = aljava.write({"id": range(10_000)}, address)
        >>> verify(address).ok
        True
        >>> content = bytearray(open(address, "rb").read())
        >>> content[len(content) // 2] ^= 1
        >>> _ = open(address, "wb").write(content)
        >>> verify(address).ok
        False
    """
    place = locate(address, filesystem=filesystem, storage_options=storage_options)
    try:
        fragment = open_fragment(place, untrusted=True)
    except (InvalidData, UnsupportedType) as error:
        return Verification(place.address, (Finding("damage", None, str(error)),), 0, 0, _size(place), False)
    findings = list(_file_findings(fragment) if isinstance(fragment, IpcFile) else ())
    batches = rows = 0
    try:
        for task in fragment.tasks(None):
            for batch in task.read():
                batches += 1
                rows += batch.num_rows
    except AljavaError as error:
        findings.append(Finding("damage", None, str(error)))
    checksums = isinstance(fragment, IpcFile) and fragment.footer.value(CHECKSUMS_KEY) is not None
    return Verification(place.address, tuple(findings), batches, rows, fragment.nbytes, checksums)


def _size(place: Place) -> int:
    with place.reading() as source:
        return int(source.size())


def _file_findings(fragment: IpcFile) -> Iterator[Finding]:
    buffer = fragment.whole()
    view = memoryview(buffer)
    footer = fragment.footer
    if bytes(view[:6]) != MAGIC:
        yield Finding("damage", 0, f"a file begins with {MAGIC!r}, this one with {bytes(view[:6])!r}")
    elif bytes(view[:8]) != FILE_START:
        yield Finding("padding", 6, "the two bytes behind the magic are not zero")
    messages = Messages(buffer, 8)
    found = list(messages)
    listed = {block.offset: block for block in (*footer.dictionaries, *footer.batches)}
    walked = {one.offset: one for one in found}
    # Whoever writes otherwise (a slack between messages, say) is right as long as the footer leads to each.
    for offset, block in sorted(listed.items()):
        one = walked.get(offset)
        if one is None:
            yield Finding("damage", offset, "the footer lists a message where walking the file finds none")
        elif (one.metadata_length, one.header.body_length) != (block.metadata_length, block.body_length):
            yield Finding("damage", offset, f"the footer says {block}, the message itself says otherwise: {one.end}")
    for one in found:
        if one.header.kind == BATCH and one.offset not in listed:
            yield Finding("damage", one.offset, "a record batch that the footer does not list: its rows are not read")
    try:
        checksums = read_checksums(footer) | read_superseded(footer)
    except InvalidData as error:
        yield Finding("damage", None, str(error))
        checksums = {}
    ends = {offset: block.end for offset, block in listed.items()} | {one.offset: one.end for one in found}
    for offset, expected in checksums.items():
        end = ends.get(offset)
        if end is None or digest([view[offset:end]]) != expected:
            yield Finding("damage", offset, "the bytes of a message do not give its checksum")
    if any(key in (CHECKSUMS_KEY, FOOTER_KEY) for key, _ in footer.metadata):
        yield from _end_findings(fragment, view, messages)
    try:
        zones = fragment.zones
        if zones is not None:
            yield from _zone_findings(fragment, zones)
    except AljavaError as error:
        yield Finding("damage", None, str(error))


def _end_findings(fragment: IpcFile, view: memoryview, messages: Messages) -> Iterator[Finding]:
    """The schema and the footer of a file of ours, byte by byte: what they say, encoded anew, must be what they are."""
    footer, size = fragment.footer, len(view)
    entries = [entry for entry in footer.metadata if entry[0] != FOOTER_KEY]
    if footer.value(FOOTER_KEY) != footer_digest(entries):
        yield Finding(
            "damage", None, "the entries of the footer (statistics, checksums, metadata) do not give its checksum"
        )
    start = size - 10 - int.from_bytes(view[size - 10 : size - 6], "little")
    schema = bytes(view[16 : fragment.schema_end])
    own = schema_metadata(fragment.schema.serialize())
    stored = bytes(view[start : size - 10])
    if stored != encode_footer(own, sorted(footer.dictionaries), footer.batches, footer.metadata) and stored != (
        encode_footer(own, footer.dictionaries, footer.batches, footer.metadata)
    ):
        yield Finding("damage", start, "the footer is not what its own content makes")
    if schema[: len(own)] != own:
        yield Finding("damage", 8, "the schema at the start is not the schema of the footer")
    elif any(schema[len(own) :]):
        yield Finding("padding", 16 + len(own), "bytes behind the schema are not zero")
    if messages.end + 8 > start or bytes(view[messages.end : messages.end + 8]) != END_OF_STREAM:
        yield Finding("damage", messages.end, "the messages do not end with the end of the stream")
    elif any(view[messages.end + 8 : start]):
        yield Finding("padding", messages.end + 8, "bytes between the end of the stream and the footer are not zero")


def _zone_findings(fragment: IpcFile, zones: Zones) -> Iterator[Finding]:
    table = zones.table
    columns = table["columns"].combine_chunks()
    if isinstance(columns, pa.ChunkedArray):
        columns = pa.concat_arrays(columns.chunks) if columns.num_chunks else pa.array([], columns.type)
    numbers = np.asarray(table["batch"])
    described = np.bincount(numbers, np.asarray(table["rows"]), fragment.num_batches).astype(np.int64)
    for number in np.unique(numbers).tolist():
        if number >= fragment.num_batches:
            yield Finding("damage", None, f"statistics of record batch {number}, and there are {fragment.num_batches}")
            return
        (batch,) = fragment.batches([number])
        if described[number] != batch.num_rows:
            yield Finding(
                "damage",
                None,
                f"statistics of {described[number]:,} rows of batch {number}, which has {batch.num_rows:,}",
            )
            continue
        for place in np.flatnonzero(numbers == number).tolist():
            offset, rows = table["offset"][place].as_py(), table["rows"][place].as_py()
            for name in columns.type.names:
                wrong = _untrue(batch.column(name).slice(offset, rows), columns.field(name).slice(place, 1))
                if wrong:
                    yield Finding(
                        "damage", None, f"statistics of {name!r}, batch {number}, rows from {offset:,}: {wrong}"
                    )


def _untrue(values: pa.Array, said: pa.StructArray) -> str | None:
    """What is not true of what statistics say of some values; None where all is."""
    nulls = said.field("nulls")[0].as_py()
    values = _plain(values)
    if nulls is not None and nulls != values.null_count:
        return f"{nulls} nulls, and there are {values.null_count}"
    if "min" not in said.type.names or len(values) == values.null_count:
        return None
    low, high = (_plain(said.field(end)) for end in ("min", "max"))
    if not (low[0].is_valid and high[0].is_valid):
        return None
    if pa.types.is_floating(values.type):
        if math.isnan(low[0].as_py()) or math.isnan(high[0].as_py()):
            return None
        if pc.any(pc.is_nan(values)).as_py():
            return "bounds where there is a NaN"
    found = pc.min_max(values)
    # Not as objects of Python, which has no year 10,000: a damaged date may be any.
    if pc.less(found["min"], low[0]).as_py() or pc.greater(found["max"], high[0]).as_py():
        return "values lie outside of the least and the greatest"
    return None


def _plain(values: pa.Array) -> pa.Array:
    """The same in a type for which pyarrow has an order."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(values.storage)
    if pa.types.is_dictionary(kind):
        return _plain(with_offsets(values).dictionary_decode())
    if offsets_type(kind) != kind:
        return with_offsets(values)
    if pa.types.is_duration(kind):
        return values.cast(pa.int64())
    if pa.types.is_float16(kind):
        return values.cast(pa.float32())
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return values.cast(pa.decimal128(kind.precision, kind.scale))
    return values


def repair(address: Any, to: Any = None) -> Repaired:
    """Saves every complete and sound record batch of a damaged, truncated or half-appended file.

    Where the footer can be read, what is saved is what gives one of its checksums, wherever it stands now; what does
    not, or is not found, is lost. Where the checksums went with the footer, what is well formed is saved, and
    `unchecked` says that no more is known of it.

    The bytes of each batch are kept as they are. Statistics and checksums are made anew. A file that was repaired is
    written beside the damaged one and takes its place when it is whole.

    Args:
        address: of the damaged file.
        to: where the repaired file goes; by default it takes the damaged one's place.

    Returns:
        what was saved and what was lost.

    Raises:
        InvalidData: no Arrow file, or its schema is gone: nothing can be saved.

    Examples:
        >>> import aljava, tempfile
        >>> address = tempfile.mkdtemp() + "/table.arrow"
        >>> _ = aljava.write({"id": range(10_000)}, address, batch_rows=1000, compression="none")
        >>> content = open(address, "rb").read()
        >>> _ = open(address, "wb").write(content[:50_000])
        >>> saved = repair(address)
        >>> saved.batches, aljava.read(address).num_rows
        (6, 6000)
        >>> print(saved.unchecked)
        the footer is gone: what was saved is well formed, but could not be checked against checksums, nor its schema
    """
    place = locate(address)
    target = place if to is None else locate(to)
    with place.reading() as source:
        source.seek(0)
        buffer = source.read_buffer()
        if buffer[:6].to_pybytes() != MAGIC:
            kind = recognise(source, place.address)
            if kind is not Format.IPC_FILE:
                raise InvalidData(
                    f"{place.address} is {kind.value} and no IPC file: what is whole of it can be read as it is"
                )
    with explained(place.address):
        wreck = _Wreck(buffer, _whole_end(place))
    with target.sink() as sink:
        size = wreck.write(sink)
    return Repaired(target.address, len(wreck.batches), wreck.rows, tuple(wreck.lost), wreck.unchecked, size)


def _whole_end(place: Place) -> IpcFile | None:
    """The file, if its end is whole."""
    try:
        fragment: Fragment = open_fragment(place)
    except (InvalidData, UnsupportedType):
        return None
    return fragment if isinstance(fragment, IpcFile) else None


def _footer_of(view: memoryview) -> Footer | None:
    """What the footer says, if there is one, also where messages no longer stand where it says."""
    length = int.from_bytes(view[-10:-6], "little")
    if bytes(view[-6:]) != MAGIC or not 8 <= length <= len(view) - 18:
        return None
    try:
        return decode_footer(view[-10 - length : -10], _ANYWHERE)
    except (InvalidData, UnsupportedType):
        return None


#: No file is as long.
_ANYWHERE = 1 << 62


class _Wreck:
    """What is sound in the bytes of a file.

    Args:
        buffer: the bytes.
        file: the file as its footer has it, if that can still be read.
    """

    def __init__(self, buffer: pa.Buffer, file: IpcFile | None) -> None:
        self._view = memoryview(buffer)
        self._buffer = buffer
        self._footer = _footer_of(self._view) if file is None else file.footer
        self.lost: list[str] = []
        self.batches: list[Found] = []
        self.rows = 0
        self._kept: list[Found] = []
        self._dictionaries: dict[int, list[Found]] = {}
        #: Dictionaries with which no batch was read yet: they may be damaged.
        self._pending: list[Found] = []
        #: What the batches are called by those who know their numbers, by the places where they stand.
        self._names: dict[int, str] = {}
        stop = len(self._view)
        if self._footer is not None:
            stop -= 10 + int.from_bytes(self._view[-10:-6], "little")
        schema, self._message = self._schema_at_start(Messages(buffer, 8, stop))
        if file is not None and (schema is None or not schema.equals(file.schema, check_metadata=True)):
            damage = "is gone" if schema is None else "is another than that of the footer, and either may be damaged"
            self.lost.append(f"the schema at the start {damage}: that of the footer stands for it")
            schema, self._message = file.schema, schema_metadata(file.schema.serialize())
        if schema is None:
            raise InvalidData(
                "the schema at the start of the file is gone, and there is no footer: nothing can be read"
            )
        self.schema = schema
        header = decode_schema(self._message)
        own = schema_metadata(schema.serialize())
        if dictionary_ids(decode_schema(own)) == dictionary_ids(header):
            # Damage that says nothing, in the padding of a table, is mended with the rest.
            self._message = own
        # A foreign writer may have numbered its dictionaries in its own way: then the file's own message stays.
        self._schema_bytes = FILE_START + CONTINUATION + len(self._message).to_bytes(4, "little") + self._message
        self._projection = Projection(self.schema, header, range(len(self.schema)))
        self._zones = ZoneBuilder(self.schema)
        found = [one for one in self._walk(stop) if one.header.kind in (DICTIONARY, BATCH)]
        checksums, doubt = self._checksums()
        if doubt is None:
            found = self._vouched(found, checksums)
        elif self._footer is not None:
            gone = len(self._footer.batches) - sum(one.header.kind == BATCH for one in found)
            if gone > 0:
                self.lost.append(f"{gone} of the {len(self._footer.batches)} record batches of the footer: not found")
        for one in found:
            self._take(one)
        for one in self._pending:
            self.lost.append(f"dictionary at byte {one.offset:,}: no record batch could be read with it")
        unread = doubt and ("" if file is not None else ", nor its schema")
        self.unchecked = doubt and (
            f"{doubt}: what was saved is well formed, but could not be checked against checksums{unread}"
        )

    def _checksums(self) -> tuple[dict[int, int], str | None]:
        """The checksums by the places where the messages stood, and why they cannot be relied on, if so."""
        footer = self._footer
        if footer is None:
            return {}, "the footer is gone"
        if footer.value(CHECKSUMS_KEY) is None and footer.value(FOOTER_KEY) is None:
            return {}, "the file carries no checksums"
        try:
            checksums = read_superseded(footer) | read_checksums(footer)
        except InvalidData:
            return {}, "the checksums in the footer are damaged"
        if footer.value(FOOTER_KEY) != footer_digest(entry for entry in footer.metadata if entry[0] != FOOTER_KEY):
            return {}, "the footer does not give its own checksum"
        # That one covers the entries of the footer, not its list of the messages.
        blocks = sorted({*footer.dictionaries, *footer.batches})
        starts = [*(block.offset for block in blocks), len(self._view)]
        ends = [len(FILE_START), *(block.end for block in blocks)]
        if any(end > start for end, start in zip(ends, starts, strict=True)):
            return {}, "the list of batches in the footer is damaged"
        return checksums, None

    def _vouched(self, found: list[Found], checksums: dict[int, int]) -> list[Found]:
        """What gives a checksum, in the order in which it was written: bytes may have gone or come before it."""
        assert self._footer is not None
        numbers = {block.offset: number for number, block in enumerate(self._footer.batches)}
        left: dict[int, list[Found]] = {}
        for one in found:
            left.setdefault(digest([self._view[one.offset : one.end]]), []).append(one)
        vouched = []
        missing = []
        whole = True
        for offset, expected in sorted(checksums.items()):
            same = left.get(expected)
            if not same:
                missing.append(offset)
                whole = whole and offset in numbers
                continue
            one = next((each for each in same if each.offset == offset), same[0])
            same.remove(one)
            if one.header.is_delta and not whole:
                # What is added to a dictionary of which a part is gone would stand at other places in it.
                self.lost.append(f"dictionary at byte {one.offset:,}: adds to one that is lost")
            else:
                vouched.append(one)
                if offset in numbers:
                    self._names[one.offset] = f"record batch {numbers[offset]}"
        unknown = {one.offset for some in left.values() for one in some}
        for offset in missing:
            name = f"record batch {numbers[offset]}" if offset in numbers else "dictionary"
            if offset in unknown:
                self.lost.append(f"{name} at byte {offset:,}: its bytes do not give its checksum")
            else:
                self.lost.append(f"{name}, which stood at byte {offset:,}: not found")
        for one in found:
            if one.offset in unknown and one.offset not in missing:
                self.lost.append(f"{one.header.kind} at byte {one.offset:,}: a copy, or damaged: it gives no checksum")
        return vouched

    def _schema_at_start(self, messages: Messages) -> tuple[Any, bytes]:
        """The schema that the file begins with, and its message; None if it is gone."""
        first = next(iter(messages), None)
        if first is None or first.header.kind != SCHEMA:
            return None, b""
        try:
            schema = pa.ipc.read_schema(self._buffer[8 : first.end])
        except (pa.ArrowException, OSError, ValueError):
            return None, b""
        return schema, bytes(self._view[first.offset + 8 : first.offset + first.metadata_length])

    def _walk(self, stop: int) -> Iterator[Found]:
        """The messages before `stop`, whatever stands between them."""
        messages = Messages(self._buffer, 8, stop)
        while True:
            yield from messages
            if messages.stopped == "end of data":
                return
            following = find_message(self._view[:stop], messages.end + 8)
            # Zeros in place of a message look like the end of the stream, unless there is more behind them.
            if following is None and messages.stopped == "end of stream":
                return
            until = stop if following is None else following
            self.lost.append(f"bytes {messages.end:,} to {until:,}: {messages.stopped}")
            if following is None:
                return
            messages = Messages(self._buffer, following, stop)

    def _take(self, found: Found) -> None:
        header = found.header
        try:
            pa.ipc.read_message(self._buffer[found.offset : found.end])
        except (pa.ArrowException, OSError) as error:  # what our decoder has no use for may be damaged too
            self.lost.append(f"{header.kind} at byte {found.offset:,}: {error}")
            return
        if header.kind == DICTIONARY and header.dictionary_id is not None:
            self._pending.append(found)
        elif header.kind == BATCH:
            known = self._known()
            try:
                (batch,) = self._projection.read(self._bodies(found, known), untrusted=True)
            except (pa.ArrowException, AljavaError, OSError, KeyError) as error:
                name = self._names.get(found.offset, "record batch")
                self.lost.append(f"{name} at byte {found.offset:,}: {error}")
                return
            self._zones.add(batch, compressed=header.batch is not None and header.batch.codec is not None)
            self.rows += batch.num_rows
            self.batches.append(found)
            self._kept += [*self._pending, found]
            self._dictionaries = known
            self._pending = []

    def _known(self) -> dict[int, list[Found]]:
        """The dictionaries for the next batch, by their ids."""
        known = {number: [*some] for number, some in self._dictionaries.items()}
        for found in self._pending:
            assert found.header.dictionary_id is not None
            some = known.setdefault(found.header.dictionary_id, [])
            if not found.header.is_delta:
                some.clear()
            some.append(found)
        return known

    def _bodies(self, batch: Found, known: dict[int, list[Found]]) -> Iterator[tuple[Any, Any]]:
        for found in (*sorted(one for some in known.values() for one in some), batch):
            body = self._buffer[found.offset + found.metadata_length : found.end]
            check_compressed(found.header, body)
            yield self._projection.cut(found.header), body

    def write(self, sink: Any) -> int:
        """Writes the file anew: the sound messages as they are, one behind the other, then a footer."""
        at = len(self._schema_bytes)
        sink.write(self._schema_bytes)
        blocks: dict[int, Block] = {}
        digests: dict[int, int] = {}
        for found in self._kept:
            message = self._buffer[found.offset : found.end]
            blocks[found.offset] = Block(at, found.metadata_length, found.header.body_length)
            digests[at] = digest([message])
            sink.write(message)
            at += message.size
        live = [blocks[one.offset] for some in self._dictionaries.values() for one in some]
        batches = [blocks[one.offset] for one in self.batches]
        footer = self._new_footer(live, batches, digests)
        end = END_OF_STREAM + footer + len(footer).to_bytes(4, "little") + MAGIC
        sink.write(end)
        return at + len(end)

    def _new_footer(self, dictionaries: Sequence[Block], batches: Sequence[Block], digests: dict[int, int]) -> bytes:
        own = (CHECKSUMS_KEY, FOOTER_KEY, SUPERSEDED_KEY, ZONES_KEY)
        entries = [] if self._footer is None else [entry for entry in self._footer.metadata if entry[0] not in own]
        entries += self._zones.finish().items()
        listed = {block.offset for block in (*dictionaries, *batches)}
        listed_digests = {offset: value for offset, value in digests.items() if offset in listed}
        entries.append((CHECKSUMS_KEY, encode_checksums(listed_digests)))
        superseded = {offset: value for offset, value in digests.items() if offset not in listed}
        if superseded:
            entries.append((SUPERSEDED_KEY, encode_superseded(superseded)))
        entries.append((FOOTER_KEY, footer_digest(entries)))
        return encode_footer(self._message, dictionaries, batches, entries)
