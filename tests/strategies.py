"""Hypothesis strategies for what Arrow IPC carries: any type that pyarrow can express, and batches of it.

Types, fields, sizes and slices are drawn one by one, so that Hypothesis shrinks them to the one that matters. Values
come from a seed, which keeps drawing a table cheap; under a null stands garbage, as the format allows. There are no
NaNs, so that `equals` compares what was written with what was read.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # in each unit
INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
WORDS = ("", "a", "flecha", "coração", "矢", "\0", "more than the twelve bytes that a view holds itself")

Metadata = dict[bytes, bytes] | None


@dataclass(frozen=True)
class Batches:
    """What one writer is given."""

    schema: pa.Schema
    batches: Sequence[pa.RecordBatch]
    # The custom metadata of each batch.
    metadata: Sequence[Metadata]

    @property
    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches, schema=self.schema)


# Types


def decimals() -> st.SearchStrategy[pa.DataType]:
    """Decimals of all four widths, any precision, scales also below zero and above the precision."""

    def of(make: Any, digits: int) -> st.SearchStrategy[pa.DataType]:
        return st.builds(make, st.integers(1, digits), st.integers(-3, digits))

    return st.one_of(of(pa.decimal32, 9), of(pa.decimal64, 18), of(pa.decimal128, 38), of(pa.decimal256, 76))


def flat_types() -> st.SearchStrategy[pa.DataType]:
    """Types without children."""
    zones = st.sampled_from((None, "UTC", "Europe/Lisbon", "+05:30"))
    return st.one_of(
        st.sampled_from((*INTEGERS, pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null())),
        st.sampled_from((pa.string(), pa.large_string(), pa.string_view())),
        st.sampled_from((pa.binary(), pa.large_binary(), pa.binary_view())),
        st.builds(pa.binary, st.integers(0, 17)),
        decimals(),
        st.sampled_from((pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"))),
        st.builds(pa.timestamp, st.sampled_from(tuple(SECOND)), zones),
        st.builds(pa.duration, st.sampled_from(tuple(SECOND))),
        st.just(pa.month_day_nano_interval()),
        st.sampled_from((pa.uuid(), pa.json_(), pa.bool8(), pa.opaque(pa.int32(), "kind", "maker"))),
        st.builds(pa.fixed_shape_tensor, st.just(pa.float32()), st.lists(st.integers(1, 3), min_size=1, max_size=3)),
    )


def names() -> st.SearchStrategy[str]:
    """Names of fields: some will meet twice in a schema, some are empty."""
    return st.sampled_from(("a", "b", "c", "", "ção", "a.b"))


@functools.cache
def metadata() -> st.SearchStrategy[Metadata]:
    """None, or a few pairs of text."""
    texts = st.sampled_from((b"", b"key", b"pandas", "矢".encode()))
    return st.none() | st.dictionaries(texts, texts, min_size=1, max_size=3)


def fields(types: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.Field]:
    """Fields of such types, with and without nulls and metadata."""
    return st.builds(
        lambda name, type_, nullable, metadata_: pa.field(name, type_, nullable or type_ == pa.null(), metadata_),
        *(names(), types, st.booleans(), metadata()),
    )


def nested_types(types: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    """Types with such types one level down."""
    children = fields(types)
    keys = flat_types().filter(lambda type_: type_ != pa.null())
    return st.one_of(
        *(st.builds(make, children) for make in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)),
        st.builds(pa.list_, children, st.integers(0, 3)),
        # pyarrow cannot tell the values of a struct that has a name twice, as `to_pylist` does.
        st.lists(children, max_size=3, unique_by=lambda child: child.name).map(pa.struct),
        st.builds(pa.map_, keys, types, st.booleans()),
        st.builds(pa.dictionary, st.sampled_from(INTEGERS), types.filter(may_be_encoded), st.booleans()),
        st.builds(pa.run_end_encoded, st.sampled_from((pa.int16(), pa.int32(), pa.int64())), types.filter(may_be_run)),
        st.builds(union, st.lists(types, min_size=1, max_size=3), st.booleans(), st.permutations((0, 1, 5, 127))),
    )


def may_be_encoded(type_: pa.DataType) -> bool:
    """Whether a dictionary can have such values: pyarrow can neither write nor compare all that the format allows."""
    return not isinstance(type_, pa.BaseExtensionType) and not pa.types.is_dictionary(type_)


def may_be_run(type_: pa.DataType) -> bool:
    """Whether runs can have such values: runs of runs are no use to anyone, and pyarrow does not compare them."""
    return not pa.types.is_run_end_encoded(type_)


def union(children: list[pa.DataType], dense: bool, codes: Sequence[int]) -> pa.DataType:
    """A union whose type codes are not the positions of its children."""
    made = [pa.field(f"child {i}", child) for i, child in enumerate(children)]
    return (pa.dense_union if dense else pa.sparse_union)(made, codes[: len(made)])


@functools.cache  # Hypothesis spends longer on making a strategy than on drawing from it
def data_types(depth: int = 2) -> st.SearchStrategy[pa.DataType]:
    """Any type that pyarrow can express, nested so deep."""
    types = flat_types()
    for _ in range(depth):
        types = flat_types() | nested_types(types)
    return types


# Values

OF_WORDS = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
)


def array_of(type_: pa.DataType, rows: int, rng: np.random.Generator, nulls: float = 0.2) -> pa.Array:
    """An array of the type, of so many rows; the share of nulls is that of each level."""
    types = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, array_of(type_.storage_type, rows, rng, nulls))
    if types.is_null(type_):
        return pa.nulls(rows)
    if types.is_union(type_):
        return _union(type_, rows, rng, nulls)
    if types.is_run_end_encoded(type_):
        ends = np.unique(np.append(rng.integers(1, rows + 1, rows // 3), rows)) if rows else np.zeros(0, np.int64)
        return pa.RunEndEncodedArray.from_arrays(
            pa.array(ends, type_.run_end_type), array_of(type_.value_type, len(ends), rng, nulls), type_
        )
    gone = rng.random(rows) < nulls
    mask = pa.array(gone)
    if types.is_dictionary(type_):
        values = array_of(type_.value_type, int(rng.integers(1, 6)), rng, nulls)
        indices = pa.array(rng.integers(0, len(values), rows), type_.index_type, mask=gone)
        return pa.DictionaryArray.from_arrays(indices, values, ordered=type_.ordered)
    if types.is_struct(type_):
        children = [array_of(field.type, rows, rng, nulls * field.nullable) for field in type_]
        return pa.StructArray.from_arrays(children, fields=list(type_), mask=mask) if children else _fieldless(gone)
    if types.is_fixed_size_list(type_):
        values = array_of(type_.value_type, rows * type_.list_size, rng, nulls * type_.value_field.nullable)
        return pa.Array.from_buffers(type_, rows, [_bits(~gone)], children=[values])
    if types.is_list_view(type_) or types.is_large_list_view(type_):
        return _list_view(type_, gone, rng, nulls)
    if types.is_list(type_) or types.is_large_list(type_) or types.is_map(type_):
        return _list(type_, gone, rng, nulls)
    if any(test(type_) for test in OF_WORDS):
        words = [(WORDS[i] + str(i) * (k % 2)).encode() for k, i in enumerate(rng.integers(0, len(WORDS), rows))]
        return pa.array([None if null else word for null, word in zip(gone, words, strict=True)], type_)
    return pa.Array.from_buffers(type_, rows, [_bits(~gone), _fixed(type_, rows, rng)])


def _bits(flags: np.ndarray) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little").tobytes())


def _fieldless(gone: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.struct([]), len(gone), [_bits(~gone)])


def _fixed(type_: pa.DataType, rows: int, rng: np.random.Generator) -> pa.Buffer:
    """The values of a type of fixed width as bytes."""
    types = pa.types
    if types.is_boolean(type_):
        return _bits(rng.random(rows) < 0.5)
    if types.is_floating(type_):
        return pa.py_buffer((rng.integers(-99, 99, rows) / 8).astype(type_.to_pandas_dtype()).tobytes())
    if types.is_decimal(type_):
        limit = 10**type_.precision
        numbers = [int.from_bytes(rng.bytes(type_.byte_width), "little") % limit - limit // 2 for _ in range(rows)]
        return pa.py_buffer(b"".join(number.to_bytes(type_.byte_width, "little", signed=True) for number in numbers))
    if types.is_time(type_):
        return pa.py_buffer(
            rng.integers(0, 86_400 * SECOND[type_.unit], rows).astype(f"int{type_.bit_width}").tobytes()
        )
    if types.is_date(type_):
        days = rng.integers(-30_000, 30_000, rows)
        return pa.py_buffer((days.astype(np.int32) if types.is_date32(type_) else days * 86_400_000).tobytes())
    if types.is_timestamp(type_) or types.is_duration(type_):  # within what Python's datetime can say
        return pa.py_buffer((rng.integers(-(10**9), 10**9, rows) * SECOND[type_.unit]).tobytes())
    if rng.random() < 0.5 and types.is_integer(type_):  # numbers that compress
        return pa.py_buffer((rng.integers(0, 7, rows)).astype(type_.to_pandas_dtype()).tobytes())
    return pa.py_buffer(rng.bytes(rows * type_.byte_width))


def _list(type_: pa.DataType, gone: np.ndarray, rng: np.random.Generator, nulls: float) -> pa.Array:
    """A list or map whose values do not begin with its first row."""
    offsets = np.cumsum(np.append(rng.integers(0, 3), rng.integers(0, 4, len(gone))))
    wide = pa.types.is_large_list(type_)
    if pa.types.is_map(type_):
        items = array_of(type_.item_type, int(offsets[-1]), rng, nulls * type_.item_field.nullable)
        keys = array_of(type_.key_type, int(offsets[-1]), rng, 0)
        entries = pa.StructArray.from_arrays([keys, items], fields=[type_.key_field, type_.item_field])
        values = entries
    else:
        values = array_of(type_.value_type, int(offsets[-1]), rng, nulls * type_.value_field.nullable)
    buffer = pa.py_buffer(offsets.astype(np.int64 if wide else np.int32).tobytes())
    return pa.Array.from_buffers(type_, len(gone), [_bits(~gone), buffer], children=[values])


def _list_view(type_: pa.DataType, gone: np.ndarray, rng: np.random.Generator, nulls: float) -> pa.Array:
    """A list view in no order, whose rows share values and leave some out."""
    sizes = rng.integers(0, 4, len(gone))
    values = array_of(type_.value_type, len(gone) + 4, rng, nulls * type_.value_field.nullable)
    offsets = rng.integers(0, len(gone) + 1, len(gone))
    dtype = np.int64 if pa.types.is_large_list_view(type_) else np.int32
    buffers = [pa.py_buffer(numbers.astype(dtype).tobytes()) for numbers in (offsets, sizes)]
    return pa.Array.from_buffers(type_, len(gone), [_bits(~gone), *buffers], children=[values])


def _union(type_: pa.DataType, rows: int, rng: np.random.Generator, nulls: float) -> pa.Array:
    """A union; a dense one leaves values of its children out and uses others twice."""
    codes = rng.choice(np.array(type_.type_codes, np.int8), rows)
    children = [array_of(field.type, rows, rng, nulls) for field in type_]
    buffers = [None, pa.py_buffer(codes.tobytes())]
    if type_.mode == "dense":
        # The offsets of each child must not fall.
        buffers.append(pa.py_buffer(np.sort(rng.integers(0, rows, rows)).astype(np.int32).tobytes()))
    return pa.Array.from_buffers(type_, rows, buffers, children=children)


# Batches


@st.composite
def sliced(draw: st.DrawFn, type_: pa.DataType, rows: int, nulls: float) -> pa.Array:
    """An array of so many rows, often cut out of a longer one."""
    before, after = draw(st.sampled_from(((0, 0), (0, 5), (3, 0), (9, 2))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return array_of(type_, before + rows + after, rng, nulls).slice(before, rows)


@functools.cache
def schemas(depth: int = 2, max_fields: int = 4) -> st.SearchStrategy[pa.Schema]:
    """Schemas of one field and more, with metadata."""
    return st.builds(pa.schema, st.lists(fields(data_types(depth)), min_size=1, max_size=max_fields), metadata())


@st.composite
def batches(draw: st.DrawFn, depth: int = 2, max_fields: int = 4, max_rows: int = 40) -> Batches:
    """Batches of one schema: any types, sizes also zero, dictionaries that stay or change from batch to batch."""
    schema = draw(schemas(depth, max_fields))
    sizes = draw(st.lists(st.integers(0, max_rows), max_size=3))
    share = draw(st.sampled_from((0.0, 0.2, 1.0)))  # of nulls
    columns = []
    for field in schema:
        nulls = share * field.nullable
        if draw(st.booleans()):  # all batches are slices of one array and share its dictionary
            whole = draw(sliced(field.type, sum(sizes), nulls))
            columns.append([whole.slice(sum(sizes[:i]), size) for i, size in enumerate(sizes)])
        else:
            columns.append([draw(sliced(field.type, size, nulls)) for size in sizes])
    made = [pa.RecordBatch.from_arrays([column[i] for column in columns], schema=schema) for i in range(len(sizes))]
    return Batches(schema, made, [draw(metadata()) for _ in made])
