"""`aljava compare`: which codec to choose for a table, measured on it."""

import json
import sys

import typer

from aljava.cli import complete
from aljava.cli.output import console, must_take_a_file, printable, status, write_page


def command(
    data: str = typer.Argument(
        help="Arrow IPC, Feather, Parquet, CSV or JSON lines, or shm://STORE/KEY.", autocompletion=complete.address
    ),
    *,
    goal: str = typer.Option(
        "balanced", help="What to choose for: speed, size or balanced.", autocompletion=complete.goal
    ),
    codecs: list[str] | None = typer.Option(
        None,
        "--codec",
        help="What to measure, such as lz4 or zstd:5; once for each. By default the usual ones.",
        autocompletion=complete.codec,
    ),
    formats: bool = typer.Option(False, "--formats", help="Measure Parquet with zstd and pickle too."),
    repeat: int = typer.Option(3, help="Runs of each codec; the median counts."),
    sample: int | None = typer.Option(None, help="Rows to measure; by default as many as 128 MiB hold."),
    html: str | None = typer.Option(None, metavar="FILE", help="Write the comparison as a page too."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object and nothing else."),
) -> None:
    """Measure codecs on a table, on this machine, and say which to choose.

    Example: aljava compare trades.parquet --formats
    """
    from rich.markup import escape

    from aljava import charts
    from aljava.comparison import compare, shown

    if html:
        must_take_a_file(html)
    with status() as show:
        comparison = compare(
            data,
            codecs=codecs or None,
            repeat=repeat,
            sample=sample,
            goal=goal,
            formats=formats,
            progress=lambda what: show(f"{what} {data}" if what == "Reading" else what),
        )
    if html:
        write_page(html, comparison.to_html())
    if as_json:
        sys.stdout.write(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n")
        return
    out = console()
    columns = comparison.measured[0].columns
    out.print(
        f"[bold]{escape(printable(data))}[/]  [dim]{comparison.total_rows:,} rows, {columns:,} columns; measured: "
        f"{comparison.rows:,} rows, {charts.size(comparison.bytes)} in memory[/]\n"
    )
    out.print(shown.terminal_bars(comparison))
    if comparison.rows:
        out.print()
        out.print(shown.terminal_scatter(comparison))
        if (by_column := shown.terminal_columns(comparison)) is not None:
            out.print("\n[dim]by column: bytes in the file of those in memory[/]")
            out.print(by_column)
    out.print()
    for note in comparison.notes:
        out.print(f"[dim]{escape(note)}[/]")
    out.print(f"[bold]{escape(comparison.advice)}[/]")
    for sentence in shown.other_advice(comparison):
        out.print(f"[dim]{escape(sentence)}[/]")
    if html:
        out.print(f"The page: {escape(html)}", soft_wrap=True)
