"""Whatever schema pyarrow can express: what is written is what is read, by pyarrow and by Aljava."""

import io

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aljava.ipc
from tests.ipc.payloads import COMPRESSIONS, FORMATS, batches_of
from tests.strategies import Batches, batches


def written(made: Batches, format_: str, compression: str) -> bytes:
    sink = io.BytesIO()
    new = aljava.ipc.new_file if format_ == "file" else aljava.ipc.new_stream
    with new(sink, made.schema, options=aljava.ipc.WriteOptions(compression=compression)) as writer:
        for batch, metadata in zip(made.batches, made.metadata, strict=True):
            writer.write_batch(batch, custom_metadata=metadata)
    return sink.getvalue()


def is_same(found: pa.Array, expected: pa.Array) -> bool:
    """Whether two columns hold the same; a file gathers the dictionaries of its batches into one."""
    return found.equals(expected) or found.to_pylist() == expected.to_pylist()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches(), st.sampled_from(FORMATS), st.sampled_from(COMPRESSIONS))
def test_is_read_as_it_was_written(made: Batches, format_: str, compression: str) -> None:
    payload = written(made, format_, compression)
    assert payload == written(made, format_, compression)
    for ipc in (pa.ipc, aljava.ipc):
        schema, found = batches_of(payload, format_, ipc=ipc)
        assert schema.equals(made.schema, check_metadata=True)
        assert [batch.num_rows for batch in found] == [batch.num_rows for batch in made.batches]
        for batch, expected in zip(found, made.batches, strict=True):
            batch.validate(full=True)
            for column, wanted in zip(batch.columns, expected.columns, strict=True):
                assert is_same(column, wanted)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches(), st.sampled_from(FORMATS), st.sampled_from(COMPRESSIONS))
def test_metadata_of_batches_arrives(made: Batches, format_: str, compression: str) -> None:
    payload = written(made, format_, compression)
    with (aljava.ipc.open_file if format_ == "file" else aljava.ipc.open_stream)(payload) as reader:
        if format_ == "file":
            found = [reader.get_batch_with_custom_metadata(i) for i in range(reader.num_record_batches)]
        else:
            found = list(reader.iter_batches_with_custom_metadata())
    assert [None if one.custom_metadata is None else dict(one.custom_metadata) for one in found] == list(made.metadata)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches(), st.sampled_from(COMPRESSIONS))
def test_what_was_read_gives_the_same_bytes_again(made: Batches, compression: str) -> None:
    """Bytes depend on what rows hold, not on how they lie in memory: a slice and a copy of it are written alike."""
    payload = written(made, "stream", compression)
    schema, copies = batches_of(payload, "stream")
    assert written(Batches(schema, copies, made.metadata), "stream", compression) == payload
