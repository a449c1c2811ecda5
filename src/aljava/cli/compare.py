"""`aljava compare`: which codec to choose for a table, measured on it."""

import typer

from aljava.cli.output import console, must_take_a_file, status, write_page


def command(
    data: str = typer.Argument(help="Arrow IPC, Feather, Parquet, CSV or JSON lines, or shm://STORE/KEY."),
    *,
    goal: str = typer.Option("balanced", help="What to choose for: speed, size or balanced."),
    codecs: list[str] | None = typer.Option(
        None, "--codec", help="What to measure, such as lz4 or zstd:5; once for each. By default the usual ones."
    ),
    repeat: int = typer.Option(3, help="Runs of each codec; the median counts."),
    sample: int | None = typer.Option(None, help="Rows to measure; by default as many as 256 MiB hold."),
    html: str | None = typer.Option(None, metavar="FILE", help="Write the comparison as a page too."),
) -> None:
    """Measure codecs on a table, on this machine, and say which to choose."""
    from rich.markup import escape

    from aljava import charts
    from aljava.comparison import compare
    from aljava.tour import load

    if html:
        must_take_a_file(html)
    with status() as show:
        show(f"Reading {data}")
        table = load(data).table
        show("Measuring")
        comparison = compare(table, codecs=codecs or None, repeat=repeat, sample=sample, goal=goal)
    if html:
        write_page(html, comparison.to_html())
    out = console()
    out.print(
        f"[bold]{escape(data)}[/]  [dim]{comparison.total_rows:,} rows, {table.num_columns} columns, "
        f"{charts.size(table.nbytes)} in memory[/]\n"
    )
    out.print(charts.terminal_bars(comparison))
    out.print()
    if comparison.note:
        out.print(f"[dim]{comparison.note}[/]")
    out.print(escape(comparison.advice))
    if html:
        out.print(f"The page: {escape(html)}", soft_wrap=True)
