"""Zone maps: what each stretch of rows of a file can hold, so that a query reads only where its answer may be.

A *zone* is a range of rows in one record batch. For each column that has an order, a zone map says the least and the
greatest value of each zone, and how many nulls; for other columns, how many nulls. In an uncompressed batch zones are
finer than the batch, since a slice of mapped memory costs nothing; a compressed batch has to be read as a whole and
is one zone.

The statistics stand in the file's footer, as custom metadata that other readers ignore::

    "aljava.zones" -> base64( zstd( Arrow IPC stream of one table ))

    batch: int32   offset: int64   rows: int64   columns: struct<NAME: struct<min: T, max: T, nulls: int64>, …>

`docs/format-zones.md` says the same so that someone else can implement it.

Every batch of the file is described whole or not at all; rows that no zone describes must be read.
"""

import base64
import binascii
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from aljava.errors import InvalidData, InvalidOption, SchemaMismatch
from aljava.ipc.bounds import Collector, Cuts, Rows, are_in_order, collector, zone_type
from aljava.ipc.metadata import BATCH, SCHEMA, peek

if TYPE_CHECKING:
    import pyarrow.compute as pc

    from aljava.ipc.pruning import Pruner
from aljava.ipc.filters import Verdict

KEY = b"aljava.zones"
_NAME = KEY.decode()

# Reading an uncompressed zone of this size takes about as long as asking whether it can match: 10 µs.
ZONE_ROWS = 8192
# Columns are described in stretches of this many rows, which stay in the processor's cache from minimum to maximum.
STRETCH_ROWS = 131_072
# A batch with fewer rows is written faster than described (10 µs a column): only its place and its rows are kept.
FEWEST_ROWS = 4096

# More rows than any batch can have, few enough that sums of them stay exact.
_MOST_ROWS = 1 << 53
# Decoded statistics may take this many bytes, plus this many for each byte of text.
DECODED_BYTES, DECODED_RATIO = 32 << 20, 256
DECODED_PIECE = 1 << 20

# The zone maps that were decoded last, each with its text: of queries, many ask the same few files. A map is found by
# its text and not by the file's name, so that it cannot be out of date; to compare texts takes 5 µs for 100 kB.
REMEMBERED, REMEMBERED_BYTES = 8, 4 << 20


@dataclass(frozen=True, eq=False)
class Zones:
    """The zone map of a file.

    Example:
        >>> import pyarrow.compute as pc
        >>> schema = pa.schema([("day", pa.int32())])
        >>> builder = ZoneBuilder(schema)
        >>> builder.add(pa.record_batch([pa.array(range(20_000), pa.int32())], schema=schema), compressed=False)
        >>> zones = Zones.from_metadata(builder.finish(), schema)
        >>> zones.prune(pc.field("day") > 17_000)
        array([False, False,  True])
    """

    # One row a zone, in the order of the file: `batch`, `offset` (the zone's first row in that batch), `rows`, and
    # `columns`, a struct with a struct of `min`, `max` and `nulls` for each column of which something is known.
    table: pa.Table
    # The schema of the file.
    schema: pa.Schema

    @cached_property
    def _pruner(self) -> "Pruner":
        from aljava.ipc.pruning import Pruner  # with pyarrow.compute, a fifth of the time to import pyarrow

        return Pruner(self.table, self.schema)

    def __len__(self) -> int:
        """The number of zones."""
        return int(self.table.num_rows)

    def bounds(self, name: str) -> pa.StructArray | None:
        """What is known of a column: a struct of `min`, `max` and `nulls` for each zone; None where nothing is."""
        columns = self.table["columns"].combine_chunks()
        return columns.field(name) if len(self) and columns.type.get_field_index(name) >= 0 else None

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, schema: pa.Schema) -> "Zones | None":
        """Read the zone map from the custom metadata of a footer.

        Args:
            metadata: the footer's custom metadata.
            schema: the schema of the file.

        Returns:
            The zone map, or None if the file has none.

        Raises:
            InvalidData: there is one, but it is damaged, larger than its text can honestly be, or does not fit the
                schema.
        """
        text = None if metadata is None else metadata.get(KEY)
        if text is None:
            return None
        for known, zones in tuple(_REMEMBERED):
            if known == text and zones.schema.equals(schema):
                return zones
        zones = cls(_decode(text, schema), schema)
        if zones.table.nbytes <= REMEMBERED_BYTES:
            _REMEMBERED.append((text, zones))
        return zones

    def to_metadata(self) -> dict[bytes, bytes]:
        """Return the zone map as custom metadata for a footer; nothing if it is too large to be read back."""
        text = _encode(self.table)
        return {} if text is None else {KEY: text}

    def prune(self, filter: "pc.Expression") -> npt.NDArray[np.bool_]:
        """Say which zones can hold a row that a filter selects.

        A zone that is left out holds none. A zone that is kept need not hold one: what cannot be judged (a cast, a
        comparison with NaN, a column without bounds) is taken to be possible anywhere. Threads may ask at once.

        Args:
            filter: an expression over the columns of the file.

        Returns:
            One boolean a zone, in the order of `table`.
        """
        return self.judge(filter).kept

    def judge(self, filter: "pc.Expression") -> Verdict:
        """Say which zones can hold a row that a filter selects, and which hold no other.

        Args:
            filter: as in `prune`.
        """
        return self._pruner.judge(filter)


_REMEMBERED: deque[tuple[bytes, Zones]] = deque(maxlen=REMEMBERED)


class ZoneBuilder:
    """Makes the zone map of a file while it is written. One thread at a time.

    Args:
        schema: the schema of the file.
        rows: the rows of a zone in an uncompressed batch.

    Raises:
        InvalidOption: `rows` is below 1.
    """

    def __init__(self, schema: pa.Schema, *, rows: int = ZONE_ROWS) -> None:
        if rows < 1:
            raise InvalidOption(f"a zone has at least 1 row, not {rows}")
        self._schema = schema
        self._rows = rows
        self._earlier: Zones | None = None
        self._fewest_rows = FEWEST_ROWS
        # The batches seen, those of the file before it was resumed included.
        self._batches = 0
        # Zones, in order: the batch, the first row, the rows.
        self._places: list[tuple[int, Rows, Rows]] = []
        # A collector for each column that is described; made for the first batch that is.
        self._collectors: list[tuple[int, Collector]] = []
        # Zones at the end of `_places` that the collectors have yet to be told to leave blank.
        self._blank = 0
        self._worth_keeping = False

    @classmethod
    def resume(cls, schema: pa.Schema, zones: Zones | None, batches: int, *, rows: int = ZONE_ROWS) -> "ZoneBuilder":
        """Go on with the zone map of a file that is appended to.

        Args:
            schema: the schema of the file.
            zones: the zone map of what the file holds already, or None if it has none.
            batches: how many record batches the file holds already.
            rows: the rows of a zone in an uncompressed batch.

        Raises:
            SchemaMismatch: the zone map is of another schema.
            InvalidData: the zone map describes a batch that the file does not hold.
        """
        builder = cls(schema, rows=rows)
        if zones is not None:
            if not zones.schema.equals(schema):
                raise SchemaMismatch(f"the zone map is of another schema: expected {schema}, found {zones.schema}")
            if len(zones) and (last := zones.table["batch"][-1].as_py()) >= batches:
                raise InvalidData(f"{_NAME} describes record batch {last}, but the file holds {batches}")
        builder._earlier = zones
        builder._batches = batches
        builder._worth_keeping = zones is not None
        if batches:
            # A file may grow by nothing but small batches.
            builder._fewest_rows = 1
        return builder

    def add(self, batch: pa.RecordBatch, *, compressed: bool) -> None:
        """Describe the next record batch of the file.

        Args:
            batch: the batch, as it is written.
            compressed: whether its body is compressed, so that it can only be read as a whole.
        """
        rows = batch.num_rows
        if rows < self._fewest_rows:
            self._places.append((self._batches, np.zeros(1, np.int64), np.array([rows])))
            self._blank += 1
        elif compressed or rows <= self._rows:
            self._describe(batch, 0, np.zeros(1, np.int64))
        else:
            stretch = max(STRETCH_ROWS // self._rows, 1) * self._rows
            for offset in range(0, rows, stretch):
                part = batch.slice(offset, stretch)
                self._describe(part, offset, np.arange(0, part.num_rows, self._rows))
        self._batches += 1

    def finish(self) -> dict[bytes, bytes]:
        """Return the zone map as custom metadata for the footer: empty if there is nothing worth keeping."""
        if not self._worth_keeping:
            return {}
        self._skip_blank()
        batch = np.repeat([batch for batch, _, _ in self._places], [len(starts) for _, starts, _ in self._places])
        offset = np.concatenate([np.empty(0, np.int64), *(starts for _, starts, _ in self._places)])
        rows = np.concatenate([np.empty(0, np.int64), *(rows for _, _, rows in self._places)])
        schema = _table_schema(self._schema)
        columns = pa.array([{}] * len(batch), pa.struct([]))
        if self._collectors:
            arrays = [column.finish() for _, column in self._collectors]
            columns = pa.StructArray.from_arrays(arrays, fields=list(schema.field("columns").type))
        table = pa.table([pa.array(batch, pa.int32()), pa.array(offset), pa.array(rows), columns], schema=schema)
        if self._earlier is not None:
            table = pa.concat_tables([self._earlier.table, table]).combine_chunks()
        return Zones(table, self._schema).to_metadata()

    def _describe(self, batch: pa.RecordBatch, offset: int, starts: Rows) -> None:
        self._skip_blank()
        cuts = Cuts(starts, batch.num_rows)
        # NumPy warns of signalling NaNs; a NaN of either kind is seen in the result.
        with np.errstate(invalid="ignore"):
            for index, column in self._collectors:
                column.add(batch.column(index), cuts)
        self._places.append((self._batches, offset + starts, cuts.lengths))
        self._worth_keeping = True

    def _skip_blank(self) -> None:
        if not self._collectors:
            self._collectors = [
                (index, collector(self._schema.field(index).type)) for index in _described(self._schema)
            ]
        if self._blank:
            for _, column in self._collectors:
                column.skip(self._blank)
            self._blank = 0


def _described(schema: pa.Schema) -> list[int]:
    """Return the columns that a filter can name: those that share their name with no other."""
    times = Counter(schema.names)
    return [index for index, name in enumerate(schema.names) if times[name] == 1]


def _table_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of the zone map of a file with this schema."""
    columns = [(schema.field(index).name, zone_type(schema.field(index).type)) for index in _described(schema)]
    return pa.schema(
        [
            pa.field("batch", pa.int32(), nullable=False),
            pa.field("offset", pa.int64(), nullable=False),
            pa.field("rows", pa.int64(), nullable=False),
            pa.field("columns", pa.struct([pa.field(*column, nullable=False) for column in columns]), nullable=False),
        ]
    )


def _encode(table: pa.Table) -> bytes | None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions()) as stream:
        stream.write_table(table)
    raw = sink.getvalue()
    text = base64.b64encode(pa.Codec("zstd").compress(raw, asbytes=True))
    return text if raw.size <= _limit(text) else None


def _limit(text: bytes) -> int:
    return DECODED_BYTES + DECODED_RATIO * len(text)


def _decode(text: bytes, schema: pa.Schema) -> pa.Table:
    try:
        compressed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _garbled(f"expected base64, found {error}") from error
    limit = _limit(text)
    try:
        with pa.CompressedInputStream(pa.BufferReader(compressed), "zstd") as stream, pa.BufferOutputStream() as sink:
            # In pieces: pyarrow allocates what it is asked to read before it knows how much there is.
            while sink.tell() <= limit and (piece := stream.read_buffer(DECODED_PIECE)).size:
                sink.write(piece)
            raw = sink.getvalue()
    except OSError as error:
        raise _garbled(f"expected a zstd frame, found {error}") from error
    if raw.size > limit:
        raise _garbled(f"expected at most {limit:,} bytes from {len(text):,} characters, found more")
    expected = _table_schema(schema)
    try:
        _check_bodies(raw)
        with pa.ipc.open_stream(raw) as reader:
            if not reader.schema.equals(expected):
                raise _garbled(f"expected the schema {expected}, found {reader.schema}")
            table = reader.read_all()
        table.validate(full=True)
        # One chunk a column: a file may be appended to, its zone map is written anew each time.
        table = table.combine_chunks()
    except InvalidData:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _garbled(f"expected an Arrow IPC stream, found {error}") from error
    _check_values(table)
    return table


def _check_bodies(raw: pa.Buffer) -> None:
    """Refuse compressed bodies: pyarrow would allocate whatever size they claim."""
    for message in pa.ipc.MessageReader.open_stream(raw):
        kind, _, codec = peek(message.metadata)
        if kind not in (SCHEMA, BATCH):
            raise _garbled(f"expected a schema and record batches, found a message of type {message.type}")
        if codec is not None:
            raise _garbled("expected record batches without compression of their own")


def _check_values(table: pa.Table) -> None:
    """Check that the zones follow each other and that their statistics can be true."""
    batch, offset, rows = (np.asarray(table[name]) for name in ("batch", "offset", "rows"))
    if len(batch) == 0:
        return
    following = batch[1:] == batch[:-1]
    if (
        min(batch.min(), offset.min(), rows.min()) < 0
        or max(offset.max(), rows.max()) > _MOST_ROWS
        or (np.diff(batch) < 0).any()
        or not np.array_equal(offset, np.concatenate([[0], np.where(following, offset[:-1] + rows[:-1], 0)]))
    ):
        raise _garbled("expected zones that follow each other from row 0 of each batch")
    columns = table["columns"].chunk(0)
    for field_, column in zip(columns.type, columns.flatten(), strict=True):
        *ends, nulls = column.flatten()
        counts = np.asarray(nulls.fill_null(0) if nulls.null_count else nulls)
        if (counts < 0).any() or (counts > rows).any():
            raise _garbled(f"expected 0 to `rows` nulls in column {field_.name!r}, found another number")
        if ends and not are_in_order(*ends):
            raise _garbled(f"expected no minimum of column {field_.name!r} above its maximum, found one")


def _garbled(what: str) -> InvalidData:
    return InvalidData(f"the statistics under {_NAME} are damaged: {what}; write the file again to replace them")
