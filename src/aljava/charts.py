"""Showing what was measured: figures as text, charts for a page, bars for a terminal.

The charts are SVG written here, inline in a page that needs no network. Their colours are the page's own variables, so
that they read in light and in dark. The terminal's bars are Rich objects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aljava.comparison import Comparison


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    #: What it stands for.
    label: str
    #: Its length, in the unit of the chart.
    value: float
    #: The value as the reader sees it.
    text: str
    #: Whether it is the one to look at.
    chosen: bool = False


@dataclass(frozen=True)
class Point:
    """One point of a scatter chart."""

    #: What it stands for.
    label: str
    #: Its place to the right.
    x: float
    #: Its place upwards.
    y: float
    #: Whether it is the one to look at.
    chosen: bool = False


def size(count: float) -> str:
    """Bytes as a reader sees them.

    Example:
        >>> size(999), size(1_234_567), size(5.3e9)
        ('999 B', '1.23 MB', '5.30 GB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{_three_digits(count / scale)} {unit}"
    return f"{count:.0f} B"


def seconds(count: float) -> str:
    """A time as a reader sees it.

    Example:
        >>> seconds(12.34), seconds(0.0456), seconds(0.00007)
        ('12.3 s', '45.6 ms', '70 µs')
    """
    if count >= 1:
        return f"{_three_digits(count)} s"
    return f"{_three_digits(count * 1e3)} ms" if count >= 1e-3 else f"{count * 1e6:.0f} µs"


def rate(gb_per_second: float) -> str:
    """Bytes a second as a reader sees them.

    Example:
        >>> rate(11.26), rate(0.004)
        ('11.3 GB/s', '4.00 MB/s')
    """
    return f"{_three_digits(gb_per_second)} GB/s" if gb_per_second >= 0.1 else f"{size(gb_per_second * 1e9)}/s"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


@dataclass(frozen=True)
class Stack:
    """One bar that is made of parts."""

    #: What it stands for.
    label: str
    #: Kinds of parts, and how long each is.
    parts: tuple[tuple[str, float], ...]
    #: What stands behind it.
    text: str


# --- the page ---------------------------------------------------------------------------------------------------------


def page(title: str, body: str) -> str:
    """A page that stands by itself, from the body's HTML."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(title)}</title>\n'
        f'</head>\n<body style="margin:0">\n<main class="aljava page">{style()}{body}</main>\n</body>\n</html>\n'
    )


def style() -> str:
    """The style that everything below stands on, scoped to `.aljava`, so that a notebook's own is left alone."""
    return f"<style>{_STYLE}</style>"


def paragraph(text: str) -> str:
    """A paragraph; nothing for no text."""
    return f"<p>{escape(text)}</p>" if text else ""


def facts(values: Iterable[tuple[str, str]]) -> str:
    """Figures side by side, each with what it is of."""
    shown = (f'<div class="fact"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in values)
    return f'<div class="facts">{"".join(shown)}</div>'


def callout(text: str) -> str:
    """The sentences that a reader should take away."""
    return f'<div class="callout">{escape(text)}</div>'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = (), widths: Sequence[int] = ()
) -> str:
    """A table; the cells are HTML.

    Args:
        header: the names of the columns.
        rows: the cells.
        numeric: indexes of the columns that are set to the right.
        widths: widths of the columns in percent; by default the browser decides.
    """
    right = set(numeric)

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if index in right else f"<{tag}>{cell}</{tag}>"
            for index, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    columns = "".join(f'<col style="width:{width}%">' for width in widths)
    return (
        f'<div class="scroll"><table><colgroup>{columns}</colgroup><thead><tr>{cells("th", header)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def bars(title: str, rows: Sequence[Bar], *, label_width: int = 64, width: int = 360) -> str:
    """A chart of horizontal bars, as SVG.

    Args:
        title: what is shown, with its unit.
        rows: the bars, from the top.
        label_width: room for the labels, in the chart's units.
        width: width of the chart, in CSS pixels.
    """
    row_height, text_width = 26, 84
    room = width - label_width - text_width
    longest = max((row.value for row in rows), default=0.0) or 1.0
    parts = []
    for index, row in enumerate(rows):
        y = index * row_height
        length = max(1.5, row.value / longest * room)
        shade = "bar chosen" if row.chosen else "bar"
        parts.append(
            f'<text class="label" x="{label_width - 8}" y="{y + 17}" text-anchor="end">{escape(row.label)}</text>'
            f'<rect class="{shade}" x="{label_width}" y="{y + 4}" width="{length:.1f}" height="18" rx="3"/>'
            f'<text class="value" x="{label_width + length + 6:.1f}" y="{y + 17}">{escape(row.text)}</text>'
        )
    return _figure(title, width, len(rows) * row_height, "".join(parts))


def stacked(title: str, rows: Sequence[Stack], *, label_width: int = 150, width: int = 1000) -> str:
    """A chart of horizontal bars made of parts, as SVG, with a legend of the kinds of parts.

    Args:
        title: what is shown, with its unit.
        rows: the bars, from the top.
        label_width: room for the labels, in the chart's units.
        width: width of the chart, in CSS pixels.
    """
    row_height, text_width = 26, 150
    room = width - label_width - text_width
    kinds = list(dict.fromkeys(kind for row in rows for kind, _ in row.parts))
    colour = {kind: f"kind{number % 8}" for number, kind in enumerate(kinds)}
    longest = max((sum(value for _, value in row.parts) for row in rows), default=0.0) or 1.0
    parts = []
    for index, row in enumerate(rows):
        y, x = index * row_height, float(label_width)
        label = row.label if len(row.label) <= 22 else row.label[:21] + "…"
        parts.append(f'<text class="label" x="{label_width - 8}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        for kind, value in row.parts:
            length = value / longest * room
            parts.append(
                f'<rect class="{colour[kind]}" x="{x:.1f}" y="{y + 4}" width="{max(length, 0.8):.1f}" height="18">'
                f"<title>{escape(f'{row.label}: {kind}, {value:,.0f} bytes')}</title></rect>"
            )
            x += length
        parts.append(f'<text class="value" x="{x + 8:.1f}" y="{y + 17}">{escape(row.text)}</text>')
    legend = "".join(f'<span><i class="{colour[kind]}"></i>{escape(kind)}</span>' for kind in kinds)
    return f'<div class="legend">{legend}</div>' + _figure(title, width, len(rows) * row_height, "".join(parts))


def scatter(title: str, points: Sequence[Point], x_label: str, y_label: str) -> str:
    """A chart of points, as SVG, both axes from zero; hollow points are beaten on both axes by another.

    Args:
        title: what is shown.
        points: the points; less is better on both axes.
        x_label: what lies to the right, with its unit.
        y_label: what lies upwards, with its unit.
    """
    width, height, left, bottom, top, right = 560, 300, 56, 44, 14, 70
    most_x, most_y = (_ceiling(max((axis(it) for it in points), default=0)) for axis in (_x, _y))
    plot_width, plot_height = width - left - right, height - bottom - top

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x / most_x * plot_width, top + plot_height - y / most_y * plot_height

    parts = []
    for step in range(5):
        x, y = at(most_x * step / 4, most_y * step / 4)
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + plot_width}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{_tick(most_y * step / 4)}</text>'
            f'<text class="tick" x="{x:.1f}" y="{top + plot_height + 18}" text-anchor="middle">'
            f"{_tick(most_x * step / 4)}</text>"
        )
    parts.append(
        f'<text class="axis" x="{left + plot_width / 2}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="axis" x="14" y="{top + plot_height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {top + plot_height / 2})">{escape(y_label)}</text>'
    )
    taken = [_box(*at(point.x, point.y), 14, 14) for point in points]
    for point in points:
        x, y = at(point.x, point.y)
        beaten = any(it.x <= point.x and it.y <= point.y and (it.x, it.y) != (point.x, point.y) for it in points)
        shade = "dot" + (" chosen" if point.chosen else "") + (" beaten" if beaten else "")
        half = 4 * len(point.label)
        # Beside the point where there is room, else above or below it.
        sides = ((11 + half, 0), (-11 - half, 0), (0, -18), (0, 18), (0, -34), (0, 34))
        boxes = [_box(x + right, y + up, 2 * half, 14) for right, up in sides]
        box = next((box for box in boxes if not any(_overlap(box, other) for other in taken)), boxes[0])
        taken.append(box)
        parts.append(
            f'<circle class="{shade}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
            f'<text class="label" x="{(box[0] + box[2]) / 2:.1f}" y="{(box[1] + box[3]) / 2 + 4:.1f}" '
            f'text-anchor="middle">{escape(point.label)}</text>'
        )
    return _figure(title, width, height, "".join(parts))


def comparison(measured: "Comparison") -> str:
    """The codecs side by side: three charts of bars, size against time, and the figures."""
    choice = measured.choice
    rows = measured.measured
    charts = [
        bars("Size", [Bar(it.codec, it.bytes, size(it.bytes), it is choice) for it in rows]),
        bars(
            "Time to write", [Bar(it.codec, it.write_seconds, seconds(it.write_seconds), it is choice) for it in rows]
        ),
        bars("Time to read", [Bar(it.codec, it.read_seconds, seconds(it.read_seconds), it is choice) for it in rows]),
    ]
    times = [it.write_seconds + it.read_seconds for it in rows]
    time_unit, time_scale = ("seconds", 1.0) if max(times) >= 2 else ("milliseconds", 1e3)
    size_unit, size_scale = ("GB", 1e9) if max(it.bytes for it in rows) >= 2e9 else ("MB", 1e6)
    points = [
        Point(it.codec, time * time_scale, it.bytes / size_scale, it is choice)
        for it, time in zip(rows, times, strict=True)
    ]
    against = scatter(
        "Size against time: nearer to the corner is better; hollow ones are beaten on both",
        points,
        f"{time_unit} to write and read",
        size_unit,
    )
    figures = table(
        ("codec", "size", "of memory", "write", "read", "columns left raw"),
        [
            (
                f"<strong>{escape(it.codec)}</strong>" if it is choice else escape(it.codec),
                size(it.bytes),
                f"{it.bytes / measured.bytes:.0%}" if measured.bytes else "-",
                seconds(it.write_seconds),
                seconds(it.read_seconds),
                f"{len(it.raw_columns)} of {it.columns}",
            )
            for it in rows
        ],
        numeric=range(1, 6),
    )
    return f'<div class="charts">{"".join(charts)}</div>{against}{figures}'


def _figure(title: str, width: int, height: int, content: str) -> str:
    return (
        f'<figure style="max-width:{width}px"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{content}</svg></figure>'
    )


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _x(point: Point) -> float:
    return point.x


def _y(point: Point) -> float:
    return point.y


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ceiling(value: float) -> float:
    """The next round number, for the end of an axis."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** (len(f"{value:.0f}") - 1) if value >= 1 else 10.0 ** -len(f"{1 / value:.0f}")
    return next(step * scale for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10, 20) if step * scale >= value)


_STYLE = """
.aljava{--ink:#1b2430;--soft:#5b6775;--line:#dde3ea;--ground:#fff;--raised:#f6f8fa;--bar:#9fb4c7;--accent:#0f766e;
--good:#15803d;--bad:#b91c1c;color:var(--ink);background:var(--ground);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
@media (prefers-color-scheme:dark){.aljava{--ink:#e6ebf1;--soft:#9aa7b5;--line:#2c3642;--ground:#12171d;
--raised:#1a212a;--bar:#4b6076;--accent:#2dd4bf;--good:#4ade80;--bad:#f87171}}
.aljava.page{min-height:100vh;padding:40px max(20px,calc(50vw - 540px));box-sizing:border-box}
.aljava h1{font-size:30px;line-height:1.2;margin:0 0 6px;letter-spacing:-.01em}
.aljava h2{font-size:19px;margin:40px 0 4px}
.aljava p{margin:4px 0 14px;color:var(--soft)}
.aljava .scroll{overflow-x:auto}
.aljava table{border-collapse:collapse;width:100%;margin:10px 0;font-variant-numeric:tabular-nums}
.aljava th{font-weight:500;color:var(--soft);text-align:left;font-size:13px}
.aljava th,.aljava td{padding:7px 12px 7px 0;border-bottom:1px solid var(--line);vertical-align:top;background:none}
.aljava .number{text-align:right;white-space:nowrap;padding-right:20px}
.aljava td.note,.aljava .soft{color:var(--soft)}
.aljava .good{color:var(--good);white-space:nowrap}.aljava .bad{color:var(--bad)}
.aljava .callout{border-left:4px solid var(--accent);background:var(--raised);padding:12px 16px;margin:18px 0;
border-radius:0 6px 6px 0}
.aljava .facts{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0}
.aljava .fact{background:var(--raised);border:1px solid var(--line);border-radius:8px;padding:8px 14px}
.aljava .fact b{display:block;font-size:19px;line-height:1.3}
.aljava .fact span{color:var(--soft);font-size:13px}
.aljava .charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(290px,1fr));gap:14px 28px}
.aljava figure{margin:14px 0;width:100%}
.aljava figcaption{font-size:13px;color:var(--soft);margin-bottom:4px}
.aljava svg{display:block;width:100%;height:auto}
.aljava svg text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:var(--ink)}
.aljava svg .tick,.aljava svg .axis{fill:var(--soft);font-size:12px}
.aljava svg .value{font-variant-numeric:tabular-nums}
.aljava svg .bar{fill:var(--bar)}.aljava svg .bar.chosen{fill:var(--accent)}
.aljava .legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:16px 0 0;font-size:13px;color:var(--soft)}
.aljava .legend i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}
.aljava .kind0{fill:#0f766e;background:#0f766e}.aljava .kind1{fill:#d97706;background:#d97706}
.aljava .kind2{fill:#4c78a8;background:#4c78a8}.aljava .kind3{fill:#a855a0;background:#a855a0}
.aljava .kind4{fill:#7a8794;background:#7a8794}.aljava .kind5{fill:#b8a13a;background:#b8a13a}
.aljava .kind6{fill:#c2564b;background:#c2564b}.aljava .kind7{fill:#5b9b6b;background:#5b9b6b}
.aljava svg .grid{stroke:var(--line)}
.aljava svg .dot{fill:var(--bar);stroke:var(--bar);stroke-width:2}
.aljava svg .dot.chosen{fill:var(--accent);stroke:var(--accent)}
.aljava svg .dot.beaten{fill:var(--ground)}
"""


# --- the terminal -----------------------------------------------------------------------------------------------------


def terminal_bars(measured: "Comparison") -> Any:
    """The codecs side by side as bars: a Rich object for a terminal of any width."""
    from rich import box
    from rich.table import Table

    choice = measured.choice
    grid = Table(
        box=box.SIMPLE_HEAD,
        expand=True,
        padding=(0, 1, 0, 0),
        show_edge=False,
        header_style="dim",
        border_style="dim",
    )
    grid.add_column("codec", no_wrap=True, min_width=7)
    for title in ("size", "write", "read"):
        grid.add_column("", ratio=1, no_wrap=True, min_width=6)
        grid.add_column(title, no_wrap=True, justify="right", min_width=7)
    grid.add_column("raw", no_wrap=True, justify="right")
    most_bytes = max((it.bytes for it in measured.measured), default=0) or 1
    longest_write = max((it.write_seconds for it in measured.measured), default=0.0) or 1.0
    longest_read = max((it.read_seconds for it in measured.measured), default=0.0) or 1.0
    for it in measured.measured:
        colour = "bold cyan" if it is choice else "blue"
        grid.add_row(
            f"[bold cyan]{it.codec}[/]" if it is choice else it.codec,
            TerminalBar(it.bytes / most_bytes, colour),
            size(it.bytes),
            TerminalBar(it.write_seconds / longest_write, colour),
            seconds(it.write_seconds),
            TerminalBar(it.read_seconds / longest_read, colour),
            seconds(it.read_seconds),
            f"{len(it.raw_columns)}/{it.columns}",
        )
    return grid


@dataclass(frozen=True)
class TerminalBar:
    """A bar that fills a part of the room it is given; in eighths of a character where the terminal can show them."""

    #: How much of the room it fills, 0 to 1.
    share: float
    #: A style of Rich.
    style: str
    #: Characters that a full bar takes; by default all the room that there is.
    width: int | None = None

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        """What Rich asks for."""
        from rich.text import Text

        eighths = max(1, round(self.share * min(self.width or options.max_width, options.max_width) * 8))
        if options.ascii_only:
            yield Text("#" * max(1, eighths // 8), self.style)
            return
        yield Text("█" * (eighths // 8) + "▏▎▍▌▋▊▉"[eighths % 8 - 1 : eighths % 8 if eighths % 8 else 0], self.style)

    def __rich_measure__(self, console: Any, options: Any) -> Any:
        """What Rich asks for."""
        from rich.measure import Measurement

        return Measurement(4, min(self.width or options.max_width, options.max_width))
