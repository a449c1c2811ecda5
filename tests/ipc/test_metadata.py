"""Messages and footers: what we encode pyarrow reads, and no bytes make decoding do worse than say so."""

import io
import random
import struct
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aljava import ipc
from aljava.errors import InvalidData
from aljava.ipc.message import END_OF_STREAM, FILE_START, Messages, find_message, frame, kind_of, schema_metadata
from aljava.ipc.metadata import (
    Block,
    check_buffers,
    decode_footer,
    decode_message,
    decode_schema,
    encode_batch,
    encode_footer,
    peek,
    peek_batches,
)
from aljava.ipc.projection import Projection
from tests.ipc.samples import columns

TABLE = pa.table(columns(50))
BATCH = TABLE.to_batches()[0]
pairs = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=4)


def stream(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


@given(pairs, st.booleans(), st.sampled_from([None, "lz4", "zstd"]), st.lists(st.integers(0, 9), max_size=3))
def test_a_batch_decodes_to_what_was_encoded(
    metadata: list[tuple[bytes, bytes]], is_dictionary: bool, codec: str | None, variadic: list[int]
) -> None:
    nodes, buffers = np.arange(6).reshape(3, 2), np.arange(8).reshape(4, 2) * 8
    data = encode_batch(
        7, nodes, buffers, 4096, codec=codec, variadic=variadic, metadata=metadata,
        dictionary_id=5 if is_dictionary else None, is_delta=is_dictionary,
    )  # fmt: skip
    header = decode_message(data)
    assert len(data) % 8 == 0
    assert header.kind == ("dictionary batch" if is_dictionary else "record batch")
    assert (header.dictionary_id, header.is_delta) == ((5, True) if is_dictionary else (None, False))
    assert (header.body_length, header.metadata) == (4096, tuple(metadata))
    assert header.batch is not None
    assert (header.batch.length, header.batch.codec, list(header.batch.variadic)) == (7, codec, variadic)
    assert np.array_equal(header.batch.nodes, nodes)
    assert np.array_equal(header.batch.buffers, buffers)
    assert peek(data) == (header.kind, 4096, codec)


@given(pairs)
def test_pyarrow_reads_the_batch_that_we_encode(metadata: list[tuple[bytes, bytes]]) -> None:
    batch = pa.record_batch({"a": [1, None, 3], "v": pa.array(["x" * 20] * 3, pa.string_view())})
    message = pa.ipc.read_message(batch.serialize())
    header = decode_message(message.metadata)
    assert header.batch is not None
    ours = encode_batch(
        3,
        header.batch.nodes,
        header.batch.buffers,
        header.body_length,
        variadic=header.batch.variadic,
        metadata=metadata,
    )
    payload = batch.schema.serialize().to_pybytes() + frame(ours, 0) + message.body.to_pybytes() + END_OF_STREAM
    found = pa.ipc.open_stream(payload).read_next_batch_with_custom_metadata()
    assert found.batch == batch
    if len({key for key, _ in metadata}) == len(metadata):
        assert list((found.custom_metadata or pa.KeyValueMetadata({})).items()) == metadata


@given(pairs, st.integers(0, 3))
def test_pyarrow_reads_the_footer_that_we_encode(metadata: list[tuple[bytes, bytes]], count: int) -> None:
    schema = pa.schema(
        [pa.field("a", pa.int32(), metadata={"k": "v"}), ("b", pa.list_(pa.string()))], metadata={"m": "n"}
    )
    batch = schema.empty_table().combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema)]
    data = batch[0].serialize()
    header = decode_message(pa.ipc.read_message(data).metadata)
    start = FILE_START + schema.serialize().to_pybytes()
    block = Block(len(start), len(data) - header.body_length, header.body_length)
    footer = encode_footer(schema_metadata(schema.serialize()), [], [block] * count, metadata)
    body = start + data.to_pybytes() + END_OF_STREAM
    decoded = decode_footer(footer, len(body))
    assert list(decoded.batches) == [block] * count
    assert (list(decoded.dictionaries), decoded.metadata) == ([], tuple(metadata))
    reader = pa.ipc.open_file(body + footer + struct.pack("<i", len(footer)) + b"ARROW1")
    assert reader.schema.equals(schema, check_metadata=True)
    assert reader.num_record_batches == count
    assert reader.read_all().num_rows == 0
    if len({key for key, _ in metadata}) == len(metadata):
        assert (reader.metadata or {}) == dict(metadata)


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_many_batches_are_looked_at_as_one_is(codec: str | None) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, TABLE.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        for rows in range(1, TABLE.num_rows + 1):
            writer.write_table(TABLE.slice(0, rows))
    content = np.frombuffer(sink.getvalue(), np.uint8).copy()
    blocks = ipc.open_file(content.tobytes()).footer.batches

    def agree() -> int:
        peeks = peek_batches(content, blocks)
        for block, sound, compressed, rows in zip(blocks, *peeks, strict=True):
            start = block.offset + 8
            if sound:
                metadata = content[start : block.offset + block.metadata_length]
                kind, body_length, found = peek(metadata)
                assert (kind, body_length, found is not None) == ("record batch", block.body_length, compressed)
                assert decode_message(metadata).batch.length == rows
        return int(peeks.sound.sum())

    assert agree() == len(blocks)
    # Whatever is changed, what is still called sound is what it says.
    r = random.Random(7)
    for _ in range(2000):
        block = blocks[r.randrange(len(blocks))]
        at = block.offset + r.randrange(block.metadata_length)
        before = content[at]
        content[at] = r.choice([0, 1, 8, 0x7F, 0xFF, r.randrange(256)])
        with suppress(InvalidData):  # a codec that nobody knows, a vector beyond the end: found when it is read
            agree()
        content[at] = before


def test_the_schema_says_names_types_and_dictionaries() -> None:
    schema = decode_schema(pa.ipc.read_message(TABLE.schema.serialize()).metadata)
    assert [field.name for field in schema.fields] == TABLE.schema.names
    assert not schema.big_endian
    ids = [field.dictionary_id for field in schema.fields if field.dictionary_id is not None]
    assert ids == sorted(set(ids))
    assert [field.dictionary_id is not None for field in schema.fields] == [
        pa.types.is_dictionary(kind) for kind in TABLE.schema.types
    ]


def test_tensors_are_recognised() -> None:
    sink = pa.BufferOutputStream()
    pa.ipc.write_tensor(pa.Tensor.from_numpy(np.arange(12.0).reshape(3, 4)), sink)
    header = decode_message(pa.ipc.read_message(sink.getvalue()).metadata)
    assert header.kind == "tensor"
    assert header.tensor is not None
    assert (header.tensor.shape, header.tensor.buffer, header.tensor.non_zero) == ((3, 4), (0, 96), None)


@settings(deadline=None)
@given(st.integers(1, 12), st.randoms(use_true_random=True))
def test_damaged_metadata_ends_in_our_error(flips: int, random: object) -> None:
    for metadata in (
        pa.ipc.read_message(BATCH.serialize()).metadata.to_pybytes(),
        schema_metadata(TABLE.schema.serialize()),
        encode_footer(
            schema_metadata(TABLE.schema.serialize()), [Block(8, 8, 8)], [Block(16, 8, 8)] * 3, [(b"k", b"v")]
        ),
    ):
        damaged = bytearray(metadata)
        for _ in range(flips):
            damaged[random.randrange(len(damaged))] = random.randrange(256)  # type: ignore[attr-defined]
        cut = bytes(damaged[: random.randrange(len(damaged))])  # type: ignore[attr-defined]
        for data in (bytes(damaged), cut):
            for decode in (decode_message, decode_schema, peek, lambda data: decode_footer(data, 1000)):
                try:
                    decoded = decode(data)
                except InvalidData:
                    continue
                if decode is decode_message:
                    try:
                        check_buffers(decoded)
                    except InvalidData:
                        continue


def test_metadata_that_repeats_itself_is_refused() -> None:
    """Many entries that all point at one long text would grow without bound."""
    entry = b"x" * 5000
    data = bytearray(encode_batch(0, b"", b"", 0, metadata=[(b"k", entry)] + [(b"k", b"")] * 1000))
    start = data.index(struct.pack("<I", 1001) + struct.pack("<I", 0)[:0])
    first = start + 4 + struct.unpack_from("<I", data, start + 4)[0]
    for number in range(1001):
        place = start + 4 + 4 * number
        struct.pack_into("<I", data, place, first - place)
    with pytest.raises(InvalidData, match="longer than the message"):
        decode_message(bytes(data))


def test_a_block_outside_the_file_is_refused() -> None:
    schema = schema_metadata(pa.schema([("a", pa.int8())]).serialize())
    for block in (Block(2**62, 8, 2**62), Block(-8, 8, 0), Block(0, 0, 0), Block(8, 8, -8), Block(8, 8, 2**63 - 1)):
        with pytest.raises(InvalidData, match="should lie within"):
            decode_footer(encode_footer(schema, [], [block]), 1000)


def test_walking_says_why_it_stopped() -> None:
    payload = stream(TABLE)
    whole = Messages(payload)
    kinds = [found.header.kind for found in whole]
    assert kinds[0] == "schema"
    assert kinds[-1] == "record batch"
    assert whole.stopped == "end of stream"
    assert whole.end == payload.size - 8
    assert list(Messages(b"")) == []
    for cut in range(0, payload.size, 97):
        part = Messages(payload[:cut])
        found = list(part)
        assert part.stopped in ("end of data", "a message cut short")
        assert all(one.end <= cut for one in found)
        assert part.end == (found[-1].end if found else 0)


def test_walking_takes_streams_from_before_arrow_0_15() -> None:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    with pa.ipc.new_stream(sink, TABLE.schema, options=options) as writer:
        writer.write_table(TABLE)
    messages = Messages(sink.getvalue())
    assert [found.header.kind for found in messages][-1] == "record batch"
    assert messages.stopped == "end of stream"
    assert kind_of(sink.getvalue()[:8].to_pybytes()) == "stream"


def test_a_batch_is_found_behind_damage() -> None:
    payload = bytearray(stream(pa.table({"a": [1, 2, 3]})))
    batch = list(Messages(payload))[1]
    payload[batch.offset - 16 : batch.offset] = b"\xff" * 16
    assert find_message(payload, 8) == batch.offset


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"ARROW1\0\0", "file"),
        (b"FEA1", "feather"),
        (b"\xff\xff\xff\xff\x80\0\0\0", "stream"),
        (b"PAR1", None),
        (b"", None),
    ],
)
def test_formats_are_told_by_their_first_bytes(start: bytes, kind: str | None) -> None:
    assert kind_of(start) == kind


def _built(*slots: tuple[str, int, object]) -> bytes:
    """A FlatBuffers table of given slots: (kind, number, value)."""
    flatbuffers = pytest.importorskip("flatbuffers")
    build = flatbuffers.Builder(0)

    def table(slots: Sequence[tuple[str, int, object]]) -> int:
        below = {number: table(value) for kind, number, value in slots if kind == "table"}
        for kind, number, _ in slots:
            if kind == "vector":
                build.StartVector(8, 0, 8)
                below[number] = build.EndVector()
        build.StartObject(8)
        for kind, number, value in slots:
            if number in below:
                build.PrependUOffsetTRelativeSlot(number, below[number], 0)
            else:
                getattr(build, f"Prepend{kind}Slot")(number, value, 0)
        return build.EndObject()

    build.Finish(table(slots))
    return bytes(build.Output())


def test_parts_that_are_missing() -> None:
    version = ("Int16", 0, 4)
    with pytest.raises(InvalidData, match="the footer has no schema"):
        decode_footer(_built(version), 100)
    with pytest.raises(InvalidData, match="expected a schema message"):
        decode_schema(_built(version, ("Uint8", 1, 1)))


@pytest.mark.parametrize(("codec", "method"), [(9, 0), (0, 1)])
def test_a_codec_that_nobody_knows(codec: int, method: int) -> None:
    compression = ("table", 3, [("Int8", 0, codec), ("Int8", 1, method)])
    batch = ("table", 2, [("Int64", 0, 1), ("vector", 1, None), ("vector", 2, None), compression])
    with pytest.raises(InvalidData, match=f"compressed with codec {codec}, method {method}"):
        decode_message(_built(("Int16", 0, 4), ("Uint8", 1, 3), batch, ("Int64", 3, 0)))


def test_fields_within_fields_without_end() -> None:
    kind = pa.int8()
    for _ in range(200):
        kind = pa.list_(kind)
    with pytest.raises(InvalidData, match="a schema nests more than"):
        decode_schema(pa.schema([("a", kind)]).serialize().to_pybytes()[8:])


def test_a_message_of_few_bytes() -> None:
    for start in (b"\xff\xff\xff\xff\x04\0\0\0", b"\x04\0\0\0"):
        with pytest.raises(InvalidData, match="a message claims 4 bytes of metadata: this is no Arrow stream"):
            ipc.open_stream(io.BytesIO(start + bytes(100)))


def test_a_batch_that_does_not_fit_its_schema() -> None:
    two, three = pa.schema([("a", pa.int64()), ("b", pa.int64())]), pa.schema([(name, pa.int64()) for name in "abc"])
    content = stream(pa.table({"a": [1, 2], "b": [3, 4]}, two)).to_pybytes()
    batch = next(message for message in Messages(content) if message.header.batch is not None)
    body = content[batch.offset + batch.metadata_length : batch.end]
    with pytest.raises(
        InvalidData, match="a record batch of 2 arrays and 4 buffers, where the schema asks for 3 and 6"
    ):
        Projection(three, None, [0]).cut(batch.header)
    projection = Projection(two, None, [1])
    cut = projection.cut(batch.header)
    assert next(projection.read([(cut, body)])).to_pydict() == {"b": [3, 4]}
