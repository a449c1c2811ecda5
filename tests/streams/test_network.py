"""Two hosts with a cable between them that loses, delays and reorders packets, and is cut."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.streams.cable import HOSTS, Cable

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.long]
LATE = f"tcp://{HOSTS[1]}:9000: nothing could be {{}} the other end within the time limit"
# Of 160 kB each.
BATCHES = os.environ.get("ALJAVA_TEST_NETWORK_BATCHES", "30")
TOKEN = "token-of-the-test"

SEND = """
import sys, aljava, pyarrow as pa, pyarrow.compute as pc
from tests.streams.peers import numbers
def batches():
    for number in range(int(sys.argv[2])):
        some = numbers(10_000)
        yield from some.set_column(0, "id", pc.add(some["id"], number * 10_000)).to_batches()
        if number == 20:
            print("sending", flush=True)
aljava.write(pa.RecordBatchReader.from_batches(numbers(1).schema, batches()), sys.argv[1])
"""
RECEIVE = """
import sys, aljava, numpy as np
with aljava.listen(sys.argv[1]) as calls:
    print("listening", flush=True)
    for reader in calls:
        count = 0
        try:
            for batch in reader:
                assert (batch["id"].to_numpy() == np.arange(count, count + len(batch))).all()
                assert (batch["value"].to_numpy() == np.arange(len(batch)) * 0.5).all()
                count += len(batch)
            print("whole", count, flush=True)
        except aljava.AljavaError as error:
            print(type(error).__name__, error, flush=True)
"""
SERVE = """
import os, sys, tempfile, time, aljava, psutil
from aljava.server.catalogue import Catalogue
from aljava.server.flight import FlightServer
from aljava.server.http import HttpServer
from aljava.server.settings import Limits, Settings
from tests.streams.peers import numbers
with tempfile.TemporaryDirectory() as folder:
    os.mkdir(f"{folder}/data")
    aljava.write(numbers(int(sys.argv[3])), f"{folder}/n.arrow")
    settings = Settings(token=sys.argv[2], allow_upload=True, limits=Limits(stall_seconds=2))
    catalogue = Catalogue([f"{folder}/n.arrow", f"{folder}/data"])
    with HttpServer(catalogue, [], settings, sys.argv[1], 0) as http:
        flight = FlightServer(catalogue, settings, sys.argv[1], 0)
        print(http.address, flight.address, flush=True)
        for line in sys.stdin:  # when its connections are gone
            while left := [one for one in psutil.Process().net_connections() if one.status == "ESTABLISHED"]:
                time.sleep(0.1)
            print(len(left), flush=True)
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    cable = Cable()
    try:
        yield cable
    finally:
        cable.close()


def test_nothing_is_lost_or_reordered(cable: Cable) -> None:
    address = f"tcp://{HOSTS[1]}:9000?timeout=30"
    receiver = cable.start(1, RECEIVE, address)
    assert receiver.stdout.readline() == "listening\n"
    sender = cable.start(0, SEND, address, BATCHES)
    said = sender.communicate(timeout=240)
    assert sender.returncode == 0, said
    assert receiver.stdout.readline() == f"whole {int(BATCHES) * 10_000}\n"
    assert cable.lost() > 10


@pytest.mark.parametrize("how", ["cut", "pulled out of the sender", "pulled out of the receiver"])
def test_a_cut_is_an_error_at_both_ends_and_a_new_stream_begins_anew(cable: Cable, how: str) -> None:
    address = f"tcp://{HOSTS[1]}:9000?timeout=2"
    receiver = cable.start(1, RECEIVE, address)
    assert receiver.stdout.readline() == "listening\n"
    sender = cable.start(0, SEND, address, "1000000")
    assert sender.stdout.readline() == "sending\n"
    if how == "cut":
        cable.cut()
    else:
        cable.pull(int(how.endswith("receiver")))
    # The limit is 2 seconds; the system's own is a quarter of an hour.
    _, said = sender.communicate(timeout=30)
    assert said.splitlines()[-1] == f"aljava.errors.TransferError: {LATE.format('sent to')}"
    assert receiver.stdout.readline() == f"TransferError {LATE.format('received from')}\n"
    cable.mend()
    again = cable.start(0, SEND, f"tcp://{HOSTS[1]}:9000?timeout=30", "5")
    assert (again.communicate(timeout=60), again.returncode) == (("", ""), 0)
    assert receiver.stdout.readline() == "whole 50000\n"


@pytest.fixture
def served(cable: Cable) -> Iterator[tuple[Any, str, str]]:
    """A server at the far host: its process, and where it has HTTP and Flight."""
    pytest.importorskip("uvicorn", reason="the serve extra is not installed")
    server = cable.start(1, SERVE, HOSTS[1], TOKEN, "300_000")
    http, flight = server.stdout.readline().replace("://", f"://:{TOKEN}@").split()
    return server, f"{http}/tables", flight


FETCH = """
import sys, aljava
from tests.streams.peers import numbers
try:
    table = aljava.read(sys.argv[1])
    assert table.equals(numbers(300_000))
    assert aljava.write(table, sys.argv[2]).rows == 300_000
    print("whole", aljava.read(sys.argv[2]).equals(table))
except aljava.AljavaError as error:
    print(type(error).__name__, error)
"""


def test_a_server_over_a_bad_cable(cable: Cable, served: tuple[Any, str, str]) -> None:
    for base in served[1:]:
        client = cable.start(0, FETCH, f"{base}/n", f"{base}/data/n")
        assert (client.communicate(timeout=120), client.returncode) == (("whole True\n", ""), 0)
    assert cable.lost() > 10


PART = """
import sys, aljava
rows = 0
try:
    for batch in aljava.open(sys.argv[1]).to_reader():
        rows += batch.num_rows
        if rows == batch.num_rows:
            print("begun", flush=True)
    print("whole")
except aljava.AljavaError as error:
    print(type(error).__name__, error)
"""


def test_a_cut_download_is_an_error_at_both_ends(cable: Cable, served: tuple[Any, str, str]) -> None:
    server, http, flight = served
    for base in (http, flight):
        client = cable.start(0, PART, f"{base}/n?timeout=2")
        assert client.stdout.readline() == "begun\n"
        cable.cut()
        said, _ = client.communicate(timeout=30)
        assert said.startswith("TransferError "), said
        assert "/n: " in said
        assert TOKEN not in said
        if base == http or "ALJAVA_TEST_NETWORK_BATCHES" in os.environ:  # gRPC takes 20 seconds
            server.stdin.write("connections\n")
            server.stdin.flush()
            assert server.stdout.readline() == "0\n"
        cable.mend()
