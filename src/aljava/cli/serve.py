"""`aljava serve`: files, folders and stores over HTTP and Arrow Flight."""

import signal
import sys
import threading
from contextlib import ExitStack
from typing import Any

import typer

from aljava.errors import InvalidOption


def command(
    addresses: list[str] = typer.Argument(help="What to offer: files, folders, shm://STORE, shm://STORE/KEY."),
    *,
    http: str | None = typer.Option(None, metavar="HOST:PORT", help="Listen for HTTP, as at 127.0.0.1:8000."),
    flight: str | None = typer.Option(None, metavar="HOST:PORT", help="Listen for Arrow Flight, as at 127.0.0.1:8815."),
    token_file: str | None = typer.Option(None, metavar="FILE", help="A file with the token that clients must show."),
    tls_cert: str | None = typer.Option(None, metavar="FILE", help="The certificate, for TLS (PEM)."),
    tls_key: str | None = typer.Option(None, metavar="FILE", help="Its key (PEM)."),
    allow_sql: bool = typer.Option(False, help="Let clients send SELECT statements over HTTP."),
    allow_upload: bool = typer.Option(False, help="Let clients upload tables into the folders and stores."),
) -> None:
    """Offer tables to other programs, over HTTP and Arrow Flight, until control-C.

    Without a token only this machine can be listened to.

    Example: aljava serve data/ trades.arrow shm://desk --http 127.0.0.1:8000 --flight 127.0.0.1:8815
    """
    from aljava.server.catalogue import Catalogue
    from aljava.server.settings import Settings, host_and_port, read_token

    if http is None and flight is None:
        raise InvalidOption("say where to listen: --http HOST:PORT, --flight HOST:PORT or both")
    settings = Settings(
        token=None if token_file is None else read_token(token_file),
        allow_sql=allow_sql,
        allow_upload=allow_upload,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    catalogue = Catalogue(addresses)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as servers:
        for text, name in ((http, "HTTP"), (flight, "Arrow Flight")):
            if text is None:
                continue
            server: Any
            if name == "HTTP":
                from aljava.server.http import HttpServer

                server = HttpServer(catalogue, addresses, settings, *host_and_port(text))
            else:
                from aljava.server.flight import FlightServer

                server = FlightServer(catalogue, settings, *host_and_port(text))
            servers.callback(server.close)
            print(f"{name}: {server.address}", flush=True)
        while not ended.wait(3600):
            continue
    sys.stdout.flush()
