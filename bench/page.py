"""`docs/benchmarks.md` and its charts, made from what was measured.

The charts are SVG written here: one row for each peer of each scenario, a point where the median of the ratios lies, a
line from the smallest to the largest, and a notch at what Aljava has to reach. They bring their own ground and follow
the reader's light or dark, since a picture in a page cannot see the page's colours.
"""

import importlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from aljava.charts import seconds, size

DOCS = Path(__file__).parents[1] / "docs"
#: Within so much of 1, two are said to be level.
LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Aljava against one peer in one scenario."""

    scenario: str
    title: str
    peer: str
    #: Median, smallest and largest of the rounds' ratios: the peer's time / Aljava's of the same round.
    ratio: float
    low: float
    high: float
    #: What the ratio has to reach, where the scenario says so.
    target: float | None
    #: Whether the peer does less than the scenario asks.
    floor: bool

    @property
    def outcome(self) -> str:
        """`faster`, `level` or `slower`."""
        return "slower" if self.ratio < 1 - LEVEL else "faster" if self.ratio > 1 + LEVEL else "level"


def make(records: dict[str, dict[str, Any]], machine: dict[str, Any], missing: Iterable[str]) -> list[Path]:
    """Writes the page and its charts, and returns their paths.

    Args:
        records: by ROOM/NAME, what `bench.harness.measure` returned or `{"failed": why}`.
        machine: what `bench.harness.machine` returned.
        missing: scenarios of which nothing is known yet.
    """
    folder = DOCS / "benchmarks"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    measured = {name: record for name, record in records.items() if "failed" not in record}
    rooms: dict[str, dict[str, Any]] = {}
    for name, record in measured.items():
        rooms.setdefault(name.partition("/")[0], {})[name] = record
    charts = {room: chart(list(pairs(of_room))) for room, of_room in rooms.items()}
    charts = {"overview": overview({room: list(pairs(of_room)) for room, of_room in rooms.items()}), **charts}
    paths = [DOCS / "benchmarks.md"]
    for name, svg in charts.items():
        if svg:
            paths.append(folder / f"{name}.svg")
            paths[-1].write_text(svg)
    failed = {name: record["failed"] for name, record in records.items() if "failed" in record}
    failed.update(dict.fromkeys(missing, "not measured yet"))
    paths[0].write_text("\n".join(_page(measured, rooms, machine, failed)) + "\n")
    return paths


def pairs(records: dict[str, dict[str, Any]]) -> Iterator[Pair]:
    """Every contestant that is not Aljava's, against the first of Aljava's."""
    for scenario, record in records.items():
        contestants = record["contestants"]
        ours = contestants[0]["seconds"]
        for contestant in contestants[1:]:
            if not contestant["name"].startswith("aljava"):
                low, middle, high = _ratios(contestant["seconds"], ours)
                yield Pair(
                    scenario, record["name"], contestant["name"], middle, low, high,
                    contestant["target"], contestant["floor"],
                )  # fmt: skip


def block(name: str, record: dict[str, Any]) -> str:
    """One scenario for the terminal."""
    lines = [f"{name}  {record.get('name', '')} ({record['took']:.0f} s)"]
    if "failed" in record:
        return f"{lines[0]}\n    did not run: {record['failed']}"
    width = max(len(contestant["name"]) for contestant in record["contestants"])
    for number, cells in enumerate(_cells(record)):
        contestant, median, rate, ratio, target, facts = (cell.replace("**", "") for cell in cells)
        against = f"{ratio if number else ''}{f', to reach {target}' if target else ''}"
        lines.append(
            f"    {contestant:{width}}  {median:>8}  {rate:>10}  {against}{'  ' + facts if facts else ''}".rstrip()
        )
    lines += [f"    noisy: {'; '.join(record['noise'])}"] if record["noise"] else []
    lines += [f"    not installed: {', '.join(record['missing'])}"] if record["missing"] else []
    return "\n".join(lines)


_COLUMNS = ("contestant", "median", "rate", "against Aljava", "to reach", "besides")


def _section(name: str, record: dict[str, Any]) -> Iterator[str]:
    """One scenario for the page."""
    yield f"\n**{_headed(record['name'])}** · `make bench ONLY={name}`"
    if record["noise"]:
        yield f"<br>*Noisy:* {'; '.join(record['noise'])}."
    if record["missing"]:
        yield f"<br>*Not installed:* {', '.join(record['missing'])}."
    rows = list(_cells(record))
    shown = [number for number in range(len(_COLUMNS)) if any(row[number] for row in rows)]
    yield f"\n| {' | '.join(_COLUMNS[number] for number in shown)} |"
    yield f"|{'|'.join('---' if number in (0, 5) else '--:' for number in shown)}|"
    yield from (f"| {' | '.join(row[number] for number in shown)} |" for row in rows)


def _cells(record: dict[str, Any]) -> Iterator[list[str]]:
    """By contestant: its name, median, rate, ratio with spread, what the ratio has to reach, and facts."""
    ours = record["contestants"][0]["seconds"]
    for number, contestant in enumerate(record["contestants"]):
        median = statistics.median(contestant["seconds"])
        low, middle, high = _ratios(contestant["seconds"], ours)
        target = contestant["target"]
        yield [
            contestant["name"],
            seconds(median),
            f"{record['nbytes'] / median / 1e9:.2f} GB/s" if record["nbytes"] else "",
            f"**{_times(middle)}** ({_times(low)} – {_times(high)})" if number else "",
            "" if target is None else f"{_times(target)} {'✓' if middle >= target else '✗'}",
            ", ".join(f"{fact} {_fact(value)}" for fact, value in contestant["facts"].items()),
        ]


def _page(
    measured: dict[str, Any], rooms: dict[str, Any], machine: dict[str, Any], failed: dict[str, str]
) -> Iterator[str]:
    all_pairs = [pair for pair in pairs(measured) if not pair.floor]
    outcomes = Counter(pair.outcome for pair in all_pairs)
    short = [pair for pair in pairs(measured) if pair.target and pair.ratio < pair.target]
    versions = Counter(str(record.get("versions")) for record in measured.values())
    when = sorted(record["at"][:10] for record in measured.values())
    yield "<!-- Written by `make bench`; `python -m bench --page` makes it again from what was measured. -->"
    yield "# Benchmarks\n"
    yield (
        f"{len(measured)} scenarios, each against what people use today: in {len(all_pairs)} comparisons "
        f"Aljava is faster in **{outcomes['faster']}**, level in **{outcomes['level']}** and slower in "
        f"**{outcomes['slower']}**. Those that it loses are [listed with the reason](#lost-and-why).\n"
    )
    yield _image("overview", "How many times as long each peer takes, room by room")
    yield (
        f"\nMeasured on {when[0] if when[0] == when[-1] else f'{when[0]} to {when[-1]}'} on {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB, {machine['system']}, "
        f"Python {machine['python']}; "
        + ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
        + (
            f". ({len(measured) - versions[str(machine['versions'])]} of them were measured with other versions.)"
            if len(versions) > 1
            else "."
        )
    )
    yield _HOW
    yield "| room | what it measures |\n|---|---|"
    titles = {room: _title(room) for room in rooms}
    for room, (title, about) in titles.items():
        yield f"| [{title}](#{room}) | {about} |"
    for room, records in rooms.items():
        title, about = titles[room]
        yield f"\n## {title}\n\n{about} All of it: `make bench ONLY={room}`.\n"
        if list(pairs(records)):
            yield _image(room, f"{title}: the peers' times against Aljava's")
        for name, record in records.items():
            yield from _section(name, record)
    yield "\n## Lost, and why\n"
    lost = {pair.scenario: measured[pair.scenario] for pair in all_pairs if pair.outcome == "slower"}
    yield "Where Aljava takes longer than a peer:\n" if lost else "Aljava takes longer than no peer in this run."
    yield from _reasons(lost, [pair for pair in all_pairs if pair.outcome == "slower"], missed=False)
    missed = {pair.scenario: measured[pair.scenario] for pair in short if pair.scenario not in lost}
    if missed:
        yield "\nWhere Aljava is not slower, but does not reach what was set:\n"
        yield from _reasons(missed, short, missed=True)
    noisy = [name for name, record in measured.items() if record["noise"]]
    absent = sorted({name for record in measured.values() for name in record["missing"]})
    yield "\n## What the harness saw\n"
    copies = [rate for record in measured.values() for rate in record["memcpy"]]
    yield (
        f"A memory copy of 32 MiB, made before and after each scenario, moved {min(copies):.1f} to "
        f"{max(copies):.1f} GB/s during the run (median {statistics.median(copies):.1f}). "
        f"{sum(record['repeated'] for record in measured.values())} rounds were run again because others used the "
        f"processors. {len(noisy)} of {len(measured)} scenarios are marked as noisy: "
        + (", ".join(f"`{name}`" for name in noisy) or "none")
        + "."
    )
    if absent:
        yield f"\nNot installed, and so not measured: {', '.join(absent)}. `pip install -e '.[bench]'` brings them."
    if failed:
        yield "\nNot measured:\n"
        yield from (f"- `{name}`: {reason}" for name, reason in failed.items())


_HOW = """
**How to read it.** A figure such as 3.2× says that the peer takes 3.2 times as long as Aljava, so above 1 Aljava is
faster. Contestants take turns within one run, each ratio compares two times of the same round, and what is quoted is
the median of the rounds with the smallest and the largest in brackets. *To reach* is what the project set itself before
it measured. *Level* is within 5 %. Absolute times belong to this machine; ratios travel better, but measure your own:

- `make bench` runs everything that stands here and writes this page (fifty minutes here; `pip install -e
  '.[bench]'` brings the peers). `make bench BENCH=--resume` goes on where it was cut short.
- `make bench ONLY=store/put-8kB` runs one scenario, `make bench ONLY='files/*'` a room, `make bench BENCH=--list`
  names them; `python -m bench --page` puts what was measured last into this page.
- `make bench-quick` runs all on small data within five minutes: to see that it works, not to quote.

The harness looks at the machine while it measures: [what it saw](#what-the-harness-saw) stands at the end.
"""


def _title(room: str) -> tuple[str, str]:
    """A room's name as its module gives it, and what it is about: `NAME: …` is the first line of its docstring."""
    about = (importlib.import_module(f"bench.{room}").__doc__ or room).partition("\n")[0]
    return room.upper() if room == "sql" else room.capitalize(), about


def _image(name: str, text: str) -> str:
    return f"![{text}](benchmarks/{name}.svg)"


def _reasons(records: dict[str, Any], compared: list[Pair], missed: bool) -> Iterator[str]:
    for name, record in records.items():
        against = [
            _times(pair.ratio)
            + (f" of {_times(pair.target or 0)} to reach against " if missed else " against ")
            + pair.peer
            for pair in compared
            if pair.scenario == name
        ]
        why = record["why"] or "Not looked into yet."
        yield f"- **{_headed(record['name'])}** (`{name}`), {', '.join(against)}. {why}"


def _ratios(theirs: list[float], ours: list[float]) -> tuple[float, float, float]:
    ratios = [their / our for their, our in zip(theirs, ours, strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}×" if ratio >= 99.5 else f"{ratio:.1f}×" if ratio >= 9.95 else f"{ratio:.2f}×"


def _fact(value: float) -> str:
    return size(value) if value >= 1e5 else f"{value:g}"


# --- charts -----------------------------------------------------------------------------------------------------------

_STYLE = """
:root{--ink:#1b2430;--soft:#5b6775;--line:#dde3ea;--ground:#ffffff;--good:#0f766e;--level:#64748b;--bad:#c2410c}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf1;--soft:#9aa7b5;--line:#333e4b;--ground:#171c23;--good:#2dd4bf;
--level:#94a3b8;--bad:#fb923c}}
.ground{fill:var(--ground);stroke:var(--line)}
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:var(--ink)}
.soft{fill:var(--soft)}.small{font-size:12px}.bold{font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:5px}.end{text-anchor:end}.middle{text-anchor:middle}
.grid{stroke:var(--line)}.one{stroke:var(--soft);stroke-width:1.5}.notch{stroke:var(--ink);stroke-width:2}
.range{stroke-width:3;stroke-linecap:round;opacity:.4}
.faster{fill:var(--good);stroke:var(--good)}.level{fill:var(--level);stroke:var(--level)}
.slower{fill:var(--bad);stroke:var(--bad)}.hollow{fill:var(--ground);stroke-width:2}
text.faster,text.level,text.slower,tspan.faster,tspan.slower{stroke:none;font-weight:600}
.dot{opacity:.75}
"""
_WIDTH = 940
_ROW = 22


class _Axis:
    """A logarithmic axis of ratios, from `left` to `right` on the picture."""

    def __init__(self, compared: Iterable[Pair], left: float, right: float) -> None:
        values = [value for pair in compared for value in (pair.low, pair.high, pair.target or 1)]
        self._first = math.log10(min([*values, 0.8]) * 0.93)
        self._last = math.log10(max([*values, 2.5]) * 1.07)
        self._left, self._right = left, right

    def __call__(self, ratio: float) -> float:
        return self._left + (math.log10(ratio) - self._first) / (self._last - self._first) * (self._right - self._left)

    def grid(self, top: float, bottom: float) -> Iterator[str]:
        """Lines at round ratios, the one at 1 stronger, with their names above."""
        decades = range(math.floor(self._first), math.ceil(self._last) + 1)
        steps = (1, 2, 5) if self._last - self._first < 2.5 else (1, 3) if self._last - self._first < 4 else (1,)
        last = -math.inf
        for ratio in (step * 10.0**decade for decade in decades for step in steps):
            if self._first <= math.log10(ratio) <= self._last:
                x, kind = self(ratio), "one" if ratio == 1 else "grid"
                yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>'
                if x - last > 34 or ratio == 1:
                    yield f'<text class="soft small middle" x="{x:.1f}" y="{top - 6}">{ratio:g}×</text>'
                    last = x
        one = self(1)
        yield f'<text class="soft small" x="{one + 6:.1f}" y="{top - 22}">Aljava is faster →</text>'
        if one - self._left > 60:
            yield f'<text class="soft small end" x="{one - 6:.1f}" y="{top - 22}">← slower</text>'


def chart(compared: list[Pair]) -> str:
    """One room: a row for each peer of each scenario."""
    if not compared:
        return ""
    left, right, top = 300, _WIDTH - 90, 48
    axis = _Axis(compared, left, right)
    parts, y, last = [], top + 6.0, ""
    for pair in compared:
        if pair.scenario != last:
            y += 12 if last else 4
            parts.append(f'<text class="bold" x="18" y="{y + 13:.1f}">{escape(_headed(pair.title))}</text>')
            y, last = y + 20, pair.scenario
        middle = y + 9
        parts.append(f'<text class="soft end" x="{left - 14}" y="{middle + 4.5:.1f}">{escape(pair.peer)}</text>')
        ends = f'x1="{axis(pair.low):.1f}" x2="{axis(pair.high):.1f}" y1="{middle}" y2="{middle}"'
        parts.append(f'<line class="range {pair.outcome}" {ends}/>')
        if pair.target:
            x = axis(pair.target)
            parts.append(f'<line class="notch" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 7}" y2="{middle + 7}"/>')
        hollow = " hollow" if pair.floor else ""
        parts.append(f'<circle class="{pair.outcome}{hollow}" cx="{axis(pair.ratio):.1f}" cy="{middle}" r="5"/>')
        parts.append(
            f'<text class="{pair.outcome} end" x="{_WIDTH - 18}" y="{middle + 4.5:.1f}">{_times(pair.ratio)}</text>'
        )
        y += _ROW
    bottom = y + 6
    legend = "point: median · line: smallest to largest · notch: to reach"
    if any(pair.floor for pair in compared):
        legend += " · hollow: a floor, which does less"
    parts.append(f'<text class="soft small" x="18" y="{bottom + 22}">{legend}</text>')
    return _svg(bottom + 36, [*axis.grid(top, bottom), *parts])


def overview(rooms: dict[str, list[Pair]]) -> str:
    """All rooms: a point for each comparison."""
    rooms = {room: [pair for pair in compared if not pair.floor] for room, compared in rooms.items()}
    rooms = {room: compared for room, compared in rooms.items() if compared}
    left, top, step = 120, 48, 40
    medians = [
        Pair(it.scenario, it.title, it.peer, it.ratio, it.ratio, it.ratio, None, False)
        for all_ in rooms.values()
        for it in all_
    ]
    axis = _Axis(medians, left, _WIDTH - 190)
    parts = []
    for number, (room, compared) in enumerate(rooms.items()):
        middle = top + 26 + number * step
        parts.append(f'<text class="bold" x="18" y="{middle + 4.5}">{_title(room)[0]}</text>')
        taken: list[tuple[float, int]] = []
        for pair in sorted(compared, key=lambda it: it.ratio):
            x = axis(pair.ratio)
            # Points that would lie on each other go up and down in turn.
            used = {lane for other, lane in taken if abs(other - x) < 9}
            lane = next((lane for lane in (0, 1, -1) if lane not in used), len(taken) % 3 - 1)
            taken.append((x, lane))
            parts.append(f'<circle class="dot {pair.outcome}" cx="{x:.1f}" cy="{middle + lane * 10}" r="4.5"/>')
        counts = Counter(pair.outcome for pair in compared)
        words = [f'<tspan class="{it}">{counts[it]} {it}</tspan>' for it in ("faster", "slower") if counts[it]]
        parts.append(f'<text class="end small" x="{_WIDTH - 18}" y="{middle + 4.5}">{" · ".join(words)}</text>')
    bottom = top + 26 + len(rooms) * step - 12
    return _svg(bottom + 16, [*axis.grid(top, bottom), *parts])


def _headed(title: str) -> str:
    return title[0].upper() + title[1:]


def _svg(height: float, parts: Iterable[str]) -> str:
    ground = f'<rect class="ground" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="8"/>'
    content = "\n".join([f"<style>{_STYLE}</style>", ground, *parts])
    size_ = f'viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" height="{height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size_}>\n{content}\n</svg>\n'
