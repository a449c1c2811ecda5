"""Any schema, any slicing, any chunking: equal after a round trip, the same bytes twice, no larger than pyarrow's."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.tests.strategies as past
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aljava import ipc
from tests.ipc.samples import columns

SAMPLES = columns(120)
COMPRESSIONS = st.sampled_from(["none", "lz4", "zstd", "auto"])
RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Some columns of every kind, sliced and cut into chunks that need not end together, with metadata."""
    names = draw(st.lists(st.sampled_from(sorted(SAMPLES)), min_size=0, max_size=4))
    rows = draw(st.integers(0, 60))
    arrays = []
    for name in names:
        cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=3)))
        chunks = []
        for low, high in zip([0, *cuts], [*cuts, rows], strict=True):
            start = draw(st.integers(0, 120 - (high - low)))
            chunks.append(SAMPLES[name].slice(start, high - low))
        arrays.append(pa.chunked_array(chunks, SAMPLES[name].type))
    fields = [
        pa.field(name, array.type, metadata=draw(st.none() | st.dictionaries(st.text(), st.binary(), max_size=2)))
        for name, array in zip(names, arrays, strict=True)
    ]
    return pa.Table.from_arrays(
        arrays, schema=pa.schema(fields, draw(st.none() | st.just({"k": "v", b"\xff": b"\xfe"})))
    )


def written(table: pa.Table, kind: str, options: Any) -> bytes:
    sink = io.BytesIO()
    with getattr(ipc, f"new_{kind}")(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def same(left: pa.Table, right: pa.Table) -> bool:
    """Equal, where a dictionary may have come to hold the values of other batches as well."""
    return left.schema.equals(right.schema, check_metadata=True) and (
        left == right or left.to_pylist() == right.to_pylist()
    )


@RELAXED
@given(tables(), COMPRESSIONS, st.sampled_from(["file", "stream"]), st.sampled_from([None, 1, 7, 1000]))
def test_what_is_written_comes_back(table: pa.Table, compression: str, kind: str, rows: int | None) -> None:
    options = ipc.WriteOptions(compression=compression, batch_rows=rows)
    payload = written(table, kind, options)
    assert written(table, kind, options) == payload
    theirs = getattr(pa.ipc, f"open_{kind}")(payload).read_all()
    ours = getattr(ipc, f"open_{kind}")(payload, options=ipc.ReadOptions(untrusted=True)).read_all()
    forward = getattr(ipc, f"open_{kind}")(io.BytesIO(payload)).read_all()
    for read in (theirs, ours, forward):
        read.validate(full=True)
        assert read.num_rows == (table.num_rows if table.num_columns else read.num_rows)
        assert same(read, table)


LEAVES = st.one_of(
    past.null_type,
    past.bool_type,
    past.binary_like_types,
    past.integer_types,
    past.floating_types,
    past.date_types,
    past.time_types,
    past.interval_types,
)
NESTED = st.one_of(
    LEAVES, past.list_types(LEAVES), past.struct_types(LEAVES), past.list_types(past.struct_types(LEAVES))
)


@RELAXED
@given(past.arrays(NESTED, size=20), st.integers(0, 20), st.integers(0, 20), COMPRESSIONS)
def test_arrays_that_pyarrow_thinks_up_come_back(array: pa.Array, low: int, rows: int, compression: str) -> None:
    table = pa.table({"a": array.slice(low, rows)})
    for kind in ("file", "stream"):
        payload = written(table, kind, ipc.WriteOptions(compression=compression))
        read = getattr(ipc, f"open_{kind}")(payload, options=ipc.ReadOptions(untrusted=True)).read_all()
        assert read.schema == table.schema
        assert read.equals(table) or repr(read["a"].to_pylist()) == repr(table["a"].to_pylist())  # NaN


@RELAXED
@given(tables(), st.sampled_from(["none", "lz4", "zstd"]))
def test_a_stream_is_no_larger_than_pyarrows(table: pa.Table, compression: str) -> None:
    ours = len(written(table, "stream", ipc.WriteOptions(compression=compression, batch_rows=10**9)))
    sink = io.BytesIO()
    codec = None if compression == "none" else compression
    # pyarrow's compressor dies of the null buffers that empty arrays can have.
    rebuilt = [batch for batch in table.to_batches() if batch.num_rows]
    if codec and any(pa.types.is_union(kind) or kind.num_fields for kind in table.schema.types):
        return
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        for batch in rebuilt:
            writer.write_batch(batch)
    # Alignment of a large buffer and of the body before it takes up to 126 bytes, metadata up to 64 a batch.
    buffers = sum(len(column.buffers()) for batch in rebuilt for column in batch.columns)
    assert ours <= len(sink.getvalue()) + 126 * buffers + 256 * (1 + len(table.to_batches()))


@RELAXED
@given(tables(), COMPRESSIONS)
def test_a_layout_reads_as_a_file(table: pa.Table, compression: str) -> None:
    layout = ipc.writer.lay_out(table.schema, table.to_batches(), ipc.WriteOptions(compression=compression))
    memory = bytearray(layout.size + 64)
    for offset, data in layout.parts(len(memory)):
        memory[offset : offset + len(data)] = bytes(data)
    assert same(ipc.open_file(memory).read_all(), table)
