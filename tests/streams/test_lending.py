"""Memory that is lent, or copied to be shared: what arrives is what was sent, whatever becomes of the memory after."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

import aljava
from aljava.streams.channels import SocketChannel
from aljava.streams.lending import SMALLEST, Lender


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each message that was lent."""
    sizes: list[int] = []
    send = Lender.send

    def counted(self, parts, meanwhile):
        sizes.append(sum(map(len, parts)))
        send(self, parts, meanwhile)

    monkeypatch.setattr(Lender, "send", counted)
    return sizes


@pytest.mark.parametrize(
    ("sends", "receives"), [("?shared_memory=off", ""), ("", "?shared_memory=off"), ("", "")], ids=["off", "no", "yes"]
)
def test_memory_is_the_callers_again_after_each_batch(sends: str, receives: str, folder: str, lent: list[int]) -> None:
    values = np.zeros(500_000, np.int64)
    schema = pa.schema([("value", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(12):
            values[:] = number  # the memory of the batch before
            yield pa.record_batch([pa.array(values)], schema=schema)
        values[:] = -1

    def send() -> None:
        aljava.write(pa.RecordBatchReader.from_batches(schema, batches()), f"unix://{folder}/s{sends}")
        values[:] = -2

    sender = threading.Thread(target=send)
    with aljava.listen(f"unix://{folder}/s{receives}") as listener:
        sender.start()
        for number, batch in enumerate(next(listener)):
            time.sleep(0.01)
            assert batch["value"].to_numpy().min() == batch["value"].to_numpy().max() == number
        assert number == 11
    sender.join()
    # The first may be sent before the receiver has said that it copies.
    assert sum(lent) >= 10 * values.nbytes if sends or receives else not lent


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("kind", ["sliced", "wide", "text", "compressed"])
def test_every_kind_of_table(
    kind: str, shares: bool, folder: str, lent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aljava.streams.sharing._HELLO_WAIT", 10)
    random = np.random.default_rng(5)
    rows = 600_000
    table = pa.table({"id": random.integers(0, 1 << 60, rows), "flag": random.integers(0, 2, rows).astype(bool)})
    if kind == "sliced":
        table = table.slice(12_345, 500_003)
    elif kind == "wide":
        table = pa.table({f"c{number}": random.random(4_000) for number in range(300)})
    elif kind == "text":
        table = table.append_column("name", pa.array([f"name {number}" for number in range(rows)]).dictionary_encode())
    options = {"compression": "zstd"} if kind == "compressed" else {}
    sender = threading.Thread(target=aljava.write, args=(table, f"unix://{folder}/s"), kwargs=options)
    with aljava.listen(f"unix://{folder}/s", shared_memory=shares) as listener:
        sender.start()
        assert next(listener).read_all().equals(table)
    sender.join()
    assert bool(lent) is not shares


def test_a_receiver_that_says_nothing_is_lent_nothing(folder: str, lent: list[int]) -> None:
    table = pa.table({"id": np.arange(1_000_000)})
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.bind(f"{folder}/s")
        waiting.listen()
        sender = threading.Thread(target=aljava.write, args=(table, f"unix://{folder}/s?shared_memory=off"))
        sender.start()
        connection, _ = waiting.accept()
        with connection, connection.makefile("rb") as file:
            assert pa.ipc.open_stream(file).read_all().equals(table)
        sender.join()
    assert not lent


def test_a_receiver_that_dies_ends_the_wait() -> None:
    ours, theirs = socket.socketpair()
    channel = SocketChannel(ours, "the peer", 30)
    channel.lend()
    message = [b"head", np.zeros(SMALLEST, np.int64)]
    threading.Timer(0.2, theirs.close).start()
    before = os.listdir("/proc/self/fd")
    with channel, pytest.raises(aljava.errors.TransferError, match="closed the connection"):
        channel.send(message, lambda: None)
    assert len(os.listdir("/proc/self/fd")) < len(before)
