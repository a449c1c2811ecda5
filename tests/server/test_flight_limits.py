"""What Flight's server refuses: calls beyond its limit, uploads that are too large or too slow."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight
import pytest

import aljava
from aljava.errors import AccessDenied, AljavaError, InvalidData, TransferError
from aljava.server.catalogue import Catalogue
from aljava.server.flight import FlightServer
from aljava.server.settings import Limits, Settings
from tests.streams.peers import numbers, process

LIMITS = Limits(connections=3, upload_bytes=1 << 20, stall_seconds=0.5)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FlightServer]:
    """Offers `data/n`, of 128 MB, more than the network holds, and takes uploads."""
    (tmp_path / "data").mkdir()
    aljava.write(numbers(8_000_000), str(tmp_path / "data" / "n.arrow"), compression="none")
    server = FlightServer(
        Catalogue([str(tmp_path / "data")]), Settings(allow_upload=True, limits=LIMITS), "127.0.0.1", 0
    )
    yield server
    server.close()


def answers(served: FlightServer) -> bool:
    """Whether all calls that may be under way can be, once those of before have ended."""
    with pa.flight.connect(served.address) as client:
        for _ in range(100):
            try:
                readers = [client.do_get(pa.flight.Ticket(b"data/n")) for _ in range(LIMITS.connections)]
                return all(reader.read_all().num_rows == 8_000_000 for reader in readers)
            except pa.flight.FlightUnavailableError:
                time.sleep(0.1)
    return False


def test_calls_at_a_time(served: FlightServer) -> None:
    schema = numbers(1).schema
    with pa.flight.connect(served.address) as client:
        # Uploads, since they end when we say so; of a download, a fast network may have swallowed all.
        held = [
            client.do_put(pa.flight.FlightDescriptor.for_path("data", f"held{number}"), schema)[0]
            for number in range(LIMITS.connections)
        ]
        while f"aljava_requests_total {LIMITS.connections}" not in served.metrics.page():
            time.sleep(0.01)
        for _ in range(20):
            with pytest.raises(pa.flight.FlightUnavailableError, match="3 calls are under way already"):
                list(client.do_action("health"))
        with pytest.raises(TransferError, match=r"/data/n cannot be reached: .*3 calls are under way"):
            aljava.read(f"{served.address}/data/n")
        assert "aljava_connections_refused_total 21" in served.metrics.page()
        for writer in held:
            writer.close()
        cancelled = client.do_get(pa.flight.Ticket(b"data/n"))
        cancelled.read_chunk()
        cancelled.cancel()
    assert answers(served)


def test_calls_that_end_badly_are_counted_out(served: FlightServer) -> None:
    for _ in range(LIMITS.connections + 1):
        with pytest.raises(AljavaError):
            aljava.read(f"{served.address}/data/none")
        code = """
        from pyarrow import flight
        reader = flight.connect(sys.argv[1]).do_get(flight.Ticket(b"data/n"))
        reader.read_chunk()
        print("begun", flush=True)
        time.sleep(60)
        """
        with process(code, served.address) as child:
            assert child.stdout.readline() == b"begun\n"
            child.kill()
    assert answers(served)


def test_what_is_not_allowed(served: FlightServer, tmp_path: Path) -> None:
    catalogue, port = Catalogue([str(tmp_path / "data")]), int(served.address.rpartition(":")[2])
    with pytest.raises(TransferError, match=f"127.0.0.1:{port}: cannot listen there"):
        FlightServer(catalogue, Settings(), "127.0.0.1", port)
    reads_only = FlightServer(catalogue, Settings(), "127.0.0.1", 0)
    try:
        with pytest.raises(AccessDenied, match="uploads are not allowed on this server"):
            aljava.write(numbers(10), f"{reads_only.address}/data/new")
        (tmp_path / "data" / "bad.arrow").write_bytes(b"ARROW1\0\0" + bytes(100))
        with pytest.raises(InvalidData, match="damaged"):
            aljava.read(f"{reads_only.address}/data/bad")
    finally:
        reads_only.close()


def test_uploads_too_large_and_too_slow(served: FlightServer, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"at most 1,048,576 bytes; nothing was changed"):
        aljava.write(numbers(1_000_000), f"{served.address}/data/large")

    def slow() -> Iterator[pa.RecordBatch]:
        for _ in range(20):
            yield pa.record_batch({"id": np.arange(10), "value": np.arange(10) * 0.5})
            time.sleep(0.7)

    with pytest.raises(AljavaError, match=r"nothing came for 0\.5 seconds; nothing was changed"):
        aljava.write(pa.RecordBatchReader.from_batches(numbers(1).schema, slow()), f"{served.address}/data/slow")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["n.arrow"]
    assert answers(served)
