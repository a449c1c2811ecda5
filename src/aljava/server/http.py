"""Tables over HTTP.

=====================================  =========================================================================
`GET /`                                what there is, as a page where a browser asks, else as JSON
`GET /tables`                          what there is, as JSON
`GET /tables/NAME`                     a table as `application/vnd.apache.arrow.stream`
`  ?columns=A,B&filter=…&limit=N`      only these columns, the rows that fulfil a condition, at most so many
`  Accept: …; codecs="zstd,lz4"`       buffers may be compressed with one of these; raw without it
`GET /schemas/NAME`                    the columns, as JSON
`PUT /tables/FOLDER/NAME`              an upload, whole or not at all (where allowed)
`POST /sql`                            the rows of a SELECT statement (where allowed)
`GET /health`, `GET /metrics`          for those who watch
=====================================  =========================================================================

With a token, every request but `/health` shows it: `Authorization: Bearer TOKEN`, or as the password of basic
authentication. A table is read batch by batch as the client takes it; a client that stops for too long is cut off.
"""

import asyncio
import base64
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import Any

import pyarrow as pa

import aljava
from aljava import ipc
from aljava.conditions import condition
from aljava.errors import (
    AccessDenied,
    AddressError,
    AljavaError,
    AlreadyExists,
    InvalidData,
    InvalidOption,
    MissingDependency,
    NotFound,
    QueryError,
    StoreFull,
    TransferError,
)
from aljava.server.catalogue import Catalogue, limited
from aljava.server.metrics import Metrics
from aljava.server.page import POLICY, listing
from aljava.server.settings import Settings
from aljava.streams.channels import Channel
from aljava.streams.sending import PartsSink, pieces

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise MissingDependency("a server for HTTP needs Starlette and uvicorn: pip install 'aljava[serve]'") from error

STREAM = "application/vnd.apache.arrow.stream"
# Bytes of one write to a connection: enough to keep it busy, small enough to be held for each of many clients.
_CHUNK = 2 << 20
_LONGEST_BODY = 1 << 20
# Where an application finds the connection that its response goes out on.
_CONNECTION = "aljava.connection"

_STATUS: tuple[tuple[type[AljavaError], int], ...] = (
    (NotFound, 404),
    (AccessDenied, 403),
    (AlreadyExists, 409),
    (StoreFull, 507),
    (QueryError, 400),
    (InvalidOption, 400),
    (AddressError, 400),
    (InvalidData, 400),
)


class HttpServer:
    """Serves a catalogue over HTTP, in a thread of its own.

    Args:
        catalogue: the tables.
        addresses: those that the catalogue was made of, for processes that run queries.
        settings: what is allowed.
        host: where to listen.
        port: 0 lets the system choose.

    Raises:
        AccessDenied: not a loopback address, and no token; or the certificate cannot be used.
        TransferError: nobody can listen there.
    """

    def __init__(self, catalogue: Catalogue, addresses: list[str], settings: Settings, host: str, port: int) -> None:
        settings.require_safe(host)
        settings.certificates()
        self.metrics = Metrics()
        limits = settings.limits

        class Protocol(_GuardedProtocol):
            head_seconds = limits.head_seconds
            most_connections = limits.connections
            metrics = self.metrics
            # One for each connection, or those who take their time would keep others waiting.
            senders = ThreadPoolExecutor(limits.connections, "aljava sends")

        config = uvicorn.Config(
            _application(catalogue, addresses, settings, self.metrics),
            host=host,
            port=port,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
            timeout_graceful_shutdown=2,
        )
        try:
            self._socket = _bound(host, port, limits.stall_seconds)
        except OSError as error:
            raise TransferError(f"{host}:{port}: cannot listen there: {error.strerror or error}") from error
        config.load()
        self._server = uvicorn.Server(config)
        scheme = "https" if settings.tls_cert else "http"
        #: Where clients call, with the port that the system chose.
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="aljava http", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # Not `Server.run`, which would take the signals of the process.
        asyncio.run(self._server._serve([self._socket]))

    def close(self) -> None:
        """Stops; what is under way has 2 seconds to end."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> "HttpServer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _bound(host: str, port: int, stall: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.create_server((host, port), family=family, backlog=512)
    if sys.platform == "linux":
        # Connections have it from here: what a client behind a cut cable was sent is kept no longer than that.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall * 1000))
    return bound


class _GuardedProtocol(H11Protocol):
    """A connection that is closed when there are too many, or when it is slow to say what it wants."""

    head_seconds: float
    most_connections: int
    metrics: Metrics
    senders: ThreadPoolExecutor
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if transport.get_extra_info("sslcontext") is None:
            self.app_state = {**self.app_state, _CONNECTION: self}
        if len(self.connections) > self.most_connections:
            self.metrics.count("connections_refused")
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._stop_waiting()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    async def send_directly(self, messages: Iterator[list[Any]], stall: float, metrics: Metrics) -> None:
        """Sends the body of a response whose head has been handed over, from a thread and without copies.

        Raises:
            TransferError: the client is gone, or takes nothing any more.
        """
        while self.transport.get_write_buffer_size():  # the head, where the client did not take it at once
            await asyncio.wait_for(self.flow.drain(), stall)
            await asyncio.sleep(0.001)
        body = _Body(self.transport.get_extra_info("socket").dup(), stall)

        def send() -> None:
            with body:
                for parts in messages:
                    metrics.count("bytes_sent", body.send_chunk(parts))

        sent = self.loop.run_in_executor(self.senders, send)
        try:
            await asyncio.shield(sent)
        except asyncio.CancelledError:
            body.abort()
            await asyncio.gather(sent, return_exceptions=True)  # how it ended is of no interest
            raise

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self.metrics.count("connections_too_slow")
        self.transport.abort()


def _application(catalogue: Catalogue, addresses: list[str], settings: Settings, metrics: Metrics) -> Any:
    routes = _Routes(catalogue, addresses, settings, metrics)
    application = Starlette(
        routes=[
            Route("/", routes.front),
            Route("/health", routes.health),
            Route("/metrics", routes.metrics_page),
            Route("/tables", routes.list),
            Route("/tables/{name:path}", routes.table, methods=["GET"]),
            Route("/tables/{name:path}", routes.upload, methods=["PUT"]),
            Route("/schemas/{name:path}", routes.schema),
            Route("/sql", routes.sql, methods=["POST"]),
        ],
        exception_handlers={AljavaError: _explained},
    )

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] != "/health" and not settings.admits(_shown_token(scope)):
            metrics.count("requests_without_token")
            # A browser can only ask its user for a password, which may be the token.
            scheme = "Basic" if _is_browser(_header(scope, b"accept")) else "Bearer"
            denied = JSONResponse(
                {"error": "this server asks for a token: Authorization: Bearer TOKEN"},
                401,
                {"WWW-Authenticate": f'{scheme} realm="aljava"'},
            )
            await denied(scope, receive, send)
            return
        metrics.count("requests")
        await application(scope, receive, send)

    return guarded


def _shown_token(scope: Any) -> str | None:
    kind, _, value = _header(scope, b"authorization").partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("latin-1").partition(":")[2]
        except ValueError:
            return None
    return None


def _header(scope: Any, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _is_browser(accept: str) -> bool:
    """Whether a client that takes this would rather have a page than JSON."""
    return "text/html" in accept.lower()


async def _explained(request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    # The name is the client's own; paths of this machine are not its business.
    text = (
        str(error) if isinstance(error, QueryError | InvalidOption | AccessDenied) or status == 404 else _without(error)
    )
    return JSONResponse({"error": text, "kind": type(error).__name__}, status)


def _without(error: Exception) -> str:
    kinds = {InvalidData: "what was sent, or stands there, is no table or damaged", StoreFull: "there is no room"}
    return next(
        (text for kind, text in kinds.items() if isinstance(error, kind)), "the table cannot be read or written"
    )


class _Routes:
    """The pages."""

    def __init__(self, catalogue: Catalogue, addresses: list[str], settings: Settings, metrics: Metrics) -> None:
        self._catalogue, self._addresses, self._settings, self._metrics = catalogue, addresses, settings, metrics
        self._queries = asyncio.Semaphore(settings.limits.queries)

    async def front(self, request: Request) -> Response:
        if not _is_browser(request.headers.get("accept", "")):
            return await self.list(request)
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Vary": "Accept"}
        return HTMLResponse(await run_in_threadpool(listing, self._catalogue, str(request.base_url)), headers=headers)

    async def health(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    async def metrics_page(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(self._metrics.page(), media_type="text/plain; version=0.0.4")

    async def list(self, request: Request) -> JSONResponse:
        names = await run_in_threadpool(lambda: sorted(table.name for table in self._catalogue))
        return JSONResponse({"tables": names})

    async def schema(self, request: Request) -> JSONResponse:
        dataset = await run_in_threadpool(self._catalogue.open, request.path_params["name"])
        columns = [
            {"name": field.name, "type": str(field.type), "nullable": field.nullable} for field in dataset.schema
        ]
        return JSONResponse({"columns": columns})

    async def table(self, request: Request) -> "_Rows":
        query = request.query_params
        for name in query:
            if name not in ("columns", "filter", "limit"):
                raise InvalidOption(f"there is no parameter {name!r}; there are columns, filter and limit")
        options = _codec(request.headers.get("accept", ""))

        def begin() -> pa.RecordBatchReader:
            dataset = self._catalogue.open(request.path_params["name"])
            columns = [name for name in query["columns"].split(",") if name] if "columns" in query else None
            expression = condition(query["filter"], dataset.schema) if query.get("filter") else None
            return limited(dataset.to_reader(columns, expression), _rows(query.get("limit")))

        return _Rows(await run_in_threadpool(begin), options, self._settings.limits.stall_seconds, self._metrics)

    async def sql(self, request: Request) -> Any:
        if not self._settings.allow_sql:
            raise AccessDenied("SQL is not allowed on this server (--allow-sql)")
        body = await self._body(request, _LONGEST_BODY)
        limits = self._settings.limits
        options = _codec(request.headers.get("accept", ""))
        from aljava.server import queries

        if self._queries.locked():
            return JSONResponse({"error": f"{limits.queries} queries run already: try again"}, 503)
        await self._queries.acquire()
        try:
            text = body.decode("utf-8", "replace")
            reader = await run_in_threadpool(queries.run, text, self._addresses, limits)
        except BaseException:
            self._queries.release()
            raise
        return _Rows(reader, options, limits.stall_seconds, self._metrics, self._queries.release)

    async def upload(self, request: Request) -> JSONResponse:
        if not self._settings.allow_upload:
            raise AccessDenied("uploads are not allowed on this server (--allow-upload)")
        target = await run_in_threadpool(self._catalogue.target, request.path_params["name"])
        limits = self._settings.limits
        with tempfile.TemporaryFile() as spool:
            size = 0
            stream = request.stream()
            while True:
                try:
                    chunk = await asyncio.wait_for(anext(stream, None), limits.stall_seconds)
                except (TimeoutError, ClientDisconnect):
                    return JSONResponse({"error": "the upload stopped before its end; nothing was changed"}, 408)
                if chunk is None:
                    break
                size += len(chunk)
                if size > limits.upload_bytes:
                    text = f"an upload has at most {limits.upload_bytes:,} bytes; nothing was changed"
                    return JSONResponse({"error": text}, 413, {"Connection": "close"})
                await run_in_threadpool(spool.write, chunk)
            written = await run_in_threadpool(store_upload, spool, size, target)
        self._metrics.count("bytes_received", size)
        return JSONResponse({"rows": written.rows}, 201)

    async def _body(self, request: Request, most: int) -> bytes:
        body = b""
        stream = request.stream()
        while (chunk := await asyncio.wait_for(anext(stream, None), self._settings.limits.head_seconds)) is not None:
            body += chunk
            if len(body) > most:
                raise InvalidOption(f"the body has at most {most:,} bytes")
        return body


def store_upload(spool: Any, size: int, target: str) -> Any:
    """Checks every value of an uploaded stream, then puts it in its place, whole or not at all."""
    from aljava.places.pipes import DescriptorPlace

    spool.flush()
    spool.seek(0)
    if not size:
        raise InvalidData("an empty upload")
    reader = aljava.open(DescriptorPlace(f"fd:{spool.fileno()}"), untrusted=True)
    return aljava.write(reader.to_reader(), target)


def _rows(text: str | None) -> int | None:
    if text is not None and (not text.isdecimal() or len(text) > 18):
        raise InvalidOption(f"limit={text[:20]} is no number of rows")
    return None if text is None else int(text)


def _codec(accept: str) -> Any:
    """What a client takes, `application/vnd.apache.arrow.stream; codecs="zstd, lz4"`: the first that we know."""
    for part in accept.split(";"):
        name, _, value = part.strip().partition("=")
        if name.strip().lower() == "codecs":
            for codec in value.strip().strip('"').split(","):
                if codec.strip().lower() in ("zstd", "lz4"):
                    return ipc.WriteOptions(compression=codec.strip().lower())
    return ipc.WriteOptions(compression="none")


class _Rows:
    """A response: a table as an Arrow IPC stream, made as the client takes it."""

    def __init__(
        self, reader: pa.RecordBatchReader, options: Any, stall: float, metrics: Metrics, done: Any = None
    ) -> None:
        self._reader, self._options, self._stall, self._metrics, self._done = reader, options, stall, metrics, done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            # The first batch before the status: what fails at once is said with a status of its own.
            batches = await run_in_threadpool(self._begun)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", STREAM.encode())]})
            try:
                connection = scope.get("state", {}).get(_CONNECTION)
                if scope["method"] == "HEAD":
                    pass
                elif connection is not None and scope["http_version"] == "1.1":
                    await connection.send_directly(self._parts(batches), self._stall, self._metrics)
                else:
                    await self._send(self._parts(batches), send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except (TimeoutError, AljavaError) as error:
                self._metrics.count("responses_cut")
                # Too late for a status: the connection ends without its last chunk, the stream without its mark.
                raise _Cut from error
        finally:
            if self._done is not None:
                self._done()

    async def _send(self, messages: Iterator[list[Any]], send: Any) -> None:
        while (parts := await run_in_threadpool(next, messages, None)) is not None:
            body = b"".join(parts)
            self._metrics.count("bytes_sent", len(body))
            await asyncio.wait_for(send({"type": "http.response.body", "body": body, "more_body": True}), self._stall)

    def _begun(self) -> Iterator[pa.RecordBatch]:
        batches = iter(self._reader)
        first = next(batches, None)
        return batches if first is None else chain([first], batches)

    def _parts(self, batches: Iterator[pa.RecordBatch]) -> Iterator[list[Any]]:
        """The bytes of one batch after the other, in parts that are not copied."""
        sink = PartsSink()
        writer = ipc.new_stream(sink, self._reader.schema, options=self._options)
        for batch in batches:
            for piece in pieces(batch, _CHUNK):
                writer.write_batch(piece)
                yield sink.take()[0]
        writer.close()
        yield sink.take()[0]


class _Body(Channel):
    """A response's body, written to the connection's socket: asyncio's transport would copy it three times.

    Args:
        connection: a socket that does not block.
        stall: seconds without progress after which the client is cut off.
    """

    address = "the client"

    def __init__(self, connection: socket.socket, stall: float) -> None:
        self._socket, self._stall = connection, stall

    def send_chunk(self, parts: list[Any]) -> int:
        """Sends parts as one chunk of HTTP's chunked coding; returns their bytes."""
        size = sum(memoryview(part).nbytes for part in parts)
        if size:
            self.send([b"%x\r\n" % size, *parts, b"\r\n"])
        return size

    def takes(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def _send_some(self, views: Sequence[Any]) -> int:
        while True:
            try:
                return self._socket.sendmsg(views)
            except BlockingIOError:
                if not self.takes(self._stall):
                    raise TimeoutError from None

    def _receive_some(self, view: memoryview, whole: bool) -> int:
        raise InvalidOption("a response is written, not read")

    def finish(self) -> None:
        """The last chunk is the protocol's to send."""

    def acknowledge(self) -> None:
        """Nothing came."""

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        """Ends a send that is under way in another thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _Cut(Exception):
    """Ends a response that cannot be completed."""
