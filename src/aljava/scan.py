"""What DuckDB reads when a query names an address.

DuckDB takes a `pyarrow.dataset.Dataset`, asks it for its schema when it binds a query and for a scan with the columns
and the filter that the query needs when it runs. `AddressTable` is one that opens its address only when it is asked: a
query is offered a table for each of its quoted names, and DuckDB takes those that it turns out to read.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.dataset

from aljava.address import locate
from aljava.dataset import Dataset
from aljava.errors import AljavaError, NotFound, SchemaMismatch

#: The files that DuckDB reads itself: it knows their statistics, their dialects and their nesting.
_DUCKDB_READS = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_DUCKDB_UNPACKS = ("", ".gz", ".zst")


def is_left_to_duckdb(name: str) -> bool:
    """Whether a quoted name is a file that DuckDB reads itself.

    Example:
        >>> [is_left_to_duckdb(name) for name in ("a.parquet", "b.CSV.gz", "c.arrow", "shm://desk/d.csv")]
        [True, True, False, False]
    """
    lower = name.lower()
    if lower.startswith("shm://"):
        return False
    return lower.endswith(tuple(kind + packed for kind in _DUCKDB_READS for packed in _DUCKDB_UNPACKS))


class AddressTable(pyarrow.dataset.Dataset):
    """The table at an address, opened when DuckDB first asks for its schema.

    Any number of threads may scan it at once.

    Args:
        address: what `aljava.open` takes, or a `Dataset`.
        live: open the address anew for each scan, as a view must; otherwise what stood there when the query was bound
            is read, also after it was replaced.

    Example:
        >>> import aljava
        >>> table = AddressTable(aljava.dumps(pa.table({"id": [1, 2, 3], "value": [0.5, 1.5, 2.5]})))
        >>> table.scanner(columns=["id"], filter=pa.compute.field("value") > 1).to_reader().read_all().to_pydict()
        {'id': [2, 3]}
    """

    def __init__(self, address: Any, live: bool = False) -> None:
        self._address = address
        self._live = live
        self._opening = threading.Lock()
        self._dataset: Dataset | None = address if isinstance(address, Dataset) else None
        #: The last error met in opening or reading, of which DuckDB passes on only the text.
        self.failure: AljavaError | None = None

    @property
    def address(self) -> str:
        """What the user would call it."""
        return self._address if isinstance(self._address, str) else self._opened().address

    @property
    def is_read(self) -> bool:
        """Whether a query turned out to read this table."""
        return self._dataset is not None

    @property
    def schema(self) -> pa.Schema:
        """The columns; opens the address if it is not open yet."""
        return self._opened().schema

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> "_Scan":
        """The rows that fulfil `filter`, with these columns."""
        dataset = self._opened()
        try:
            reader = (self._as_it_is_now(dataset) if self._live else dataset).to_reader(columns, filter)
        except AljavaError as error:
            self._fail(error)
        return _Scan(pa.RecordBatchReader.from_batches(reader.schema, self._watched(reader)))

    def _opened(self) -> Dataset:
        with self._opening:
            if self._dataset is None:
                try:
                    self._dataset = Dataset(locate(self._address))
                except NotFound as error:
                    self.failure = NotFound(
                        f"{error}: {self._address!r} is no table, view or common table expression either"
                    )
                    raise self.failure from error
                except AljavaError as error:
                    self._fail(error)
            return self._dataset

    def _as_it_is_now(self, before: Dataset) -> Dataset:
        now = Dataset(locate(self._address))
        if not now.schema.equals(before.schema):
            raise SchemaMismatch(
                f"{before.address} has other columns than when the view over it was made: create the view anew"
            )
        return now

    def _watched(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except AljavaError as error:
            self._fail(error)

    def _fail(self, error: AljavaError) -> NoReturn:
        # The reader of the format knows bytes, not where they stand.
        if self.address not in str(error):
            error = type(error)(f"{self.address}: {error}")
        self.failure = error
        raise error


class _Scan:
    """As much of a `pyarrow.dataset.Scanner` as DuckDB asks for."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader

    def to_reader(self) -> pa.RecordBatchReader:
        return self._reader
