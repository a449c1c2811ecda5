"""Tables of a server over HTTP: `http://HOST/tables/NAME`."""

import http.client
import io
import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import pyarrow as pa

from aljava.errors import (
    AccessDenied,
    AddressError,
    AljavaError,
    InvalidData,
    InvalidOption,
    NotFound,
    QueryError,
    StoreFull,
    TransferError,
)
from aljava.places.stream import Arrival, StreamPlace
from aljava.streams.channels import Channel
from aljava.streams.endpoints import client_context, distrusted, parse_options, seconds
from aljava.streams.receiving import receive
from aljava.streams.sending import send

STREAM = "application/vnd.apache.arrow.stream"
_TIMEOUT = 60
_ERRORS: dict[str, type[AljavaError]] = {
    kind.__name__: kind for kind in (AccessDenied, InvalidData, InvalidOption, NotFound, QueryError, StoreFull)
}


class ServedTable(StreamPlace):
    """A table that a server offers; of the columns only those that are wanted travel.

    Args:
        address: `http(s)://HOST:PORT/tables/NAME`. A token stands where a password would:
            `http://:TOKEN@HOST/tables/NAME`; it is never shown. `?timeout=SECONDS` says after how long a silent
            server is given up (60), `?ca=FILE` names an authority of your own.
    """

    remote = True

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise AddressError(f"{parts.scheme}:// address with a port that is none: {error}") from error
        if not self._host or parts.fragment:
            raise AddressError("a table of a server is http(s)://HOST:PORT/tables/NAME, and no more")
        self._path = parts.path
        self._is_tls = parts.scheme.lower() == "https"
        self._token = unquote(parts.password) if parts.password else None
        self.address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        options = parse_options(self.address, parts.query, ("timeout", "ca") if self._is_tls else ("timeout",))
        self.timeout = seconds(self.address, options) or _TIMEOUT
        self._ca = options.get("ca")

    def arrive(self, *, untrusted: bool) -> Arrival:
        return _ServedArrival(self)

    def write(self, rows: Any, options: Any, *, create: bool = False, durable: bool = False) -> int:
        self.require_plain(create, durable)
        with _Upload(self.connect(), self.address) as channel:
            connection = channel.connection
            with self._reached():
                connection.putrequest("PUT", self._path)
                for name, value in {**self.headers(), "Content-Type": STREAM, "Transfer-Encoding": "chunked"}.items():
                    connection.putheader(name, value)
                connection.endheaders()
            try:
                return send(channel, rows.schema, rows, options)
            except TransferError as error:
                if not isinstance(error.__cause__, TimeoutError):
                    channel.explain()  # a server that refuses says why before it hangs up
                raise

    def get(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """The rows, as the server sends them, of these columns or of all."""
        asked = {} if columns is None else {"columns": ",".join(columns)}
        channel = _Download(self.connect(), self.address)
        try:
            if not self._is_tls:
                channel.connection.response_class = _PlainResponse
            target = self._path + (f"?{urlencode(asked)}" if asked else "")
            with self._reached():
                channel.connection.request("GET", target, headers={**self.headers(), "Accept": STREAM})
                channel.begin()
        except BaseException:
            channel.close()
            raise
        return receive(channel)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def connect(self) -> http.client.HTTPConnection:
        """Calls the server.

        Raises:
            AccessDenied: its certificate is not one that we trust.
            TransferError: it cannot be reached.
        """
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self.timeout)
        if self._is_tls:
            context = client_context(self.address, self._ca)
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self.timeout, context=context)
        with self._reached():
            connection.connect()
        return connection

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except AljavaError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise distrusted(self.address, error.verify_message) from error
        except ssl.SSLError as error:
            raise TransferError(f"{self.address}: the other end does not speak TLS: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            hangs_up = isinstance(error, http.client.RemoteDisconnected) and not self._is_tls
            hint = ". Does it want https://?" if hangs_up else ""
            raise TransferError(f"{self.address} cannot be reached: {error}{hint}") from error


class _ServedArrival(Arrival):
    """A table that can be asked for as often as wanted, each time with what is needed of it."""

    def __init__(self, place: ServedTable) -> None:
        self._place = place
        self._first: pa.RecordBatchReader | None = place.get()
        self._asked = time.monotonic()
        self.schema = self._first.schema

    def scan(self, columns: Sequence[str] | None) -> pa.RecordBatchReader:
        # The answer that brought the schema is used when all of it is wanted, soon enough to be still there.
        first, self._first = self._first, None
        if columns is None and first is not None and time.monotonic() - self._asked < self._place.timeout / 2:
            return first
        del first
        return self._place.get(columns)


class _Exchange(Channel):
    """One request and its response."""

    def __init__(self, connection: http.client.HTTPConnection, address: str) -> None:
        self.connection, self.address = connection, address

    def require(self, response: http.client.HTTPResponse, *expected: int) -> None:
        """Raises what the server says is wrong."""
        if response.status in expected:
            return
        body = response.read(1 << 16)
        try:
            found = json.loads(body)
            text, kind = str(found["error"]), _ERRORS.get(found.get("kind"), TransferError)
        except (ValueError, KeyError, TypeError):
            text, kind = f"the server answered {response.status} {response.reason}", TransferError
        if response.status == 401:
            kind = AccessDenied
        raise kind(f"{self.address}: {text}")

    def acknowledge(self) -> None:
        """HTTP says where a response ends."""

    def takes(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.connection.close()


class _Download(_Exchange):
    """The body of a response."""

    _response: http.client.HTTPResponse

    def begin(self) -> None:
        self._response = self.connection.getresponse()
        self.require(self._response, 200)

    def _send_some(self, views: Sequence[Any]) -> int:
        raise InvalidOption(f"{self.address}: a response is read, not written")

    def _receive_some(self, view: memoryview, whole: bool) -> int:
        if isinstance(self._response, _PlainResponse):
            self._response.body.waits = whole
        try:
            if whole:
                return self._response.readinto(view)
            # Not `readinto`: that waits until all of `view` is full, though a batch has come.
            piece = self._response.read1(len(view))
        except http.client.HTTPException:
            return 0  # cut short, which the stream that has not ended tells
        view[: len(piece)] = piece
        return len(piece)

    def finish(self) -> None:
        """Nothing is sent."""

    def close(self) -> None:
        if hasattr(self, "_response"):
            self._response.close()
        super().close()


class _PlainResponse(http.client.HTTPResponse):
    """A response whose large reads are one call of the system each."""

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp.close()
        self.body = _Body(sock)
        self.fp = io.BufferedReader(self.body)


class _Body(io.RawIOBase):
    """What comes over a connection; http.client's own would wake for every packet, and hold the interpreter each time.

    Args:
        connection: to the server; its time limit becomes the system's, which a read of all can wait under.

    Attributes:
        waits: whether a large read waits until all of it has come.
    """

    waits = False

    def __init__(self, connection: socket.socket) -> None:
        self._seconds = connection.gettimeout() or _TIMEOUT
        self._socket = connection.dup()
        self._socket.settimeout(None)
        limit = struct.pack("@ll", int(self._seconds), int(self._seconds % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def readable(self) -> bool:
        return True

    def readinto(self, view: Any) -> int:
        try:
            # The little that BufferedReader reads ahead must not be waited for.
            whole = self.waits and len(view) > io.DEFAULT_BUFFER_SIZE
            return self._socket.recv_into(view, 0, socket.MSG_WAITALL if whole else 0)
        except BlockingIOError as error:
            raise TimeoutError(f"timed out: nothing came for {self._seconds:g} seconds") from error

    def close(self) -> None:
        self._socket.close()
        super().close()


class _Upload(_Exchange):
    """The body of a request, in chunks."""

    def _send_some(self, views: Sequence[Any]) -> int:
        size = sum(map(len, views))
        self.connection.send(b"%x\r\n" % size)
        for view in views:
            self.connection.send(view)
        self.connection.send(b"\r\n")
        return size

    def _receive_some(self, view: memoryview, whole: bool) -> int:
        raise InvalidOption(f"{self.address}: an upload is written, not read")

    def finish(self) -> None:
        with self._explained("sent to"):
            self.connection.send(b"0\r\n\r\n")
        self.explain()

    def explain(self) -> None:
        """Raises what the server has to say about the upload."""
        try:
            self.require(self.connection.getresponse(), 200, 201, 204)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, AljavaError):
                raise
            said = "did not answer in time" if isinstance(error, TimeoutError) else f"hung up: {error}"
            raise TransferError(f"{self.address}: the server {said}") from error
