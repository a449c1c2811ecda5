"""The strategies make what they say: valid batches that pyarrow itself carries over."""

import io

import pyarrow as pa
from hypothesis import HealthCheck, given, settings

from tests.strategies import Batches, batches


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
def test_batches_are_valid_and_carried_by_pyarrow(made: Batches) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        for batch, metadata in zip(made.batches, made.metadata, strict=True):
            batch.validate(full=True)
            writer.write_batch(batch, custom_metadata=metadata)
    with pa.ipc.open_stream(sink.getvalue()) as reader:
        assert reader.schema.equals(made.schema, check_metadata=True)
        for batch, found in zip(made.batches, reader, strict=True):
            assert found.equals(batch)
