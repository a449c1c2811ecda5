"""Commands that move tables: copy, append, concat."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from aljava.cli import complete
from aljava.cli.output import count, names, printable
from aljava.errors import InvalidOption
from aljava.frames import Progress

_SOURCE = "An address: Arrow IPC, Feather or Parquet; CSV or JSON lines by the name (.gz too)."

_COMPRESSION = "auto, none, lz4, zstd or zstd:LEVEL."
_FORMAT = "arrow, parquet, csv, tsv or json, where the name does not say it."


def copy(
    source: str = typer.Argument(help=_SOURCE, autocompletion=complete.address),
    target: str = typer.Argument(
        help="An address; .parquet, .csv, .tsv, .jsonl by its name, else Arrow IPC.", autocompletion=complete.address
    ),
    *,
    columns: str | None = complete.COLUMNS,
    where: str | None = typer.Option(None, "-w", "--where", help="A condition in SQL."),
    compression: str | None = typer.Option(
        None, help=_COMPRESSION + " Of Parquet: zstd, snappy, gzip, none.", autocompletion=complete.codec
    ),
    source_format: str | None = typer.Option(None, "--from", metavar="FORMAT", help=_FORMAT),
    target_format: str | None = typer.Option(None, "--to", metavar="FORMAT", help=_FORMAT),
) -> None:
    """Copy a table to another place, in another format, or a part of it. It streams: memory stays small.

    Examples:
      aljava copy sales.csv.gz sales.arrow --where "price > 10"
      aljava copy 'sales/*.parquet' shm://desk/sales
      gunzip -c sales.csv.gz | aljava copy - sales.arrow --from csv
    """
    from aljava.copying import copy as copy_rows

    with bar(source, target) as progress:
        written = copy_rows(
            source,
            target,
            columns=names(columns),
            where=where,
            compression=compression,
            source_format=source_format,
            target_format=target_format,
            progress=progress,
        )
    done(target, written.rows, written.bytes)


def append(
    data: str = typer.Argument(help=_SOURCE, autocompletion=complete.address),
    target: str = typer.Argument(help="The file that grows.", autocompletion=complete.address),
    compression: str = typer.Option("auto", help=_COMPRESSION, autocompletion=complete.codec),
    source_format: str | None = typer.Option(None, "--from", metavar="FORMAT", help=_FORMAT),
    *,
    durable: bool = typer.Option(False, "--durable", help="Wait until it would survive a loss of power."),
) -> None:
    """Add rows to a file; it costs what is added.

    Example: aljava append monday.csv week.arrow
    """
    from aljava.api import append as append_rows
    from aljava.copying import source_of

    with bar(data, target) as progress:
        rows = source_of(data, format=source_format)
        written = append_rows(rows, target, compression=compression, durable=durable, progress=progress)
    done(target, written.rows, written.bytes)


def concat(
    sources: list[str] = typer.Argument(
        help="The files, in order, and last where they go.", autocompletion=complete.address
    ),
    compression: str | None = typer.Option(None, help=_COMPRESSION, autocompletion=complete.codec),
) -> None:
    """Put files of one schema behind each other into one, in the format of its name.

    Example: aljava concat monday.arrow tuesday.arrow week.arrow
    """
    from aljava.copying import copy as copy_rows

    if len(sources) < 2:
        raise InvalidOption("concat takes at least one file and the address where it goes")
    *parts, target = sources
    with bar(target, target) as progress:
        written = copy_rows(parts, target, compression=compression, progress=progress)
    done(target, written.rows, written.bytes)


@contextmanager
def bar(title: str, target: str) -> Iterator[Progress | None]:
    """A progress bar on a terminal; nothing where nobody watches, or where the rows themselves go to the terminal."""
    if not sys.stderr.isatty() or (target == "-" and sys.stdout.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    parts = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:,.0f} rows"),
        TimeElapsedColumn(),
    )
    with Bar(*parts, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(printable(title), total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def done(target: str, rows: int, size: int) -> None:
    """Says what was written, where it is in nobody's way."""
    print(f"{printable(target)}: {count(rows, 'row')}, {size:,} bytes", file=sys.stderr)
