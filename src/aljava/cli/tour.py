"""`aljava tour`: a table through all that Aljava does, in the terminal, as JSON, or as a page."""

import json
import signal
import sys
from typing import TYPE_CHECKING

import typer

from aljava.cli.output import console, make_folder, must_take_a_file, status, write_page

if TYPE_CHECKING:
    from aljava.tour import Section, Step, Tour, TourData


def command(
    data: str | None = typer.Argument(
        None, help="Arrow IPC, Feather, Parquet, CSV or JSON lines. Without it: the notebook's own table."
    ),
    rows: int | None = typer.Option(None, help="Rows to make (1,000,000 by default), or to take from DATA."),
    html: str | None = typer.Option(None, metavar="FILE", help="Write the tour as a page too, charts included."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object and nothing else."),
    keep: str | None = typer.Option(None, metavar="DIR", help="Keep the files that are written in this folder."),
) -> None:
    """Take a table through all that Aljava does: each step done for real, checked and measured.

    Example: aljava tour my-data.parquet --html tour.html
    """
    from aljava.tour import load, run
    from aljava.tour.page import page

    # As control-C: leave nothing behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if html:
        must_take_a_file(html)
    if keep:
        make_folder(keep)
    printer = None if as_json else _Printer()
    with status() as show:
        show(f"Reading {data}" if data else "Making the notebook's table")
        table = load(data, rows)
        show("")
        if printer:
            printer.begin(table)

        def finished(section: "Section") -> None:
            show("")
            if printer:
                printer.section(section)

        tour = run(table, keep=keep, progress=lambda section, step: show(f"{section}: {step}"), finished=finished)
    if html:
        write_page(html, page(tour))
    if printer:
        printer.end(tour, html, keep)
    else:
        sys.stdout.write(json.dumps(tour.to_dict(), indent=2, ensure_ascii=False) + "\n")
    if tour.failed:
        section, step = tour.failed[0]
        count = f"{len(tour.failed)} step{'s' if len(tour.failed) > 1 else ''} failed"
        print(f"aljava: {count}. {section.name}, {step.name}: {step.error}", file=sys.stderr)
        raise typer.Exit(1)


class _Printer:
    """The tour on standard output, section by section as it goes."""

    def __init__(self) -> None:
        self._console = console()
        self._number = 0

    def begin(self, data: "TourData") -> None:
        from rich.markup import escape

        from aljava import charts

        table = data.table
        self._console.print(f"[bold]A tour of Aljava[/] with {escape(data.name)} ({escape(data.origin)})")
        self._console.print(
            f"[dim]{table.num_rows:,} rows, {table.num_columns} columns, {charts.size(table.nbytes)} in memory[/]"
        )

    def section(self, section: "Section") -> None:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        from aljava import charts
        from aljava.comparison import shown

        self._number += 1
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            expand=True,
            padding=(0, 2, 0, 0),
            header_style="dim",
            border_style="dim",
        )
        # The same widths in every section, so that the eye can run down the page.
        table.add_column("step", width=23 if self._console.width >= 76 else 12)
        table.add_column("time", justify="right", no_wrap=True, width=7)
        table.add_column("rate", justify="right", no_wrap=True, width=9)
        table.add_column("", no_wrap=True, width=1)
        table.add_column("what happened", ratio=1, overflow="fold")
        for step in section.steps:
            table.add_row(
                escape(step.name),
                charts.seconds(step.seconds) if step.seconds is not None else "-",
                _throughput(step),
                _outcome(step),
                f"[red]{escape(step.error)}[/]" if step.error else escape(step.note),
            )
        self._console.print(f"\n[bold cyan]{self._number}. {section.name}[/]  [dim]{section.about}[/]")
        self._console.print(table)
        if section.comparison:
            self._console.print()
            self._console.print(shown.terminal_bars(section.comparison))

    def end(self, tour: "Tour", html: str | None, keep: str | None) -> None:
        from rich.markup import escape
        from rich.padding import Padding

        steps = [step for section in tour.sections for step in section.steps]
        skipped = sum(step.verified is None for step in steps)
        tried = f"{sum(bool(step.verified) for step in steps)} of {len(steps) - skipped} steps verified"
        summary = f"{tried}, {skipped} skipped for want of a package" if skipped else tried
        if tour.failed:
            self._console.print(f"\n[red]{summary}[/]")
        else:
            self._console.print(f"\n[green]{summary}[/]: what came back is what went in.")
        if html:
            self._console.print(f"The page: {escape(html)}", soft_wrap=True)
        if keep:
            self._console.print(f"The files: {escape(keep)}", soft_wrap=True)
        self._console.print("\n[bold]What Aljava would choose[/]")
        self._console.print(Padding(escape(tour.advice), (0, 0, 0, 2)))


def _throughput(step: "Step") -> str:
    from aljava import charts

    if step.zero_copy:
        return "[cyan]no copy[/]"
    return charts.rate(step.gb_per_second) if step.gb_per_second else "-"


def _outcome(step: "Step") -> str:
    if step.verified is None:
        return "[dim]-[/]"
    return "[green]✓[/]" if step.verified else "[red]✗[/]"
