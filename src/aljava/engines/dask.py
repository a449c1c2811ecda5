"""A dataset as a Dask DataFrame: one partition for each portion, read where the task runs."""

import json
import uuid
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aljava.engines.portions import Plan, Portion, Reader, plan
from aljava.errors import QueryError, require

if TYPE_CHECKING:
    from aljava.dataset import Dataset


def to_dask(
    dataset: "Dataset", columns: Sequence[str] | None, filter: Any, index: str | None, partition_bytes: int | None
) -> Any:
    """See `aljava.Dataset.to_dask`."""
    dd = require("dask.dataframe", "cluster", "Dask")
    from dask.dataframe.utils import clear_known_categories

    names = list(dataset.schema.names if columns is None else columns)
    if isinstance(columns, str) or len(set(names)) < len(names):
        raise QueryError(f"columns is {columns!r}: a frame takes a list of names, each of them once")
    if index is None:
        index = _written_index(dataset.schema)
    wanted = names if index is None or index in names else [index, *names]
    planned = plan(dataset, wanted, filter, partition_bytes)
    names = [name for name in names if name != index]
    read = _ReadPartition(planned.reader, index, _without_nulls(dataset, planned, wanted))
    meta = clear_known_categories(read.frame(dataset.schema.empty_table(), names))
    if not planned.portions:
        return dd.from_pandas(meta, npartitions=1)
    portions, divisions = list(planned.portions), None
    if index is not None and (found := _in_order(dataset, portions, index)):
        portions, divisions = found
    return dd.from_map(
        read, portions, columns=names, meta=meta, divisions=divisions, label="aljava", enforce_metadata=False
    )


class _ReadPartition:
    """Makes a pandas frame of a portion. Dask gives it the columns that a computation needs."""

    def __init__(self, reader: Reader, index: str | None, without_nulls: frozenset[str]) -> None:
        self._reader, self._index, self._without_nulls = reader, index, without_nulls
        # Two plans are never the same for Dask, which may remember what it computed: files change.
        self._token = uuid.uuid4().hex

    def __dask_tokenize__(self) -> str:
        return self._token

    def __call__(self, portion: Portion, columns: Sequence[str]) -> Any:
        read = [*columns, self._index] if self._index is not None else list(columns)
        return self.frame(self._reader.table(portion, read), columns)

    def frame(self, table: pa.Table, columns: Sequence[str]) -> Any:
        """The rows of a table as every partition has them."""
        import pandas

        special = [field.name for field in table.schema if self._special(field) is not None]
        # The index that pandas wrote is put in place here, and a part of it may not be among the columns.
        metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
        plain = table.drop_columns(special).replace_schema_metadata(metadata)
        frame = plain.to_pandas(split_blocks=True)
        if special:
            rest = table.select(special).replace_schema_metadata(metadata)
            mapper = {field.type: self._special(field) for field in rest.schema}
            others = rest.to_pandas(types_mapper=mapper.get, split_blocks=True)
            frame = others if not plain.num_columns else pandas.concat([frame, others], axis=1)
        if self._index is None:
            return frame[list(columns)]
        frame = frame.set_index(self._index)
        if self._index.startswith("__index_level_"):
            frame.index.name = None
        if not frame.index.is_monotonic_increasing:
            frame = frame.sort_index(kind="stable")
        return frame[list(columns)]

    def _special(self, field: pa.Field) -> Any:
        """The type of pandas' own for a column that NumPy has none for; None for the others."""
        import pandas

        kind = field.type
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            name = "boolean" if pa.types.is_boolean(kind) else str(kind).replace("int", "Int").replace("u", "U")
            return None if field.name in self._without_nulls else pandas.api.types.pandas_dtype(name)
        plain = pa.types.is_floating(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind)
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()
        if plain or text or pa.types.is_dictionary(kind):
            return None
        # Else it would be a column of Python objects, which Dask takes for text.
        return pandas.ArrowDtype(kind)


def _written_index(schema: pa.Schema) -> str | None:
    """The column that was the index of the pandas frame that was written, where it was one."""
    text = (schema.metadata or {}).get(b"pandas")
    columns = [] if text is None else json.loads(text).get("index_columns", [])
    return columns[0] if len(columns) == 1 and columns[0] in schema.names else None


def _without_nulls(dataset: "Dataset", planned: Plan, names: Sequence[str]) -> frozenset[str]:
    """The columns of which the metadata of all files that are read says that no value is null."""
    read = sorted({piece.number for portion in planned.portions for piece in portion.pieces})
    read = read or list(range(len(dataset._fragments)))
    fields = [dataset.schema.field(name) for name in names]
    wanted = {field.name for field in fields if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)}
    found = set(wanted)
    for number in read:
        found &= {name for name in found if _has_no_nulls(dataset, number, name)}
    return frozenset(found)


def _has_no_nulls(dataset: "Dataset", number: int, name: str) -> bool:
    if name in dataset._partitions.schema.names:
        return bool(dataset._partitions[name][number].is_valid)
    return dataset._fragments[number].has_no_nulls(name)


def _in_order(dataset: "Dataset", portions: list[Portion], name: str) -> tuple[list[Portion], tuple[Any, ...]] | None:
    """The portions in the order of a column, and where each begins; None where zones do not show one."""
    lows, highs = [], []
    for portion in portions:
        low, high = zip(*(_range(dataset, piece, name) for piece in portion.pieces), strict=True)
        if None in low:
            return None
        lows.append(min(_pandas(low)))
        highs.append(max(_pandas(high)))
    order = sorted(range(len(portions)), key=lambda number: lows[number])
    if any(not highs[before] < lows[after] for before, after in pairwise(order)):
        return None
    return [portions[number] for number in order], (*(lows[number] for number in order), highs[order[-1]])


def _range(dataset: "Dataset", piece: Any, name: str) -> tuple[Any, Any]:
    """The least and the greatest value in a piece of a column without nulls, as far as zones know; else None."""
    fragment = dataset._fragments[piece.number]
    zones = fragment.zones
    bounds = None if zones is None else zones.bounds(name)
    if zones is None or bounds is None:
        return None, None
    batch = np.asarray(zones.table["batch"])
    numbers = [wanted.number for wanted in piece.wanted]
    here = np.isin(batch, numbers)
    chosen = bounds.filter(pa.array(here))
    complete = len(np.unique(batch[here])) == len(numbers)
    nulls = pc.sum(chosen.field("nulls")).as_py()
    if not complete or nulls or "min" not in chosen.type.names:
        return None, None
    lows, highs = chosen.field("min"), chosen.field("max")
    if lows.null_count or highs.null_count:
        return None, None
    return pc.min(lows), pc.max(highs)


def _pandas(values: Sequence[Any]) -> list[Any]:
    return list(pa.array([value.as_py() for value in values], values[0].type).to_pandas())
