"""Commands that move tables: copy, append, concat."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from aljava.cli.files import names
from aljava.errors import InvalidOption
from aljava.frames import Progress


def copy(
    source: str = typer.Argument(help="An address: Arrow IPC, Feather, Parquet, CSV or JSON lines."),
    target: str = typer.Argument(help="An address; .parquet, .csv, .jsonl by its name, else Arrow IPC."),
    columns: str | None = typer.Option(None, "-c", "--columns", help="Names, separated by commas."),
    where: str | None = typer.Option(None, "-w", "--where", help="A condition in SQL."),
    compression: str | None = typer.Option(None, help="auto, none, lz4, zstd or zstd:LEVEL."),
) -> None:
    """Copy a table to another place, in another format, or a part of it. It streams: memory stays small.

    Example: aljava copy sales.csv sales.arrow --where "price > 10"
    """
    from aljava.copying import copy as copy_rows

    with bar(source) as progress:
        written = copy_rows(
            source, target, columns=names(columns), where=where, compression=compression, progress=progress
        )
    _done(target, written.rows, written.bytes)


def append(
    data: str = typer.Argument(help="What to add: Arrow IPC, Feather, Parquet, CSV or JSON lines."),
    target: str = typer.Argument(help="The file that grows."),
    compression: str = typer.Option("auto", help="auto, none, lz4, zstd or zstd:LEVEL."),
    *,
    durable: bool = typer.Option(False, help="Wait until it would survive a loss of power."),
) -> None:
    """Add rows to a file; it costs what is added.

    Example: aljava append monday.csv week.arrow
    """
    from aljava.api import append as append_rows
    from aljava.copying import source_of

    with bar(data) as progress:
        written = append_rows(source_of(data), target, compression=compression, durable=durable, progress=progress)
    _done(target, written.rows, written.bytes)


def concat(
    sources: list[str] = typer.Argument(help="The files, in order, and last where they go."),
    compression: str = typer.Option("auto", help="auto, none, lz4, zstd or zstd:LEVEL."),
) -> None:
    """Put files of one schema behind each other into one.

    Example: aljava concat monday.arrow tuesday.arrow week.arrow
    """
    from aljava.api import open, write

    if len(sources) < 2:
        raise InvalidOption("concat takes at least one file and the address where it goes")
    *parts, target = sources
    with bar(target) as progress:
        written = write(open(parts).to_reader(), target, compression=compression, progress=progress)
    _done(target, written.rows, written.bytes)


@contextmanager
def bar(title: str) -> Iterator[Progress | None]:
    """A progress bar on a terminal; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    parts = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Bar(*parts, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _done(target: str, rows: int, size: int) -> None:
    print(f"{target}: {rows:,} rows, {size:,} bytes", file=sys.stderr)
