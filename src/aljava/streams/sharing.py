"""Batches as tokens: memory handed over a Unix socket in place of the bytes in it.

A receiver that shares memory says so with its first bytes, and a sender that sees them may from then on put messages
into a segment of memory and send a token where they would stand in the stream::

    | "ALJ" FE | segment, uint32 | bytes, uint64 | start, uint32 | flags, uint32 | let go of, uint32 | 0, uint32 |

The segment itself, a sealed memory file, goes along as a descriptor the first time. The receiver maps it and answers
`T` and the segment's number when it has taken a token, `R` when the last array over it is gone; then the sender fills
it again: memory that was used before takes a copy at the speed of memory, where fresh memory costs several times that.

A batch that lies in a store is not even copied into a segment: see `stored`. Its token names the store's file, and
says how many bytes of metadata follow it in the stream, whose body is the file.

The descriptors are the only names of the memory. So the kernel frees it with the last process that has it, however
that process ends: nothing is there to be swept.
"""

import ctypes
import fcntl
import mmap
import os
import queue
import socket
import stat
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa

from aljava.errors import InvalidData
from aljava.ipc.writer import PAGE, PAGE_TRAP
from aljava.store.kernel import Mapping
from aljava.streams.channels import SocketChannel
from aljava.streams.stored import Map, Maps, pointed, split

# What a receiver says first: that it takes shared memory; or that it does not, and copies what it reads as the first
# kind does. What else reads a socket might keep hold of what is lent to it.
HELLO = b"aljava: memory 2"
COPIES = b"aljava: copies 1"
_TOKEN = struct.Struct("<4sIQIII4x")
_MARK = b"ALJ\xfe"
_ANSWER = struct.Struct("<cxxxI")
_TAKEN, _RELEASED = b"T", b"R"
_IS_NEW, _IS_STORED = 1, 2

#: Batches below this go as bytes: a token costs two answers.
SMALLEST = 64 << 10
# Segments between the two ends. Fewer, and the sender waits for the receiver after each; more only hold memory.
_SEGMENTS = 3
# Files of stores that are kept open, in case that more batches lie there; further ones wait for the receiver.
_MOST_STORED = 16
# How long the first batch waits for a receiver to say that it shares memory: it says so when it accepts the call.
_HELLO_WAIT = 0.05
_HUGE_PAGE = 2 << 20
# Messages from which two threads copy, of parts that are at least so large on average: to ask the other thread takes
# as long as copying some hundred kilobytes.
_SHARED_WORK = 1 << 20
_SMALLEST_PART = 64 << 10
# So many of the largest parts decide where a copy begins.
_LOOKED_AT = 8
_SEALS = getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4) | getattr(fcntl, "F_SEAL_SEAL", 1)


@dataclass
class _Segment:
    """A piece of memory that the sender fills."""

    number: int
    descriptor: int
    memory: mmap.mmap
    address: int
    size: int
    #: "free", "sent" or "taken".
    state: str = "free"
    #: Whether the receiver has its descriptor.
    is_known: bool = False

    def close(self) -> None:
        os.close(self.descriptor)
        # The map goes with its last reference.


@dataclass
class _Stored:
    """A store's file that the receiver has, or gets with the next token."""

    number: int
    descriptor: int
    size: int
    #: As of a `_Segment`: the receiver says when it has it.
    state: str = "free"

    def close(self) -> None:
        os.close(self.descriptor)


class SegmentSender:
    """The sender's side.

    Args:
        channel: a Unix socket whose peer is the same user.
        offers: whether memory is shared with a receiver that takes it.
    """

    def __init__(self, channel: SocketChannel, offers: bool) -> None:
        self._channel = channel
        self._offers = offers
        self._segments: dict[int, _Segment] = {}
        self._maps = Maps()
        self._copying = _Copying()
        self._stored: dict[Map, _Stored] = {}
        self._next = 1
        self._let_go: list[int] = []
        self._answers = bytearray()
        self._agreed: bool | None = None
        self._waited = False

    def send(self, parts: Sequence[Any], size: int) -> bool:
        """Sends whole messages through shared memory.

        Args:
            parts: their bytes.
            size: of all parts.

        Returns:
            False where that is not possible (yet), and they have to go as bytes.
        """
        if size < SMALLEST or not self._has_agreed():
            return False
        segment = self._free_segment(size + PAGE)
        if segment is None:
            return False
        buffers = [pa.py_buffer(part) for part in parts]
        start = _start([(buffer.address, buffer.size) for buffer in buffers], segment.address)
        self._copying.copy(buffers, segment.address + start, size)
        let_go = self._let_go.pop(0) if self._let_go else 0
        token = _TOKEN.pack(_MARK, segment.number, size, start, 0 if segment.is_known else _IS_NEW, let_go)
        segment.state = "sent"
        if segment.is_known:
            self._channel.send([token])
        else:
            segment.is_known = True
            self._channel.send_with_descriptor(token, segment.descriptor)
        return True

    def lies_in_store(self, batch: pa.RecordBatch) -> Map | None:
        """The map of a store's file that a batch stands on, if it can be sent as that."""
        return self._maps.under(batch) if self._has_agreed() else None

    def send_stored(self, parts: Sequence[Any], size: int, map_: Map) -> bool:
        """Sends the messages of a batch that `lies_in_store`.

        Args:
            parts: their bytes.
            size: of all parts.
            map_: what the batch stands on.

        Returns:
            False where some of the bytes are elsewhere, as those of a slice can be: its dictionaries have gone, the
            batch has not.
        """
        dictionaries, message = split(parts, size)
        if dictionaries:
            self._channel.send(dictionaries)
        stored = self._stored.get(map_) or self._open(map_)
        head = None if stored is None else pointed(message, map_.low, stored.size)
        if stored is None or head is None:
            return False
        let_go = self._let_go.pop(0) if self._let_go else 0
        is_new = stored.state == "free"
        token = _TOKEN.pack(_MARK, stored.number, len(head), 0, _IS_STORED | (_IS_NEW if is_new else 0), let_go)
        stored.state = "sent"
        if is_new:
            self._channel.send_with_descriptor(token + head, stored.descriptor)
        else:
            self._channel.send([token + head])
        return True

    def _open(self, map_: Map) -> _Stored | None:
        while len(self._stored) >= _MOST_STORED:
            self._hear(0)
            oldest = next((key for key, stored in self._stored.items() if stored.state == "taken"), None)
            if oldest is None:
                self._hear(None)
                continue
            stored = self._stored.pop(oldest)
            self._maps.forget(oldest)
            stored.close()
            self._let_go.append(stored.number)
        opened = map_.open()
        if opened is None:
            self._maps.forget(map_)
            return None
        stored = self._stored[map_] = _Stored(self._next, *opened)
        self._next += 1
        return stored

    def close(self) -> None:
        self._copying.close()
        for segment in self._segments.values():
            segment.close()
        for stored in self._stored.values():
            stored.close()
        self._segments, self._stored = {}, {}

    def _has_agreed(self) -> bool:
        if self._agreed is None:
            wait = 0.0 if self._waited or not self._offers else _HELLO_WAIT
            self._waited = True
            self._answers += self._channel.receive_now(len(HELLO) - len(self._answers), wait)
            if self._answers in (HELLO, COPIES):
                self._agreed = self._offers and self._answers == HELLO
                if not self._agreed:
                    self._channel.lend()
                self._answers.clear()
            elif not HELLO.startswith(self._answers) and not COPIES.startswith(self._answers):
                self._agreed = False  # a peer that talks of something else: its words are not ours to read
        return self._agreed is True

    def _free_segment(self, size: int) -> _Segment | None:
        """A segment that nobody reads: used before if there is one, else new; waits where too many are under way."""
        self._hear(0)
        while True:
            free = [one for one in self._segments.values() if one.state == "free"]
            fitting = next((one for one in free if size <= one.size <= 4 * size + _HUGE_PAGE), None)
            if fitting is not None:
                return fitting
            if len(self._segments) < _SEGMENTS:
                return self._new_segment(size)
            # One that the receiver keeps (it gathers a table) is its own now.
            given = free or [one for one in self._segments.values() if one.state == "taken"]
            if given:
                self._segments.pop(given[0].number).close()
                self._let_go.append(given[0].number)
            else:
                self._hear(None)

    def _new_segment(self, size: int) -> _Segment | None:
        # Room for the next batch to be a little larger.
        size = -(-(size + size // 8) // _HUGE_PAGE) * _HUGE_PAGE
        descriptor = -1
        try:
            descriptor = os.memfd_create("aljava-stream", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            memory = mmap.mmap(descriptor, size)
        except OSError:  # no descriptors or no memory left: bytes need neither
            if descriptor >= 0:
                os.close(descriptor)
            return None
        memory.madvise(mmap.MADV_HUGEPAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        segment = _Segment(self._next, descriptor, memory, address, size)
        self._segments[segment.number] = segment
        self._next += 1
        return segment

    def _hear(self, wait: float | None) -> None:
        """Takes in the receiver's answers: those that are there, or (None) at least one."""
        while True:
            data = self._channel.receive_now(1 << 12, wait if wait is not None else 3600.0)
            self._answers += data
            if not data or len(data) < 1 << 12:
                break
        whole = len(self._answers) // _ANSWER.size * _ANSWER.size
        for answer, number in _ANSWER.iter_unpack(bytes(self._answers[:whole])):
            segment = self._segments.get(number)
            if segment is not None:
                segment.state = "taken" if answer == _TAKEN else "free"
                continue
            for stored in self._stored.values():
                if stored.number == number:
                    stored.state = "taken"
        del self._answers[:whole]


class _Copying:
    """Copies into segments, on two threads what is large: where a processor is free that takes little over half."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._asked: queue.SimpleQueue[tuple[Iterable[pa.Buffer], int] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def copy(self, buffers: Sequence[pa.Buffer], place: int, size: int) -> None:
        """Copies buffers of `size` bytes to an address, one behind the other."""
        if size < _SHARED_WORK or size < len(buffers) * _SMALLEST_PART or len(os.sched_getaffinity(0)) < 2:
            _copy(buffers, place)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._help, name="aljava copies", daemon=True)
            self._thread.start()
        near, far = [], deque(buffers)
        left = size // 2
        while left:
            part = far.popleft()
            if part.size > left:
                far.appendleft(part.slice(left))
                part = part.slice(0, left)
            near.append(part)
            left -= part.size
        self._asked.put((far, place + size // 2))
        try:
            _copy(near, place)
        finally:
            self._done.get()

    def close(self) -> None:
        """Ends the other thread; nothing is being copied any more."""
        if self._thread is not None:
            self._asked.put(None)
            self._thread.join()

    def _help(self) -> None:
        while (asked := self._asked.get()) is not None:
            _copy(*asked)
            self._done.put(None)


def _copy(buffers: Iterable[pa.Buffer], place: int) -> None:
    for buffer in buffers:
        ctypes.memmove(place, buffer.address, buffer.size)  # runs without the GIL
        place += buffer.size


def _start(parts: Sequence[tuple[int, int]], segment: int) -> int:
    """Where in a segment the copy of some (address, bytes) is best begun: outside of the page trap, as far as can be.

    Copying is three times slower to a place 1 to 500 bytes ahead of its source, modulo the size of a page.
    """
    ahead = accumulate((size for _, size in parts), initial=segment)
    far = sorted(((size, at - address) for (address, size), at in zip(parts, ahead, strict=False)), reverse=True)
    large = [(size, at) for size, at in far[:_LOOKED_AT] if size > PAGE]

    def trapped(start: int) -> int:
        return sum(size for size, at in large if (at + start - 1) % PAGE < PAGE_TRAP)

    # Most often one of the first is outside for all.
    best, fewest = 0, trapped(0)
    for start in range(64, PAGE, 64):
        if not fewest:
            break
        if (bytes_trapped := trapped(start)) < fewest:
            best, fewest = start, bytes_trapped
    return best


class SegmentReceiver:
    """The receiver's side; says hello when it is made.

    Args:
        channel: a Unix socket whose peer is the same user.
    """

    def __init__(self, channel: SocketChannel) -> None:
        self._channel = channel
        self._segments: dict[int, Mapping] = {}
        self._outbox = _Outbox(channel)
        self._outbox.say(HELLO)

    def receive_into(self, view: memoryview) -> int:
        """As `Channel.receive_into`, and keeps the descriptors that come along."""
        return self._channel.receive_with_descriptors(view)

    def take(self, token: bytes) -> tuple[pa.Buffer, int]:
        """What a token stands for, in the memory that both ends have.

        Returns:
            (the bytes, and how many bytes of metadata come before them in the stream).

        Raises:
            InvalidData: no token, or one for memory that did not come or can be cut short.
        """
        mark, number, size, start, flags, let_go = _TOKEN.unpack(token)
        address = self._channel.address
        if mark != _MARK:
            raise InvalidData(f"{address}: neither a message nor a token for one: {token[:8].hex(' ')}")
        self._segments.pop(let_go, None)
        is_stored = bool(flags & _IS_STORED)
        if flags & _IS_NEW:
            self._segments[number] = self._map(number, is_stored)
        memory = self._segments.get(number)
        if memory is None or not 0 < size <= (_LONGEST_HEAD if is_stored else memory.size - start):
            raise InvalidData(f"{address}: a token for {size:,} bytes of segment {number}, which did not come")
        self._outbox.answer(_TAKEN, number)
        if is_stored:
            return memory.buffer(), size
        return pa.foreign_buffer(memory.address + start, size, base=_Lease(self._outbox, number, memory)), 0

    def close(self) -> None:
        """Ends the conversation; memory that arrays stand on stays until the last of them is gone."""
        self._outbox.close()
        self._segments = {}

    def _map(self, number: int, is_stored: bool) -> Mapping:
        descriptor = self._channel.take_descriptor()
        if descriptor is None:
            raise InvalidData(
                f"{self._channel.address}: segment {number} was announced, and no descriptor came with it"
            )
        try:
            status = os.fstat(descriptor)
            if is_stored:
                # The file's owner, who is this user, does not cut it short while it is locked.
                if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                    raise InvalidData(f"{self._channel.address}: segment {number} is no file of this user's stores")
            # Memory that the sender could cut short would end this process when it is read.
            elif fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise InvalidData(f"{self._channel.address}: segment {number} is not sealed: it could be cut short")
            return Mapping(descriptor, status.st_size)
        except (OSError, ValueError) as error:
            raise InvalidData(f"{self._channel.address}: segment {number} cannot be mapped: {error}") from error
        finally:
            os.close(descriptor)


TOKEN_SIZE = _TOKEN.size
_LONGEST_HEAD = 64 << 20


class _Outbox:
    """Answers to the sender, from whatever thread drops the last array over a segment. Never waits."""

    def __init__(self, channel: SocketChannel) -> None:
        self._socket: socket.socket | None = channel.socket
        self._unsent: list[bytes] = []
        # A finalizer may run in the middle of `say` on the same thread.
        self._lock = threading.RLock()

    def answer(self, word: bytes, number: int) -> None:
        self.say(_ANSWER.pack(word, number))

    def say(self, words: bytes) -> None:
        with self._lock:
            self._unsent.append(words)
            while self._unsent and self._socket is not None:
                first = self._unsent.pop(0)
                try:
                    sent = self._socket.send(first, socket.MSG_DONTWAIT)
                except BlockingIOError:  # goes with the next one
                    sent = 0
                except OSError:  # the sender is gone, and needs no answers
                    self._socket = None
                    break
                if sent < len(first):
                    self._unsent.insert(0, first[sent:])
                    break

    def close(self) -> None:
        with self._lock:
            self._socket = None


class _Lease:
    """What every array over a token's bytes keeps alive."""

    def __init__(self, outbox: _Outbox, number: int, memory: Mapping) -> None:
        self._outbox, self._number, self._memory = outbox, number, memory

    def __del__(self) -> None:
        self._outbox.answer(_RELEASED, self._number)


def sends(channel: Any, offers: bool) -> SegmentSender | None:
    """The sending side for a channel over which memory can be shared, if it `offers` that, or lent."""
    return SegmentSender(channel, offers) if _can_share(channel) else None


def receives(channel: Any, takes: bool) -> SegmentReceiver | None:
    """The receiving side for a channel, where memory can be shared over it and one `takes` that."""
    if not _can_share(channel):
        return None
    if takes:
        return SegmentReceiver(channel)
    _Outbox(channel).say(COPIES)
    return None


def _can_share(channel: Any) -> bool:
    return sys.platform == "linux" and isinstance(channel, SocketChannel) and channel.shares
