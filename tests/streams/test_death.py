"""Kill -9 of either end at any moment: the other end gets an error, and nothing is left."""

import random
import socket
from collections import deque

import psutil
import pyarrow as pa
import pytest

import aljava
from aljava.errors import AljavaError, TransferError, TruncatedFile
from tests.streams.peers import numbers, process

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.long]

ENDLESS = """
import numpy as np
schema = pa.schema([("n", pa.int64()), ("x", pa.float64())])
batch = pa.record_batch([np.arange(200_000), np.arange(200_000) * 0.5], schema=schema)
def for_ever():
    print("begins", flush=True)
    while True:
        yield batch
aljava.write(pa.RecordBatchReader.from_batches(schema, for_ever()), sys.argv[1])
"""
DRAIN = """
print("begins", flush=True)
rows = 0
for batch in aljava.open(sys.argv[1]).to_reader():
    rows += batch.num_rows
"""


def shared_memory() -> int:
    """Bytes of shared memory of the machine, memory files included."""
    with open("/proc/meminfo") as info:
        return next(int(line.split()[1]) * 1024 for line in info if line.startswith("Shmem:"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", ["", "?shared_memory=off"])
def test_the_sender_is_killed(options: str, seed: int, folder: str) -> None:
    pause = random.Random(seed).uniform(0, 0.2)
    with process(ENDLESS, f"unix://{folder}/s") as sender, aljava.listen(f"unix://{folder}/s{options}") as listener:
        reader = next(listener)
        for _ in range(int(pause * 200)):
            reader.read_next_batch()
        sender.kill()
        with pytest.raises((TruncatedFile, TransferError)):
            deque(reader, maxlen=0)


@pytest.mark.parametrize("scheme", ["unix", "unix-bytes", "tcp"])
def test_the_receiver_is_killed(scheme: str, folder: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = {
        "unix": f"unix://{folder}/s",
        "unix-bytes": f"unix://{folder}/s?shared_memory=off",
        "tcp": f"tcp://127.0.0.1:{port}",
    }[scheme]
    with process(DRAIN, address) as receiver:
        assert receiver.stdout.readline() == b"begins\n"
        sent = 0

        def batches():
            nonlocal sent
            for _ in range(10_000):
                yield from numbers(500_000).to_batches()
                sent += 1
                if sent == 20:
                    receiver.kill()

        with pytest.raises(TransferError, match="the other end closed the connection"):
            aljava.write(pa.RecordBatchReader.from_batches(numbers(1).schema, batches()), address)
    assert sent < 200


def test_memory_goes_with_the_processes(folder: str) -> None:
    before = shared_memory()
    address = f"unix://{folder}/s"
    with process(DRAIN, address) as receiver, process(ENDLESS, address) as sender:
        assert receiver.stdout.readline() == b"begins\n"
        assert sender.stdout.readline() == b"begins\n"
        receiver.kill()
        sender.kill()
        receiver.wait()
        sender.wait()
    assert shared_memory() - before < 64 << 20


def test_an_endless_stream_takes_bounded_memory(folder: str) -> None:
    address = f"unix://{folder}/s"
    with process(ENDLESS, address) as sender, aljava.listen(address) as listener:
        rows = 0
        for batch in next(listener):
            rows += batch.num_rows
            if rows > 200_000 * 400:  # 1.3 GB
                break
        held = psutil.Process(sender.pid).memory_info().rss
        assert held < 200 << 20, f"the sender holds {held:,} bytes"
        sender.kill()


def test_a_slow_reader_does_not_grow_the_writer(folder: str) -> None:
    address = f"unix://{folder}/s?shared_memory=off"
    with process(ENDLESS, address) as sender, aljava.listen(address) as listener:
        reader = next(listener)
        reader.read_next_batch()
        before = psutil.Process(sender.pid).memory_info().rss
        for _ in range(30):
            reader.read_next_batch()
        assert psutil.Process(sender.pid).memory_info().rss - before < 64 << 20
        sender.kill()
        with pytest.raises(AljavaError):
            deque(reader, maxlen=0)
