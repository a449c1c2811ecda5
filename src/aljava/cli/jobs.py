"""Commands that work on many files: convert, stats; and verify and repair where they are given many."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import typer

from aljava.cli import complete
from aljava.cli.output import console, count, names, printable
from aljava.errors import InvalidOption

if TYPE_CHECKING:
    from aljava.jobs import Progress, Result

#: Files that `stats` lists; of more, the columns of all of them are what is looked for.
FILES_SHOWN = 40
_OVER_ALL: dict[str, Callable[[list[Any]], Any]] = {"min": min, "max": max, "nulls": sum}
SOURCES = "Folders, globs, files, s3://BUCKET/FOLDER and its like"
ON: str = typer.Option(
    "processes",
    "--on",
    metavar="ENGINE",
    help="threads, processes, dask, dask://HOST:8786, ray or ray://HOST:10001.",
    autocompletion=complete.engine,
)
WORKERS: int | None = typer.Option(None, min=1, help="How many, of those started here; else one for each processor.")
MANIFEST: str | None = typer.Option(
    None, metavar="FILE", help="Keep there what was found; started again, only what is missing or changed is done."
)
JSON: bool = typer.Option(False, "--json", help="Print one JSON object.")


def convert(
    sources: list[str] = typer.Argument(
        help=SOURCES + "; and last the folder that the outputs go to.", metavar="SOURCES... TARGET"
    ),
    *,
    to: str = typer.Option(
        "arrow", "--to", metavar="FORMAT", help="arrow, parquet, csv, tsv or json.", autocompletion=complete.format
    ),
    compression: str | None = typer.Option(
        None,
        help="auto, none, lz4, zstd or zstd:LEVEL. Of Parquet: zstd, snappy, gzip, none.",
        autocompletion=complete.codec,
    ),
    columns: str | None = complete.COLUMNS,
    where: str | None = typer.Option(None, "-w", "--where", help="A condition in SQL."),
    source_format: str | None = typer.Option(
        None, "--from", metavar="FORMAT", help="Where names do not say it.", autocompletion=complete.format
    ),
    on: str = ON,
    workers: int | None = WORKERS,
    as_json: bool = JSON,
) -> None:
    """Convert many files: Parquet, CSV, JSON lines, Feather and Arrow IPC, into Arrow IPC or another format.

    Each output appears whole or not at all. TARGET/_manifest.arrow says what became of each file.

    Started again, the same command does what is missing or has changed. Exit status 1 if a file failed.

    Examples:
      aljava convert exports/ arrow/
      aljava convert 'exports/**/*.csv.gz' s3://lake/arrow --compression zstd:9
      aljava convert arrow/ parquet/ --to parquet --on dask://scheduler:8786
    """
    from aljava import jobs

    if len(sources) < 2:
        raise InvalidOption("convert takes at least one source and the folder that the outputs go to")
    *found, target = sources
    with bar("convert") as progress, jobs.executor_for(on, workers) as executor:
        result = jobs.convert(
            found,
            target,
            format=to,
            compression=compression,
            columns=names(columns),
            where=where,
            source_format=source_format,
            executor=executor,
            progress=progress,
        )
    report(result, as_json)


def compact(
    sources: list[str] = typer.Argument(
        help=SOURCES + "; and last the folder that the outputs go to.", metavar="SOURCES... TARGET"
    ),
    *,
    size: str = typer.Option("256MB", metavar="SIZE", help="Of an output, about: 64MB, 1GB, or bytes."),
    sort_by: str | None = typer.Option(
        None,
        "--sort-by",
        metavar="COLUMNS",
        help="Sort by them, separated by commas; done in this process unless --on says otherwise.",
        autocompletion=complete.columns,
    ),
    compression: str = typer.Option("auto", help="auto, none, lz4, zstd or zstd:LEVEL.", autocompletion=complete.codec),
    memory: str = typer.Option("2GiB", metavar="SIZE", help="To sort in; what needs more goes to disk."),
    on: str | None = typer.Option(
        None,
        "--on",
        metavar="ENGINE",
        help="threads, processes, dask, dask://HOST:8786, ray or ray://HOST:10001; by default processes.",
        autocompletion=complete.engine,
    ),
    workers: int | None = WORKERS,
    as_json: bool = JSON,
) -> None:
    """Make few large files of many small ones, of any format: Arrow IPC with zones and checksums.

    Rows keep the order of their files; or they are sorted, so that zones separate and a filter reads little.

    Hive partitions stay apart. Sources stay. What is damaged is left out and named; exit status 1 then.

    TARGET belongs to the job: started again, it follows what has changed, and no row is there twice.

    Examples:
      aljava compact landing/ lake/ --size 256MB
      aljava compact 's3://bucket/events/**/*.arrow' s3://bucket/compacted --sort-by day,id
      aljava compact landing/ lake/ --on dask://scheduler:8786
    """
    from aljava import jobs

    if len(sources) < 2:
        raise InvalidOption("compact takes at least one source and the folder that the outputs go to")
    *found, target = sources
    with ExitStack() as stack:
        progress = stack.enter_context(bar("compact"))
        by = names(sort_by)
        on = on or ("processes" if workers or not by else None)
        executor = stack.enter_context(jobs.executor_for(on, workers)) if on else None
        result = jobs.compact(
            found,
            target,
            size=bytes_of(size),
            sort_by=by,
            compression=compression,
            memory=bytes_of(memory),
            executor=executor,
            progress=progress,
        )
    report(result, as_json)


def stats(
    sources: list[str] = typer.Argument(help=SOURCES + "."),
    *,
    manifest: str | None = MANIFEST,
    on: str = ON,
    workers: int | None = WORKERS,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each file."),
) -> None:
    """Say what many files hold: rows, batches, columns, least and greatest values. The data is not read.

    Example: aljava stats 'arrow/**/*.arrow' --on threads
    """
    from aljava import jobs

    with bar("stats") as progress, jobs.executor_for(on, workers) as executor:
        result = jobs.stats(sources, manifest=manifest, executor=executor, progress=progress)
    rows = [
        {**{key: row[key] for key in ("source", "rows", "bytes")}, **json.loads(row["details"])}
        for row in result.table.sort_by("source").to_pylist()
        if row["status"] == "done"
    ]
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        _end(result)
        return
    out = console(wide=True)
    if 0 < len(rows) <= FILES_SHOWN:
        out.print(_files(rows))
    if rows:
        out.print(_columns(rows))
    schemas = len({json.dumps(row["schema"], sort_keys=True) for row in rows})
    total = ", ".join((count(len(rows), "file"), count(sum(row["rows"] for row in rows), "row")))
    out.print(f"{total}, {count(schemas, 'schema')}", soft_wrap=True)
    report(result, False, summary=False)


def bytes_of(text: str) -> int:
    """A size as it is said: bytes, or a number of kB, MB, GB, TB, KiB, MiB, GiB, TiB.

    Raises:
        InvalidOption: it is no size.

    Examples:
        >>> bytes_of("256MB"), bytes_of("1.5 GiB"), bytes_of("4096")
        (256000000, 1610612736, 4096)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", text, re.IGNORECASE)
    if found is None:
        raise InvalidOption(f"{text!r} is no size: give bytes, or a number with kB, MB, GB, KiB, MiB or GiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" kmgt".index(unit.lower()) if unit else 0))


def report(result: "Result", as_json: bool, *, summary: bool = True) -> None:
    """Says what a job did, names what failed, and ends with exit status 1 where something did.

    Args:
        result: of the job.
        as_json: print one JSON object.
        summary: whether the line that sums it up is printed, beside the failures.
    """
    from rich.markup import escape

    from aljava.jobs.result import SHOWN

    if as_json:
        facts = {key: getattr(result, key) for key in ("kind", "done", "kept", "failed", "rows", "bytes_read", "bytes")}
        failures = result.failures.select(["source", "reason"]).to_pylist() if result.failed else []
        print(
            json.dumps(
                {
                    "ok": result.ok,
                    **facts,
                    "seconds": result.seconds,
                    "manifest": result.manifest,
                    "failures": failures,
                },
                ensure_ascii=False,
            )
        )
        _end(result)
        return
    out = console(wide=True)
    if result.failed:
        for row in result.failures.sort_by("source").slice(0, SHOWN).to_pylist():
            source, reason = (escape(printable(row[key])) for key in ("source", "reason"))
            out.print(
                f"[red]failed[/] {source}\n       [dim]{reason.removeprefix(source).lstrip(': ')}[/]", soft_wrap=True
            )
        if result.failed > SHOWN:
            kept = f": aljava sql \"from '{result.manifest}' where status = 'failed'\"" if result.manifest else ""
            out.print(f"[red]and {result.failed - SHOWN:,} more{escape(printable(kept))}[/]", soft_wrap=True)
    if summary:
        out.print(escape(result.summary()), soft_wrap=True)
    _end(result)


def _end(result: "Result") -> None:
    if not result.ok:
        raise typer.Exit(1)


@contextmanager
def bar(kind: str) -> Iterator["Callable[[Progress], None]"]:
    """A progress bar on a terminal: files, bytes, how long the rest will take; and a word after control-C."""
    from aljava import charts

    last: list[Progress] = []

    def note(progress: "Progress") -> None:
        last[:] = [progress]

    try:
        if not sys.stderr.isatty():
            yield note
            return
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        parts = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
        with Bar(*parts, console=Console(stderr=True), transient=True) as shown:
            task = shown.add_task(kind, total=None, said="looking for files")

            def tell(progress: "Progress") -> None:
                note(progress)
                more = "" if progress.listed else "+"
                said = f"{progress.files:,} of {progress.files_listed:,}{more} files"
                if progress.bytes_listed:
                    said += f", {charts.size(progress.bytes)} of {charts.size(progress.bytes_listed)}{more}"
                if progress.failed:
                    said += f", [red]{progress.failed:,} failed[/]"
                if progress.remaining:
                    said += f", {_duration(progress.remaining)} left"
                by_bytes = progress.bytes_listed > 0
                shown.update(
                    task,
                    completed=progress.bytes if by_bytes else progress.files,
                    total=(progress.bytes_listed if by_bytes else progress.files_listed) if progress.listed else None,
                    said=said,
                )

            yield tell
    except KeyboardInterrupt:
        if last:
            print(
                f"aljava: interrupted: {last[0].files:,} of {last[0].files_listed:,} files are through. "
                "The same command goes on with the rest",
                file=sys.stderr,
            )
        raise


def _duration(seconds: float) -> str:
    """A time in words.

    Examples:
        >>> _duration(59.4), _duration(61), _duration(7500)
        ('59 s', '1 min 01 s', '2 h 05 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _files(rows: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.ROUNDED, header_style="bold")
    for name in ("file", "format", "rows", "batches", "columns", "bytes"):
        table.add_column(name, justify="left" if name in ("file", "format") else "right", overflow="fold")
    sources = [row["source"] for row in rows]
    common = os.path.commonpath(sources) + "/" if len(sources) > 1 and len({"://" in it for it in sources}) == 1 else ""
    for row in rows:
        table.add_row(
            escape(printable(row["source"].removeprefix(common))),
            row["format"],
            *(f"{figure:,}" for figure in (row["rows"], row["batches"], len(row["schema"]), row["bytes"])),
        )
    return table


def _columns(rows: list[dict[str, Any]]) -> Any:
    """The columns of all files, with the least and the greatest of what their statistics say."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.ROUNDED, header_style="bold")
    for name in ("column", "type", "files", "min", "max", "nulls"):
        table.add_column(name, justify="left" if name in ("column", "type") else "right", overflow="fold")
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        for name, kind in row["schema"].items():
            found.setdefault((name, kind), []).append(row["columns"].get(name, {}))
    for (name, kind), said in found.items():
        cells = [str(len(said))]
        for bound, choose in _OVER_ALL.items():
            values: list[Any] = [one.get(bound) for one in said]
            # What one file does not say, nobody knows of all; a decimal is a text here, whose order is another.
            known = None not in values and (bound == "nulls" or not kind.startswith("decimal"))
            cells.append(escape(printable(str(choose(values)))) if known else "")
        table.add_row(escape(printable(name)), escape(printable(kind)), *cells)
    return table
