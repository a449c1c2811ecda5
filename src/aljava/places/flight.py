"""Tables of an Arrow Flight server: `grpc://HOST:PORT/NAME`."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from aljava.errors import AccessDenied, AddressError, AljavaError, InvalidData, NotFound, TransferError
from aljava.places.stream import Arrival, StreamPlace
from aljava.streams.endpoints import client_context, distrusted, parse_options, seconds
from aljava.streams.sending import pieces

_ABANDONED = b"aljava: abandoned"
_BATCH_BYTES = 2 << 20
_TIMEOUT = 60.0
# What gRPC has to say of a certificate.
_DISTRUSTED = re.compile("(?<=certificate verify failed: )[^.]+|Peer name [^ ]+ is not in peer certificate", re.I)


class FlightTable(StreamPlace):
    """A table that an Arrow Flight server offers, of Aljava or any other that finds flights by their path.

    Args:
        address: `grpc://HOST:PORT/NAME` or `grpc+tls://…`. A token stands where a password would:
            `grpc://:TOKEN@HOST:PORT/NAME`; it is never shown. `?timeout=SECONDS` says after how
            long a silent server is given up (60), `?ca=FILE` names an authority of your own.
    """

    remote = True

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        name = unquote(parts.path.lstrip("/"))
        try:
            port = parts.port
        except ValueError:
            port = None
        if not parts.hostname or port is None or not name:
            raise AddressError(
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path} names no table: write grpc://HOST:PORT/NAME"
            )
        self._path = name.split("/")
        self._location = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._token = unquote(parts.password) if parts.password else None
        self.address = f"{self._location}/{name}"
        allowed = ("timeout", "ca") if parts.scheme.lower() == "grpc+tls" else ("timeout",)
        options = parse_options(self.address, parts.query, allowed)
        self.timeout = seconds(self.address, options) or _TIMEOUT
        self._ca = options.get("ca")

    def arrive(self, *, untrusted: bool) -> Arrival:
        return _FlightArrival(self)

    def write(self, rows: Any, options: Any, *, create: bool = False, durable: bool = False) -> int:
        self.require_plain(create, durable)
        size = 0

        def put() -> None:
            nonlocal size
            writer, _ = client.do_put(self.descriptor(), rows.schema, self.options())
            try:
                for batch in rows:
                    for piece in pieces(batch, _BATCH_BYTES):
                        writer.write_batch(piece)
                        size += piece.nbytes
            except BaseException:
                # Whatever ends the stream completes the upload, so a server of ours is told not to take it.
                with suppress(pa.ArrowException):
                    writer.write_metadata(_ABANDONED)
                    writer.close()
                raise
            writer.close()

        with self.client() as client:
            self.explained(put)
        return size

    def silence(self) -> str:
        return f"{self.address}: the server was silent for {self.timeout:g} seconds"

    def client(self) -> Any:
        from pyarrow import flight

        certificates = {}
        # Lets the system give up a connection on which nothing that was sent arrives. gRPC's own questions, once an
        # hour, are not what is wanted: a server may take them for an attack.
        patience = [("grpc.keepalive_time_ms", 3_600_000), ("grpc.keepalive_timeout_ms", int(self.timeout * 1000))]
        if self._ca:
            client_context(self.address, self._ca)  # gRPC says nothing of a file that it cannot use
            with open(self._ca, "rb") as file:
                certificates["tls_root_certs"] = file.read()
        return flight.connect(self._location, generic_options=patience, **certificates)

    def descriptor(self) -> Any:
        from pyarrow import flight

        return flight.FlightDescriptor.for_path(*self._path)

    def options(self, limit: float | None = None) -> Any:
        from pyarrow import flight

        headers = [(b"authorization", f"Bearer {self._token}".encode())] if self._token else []
        return flight.FlightCallOptions(headers=headers, timeout=limit)

    def explained(self, step: Callable[[], Any]) -> Any:
        """Runs a step; what the server or gRPC says is wrong becomes an error of ours."""
        from pyarrow import flight

        try:
            return step()
        except AljavaError:
            raise
        except (flight.FlightUnauthenticatedError, flight.FlightUnauthorizedError) as error:
            raise AccessDenied(f"{self.address}: {_first(error)}") from error
        except pa.ArrowKeyError as error:
            raise NotFound(f"{self.address}: {_first(error)}") from error
        except pa.ArrowInvalid as error:
            raise InvalidData(f"{self.address}: {_first(error)}") from error
        except flight.FlightTimedOutError as error:
            raise TransferError(self.silence()) from error
        except flight.FlightUnavailableError as error:
            if refused := _DISTRUSTED.search(str(error)):
                raise distrusted(self.address, refused[0]) from error
            reason = _first(error).rpartition("last error: ")[2].rpartition("with message: ")[2].rstrip(".")
            if re.search("connection timed out", reason, re.I):
                raise TransferError(self.silence()) from error
            hint = "" if not reason.endswith("Socket closed") else ". Does it want grpc+tls://?"
            raise TransferError(f"{self.address} cannot be reached: {reason}{hint}") from error
        except (pa.ArrowException, OSError) as error:
            raise TransferError(f"{self.address}: {_first(error)}") from error


class _FlightArrival(Arrival):
    """A table that can be asked for as often as wanted."""

    def __init__(self, place: FlightTable) -> None:
        self._place = place

        def ask() -> Any:
            with place.client() as client:
                return client.get_flight_info(place.descriptor(), place.options(place.timeout))

        self._info = place.explained(ask)
        self.schema = self._info.schema

    def scan(self, columns: Sequence[str] | None) -> pa.RecordBatchReader:
        schema = self.schema
        if columns is not None and len(self._info.endpoints) == 1 and self._is_ours():
            schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
            ticket = json.dumps({"table": "/".join(self._place._path), "columns": list(columns)}).encode()
            return pa.RecordBatchReader.from_batches(schema, self._batches([ticket]))
        tickets = [endpoint.ticket.ticket for endpoint in self._info.endpoints]
        return pa.RecordBatchReader.from_batches(schema, self._batches(tickets))

    def _is_ours(self) -> bool:
        """Whether the server names tables in its tickets as Aljava's does, and so takes what is asked of them."""
        return bool(self._info.endpoints[0].ticket.ticket == "/".join(self._place._path).encode())

    def _batches(self, tickets: list[bytes]) -> Iterator[pa.RecordBatch]:
        from pyarrow import flight

        place = self._place
        with place.client() as client:
            for ticket in tickets:
                reader = place.explained(partial(client.do_get, flight.Ticket(ticket), place.options()))
                with _Watch(reader.cancel, place.timeout) as watch:
                    while True:
                        try:
                            batch = place.explained(partial(watch.wait_for, reader.read_chunk)).data
                        except StopIteration:
                            break
                        batch.validate(full=True)
                        yield batch


class _Watch:
    """Ends a wait that takes too long. gRPC has no such limit but one for a whole call."""

    def __init__(self, cancel: Callable[[], None], limit: float) -> None:
        self._cancel, self._limit = cancel, limit
        self._since: float | None = None
        self._is_late = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="aljava flight", daemon=True)

    def wait_for(self, step: Callable[[], Any]) -> Any:
        """Runs a step that `cancel` ends when the limit is over."""
        from pyarrow import flight

        self._since = time.monotonic()
        try:
            return step()
        except flight.FlightCancelledError as error:
            if self._is_late:
                raise flight.FlightTimedOutError("no batch came in time") from error
            raise
        finally:
            self._since = None

    def _look(self) -> None:
        while not self._ended.wait(self._limit / 4):
            since = self._since
            if since is not None and time.monotonic() - since > self._limit:
                self._is_late = True
                self._cancel()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def _first(error: BaseException) -> str:
    """The message without gRPC's own details."""
    return str(error).partition(". Detail:")[0].partition(" gRPC client debug context")[0][:500]
