"""Two hosts, as network namespaces, with a network between them that loses, delays and reorders, and that is cut."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = [pytest.mark.usefixtures("no_leaks"), pytest.mark.long]
HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOST, OTHER = "10.213.77.1", "10.213.77.2"
# Percent of the packets, and milliseconds; of batches of 1.6 MB.
LOSS, DELAY, STREAM_BATCHES = "1", "4", os.environ.get("ALJAVA_TEST_NETWORK_BATCHES", "4")

SEND = """
import sys, time, aljava, pyarrow as pa
from tests.streams.peers import numbers
def batches():
    for number in range(int(sys.argv[2])):
        yield from numbers(100_000).to_batches()
        if number == 2:
            print("sending", flush=True)
aljava.write(pa.RecordBatchReader.from_batches(numbers(1).schema, batches()), sys.argv[1])
"""
RECEIVE = """
import sys, aljava
from tests.streams.peers import numbers
with aljava.listen(sys.argv[1]) as calls:
    print("listening", flush=True)
    for reader in calls:
        try:
            expected = numbers(100_000).to_batches()[0]
            count = 0
            for batch in reader:
                assert batch.equals(expected)
                count += batch.num_rows
            print("whole", count, flush=True)
        except aljava.AljavaError as error:
            print(type(error).__name__, flush=True)
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def cable() -> Iterator[str]:
    """Another host, by the name of its namespace, at the end of a cable."""
    name = f"alj{os.getpid() % 100_000}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here (they take root and iproute2): {error}")
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{HOST}/24", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", f"{OTHER}/24", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        yield name
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True, check=False)
        ip("netns", "del", name)


def start(code: str, *arguments: str, namespace: str | None = None) -> subprocess.Popen[str]:
    prefix = [] if namespace is None else ["ip", "netns", "exec", namespace]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, os.environ["PYTHONPATH"]])}
    command = [*prefix, sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def stop(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def bad_network() -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """Two hosts, by the names of their namespaces, and the process that passes packets between them."""
    names = (f"aljp{os.getpid() % 100_000}", f"aljq{os.getpid() % 100_000}")
    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here (they take root and iproute2): {error}")
    try:
        if not os.path.exists("/dev/net/tun"):
            pytest.skip("no /dev/net/tun here, which the packets go through")
        script = os.path.join(HERE, "tests", "streams", "forwarder.py")
        command = ["ip", "netns", "exec", names[0], sys.executable, script, names[1], LOSS, DELAY]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarder:
            try:
                if forwarder.stdout.readline() != "ready\n":
                    pytest.skip("no TUN device can be made here")
                for name, address in zip(names, (HOST, OTHER), strict=True):
                    ip("-n", name, "addr", "add", f"{address}/24", "dev", "aljtun")
                    ip("-n", name, "link", "set", "aljtun", "up")
                yield *names, forwarder
            finally:
                forwarder.kill()
    finally:
        for name in names:
            ip("netns", "del", name)


def test_nothing_is_lost_or_reordered_on_a_bad_network(bad_network: tuple[str, str, subprocess.Popen[str]]) -> None:
    one, other, forwarder = bad_network
    receiver = start(RECEIVE, f"tcp://{OTHER}:9000", namespace=other)
    try:
        assert receiver.stdout.readline() == "listening\n"
        for _ in range(2):  # the second stream, over a new connection, begins anew
            sender = start(SEND, f"tcp://{OTHER}:9000", STREAM_BATCHES, namespace=one)
            assert sender.wait(240) == 0, sender.stderr.read()
            assert receiver.stdout.readline() == f"whole {int(STREAM_BATCHES) * 100_000}\n"
            stop(sender)
    finally:
        stop(receiver)
    forwarder.send_signal(signal.SIGINT)
    said = dict(part.split("=") for part in forwarder.stdout.readline().split())
    assert min(map(int, said.values())) > 0, f"the network was a good one: {said}"


def test_a_network_that_goes_silent_is_an_error_at_both_ends(
    bad_network: tuple[str, str, subprocess.Popen[str]],
) -> None:
    one, other, forwarder = bad_network
    receiver = start(RECEIVE, f"tcp://{OTHER}:9000?timeout=3", namespace=other)
    try:
        assert receiver.stdout.readline() == "listening\n"
        sender = start(SEND, f"tcp://{OTHER}:9000?timeout=3", "1000000", namespace=one)
        assert sender.stdout.readline() == "sending\n"
        forwarder.send_signal(signal.SIGSTOP)
        _, said = sender.communicate(timeout=60)
        assert "TransferError" in said
        assert receiver.stdout.readline().strip() in ("TransferError", "TruncatedFile", "CutStream")
    finally:
        forwarder.send_signal(signal.SIGCONT)
        stop(receiver)


def test_a_cable_that_is_cut_is_an_error_at_both_ends_and_a_new_stream_begins_anew(cable: str) -> None:
    receiver = start(RECEIVE, f"tcp://{OTHER}:9000?timeout=3", namespace=cable)
    try:
        assert receiver.stdout.readline() == "listening\n"
        sender = start(SEND, f"tcp://{OTHER}:9000?timeout=3", "1000000")
        assert sender.stdout.readline() == "sending\n"
        ip("link", "set", f"{cable}a", "down")
        _, said = sender.communicate(timeout=60)  # the limit is 3 seconds; without one it is a quarter of an hour
        assert "TransferError" in said
        assert receiver.stdout.readline().strip() in ("TransferError", "TruncatedFile", "CutStream")
        ip("link", "set", f"{cable}a", "up")
        again = start(SEND, f"tcp://{OTHER}:9000?timeout=30", "5")
        assert again.wait(60) == 0
        stop(again)
        assert receiver.stdout.readline() == "whole 500000\n"
    finally:
        stop(receiver)
