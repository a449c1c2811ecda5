"""From files that are being listed to tasks: ahead of the work, checked, in little memory.

::

    a thread lists ahead ──> names, and 16 bytes each ──> tasks, one by one ──> which are done already?
                                                                                do two make the same output?
"""

import os
import queue
import threading
import time
from array import array
from collections.abc import Iterable, Iterator

from xxhash import xxh3_64_intdigest

from aljava.jobs.sources import Root, Source
from aljava.jobs.tasks import Job, Task
from aljava.places.local import LocalFile

#: Sources that are handed over at once, where nobody waits for them.
BLOCK = 4096
#: Seconds after which who waits takes what there is.
PATIENCE = 0.02
#: Sources after which the thread that lists lets the others go on: the interpreter's lock and ours, let go of and taken
#: again at once, nobody else gets; a listing of a million files, which calls the system all the time, kept both.
POLITE = 64


class Backlog:
    """Sources that a thread of its own lists ahead of who takes them: iterate once.

    Args:
        sources: what is to be listed.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = sources
        #: Blocks of sources; behind the last of them None, or why the listing failed.
        self._ready: queue.SimpleQueue[_Block | BaseException | None] = queue.SimpleQueue()
        #: The one that is being filled; who waits takes it as it is.
        self._filling: _Block | None = None
        self._lock = threading.Lock()
        self._wanted = self._stopped = False
        #: Files that were listed so far, and their bytes.
        self.files = self.bytes = 0
        #: Whether these are all.
        self.complete = False
        self._thread = threading.Thread(target=self._list, name="aljava-listing", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Lets the listing end."""
        self._stopped = True
        self._ready.put(None)
        self._thread.join(1)

    def __iter__(self) -> Iterator[Source]:
        while not self._stopped:
            try:
                block = self._ready.get(timeout=PATIENCE)
            except queue.Empty:
                self._wanted = True
                with self._lock:
                    block, self._filling, self._wanted = self._filling, None, False
                if block is None:
                    continue
            if isinstance(block, BaseException):
                raise block
            if block is None:
                return
            yield from block.taken()

    def _list(self) -> None:
        failure: BaseException | None = None
        try:
            for source in self._sources:
                if self._stopped:
                    return
                with self._lock:
                    block = self._filling
                    if block is None or block.root != source.root or len(block.sizes) >= BLOCK:
                        self._hand_over()
                        block = self._filling = _Block(source.root)
                    block.add(source)
                self.files += 1
                self.bytes += source.size
                if self.files % POLITE == 0 or self._wanted:
                    time.sleep(0.0001)
        except BaseException as error:  # noqa: BLE001 - it is raised where the sources are taken
            failure = error
        with self._lock:
            self._hand_over()
        self.complete = True
        self._ready.put(failure)

    def _hand_over(self) -> None:
        if self._filling is not None:
            self._filling.pack()
            self._ready.put(self._filling)
            self._filling = None


class _Block:
    """Some sources of one folder."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.sizes, self.modified = array("q"), array("q")
        self._names: list[bytes] = []
        self._packed = b""
        self._problems: dict[int, str] = {}

    def add(self, source: Source) -> None:
        if source.problem is not None:
            self._problems[len(self.sizes)] = source.problem
        self.sizes.append(source.size)
        self.modified.append(source.modified)
        self._names.append(os.fsencode(source.name))

    def pack(self) -> None:
        self._packed = b"\0".join(self._names)
        self._names = []

    def taken(self) -> Iterator[Source]:
        for number, name in enumerate(self._names or self._packed.split(b"\0")):
            yield Source(
                self.root,
                os.fsdecode(name),
                self.sizes[number],
                self.modified[number],
                self._problems.get(number),
            )


class Seen:
    """Which keys were met, and with what: a hash table of 12 bytes a slot, where a `set` takes 80 a key.

    Examples:
        >>> seen = Seen()
        >>> [seen.add("a.arrow", "a.csv"), seen.add("a.arrow", "a.csv"), seen.add("a.arrow", "a.parquet")]
        ['new', 'same', 'other']
    """

    def __init__(self) -> None:
        self._allot(1 << 12)
        self._used = 0

    def add(self, key: str, value: str) -> str:
        """Takes note of a key.

        Returns:
            "new", or whether it was met with the "same" value or with an "other".
        """
        hashed = xxh3_64_intdigest(os.fsencode(key)) or 1
        mark = xxh3_64_intdigest(os.fsencode(value)) & 0xFFFFFFFF
        at = self._find(hashed)
        if self._keys[at]:
            return "same" if self._marks[at] == mark else "other"
        self._keys[at], self._marks[at] = hashed, mark
        self._used += 1
        if self._used * 3 > len(self._keys) * 2:
            old = zip(self._keys, self._marks, strict=True)
            self._allot(len(self._keys) * 2)
            for hashed, mark in old:
                if hashed:
                    at = self._find(hashed)
                    self._keys[at], self._marks[at] = hashed, mark
        return "new"

    def _allot(self, slots: int) -> None:
        self._keys, self._marks = array("Q", [0]) * slots, array("I", [0]) * slots

    def _find(self, hashed: int) -> int:
        last = len(self._keys) - 1
        at = hashed & last
        while self._keys[at] and self._keys[at] != hashed:
            at = (at + 1) & last
        return at


def checked(job: Job, sources: Iterable[Source]) -> Iterator[tuple[Task, str | None]]:
    """The tasks of a job, each with what speaks against doing it. A source that is named twice is done once."""
    seen = Seen()
    for task in job.plan(iter(sources)):
        first = task.sources[0]
        problem = next((source.problem for source in task.sources if source.problem), None)
        if problem is None and task.target is not None and task.output is not None:
            problem = _replaces_a_source(task)
        found = seen.add(first.address if task.output is None else task.output, first.address)
        if found == "same":
            continue
        if found == "other":
            problem = (
                f"{task.output} in the target is what another source is made into too: name them apart, or give them "
                "targets of their own"
            )
        yield task, problem


def distinct(sources: Iterable[Source]) -> Iterator[Source]:
    """The sources, each once, for jobs whose tasks take several."""
    seen = Seen()
    return (source for source in sources if seen.add(source.address, "") == "new")


def _replaces_a_source(task: Task) -> str | None:
    assert task.target is not None
    if not task.target.is_local:
        return None
    assert task.output is not None
    path = os.path.join(task.target.address, task.output)
    if not os.path.exists(path):  # as most outputs
        return None
    for source in task.sources:
        place = source.place()
        if isinstance(place, LocalFile):
            try:
                same = os.path.samefile(place.path, path)
            except OSError:  # most outputs are not there yet
                continue
            if same:
                return f"{source.address} would be replaced by what is made of it: choose another target"
    return None
