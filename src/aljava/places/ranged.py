"""Reading by range: a file object over anything that can hand out the bytes from here to there.

Remote bytes are paid for by the request and by the byte. So the end of the file, where a footer stands, comes with
one request and is kept; what a caller knows that it will need is fetched together, neighbours in one request
and requests side by side.
"""

import bisect
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from aljava.errors import TransferError

# Most footers fit, and it costs one round trip whether it is 1 KB or this.
TAIL = 64 << 10
# Two ranges closer than this come in one request: the bytes between them cost less than a round trip.
GAP = 16 << 10
# Requests under way at a time.
REQUESTS = 8


class RangedSource(pa.PythonFile):
    """A file of pyarrow over a `RangedFile`, made as `RangedSource(ranged, mode="r")`."""

    def __init__(self, ranged: "RangedFile", mode: str) -> None:
        self.ranged = ranged


Fetch = Callable[[int, int], bytes]


class RangedFile(io.RawIOBase):
    """A read-only binary file over a function that fetches bytes.

    As a file it belongs to one thread at a time; `fetch` is for all.

    Args:
        fetch: called with the first and the last byte + 1, returns that many bytes; threads may call it at once.
        size: bytes in all.
        address: for messages.
        tail: the last bytes, where they are known already.

    Example:
        >>> content = bytes(range(256)) * 1000
        >>> file = RangedFile(lambda low, high: content[low:high], len(content), "example")
        >>> _ = file.seek(-2, io.SEEK_END)
        >>> file.read()
        b'\\xfe\\xff'
    """

    def __init__(self, fetch: Fetch, size: int, address: str, tail: bytes | None = None) -> None:
        self._fetch, self.size, self._address = fetch, size, address
        self._at = 0
        self._tail = tail
        self._lock = threading.Lock()

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """The bytes of ranges (first byte, last byte + 1): neighbours in one request, requests side by side.

        Threads may call this at once.
        """
        spans: list[list[int]] = []
        for low, high in sorted(ranges):
            if spans and low - spans[-1][1] <= GAP:
                spans[-1][1] = max(high, spans[-1][1])
            else:
                spans.append([low, high])
        if len(spans) > 1:
            with ThreadPoolExecutor(min(REQUESTS, len(spans))) as pool:
                parts = list(pool.map(lambda span: self._span(*span), spans))
        else:
            parts = [self._span(*span) for span in spans]
        starts = [low for low, _ in spans]
        found = []
        for low, high in ranges:
            number = bisect.bisect_right(starts, low) - 1
            found.append(memoryview(parts[number])[low - starts[number] : high - starts[number]])
        return found

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        high = self.size if size is None or size < 0 else min(self.size, self._at + size)
        low, self._at = self._at, max(high, self._at)
        return self._span(low, high) if low < high else b""

    def read_buffer(self, size: int) -> pa.Buffer:
        """What pyarrow calls in place of `read`, so as not to copy."""
        return pa.py_buffer(self.read(size))

    def _span(self, low: int, high: int) -> bytes:
        if low >= self._tail_start():
            end = self._end()
            return end[low - self._tail_start() : high - self._tail_start()]
        return self._exactly(low, high)

    def _tail_start(self) -> int:
        return max(0, self.size - (TAIL if self._tail is None else len(self._tail)))

    def _end(self) -> bytes:
        with self._lock:
            if self._tail is None:
                self._tail = self._exactly(self._tail_start(), self.size)
            return self._tail

    def _exactly(self, low: int, high: int) -> bytes:
        part = self._fetch(low, high)
        if len(part) != high - low:
            raise TransferError(
                f"{self._address}: bytes {low:,} to {high:,} were asked for and {len(part):,} came; "
                "the connection was cut, or the object was replaced meanwhile. Try again"
            )
        return part
