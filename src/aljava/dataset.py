"""`Dataset`: a lazy table that DuckDB, Polars and pyarrow take for a `pyarrow.dataset.Dataset`, because it is one.

pyarrow offers no hook for a dataset of one's own, but its class can be subclassed. Whoever takes one calls its
`scanner(columns=…, filter=…)` or `to_batches` with what it has pushed down. What its base class could do with a
dataset of C++ is overridden to the last method: there is none.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from aljava.errors import InvalidOption, UnsupportedType
from aljava.listing import Part
from aljava.payloads import Columns, Payloads, Query

__all__ = ["Columns", "Dataset", "Scanner"]


class Dataset(Payloads, pyarrow.dataset.Dataset):
    """The rows of one payload or of many, read when asked, and only what is asked for.

    Made by `aljava.open`. DuckDB, Polars (`pl.scan_pyarrow_dataset`) and pyarrow take it as a dataset and push columns
    and filters into it; anything that knows `__arrow_c_stream__` takes it as a stream. Threads may share it.

    Examples:
        >>> import aljava
        >>> dataset = aljava.open(aljava.dumps(pa.table({"id": [1, 2, 3], "value": [0.5, 1.5, 2.5]})))
        >>> dataset.schema.names
        ['id', 'value']
        >>> dataset.to_table(columns=["id"], filter=pc.field("value") > 1).to_pydict()
        {'id': [2, 3]}
        >>> import duckdb
        >>> duckdb.sql("select max(value) from dataset where id < 3").fetchall()
        [(1.5,)]
    """

    @property
    def _query(self) -> type[Query]:
        return Scanner

    @property
    def partition_expression(self) -> Any:
        """What is true of all rows: pyarrow asks for it."""
        return pc.scalar(True)

    def get_fragments(self, filter: Any = None) -> Iterator["Dataset"]:
        """Each payload that can hold matching rows, as a dataset of its own."""
        kept = self._kept(self._and(filter))
        for number, (fragment, keep) in enumerate(zip(self._fragments, kept, strict=True)):
            if keep:
                yield self._like([fragment], self._partitions.slice(number, 1), self._filter)

    def join(self, right_dataset: Any, keys: Any, *arguments: Any, **options: Any) -> Any:
        """The join with another dataset, in memory; arguments as in `pyarrow.Table.join`."""
        right = right_dataset.to_table() if hasattr(right_dataset, "to_table") else right_dataset
        return pyarrow.dataset.InMemoryDataset(self.to_table().join(right, keys, *arguments, **options))

    def join_asof(self, right_dataset: Any, on: Any, by: Any, tolerance: Any, **options: Any) -> Any:
        """The as-of join with another dataset, in memory; arguments as in `pyarrow.Table.join_asof`."""
        right = right_dataset.to_table() if hasattr(right_dataset, "to_table") else right_dataset
        return pyarrow.dataset.InMemoryDataset(self.to_table().join_asof(right, on, by, tolerance, **options))

    def sort_by(self, sorting: Any, **options: Any) -> Any:
        """The rows in another order, in memory; arguments as in `pyarrow.Table.sort_by`."""
        return pyarrow.dataset.InMemoryDataset(self.to_table().sort_by(sorting, **options))

    def replace_schema(self, schema: pa.Schema) -> Any:
        """Not offered: a dataset has the schema of its payloads."""
        raise UnsupportedType(f"{self.address} keeps its schema: cast what to_table() gives")

    def __reduce__(self) -> Any:
        """A dataset travels to another process as its addresses, and is opened there."""
        parts, options = self._opened_from
        if any(type(part.place).__name__ in ("FileObject", "MemoryBuffer") for part in parts):
            raise InvalidOption(f"{self.address} stands in this process only: send its table instead")
        return _reopened, (parts, options, self._filter)


class Scanner(Query, pyarrow.dataset.Scanner):
    """A query over a dataset, not run yet. Made by `Dataset.scanner`."""

    def scan_batches(self) -> Iterator[Any]:
        """The matching rows, each batch with the payload that it may come from: pyarrow's older interface."""
        for batch in self.to_batches():
            yield pyarrow.dataset.TaggedRecordBatch(batch, None)


def _reopened(parts: list[Part], options: dict[str, Any], filter: Any) -> Dataset:
    dataset = Dataset(parts, **options)
    return dataset if filter is None else dataset.filter(filter)
