"""Waiting for calls: each is opened on the side, so that a caller who says nothing keeps nobody waiting."""

import queue
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa

from aljava.errors import AddressError, AljavaError, TransferError
from aljava.streams.endpoints import SCHEMES, Endpoint
from aljava.streams.messages import STRANGER, TRUSTED, CutStream
from aljava.streams.receiving import receive

# Calls that are being opened, or wait to be taken: further ones wait in the system's queue.
_OPENING = 64
# Seconds that a caller has for its TLS handshake and its schema.
_INTRODUCTION = 10.0


class Listener(Iterator[pa.RecordBatchReader]):
    """Accepts connections and yields a `pyarrow.RecordBatchReader` for each, in the order in which they begin to send.

    A connection is yielded when its schema has come. One that sends something else, or nothing for 10 seconds, is
    closed and not yielded. A reader that is not read holds its sender back; drop or exhaust it to free the connection.

    Made by `aljava.listen`; close it, or use it in `with`, to stop waiting. Readers that were yielded live on.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        shared_memory: bool = True,
        untrusted: bool = False,
        timeout: float | None = None,
        raises: bool = False,
    ) -> None:
        self._bound = endpoint.bind()
        #: Where to call, with the port that the system chose.
        self.address = self._bound.address
        #: How many connections were closed because they did not begin as an Arrow IPC stream.
        self.refused = 0
        self._shared_memory = shared_memory and endpoint.shared_memory
        self._untrusted = untrusted
        self._timeout = timeout
        self._raises = raises
        self._slots = threading.Semaphore(_OPENING)
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._opening: dict[threading.Thread, tuple[socket.socket, float]] = {}
        self._is_closed = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name=f"aljava listens at {self.address}", daemon=True)
        self._thread.start()

    def __next__(self) -> pa.RecordBatchReader:
        """Waits for the next connection.

        Raises:
            TransferError: nobody called in time.
            StopIteration: the listener was closed.
        """
        if self._is_closed:
            raise StopIteration
        try:
            found = self._ready.get(timeout=self._timeout)
        except queue.Empty:
            raise TransferError(f"{self.address}: nobody called within {self._timeout:g} seconds") from None
        if found is None:
            raise StopIteration
        self._slots.release()
        if isinstance(found, BaseException):
            raise found
        return found

    def close(self) -> None:
        """Stops waiting; connections that nobody took are closed."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            opening = dict(self._opening)
            for handle, _ in opening.values():
                _cut(handle)
        self._wake.close()
        self._thread.join()
        self._woken.close()
        self._bound.close()
        for thread in opening:
            thread.join()
        self._ready.put(None)
        while (found := self._ready.get()) is not None:
            del found
        self._ready.put(None)  # for whoever waits in another thread

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._bound.fileno(), select.POLLIN)
        poll.register(self._woken.fileno(), select.POLLIN | select.POLLHUP)
        while not self._is_closed:
            self._cut_late()
            if not self._slots.acquire(timeout=0.2):
                continue
            ready = [descriptor for descriptor, _ in poll.poll(500)]
            connection = None
            if self._bound.fileno() in ready and not self._is_closed:
                try:
                    connection = self._bound.accept()
                except OSError:  # the caller has gone already, or this process has no descriptor left
                    time.sleep(0.01)
            if connection is None:
                self._slots.release()
                continue
            thread = threading.Thread(target=self._open, args=(connection,), daemon=True)
            with self._lock:
                self._opening[thread] = (connection.dup(), time.monotonic())
            thread.start()

    def _cut_late(self) -> None:
        late = time.monotonic() - _INTRODUCTION
        with self._lock:
            for handle, started in self._opening.values():
                if started < late:
                    _cut(handle)

    def _open(self, connection: socket.socket) -> None:
        found: Any = None
        try:
            channel = self._bound.secure(connection, _INTRODUCTION)
            limits = TRUSTED if channel.trusted else STRANGER
            if self._untrusted:
                limits = replace(limits, full_check=True)
            found = receive(channel, limits=limits, shared_memory=self._shared_memory)
        except AljavaError as error:
            # A call that ends before it said a word is no sender: somebody looked whether we are there.
            if not (isinstance(error, CutStream) and error.is_empty):
                self.refused += 1
                found = error if self._raises else None
        finally:
            with self._lock:
                handle, _ = self._opening.pop(threading.current_thread())
            handle.close()
            if found is None:
                self._slots.release()
            else:
                self._ready.put(found)


def listen(
    address: str, *, shared_memory: bool = True, untrusted: bool = False, timeout: float | None = None
) -> Listener:
    """Waits at a socket address for senders, any number of them.

    Args:
        address: `unix:///PATH`, `tcp://HOST:PORT` or `tcp+tls://HOST:PORT?cert=FILE&key=FILE`. With port 0 the system
            chooses one; `Listener.address` says which.
        shared_memory: let a sender of the same user hand over memory in place of bytes, over a Unix socket.
        untrusted: check every value also of senders of the same user; senders over TCP are always checked.
        timeout: seconds to wait for the next connection; None for ever.

    Returns:
        an iterator of `pyarrow.RecordBatchReader`, one for each connection. Close it to stop waiting.

    Raises:
        AddressError: no socket address, or a malformed one.
        AccessDenied, TransferError: nobody can wait there.

    Examples:
        >>> import tempfile, threading, aljava
        >>> address = f"unix://{tempfile.mkdtemp()}/desk"
        >>> with listen(address) as listener:
        ...     sender = threading.Thread(target=aljava.write, args=({"id": [1, 2, 3]}, address))
        ...     sender.start()
        ...     print(next(listener).read_all().num_rows)
        ...     sender.join()
        3
    """
    if not isinstance(address, str) or address.partition("://")[0].lower() not in SCHEMES:
        raise AddressError(f"{address} is no socket address: give unix:///PATH, tcp://HOST:PORT or tcp+tls://HOST:PORT")
    return Listener(Endpoint.parse(address), shared_memory=shared_memory, untrusted=untrusted, timeout=timeout)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # not connected any more
        connection.shutdown(socket.SHUT_RDWR)
