"""Lending: a peer's system reads from our memory, in place of bytes that are copied into a socket and out of it again.

`vmsplice` puts references to pages of ours into a pipe, and `splice` moves them on into a Unix socket; the peer's
receive copies from there. That is one copy for two, and none of them here.

What is lent must stay as it is until it has been copied, so only peers that say that they copy what they read are lent
to (a program that moves pages on, as `splice` can, would see what becomes of them). And the end of each message is sent
as a copy, when the peer has read all that was lent: whatever happens here, a message that is whole at the peer is what
was sent, and once a send has returned the memory is the caller's again.
"""

import ctypes
import fcntl
import os
import socket
import sys
import termios
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pyarrow as pa

#: Messages below this are copied: to wait for the peer would cost as much.
SMALLEST = 512 << 10
# Parts smaller than this on average are copied: a page is lent as a whole.
_SMALLEST_PART = 8 << 10
# Bytes at the end of a message that are copied.
_END = 64 << 10
# What is under way to the peer, in bytes: it must not run dry while we prepare more. The system may grant less.
_UNDER_WAY = 1 << 20
_NONBLOCK = 2
_PARTS_A_CALL = 512


class Lender:
    """Lends memory over a connected Unix socket.

    Args:
        connection: to a peer that copies what it reads.

    Raises:
        OSError: the system cannot.
    """

    def __init__(self, connection: socket.socket) -> None:
        if not _works():
            raise OSError("this system lends no memory")
        self._connection = connection
        self._out, self._in = os.pipe()
        try:
            # In pages of 4 KiB that is what `_UNDER_WAY` takes.
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _UNDER_WAY)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNDER_WAY)
        except OSError:
            self.close()
            raise

    def takes(self, parts: Sequence[Any], size: int) -> bool:
        """Whether a message of these parts, `size` bytes in all, is better lent than copied."""
        return size >= SMALLEST and size >= len(parts) * _SMALLEST_PART

    def send(self, parts: Sequence[Any], meanwhile: Callable[[], None]) -> None:
        """Sends a message.

        Args:
            parts: its bytes.
            meanwhile: called while the peer is busy reading.

        Raises:
            OSError: the peer is gone.
        """
        buffers = [pa.py_buffer(part) for part in parts if len(part)]
        end: list[pa.Buffer] = []
        left = _END
        while left:
            last = buffers.pop()
            start = max(0, last.size - left)
            end.append(last.slice(start))
            left -= last.size - start
            if start:
                buffers.append(last.slice(0, start))
        self._lend(buffers)
        meanwhile()
        self._wait()
        views = [memoryview(buffer) for buffer in reversed(end)]
        self._connection.sendall(views[0] if len(views) == 1 else b"".join(views))

    def close(self) -> None:
        """Lets go of the pipe."""
        os.close(self._in)
        os.close(self._out)

    def _lend(self, buffers: Sequence[pa.Buffer]) -> None:
        parts = (_Part * len(buffers))(*[_Part(buffer.address, buffer.size) for buffer in buffers])
        at = 0
        while at < len(parts):
            # As much as the pipe holds: it is empty.
            count = min(len(parts) - at, _PARTS_A_CALL)
            left = taken = _lend_to_pipe(self._in, parts, at, count)
            while left:
                left -= os.splice(self._out, self._connection.fileno(), left)
            while at < len(parts) and taken >= parts[at].size:
                taken -= parts[at].size
                at += 1
            if taken:
                parts[at].address += taken
                parts[at].size -= taken

    def _wait(self) -> None:
        """Waits until the peer has read everything, or is gone."""
        pause = 0.0
        while self._bytes_not_taken():
            # It takes some 50 µs where the peer is reading; who is not, is not asked more than needs be.
            time.sleep(pause)
            pause = min(pause * 1.5 + 1e-6, 0.01)

    def _bytes_not_taken(self) -> int:
        request = termios.TIOCOUTQ
        return int.from_bytes(fcntl.ioctl(self._connection.fileno(), request, bytes(4)), sys.byteorder)


class _Part(ctypes.Structure):
    """`struct iovec`."""

    _fields_ = (("address", ctypes.c_size_t), ("size", ctypes.c_size_t))


def _lend_to_pipe(pipe: int, parts: Any, at: int, count: int) -> int:
    """Lends `count` parts from number `at` on, as far as the pipe has room; returns their bytes."""
    taken = int(_vmsplice()(pipe, ctypes.byref(parts, at * ctypes.sizeof(_Part)), count, _NONBLOCK))
    if taken < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return taken


@cache
def _vmsplice() -> Any:
    function = ctypes.CDLL(None, use_errno=True).vmsplice
    function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
    function.restype = ctypes.c_ssize_t
    return function


@cache
def _works() -> bool:
    """Whether this system lends: one byte is. Some sandboxes do not know these calls."""
    if sys.platform != "linux":
        return False
    byte = pa.py_buffer(b"?")
    out, into = os.pipe()
    ours, theirs = socket.socketpair()
    try:
        _lend_to_pipe(into, (_Part * 1)(_Part(byte.address, 1)), 0, 1)
        os.splice(out, ours.fileno(), 1)
        return theirs.recv(1, socket.MSG_DONTWAIT) == b"?"
    except OSError:
        return False
    finally:
        for descriptor in (out, into):
            os.close(descriptor)
        ours.close()
        theirs.close()
