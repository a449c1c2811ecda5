"""A lazy table: knows its schema, reads what is asked for."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from aljava import ipc
from aljava.errors import InvalidData, MissingDependency, QueryError
from aljava.formats import Format, recognise
from aljava.places.place import Place

#: Called after each batch with the rows done and the rows in all (None where that is not known yet).
Progress = Callable[[int, int | None], None]


class Dataset:
    """The payload at a place, read when asked, and only the columns that are asked for.

    Made by `aljava.open`. Anything that takes `__arrow_c_stream__` takes it.

    Example:
        >>> import aljava
        >>> dataset = aljava.open(aljava.dumps(pa.table({"id": [1, 2, 3], "value": [0.5, 1.5, 2.5]})))
        >>> dataset.schema.names
        ['id', 'value']
        >>> dataset.to_table(columns=["id"], filter=pa.compute.field("value") > 1).to_pydict()
        {'id': [2, 3]}
    """

    def __init__(self, place: Place, *, untrusted: bool = False) -> None:
        self._place = place
        self._untrusted = untrusted
        self._source = place.source()
        self.format: Format = recognise(self._source, place.address)
        #: The columns and their types, with the metadata that was written.
        self.schema: pa.Schema = self._explain(self._read_schema)

    @property
    def address(self) -> str:
        """Where the payload stands."""
        return self._place.address

    def to_reader(
        self, columns: Sequence[str] | None = None, filter: Any = None, progress: Progress | None = None
    ) -> pa.RecordBatchReader:
        """The rows, batch by batch.

        Args:
            columns: names of the columns to read, in this order; all by default.
            filter: a `pyarrow.compute.Expression` that a row must fulfil.
            progress: called after each batch with the rows read and the rows in all.

        Raises:
            QueryError: a column that does not exist, a filter that cannot be evaluated.
            InvalidData: the payload is damaged.
        """
        names = list(self.schema.names) if columns is None else list(columns)
        missing = [name for name in names if name not in self.schema.names]
        if missing:
            raise QueryError(f"{self.address} has no column {missing[0]!r}; it has {', '.join(self.schema.names)}")
        needed = names if filter is None else [*names, *_named_in(filter, self.schema, names)]
        batches = self._batches(None if columns is None else needed, progress)
        schema = pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        if columns is None:
            schema = self.schema

        def rows() -> Iterator[pa.RecordBatch]:
            for batch in batches:
                kept = batch if filter is None else self._filtered(batch, filter)
                yield kept if columns is None else kept.select(names)

        return pa.RecordBatchReader.from_batches(schema, self._explained(rows()))

    def to_table(
        self, columns: Sequence[str] | None = None, filter: Any = None, progress: Progress | None = None
    ) -> pa.Table:
        """The rows as a `pyarrow.Table`, without a copy where the payload is raw and mapped.

        Takes and raises what `to_reader` does.
        """
        reader = self.to_reader(columns, filter, progress)
        batches = []
        # Not `read_all`: through the C stream our exceptions would come back as pyarrow's.
        while True:
            try:
                batches.append(reader.read_next_batch())
            except StopIteration:
                return pa.Table.from_batches(batches, reader.schema)

    def to_pandas(self, columns: Sequence[str] | None = None, filter: Any = None, types_mapper: Any = None) -> Any:
        """The rows as a `pandas.DataFrame`; index and attributes of a frame that was written come back.

        Args:
            columns: as in `to_table`.
            filter: as in `to_table`.
            types_mapper: as in `pyarrow.Table.to_pandas`, for example `pandas.ArrowDtype`.

        Raises:
            MissingDependency: pandas is not installed.
        """
        _require("pandas")
        return self.to_table(columns, filter).to_pandas(types_mapper=types_mapper)

    def to_polars(self, columns: Sequence[str] | None = None, filter: Any = None) -> Any:
        """The rows as a `polars.LazyFrame`; what it does not need is not read.

        Raises:
            MissingDependency: Polars is not installed.
        """
        polars = _require("polars")
        from polars.io.plugins import register_io_source

        empty = polars.from_arrow(pa.Table.from_batches([], self._projected_schema(columns)))

        def scan(with_columns: Any, predicate: Any, n_rows: int | None, batch_size: int | None) -> Iterator[Any]:
            left = n_rows
            for batch in self.to_reader(with_columns or columns, filter):
                frame = polars.from_arrow(pa.Table.from_batches([batch]))
                if left is not None:
                    frame = frame.head(left)
                    left -= frame.height
                yield frame if predicate is None else frame.filter(predicate)
                if left == 0:
                    return

        return register_io_source(scan, schema=empty.schema)

    def to_numpy(self, columns: Sequence[str] | None = None, filter: Any = None) -> dict[str, Any]:
        """The columns as NumPy arrays, without a copy where there is one raw batch without nulls.

        Returns:
            a dict from the column's name to an array of shape (rows,), or (rows, n) for fixed-size lists of n.
        """
        table = self.to_table(columns, filter)
        return {name: _to_numpy(column) for name, column in zip(table.column_names, table.columns, strict=True)}

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The Arrow PyCapsule interface."""
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        columns = "\n".join(f"  {field.name}: {field.type}" for field in self.schema)
        return f"<aljava.Dataset {self.address} ({self.format.value})>\n{columns}"

    def _projected_schema(self, columns: Sequence[str] | None) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])

    def _read_schema(self) -> pa.Schema:
        match self.format:
            case Format.IPC_FILE:
                return ipc.open_file(self._source).schema
            case Format.IPC_STREAM:
                self._source.seek(0)
                return ipc.open_stream(self._source).schema
            case Format.PARQUET:
                return _parquet().ParquetFile(self._source).schema_arrow
            case Format.FEATHER_V1:
                return self._feather_v1(None).schema

    def _batches(self, columns: list[str] | None, progress: Progress | None) -> Iterator[pa.RecordBatch]:
        done = 0
        total: int | None = None
        for batch, total in self._explained(self._read_batches(columns)):
            yield batch
            done += batch.num_rows
            if progress:
                progress(done, total)
        if progress:
            progress(done, done if total is None else total)

    def _read_batches(self, columns: list[str] | None) -> Iterator[tuple[pa.RecordBatch, int | None]]:
        match self.format:
            case Format.IPC_FILE:
                file = ipc.open_file(self._source, options=self._ipc_options(columns))
                for index in range(file.num_record_batches):
                    yield self._valid(file.get_batch(index)), None
            case Format.IPC_STREAM:
                self._source.seek(0)
                for batch in ipc.open_stream(self._source, options=self._ipc_options(columns)):
                    yield self._valid(batch), None
            case Format.PARQUET:
                file = _parquet().ParquetFile(self._source)
                for batch in file.iter_batches(batch_size=1 << 20, columns=columns):
                    yield batch, file.metadata.num_rows
            case Format.FEATHER_V1:
                table = self._feather_v1(columns)
                for batch in table.to_batches():
                    yield batch, table.num_rows

    def _valid(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        batch.validate(full=self._untrusted)
        return batch

    def _ipc_options(self, columns: list[str] | None) -> Any:
        if columns is None:
            return ipc.IpcReadOptions()
        return ipc.IpcReadOptions(included_fields=sorted({self.schema.get_field_index(name) for name in columns}))

    def _feather_v1(self, columns: list[str] | None) -> pa.Table:
        from pyarrow import feather

        self._source.seek(0)
        return feather.read_table(self._source, columns=columns)

    def _filtered(self, batch: pa.RecordBatch, expression: Any) -> pa.RecordBatch:
        try:
            return batch.filter(expression)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError) as error:
            raise QueryError(f"the filter {expression} cannot be evaluated on {self.address}: {error}") from error

    def _explain(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowSerializationError, OSError) as error:
            raise self._damaged(error) from error

    def _explained(self, steps: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                step = next(steps)
            except StopIteration:
                return
            except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowSerializationError, OSError) as error:
                raise self._damaged(error) from error
            yield step

    def _damaged(self, error: Exception) -> Exception:
        from aljava.errors import AljavaError

        if isinstance(error, AljavaError):
            # The format layer knows no addresses.
            return error if self.address in str(error) else type(error)(f"{self.address}: {error}")
        return InvalidData(f"{self.address} is damaged ({self.format.value}): {error}")


def _named_in(expression: Any, schema: pa.Schema, known: list[str]) -> list[str]:
    """The further columns that a filter may need: every one whose name occurs in its text, so none is forgotten."""
    text = str(expression)
    return [name for name in schema.names if name not in known and re.search(re.escape(name), text)]


def _parquet() -> Any:
    from pyarrow import parquet

    return parquet


def _require(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependency(
            f"this needs {package}, which is not installed: pip install 'aljava[{package}]'"
        ) from error


def _to_numpy(column: pa.ChunkedArray) -> Any:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of no chunks at all
        array = pa.array([], column.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_fixed_size_list(array.type) and not array.null_count:
        values = array.flatten()
        return values.to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    return array.to_numpy(zero_copy_only=False)
