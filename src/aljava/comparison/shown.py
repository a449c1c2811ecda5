"""A `Comparison` as text, as a page, in a terminal, and as a plot."""

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from aljava import charts
from aljava.comparison.result import GOAL_WORDS, GOALS, ColumnMeasured, Comparison, Measured
from aljava.errors import require

if TYPE_CHECKING:
    from rich.table import Table

#: Columns that a terminal and a page show one by one: the largest.
TERMINAL_COLUMNS, PAGE_COLUMNS = 12, 40
_AGAINST = "Size against time: nearer to the corner is better, hollow is beaten by another on both"
_TIME = "time to write and read"


def other_advice(comparison: Comparison) -> list[str]:
    """What to choose for the other goals, a sentence each."""
    if not comparison.rows or len(comparison.measured) == 1:
        return []
    return [
        f"{comparison.choice.codec} is also what to choose for {GOAL_WORDS[goal]}."
        if comparison.choose(goal) is comparison.choice
        else comparison.advise(goal)
        for goal in GOALS
        if goal != comparison.goal
    ]


# --- text -------------------------------------------------------------------------------------------------------------


def text(comparison: Comparison) -> str:
    """The figures and the advice in plain text."""
    rows = [_header(comparison), *(_cells(comparison, it) for it in comparison.measured)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if number else cell.ljust(width) for number, (cell, width) in enumerate(line))
        for line in (zip(row, widths, strict=True) for row in rows)
    ]
    return "\n".join([*lines, *comparison.notes, comparison.advice])


def _header(comparison: Comparison) -> list[str]:
    return [
        "codec",
        "size",
        "of memory",
        "write",
        "read",
        *(title for title, _ in _more(comparison, None)),
        "zero-copy",
    ]


def _cells(comparison: Comparison, it: Measured) -> list[str]:
    return [
        it.codec,
        charts.size(it.bytes),
        charts.share(it.bytes, comparison.bytes),
        charts.seconds(it.write_seconds),
        charts.seconds(it.read_seconds),
        *(cell for _, cell in _more(comparison, it)),
        f"{len(it.raw_columns)}/{it.columns}",
    ]


def _more(comparison: Comparison, it: Measured | None) -> Iterator[tuple[str, str]]:
    """Titles and cells of what is only there where it was measured."""
    if any(each.column_seconds is not None for each in comparison.measured):
        yield "one column", charts.seconds(it.column_seconds) if it and it.column_seconds is not None else "-"
    if any(each.peaks for each in comparison.measured):
        yield "memory", charts.size(it.peak) if it and it.peak is not None else "-"


# --- the page ---------------------------------------------------------------------------------------------------------


def page(comparison: Comparison) -> str:
    """A page that stands by itself."""
    about = (
        f"{comparison.rows:,} rows, {charts.size(comparison.bytes)} in memory, written with each codec and read until "
        "all of it was in memory, on this machine. What came back was compared with what went in."
    )
    return charts.page("Codecs compared", f"<h1>Codecs compared</h1>{charts.paragraph(about)}{_content(comparison)}")


def notebook(comparison: Comparison) -> str:
    """What a notebook shows."""
    return f'<div class="aljava">{charts.style()}{_content(comparison)}</div>'


def _content(comparison: Comparison) -> str:
    return (
        charts.callout(comparison.advice)
        + "".join(map(charts.paragraph, other_advice(comparison)))
        + "".join(map(charts.paragraph, comparison.notes))
        + section(comparison)
        + _by_column(comparison)
    )


def section(comparison: Comparison) -> str:
    """The codecs side by side: charts of bars, size against time, and the figures."""
    choice = comparison.choice
    rows = comparison.measured
    bars = [
        charts.bars("Size", [charts.Bar(it.codec, it.bytes, charts.size(it.bytes), it is choice) for it in rows]),
        *(
            charts.bars(title, [charts.Bar(it.codec, value, charts.seconds(value), it is choice) for it, value in of])
            for title, of in (
                ("Time to write", [(it, it.write_seconds) for it in rows]),
                ("Time to read", [(it, it.read_seconds) for it in rows]),
                (
                    "Time to read one column",
                    [(it, it.column_seconds) for it in rows if it.column_seconds is not None],
                ),
            )
            if of
        ),
    ]
    measured_memory = [it for it in rows if it.peaks]
    if measured_memory:
        bars += [
            charts.bars(
                title,
                [
                    charts.Bar(it.codec, it.peaks[number], charts.size(it.peaks[number]), it is choice)
                    for it in measured_memory
                    if it.peaks
                ],
            )
            for number, title in enumerate(("Peak memory to write", "Peak memory to read"))
        ]
    against = charts.scatter(_AGAINST, _points(comparison), _TIME, "size")
    beaten = comparison.dominated
    header = ("codec", "size", "of memory", "write", "read", *(title for title, _ in _more(comparison, None)))
    figures = charts.table(
        (*header, "zero-copy columns", "beaten by"),
        [
            (
                f"<strong>{escape(it.codec)}</strong>" if it is choice else escape(it.codec),
                *map(escape, _cells(comparison, it)[1:-1]),
                f"{len(it.raw_columns)} of {it.columns}",
                escape(beaten.get(it.codec, "")),
            )
            for it in rows
        ],
        numeric=range(1, len(header) + 1),
    )
    explained = (
        "Memory is what a fresh process of its own takes at its peak, beyond the map of the file: the greater of "
        "writing and reading."
        if measured_memory
        else ""
    )
    return f'<div class="charts">{"".join(bars)}</div>{against}{figures}{charts.paragraph(explained)}'


def _points(comparison: Comparison) -> list[charts.Point]:
    choice, beaten = comparison.choice, comparison.dominated
    return [
        charts.Point(it.codec, it.seconds, it.bytes, it is choice, it.codec in beaten) for it in comparison.measured
    ]


def _by_column(comparison: Comparison) -> str:
    told = [it for it in comparison.measured if any(column.bytes is not None for column in it.by_column)]
    if not told:
        return ""
    columns = list(zip(*(it.by_column for it in told), strict=True))
    rows = [
        (
            escape(same[0].name),
            f'<span class="soft">{escape(same[0].type)}</span>',
            charts.size(same[0].memory),
            *(_filled(column, same) for column in same),
        )
        for same in columns[:PAGE_COLUMNS]
    ]
    about = "What each codec makes of each column: bytes in the file of those in memory. "
    about += "What stays raw is mapped, not copied, and costs a reader nothing."
    header = ("column", "type", "in memory", *(it.codec for it in told))
    return (
        "<h2>By column</h2>"
        + charts.paragraph(about + _left_out(comparison, min(len(columns), PAGE_COLUMNS)))
        + charts.table(header, rows, range(2, len(header)))
    )


def _filled(column: ColumnMeasured, same: tuple[ColumnMeasured, ...]) -> str:
    """A cell that is as full as the column is large."""
    least = min(it.bytes for it in same if it.bytes is not None)
    told = "raw" if column.raw else charts.share(column.bytes or 0, column.memory)
    part = min(1.0, (column.bytes or 0) / column.memory) if column.memory else 0.0
    tag = "strong" if column.bytes == least and not column.raw else "span"
    tip = charts.size(column.bytes or 0)
    if column.read_seconds is not None:
        tip += f", {charts.seconds(column.read_seconds)} to read"
    return f'<{tag} class="filled" style="--part:{part:.0%}" title="{tip}">{told}</{tag}>'


def _left_out(comparison: Comparison, shown: int) -> str:
    total = comparison.measured[0].columns
    return f" The {shown} largest of {total:,} columns." if total > shown else ""


# --- the terminal -----------------------------------------------------------------------------------------------------


def terminal_bars(comparison: Comparison) -> "Table":
    """The codecs side by side as bars: a Rich object for a terminal of any width."""
    choice = comparison.choice
    grid = _grid()
    grid.add_column("codec", no_wrap=True, min_width=7)
    for title in ("size", "write", "read"):
        grid.add_column("", ratio=1, no_wrap=True, min_width=4)
        grid.add_column(title, no_wrap=True, justify="right", min_width=7)
    for title, _ in _more(comparison, None):
        grid.add_column(title, no_wrap=True, justify="right", min_width=7)
    grid.add_column("raw", no_wrap=True, justify="right")
    most_bytes = max((it.bytes for it in comparison.measured), default=0) or 1
    longest_write = max((it.write_seconds for it in comparison.measured), default=0.0) or 1.0
    longest_read = max((it.read_seconds for it in comparison.measured), default=0.0) or 1.0
    for it in comparison.measured:
        colour = "bold cyan" if it is choice else "blue"
        grid.add_row(
            f"[bold cyan]{it.codec}[/]" if it is choice else it.codec,
            charts.TerminalBar(it.bytes / most_bytes, colour),
            charts.size(it.bytes),
            charts.TerminalBar(it.write_seconds / longest_write, colour),
            charts.seconds(it.write_seconds),
            charts.TerminalBar(it.read_seconds / longest_read, colour),
            charts.seconds(it.read_seconds),
            *(cell for _, cell in _more(comparison, it)),
            f"{len(it.raw_columns)}/{it.columns}",
        )
    return grid


def terminal_scatter(comparison: Comparison) -> charts.TerminalScatter:
    """Size against time: a Rich object for a terminal of any width."""
    return charts.TerminalScatter(_points(comparison), _TIME, "size")


def terminal_columns(comparison: Comparison) -> "Table | None":
    """What each codec makes of each column, as Rich's table; None where no column was measured."""
    from rich.markup import escape as plain
    from rich.text import Text

    told = [it for it in comparison.measured if any(column.bytes is not None for column in it.by_column)]
    if not told:
        return None
    grid = _grid()
    grid.add_column("column", min_width=8, max_width=24, no_wrap=True, overflow="ellipsis")
    # In a narrow terminal this is the column that gives way: it may be wrapped, as far as Rich knows.
    grid.add_column("type", ratio=1, max_width=20, style="dim")
    grid.add_column("memory", justify="right", no_wrap=True)
    for it in told:
        grid.add_column(it.codec, justify="right", no_wrap=True)
    for same in list(zip(*(it.by_column for it in told), strict=True))[:TERMINAL_COLUMNS]:
        least = min(it.bytes for it in same if it.bytes is not None)
        cells = [
            "[dim]raw[/]"
            if column.raw
            else f"{'[bold cyan]' if column.bytes == least else '[not bold]'}"
            f"{charts.share(column.bytes or 0, column.memory)}[/]"
            for column in same
        ]
        first = same[0]
        kind = Text(first.type, no_wrap=True, overflow="ellipsis")
        grid.add_row(plain(first.name), kind, charts.size(first.memory), *cells)
    if (total := comparison.measured[0].columns) > TERMINAL_COLUMNS:
        grid.caption = f"the {TERMINAL_COLUMNS} largest of {total:,} columns; --html and --json have more"
        grid.caption_justify = "left"
    return grid


def _grid() -> "Table":
    from rich import box
    from rich.table import Table

    return Table(
        box=box.SIMPLE_HEAD,
        expand=True,
        padding=(0, 1, 0, 0),
        show_edge=False,
        header_style="dim",
        border_style="dim",
    )


# --- the plot ---------------------------------------------------------------------------------------------------------


def figure(comparison: Comparison) -> Any:
    """Size against time, as a matplotlib `Figure`."""
    made = require("matplotlib.figure", "plot", "matplotlib").Figure(figsize=(7, 4.5), layout="constrained")
    axes = made.subplots()
    for point in _points(comparison):
        colour = "#0f766e" if point.chosen else "#4b6076"
        face = "none" if point.beaten else colour
        axes.scatter(point.x, point.y / 1e6, s=60, facecolors=face, edgecolors=colour, linewidths=1.8, zorder=2)
        axes.annotate(point.label, (point.x, point.y / 1e6), textcoords="offset points", xytext=(8, 5))
    axes.grid(alpha=0.3)
    axes.set(xlabel="seconds to write and read", ylabel="size (MB)", ylim=(0, None))
    axes.set_title(f"{comparison.rows:,} rows; hollow is beaten by another on both", fontsize=11)
    if charts.Axis.of([it.seconds for it in comparison.measured], factors=True).factors:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, None)
    axes.margins(x=0.12)
    return made
