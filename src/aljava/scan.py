"""What DuckDB reads when a query names an address.

DuckDB asks a *source* for the schema when it binds a query, and for a scan with the columns and the filters that the
query needs when it runs. `AddressTable` is one that opens its address only when it is asked: a query is offered a table
for each of its quoted names, and DuckDB takes those that it turns out to read.

The class of sources is no part of DuckDB's documented interface. In a version without it `AddressTable` is a
`pyarrow.dataset.Dataset`, and all works, with less pushed down. What DuckDB makes of a dataset has no number of rows,
so DuckDB takes a table for one row and joins large tables first. It takes over no ranges of floats, as the statistics
of Parquet leave NaN out, and nothing at all where one column is of views.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import pyarrow as pa

from aljava.api import opened
from aljava.errors import AljavaError, NotFound, SchemaMismatch
from aljava.formats import Format
from aljava.kept import KeptFiles
from aljava.payloads import Payloads

try:
    from duckdb._sources import ArrowScanSource as _Source
    from duckdb._sources.nodes import Binary, Col, In, Postfix, Unary, Untranslatable
    from duckdb._sources.to_arrow import nan_may_satisfy, to_arrow
except ImportError:
    from pyarrow.dataset import Dataset as _Source  # type: ignore[no-redef]

#: A predicate is taken over when it leaves at most this much of the rows to look at.
SPARED = 0.9
#: Predicates on a payload whose answer is remembered.
REMEMBERED = 64

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


_open = partial(Payloads, opener=KeptFiles().open)


class AddressTable(_Source):
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

    #: For DuckDB: the columns stay what they were when it asked.
    schema_is_stable = True

    def __init__(self, address: Any, live: bool = False) -> None:
        self._address = address
        self._live = live
        self._opening = threading.Lock()
        self._dataset: Payloads | None = address if isinstance(address, Payloads) else None
        self._failed: tuple[type[AljavaError], str] | None = None
        #: The columns and the filter of each scan, where somebody wants to know them.
        self.scans: list[tuple[Sequence[str] | None, Any]] | None = None

    @property
    def obj(self) -> "AddressTable":
        """For DuckDB: what it reads. No attribute, as an object that holds itself stays until it is looked for."""
        return self

    @property
    def address(self) -> str:
        """What the user would call it."""
        return self._address if isinstance(self._address, str) else self.dataset.address

    @property
    def failure(self) -> AljavaError | None:
        """The last error met in opening or reading, of which DuckDB passes on only the text.

        Each time another object: one that was raised holds the frames it went through, these the relation, and that
        this table, through objects of C++ that no garbage collector looks into.
        """
        return self._failed and self._failed[0](self._failed[1])

    @property
    def is_read(self) -> bool:
        """Whether a query turned out to read this table."""
        return self._dataset is not None

    @property
    def dataset(self) -> Payloads:
        """What stands at the address, opened if it is not open yet."""
        with self._opening:
            if self._dataset is None:
                try:
                    self._dataset = opened(_open, self._address)
                except NotFound as error:
                    self._fail(
                        NotFound(f"{error}: {self._address!r} is no table, view or common table expression either")
                    )
                except AljavaError as error:
                    self._fail(error)
            return self._dataset

    @property
    def schema(self) -> pa.Schema:
        """The columns; opens the address if it is not open yet."""
        return self.dataset.schema

    def scanner(self, columns: Sequence[str] | None = None, filter: Any = None, **_: Any) -> "_Scan":
        """The rows that fulfil `filter`, with these columns."""
        dataset = self.dataset
        if self.scans is not None:
            self.scans.append((columns, filter))
        try:
            query = (self._as_it_is_now(dataset) if self._live else dataset).scanner(columns, filter)
            table = query.at_hand()
            if table is not None:
                return _Scan(table.to_reader())
        except AljavaError as error:
            self._fail(error)
        return _Scan(pa.RecordBatchReader.from_batches(query.projected_schema, self._watched(query.to_batches())))

    # -- as a source of DuckDB -----------------------------------------------------------------------------------------

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """All rows: for DuckDB, having this is what makes a Python variable a table."""
        return self.scanner().to_reader().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        """The schema, through the PyCapsule interface."""
        return self.schema.__arrow_c_schema__()

    def rows(self) -> int | None:
        """How many rows there are, where that is known without reading them."""
        dataset = self.dataset
        return None if dataset.format is Format.IPC_STREAM else dataset.num_rows

    def accepts(self, predicate: Any) -> bool:
        """Whether to take over a predicate: only where that spares reading, as DuckDB filters rows faster than we do.

        What is taken over, DuckDB does not look at again: the rows must be those for which it finds it true.
        """
        if self.rows() is None:
            return False
        # A planner asks again for each query, and to translate and to judge takes a millisecond.
        answers, question = self.dataset.answers, repr(predicate)
        answer: bool | None = answers.get(question)
        if answer is None:
            answer = self._spares(predicate)
            if len(answers) >= REMEMBERED:
                answers.clear()
            answers[question] = answer
        return answer

    def _spares(self, predicate: Any) -> bool:
        schema = self._named_in(predicate)
        try:
            expression = _expression(predicate, schema)
        except Untranslatable:
            return False
        if not self._knows_nan and nan_may_satisfy(predicate, schema):
            return False
        return self.dataset.rows_that_may_match(expression) < SPARED * self.dataset.num_rows

    def _named_in(self, predicate: Any) -> pa.Schema:
        """The columns that predicates speak of: DuckDB translates none over a schema that has, say, a view in it."""
        names = {part for column in _columns(predicate) for part in column.parts[:1]}
        return pa.schema([field for field in self.schema if field.name in names])

    @property
    def _knows_nan(self) -> bool:
        """Whether nothing is left out by statistics that do not count NaN, as those of Parquet do not."""
        return Format.PARQUET not in self.dataset.formats

    def stream(self, columns: Sequence[int] | None, filters: Sequence[Any]) -> tuple[Any, bool]:
        """A stream of the columns with these numbers, of the rows that fulfil all the predicates."""
        mask = None
        for predicate in filters:
            expression = _expression(predicate, self._named_in(predicate))
            mask = expression if mask is None else mask & expression
        names = None if columns is None else [self.schema.names[number] for number in columns]
        return self.scanner(names, mask).to_reader().__arrow_c_stream__(), columns is not None

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _as_it_is_now(self, before: Payloads) -> Payloads:
        now = opened(_open, self._address)
        if not now.schema.equals(before.schema):
            raise SchemaMismatch(
                f"{before.address} has other columns than when the view over it was made: create the view anew"
            )
        return now

    def _watched(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except AljavaError as error:
            self._fail(error)

    def _fail(self, error: AljavaError) -> NoReturn:
        # The reader of the format knows bytes, not where they stand.
        if isinstance(self._address, str) and self._address not in str(error):
            error = type(error)(f"{self._address}: {error}")
        self._failed = type(error), str(error)
        raise error


def report(table: AddressTable, columns: Sequence[str] | None, filter: Any) -> str:
    """One line on how much a scan read, of how much there is."""
    dataset = table.dataset
    if table.rows() is None:
        return f"{table.address}: a stream, read from its start to its end"
    survey = dataset.explain(filter)
    names = dataset.schema.names if columns is None else columns
    parts = [
        f"{survey.zones_read:,} of {survey.zones:,} zones",
        f"{survey.batches_read:,} of {survey.batches:,} batches",
        f"{len(names)} of {len(dataset.schema)} columns ({', '.join(names)})",
    ]
    if survey.files > 1:
        parts.insert(0, f"{survey.files_read:,} of {survey.files:,} files")
    return f"{table.address}: {', '.join(parts)}" + ("" if filter is None else f", where {filter}")


class _Scan:
    """As much of a `pyarrow.dataset.Scanner` as DuckDB asks for."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader

    def to_reader(self) -> pa.RecordBatchReader:
        return self._reader


def _expression(predicate: Any, schema: pa.Schema) -> Any:
    """A predicate of DuckDB as an expression of pyarrow that zones can be asked with.

    For DuckDB a NaN is greater than every number. Its own translation of `x > 1` is `x > 1 or x != x`, of which no
    statistics can say that it is false; `not x <= 1` says the same, and they can.
    """
    match predicate:
        case Binary(op="AND", left=left, right=right):
            return _expression(left, schema) & _expression(right, schema)
        case Binary(op="OR", left=left, right=right):
            return _expression(left, schema) | _expression(right, schema)
        case Binary(op=(">" | ">=") as op, left=Col(parts=parts) as column, right=constant) if _is_float(schema, parts):
            return ~to_arrow(Binary({">": "<=", ">=": "<"}[op], column, constant), schema)
    return to_arrow(predicate, schema)


def _columns(predicate: Any) -> Iterator[Any]:
    match predicate:
        case Col():
            yield predicate
        case Binary(left=left, right=right):
            yield from _columns(left)
            yield from _columns(right)
        case In(operand=operand) | Unary(operand=operand) | Postfix(operand=operand):
            yield from _columns(operand)


def _is_float(schema: pa.Schema, parts: Sequence[str]) -> bool:
    index = schema.get_field_index(parts[0])
    return len(parts) == 1 and index >= 0 and pa.types.is_floating(schema.field(index).type)
