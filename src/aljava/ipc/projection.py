"""Some columns of a file, cut out of its messages before anything is decoded.

The metadata of a record batch lists arrays and buffers column by column, so a batch of fewer columns is the same body
under shorter metadata. pyarrow reads that as it reads any stream: what stands in memory is not copied, what is
compressed and not wanted is not decoded, and what stands far away need not be fetched.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from aljava.errors import InvalidData
from aljava.ipc.lowering import SIMPLE, Kind, Plan, children
from aljava.ipc.message import CONTINUATION, END_OF_STREAM, schema_metadata
from aljava.ipc.metadata import BatchHeader, FieldHeader, MessageHeader, SchemaHeader, decode_schema, encode_batch


class Projection:
    """Some columns of a file.

    Args:
        schema: of the file.
        header: the same, as the file's own schema message has it: it knows the ids of dictionaries, if any.
        columns: numbers of the columns, ascending.

    Example:
        >>> sink = pa.BufferOutputStream()
        >>> table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
        >>> with pa.ipc.new_file(sink, table.schema) as writer:
        ...     writer.write_table(table)
        >>> from aljava.ipc.message import Messages
        >>> content = sink.getvalue()
        >>> batch = [found for found in Messages(content, 8)][-1]
        >>> projection = Projection(table.schema, None, [1])
        >>> cut = projection.cut(batch.header)
        >>> list(projection.read([(cut, content[batch.offset + batch.metadata_length : batch.end])]))[0].to_pydict()
        {'b': ['x', 'y', 'z']}
    """

    def __init__(self, schema: Any, header: SchemaHeader | None, columns: Sequence[int]) -> None:
        self.schema = pa.schema([schema.field(number) for number in columns], schema.metadata)
        types = schema.types
        counts = _SIMPLE_COUNTS[np.array([type.id for type in types], np.int64)]
        for number in np.flatnonzero(counts[:, 0] == 0).tolist():
            counts[number] = _counts(types[number])
        starts = np.vstack([np.zeros((1, 3), np.int64), np.cumsum(counts, axis=0)])
        self._totals = starts[-1].tolist()
        #: For each column the first and last + 1 of its arrays, its buffers, its arrays of views.
        self._spans = [(starts[number].tolist(), starts[number + 1].tolist()) for number in columns]
        self._message = self.schema.serialize()
        self._ids: dict[int, int] = {}
        if header is not None:
            ours = decode_schema(schema_metadata(self._message))
            wanted = header._replace(fields=tuple(header.fields[number] for number in columns))
            self._ids = dict(zip(dictionary_ids(wanted), dictionary_ids(ours), strict=True))

    @property
    def first_array(self) -> int:
        """The number of the first column's array among those that the metadata of a batch lists."""
        return int(self._spans[0][0][0])

    def has_dictionary(self, number: int) -> bool:
        """Whether one of the columns refers to the dictionary with this id."""
        return number in self._ids

    def cut(self, header: MessageHeader) -> MessageHeader:
        """What the metadata of a batch says of these columns, and no more; a dictionary batch under its new id.

        Raises:
            InvalidData: the batch does not have the arrays and buffers that the schema asks for.
        """
        batch = header.batch
        assert batch is not None
        if header.dictionary_id is not None:
            return header._replace(dictionary_id=self._ids[header.dictionary_id])
        arrays, buffers, views = self._totals
        if (
            len(batch.nodes) != arrays
            or len(batch.variadic) != views
            or len(batch.buffers) != buffers + sum(batch.variadic)
        ):
            raise InvalidData(
                f"a record batch of {len(batch.nodes)} arrays and {len(batch.buffers)} buffers, where the schema asks "
                f"for {arrays} and {buffers + sum(batch.variadic)}: damaged metadata."
            )
        before = np.concatenate([[0], np.cumsum(batch.variadic, dtype=np.int64)])
        nodes, parts = [], []
        variadic: list[int] = []
        for low, high in self._spans:
            nodes.append(batch.nodes[low[0] : high[0]])
            parts.append(batch.buffers[low[1] + before[low[2]] : high[1] + before[high[2]]])
            variadic += batch.variadic[low[2] : high[2]]
        empty = np.empty((0, 2), np.int64)
        cut = BatchHeader(
            batch.length, np.concatenate([empty, *nodes]), np.concatenate([empty, *parts]), batch.codec, tuple(variadic)
        )
        return header._replace(batch=cut)

    def read(
        self, messages: Iterable[tuple[MessageHeader, Any]], *, untrusted: bool = False, use_threads: bool = True
    ) -> Iterator[Any]:
        """The record batches, from their metadata and bodies; dictionary batches come before.

        Args:
            messages: what `cut` gave, and the body that it describes.
            untrusted: whether every value is checked.
            use_threads: whether the columns of a compressed batch are decoded side by side.

        Raises:
            InvalidData: a batch is damaged.
        """
        file = pa.PythonFile(_Pieces(self._pieces(messages)), "r")
        for batch in pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(use_threads=use_threads)):
            batch.validate(full=untrusted)
            yield batch

    def _pieces(self, messages: Iterable[tuple[MessageHeader, Any]]) -> Iterator[Any]:
        schema = self._message
        yield from (schema[:4], schema[4:8], schema[8:])
        for header, body in messages:
            batch = header.batch
            assert batch is not None
            metadata = encode_batch(
                batch.length,
                batch.nodes,
                batch.buffers,
                len(body),
                codec=batch.codec,
                variadic=batch.variadic,
                dictionary_id=header.dictionary_id,
                is_delta=header.is_delta,
            )
            yield from (CONTINUATION, len(metadata).to_bytes(4, "little"), pa.py_buffer(metadata), body)
        yield from (END_OF_STREAM[:4], END_OF_STREAM[4:])


def compacted(header: MessageHeader) -> tuple[MessageHeader, list[tuple[int, int]]]:
    """The same batch with its buffers one behind the other, and the ranges of the old body that they come from.

    Returns:
        (the metadata of the new body; for each buffer that is not empty its (first byte, last byte + 1) in the old
        body, each to be followed by padding to a multiple of 8).
    """
    batch = header.batch
    assert batch is not None
    lengths = batch.buffers[:, 1]
    padded = lengths + -lengths % 8
    offsets = np.cumsum(padded) - padded
    ranges = [(offset, offset + length) for offset, length in batch.buffers.tolist() if length]
    buffers = np.stack([offsets, lengths], axis=1)
    return header._replace(batch=batch._replace(buffers=buffers), body_length=int(padded.sum())), ranges


def dictionary_ids(header: SchemaHeader) -> list[int]:
    """The ids of the dictionaries of a schema, field by field, each before those within it."""
    return _ids(header.fields)


class _Pieces:
    """A file that gives the pieces of a stream one by one, as pyarrow asks for them, and copies none."""

    closed = False

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces

    def read(self, size: int) -> Any:
        piece: Any = b""
        while size and not piece:
            piece = next(self._pieces)
        assert len(piece) == size  # pyarrow asks for what the piece before it has announced
        return piece

    def close(self) -> None:
        """Nothing is held open."""


#: What `_counts` says of the types that are known by their numbers alone, zeros for all others.
_SIMPLE_COUNTS = np.zeros((256, 3), np.int64)
for _id, (_kind, _) in SIMPLE.items():
    _SIMPLE_COUNTS[_id] = 1, 3 if _kind == Kind.DATA else 2, 0


def _counts(type: Any) -> tuple[int, int, int]:
    """How many arrays, buffers (without the data buffers of views) and arrays of views a column has."""
    plan = Plan([type])
    return _arrays(type), len(plan.kind), len(plan.views)


def _arrays(type: Any) -> int:
    while isinstance(type, pa.BaseExtensionType):
        type = type.storage_type
    return 1 if pa.types.is_dictionary(type) else 1 + sum(map(_arrays, children(type)))


def _ids(fields: Sequence[FieldHeader]) -> list[int]:
    found: list[int] = []
    for field in fields:
        if field.dictionary_id is not None:
            found.append(field.dictionary_id)
        found += _ids(field.children)
    return found
