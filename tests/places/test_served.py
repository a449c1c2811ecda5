"""A server that is slow, or stops: what the client of `http://…/tables/NAME` makes of it."""

import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

import aljava
from aljava.errors import AddressError, TransferError, TruncatedFile
from aljava.places import served

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apache.arrow.stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TABLE = pa.table({"id": np.arange(300_000)})


def answer(send: Callable[[socket.socket, bytes], None]) -> str:
    """Serves one request, its body as `send` does it; returns the table's address."""
    waiting = socket.create_server(("127.0.0.1", 0))
    body = aljava.dumps(TABLE)

    def run() -> None:
        with waiting, waiting.accept()[0] as connection:
            connection.recv(1 << 16)
            send(connection, bytes(body))

    threading.Thread(target=run, daemon=True).start()
    return f"http://127.0.0.1:{waiting.getsockname()[1]}/tables/t"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_chunks_of_any_size_that_come_in_bits() -> None:
    def send(connection: socket.socket, body: bytes) -> None:
        whole = HEAD + b"".join(chunk(body[at : at + 70_001]) for at in range(0, len(body), 70_001)) + chunk(b"")
        for at in range(0, len(whole), 333_333):
            connection.sendall(whole[at : at + 333_333])
            time.sleep(0.01)

    assert aljava.open(answer(send)).to_reader().read_all().equals(TABLE)


def test_a_server_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_TIMEOUT", 1)
    told = threading.Event()

    def send(connection: socket.socket, body: bytes) -> None:
        connection.sendall(HEAD + chunk(body)[: len(body) // 2])
        told.wait(60)

    with pytest.raises(TransferError, match="time limit"):
        aljava.open(answer(send)).to_reader().read_all()
    told.set()


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "_TIMEOUT", 1)
    told = threading.Event()
    with pytest.raises(TransferError, match="cannot be reached"):
        aljava.open(answer(lambda connection, body: told.wait(60) and None))
    told.set()


def test_a_response_cut_in_a_chunk_is_told() -> None:
    def send(connection: socket.socket, body: bytes) -> None:
        connection.sendall(HEAD + chunk(body)[: len(body) // 2])

    with pytest.raises(TruncatedFile):
        aljava.open(answer(send)).to_reader().read_all()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://host:99999/tables/x", "a port that is none"),
        ("http://:80/tables/x", "HOST:PORT/tables/NAME"),
        ("http://host/tables/x#part", "HOST:PORT/tables/NAME"),
        ("grpc://host/x", "names no table: write grpc://HOST:PORT/NAME"),
        ("grpc://host:99999/x", "names no table"),
        ("grpc://host:1", "names no table"),
    ],
)
def test_addresses_that_name_no_table_of_a_server(address: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        aljava.read(address)
