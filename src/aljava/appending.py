"""Appending: new batches from where the old footer stood, then a new footer for all of them.

::

    before   | ARROW1 | schema | batches         | end of stream, footer, ARROW1 |
    during   | ARROW1 | schema | batches         | new batches … (the last bytes of the old end are blanked first)
    after    | ARROW1 | schema | batches         | new batches | end of stream, footer, ARROW1 |

The cost is that of what is added. What was there is not touched, so whatever happens, the old rows and every new batch
that was complete are there for `aljava repair`; and an append that fails but lives puts the old end back.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pyarrow as pa

from aljava import ipc
from aljava.errors import InvalidData, SchemaMismatch
from aljava.fragments import Fragment, IpcFile, open_fragment
from aljava.frames import with_offsets
from aljava.ipc.message import schema_metadata
from aljava.ipc.metadata import V5, Block, decode_schema
from aljava.ipc.projection import dictionary_ids
from aljava.places.local import LocalFile, WholeWrites, mapped
from aljava.places.place import Place
from aljava.places.remote import RemoteFile

#: Bytes of footer length and magic at the end of a file: without them it says itself that it is not whole.
_LAST = 10


def can_append(fragment: Fragment) -> bool:
    """Whether a payload is a file that can be gone on with; others have to be written again."""
    return (
        isinstance(fragment, IpcFile)
        and isinstance(fragment.place, LocalFile | RemoteFile)
        and fragment.footer.version >= V5
        and _own_ids(fragment)
    )


def append(place: Place, batches: Iterator[pa.RecordBatch], options: ipc.WriteOptions, durable: bool = False) -> int:
    """Adds record batches to a file.

    Args:
        place: where it stands.
        batches: of the file's schema.
        options: how they are written.
        durable: do not return before the bytes would survive a loss of power.

    Returns:
        bytes written.

    Raises:
        TruncatedFile: the file has no end; repair it first.
        TransferError: the disk is full, …; the file is what it was.
    """
    if isinstance(place, LocalFile):
        with place.appending(durable=durable) as descriptor:
            return _go_on(place, descriptor, batches, options)
    # Object stores replace and do not append: here is where the file grows, and then it goes up as one.
    with ExitStack() as stack:
        spool = stack.enter_context(tempfile.TemporaryFile())
        source = place.source()
        source.seek(0)
        while chunk := source.read(16 << 20):
            spool.write(chunk)
        spool.flush()
        _go_on(place, spool.fileno(), batches, options)
        spool.seek(0)
        sink = stack.enter_context(place.sink())
        shutil.copyfileobj(spool, sink, 16 << 20)
        return os.fstat(spool.fileno()).st_size


def _go_on(place: Place, descriptor: int, batches: Iterator[pa.RecordBatch], options: ipc.WriteOptions) -> int:
    fragment = open_fragment(_Opened(place, descriptor))
    if not isinstance(fragment, IpcFile):
        raise InvalidData(f"{place.address} was replaced by another format meanwhile")
    footer = fragment.footer
    end = os.fstat(descriptor).st_size
    start = max((block.end for block in (*footer.batches, *footer.dictionaries)), default=0) or fragment.schema_end
    zones, first = fragment.zones, None
    if footer.dictionaries and footer.batches:
        (first,) = fragment.batches([0])
    dictionaries: dict[int, list[Block]] = {}
    for block, header in fragment.dictionaries():
        dictionaries.setdefault(header.dictionary_id or 0, []).append(block)
    old_end = os.pread(descriptor, end - start, start)
    sink = WholeWrites(descriptor, start)
    writer = ipc.RecordBatchFileWriter.resumed(
        sink, fragment.schema, footer, dictionaries=dictionaries, first_batch=first, zones=zones, options=options
    )
    del fragment, first
    first_new = next(batches, None)
    if first_new is None:
        return 0
    try:
        # From here to the last byte of the new footer this is a file without an end, and looks it.
        WholeWrites(descriptor, end - _LAST).write(bytes(_LAST))
        writer.write_batch(first_new)
        writer.write_batches(batches)
        writer.close()
        if sink.tell() < end:
            os.ftruncate(descriptor, sink.tell())
    except BaseException:
        # Blocks that the file has already: this needs no space.
        WholeWrites(descriptor, start).write(old_end)
        os.ftruncate(descriptor, end)
        raise
    return sink.tell() - start


class _Opened(Place):
    """A local file by its descriptor: the one that is locked, whatever its name now names."""

    def __init__(self, place: Place, descriptor: int) -> None:
        self.address, self._descriptor = place.address, descriptor

    def source(self) -> pa.NativeFile:
        return mapped(self._descriptor)

    def sink(self, *, create: bool = False, durable: bool = False) -> Any:
        raise InvalidData(f"{self.address} is being appended to")


def _own_ids(fragment: IpcFile) -> bool:
    """Whether the dictionaries have the ids that a footer of ours would give them."""
    if not fragment.footer.dictionaries:
        return True
    return dictionary_ids(fragment.schema_header()) == dictionary_ids(
        decode_schema(schema_metadata(fragment.schema.serialize()))
    )


def conformed(
    reader: pa.RecordBatchReader, schema: pa.Schema, address: str, rows: str = "what is to be appended"
) -> pa.RecordBatchReader:
    """The rows with the columns of a schema: in its order, and cast where that loses nothing.

    Args:
        reader: the rows.
        schema: of what they are to be added to.
        address: of that, for messages.
        rows: what the rows are, for messages.

    Raises:
        SchemaMismatch: names the column that does not fit; values are looked at as they come.

    Example:
        >>> reader = pa.table({"b": ["x"], "a": pa.array([1], pa.int8())}).to_reader()
        >>> conformed(reader, pa.schema([("a", pa.int64()), ("b", pa.string())]), "example").read_all().to_pydict()
        {'a': [1], 'b': ['x']}
    """
    have = reader.schema
    for name in dict.fromkeys([*schema.names, *have.names]):
        there, here = schema.get_all_field_indices(name), have.get_all_field_indices(name)
        if len(there) != len(here):
            what = "no column" if len(here) < len(there) else "a column"
            raise SchemaMismatch(f"{rows} has {what} {name!r}; {address} has {', '.join(schema.names)}")
    if have.equals(schema):
        return reader
    if len(set(schema.names)) < len(schema) and have.names != schema.names:
        raise SchemaMismatch(f"{address} has columns of one name: {rows} must have them in its order")
    places = [
        number if have.names == schema.names else have.get_field_index(field.name)
        for number, field in enumerate(schema)
    ]
    for field, place in zip(schema, places, strict=True):
        kind = have.field(place).type
        if kind != field.type and _family(kind) not in (_family(field.type), "null"):
            raise SchemaMismatch(f"column {field.name!r} is {kind} in {rows} and {field.type} in {address}: cast it")

    def fitting() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            columns = [
                _cast(batch.column(place), field, address, rows) for field, place in zip(schema, places, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, fitting())


def _cast(column: pa.Array, field: pa.Field, address: str, rows: str) -> pa.Array:
    if not field.nullable and column.null_count:
        raise SchemaMismatch(
            f"column {field.name!r} of {address} takes no nulls, and {rows} has {column.null_count:,} of them"
        )
    if column.type == field.type:
        return column
    try:
        # pyarrow casts a dictionary to the type of its values, and from that, and hardly to another.
        if pa.types.is_dictionary(column.type):
            column = with_offsets(column).dictionary_decode()
        if pa.types.is_dictionary(field.type):
            column = column.cast(field.type.value_type)
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(
            f"column {field.name!r} of {address} is {field.type}, which cannot hold that of {rows}: {error}"
        ) from error


def _family(kind: pa.DataType) -> str:
    """What may be cast into each other without a change of meaning."""
    types = pa.types
    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if types.is_null(kind):
        return "null"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_string(kind) or types.is_large_string(kind) or kind == pa.string_view():
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind) or kind == pa.binary_view():
        return "bytes"
    if types.is_timestamp(kind):
        return f"timestamp with{'' if kind.tz else 'out'} a zone"
    for test in (types.is_date, types.is_time, types.is_duration):
        if test(kind):
            return test.__name__
    return str(kind)
