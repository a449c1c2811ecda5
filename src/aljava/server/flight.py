"""Tables over Arrow Flight.

A ticket, and the command of a descriptor, is the name of a table, or a JSON object that asks for less of it::

    {"table": "trades", "columns": ["day", "price"], "filter": "price > 3", "limit": 10}

`list_flights`, `get_flight_info` and `get_schema`, `do_get`, `do_put` (where allowed; the path of the descriptor is
FOLDER, NAME) and the actions `health` and `metrics`. A token is shown as `authorization: Bearer TOKEN`.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import flight

import aljava
from aljava.conditions import condition
from aljava.errors import AccessDenied, AljavaError, InvalidData, InvalidOption, NotFound, TransferError
from aljava.server.catalogue import Catalogue, limited
from aljava.server.metrics import Metrics
from aljava.server.settings import Settings
from aljava.streams.sending import pieces

_LONGEST_TICKET = 64 << 10
#: What a client sends that cannot complete its upload: closing the stream would complete it.
ABANDONED = b"aljava: abandoned"
# gRPC's own messages are copied several times: smaller ones stay in the cache.
_BATCH_BYTES = 2 << 20


class FlightServer(flight.FlightServerBase):
    """Serves a catalogue over Arrow Flight, in threads of its own.

    Args:
        catalogue: the tables.
        settings: what is allowed.
        host: where to listen.
        port: 0 lets the system choose.

    Raises:
        AccessDenied: not a loopback address, and no token; or the certificate cannot be used.
        TransferError: nobody can listen there.
    """

    def __init__(self, catalogue: Catalogue, settings: Settings, host: str, port: int) -> None:
        settings.require_safe(host)
        certificates = settings.certificates()
        self._catalogue, self._settings = catalogue, settings
        self.metrics = Metrics()
        scheme = "grpc+tls" if settings.tls_cert else "grpc"
        shown = f"[{host}]" if ":" in host else host
        try:
            super().__init__(
                f"{scheme}://{shown}:{port}",
                tls_certificates=certificates,
                middleware={"admission": _Admission(settings, self.metrics)},
            )
        except (pa.ArrowException, OSError) as error:
            raise TransferError(f"{host}:{port}: cannot listen there: {error}") from error
        #: Where clients call, with the port that the system chose.
        self.address = f"{scheme}://{shown}:{self.port}"

    def close(self) -> None:
        """Stops; what is under way ends first."""
        # From a thread of its own: gRPC waits for calls whose handlers may wait for this thread.
        stopping = threading.Thread(target=self.shutdown)
        stopping.start()
        stopping.join()

    def list_flights(self, context: Any, criteria: bytes) -> Iterator[Any]:
        """What there is; `criteria` is what the names begin with."""
        start = criteria.decode("utf-8", "replace")
        for table in self._catalogue:
            if table.name.startswith(start):
                yield self._info(table.name)

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """Schema, rows where they are known, and the ticket."""
        with _Explained():
            return self._info(_named(descriptor))

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """The columns of what a descriptor asks for."""
        with _Explained():
            return flight.SchemaResult(self._reader(_Ask.parse(_named(descriptor).encode())).schema)

    def do_get(self, context: Any, ticket: Any) -> Any:
        """The rows, batch by batch, as the client takes them."""
        with _Explained():
            reader = self._reader(_Ask.parse(ticket.ticket))
        sent = pa.RecordBatchReader.from_batches(reader.schema, self._sent(reader))
        return flight.RecordBatchStream(sent)

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Takes a table, whole or not at all."""
        with _Explained():
            if not self._settings.allow_upload:
                raise AccessDenied("uploads are not allowed on this server (--allow-upload)")
            target = self._catalogue.target(_named(descriptor))
            aljava.write(pa.RecordBatchReader.from_batches(reader.schema, self._taken(reader, context)), target)

    def list_actions(self, context: Any) -> list[Any]:
        """What can be asked besides."""
        return [("health", "Answers ok."), ("metrics", "What the server counted, as Prometheus reads it.")]

    def do_action(self, context: Any, action: Any) -> list[bytes]:
        """One of `list_actions`."""
        if action.type == "health":
            return [b"ok"]
        if action.type == "metrics":
            return [self.metrics.page().encode()]
        raise NotImplementedError(f"there is no action {action.type!r}; there are health and metrics")

    def _info(self, ask: str) -> Any:
        wanted = _Ask.parse(ask.encode())
        descriptor = flight.FlightDescriptor.for_path(*wanted.table.split("/"))
        ticket = flight.Ticket(ask.encode())
        return flight.FlightInfo(self._reader(wanted).schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)

    def _reader(self, ask: "_Ask") -> pa.RecordBatchReader:
        dataset = self._catalogue.open(ask.table)
        expression = condition(ask.filter, dataset.schema) if ask.filter else None
        return limited(dataset.to_reader(ask.columns, expression), ask.limit)

    def _sent(self, reader: pa.RecordBatchReader) -> Iterator[Any]:
        with _Explained():
            for batch in reader:
                for piece in pieces(batch, _BATCH_BYTES):
                    self.metrics.count("bytes_sent", piece.nbytes)
                    yield piece

    def _taken(self, reader: Any, context: Any) -> Iterator[pa.RecordBatch]:
        size, limits = 0, self._settings.limits
        while True:
            asked = time.monotonic()
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                # gRPC ends the stream of a client that died as it does that of one that has sent all.
                if context.is_cancelled():
                    raise TransferError("the upload was cut; nothing was changed") from None
                return
            if chunk.app_metadata is not None and chunk.app_metadata.to_pybytes() == ABANDONED:
                raise TransferError("the client gave up; nothing was changed")
            if time.monotonic() - asked > limits.stall_seconds:
                self.metrics.count("connections_too_slow")
                raise TransferError(f"nothing came for {limits.stall_seconds:g} seconds; nothing was changed")
            batch = chunk.data
            if batch is None:
                continue
            batch.validate(full=True)
            size += batch.nbytes
            if size > limits.upload_bytes:
                raise InvalidOption(f"an upload has at most {limits.upload_bytes:,} bytes; nothing was changed")
            self.metrics.count("bytes_received", batch.nbytes)
            yield batch


class _Ask:
    """What a client asks for."""

    def __init__(self, table: str, columns: list[str] | None, filter: str | None, limit: int | None) -> None:
        self.table, self.columns, self.filter, self.limit = table, columns, filter, limit

    @staticmethod
    def parse(ticket: bytes) -> "_Ask":
        """Reads a ticket.

        Raises:
            InvalidOption: neither a name nor such an object.
        """
        if len(ticket) > _LONGEST_TICKET:
            raise InvalidOption(f"a ticket has at most {_LONGEST_TICKET:,} bytes")
        text = ticket.decode("utf-8", "replace")
        if not text.startswith("{"):
            return _Ask(text, None, None, None)
        try:
            asked = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidOption(f"the ticket is no JSON object: {error}") from error
        table, columns, filter, limit = (asked.pop(name, None) for name in ("table", "columns", "filter", "limit"))
        if (
            asked
            or not isinstance(table, str)
            or not (columns is None or (isinstance(columns, list) and all(isinstance(name, str) for name in columns)))
            or not (filter is None or isinstance(filter, str))
            or not (limit is None or (type(limit) is int and limit >= 0))
        ):
            raise InvalidOption("a ticket has table (text), columns (a list of text), filter (text) and limit (rows)")
        return _Ask(table, columns, filter, limit)


def _named(descriptor: Any) -> str:
    if descriptor.descriptor_type == flight.DescriptorType.PATH:
        return "/".join(part.decode("utf-8", "replace") for part in descriptor.path)
    return str(descriptor.command.decode("utf-8", "replace"))


class _Admission(flight.ServerMiddlewareFactory):
    """Lets in who shows the token, as many as may be under way."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        super().__init__()
        self._settings, self._metrics = settings, metrics
        self._lock = threading.Lock()
        self._under_way = 0

    def start_call(self, info: Any, headers: Any) -> "_Call":
        """Called before each call is handled."""
        values = next((value for name, value in headers.items() if name.lower() == "authorization"), [""])
        shown = str(values[0])
        token = shown[7:].strip() if shown.lower().startswith("bearer ") else None
        if not self._settings.admits(token):
            self._metrics.count("requests_without_token")
            raise flight.FlightUnauthenticatedError("this server asks for a token: authorization: Bearer TOKEN")
        most = self._settings.limits.connections
        with self._lock:
            if self._under_way >= most:
                self._metrics.count("connections_refused")
                raise flight.FlightUnavailableError(f"{most} calls are under way already: try again")
            self._under_way += 1
        self._metrics.count("requests")
        return _Call(self)

    def end_call(self) -> None:
        """Called after each call that was let in."""
        with self._lock:
            self._under_way -= 1


class _Call(flight.ServerMiddleware):
    """A call that was let in."""

    def __init__(self, admission: _Admission) -> None:
        super().__init__()
        self._admission = admission

    def call_completed(self, exception: Any) -> None:
        """However it ended."""
        self._admission.end_call()


class _Explained:
    """Turns our errors into those that Flight carries to a client."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, NotFound):
            raise KeyError(str(error)) from error
        if isinstance(error, AccessDenied):
            raise flight.FlightUnauthorizedError(str(error)) from error
        if isinstance(error, InvalidData):
            raise pa.ArrowInvalid("the table is damaged, or not one") from error
        if isinstance(error, AljavaError):
            raise pa.ArrowInvalid(str(error)) from error
