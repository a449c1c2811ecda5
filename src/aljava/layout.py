"""Where the bytes of an IPC file are: by column, and by what they are for."""

from collections import Counter
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa

from aljava import charts
from aljava.address import locate
from aljava.errors import UnsupportedType
from aljava.fragments import IpcFile, open_fragment
from aljava.ipc.lowering import Kind, Plan
from aljava.ipc.metadata import BatchHeader

#: What stands in place of a column's name for bytes that belong to none.
FRAME = ""
#: Columns that a page draws: the largest.
DRAWN_COLUMNS = 60
_NAMES = {Kind.BITS: "bits", Kind.FIXED: "values", Kind.OFFSETS: "offsets", Kind.DATA: "text and bytes"}


@dataclass(frozen=True)
class Layout:
    """Where the bytes of a file are."""

    #: What was looked at.
    address: str
    #: Bytes of the file.
    size: int
    #: (column, kind, bytes): what the buffers of a column take, as stored; under the empty name what frames them.
    parts: tuple[tuple[str, str, int], ...]

    def table(self) -> pa.Table:
        """The same as a table: `column`, `kind`, `bytes` and `share` of the file."""
        columns = zip(*self.parts, strict=True)
        names, kinds, sizes = (list(column) for column in columns)
        return pa.table({"column": names, "kind": kinds, "bytes": sizes, "share": [size / self.size for size in sizes]})

    def by_column(self) -> dict[str, int]:
        """Bytes of each column, and under the empty name of what frames them."""
        total: Counter[str] = Counter()
        for name, _, size in self.parts:
            total[name] += size
        return dict(total)

    def to_html(self) -> str:
        """A page that stands by itself: a bar for each column, made of what its bytes are for, and the figures."""
        parts: dict[str, list[tuple[str, float]]] = {}
        for name, kind, size in self.parts:
            parts.setdefault(name, []).append((kind, size))
        total = self.by_column()
        drawn = sorted((name for name in parts if name != FRAME), key=lambda name: -total[name])[:DRAWN_COLUMNS]
        framing = total.get(FRAME, 0)
        shown = [charts.Stack(name or "no name", tuple(parts[name]), self._told(total[name])) for name in drawn]
        shown.append(charts.Stack("framing", (("framing", framing),), self._told(framing)))
        count = len(parts) - (FRAME in parts)
        figures = (charts.size(self.size), "the file"), (f"{count:,}", "columns"), (charts.size(framing), "framing")
        body = f"<h1>{escape(self.address)}</h1>" + charts.paragraph("Where the bytes of this Arrow IPC file are.")
        body += charts.facts(figures)
        if count > len(drawn):
            body += charts.paragraph(f"The {len(drawn)} largest of {count:,} columns.")
        body += charts.stacked("Bytes by column, and by what they are for", shown)
        rows = [
            [escape(name) or '<span class="soft">framing</span>', escape(kind), f"{size:,}", f"{size / self.size:.2%}"]
            for name, kind, size in self.parts
            if name == FRAME or name in drawn
        ]
        header = "column", "what for", "bytes", "of the file"
        body += charts.table(header, rows, numeric=[2, 3], widths=[35, 35, 15, 15])
        return charts.page(f"Layout of {self.address}", body)

    def _told(self, size: int) -> str:
        return f"{charts.size(size)}, {size / self.size:.1%}"


def layout(address: Any) -> Layout:
    """Where the bytes of an IPC file are.

    Args:
        address: as in `aljava.open`, of one file.

    Raises:
        UnsupportedType: no IPC file: other formats do not say where their columns are.

    Example:
        >>> import aljava, tempfile
        >>> path = tempfile.mkdtemp() + "/table.arrow"
        >>> _ = aljava.write({"id": range(1000), "text": ["x"] * 1000}, path, compression="none")
        >>> layout(path).by_column()["id"]
        8000
    """
    place = locate(address)
    fragment = open_fragment(place)
    if not isinstance(fragment, IpcFile):
        raise UnsupportedType(f"{place.address} is {fragment.format.value}: layout looks into Arrow IPC files")
    plan = Plan.of(fragment.schema)
    found: Counter[tuple[str, str]] = Counter()
    bodies = used = 0
    for header in fragment.headers():
        assert header.batch is not None
        bodies += header.body_length
        used += _count(header.batch, plan, fragment.schema.names, found)
    dictionaries = sum(block.metadata_length + block.body_length for block in fragment.footer.dictionaries)
    metadata = sum(block.metadata_length for block in fragment.footer.batches)
    end = max((block.end for block in (*fragment.footer.batches, *fragment.footer.dictionaries)), default=0)
    frame = {
        "dictionaries": dictionaries,
        "batch metadata": metadata,
        "padding in batches": bodies - used,
        "schema": fragment.schema_end,
        **{f"footer: {key.decode('utf-8', 'replace')}": len(value) for key, value in fragment.footer.metadata},
    }
    rest = fragment.nbytes - sum(found.values()) - sum(frame.values())
    frame["footer and the rest" if end else "the rest"] = rest
    parts = [(name, kind, size) for (name, kind), size in found.items() if size]
    parts += [(FRAME, kind, size) for kind, size in frame.items() if size]
    return Layout(place.address, fragment.nbytes, tuple(parts))


def _count(batch: BatchHeader, plan: Plan, names: list[str], found: "Counter[tuple[str, str]]") -> int:
    """Adds the buffers of a batch to what was found; returns their bytes."""
    kinds = [_NAMES.get(Kind(kind), "views") for kind in plan.kind.tolist()]
    owners = np.searchsorted(plan.columns, np.arange(len(kinds)), side="right") - 1
    # The data buffers of views follow them, and are not in the plan.
    variadic = dict(zip(plan.views, batch.variadic, strict=True))
    at = total = 0
    lengths = batch.buffers[:, 1].tolist()
    for number, kind in enumerate(kinds):
        size, more = lengths[at], sum(lengths[at + 1 : at + 1 + variadic.get(number, 0)])
        name = names[int(owners[number])]
        found[name, "views" if number in variadic else kind] += size
        found[name, "text and bytes"] += more
        at += 1 + variadic.get(number, 0)
        total += size + more
    return total
