"""A pandas DataFrame as the bytes of a stream, and back: the two calls of `pyarrow.ipc` for that."""

from typing import Any

import pyarrow as pa

from aljava.ipc.reader import RecordBatchStreamReader
from aljava.ipc.writer import RecordBatchStreamWriter


def serialize_pandas(df: Any, *, nthreads: int | None = None, preserve_index: bool | None = None) -> Any:
    """Write a pandas DataFrame as a stream of one batch.

    Args:
        df: the DataFrame.
        nthreads: threads for the conversion to Arrow; None is all.
        preserve_index: whether the index is kept as a column; None keeps a RangeIndex as metadata only.

    Returns:
        A `pyarrow.Buffer`.
    """
    batch = pa.RecordBatch.from_pandas(df, nthreads=nthreads, preserve_index=preserve_index)
    sink = pa.BufferOutputStream()
    with RecordBatchStreamWriter(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def deserialize_pandas(buf: Any, *, use_threads: bool = True) -> Any:
    """Read a pandas DataFrame from the bytes that `serialize_pandas` wrote."""
    with RecordBatchStreamReader(buf) as reader:
        return reader.read_all().to_pandas(use_threads=use_threads)
