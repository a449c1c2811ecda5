"""`Dataset`: a lazy table that DuckDB, Polars and pyarrow take for a `pyarrow.dataset.Dataset`, because it is one.

pyarrow offers no hook for a dataset of one's own, but its class can be subclassed. Whoever takes one calls its
`scanner(columns=…, filter=…)` or `to_batches` with what it has pushed down. What its base class could do with a
dataset of C++ is overridden to the last method: there is none.
"""

from collections.abc import Iterator, Sequence
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
        >>> dataset.head(1).num_rows, dataset.tail(2)["id"].to_pylist(), dataset.take([2, 0])["id"].to_pylist()
        (1, [2, 3], [3, 1])
        >>> large = dataset.filter(pc.field("value") > 1)
        >>> large.count_rows(), large.to_numpy(["id"]), [batch.num_rows for batch in large.to_batches()]
        (2, {'id': array([2, 3])}, [2])
        >>> large.to_pandas()["value"].sum(), large.to_polars().select("id").collect().height
        (np.float64(4.0), 2)
        >>> dataset.to_reader(["id"]).schema == dataset.scanner(["id"]).projected_schema
        True
        >>> dataset.join(pa.table({"id": [3], "name": ["c"]}), "id", join_type="inner").to_table()["name"].to_pylist()
        ['c']
        >>> dataset.sort_by([("id", "descending")]).to_table()["id"].to_pylist()
        [3, 2, 1]
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
        self.must_travel()
        parts, options = self._opened_from
        return _reopened, (parts, options, self._filter)

    def must_travel(self) -> None:
        """Checks that other processes can open the addresses.

        Raises:
            InvalidOption: a buffer or a file object, which stands in this process, or a stream, which is read once.
        """
        parts, _ = self._opened_from
        if any(type(part.place).__name__ in ("FileObject", "MemoryBuffer") for part in parts):
            raise InvalidOption(f"{self.address} stands in this process only: send its table instead")

    def to_dask(
        self,
        columns: Sequence[str] | None = None,
        filter: Any = None,
        *,
        index: str | None = None,
        partition_bytes: int | None = None,
    ) -> Any:
        """The rows as a Dask DataFrame, read by Dask's workers; no row travels from here.

        Its partitions are record batches that stand one after the other. Files and batches that partitions and zones
        rule out are in none of them. Columns that a computation does not need are not read.

        All partitions have the same types: integers and booleans are NumPy's where the metadata says that no value is
        null, else pandas' nullable ones; dictionaries are categoricals, whose categories are known in the workers; what
        NumPy has no type for (lists, decimals, dates) keeps its Arrow type.

        Args:
            columns: names, in the order that is wanted; all by default.
            filter: a `pyarrow.compute.Expression` that a row must fulfil; workers apply it to what is left.
            index: the column to be the index; by default that of the pandas frame that was written, else none. Where
                zones show that the partitions do not overlap in it, they are put in its order, and Dask knows their
                divisions.
            partition_bytes: about how many bytes of Arrow data a partition is to have; 64 MB by default.

        Raises:
            MissingDependency: Dask is not installed.
            InvalidOption: other processes cannot open the addresses.
            QueryError: a column that does not exist, a filter that cannot be evaluated.

        Examples:
            >>> import aljava, tempfile
            >>> address = tempfile.mkdtemp() + "/trades.arrow"
            >>> table = pa.table({"id": range(100_000), "side": ["buy", "sell"] * 50_000})
            >>> _ = aljava.write(table, address, batch_rows=10_000)
            >>> frame = aljava.open(address).to_dask(filter=pc.field("id") >= 75_000, index="id", partition_bytes=1)
            >>> frame.divisions
            (70000, 80000, 90000, 99999)
            >>> int(frame.side.value_counts().compute()["buy"])
            12500
        """
        from aljava.engines.dask import to_dask

        return to_dask(self, columns, filter, index, partition_bytes)

    def to_ray(self, columns: Columns = None, filter: Any = None, *, override_num_blocks: int | None = None) -> Any:
        """The rows as a Ray Dataset, read by Ray's workers as Arrow blocks; no row travels from here.

        Files and batches that partitions and zones rule out are in no task. What `select_columns` and `filter` of the
        Ray Dataset leave out is not read either, where Ray hands it on to its sources.

        Args:
            columns: names, in the order that is wanted; or name -> expression; all by default.
            filter: a `pyarrow.compute.Expression` that a row must fulfil; workers apply it to what is left.
            override_num_blocks: how many tasks at most, in place of the number that Ray chooses.

        Raises:
            MissingDependency: Ray is not installed.
            InvalidOption: other processes cannot open the addresses.
            QueryError: a column that does not exist, a filter that cannot be evaluated.

        Examples:
            >>> import aljava, tempfile
            >>> address = tempfile.mkdtemp() + "/trades.arrow"
            >>> _ = aljava.write({"id": range(100_000)}, address)
            >>> rows = aljava.open(address).to_ray(filter=pc.field("id") < 10)  # doctest: +SKIP
            >>> rows.sum("id")  # doctest: +SKIP
            45
        """
        from aljava.engines.ray import to_ray

        return to_ray(self, columns, filter, override_num_blocks)


class Scanner(Query, pyarrow.dataset.Scanner):
    """A query over a dataset, not run yet. Made by `Dataset.scanner`."""

    def scan_batches(self) -> Iterator[Any]:
        """The matching rows, each batch with the payload that it may come from: pyarrow's older interface."""
        for batch in self.to_batches():
            yield pyarrow.dataset.TaggedRecordBatch(batch, None)


def _reopened(parts: list[Part], options: dict[str, Any], filter: Any) -> Dataset:
    dataset = Dataset(parts, **options)
    return dataset if filter is None else dataset.filter(filter)
