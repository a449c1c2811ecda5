"""Tables outside Arrow: CSV and JSON lines, read and written batch by batch, and Parquet, written.

What a text cannot say is said in words of its own, here for both:

=========================  ==================================================================
Arrow                      CSV and JSON lines
=========================  ==================================================================
a null                     CSV: nothing between two commas; an empty text is `""`. JSON: `null`
bytes                      base64
a decimal                  JSON: as text, with all its digits
a date, time, timestamp    as text, with all its digits
a duration                 a whole number of its unit
an interval                `{"months": …, "days": …, "nanoseconds": …}`
a NaN, an infinity         JSON: `null`
a list, a struct, a map    CSV: as JSON. A map is a list of `{"key": …, "value": …}`
=========================  ==================================================================
"""

import base64
import csv
import datetime
import decimal
import io
import itertools
import json
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aljava.errors import InvalidData, InvalidOption, SchemaMismatch, UnsupportedType
from aljava.frames import offsets_type, with_offsets
from aljava.places.fileobject import FileObject
from aljava.places.place import Place

#: What a format may be called, where a name does not end in it.
KINDS = ("arrow", "parquet", "csv", "tsv", "json")
TEXTS = ("csv", "tsv", "json")
_ENDS = {"parquet": "parquet", "csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "ndjson": "json"}
_CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
#: What a name ends in that says its format, those with a compression first.
ENDS = (*(f".{end}.{codec}" for end in _ENDS if end != "parquet" for codec in _CODECS), *(f".{end}" for end in _ENDS))
_DELIMITERS = {"csv": ",", "tsv": "\t"}
#: Bytes from which the types of a text are learned; also the longest line that JSON may have.
BLOCK_BYTES = 16 << 20
#: Bytes at the end of a text in which its last line that is not blank ends.
_TAIL_BYTES = 1 << 16
_NO_COLUMNS = "A text without a line says nothing of columns (as JSON lines of no rows do): no table can be made of it"
# What begins a binary table, whatever its file is called.
_BINARY = (b"ARROW1", b"PAR1", b"FEA1", b"\xff\xff\xff\xff")


@dataclass(frozen=True)
class Kind:
    """What a table is written as."""

    #: One of `KINDS`.
    format: str
    #: What a text is compressed with: "gzip", "bz2", "zstd" or nothing.
    codec: str | None = None

    @classmethod
    def of(cls, address: Any, format: str | None = None) -> "Kind":
        """What the end of a name says, unless the user says otherwise.

        Raises:
            InvalidOption: no format of that name.

        Examples:
            >>> Kind.of("sales.csv.gz"), Kind.of("sales.arrow").format
            (Kind(format='csv', codec='gzip'), 'arrow')
        """
        if format is not None and format not in KINDS:
            raise InvalidOption(f"format {format!r} is none of {', '.join(KINDS)}")
        if isinstance(address, Place):
            address = address.address
        text = str(os.fspath(address) if isinstance(address, os.PathLike) else address)
        name = text.partition("?")[0] if "://" in text else text
        *_, before, end = ("", *name.lower().rsplit("/", 1)[-1].rsplit(".", 2))
        codec = _CODECS.get(end)
        found = format or _ENDS.get(before if codec else end, "arrow")
        return cls(found, codec if found in TEXTS else None)

    @property
    def is_text(self) -> bool:
        """Whether the bytes do not say what they are."""
        return self.format in TEXTS


def is_binary(place: Place) -> bool:
    """Whether what stands somewhere is a binary table, whatever it is called.

    Raises:
        InvalidData: nothing stands there, not even the names of columns.
    """
    try:
        source = place.source()
    except InvalidData as error:
        raise InvalidData(f"{error}. {_NO_COLUMNS}") from None
    return bytes(source.read(min(source.size(), 8))).startswith(_BINARY)


def read(places: Sequence[Place], kind: Kind) -> pa.RecordBatchReader:
    """The rows of CSV or JSON lines; of several files one after the other, with the types of the first.

    Args:
        places: where they stand.
        kind: what they are.

    Raises:
        InvalidData: says which line, or which column, is not what it should be.
        SchemaMismatch: files of different columns.
    """
    first = _exact(places[0], kind)
    schema = first.schema

    def batches() -> Iterator[pa.RecordBatch]:
        for place in places:
            reader = first if place is places[0] else _opened(place, kind, schema)
            if set(reader.schema.names) != set(schema.names):
                name = min(set(reader.schema.names) ^ set(schema.names))
                has = ("has a", "has no") if name in reader.schema.names else ("has no", "has a")
                raise SchemaMismatch(
                    f"{place.address} {has[0]} column {name!r}, and {places[0].address} {has[1]}: one table needs "
                    "the same columns"
                )
            last = None
            with _explained(place, kind, schema):
                for batch in reader:
                    if batch.num_rows and batch.num_columns:
                        last = batch.column(batch.num_columns - 1)[-1].as_py()
                    yield batch if batch.schema.equals(schema) else batch.select(schema.names).cast(schema)
            if kind.format != "json" and isinstance(last, str) and "\n" in last:
                _must_be_closed(place, kind, last)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _exact(place: Place, kind: Kind) -> Any:
    """A reader that keeps whole numbers from 2^63 to 2^64 as they are: pyarrow takes them for floating point."""
    reader = _opened(place, kind, None)
    schema = reader.schema
    floating = [name for name in schema.names if schema.names.count(name) == 1 and schema.field(name).type == _DOUBLE]
    if not floating or isinstance(place, FileObject):
        return reader  # a pipe can be read once
    with _explained(place, kind, None):
        first = next(iter(reader), None)
    for name in floating:
        greatest = None if first is None else pc.max(first[name]).as_py()
        if greatest is not None and 2**63 <= greatest <= 2**64:
            number = schema.get_field_index(name)
            wide = schema.set(number, schema.field(number).with_type(pa.uint64()))
            with suppress(InvalidData):  # 1e19 is as great
                schema = _opened(place, kind, wide).schema
    return _opened(place, kind, None if schema.equals(reader.schema) else schema)


_DOUBLE = pa.float64()


def _opened(place: Place, kind: Kind, schema: pa.Schema | None) -> Any:
    if schema is None and kind.format != "json" and not isinstance(place, FileObject):
        _must_be_separated(place, kind)
    reader = _begun(place, kind, schema)
    for field in reader.schema if schema is None and kind.format != "json" else ():
        if pa.types.is_binary(field.type):
            raise InvalidData(
                f"{place.address}: column {field.name!r} holds text that is not UTF-8. If it is Latin-1, "
                "`iconv -f latin1 -t utf-8 IN.csv > OUT.csv` makes it so"
            )
    return reader


def _begun(place: Place, kind: Kind, schema: pa.Schema | None) -> Any:
    with _explained(place, kind, schema):
        source = _source(place, kind)
        if kind.format == "json":
            from pyarrow import json as arrow_json

            return arrow_json.open_json(
                source,
                read_options=arrow_json.ReadOptions(block_size=BLOCK_BYTES),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema),
            )
        from pyarrow import csv as arrow_csv

        return arrow_csv.open_csv(
            source,
            read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES),
            parse_options=_csv_options(kind),
            # "NA" is a country, and a null only where nothing stands.
            convert_options=arrow_csv.ConvertOptions(
                null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False, column_types=schema
            ),
        )


def _must_be_separated(place: Place, kind: Kind) -> None:
    """Refuses a text of other separators or in UTF-16, which would become one column of nonsense."""
    with _explained(place, kind, None):
        head = bytes(_source(place, kind).read(1 << 16))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InvalidData(
            f"{place.address} is UTF-16, where CSV is UTF-8: `iconv -f utf-16 -t utf-8 IN.csv > OUT.csv` makes it so"
        )
    first, second = ([*head.split(b"\n", 2), b"", b""])[:2]
    if _DELIMITERS[kind.format].encode() in first or b'"' in first:
        return
    for mark in ";", "\t", "|", ",":
        if (found := first.count(mark.encode())) and (not second.strip() or second.count(mark.encode()) == found):
            how = (
                "say --from tsv, or source_format='tsv' in Python"
                if mark == "\t"
                else f'aljava sql "from read_csv({place.address!r})" -o OUT.arrow reads it'
            )
            raise InvalidData(
                f"{place.address} has {mark!r} between its values, where {kind.format.upper()} has "
                f"{_DELIMITERS[kind.format]!r}: {how}"
            )


def _must_be_closed(place: Place, kind: Kind, last: str) -> None:
    """Refuses a text whose last value has a quote before it and none behind it: it holds all lines that follow."""
    if isinstance(place, FileObject):
        return  # a pipe can be read once
    tail = b""
    with _explained(place, kind, None):
        source = _source(place, kind)
        if kind.codec is None:
            source.seek(max(source.size() - _TAIL_BYTES, 0))
        while chunk := bytes(source.read(BLOCK_BYTES)):
            tail = (tail + chunk)[-_TAIL_BYTES:]
    if not tail.rstrip(b"\r\n").endswith(b'"'):
        raise InvalidData(
            f"{place.address}: the last value begins with a quote that is not closed, and has all that follows in it: "
            f"{last[:40]!r} …. Close it, or double a quote that belongs to the text"
        )


def _csv_options(kind: Kind, **more: Any) -> Any:
    from pyarrow import csv as arrow_csv

    return arrow_csv.ParseOptions(delimiter=_DELIMITERS[kind.format], newlines_in_values=True, **more)


def _source(place: Place, kind: Kind) -> Any:
    # An open file may be a pipe: it is read as it comes.
    source = pa.PythonFile(place.file, "r") if isinstance(place, FileObject) else place.source()
    return source if kind.codec is None else pa.CompressedInputStream(source, kind.codec)


@contextmanager
def _explained(place: Place, kind: Kind, schema: pa.Schema | None) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise _explanation(place, kind, schema, str(error)) from error


def _explanation(place: Place, kind: Kind, schema: pa.Schema | None, said: str) -> InvalidData:
    """What the owner of a text can do about what pyarrow says of it."""
    address, again = place.address, not isinstance(place, FileObject)
    if kind.codec and re.search("(?i)zlib|zstd|bz2|compressed stream", said):
        return InvalidData(
            f"{address} cannot be unpacked as {kind.codec}, which its name says that it is: {said}. Copy it again, or "
            "give it the name that it should have"
        )
    if said.removeprefix("CSV parse error: ").startswith("Empty "):
        return InvalidData(f"{address} is empty. {_NO_COLUMNS}")
    if kind.format == "json":
        if again and bytes(_source(place, kind).read(64)).lstrip()[:1] == b"[":
            return InvalidData(
                f"{address} is one JSON array, and JSON lines are an object a line: "
                f'aljava sql "from read_json({address!r})" -o OUT.arrow reads it'
            )
        return InvalidData(
            f"{address} cannot be read as JSON lines (one object a line): {said}. Mend that line; or, if its type "
            f'changes on the way, aljava sql "from read_json({address!r}, sample_size=-1)" -o OUT.arrow looks at '
            "all lines before it settles the types"
        )
    if again and "CSV parse error: Expected" in said and "\ufffd" in said:
        return InvalidData(
            f"{address} is not CSV, or not UTF-8: a row has other values than the header, and bytes that are no text"
        )
    if again and "CSV parse error: Expected" in said and (ragged := _ragged(place, kind)):
        return ragged
    if (found := re.search(r"In CSV column #(\d+): (.*)", said)) and schema is not None:
        field = schema.field(int(found[1]))
        return InvalidData(
            f"{address}: column {field.name!r} began as {field.type}, and further on: {found[2]}. "
            f'aljava sql "from read_csv({address!r}, sample_size=-1)" -o OUT.arrow looks at all rows before it '
            "settles the types"
        )
    return InvalidData(f"{address} cannot be read as CSV: {said}")


def _ragged(place: Place, kind: Kind) -> InvalidData | None:
    """The first row with too many or too few values. pyarrow counts rows only on one thread: once more, then."""
    from pyarrow import csv as arrow_csv

    found = []

    def note(row: Any) -> str:
        found.append(row)
        return "error"

    with suppress(pa.ArrowInvalid):
        arrow_csv.read_csv(
            _source(place, kind),
            read_options=arrow_csv.ReadOptions(use_threads=False),
            parse_options=_csv_options(kind, invalid_row_handler=note),
        )
    if not found:
        return None
    row = found[0]
    return InvalidData(
        f"{place.address}, line {_line_of_row(place, kind, row.number)}: {row.actual_columns} values where the header "
        f"has {row.expected_columns} ({row.text[:60]!r}). Mend that line, or quote values that hold "
        f"{_DELIMITERS[kind.format]!r}"
    )


def _line_of_row(place: Place, kind: Kind, row: int) -> int:
    """The number of a row's last line: pyarrow counts no empty lines, and a value in quotes may have several."""
    text = io.TextIOWrapper(io.BufferedReader(_source(place, kind)), "utf-8", "replace", newline="")
    rows = csv.reader(text, delimiter=_DELIMITERS[kind.format])
    with suppress(csv.Error):  # a value that is longer than Python takes
        next(itertools.islice(filter(None, rows), row - 1, row), None)
    return rows.line_num


def writer(kind: Kind, sink: Any, schema: pa.Schema, compression: str | None, address: str) -> Any:
    """Something with `write(batch)` and `close()` that makes Parquet, CSV or JSON lines of batches.

    Args:
        kind: what to make.
        sink: takes the bytes.
        schema: of the batches.
        compression: of Parquet: "zstd" (the default), "snappy", "gzip" or "none"; of a text, by its name.
        address: for messages.

    Raises:
        UnsupportedType: names the column that the format cannot hold.
        InvalidOption: a compression that the format does not have.
    """
    if kind.format == "parquet":
        return _Parquet(sink, schema, compression or "zstd", address)
    if compression is not None:
        raise InvalidOption(
            f"{address} is {kind.format}, which has no compression={compression!r}: a name such as "
            f"OUT.{kind.format}.gz says that it is compressed"
        )
    if kind.format == "json":
        for field in schema:
            if _is_ambiguous(field.type):
                raise UnsupportedType(
                    f"column {field.name!r} is {field.type}, whose values would be of several kinds of JSON, which no "
                    f"reader makes a column of: leave it out of {address} by naming the columns that are wanted, or "
                    "copy to .arrow"
                )
        return JsonLines(sink, schema, kind.codec)
    return _Csv(sink, schema, kind)


def _is_ambiguous(kind: pa.DataType) -> bool:
    """Whether values of one type are of several kinds of JSON: a number here, a text there."""
    if isinstance(kind, pa.BaseExtensionType):
        return _is_ambiguous(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _is_ambiguous(kind.value_type)
    children = [kind.field(number).type for number in range(kind.num_fields)]
    if pa.types.is_union(kind) and len({_json_kind(child) for child in children} - {"null"}) > 1:
        return True
    return any(_is_ambiguous(child) for child in children)


def _json_kind(kind: pa.DataType) -> str:
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _json_kind(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _json_kind(kind.value_type)
    if types.is_null(kind):
        return "null"
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind) or types.is_floating(kind):
        return "number"
    if types.is_nested(kind) or types.is_interval(kind):
        # Of two nested types only the same are sure to become one column.
        return str(kind)
    return "text"


def _parquet_writer(sink: Any, schema: pa.Schema, compression: str, address: str) -> Any:
    from pyarrow import parquet

    try:
        return parquet.ParquetWriter(sink, schema, compression=compression)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        for field in schema:
            try:
                parquet.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
            except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
                raise UnsupportedType(
                    f"column {field.name!r} is {field.type}, which Parquet does not have: leave it out of {address} "
                    "by naming the columns that are wanted, or copy to .arrow"
                ) from error
        raise InvalidOption(f"{address} cannot be written as Parquet: {error}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InvalidOption(f"compression {compression!r} is none of Parquet's: zstd, snappy, gzip, none") from error


class _Parquet:
    """Parquet, of which pyarrow writes all but dictionaries of views."""

    def __init__(self, sink: Any, schema: pa.Schema, compression: str, address: str) -> None:
        kinds = [offsets_type(kind) if pa.types.is_dictionary(kind) else kind for kind in schema.types]
        fields = [field.with_type(kind) for field, kind in zip(schema, kinds, strict=True)]
        self._schema = pa.schema(fields, schema.metadata)
        self._is_plain = kinds == schema.types
        self._writer = _parquet_writer(sink, self._schema, compression, address)
        self._address = address

    def write(self, batch: pa.RecordBatch) -> None:
        if not self._is_plain:
            columns = [with_offsets(it) if pa.types.is_dictionary(it.type) else it for it in batch.columns]
            batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        try:
            self._writer.write(batch)
        except pa.ArrowNotImplementedError as error:  # of dictionaries within lists and structs it is only said here
            raise UnsupportedType(
                f"{self._address} cannot be written: {error}. Name the columns that are wanted, or copy to .arrow"
            ) from error

    def close(self) -> None:
        self._writer.close()


class _Csv:
    """Comma-separated values, the header first."""

    def __init__(self, sink: Any, schema: pa.Schema, kind: Kind) -> None:
        from pyarrow import csv as arrow_csv

        self._bytes = _compressed(sink, kind.codec)
        self._columns = [_csv_column(field.type) for field in schema]
        #: The columns as the writer of pyarrow takes them.
        self._schema = pa.schema(
            [pa.field(field.name, to) for field, (to, _) in zip(schema, self._columns, strict=True)]
        )
        self._writer = arrow_csv.CSVWriter(
            self._bytes, self._schema, write_options=arrow_csv.WriteOptions(delimiter=_DELIMITERS[kind.format])
        )

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [convert(column) for (_, convert), column in zip(self._columns, batch.columns, strict=True)]
        if columns:  # pyarrow makes a batch without columns of nothing
            self._writer.write(pa.record_batch(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()
        self._bytes.close()


def _csv_column(kind: pa.DataType) -> tuple[pa.DataType, Callable[[pa.Array], pa.Array]]:
    """How a column is written: the type that pyarrow's writer gets, and what makes that of the column."""
    types = pa.types
    if types.is_dictionary(kind):
        to, convert = _csv_column(offsets_type(kind).value_type)
        return to, lambda column: convert(with_offsets(column).dictionary_decode())
    if kind == pa.string_view():
        return pa.large_string(), lambda column: column.cast(pa.large_string())
    if types.is_decimal32(kind) or types.is_decimal64(kind):
        wide = pa.decimal128(kind.precision, kind.scale)
        return wide, lambda column: column.cast(wide)
    plain = types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_temporal
    if any(test(kind) for test in (*plain, types.is_string, types.is_large_string)) and not types.is_interval(kind):
        return kind, lambda column: column

    def as_text(column: pa.Array) -> pa.Array:
        texts = [
            value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in plain_values(column)
        ]
        return pa.array(texts, pa.large_string())

    return pa.large_string(), as_text


class JsonLines:
    """An object a row, a line each.

    Args:
        sink: takes the bytes.
        schema: of the batches.
        codec: what the lines are compressed with.

    Raises:
        UnsupportedType: two columns of one name, of which an object would keep one.
    """

    def __init__(self, sink: Any, schema: pa.Schema, codec: str | None = None) -> None:
        twice = {name for name in schema.names if schema.names.count(name) > 1} if _repeats(schema.names) else None
        if twice:
            raise UnsupportedType(
                f"column {min(twice)!r} is there twice, and a JSON object has one value a name: rename one"
            )
        self._bytes = _compressed(sink, codec)
        self._keys = [json.dumps(name, ensure_ascii=False) + ":" for name in schema.names]

    def write(self, batch: pa.RecordBatch) -> None:
        encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
        columns = [
            [key + encode(value) for value in plain_values(column)]
            for key, column in zip(self._keys, batch.columns, strict=True)
        ]
        rows = zip(*columns, strict=True) if columns else [()] * batch.num_rows
        self._bytes.write("".join("{" + ",".join(row) + "}\n" for row in rows).encode("utf-8", "surrogatepass"))

    def close(self) -> None:
        self._bytes.close()


def _repeats(names: list[str]) -> bool:
    return len(set(names)) < len(names)


def _compressed(sink: Any, codec: str | None) -> Any:
    file = pa.PythonFile(sink, "w")
    return file if codec is None else pa.CompressedOutputStream(file, codec)


def plain_values(column: pa.Array) -> list[Any]:
    """The values of a column as JSON has them; the module's docstring says how.

    Examples:
        >>> plain_values(pa.array([decimal.Decimal("1.50"), None]))
        ['1.50', None]
        >>> plain_values(pa.array([[("k", b"x")]], pa.map_(pa.string(), pa.binary())))
        [[{'key': 'k', 'value': 'eA=='}]]
    """
    # Before they become objects of Python, which has no nanoseconds.
    return [_plain(value) for value in column.cast(_spelled(column.type)).to_pylist()]


def _spelled(kind: pa.DataType) -> pa.DataType:
    """The type with what JSON lacks spelled out, also inside lists, structs and maps."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return kind
    if types.is_dictionary(kind):
        # Text stays as it is, for nothing casts a dictionary of views.
        return kind if offsets_type(kind) != kind else _spelled(kind.value_type)
    if types.is_duration(kind):
        return pa.int64()
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind) or types.is_decimal(kind):
        return pa.string()
    if types.is_map(kind):
        return pa.map_(_spelled(kind.key_type), _spelled(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_spelled_field(kind.value_field), kind.list_size)
    if types.is_large_list(kind) or kind.id == pa.lib.Type_LARGE_LIST_VIEW:
        return pa.large_list(_spelled_field(kind.value_field))
    if types.is_list(kind) or kind.id == pa.lib.Type_LIST_VIEW:
        return pa.list_(_spelled_field(kind.value_field))
    if types.is_struct(kind):
        return pa.struct([_spelled_field(field) for field in kind])
    return kind


def _spelled_field(field: pa.Field) -> pa.Field:
    return field.with_type(_spelled(field.type))


def _plain(value: Any) -> Any:
    """A value of Python as JSON has it."""
    match value:
        case dict():
            return {str(key): _plain(item) for key, item in value.items()}
        case pa.MonthDayNano():
            return {"months": value.months, "days": value.days, "nanoseconds": value.nanoseconds}
        case tuple():  # an entry of a map
            return {"key": _plain(value[0]), "value": _plain(value[1])}
        case list():
            return [_plain(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode()
        case datetime.date() | datetime.time() | datetime.timedelta() | decimal.Decimal() | uuid.UUID():
            return str(value)  # out of a union
    return value
