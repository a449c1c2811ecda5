"""Channels: bytes to a peer and from it, over a socket or over descriptors.

A channel sends several buffers in one call of the system (`sendmsg`, `writev`) and receives into memory that the
caller has. It keeps no data of its own, so a peer that does not read stops the writer, and nothing grows. What the
system says of a peer that is gone ends in `TransferError`.
"""

import array
import errno
import fcntl
import os
import select
import socket
import ssl
import stat
import struct
import sys
import termios
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

from aljava.errors import AccessDenied, TransferError
from aljava.streams.lending import Lender

# IOV_MAX is 1024 on Linux and macOS.
_BUFFERS_A_CALL = 512
# Parts that are small together are joined: gathering 20 of them costs the system more than copying a page or two.
_JOINED = 32 << 10
# OpenSSL cuts records of 16 KiB by itself; larger calls only keep the interpreter out of it.
_TLS_CALL = 1 << 20
_PIPE_BYTES = 1 << 20
# How long a sender that has sent everything waits for its peer to hang up, once the peer's system has it all. A peer
# that dies with unread data is then still noticed; a peer that keeps its socket for other things is not waited for.
_LAST_WORD = 1.0
# What a receiver's system takes by itself, at most: who hung up before that much was sent may not have liked any of it.
_FIRST_BYTES = 16 << 20
# Seconds between two looks at whether a peer that takes nothing is still there.
_LOOK = 1.0


class Channel(ABC):
    """A way to a peer. One thread may send while another receives."""

    #: What a user would call the other end, for messages.
    address: str
    #: Whether the peer is known to be the same user of the same machine, whose data need no full check.
    trusted = False
    #: Whether nothing but one stream comes, so that more may be received than is needed yet.
    reads_ahead = True
    #: Whether descriptors can be handed over, so that memory can be shared.
    shares = False

    def send(self, parts: Sequence[Any], meanwhile: Callable[[], None] | None = None) -> int:
        """Sends all of `parts`, however many calls that takes, and returns their bytes.

        Args:
            parts: bytes and buffers.
            meanwhile: may be called while the peer is busy with what has been sent.

        Raises:
            TransferError: the peer is gone.
        """
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        total = sum(map(len, views))
        if total <= _JOINED and len(views) > 1:
            views = [memoryview(b"".join(views))]
        try:
            left = deque(views)
            while left:
                done = self._send_some([left[at] for at in range(min(len(left), _BUFFERS_A_CALL))])
                while left and done >= len(left[0]):
                    done -= len(left.popleft())
                if done:
                    left[0] = left[0][done:]
        except OSError as error:
            raise self._failure("sent to", error) from error
        return total

    @abstractmethod
    def takes(self, seconds: float) -> bool:
        """Whether the next bytes can be sent without waiting for the peer, now or within some seconds."""

    def receive_into(self, view: memoryview, *, whole: bool = False) -> int:
        """Receives into `view`: what there is (at least one byte), or with `whole` as much as it takes.

        Returns:
            bytes received; fewer than asked for only at the end of the data.
        """
        done = 0
        with self._explained("received from"):
            while done < len(view):
                got = self._receive_some(view[done:], whole)
                done += got
                if not got or not whole:
                    break
        return done

    @abstractmethod
    def _send_some(self, views: Sequence[Any]) -> int:
        """One call of the system; returns the bytes that it took."""

    @abstractmethod
    def _receive_some(self, view: memoryview, whole: bool) -> int:
        """One call of the system; returns the bytes that came, 0 at the end."""

    @abstractmethod
    def finish(self) -> None:
        """Says that nothing more will be sent, and waits until the other side's system has everything.

        Raises:
            TransferError: the peer went away without taking it all.
        """

    @abstractmethod
    def acknowledge(self) -> None:
        """Tells a sender whose stream has ended that all of it came, where the protocol has words for that."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failure(done, error) from error

    def _failure(self, done: str, error: OSError) -> TransferError:
        """What the system says of a peer, in words."""
        if isinstance(error, BrokenPipeError | ConnectionResetError | ConnectionAbortedError):
            return TransferError(
                f"{self.address}: the other end closed the connection before everything was {done.split(maxsplit=1)[0]}"
            )
        if isinstance(error, TimeoutError):
            return TransferError(f"{self.address}: nothing could be {done} the other end within the time limit")
        return TransferError(f"{self.address}: nothing can be {done} it: {error.strerror or error}")


class DescriptorChannel(Channel):
    """Pipes and other open descriptors.

    Args:
        descriptor: open for what is wanted of it.
        address: for messages.
        owned: whether `close` closes it.
    """

    def __init__(self, descriptor: int, address: str, *, owned: bool) -> None:
        self.address = address
        self._descriptor = descriptor
        self._owned = owned
        self.reads_ahead = owned
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError as error:
            raise AccessDenied(
                f"{address} is not open: {error.strerror}. The parent process must hand it on"
            ) from error
        if stat.S_ISCHR(mode) and os.isatty(descriptor):
            raise AccessDenied(f"{address} is a terminal, and a table is not text: redirect it, or pipe it on")
        if stat.S_ISFIFO(mode) and sys.platform == "linux":
            # 64 KiB by default: 16 times as many wake-ups. Refused where a user's pipes together hold too much.
            with suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def takes(self, seconds: float) -> bool:
        return _wait(self._descriptor, select.POLLOUT, seconds)

    def _send_some(self, views: Sequence[Any]) -> int:
        while True:
            try:
                return os.writev(self._descriptor, views)
            except BlockingIOError:  # whoever gave it to us made it non-blocking
                _wait(self._descriptor, select.POLLOUT)

    def _receive_some(self, view: memoryview, whole: bool) -> int:
        while True:
            try:
                return os.readv(self._descriptor, [view])
            except BlockingIOError:
                _wait(self._descriptor, select.POLLIN)

    def finish(self) -> None:
        """A pipe has nothing to say beyond the mark that ends the stream."""

    def acknowledge(self) -> None:
        """Nor has it a way back."""

    def close(self) -> None:
        if self._owned:
            self._owned = False
            os.close(self._descriptor)


class SocketChannel(Channel):
    """A connected stream socket, Unix, TCP or TLS over TCP.

    Args:
        connection: connected; the channel closes it.
        address: for messages.
        patience: seconds after which a TCP peer that no longer answers is given up. A peer that answers and takes
            nothing (a slow reader) is waited for without end.
    """

    def __init__(self, connection: socket.socket, address: str, patience: float) -> None:
        self.address = address
        self.socket = connection
        self._patience = patience
        self._is_tls = isinstance(connection, ssl.SSLSocket)
        self._is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
        self._descriptors: deque[int] = deque()
        self._lender: Lender | None = None
        self._sent = 0
        if self._is_tcp:
            self._notice_silence()
            self._hurry_at_home()
        else:
            self.trusted = self.shares = _peer_user(connection) == os.geteuid()
        self.set_time_limit(None)

    def takes(self, seconds: float) -> bool:
        return _wait(self.socket.fileno(), select.POLLOUT, seconds)

    def lend(self) -> None:
        """From now on lends large messages, where the system can: the peer says that it copies what it reads."""
        with suppress(OSError):
            self._lender = Lender(self.socket)

    def send(self, parts: Sequence[Any], meanwhile: Callable[[], None] | None = None) -> int:
        if self._lender is not None and meanwhile is not None:
            size = sum(memoryview(part).nbytes for part in parts)
            if self._lender.takes(parts, size):
                with self._explained("sent to"):
                    self._lender.send(parts, meanwhile)
                return size
        return super().send(parts)

    def set_time_limit(self, seconds: float | None) -> None:
        """The longest that one receive may wait; None for no limit."""
        self.socket.settimeout(seconds)

    def _notice_silence(self) -> None:
        """Lets the system ask a silent peer whether it is there, so that a cut cable ends a wait."""
        connection, seconds = self.socket, max(1, int(self._patience))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        probes = min(5, seconds)
        # macOS calls the seconds before the first question TCP_KEEPALIVE.
        idle = getattr(socket, "TCP_KEEPIDLE" if sys.platform == "linux" else "TCP_KEEPALIVE")
        connection.setsockopt(socket.IPPROTO_TCP, idle, max(1, seconds // 2))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, (seconds - seconds // 2) // probes))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
        # A send that blocks comes back to see whether the peer lives: keepalive rests while data is under way.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(_LOOK), 0))

    def _hurry_at_home(self) -> None:
        """Where both ends are of this machine there is no network to spare, and nothing to be gained by pacing.

        BBR, which some systems take for all connections, sends by the clock: a gigabyte took a third longer. Every
        system has Reno, which sends as fast as it is read.
        """
        if sys.platform == "linux":
            with suppress(OSError):  # a peer that is gone already, or a sandbox
                if self.socket.getsockname()[0] == self.socket.getpeername()[0]:
                    self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")

    def _send_some(self, views: Sequence[Any]) -> int:
        while True:
            try:
                if self._is_tls:
                    return self.socket.send(views[0][:_TLS_CALL])
                sent = self.socket.sendmsg(views)
                self._sent += sent
                return sent
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._require_living()

    def _receive_some(self, view: memoryview, whole: bool) -> int:
        if self._is_tls:
            try:
                return self.socket.recv_into(view)
            except ssl.SSLEOFError:
                return 0
        flags = socket.MSG_WAITALL if whole and self.socket.gettimeout() is None else 0
        try:
            return self.socket.recv_into(view, 0, flags)
        except ConnectionResetError:  # a sender that ended before it read our hello: what it sent has come
            return 0

    def _failure(self, done: str, error: OSError) -> TransferError:
        failure = super()._failure(done, error)
        if isinstance(error, ConnectionError) and self._is_tcp and not self._is_tls and self._sent < _FIRST_BYTES:
            # OpenSSL says nothing to who does not begin with a handshake.
            return TransferError(f"{failure}. A receiver that wants TLS does so: then write tcp+tls://HOST:PORT")
        return failure

    # ------------------------------------------------------------------------------------------- descriptors

    def send_with_descriptor(self, part: bytes, descriptor: int) -> None:
        """Sends `part` and, with its first byte, a descriptor."""
        with self._explained("sent to"):
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            sent = self.socket.sendmsg([part], [rights])
        self.send([part[sent:]])

    def receive_with_descriptors(self, view: memoryview) -> int:
        """As `receive_into`; descriptors that come along are kept for `take_descriptor`."""
        with self._explained("received from"):
            # The system never joins what came with different descriptors in one call.
            try:
                size, extra, _, _ = self.socket.recvmsg_into([view], socket.CMSG_SPACE(4 * 4), socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # as in `_receive_some`
                return 0
        for level, kind, data in extra:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(data[: len(data) - len(data) % received.itemsize])
                self._descriptors.extend(received)
        return size

    def take_descriptor(self) -> int | None:
        """The next descriptor that came; whoever takes it closes it."""
        return self._descriptors.popleft() if self._descriptors else None

    def receive_now(self, size: int, wait: float = 0) -> bytes:
        """What is there already, up to `size` bytes, or comes within `wait` seconds; empty when nothing does.

        Raises:
            TransferError: the peer is gone.
        """
        with self._explained("sent to"):
            if not _wait(self.socket.fileno(), select.POLLIN, wait):
                return b""
            data = self.socket.recv(size, socket.MSG_DONTWAIT)
            if not data:
                raise BrokenPipeError
            return data

    # ------------------------------------------------------------------------------------------- the end

    def finish(self) -> None:
        with self._explained("sent to"):
            if self._is_tls:
                self._unwrap()
                return
            self.socket.shutdown(socket.SHUT_WR)
            taken_at: float | None = None
            while taken_at is None or time.monotonic() - taken_at < _LAST_WORD:
                if _wait(self.socket.fileno(), select.POLLIN, 0.05):
                    # What a peer still has to say (that it lets go of memory) no longer matters; its end does.
                    if not self.socket.recv(1 << 16, socket.MSG_DONTWAIT):
                        return
                elif taken_at is None and not self._bytes_not_taken():
                    taken_at = time.monotonic()
                else:
                    self._require_living()

    def _unwrap(self) -> None:
        """TLS has an end of its own, which the peer answers when it has read up to it."""
        self.socket.settimeout(self._patience)
        with suppress(ssl.SSLError):  # a peer that closes without a word has read the end of the stream
            self.socket = self.socket.unwrap()  # type: ignore[attr-defined]
        self._is_tls = False

    def acknowledge(self) -> None:
        if self._is_tls:
            with suppress(OSError):  # the sender is gone, and the stream was whole
                self._unwrap()

    def _bytes_not_taken(self) -> int:
        # For a Unix socket: what the peer's process has not read; for TCP: what its system has not acknowledged.
        request = termios.TIOCOUTQ
        return int.from_bytes(fcntl.ioctl(self.socket.fileno(), request, bytes(4)), sys.byteorder)

    def _require_living(self) -> None:
        """Raises TimeoutError where the peer's system has not answered for longer than we are patient."""
        if self._is_tcp and sys.platform == "linux":
            # struct tcp_info of <linux/tcp.h>: tcpi_probes is byte 3; tcpi_unacked and tcpi_last_ack_recv (in
            # milliseconds) are the 32-bit numbers at bytes 24 and 56.
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
            probes, unacknowledged, silent = info[3], *struct.unpack_from("=I28xI", info, 24)
            # A reader that is slow closes its window and answers probes: only unanswered ones count then.
            if (unacknowledged or probes >= 3) and silent > self._patience * 1000:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def close(self) -> None:
        if self._lender is not None:
            self._lender.close()
            self._lender = None
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self.socket.close()


def _wait(descriptor: int, event: int, seconds: float | None = None) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _peer_user(connection: socket.socket) -> int | None:
    """The user at the other end of a Unix socket, as the system knows it."""
    if sys.platform != "linux":
        return None
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
