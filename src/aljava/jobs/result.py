"""How far a job is, and what became of it."""

import html
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from aljava import charts

if TYPE_CHECKING:
    from aljava.jobs.manifest import Manifest

#: Failures that a result shows.
SHOWN = 20


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    #: Files that are through: done now, done before, or failed.
    files: int
    #: How many of those failed, and how many an earlier run had done.
    failed: int
    kept: int
    #: Files that were listed so far.
    files_listed: int
    #: Bytes of the files that are through, and of those that were listed so far.
    bytes: int
    bytes_listed: int
    #: Whether the listing has come to its end, so that these are all.
    listed: bool
    #: How long it took so far.
    seconds: float
    #: How long the rest will take, at the pace so far; None before the listing has ended.
    remaining: float | None


@dataclass(frozen=True)
class Result:
    """What a job did."""

    #: "convert", "verify", …
    kind: str
    #: Files that were done now.
    done: int
    #: Files that an earlier run had done, and that have not changed.
    kept: int
    #: Files that failed.
    failed: int
    #: Rows of the files that were done now.
    rows: int
    #: Bytes of their sources, and of what was made of them (of the sources, where nothing is made).
    bytes_read: int
    bytes: int
    #: How long it took.
    seconds: float
    #: Where the manifest stands; None where it was not kept.
    manifest: str | None
    #: When it began, in microseconds since 1970.
    began: int = field(repr=False)
    _manifest: "Manifest" = field(repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether no file failed."""
        return not self.failed

    @property
    def table(self) -> pa.Table:
        """A row for each source, of this run and of earlier ones: the manifest."""
        return self._manifest.table()

    @property
    def failures(self) -> pa.Table:
        """The sources that failed now, with `reason`."""
        table = self.table
        began = pa.scalar(self.began, pa.timestamp("us", "UTC"))
        return table.filter((pa.compute.field("status") == "failed") & (pa.compute.field("ended") >= began))

    def summary(self) -> str:
        """What was done, in one line."""
        files = f"{self.done:,} file{'s' * (self.done != 1)}"
        kept = f", {self.kept:,} done before" if self.kept else ""
        failed = f", {self.failed:,} failed" if self.failed else ""
        sizes = charts.size(self.bytes_read)
        if self.bytes and self.bytes != self.bytes_read:
            sizes += f" to {charts.size(self.bytes)}"
        return f"{self.kind}: {files}{kept}{failed}; {self.rows:,} rows, {sizes} in {charts.seconds(self.seconds)}"

    def __repr__(self) -> str:
        lines = [self.summary()]
        if self.failed:
            lines += [f"  {row['source']}: {row['reason']}" for row in self.failures.slice(0, SHOWN).to_pylist()]
            if self.failed > SHOWN:
                lines.append(f"  and {self.failed - SHOWN:,} more: see .failures")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        text = f"<p>{html.escape(self.summary())}</p>"
        if not self.failed:
            return text
        rows: list[dict[str, Any]] = self.failures.slice(0, SHOWN).to_pylist()
        cells = "".join(
            f"<tr><td style='text-align:left'>{html.escape(row['source'])}</td>"
            f"<td style='text-align:left'>{html.escape(row['reason'] or '')}</td></tr>"
            for row in rows
        )
        more = f"<p>and {self.failed - SHOWN:,} more: <code>.failures</code></p>" if self.failed > SHOWN else ""
        header = "<thead><tr><th>failed</th><th>why</th></tr></thead>"
        return f"{text}<table class='figures'>{header}<tbody>{cells}</tbody></table>{more}"
