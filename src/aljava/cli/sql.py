"""`aljava sql`: a query over addresses, its rows on the terminal or at another address; without a query, a shell."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import Any

import typer

from aljava.cli.moving import done
from aljava.cli.output import console, count, pandas_is_not_needed, printable
from aljava.errors import InvalidOption, TransferError

#: Seconds after which a query is long enough to show how far it is.
PATIENCE = 1.0


class Output(StrEnum):
    """How rows are shown."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    ARROW = "arrow"


def command(
    query: str | None = typer.Argument(None, help="SQL in DuckDB's dialect; addresses in quotes. “-” reads it."),
    output: str | None = typer.Option(
        None, "-o", "--output", metavar="ADDRESS", help="Write the rows there, in bounded memory."
    ),
    format: Output | None = typer.Option(
        None, "--format", help="How to write the rows; by the address, or a table on the terminal, if not given."
    ),
) -> None:
    """Ask with SQL: files, folders, shared memory, other machines.

    The table [bold]stdin[/] is what comes in: [dim]cat x.arrow | aljava sql "select count(*) from stdin"[/].
    Without a query, it is read from standard input; at a terminal, a shell opens.

    Example: aljava sql "select day, sum(price) from 'trades/*.arrow' group by day" -o days.parquet
    """
    pandas_is_not_needed()
    if query is None and sys.stdin.isatty():
        if output or format:
            raise InvalidOption("--output and --format are for a query: give one")
        from aljava.cli.shell import Shell

        Shell().run()
        return
    tables: dict[str, Any] = {}
    if query is None or query == "-":
        query = sys.stdin.read()
    elif not sys.stdin.isatty() and _names_stdin(query):
        tables = {"stdin": sys.stdin.buffer}
    from aljava.queries import sql

    with connected() as connection:
        relation = watched(connection, lambda: sql(query, connection=connection, **tables))
        watched(connection, lambda: put(relation, connection, output, format))


@contextmanager
def connected() -> Iterator[Any]:
    """A connection to a database of its own in memory, which says how far its queries are."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = true")
        connection.execute("set enable_progress_bar_print = false")
        yield connection


def put(relation: Any, connection: Any, output: str | None, format: Output | None) -> None:
    """Puts the rows of a relation where they are wanted.

    Args:
        relation: the result of a query.
        connection: where it runs.
        output: an address, or None for standard output.
        format: how; by default what the address says, or a table.
    """
    from aljava.api import write
    from aljava.relations import running
    from aljava.scan import is_left_to_duckdb

    with running(relation):
        if output is None and format in (None, Output.TABLE):
            show(relation, connection)
        elif output is None and format is Output.ARROW:
            write(relation, sys.stdout.buffer, compression="none")
        elif output is None:
            _stream(relation, connection, format)
        elif format is Output.TABLE:
            raise InvalidOption("--format table is for the terminal: with --output give csv, json or arrow")
        elif format is Output.ARROW or (format is None and not is_left_to_duckdb(output)):
            written = write(relation, output)
            done(output, written.rows, written.bytes)
        else:
            rows = _copy(relation, connection, output, format)
            print(f"{printable(output)}: {count(rows, 'row')}", file=sys.stderr)


def show(relation: Any, connection: Any) -> None:
    """Shows the rows of a relation as a table: as wide as the terminal, or in a pipe as wide as it is."""
    from aljava.cli.grid import grid, rendered
    from aljava.relations import to_reader

    out = console(wide=True)
    shown = grid(partial(to_reader, relation), connection, out.width)
    if shown.names in (["Count"], ["Success"]) and not shown.rows:
        return  # a statement without rows, such as CREATE VIEW
    out.print(rendered(shown, out.width))
    out.print(shown.summary, style="dim")


def watched(connection: Any, work: Callable[[], Any]) -> Any:
    """Runs a query's work, shows how far it is, and lets control-C interrupt it.

    Args:
        connection: where the query runs.
        work: runs it, to the end.

    Returns:
        what `work` returns.

    Raises:
        KeyboardInterrupt: control-C was pressed; the query has come to its end.
    """
    outcome: list[Any] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again below, on the caller's thread
            failures.append(error)
        finally:
            done.set()

    # Python handles control-C on the main thread, which must not be inside DuckDB then.
    thread = threading.Thread(target=run, name="query", daemon=True)
    thread.start()
    try:
        if not done.wait(PATIENCE) and sys.stderr.isatty():
            _show_progress(connection, done)
        done.wait()
    except KeyboardInterrupt:
        # Once more and again, since an interrupt that comes between two steps of a query is lost.
        while not done.wait(0.05):
            connection.interrupt()
        raise
    finally:
        thread.join()
    if failures:
        raise failures[0]
    return outcome[0]


def _show_progress(connection: Any, done: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn

    columns = BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        while not done.wait(0.1):
            # DuckDB knows how far it is in its own files and tables, and not in what comes as a stream.
            percent = connection.query_progress()
            if percent > 0:
                bar.update(task, total=100, completed=percent)


def _copy(relation: Any, connection: Any, target: str, format: Output | None) -> int:
    """Lets DuckDB write the rows: CSV, JSON or Parquet."""
    from aljava.queries import sql

    options = {
        Output.CSV: "(format csv, header true)",
        Output.JSON: "(format json, array true)",
        None: "(format json)" if target.lower().endswith((".json", ".jsonl", ".ndjson")) else "",
    }[format]
    quoted = target.replace("'", "''")
    copied = sql(f"copy aljava_result to '{quoted}' {options}", connection=connection, aljava_result=relation)
    return int(copied.fetchall()[0][0])


def _stream(relation: Any, connection: Any, format: Output | None) -> None:
    """Lets DuckDB write the rows to standard output.

    Through a pipe, since opening `/dev/stdout` would begin a file anew that a shell has opened to append to.
    """
    reading, writing = os.pipe()
    broken: list[OSError] = []

    def forward() -> None:
        with open(reading, "rb") as source:
            try:
                shutil.copyfileobj(source, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            except OSError as error:
                broken.append(error)

    thread = threading.Thread(target=forward, name="output", daemon=True)
    thread.start()
    try:
        _copy(relation, connection, f"/dev/fd/{writing}", format)
    except TransferError:
        if not broken:
            raise
    finally:
        os.close(writing)
        thread.join()
    if broken:
        raise broken[0]


def _names_stdin(query: str) -> bool:
    from aljava.statements import tokens

    return any(token.is_word("stdin") for token in tokens(query))
