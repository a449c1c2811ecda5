"""Payloads of both formats under every compression, as the tests of the format write and read them."""

import io
from collections.abc import Iterable

import pyarrow as pa

import aljava.ipc

COMPRESSIONS = ("none", "lz4", "zstd", "auto")
FORMATS = ("file", "stream")


def written(schema: pa.Schema, batches: Iterable[pa.RecordBatch], format_: str, compression: str) -> bytes:
    """The batches as Aljava writes them: an IPC file or stream."""
    sink = io.BytesIO()
    new = aljava.ipc.new_file if format_ == "file" else aljava.ipc.new_stream
    with new(sink, schema, options=aljava.ipc.WriteOptions(compression=compression)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def written_by_pyarrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], format_: str, compression: str) -> bytes:
    """The same from pyarrow, where "auto" is zstd. Not for unions of no rows: pyarrow dies when it compresses them."""
    sink = io.BytesIO()
    codec = {"none": None, "auto": "zstd"}.get(compression, compression)
    new = pa.ipc.new_file if format_ == "file" else pa.ipc.new_stream
    with new(sink, schema, options=pa.ipc.IpcWriteOptions(compression=codec, unify_dictionaries=True)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def batches_of(payload: bytes | pa.Buffer, format_: str, *, ipc=aljava.ipc) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """The schema and the batches of a payload, read by Aljava or, with ipc=pyarrow.ipc, by pyarrow."""
    if format_ == "file":
        with ipc.open_file(payload) as reader:
            return reader.schema, [reader.get_batch(i) for i in range(reader.num_record_batches)]
    with ipc.open_stream(payload) as reader:
        return reader.schema, list(reader)
