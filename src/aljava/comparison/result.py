"""`Comparison`: what was measured, what beats what, and the advice that follows from the figures."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from aljava import charts
from aljava.comparison.contenders import contender

#: What a byte costs beyond the codec, in bytes a second: "balanced" counts the way to a plain SSD or through a
#: 5 Gbit/s line and back; "speed" counts the machine's memory only; for "size" any byte outweighs any time.
GOALS = {"speed": 10e9, "balanced": 0.5e9, "size": 1.0}

#: Times closer than this are the noise of a busy machine: then the codec that leaves more columns uncopied wins.
NOISE = 0.05

#: The goals in words.
GOAL_WORDS = {"speed": "speed", "size": "the smallest size", "balanced": "a balance of size and speed"}


@dataclass(frozen=True)
class ColumnMeasured:
    """What one codec did with one column."""

    name: str
    #: The column's type, in Arrow's words.
    type: str
    #: Bytes of it in memory.
    memory: int
    #: Bytes of it in the file, without what frames it and without a dictionary; None where the format does not tell.
    bytes: int | None
    #: Seconds to open the file and read this column alone, the median of the runs; None where that was not timed.
    read_seconds: float | None
    #: Whether a reader takes it from the memory map without copying a byte.
    raw: bool


@dataclass(frozen=True)
class Measured:
    """What one codec did with the data."""

    #: The codec, as `aljava.write` takes it; or "parquet" or "pickle".
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
    #: The largest columns one by one, the largest first; empty where that was not asked for.
    by_column: tuple[ColumnMeasured, ...] = ()
    #: Bytes of memory of its own that a fresh process takes at the peak of writing, and of reading; None where the
    #: system does not tell.
    peaks: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        """Seconds to write and to read."""
        return self.write_seconds + self.read_seconds

    @property
    def column_seconds(self) -> float | None:
        """Seconds to open the file and read one column: the median of the columns that were timed, the largest."""
        timed = [it.read_seconds for it in self.by_column if it.read_seconds is not None]
        return statistics.median(timed) if timed else None

    @property
    def peak(self) -> int | None:
        """The greater of the two peaks."""
        return None if self.peaks is None else max(self.peaks)


@dataclass(frozen=True, repr=False)
class Comparison:
    """What `aljava.compare` measured, and what follows from it. Shows itself in a terminal and in a notebook.

    Examples:
        >>> import aljava
        >>> comparison = aljava.compare({"id": range(1000)}, codecs=["none", "zstd"], repeat=1)
        >>> comparison.choose("size").codec
        'zstd'
        >>> comparison.columns.select(["column", "codec", "zero_copy"]).to_pylist()[0]
        {'column': 'id', 'codec': 'none', 'zero_copy': True}
        >>> comparison.advise("size").partition(":")[0]
        'For the smallest size, write this data with compression="zstd"'
        >>> comparison.to_dict()["advice"]["balanced"] == comparison.advice
        True
        >>> comparison.to_html().startswith("<!doctype html>")
        True
        >>> comparison.plot().axes[0].get_xlabel()
        'seconds to write and read'
    """

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
    #: What there is to say about the measurement: that it is of a sample, what was left out.
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> pa.Table:
        """The figures: one row a codec; sizes and memory in bytes, times in seconds."""
        beaten = self.dominated
        rows = [
            {
                "codec": it.codec,
                "bytes": it.bytes,
                "ratio": it.bytes / self.bytes if self.bytes else 1.0,
                "write_seconds": it.write_seconds,
                "read_seconds": it.read_seconds,
                "column_seconds": it.column_seconds,
                "zero_copy_columns": len(it.raw_columns),
                "columns": it.columns,
                "zero_copy_share": len(it.raw_columns) / it.columns if it.columns else 1.0,
                "write_peak_bytes": it.peaks[0] if it.peaks else None,
                "read_peak_bytes": it.peaks[1] if it.peaks else None,
                "dominated_by": beaten.get(it.codec),
            }
            for it in self.measured
        ]
        return pa.Table.from_pylist(rows, _TABLE)

    @property
    def columns(self) -> pa.Table:
        """The same column by column, the largest first: one row for each column and codec."""
        rows = [
            {
                "column": column.name,
                "type": column.type,
                "codec": it.codec,
                "memory_bytes": column.memory,
                "bytes": column.bytes,
                "ratio": column.bytes / column.memory if column.memory and column.bytes is not None else None,
                "read_seconds": column.read_seconds,
                "zero_copy": column.raw,
            }
            for it in self.measured
            for column in it.by_column
        ]
        return pa.Table.from_pylist(rows, _COLUMNS)

    @property
    def dominated(self) -> dict[str, str]:
        """The codecs that another beats or equals in size and in time to write and read, and which one does."""
        found = {}
        for it in self.measured:
            better = [
                other
                for other in self.measured
                if other.bytes <= it.bytes
                and other.seconds <= it.seconds
                and (other.bytes, other.seconds) != (it.bytes, it.seconds)
            ]
            if better:
                found[it.codec] = min(
                    better, key=lambda other: other.seconds / it.seconds + other.bytes / it.bytes
                ).codec
        return found

    def choose(self, goal: str) -> Measured:
        """The codec that serves a goal best: "speed", "size" or "balanced"."""
        eligible = [it for it in self.measured if contender(it.codec).advisable] or list(self.measured)
        best = min(eligible, key=lambda it: _cost(it, goal))
        # Sizes are exact, times are not.
        noise = NOISE * best.seconds
        close = [it for it in eligible if _cost(it, goal) <= _cost(best, goal) + noise]
        return max(close, key=lambda it: (len(it.raw_columns), -_cost(it, goal)))

    @property
    def choice(self) -> Measured:
        """The codec that serves the goal best."""
        return self.choose(self.goal)

    @property
    def advice(self) -> str:
        """What to choose for the goal, and why, in a sentence."""
        return self.advise(self.goal)

    def advise(self, goal: str) -> str:
        """What to choose for a goal, "speed", "size" or "balanced", and why, in a sentence."""
        if not self.rows:
            return "The table has no rows: any codec will do."
        best = self.choose(goal)
        sentence = f"For {GOAL_WORDS[goal]}, write this data {contender(best.codec).words}: "
        sentence += (
            f"{charts.size(best.bytes)} ({charts.share(best.bytes, self.bytes)} of its size in memory), written in "
            f"{charts.seconds(best.write_seconds)} and read in {charts.seconds(best.read_seconds)}"
        )
        if best.raw_columns:
            kept = "all" if len(best.raw_columns) == best.columns else f"{len(best.raw_columns)} of {best.columns}"
            sentence += f", {kept} columns without a copy"
        rivals = [it for it in self.measured if it.codec != best.codec and contender(it.codec).advisable]
        if not rivals:
            return sentence + "."
        smallest, fastest = min(rivals, key=lambda it: it.bytes), min(rivals, key=lambda it: it.seconds)
        is_smallest, is_fastest = best.bytes <= smallest.bytes, best.seconds <= fastest.seconds
        ignored = [it for it in self.measured if not contender(it.codec).advisable]
        smaller = _nothing_else(it.codec for it in ignored if it.bytes < best.bytes)
        faster = _nothing_else(it.codec for it in ignored if it.seconds < best.seconds)
        if is_smallest and is_fastest:
            told_both = f"{smaller} is smaller or takes less time"
            return (
                f"{sentence}; {told_both if smaller == faster else f'{smaller} is smaller, {faster} takes less time'}."
            )
        told = dict.fromkeys([smallest] * (not is_smallest) + [fastest] * (not is_fastest))
        best_of_all = f"{smaller} is smaller, and " * is_smallest + f"{faster} takes less time, and " * is_fastest
        return f"{sentence}; {best_of_all}{', and '.join(_against(best, it) for it in told)}."

    def to_html(self) -> str:
        """A page that stands by itself: figures, charts and advice, without a network, in light and dark."""
        from aljava.comparison import shown

        return shown.page(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "rows": self.rows,
            "total_rows": self.total_rows,
            "memory_bytes": self.bytes,
            "goal": self.goal,
            "choice": self.choice.codec,
            "advice": {goal: self.advise(goal) for goal in GOALS},
            "notes": list(self.notes),
            "codecs": self.table.to_pylist(),
            "columns": self.columns.to_pylist(),
        }

    def plot(self) -> Any:
        """Size against time, as a matplotlib `Figure`; hollow is what another beats on both.

        Raises:
            MissingDependency: matplotlib is not installed (`pip install 'aljava[plot]'`).
        """
        from aljava.comparison import shown

        return shown.figure(self)

    def __repr__(self) -> str:
        from aljava.comparison import shown

        return shown.text(self)

    def _repr_html_(self) -> str:
        from aljava.comparison import shown

        return shown.notebook(self)


def _nothing_else(ignored: Iterable[str]) -> str:
    names = " or ".join(ignored)
    return f"nothing else but {names}, which is not advised," if names else "nothing else"


_TABLE = pa.schema(
    {
        "codec": pa.string(),
        "bytes": pa.int64(),
        "ratio": pa.float64(),
        "write_seconds": pa.float64(),
        "read_seconds": pa.float64(),
        "column_seconds": pa.float64(),
        "zero_copy_columns": pa.int64(),
        "columns": pa.int64(),
        "zero_copy_share": pa.float64(),
        "write_peak_bytes": pa.int64(),
        "read_peak_bytes": pa.int64(),
        "dominated_by": pa.string(),
    }
)
_COLUMNS = pa.schema(
    {
        "column": pa.string(),
        "type": pa.string(),
        "codec": pa.string(),
        "memory_bytes": pa.int64(),
        "bytes": pa.int64(),
        "ratio": pa.float64(),
        "read_seconds": pa.float64(),
        "zero_copy": pa.bool_(),
    }
)


def _cost(it: Measured, goal: str) -> float:
    return it.seconds + it.bytes / GOALS[goal]


def _against(best: Measured, it: Measured) -> str:
    """A rival in words: what it gains, and what it costs."""
    size, time = it.bytes / max(best.bytes, 1), it.seconds / best.seconds if best.seconds else 1.0
    same_size, same_time = abs(size - 1) < 0.005, abs(time - 1) < 0.005
    if same_size:
        of_size = "is as large"
    elif size < 1:
        of_size = f"is {_part(1 - size)} smaller"
    else:
        of_size = f"is {size:.1f} times as large" if size >= 2 else f"is {_part(size - 1)} larger"
    if same_time:
        of_time = "takes as long"
    elif time < 1:
        of_time = f"takes {_part(1 - time)} less time"
    else:
        of_time = f"takes {time:.1f} times as long" if time >= 2 else f"takes {_part(time - 1)} longer"
    opposed = not same_size and not same_time and (size < 1) != (time < 1)
    return f"{it.codec} {of_size} {'but' if opposed else 'and'} {of_time}"


def _part(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"
