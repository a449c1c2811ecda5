"""A table that arrives: the Dataset of sockets, pipes and servers."""

import html
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from aljava.dataset import Dataset, Scanner
from aljava.errors import InvalidOption
from aljava.formats import Format
from aljava.payloads import Query
from aljava.places.stream import StreamPlace
from aljava.scanning import Selection


class ReceivedDataset(Dataset):
    """What comes over a stream. A socket or a pipe gives its rows once; a server gives them as often as asked.

    How many rows there are is not known before they have come.

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
        self._schema = self._arrival.schema
        self._filter = None

    @property
    def address(self) -> str:
        """Where the table comes from."""
        return self._place.address

    @property
    def format(self) -> Format:
        """Always a stream."""
        return Format.IPC_STREAM

    @property
    def formats(self) -> set[Format]:
        """Always a stream."""
        return {Format.IPC_STREAM}

    @property
    def files(self) -> list[str]:
        """The one address."""
        return [self.address]

    @property
    def num_rows(self) -> int:
        """Not known: use `count_rows`, which reads them all."""
        raise InvalidOption(f"{self.address} is a stream: how many rows it has is known when they have come")

    num_batches = num_rows
    nbytes = num_rows
    zones = num_rows

    def explain(self, filter: Any = None) -> Any:
        """Not offered: a stream is read from its start to its end."""
        raise InvalidOption(f"{self.address} is a stream, which is read whole")

    def filter(self, expression: Any) -> Any:
        """Not offered: give the filter to `to_table` and its like."""
        raise InvalidOption(f"{self.address} is a stream, which cannot be read twice: filter what to_table gives")

    def get_fragments(self, filter: Any = None) -> Iterator[Any]:
        """The stream is one fragment."""
        yield self

    def _table(self, selection: Selection) -> pa.Table | None:
        return None

    def must_travel(self) -> None:
        """A stream cannot: see `Dataset.must_travel`."""
        raise InvalidOption(f"{self.address} is received by this process: send its table instead")

    def __repr__(self) -> str:
        columns = "\n".join(f"  {field.name}: {field.type}" for field in self._schema)
        return f"<aljava.Dataset {self.address} (arriving)>\n{columns}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def _query(self) -> type[Query]:
        return _Arriving


class _Arriving(Scanner):
    """A query over what arrives, answered batch by batch."""

    _dataset: ReceivedDataset

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        done = 0
        for batch in self._batches():
            for offset in range(0, max(1, batch.num_rows), self._batch_size or max(1, batch.num_rows)):
                yield batch.slice(offset, self._batch_size)
            done += batch.num_rows
            if self._progress:
                self._progress(done, None)
        if self._progress:
            self._progress(done, done)

    def count_rows(self) -> int:
        return sum(batch.num_rows for batch in self._batches())

    def take(self, indices: Any) -> pa.Table:
        return self.to_table().take(np.asarray(indices, np.int64))

    def _batches(self, ahead_of_time: bool = True) -> Iterator[pa.RecordBatch]:
        # Only the columns travel that the projection and the filter need, where the sender can choose.
        needed = self._selection.needed
        for batch in self._dataset._arrival.scan(needed):
            yield from self._selection.apply([batch if needed is None else batch.select(needed)])
