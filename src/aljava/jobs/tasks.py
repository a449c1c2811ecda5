"""What a job is made of: tasks that each turn files into one, or look at one, and may be done any number of times.

A task travels to a worker as it is, so all of it can be pickled: its `work` is a function of a module, which the worker
imports. What the work returns travels back, and nothing else.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aljava.jobs.manifest import Entry
from aljava.jobs.sources import Root, Source, shown
from aljava.places.place import Place

if TYPE_CHECKING:
    from aljava.jobs.manifest import Manifest


@dataclass(frozen=True)
class Done:
    """What a task says of one source when it is done."""

    #: Rows that were read of the source.
    rows: int | None = None
    #: Bytes of the output, or of the source where nothing is written.
    bytes: int | None = None
    #: XXH3-64 of the same, in 16 hexadecimal digits.
    checksum: str | None = None
    #: Why the source is one of the failures although the work came to its end: what a verification found.
    failure: str | None = None
    #: What else there is to say, as JSON.
    details: str | None = None
    #: The output, where it is not the task's: relative to the target; "" for none.
    output: str | None = None


@dataclass(frozen=True)
class Task:
    """Work that depends on no other: the same output whenever and wherever it is done, whole or not at all."""

    #: A function of a module: takes the task, returns what it did, for its one source or for each of them.
    work: "Callable[[Task], Done | Sequence[Done]]"
    #: What it reads.
    sources: tuple[Source, ...]
    #: The folder where its output goes, and the name there; None where it writes none.
    target: Root | None = None
    output: str | None = None
    #: What the work needs to know.
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        """The one source of a task that has one."""
        (source,) = self.sources
        return source

    def place(self) -> Place:
        """Where the output goes; its folder is made."""
        assert self.target is not None
        assert self.output is not None
        return self.target.output(self.output)

    @property
    def bytes(self) -> int:
        """Bytes of its sources."""
        return sum(source.size for source in self.sources)


class Known(Protocol):
    """Tells what was done already."""

    def holds(self, task: Task) -> bool:
        """Whether a task need not be done again."""


@dataclass(frozen=True)
class Job:
    """A kind of task, done for many files."""

    #: What it is called, in its manifest: "convert", …
    kind: str
    #: Makes tasks of sources, as these are listed. A generator: what it yields is worked on before the listing ends.
    plan: Callable[[Iterator[Source]], Iterator[Task]]
    #: Where outputs go; None where there are none.
    target: Root | None = None
    #: What decides what the outputs are, as JSON has it: another run with other options is another job.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: Where the manifest is kept; None keeps it beside the outputs, and nowhere where there are none.
    manifest: Place | None = None
    #: What need not be done again, where that is not for each source by itself to say; called once, before any work.
    known: "Callable[[Manifest], Known] | None" = None


def attempt(task: Task) -> list[Entry]:
    """Does a task, and says for each of its sources what became of it: what runs on a worker."""
    start = time.perf_counter()
    try:
        done = task.work(task)
        said = [done] if isinstance(done, Done) else list(done)
    except Exception as error:  # noqa: BLE001 - whatever one file does to its task, the others go on
        return failed(task, explained(error), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    ended = time.time_ns() // 1000
    return [
        Entry(
            source.address,
            source.size,
            source.modified or None,
            "failed" if one.failure else "done",
            one.failure,
            (shown(task.output) if task.output else None) if one.output is None else one.output or None,
            one.rows,
            one.bytes,
            one.checksum,
            one.details,
            seconds,
            ended,
        )
        for source, one in zip(task.sources, said, strict=True)
    ]


def failed(task: Task, reason: str, seconds: float = 0.0) -> list[Entry]:
    """The entries of a task that failed."""
    ended = time.time_ns() // 1000
    rest = (None, None, None, None, None)
    return [
        Entry(source.address, source.size, source.modified or None, "failed", reason, *rest, seconds, ended)
        for source in task.sources
    ]


def explained(error: BaseException) -> str:
    """What went wrong, in one line; of what is not our own, its kind too."""
    from aljava.errors import AljavaError

    text = " ".join(str(error).split())
    return text if isinstance(error, AljavaError) and text else f"{type(error).__name__}: {text}".removesuffix(": ")
