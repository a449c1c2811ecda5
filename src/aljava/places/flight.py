"""Tables of an Arrow Flight server: `grpc://HOST:PORT/NAME`."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from aljava.errors import AccessDenied, AddressError, AljavaError, InvalidData, NotFound, TransferError
from aljava.places.stream import Arrival, StreamPlace
from aljava.streams.sending import pieces

_ABANDONED = b"aljava: abandoned"
_BATCH_BYTES = 2 << 20


class FlightTable(StreamPlace):
    """A table that an Arrow Flight server offers, of Aljava or any other that finds flights by their path.

    Args:
        address: `grpc://HOST:PORT/NAME` or `grpc+tls://…`. A token stands where a password would:
            `grpc://:TOKEN@HOST:PORT/NAME`; it is never shown. `?ca=FILE` names an authority of your own.
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
        option, _, self._ca = parts.query.partition("=")
        if option not in ("", "ca"):
            raise AddressError(f"a Flight address has no option {option!r}; it has ca")
        self._path = name.split("/")
        self._location = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._token = unquote(parts.password) if parts.password else None
        self.address = f"{self._location}/{name}"

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

    def client(self) -> Any:
        from pyarrow import flight

        certificates = {}
        if self._ca:
            try:
                with open(self._ca, "rb") as file:
                    certificates["tls_root_certs"] = file.read()
            except OSError as error:
                raise AccessDenied(f"{self._ca} cannot be read: {error.strerror}") from error
        return flight.connect(self._location, **certificates)

    def descriptor(self) -> Any:
        from pyarrow import flight

        return flight.FlightDescriptor.for_path(*self._path)

    def options(self) -> Any:
        from pyarrow import flight

        headers = [(b"authorization", f"Bearer {self._token}".encode())] if self._token else []
        return flight.FlightCallOptions(headers=headers)

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
        except (pa.ArrowException, OSError) as error:
            raise TransferError(f"{self.address}: {_first(error)}") from error


class _FlightArrival(Arrival):
    """A table that can be asked for as often as wanted."""

    def __init__(self, place: FlightTable) -> None:
        self._place = place

        def ask() -> Any:
            with place.client() as client:
                return client.get_flight_info(place.descriptor(), place.options())

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
                while True:
                    try:
                        batch = place.explained(reader.read_chunk).data
                    except StopIteration:
                        break
                    batch.validate(full=True)
                    yield batch


def _first(error: BaseException) -> str:
    """The message without gRPC's own details."""
    return str(error).partition(". Detail:")[0].partition(" gRPC client debug context")[0][:500]
