"""A dataset as a Ray Dataset: a `ray.data.Datasource` whose read tasks are portions."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from aljava.engines.portions import Plan, Portion, Reader, plan
from aljava.errors import require
from aljava.scanning import Selection

require("ray.data", "cluster", "Ray")

import ray.data  # noqa: E402
from ray.data.block import BlockMetadata  # noqa: E402

if TYPE_CHECKING:
    from aljava.dataset import Dataset

#: The column by which Ray knows the rows of a block of which it wants no column: it counts them.
_ROWS_ONLY = "__bsp_stub"


def to_ray(dataset: "Dataset", columns: Any, filter: Any, override_num_blocks: int | None) -> Any:
    """See `aljava.Dataset.to_ray`."""
    return ray.data.read_datasource(AljavaDatasource(dataset, columns, filter), override_num_blocks=override_num_blocks)


class AljavaDatasource(ray.data.Datasource):
    """What Ray asks how to read a dataset.

    Args:
        dataset: the rows.
        columns: as in `Dataset.scanner`.
        filter: as in `Dataset.scanner`.
    """

    def __init__(self, dataset: "Dataset", columns: Any, filter: Any) -> None:
        super().__init__()
        dataset.must_travel()
        self._dataset, self._columns, self._filter = dataset, columns, filter
        # Of Ray's own protocol of what its planner hands on to sources (Ray 2.51 and newer).
        self._projection_map: Mapping[str, str] | None = None
        self._plan()  # bad columns and filters are found here and not when the first row is asked for

    def get_name(self) -> str:
        """As it stands in Ray's progress bars."""
        return "Aljava"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of the columns of all rows that zones do not rule out."""
        return sum(portion.nbytes for portion in self._plan().portions)

    def get_read_tasks(self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None) -> Any:
        """A task for each portion, about as many as Ray asks for."""
        planned = self._plan(max(1, (self.estimate_inmemory_data_size() or 0) // max(1, parallelism)))
        schema = self._selection().schema
        limit = {} if per_task_row_limit is None else {"per_task_row_limit": per_task_row_limit}
        tasks = []
        for portion in planned.portions or [Portion((), 0, 0)]:
            files = tuple(piece.part.place.address for piece in portion.pieces)
            rows = None if self._selection().filter is not None else portion.rows
            metadata = BlockMetadata(num_rows=rows, size_bytes=portion.nbytes, input_files=files, exec_stats=None)
            read = partial(_blocks, planned.reader, portion, self._names(), schema)
            tasks.append(ray.data.ReadTask(read, metadata, schema=schema, **limit))
        return tasks

    def supports_projection_pushdown(self) -> bool:
        """Columns that are computed are not left out one by one."""
        return not isinstance(self._columns, Mapping)

    def supports_predicate_pushdown(self) -> bool:
        """A filter over computed columns is Ray's to apply."""
        return not isinstance(self._columns, Mapping)

    def _names(self) -> Any:
        """The columns to read: those that were asked for, less those that Ray found it does not need."""
        if self._projection_map is None:
            return self._columns
        return list(self._projection_map)

    def _condition(self) -> Any:
        pushed = getattr(self, "_predicate_expr", None)
        if pushed is None:
            return self._filter
        condition = pushed.to_pyarrow()
        return condition if self._filter is None else self._filter & condition

    def _selection(self) -> Selection:
        return Selection(self._dataset.schema, self._names(), self._condition(), self._dataset.address)

    def _plan(self, portion_bytes: int | None = None) -> Plan:
        return plan(self._dataset, self._names(), self._condition(), portion_bytes)


def _blocks(reader: Reader, portion: Portion, columns: Any, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of a portion as Arrow blocks; one without rows where none match, so that the columns are known."""
    empty = True
    if portion.pieces:
        for batch in reader.batches(portion, columns):
            empty = False
            rows = pa.Table.from_batches([batch])
            yield rows if rows.num_columns else pa.table({_ROWS_ONLY: pa.nulls(batch.num_rows)})
    if empty:
        yield schema.empty_table()
