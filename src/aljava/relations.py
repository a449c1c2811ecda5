"""DuckDB's relations as they run: their rows, and what goes wrong on the way.

A relation runs when it is asked for its rows. What goes wrong then comes as an error of DuckDB, or of pyarrow where the
rows come as a stream; an address that is damaged in its midst too, as a text. The relations of `aljava.sql` are
remembered with the addresses that they read, so that the error itself can be raised.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import duckdb
import pyarrow as pa

from aljava.errors import AccessDenied, AljavaError, QueryError, TransferError


class Source(Protocol):
    """What a relation reads."""

    @property
    def failure(self) -> AljavaError | None:
        """The last error that was met in it."""


_READ: weakref.WeakKeyDictionary[duckdb.DuckDBPyRelation, Sequence[Source]] = weakref.WeakKeyDictionary()


def remember(relation: duckdb.DuckDBPyRelation, sources: Sequence[Source]) -> None:
    """Remembers what a relation reads, for as long as there is the relation."""
    _READ[relation] = sources


def to_reader(relation: duckdb.DuckDBPyRelation) -> pa.RecordBatchReader:
    """The rows of a relation, which runs now, batch by batch.

    Raises:
        QueryError: the query cannot be run; also from the reader.
        InvalidData: an address that it reads is damaged; also from the reader.

    Example:
        >>> to_reader(duckdb.sql("select 42 as answer")).read_all().to_pydict()
        {'answer': [42]}
    """
    with running(relation):
        reader = relation.to_arrow_reader()

    def batches() -> Iterator[pa.RecordBatch]:
        with running(relation):
            yield from reader

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


@contextmanager
def running(relation: duckdb.DuckDBPyRelation) -> Iterator[None]:
    """Turns what goes wrong while the rows of a relation are read into Aljava's errors.

    Example:
        >>> relation = duckdb.sql("select 'x'::int as number from range(3)")
        >>> with running(relation):
        ...     relation.fetchall()
        Traceback (most recent call last):
        ...
        aljava.errors.QueryError: Conversion Error: Could not convert string 'x' to INT32...
    """
    try:
        yield
    except AljavaError:
        raise
    except duckdb.Error as error:
        raise _failure(relation) or translated(error) from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise _failure(relation) or QueryError(str(error)) from error


def _failure(relation: duckdb.DuckDBPyRelation) -> AljavaError | None:
    failures = (source.failure for source in _READ.get(relation, ()))
    return next((failure for failure in failures if failure), None)


def translated(error: duckdb.Error) -> Exception:
    """Aljava's error for one of DuckDB's, with DuckDB's message and its position in the query.

    Example:
        >>> try:
        ...     duckdb.sql("selec 1")
        ... except duckdb.Error as error:
        ...     print(translated(error))
        Parser Error: syntax error at or near "selec"
        <BLANKLINE>
        LINE 1: selec 1
                ^^^^^
    """
    if isinstance(error, duckdb.InterruptException):
        return error
    if isinstance(error, duckdb.PermissionException):
        return AccessDenied(str(error))
    if isinstance(error, duckdb.IOException | duckdb.HTTPException):
        return TransferError(str(error))
    return QueryError(str(error))
