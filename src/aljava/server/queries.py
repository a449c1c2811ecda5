"""SQL for clients: one reading statement, in a process that can reach nothing but the tables that are offered.

DuckDB's external access is off and its configuration locked, so files, extensions, other databases and the network are
out of reach whatever the statement says. A statement can still ask for any amount of memory in one step that DuckDB
does not count or interrupt (`repeat('x', 1000000000)`). So it runs in a process of its own, whose memory the system
limits, and which is killed when its time is over.
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from aljava import errors, ipc
from aljava.errors import AccessDenied, AljavaError, NotFound, QueryError
from aljava.server.catalogue import Catalogue
from aljava.server.settings import Limits
from aljava.statements import quoted_names, tokens
from aljava.streams.channels import DescriptorChannel
from aljava.streams.receiving import receive
from aljava.streams.sending import send

_LONGEST = 100_000
_BATCH_ROWS = 65_536
# What Python, pyarrow and DuckDB take before a query begins, their threads' stacks included.
_BASELINE = 512 << 20


def run(query: str, addresses: Sequence[str], limits: Limits) -> pa.RecordBatchReader:
    """The rows of a query over the tables behind some addresses, by the names that a `Catalogue` gives them.

    Args:
        query: one SELECT statement; a table whose name holds a `/` stands in double quotes.
        addresses: as `Catalogue` takes them.
        limits: seconds and bytes that it may use.

    Raises:
        AccessDenied: it does something else than read tables that are offered.
        QueryError: it cannot be parsed, bound or run, takes too long or too much memory. While rows are read too.
    """
    if len(query) > _LONGEST:
        raise QueryError(f"a query has at most {_LONGEST:,} characters; this one has {len(query):,}")
    work = _Work(query, addresses, limits)
    try:
        reader = receive(DescriptorChannel(work.descriptor, "the query", owned=False))
    except AljavaError as error:
        raise work.failure() from error
    return pa.RecordBatchReader.from_batches(reader.schema, _Rows(reader, work))


class _Work:
    """The process that runs a query."""

    def __init__(self, query: str, addresses: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aljava.server.queries"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.descriptor = self._process.stdout.fileno()
        self._end = time.monotonic() + limits.sql_seconds
        self._timer = threading.Timer(limits.sql_seconds, self._process.kill)
        self._timer.daemon = True
        self._timer.start()
        self.close = weakref.finalize(self, _end, self._process, self._timer)
        task = {"query": query, "addresses": list(addresses), "bytes": limits.sql_bytes}
        self._process.stdin.write(json.dumps(task).encode())
        self._process.stdin.close()

    def failure(self) -> AljavaError:
        """Why it came to no good end."""
        if time.monotonic() >= self._end:
            self.close()
            return QueryError(f"the query took more than {self._limits.sql_seconds:g} seconds")
        assert self._process.stderr is not None
        text = self._process.stderr.read().decode("utf-8", "replace")
        self.close()
        try:
            found = json.loads(text.strip().rpartition("\n")[2])
            kind = {"AccessDenied": AccessDenied}.get(found["kind"], QueryError)
            return kind(found["message"])
        except (ValueError, KeyError, TypeError):
            return QueryError(
                f"the query took more than the {self._limits.sql_bytes:,} bytes of memory that it may use"
            )


def _end(process: subprocess.Popen[bytes], timer: threading.Timer) -> None:
    timer.cancel()
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


class _Rows:
    """The rows as they come; the process ends with them."""

    def __init__(self, reader: pa.RecordBatchReader, work: _Work) -> None:
        self._reader, self._work = reader, work

    def __iter__(self) -> "_Rows":
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return self._reader.read_next_batch()
        except StopIteration:
            self._work.close()
            raise
        except AljavaError as error:
            raise self._work.failure() from error


def _main() -> None:
    """Runs the query that standard input tells of, and sends its rows to standard output."""
    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_DATA, (_BASELINE + task["bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        reader = _rows(task["query"], Catalogue(task["addresses"]), task["bytes"])
        channel = DescriptorChannel(1, "the server", owned=False)
        send(channel, reader.schema, reader, ipc.WriteOptions(compression="none"))
    except errors.TransferError:
        sys.exit(1)  # nobody wants the rows any more
    except (duckdb.PermissionException, AccessDenied) as error:
        _fail("AccessDenied", str(error))
    except (duckdb.Error, pa.ArrowException, AljavaError) as error:
        _fail("QueryError", str(error))
    except MemoryError:
        _fail("QueryError", f"the query took more than the {task['bytes']:,} bytes of memory that it may use")


def _fail(kind: str, message: str) -> None:
    sys.stderr.write("\n" + json.dumps({"kind": kind, "message": message}))
    sys.stderr.flush()
    os._exit(1)


def _rows(query: str, catalogue: Catalogue, size: int) -> Any:
    connection = duckdb.connect(
        config={
            "enable_external_access": "false",
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "memory_limit": f"{size}B",
            "temp_directory": "",
            "threads": "2",
        }
    )
    connection.execute("SET python_enable_replacements = false")
    statements = connection.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise AccessDenied("one SELECT statement is taken, and nothing else")
    for name in _named(query):
        try:
            connection.register(name, catalogue.open(name).to_reader())
        except NotFound:
            continue  # a column, a function, a name that the query defines; DuckDB says so if it is none
    connection.execute("SET lock_configuration = true")
    return connection.sql(statements[0].query).to_arrow_reader(_BATCH_ROWS)


def _named(query: str) -> set[str]:
    return quoted_names(query) | {token.text for token in tokens(query) if token.text.isidentifier()}


if __name__ == "__main__":
    _main()
