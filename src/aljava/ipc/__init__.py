"""The Arrow IPC format, under the names of `pyarrow.ipc`: change one import and a program runs on Aljava.

Writers and readers are Aljava's. Beside pyarrow's options they take `WriteOptions` and `ReadOptions`. What needs no
improvement is pyarrow's own object.

Examples:
    >>> import io
    >>> import pyarrow as pa
    >>> from aljava import ipc
    >>> table, file = pa.table({"id": [1, 2, 3]}), io.BytesIO()
    >>> with ipc.new_file(file, table.schema, options=ipc.WriteOptions("zstd")) as writer:
    ...     writer.write_table(table)
    >>> ipc.open_file(file.getvalue()).read_all().num_rows
    3
"""

from pyarrow.ipc import (
    Alignment,
    IpcReadOptions,
    Message,
    MessageReader,
    MetadataVersion,
    ReadStats,
    RecordBatchReader,
    WriteStats,
    get_record_batch_size,
    get_tensor_size,
    read_message,
    read_record_batch,
    read_schema,
    read_tensor,
    write_tensor,
)

from aljava.ipc.frames import deserialize_pandas, serialize_pandas
from aljava.ipc.reader import ReadOptions, RecordBatchFileReader, RecordBatchStreamReader, open_file, open_stream
from aljava.ipc.writer import (
    IpcWriteOptions,
    RecordBatchFileWriter,
    RecordBatchStreamWriter,
    WriteOptions,
    new_file,
    new_stream,
)

__all__ = [
    "Alignment",
    "IpcReadOptions",
    "IpcWriteOptions",
    "Message",
    "MessageReader",
    "MetadataVersion",
    "ReadOptions",
    "ReadStats",
    "RecordBatchFileReader",
    "RecordBatchFileWriter",
    "RecordBatchReader",
    "RecordBatchStreamReader",
    "RecordBatchStreamWriter",
    "WriteOptions",
    "WriteStats",
    "deserialize_pandas",
    "get_record_batch_size",
    "get_tensor_size",
    "new_file",
    "new_stream",
    "open_file",
    "open_stream",
    "read_message",
    "read_record_batch",
    "read_schema",
    "read_tensor",
    "serialize_pandas",
    "write_tensor",
]
