"""SQL over every place: DuckDB runs the query, Aljava opens the addresses in it.

DuckDB binds a query in the sight of one Python variable for each quoted name in it (it calls this a replacement scan).
Its binder looks into the catalog first, and takes a variable only for a name that is no table, no view and no common
table expression: so nothing of the user's is shadowed, nothing is registered, and nothing has to be removed. The
relation that comes back holds what it reads.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from aljava import api, frames
from aljava.errors import (
    InvalidOption,
    QueryError,
    UnsupportedType,
)
from aljava.payloads import Payloads
from aljava.relations import remember, running, translated
from aljava.scan import AddressTable, is_left_to_duckdb, report
from aljava.statements import CopyTo, CreateView, copy_to, create_view, is_explain_analyze, quoted_names, tokens

Parameters = Sequence[Any] | Mapping[str, Any] | None


def sql(
    query: str,
    *,
    connection: duckdb.DuckDBPyConnection | None = None,
    parameters: Parameters = None,
    **tables: Any,
) -> duckdb.DuckDBPyRelation:
    """Runs SQL over addresses and over tables of this process.

    Quoted names that DuckDB does not know are addresses: files, globs and folders, streams, `shm://STORE/KEY`, remote
    places. Only the columns and the rows that the query needs are read. Parquet, CSV and JSON files are read by
    DuckDB itself. `COPY … TO 'x.arrow'` writes as `aljava.write` does.

    Args:
        query: one or several statements in DuckDB's SQL; the rows of the last come back.
        connection: where to run it. By default in a database in the memory of this process, each call on a connection
            of its own; its tables and views stay, its temporary ones go with the relation.
        parameters: values for `?` and `$1` (a sequence), or for `$name` (a mapping).
        tables: tables by the name that the query calls them: anything that `aljava.write` takes, or an address.

    Returns:
        a relation. It runs when its rows are asked for, each time anew, over what stood at its addresses when `sql`
        was called. `aljava.write` takes it batch by batch; `fetchall`, `df`, `pl` and `to_arrow_table` gather it.

    Raises:
        QueryError: SQL that DuckDB cannot parse, bind or run, with its message and the position; no statement.
        NotFound, TruncatedFile, InvalidData: an address in the query that cannot be read.
        UnsupportedType: a keyword that is not table-like; a column of a type that DuckDB lacks.
        InvalidOption: a keyword that names a table of the connection.

    Examples:
        >>> import tempfile
        >>> address = tempfile.mkdtemp() + "/trades.arrow"
        >>> _ = api.write({"day": [1, 1, 2], "price": [0.5, 1.5, 2.5]}, address)
        >>> sql(f"select day, avg(price) from '{address}' group by day order by day").fetchall()
        [(1, 1.0), (2, 2.5)]
        >>> query = f"select name from '{address}' join days using (day) where price > ?"
        >>> sql(query, parameters=[2], days={"day": [1, 2], "name": ["Monday", "Tuesday"]}).fetchall()
        [('Tuesday',)]
    """
    if not isinstance(query, str):
        raise InvalidOption(f"the query is a {type(query).__qualname__}: it must be text")
    if parameters is not None and (isinstance(parameters, str) or not isinstance(parameters, Sequence | Mapping)):
        raise InvalidOption(f"the parameters are a {type(parameters).__qualname__}: give a list or a dict of values")
    if connection is None:
        connection = _database().cursor()
    script = _Script(connection, {name: _as_table(value, connection) for name, value in tables.items()})
    script.check_names()
    result = script.run(query, parameters)
    if result is None:
        raise QueryError("the query holds no statement")
    return result


def attach(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Lets a connection resolve Aljava's addresses from now on, in `sql`, `query`, `from_query` and `execute`.

    Its cursors resolve them too. Nothing else about it changes: its tables and views, and the Python variables that
    its queries name, come first; DuckDB's own errors stay DuckDB's.

    Args:
        connection: an open DuckDB connection.

    Returns:
        the same connection.

    Raises:
        InvalidOption: it is not a DuckDB connection.

    Examples:
        >>> import tempfile
        >>> address = tempfile.mkdtemp() + "/trades.arrow"
        >>> _ = api.write({"id": [1, 2, 3]}, address)
        >>> connection = attach(duckdb.connect())
        >>> connection.sql(f"select sum(id) from '{address}'").fetchall()
        [(6,)]
    """
    if not isinstance(connection, duckdb.DuckDBPyConnection):
        raise InvalidOption(f"a {type(connection).__qualname__} is no DuckDB connection: give duckdb.connect(…)")
    # DuckDB has no hook for names that it does not know, other than Python's variables; its connections take no
    # attributes. What Python offers for an object that is to behave differently from now on is another class.
    connection.__class__ = _Attached
    return connection


class _Attached(duckdb.DuckDBPyConnection):
    """A connection whose queries may name addresses."""

    __slots__ = ()

    def sql(self, query: Any, *, alias: str = "", params: Any = None) -> Any:
        return self._script(sys._getframe(1)).run(query, params, alias=alias)

    def query(self, query: Any, *, alias: str = "", params: Any = None) -> Any:
        return self._script(sys._getframe(1)).run(query, params, alias=alias)

    def from_query(self, query: Any, *, alias: str = "", params: Any = None) -> Any:
        return self._script(sys._getframe(1)).run(query, params, alias=alias)

    def execute(self, query: Any, parameters: Any = None) -> Any:
        return self._script(sys._getframe(1)).execute(query, parameters)

    def cursor(self) -> Any:
        return attach(super().cursor())

    def duplicate(self) -> Any:
        return attach(super().duplicate())

    def _script(self, frame: Any) -> "_Script":
        return _Script(self, {}, {**frame.f_globals, **frame.f_locals}, translates=False)


class _Script:
    """Statements that run one after the other on one connection, with the same tables in sight.

    Args:
        connection: where they run.
        tables: by the name that the statements call them. They come before addresses.
        scope: further Python variables in sight.
        translates: whether DuckDB's errors become Aljava's.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        tables: Mapping[str, Any],
        scope: Mapping[str, Any] | None = None,
        translates: bool = True,
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._names: set[str] = set()
        self._scope = scope or {"__builtins__": {}}
        self._translates = translates

    def check_names(self) -> None:
        """Raises InvalidOption for a table whose name the connection's catalog holds: there it would not be seen."""
        for name in self._tables:
            if self._has(name):
                raise InvalidOption(
                    f"the connection has a table or view {name!r} already: give the keyword another name"
                )

    def run(self, query: Any, parameters: Any, **options: Any) -> Any:
        """The relation over the last statement, after the others have run; None if there is no statement."""
        result = None
        for text, values in self._statements(query, parameters):
            result = self._run_one(text, values, partial(_relation, **options))
        return result

    def execute(self, query: Any, parameters: Any) -> duckdb.DuckDBPyConnection:
        """Runs all statements; the connection then holds the rows of the last."""
        for text, values in self._statements(query, parameters):
            self._run_one(text, values, _execution)
        return self._connection

    def _statements(self, query: Any, parameters: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(query, duckdb.Statement):
            statements = [query]
        else:
            with self._explained([]):
                statements = self._connection.extract_statements(query)
        # Of the whole script, since one statement can run another: PREPARE, then EXECUTE.
        self._names = {name for statement in statements for name in quoted_names(statement.query)}
        for statement in statements:
            values = parameters
            if len(statements) > 1 and not statement.named_parameters:
                values = None
            elif len(statements) > 1 and isinstance(parameters, Mapping):
                values = {name: parameters[name] for name in statement.named_parameters if name in parameters}
            yield statement.query.strip(), values

    def _run_one(self, text: str, values: Any, verb: "_Verb") -> Any:
        copied = copy_to(text)
        if copied and _is_for_aljava(copied):
            return self._copy(copied, values, verb)
        view = create_view(text)
        if view:
            return self._create(view, text, values, verb)
        if is_explain_analyze(text):
            return self._explain(text, values, verb)
        return self._seen(text, values, verb)

    def _seen(self, text: str, values: Any, verb: "_Verb", addresses: Mapping[str, AddressTable] | None = None) -> Any:
        """Runs one statement in the sight of the tables, and of what its quoted names may be."""
        if addresses is None:
            addresses = {name: AddressTable(name) for name in self._addresses()}
        # SQL does not tell Trades from trades, a Python variable's name does.
        spelled = {name.lower(): value for name, value in self._tables.items()}
        words = {token.name or token.text for token in tokens(text)}
        respelled = {word: spelled[word.lower()] for word in words if word.lower() in spelled}
        tables = {**addresses, **respelled, **self._tables}
        opened = [table for table in tables.values() if isinstance(table, AddressTable)]
        with self._explained(opened):
            result = self._seeing(tables, verb(self._connection, text, values))
        if isinstance(result, duckdb.DuckDBPyRelation):
            remember(result, [table for table in opened if table.is_read])
        return result

    def _seeing(self, tables: Mapping[str, Any], call: Callable[[], Any]) -> Any:
        # A frame of its own: DuckDB sees the variables of the Python code that calls it.
        return eval(f"{_CALL}()", dict(self._scope), {**tables, _CALL: call})

    def _addresses(self) -> list[str]:
        return [
            name
            for name in self._names
            if not is_left_to_duckdb(name) and name not in self._tables and name not in self._scope
        ]

    def _create(self, view: CreateView, text: str, values: Any, verb: "_Verb") -> Any:
        """Creates a view. DuckDB keeps the text of a view alone; one over addresses has to keep these too."""
        addresses = {name: AddressTable(name, live=True) for name in self._addresses()}
        relation = self._seen(view.body, values, _relation, addresses)
        used = {word.text.lower() for word in tokens(view.body)} & {name.lower() for name in self._tables}
        if not used and not any(table.is_read for table in addresses.values()):
            return self._seen(text, values, verb)
        name = view.name[-1]
        if len(view.name) > 1 and not view.is_temporary:
            raise QueryError(
                f"the view {'.'.join(view.name)} reads an address or a table of this process: make it in the current "
                f"schema (USE {view.name[0]} first), or make it temporary"
            )
        if not view.replaces and self._has(name):
            if not view.if_not_exists:
                raise QueryError(f"there is a table or view {name!r} already: CREATE OR REPLACE VIEW replaces it")
        elif view.is_temporary:
            self._connection.register(name, relation)
        else:
            with self._explained([]):
                relation.create_view(name, replace=view.replaces)
        return self._seen("select null::bigint as Count where false", None, verb)

    def _has(self, name: str) -> bool:
        """Whether the connection's catalog holds a table or view that is called so."""
        quoted = name.replace('"', '""')
        try:
            self._seeing({}, partial(self._connection.table, f'"{quoted}"'))
        except duckdb.CatalogException:
            return False
        return True

    def _explain(self, text: str, values: Any, verb: "_Verb") -> Any:
        """Runs EXPLAIN ANALYZE, and adds how much of each address it read: DuckDB does not know what it was spared."""
        addresses = {name: AddressTable(name) for name in self._addresses()}
        for table in addresses.values():
            table.scans = []
        with self._explained(addresses.values()):
            rows = self._seen(text, values, _relation, addresses).fetchall()
        for table in addresses.values():
            rows.extend(("address", report(table, *scan)) for scan in table.scans or ())
        keys, texts = zip(*rows, strict=True)
        explained = pa.table({"explain_key": keys, "explain_value": texts})
        script = _Script(self._connection, {"aljava_explained": explained}, translates=self._translates)
        return script._seen("from aljava_explained", None, verb)

    def _copy(self, copied: CopyTo, values: Any, verb: "_Verb") -> Any:
        unknown = set(copied.options) - {"format", "compression"}
        if unknown:
            raise QueryError(
                f"COPY to {copied.target!r} has the option {min(unknown)!r}: for Arrow there are FORMAT and COMPRESSION"
            )
        relation = self._seen(copied.body, values, _relation)
        with running(relation):
            written = api.write(relation, copied.target, compression=copied.options.get("compression", "auto"))
        return self._seen(f"select {written.rows}::bigint as Count", None, verb)

    @contextmanager
    def _explained(self, sources: Iterable[AddressTable]) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            for source in sources:
                if failure := source.failure:
                    raise failure from error
                if isinstance(error, duckdb.NotImplementedException) and source.is_read:
                    _check_types(source)
            if self._translates:
                raise translated(error) from error
            raise


#: A way to run one statement: from a connection, the statement and its parameters to a call without arguments. The
#: call is one of C, as every Python function would bring a frame of its own, and its variables.
_Verb = Callable[[duckdb.DuckDBPyConnection, str, Any], Callable[[], Any]]


def _relation(connection: duckdb.DuckDBPyConnection, text: str, values: Any, **options: Any) -> Callable[[], Any]:
    return partial(duckdb.DuckDBPyConnection.sql, connection, text, params=values, **options)


def _execution(connection: duckdb.DuckDBPyConnection, text: str, values: Any) -> Callable[[], Any]:
    return partial(duckdb.DuckDBPyConnection.execute, connection, text, values)


# The name under which a call stands in the frame that it is made from: no identifier of a query can be it by accident.
_CALL = "__aljava_call__"

_ARROW_SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")


def _is_for_aljava(copied: CopyTo) -> bool:
    if "format" in copied.options:
        return copied.options["format"].lower() in ("arrow", "ipc", "feather")
    return copied.target.lower().startswith("shm://") or copied.target.lower().endswith(_ARROW_SUFFIXES)


def _as_table(value: Any, connection: duckdb.DuckDBPyConnection) -> Any:
    """Something that DuckDB reads, as often as it likes, for what a user gave as a table."""
    if isinstance(value, str | Path | bytes | pa.Buffer | Payloads) or hasattr(value, "read"):
        return AddressTable(value)
    if isinstance(value, duckdb.DuckDBPyRelation):
        return value if _can_read(connection, value) else _Stream(value)
    if hasattr(value, "__arrow_c_stream__") or _takes_filters(value):
        return value
    return frames.to_table(value)


def _takes_filters(value: Any) -> bool:
    """Whether DuckDB pushes columns and filters into it."""
    return frames.is_of(value, "pyarrow.dataset", "Dataset", "Scanner") or frames.is_of(value, "polars", "LazyFrame")


def _can_read(connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation) -> bool:
    """Whether a relation belongs to the connection's database."""
    try:
        _Script(connection, {"it": relation}).run("from it", None)
    except QueryError:
        return False
    return True


class _Stream:
    """A relation of another database, run there each time it is read."""

    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        self._relation = relation
        self.schema = relation.limit(0).to_arrow_table().schema

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._relation.to_arrow_reader().__arrow_c_stream__(requested_schema)


def _check_types(table: AddressTable) -> None:
    """Raises UnsupportedType for the first column that DuckDB has no type for."""
    for field in table.schema:
        column = pa.schema([field]).empty_table()
        try:
            _Script(_database().cursor(), {"it": column}, translates=False).run("from it", None)
        except duckdb.NotImplementedException as error:
            raise UnsupportedType(
                f"column {field.name!r} of {table.address} is of type {field.type}, which DuckDB lacks. Give the table "
                f"by a keyword, without the column or with another type: sql(…, t=aljava.read({table.address!r}, "
                f"columns=[…])), or t=….cast(…) to {_nearest(field.type)}"
            ) from error


def _nearest(kind: pa.DataType) -> str:
    if pa.types.is_float16(kind):
        return "float32"
    if pa.types.is_decimal(kind):
        return f"decimal128(38, {kind.scale})"
    return "a type that it has"


class _Databases:
    """The database in the memory of this process; a forked child gets one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: duckdb.DuckDBPyConnection | None = None
        #: Those of the parent: their threads did not come along, so they must never be closed here.
        self._inherited: list[duckdb.DuckDBPyConnection] = []
        os.register_at_fork(after_in_child=self._start_anew)

    def current(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._current is None:
                # What does not fit in memory goes where temporary files go; DuckDB's own choice is the working folder.
                spill = os.path.join(tempfile.gettempdir(), f"aljava-duckdb-{os.getpid()}")
                self._current = duckdb.connect(config={"temp_directory": spill})
            return self._current

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        if self._current is not None:
            self._inherited.append(self._current)
        self._current = None


_database = _Databases().current
