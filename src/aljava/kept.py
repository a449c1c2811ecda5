"""Files of this machine that queries have read, kept open for the next query over them.

Whoever asks one thing of a file asks another. To open it again costs more than reading a few columns of it: each page
of a new memory map is a fault, and footer, statistics and projections are decoded anew. TPC-H 6 over a file of 1.1 GB
took 37 ms, of which that was 12.

What is kept is a memory map and what was decoded. It is used again while the file is the one that it was: same inode,
same size, same times. A file that was changed within the last moments is not kept, as its next change could fall into
the same tick of the clock. Objects in shared memory are never kept: who maps one keeps the store from recycling it.
"""

import os
import threading
import time
from collections import OrderedDict
from typing import Any

from aljava.fragments import Fragment, open_fragment
from aljava.places.local import LocalFile
from aljava.places.place import Place

#: Files that are kept open at most, those used last.
MOST = 64
#: Nanoseconds that a file must have been as it is: the clocks of file systems tick in milliseconds, some in seconds.
SETTLED = 2_000_000_000

_Identity = tuple[int, int, int, int, int]


class KeptFiles:
    """Opens payloads, and keeps files of this machine open. Threads may share it; a forked child starts with none.

    Example:
        >>> import aljava, tempfile
        >>> path = tempfile.mkdtemp() + "/x.arrow"
        >>> _ = aljava.write({"id": [1, 2, 3]}, path)
        >>> kept = KeptFiles(settled=0)
        >>> kept.open(LocalFile(path)) is kept.open(LocalFile(path))
        True
    """

    def __init__(self, most: int = MOST, settled: int = SETTLED) -> None:
        self._most, self._settled = most, settled
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A new lock too: in a forked child, the old one may belong to a thread that is not there.
        self._lock = threading.Lock()
        self._found: OrderedDict[str, tuple[_Identity, Fragment]] = OrderedDict()

    def open(self, place: Place, **options: Any) -> Fragment:
        """The payload at a place; options as of `open_fragment`, the same at each call."""
        if not isinstance(place, LocalFile):
            return open_fragment(place, **options)
        before = _identity(place.path)
        with self._lock:
            found = self._found.get(place.path)
            if found is not None and found[0] == before:
                self._found.move_to_end(place.path)
                return found[1]
        fragment = open_fragment(place, **options)
        with self._lock:
            self._drop_what_is_gone()
            if before is not None and before == _identity(place.path) and self._is_settled(before):
                self._found[place.path] = before, fragment
                if len(self._found) > self._most:
                    self._found.popitem(last=False)
        return fragment

    def _drop_what_is_gone(self) -> None:
        """Lets go of files that were deleted or changed: as long as they are mapped, their space is not free."""
        for path in [path for path, (identity, _) in self._found.items() if identity != _identity(path)]:
            del self._found[path]

    def _is_settled(self, identity: _Identity) -> bool:
        return max(identity[3:]) + self._settled < time.time_ns()


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
