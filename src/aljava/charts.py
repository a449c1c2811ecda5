"""Showing what was measured: figures as text, charts for a page, bars for a terminal.

The charts are SVG written here, inline in a page that needs no network. Their colours are the page's own variables, so
that they read in light and in dark. The terminal's bars are Rich objects.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


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
    #: Its place to the right, in seconds.
    x: float
    #: Its place upwards, in bytes.
    y: float
    #: Whether it is the one to look at.
    chosen: bool = False
    #: Whether another is better: it is drawn hollow.
    beaten: bool = False


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


def share(part: float, whole: float) -> str:
    """A part of a whole as a reader sees it.

    Example:
        >>> share(1, 3), share(1, 0)
        ('33%', '-')
    """
    return f"{part / whole:.0%}" if whole else "-"


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
        f'<div class="scroll"><table class="figures"><colgroup>{columns}</colgroup>'
        f"<thead><tr>{cells('th', header)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def bars(title: str, rows: Sequence[Bar], *, label_width: int = 64, width: int = 360) -> str:
    """A chart of horizontal bars, as SVG.

    Args:
        title: what is shown, with its unit.
        rows: the bars, from the top.
        label_width: room for the labels, in the chart's units.
        width: width of the chart, in CSS pixels.
    """
    drawn = [_Row(row.label, row.text, ((row.value, "bar chosen" if row.chosen else "bar", ""),)) for row in rows]
    return _bar_chart(title, drawn, label_width, 84, width)


def stacked(title: str, rows: Sequence[Stack], *, label_width: int = 150, width: int = 1000) -> str:
    """A chart of horizontal bars made of parts, as SVG, with a legend of the kinds of parts.

    Args:
        title: what is shown, with its unit.
        rows: the bars, from the top.
        label_width: room for the labels, in the chart's units.
        width: width of the chart, in CSS pixels.
    """
    kinds = list(dict.fromkeys(kind for row in rows for kind, _ in row.parts))
    colour = {kind: f"kind{number % 8}" for number, kind in enumerate(kinds)}
    drawn = [
        _Row(
            row.label if len(row.label) <= 22 else row.label[:21] + "…",
            row.text,
            tuple((value, colour[kind], f"{row.label}: {kind}, {value:,.0f} bytes") for kind, value in row.parts),
        )
        for row in rows
    ]
    legend = "".join(f'<span><i class="{colour[kind]}"></i>{escape(kind)}</span>' for kind in kinds)
    return f'<div class="legend">{legend}</div>' + _bar_chart(title, drawn, label_width, 150, width)


@dataclass(frozen=True)
class _Row:
    """A bar as it is drawn."""

    label: str
    text: str
    #: Each part's length, its class in the style, and what it says when pointed at.
    parts: tuple[tuple[float, str, str], ...]


def _bar_chart(title: str, rows: Sequence[_Row], label_width: int, text_width: int, width: int) -> str:
    row_height = 26
    longest = max((sum(part[0] for part in row.parts) for row in rows), default=0.0) or 1.0
    scale = (width - label_width - text_width) / longest
    drawn = []
    for index, row in enumerate(rows):
        y, x = index * row_height, float(label_width)
        drawn.append(
            f'<text class="label" x="{label_width - 8}" y="{y + 17}" text-anchor="end">{escape(row.label)}</text>'
        )
        rounded = ' rx="3"' if len(row.parts) == 1 else ""
        for value, shade, tip in row.parts:
            title_ = f"<title>{escape(tip)}</title>" if tip else ""
            drawn.append(
                f'<rect class="{shade}" x="{x:.1f}" y="{y + 4}" width="{max(value * scale, 1.0):.1f}" height="18"'
                f"{rounded}>{title_}</rect>"
            )
            x += value * scale
        drawn.append(f'<text class="value" x="{x + 7:.1f}" y="{y + 17}">{escape(row.text)}</text>')
    return _figure(title, width, len(rows) * row_height, "".join(drawn))


def scatter(title: str, points: Sequence[Point], x_label: str, y_label: str) -> str:
    """A chart of points, as SVG: seconds to the right, by factors where they lie far apart, and bytes upwards.

    Args:
        title: what is shown.
        points: the points; less is better on both axes.
        x_label: what lies to the right.
        y_label: what lies upwards.
    """
    width, height, left, bottom, top, right = 760, 330, 72, 44, 14, 70
    across, up = Axis.of([it.x for it in points], factors=True), Axis.of([it.y for it in points])
    plot_width, plot_height = width - left - right, height - bottom - top

    def at(x: float, y: float) -> tuple[float, float]:
        return left + across.place(x) * plot_width, top + (1 - up.place(y)) * plot_height

    parts = []
    for value in up.ticks:
        _, y = at(across.low, value)
        parts.append(
            f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + plot_width}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{_round(size(value))}</text>'
        )
    for value in across.ticks:
        x, _ = at(value, 0)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + plot_height}"/>'
            f'<text class="tick" x="{x:.1f}" y="{top + plot_height + 18}" text-anchor="middle">'
            f"{_round(seconds(value))}</text>"
        )
    parts.append(
        f'<text class="axis" x="{left + plot_width / 2}" y="{height - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="axis" x="14" y="{top + plot_height / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {top + plot_height / 2})">{escape(y_label)}</text>'
    )
    taken = [_box(*at(point.x, point.y), 14, 14) for point in points]
    for point in points:
        x, y = at(point.x, point.y)
        shade = "dot" + (" chosen" if point.chosen else "") + (" beaten" if point.beaten else "")
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


@dataclass(frozen=True)
class Axis:
    """Where the values of a chart lie on one of its axes."""

    #: The value at its beginning: 0, or where it goes by factors the greatest round number below all.
    low: float
    #: The value at its end.
    high: float
    #: The values to write beside it.
    ticks: tuple[float, ...]
    #: Whether equal distances are equal factors.
    factors: bool = False

    @classmethod
    def of(cls, values: Sequence[float], *, factors: bool = False) -> "Axis":
        """The axis for some values.

        Args:
            values: 0 or more each.
            factors: whether to go by factors where the greatest is ten times the least, or more.

        Example:
            >>> Axis.of([1.5, 70], factors=True).ticks
            (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
        """
        least, most = min(values, default=0.0), max(values, default=0.0)
        if not factors or least <= 0 or most / least < 10:
            end = _ceiling(most)
            return cls(0.0, end, tuple(end * step / 4 for step in range(5)))
        first, last = math.floor(math.log10(least)), math.ceil(math.log10(most))
        rounds = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
        low = max(value for value in rounds if value <= least)
        high = min(value for value in [*rounds, 10.0 ** (last + 1)] if value >= most)
        ticks = [value for value in rounds if low <= value <= high]
        if len(ticks) > 8:
            ticks = [value for value in ticks if value in [10.0**power for power in range(first, last + 1)]]
        return cls(low, high, tuple(ticks), factors=True)

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the beginning, 1 at the end."""
        if self.factors:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def _round(text: str) -> str:
    """A figure without zeros at its end: 50.0 ms is 50 ms."""
    return re.sub(r"\.0+ |(\.\d*?)0+ ", r"\1 ", text)


def _figure(title: str, width: int, height: int, content: str) -> str:
    return (
        f'<figure style="max-width:{width}px"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{content}</svg></figure>'
    )


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]


def _ceiling(value: float) -> float:
    """The next round number, for the end of an axis."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** (len(f"{value:.0f}") - 1) if value >= 1 else 10.0 ** -len(f"{1 / value:.0f}")
    return next(step * scale for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10, 20) if step * scale >= value)


_STYLE = """
.aljava{--ink:#1b2430;--soft:#5b6775;--line:#dde3ea;--ground:#fff;--raised:#f6f8fa;--bar:#9fb4c7;--accent:#0f766e;
--fill:#cfe0ea;--good:#15803d;--bad:#b91c1c;color:var(--ink);background:var(--ground);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
@media (prefers-color-scheme:dark){.aljava{--ink:#e6ebf1;--soft:#9aa7b5;--line:#2c3642;--ground:#12171d;
--raised:#1a212a;--bar:#4b6076;--accent:#2dd4bf;--fill:#24404f;--good:#4ade80;--bad:#f87171}}
.aljava a{color:var(--accent)}
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
.aljava .filled{display:inline-block;min-width:52px;padding:1px 6px;border-radius:3px;box-sizing:border-box;
background:linear-gradient(to right,var(--fill) var(--part),transparent var(--part))}
.aljava .tag{color:var(--soft);font-size:12px;margin-left:8px}
.aljava svg .grid{stroke:var(--line)}
.aljava svg .dot{fill:var(--bar);stroke:var(--bar);stroke-width:2}
.aljava svg .dot.chosen{fill:var(--accent);stroke:var(--accent)}
.aljava svg .dot.beaten{fill:var(--ground)}
"""


# --- the terminal -----------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class TerminalScatter:
    """The same for a terminal: `●`, or `○` for one that another beats, each with its label."""

    #: The points; less is better on both axes.
    points: Sequence[Point]
    #: What lies to the right.
    x_label: str
    #: What lies upwards.
    y_label: str
    #: Lines of the chart without its axis.
    height: int = 11

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        """What Rich asks for."""
        from rich.text import Text

        across, up = Axis.of([it.x for it in self.points], factors=True), Axis.of([it.y for it in self.points])
        marks = {value: _round(size(value)) for value in (up.ticks[0], up.ticks[2], up.ticks[4])}
        left = max(map(len, marks.values())) + 1
        longest = max((len(it.label) for it in self.points), default=0)
        total = max(20, min(options.max_width, 110) - left - 2)
        width = max(1, total - longest - 2)  # where a point can lie, so that there is room for its label
        cells = [[(" ", "")] * total for _ in range(self.height)]

        def free(row: int, start: int, length: int) -> bool:
            inside = 0 <= row < self.height and start >= 0 and start + length <= total
            return inside and all(cell[0] == " " for cell in cells[row][max(0, start - 1) : start + length + 1])

        filled, hollow, corner, side, floor = "*o+|-" if options.ascii_only else "●○└│─"
        places = []
        # The best last, so that where two meet the better one is seen.
        for point in sorted(self.points, key=lambda it: (it.chosen, not it.beaten)):
            column = round(across.place(point.x) * (width - 1))
            row = round((1 - up.place(point.y)) * (self.height - 1))
            style = "bold cyan" if point.chosen else "dim" if point.beaten else ""
            cells[row][column] = (hollow if point.beaten else filled, style)
            places.append((point, row, column, style))
        for point, row, column, style in reversed(places):
            length = len(point.label)
            spots = [(row + by, start) for by in (0, -1, 1, -2, 2) for start in (column + 2, column - 1 - length)]
            # Beside the point itself, nearer than a space from it is too near.
            found = next(((at, start) for at, start in spots if free(at, start, length)), None)
            if found:
                at, start = found
                cells[at][start : start + length] = [(char, style) for char in point.label]
        yield Text(self.y_label, "dim")
        for row, line in enumerate(cells):
            mark = next(
                (text for value, text in marks.items() if round((1 - up.place(value)) * (self.height - 1)) == row), ""
            )
            shown = Text(f"{mark:>{left}} {side}", "dim")
            for char, style in line:
                shown.append(char, style or "not dim")
            shown.rstrip()
            yield shown
        yield Text(" " * left + f" {corner}" + floor * total, "dim")
        ticks = [" "] * (left + 2 + total)
        end = -1
        for value in across.ticks:
            text = _round(seconds(value)) if value else "0"
            start = left + 2 + round(across.place(value) * (width - 1)) - len(text) // 2
            if start > end and start + len(text) <= len(ticks):
                ticks[start : start + len(text)] = text
                end = start + len(text) + 1
        yield Text("".join(ticks).rstrip(), "dim")
        yield Text(self.x_label.rjust(left + 2 + total), "dim")
