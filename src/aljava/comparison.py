"""Which codec to choose, measured on this data and on this machine.

Each codec writes the data to a file and reads it back until every page of it is in memory, so that a memory map gains
nothing by putting its work off. What comes back is compared with what went in before a figure counts.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from aljava import api, charts
from aljava.errors import InvalidData, InvalidOption, MissingDependency
from aljava.frames import to_table
from aljava.placement import data_buffers, placement, span

CODECS = ("none", "lz4", "zstd:1", "zstd:3", "zstd:9", "auto")

# What a byte costs beyond the codec, in bytes a second: "balanced" counts the way to a plain SSD or through a
# 5 Gbit/s line and back; "speed" counts the machine's memory only; for "size" any byte outweighs any time.
GOALS = {"speed": 10e9, "balanced": 0.5e9, "size": 1.0}

# Times closer than this are the noise of a busy machine: then the codec that leaves more columns uncopied wins.
NOISE = 0.05

# More data than this is sampled unless the caller says how much to take: zstd:9 writes about 50 MB/s.
SAMPLE_BYTES = 256 << 20
SAMPLE_PIECES = 8


@dataclass(frozen=True)
class Measured:
    """What one codec did with the data."""

    #: The codec, as `aljava.write` takes it.
    codec: str
    #: Bytes of the file.
    bytes: int
    #: Seconds to write it: the median of the runs.
    write_seconds: float
    #: Seconds to read it until all of it is in memory: the median of the runs.
    read_seconds: float
    #: Names of the columns left raw, which a reader takes from the memory map without copying a byte.
    raw_columns: tuple[str, ...]
    #: Columns of the data.
    columns: int


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` measured, and what follows from it."""

    #: One entry a codec, in the order asked for.
    measured: tuple[Measured, ...]
    #: Rows that were measured.
    rows: int
    #: Rows of the data; more than `rows` where a sample was measured.
    total_rows: int
    #: Bytes of the measured rows in memory.
    bytes: int
    #: What to choose for: "speed", "size" or "balanced".
    goal: str

    @property
    def table(self) -> pa.Table:
        """The figures: one row a codec."""
        return pa.table(
            {
                "codec": [it.codec for it in self.measured],
                "bytes": pa.array([it.bytes for it in self.measured], pa.int64()),
                "ratio": [it.bytes / self.bytes if self.bytes else 1.0 for it in self.measured],
                "write_seconds": [it.write_seconds for it in self.measured],
                "read_seconds": [it.read_seconds for it in self.measured],
                "zero_copy_columns": pa.array([len(it.raw_columns) for it in self.measured], pa.int64()),
                "columns": pa.array([it.columns for it in self.measured], pa.int64()),
            }
        )

    @property
    def choice(self) -> Measured:
        """The codec that serves the goal best."""
        best = min(self.measured, key=self._cost)
        # Sizes are exact, times are not.
        noise = NOISE * (best.write_seconds + best.read_seconds)
        close = [it for it in self.measured if self._cost(it) <= self._cost(best) + noise]
        return max(close, key=lambda it: (len(it.raw_columns), -self._cost(it)))

    @property
    def advice(self) -> str:
        """What to choose for the goal, and why, in a sentence."""
        if not self.rows:
            return "The table has no rows: any codec will do."
        best = self.choice
        others = [it for it in self.measured if it is not best]
        sentence = f'For {_GOAL_WORDS[self.goal]}, write this data with compression="{best.codec}": '
        sentence += (
            f"{charts.size(best.bytes)} ({_percent(best.bytes, self.bytes)} of its size in memory), written in "
            f"{charts.seconds(best.write_seconds)} and read in {charts.seconds(best.read_seconds)}"
        )
        if best.raw_columns:
            kept = "all" if len(best.raw_columns) == best.columns else f"{len(best.raw_columns)} of {best.columns}"
            sentence += f", {kept} columns without a copy"
        if others:
            runner_up = min(others, key=self._cost)
            sentence += (
                f"; the next best, {runner_up.codec}, takes {charts.size(runner_up.bytes)}, "
                f"{charts.seconds(runner_up.write_seconds)} and {charts.seconds(runner_up.read_seconds)}"
            )
        return sentence + "."

    def to_html(self) -> str:
        """A page that stands by itself: figures, charts and advice, without a network."""
        about = f"{self.rows:,} rows, {charts.size(self.bytes)} in memory, written and read with each codec."
        return charts.page("Codecs compared", f"<h1>Codecs compared</h1>{charts.paragraph(about)}{self._repr_html_()}")

    def plot(self) -> Any:
        """Size against time, as a matplotlib `Figure`: what lies left of and below another codec beats it.

        Raises:
            MissingDependency: matplotlib is not installed (`pip install 'aljava[plot]'`).
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependency("this needs matplotlib: pip install 'aljava[plot]'") from error
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        times = [it.write_seconds + it.read_seconds for it in self.measured]
        sizes = [it.bytes / 1e6 for it in self.measured]
        axes.scatter(times, sizes, color="#0f766e")
        for it, x, y in zip(self.measured, times, sizes, strict=True):
            axes.annotate(it.codec, (x, y), textcoords="offset points", xytext=(6, 4))
        axes.set(xlabel="seconds to write and read", ylabel="size (MB)", title=f"{self.rows:,} rows", ylim=(0, None))
        return figure

    def __repr__(self) -> str:
        lines = [f"{'codec':<8}{'size':>10}{'ratio':>8}{'write':>10}{'read':>10}{'zero-copy':>11}"]
        lines += [
            f"{it.codec:<8}{charts.size(it.bytes):>10}{_percent(it.bytes, self.bytes):>8}"
            f"{charts.seconds(it.write_seconds):>10}{charts.seconds(it.read_seconds):>10}"
            f"{f'{len(it.raw_columns)}/{it.columns}':>11}"
            for it in self.measured
        ]
        return "\n".join([*lines, self.note, self.advice]).replace("\n\n", "\n")

    def _repr_html_(self) -> str:
        shown = charts.callout(self.advice) + charts.paragraph(self.note) + charts.comparison(self)
        return f'<div class="aljava">{charts.style()}{shown}</div>'

    @property
    def note(self) -> str:
        """Says so where a sample was measured; empty otherwise."""
        if self.rows == self.total_rows:
            return ""
        return f"Measured on a sample: {self.rows:,} of {self.total_rows:,} rows, taken from {SAMPLE_PIECES} places."

    def _cost(self, it: Measured) -> float:
        return it.write_seconds + it.read_seconds + it.bytes / GOALS[self.goal]


_GOAL_WORDS = {"speed": "speed", "size": "the smallest size", "balanced": "a balance of size and speed"}


def compare(
    data: Any,
    *,
    codecs: Sequence[str] | None = None,
    repeat: int = 3,
    sample: int | None = None,
    goal: str = "balanced",
) -> Comparison:
    """Measures codecs on this data, on this machine.

    Args:
        data: anything table-like, as `aljava.write` takes it, or an address as `aljava.read` takes it.
        codecs: what to compare, as `aljava.write` takes it; by default none, lz4, zstd 1, 3 and 9, and auto.
        repeat: runs of each codec; the median counts.
        sample: rows to measure, taken in pieces from all over the data; by default all rows up to 256 MiB, and as many
            as that holds of more.
        goal: what the advice is for: "speed", "size" or "balanced" (a byte costs what a plain SSD takes to move it).

    Returns:
        a `Comparison`: `table` with the figures, `advice`, `to_html()`, `plot()`.

    Raises:
        InvalidOption: an unknown codec or goal, no run, no row.
        UnsupportedType: `data` is not table-like.
        InvalidData: what was read back differs from what was written.

    Examples:
        >>> comparison = compare({"id": range(1000)}, codecs=["none", "zstd"], repeat=1)
        >>> comparison.table.column("codec").to_pylist()
        ['none', 'zstd']
    """
    names = CODECS if codecs is None else tuple(codecs)
    if goal not in GOALS:
        raise InvalidOption(f"goal {goal!r} is none of {', '.join(GOALS)}")
    if not names:
        raise InvalidOption("no codec to compare: name at least one")
    if repeat < 1:
        raise InvalidOption(f"repeat is {repeat}: it must be at least 1")
    if sample is not None and sample < 1:
        raise InvalidOption(f"sample is {sample}: it must be at least 1 row")
    table = api.read(data) if isinstance(data, str | bytes | os.PathLike | pa.Buffer) else to_table(data)
    measured_rows = take_sample(table, sample)
    with tempfile.TemporaryDirectory(prefix="aljava-compare-") as folder:
        path = os.path.join(folder, "data.arrow")
        runs: dict[str, list[Measured]] = {name: [] for name in names}
        # The codecs take turns, so that a machine that slows down does so for all of them.
        for run in range(repeat):
            for name in names:
                runs[name].append(measure(measured_rows, name, path, check=run == 0))
    return Comparison(
        tuple(_median(of_codec) for of_codec in runs.values()),
        measured_rows.num_rows,
        table.num_rows,
        measured_rows.nbytes,
        goal,
    )


def measure(table: pa.Table, codec: str, path: str, *, check: bool = True) -> Measured:
    """Writes the table to a file with a codec, and reads it back.

    Args:
        table: the data.
        codec: as `aljava.write` takes it.
        path: the file to write; it is left there.
        check: compare what came back with what went in (not timed).

    Raises:
        InvalidOption: an unknown codec.
        InvalidData: what came back differs.
    """
    from aljava.sameness import difference

    written = api.write(table, path, compression=codec)
    start = time.perf_counter()
    content = pa.memory_map(path).read_buffer()
    found = api.read(content)
    _touch(found)
    seconds = time.perf_counter() - start
    if check and (wrong := difference(table, found)):
        raise InvalidData(f"what was written with compression={codec!r} came back changed: {wrong}")
    place = placement(found, [span(content)])
    return Measured(codec, content.size, written.seconds, seconds, place.columns_inside, found.num_columns)


def take_sample(table: pa.Table, rows: int | None) -> pa.Table:
    """Some rows of a table, in pieces taken from all over it; all of them where they are few enough.

    Args:
        table: the data.
        rows: how many rows to take; None for as many as 256 MiB hold.
    """
    if rows is None:
        rows = table.num_rows if table.nbytes <= SAMPLE_BYTES else table.num_rows * SAMPLE_BYTES // table.nbytes
    if rows >= table.num_rows:
        return table
    pieces = min(SAMPLE_PIECES, rows)
    cuts = [rows * index // pieces for index in range(pieces + 1)]
    starts = [(table.num_rows - rows) * index // max(1, pieces - 1) + cuts[index] for index in range(pieces)]
    return pa.concat_tables([table.slice(start, cuts[index + 1] - cuts[index]) for index, start in enumerate(starts)])


def _touch(table: pa.Table) -> None:
    """Reads one byte of each page: what is mapped is in memory after this, as what is copied has been before."""
    import numpy as np

    for column in table.columns:
        for buffer in data_buffers(column):
            np.frombuffer(buffer, np.uint8)[::4096].max()


def _median(runs: list[Measured]) -> Measured:
    first = runs[0]
    return Measured(
        first.codec,
        first.bytes,
        statistics.median(run.write_seconds for run in runs),
        statistics.median(run.read_seconds for run in runs),
        first.raw_columns,
        first.columns,
    )


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
