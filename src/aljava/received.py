"""A table that arrives: the Dataset of sockets, pipes and servers."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from aljava.dataset import Dataset, Progress
from aljava.errors import QueryError
from aljava.formats import Format
from aljava.places.stream import StreamPlace


class ReceivedDataset(Dataset):
    """What comes over a stream. A socket or a pipe gives its rows once; a server gives them as often as asked.

    Example:
        >>> import os, threading, aljava
        >>> reading, writing = os.pipe()
        >>> sender = threading.Thread(target=aljava.write, args=({"id": [1, 2, 3]}, f"fd:{writing}"))
        >>> sender.start()
        >>> aljava.open(f"fd:{reading}").to_table(filter=pa.compute.field("id") > 1).to_pydict()
        {'id': [2, 3]}
        >>> sender.join()
        >>> os.close(reading), os.close(writing)
        (None, None)
    """

    def __init__(self, place: StreamPlace, *, untrusted: bool = False) -> None:
        self._place = place
        self._arrival = place.arrive(untrusted=untrusted)
        self.format = Format.IPC_STREAM
        self.schema: pa.Schema = self._arrival.schema

    def to_reader(
        self, columns: Sequence[str] | None = None, filter: Any = None, progress: Progress | None = None
    ) -> pa.RecordBatchReader:
        """The rows, batch by batch, as they arrive.

        Args and raises as `Dataset.to_reader`; of a stream that comes once, a second call raises InvalidOption.
        """
        for name in columns or ():
            if name not in self.schema.names:
                raise QueryError(f"{self.address} has no column {name!r}; it has {', '.join(self.schema.names)}")
        reader = self._arrival.scan(columns, filter)
        return reader if progress is None else pa.RecordBatchReader.from_batches(reader.schema, _told(reader, progress))


def _told(reader: pa.RecordBatchReader, progress: Progress) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in reader:
        yield batch
        rows += batch.num_rows
        progress(rows, None)
    progress(rows, rows)
