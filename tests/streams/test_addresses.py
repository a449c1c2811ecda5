"""Every address, with real processes at both ends, some of them plain pyarrow."""

import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import aljava
from aljava.errors import AccessDenied, AddressError, InvalidOption, NotFound, TransferError, TruncatedFile
from aljava.formats import Format
from aljava.streams.endpoints import Endpoint
from tests.streams.peers import numbers, output, process, table

pytestmark = pytest.mark.usefixtures("no_leaks")

SEND = """
from tests.streams.peers import table
print(aljava.write(table(5000), sys.argv[1]).rows)
"""
RECEIVE = """
from tests.streams.peers import table
found = aljava.read(sys.argv[1])
assert found.equals(table(5000)) and found.schema.metadata == {b"origin": b"test"}
print(found.num_rows)
"""
HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HERE, os.environ["PYTHONPATH"]]))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.mark.parametrize("first", ["reader", "writer"])
@pytest.mark.parametrize("kind", ["unix", "unix-bytes", "tcp", "fifo", "tls"])
def test_between_two_processes(kind: str, first: str, folder: str, certificates: dict[str, str]) -> None:
    address = {
        "unix": f"unix://{folder}/desk",
        "unix-bytes": f"unix://{folder}/desk?shared_memory=off",
        "tcp": f"tcp://127.0.0.1:{free_port()}",
        "fifo": f"{folder}/fifo",
        "tls": f"tcp+tls://localhost:{free_port()}",
    }[kind]
    reading, writing = address, address
    if kind == "fifo":
        os.mkfifo(address)
    if kind == "tls":
        reading += f"?cert={certificates['cert']}&key={certificates['key']}"
        writing += f"?ca={certificates['cert']}"
    steps = [(RECEIVE, reading), (SEND, writing)]
    if first == "writer":
        steps.reverse()
    with process(steps[0][0], steps[0][1]) as one, process(steps[1][0], steps[1][1]) as other:
        assert output(one) == output(other) == "5000"
    assert os.listdir(folder) == (["fifo"] if kind == "fifo" else [])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no choice")
def test_what_stays_on_this_machine_is_not_paced() -> None:
    endpoint = Endpoint.parse(f"tcp://127.0.0.1:{free_port()}")
    bound = endpoint.bind()
    try:
        with endpoint.connect() as channel, bound.accept(10):
            name = channel.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            assert name.rstrip(b"\0") == b"reno"
    finally:
        bound.close()


def test_standard_input_and_output() -> None:
    code = "import sys, aljava; from tests.streams.peers import table; "
    sender = subprocess.Popen([sys.executable, "-c", code + "aljava.write(table(5000), '-')"], stdout=subprocess.PIPE)
    found = subprocess.run(
        [sys.executable, "-c", code + "t = aljava.read('-'); assert t.equals(table(5000)); print(t.num_rows)"],
        stdin=sender.stdout,
        capture_output=True,
        check=True,
        timeout=60,
    )
    sender.stdout.close()
    assert (sender.wait(), found.stdout) == (0, b"5000\n")


def test_a_file_can_be_piped_in(folder: str) -> None:
    expected = table(5000)
    aljava.write(expected, f"{folder}/x.arrow", compression="zstd")
    with open(f"{folder}/x.arrow", "rb") as file:
        code = "import aljava; from tests.streams.peers import table; assert aljava.read('-').equals(table(5000))"
        subprocess.run([sys.executable, "-c", code], stdin=file, check=True, timeout=60)


def test_descriptors_stay_open() -> None:
    reading, writing = os.pipe()
    sender = threading.Thread(target=lambda: [aljava.write(table(10), f"fd:{writing}") for _ in range(3)])
    sender.start()
    for _ in range(3):
        assert aljava.read(f"fd:{reading}").equals(table(10))
    sender.join()
    os.close(reading)
    os.close(writing)


def test_batches_arrive_as_they_are_sent(folder: str) -> None:
    go_on = threading.Event()
    schema = pa.schema([("n", pa.int64())])

    def live():
        yield pa.record_batch([pa.array([1])], schema=schema)
        assert go_on.wait(30)
        yield pa.record_batch([pa.array([2])], schema=schema)

    reader = pa.RecordBatchReader.from_batches(schema, live())
    sender = threading.Thread(target=aljava.write, args=(reader, f"unix://{folder}/s"))
    sender.start()
    arriving = aljava.open(f"unix://{folder}/s").to_reader()
    assert arriving.read_next_batch().to_pydict() == {"n": [1]}  # and the second is not even made
    go_on.set()
    assert arriving.read_next_batch().to_pydict() == {"n": [2]}
    with pytest.raises(StopIteration):
        arriving.read_next_batch()
    sender.join()


def test_small_batches_arrive_as_they_were_sent(folder: str) -> None:
    """They travel many at a time, and come one by one: of different lengths, sliced, with nulls, with none."""
    rows = numbers(5000).combine_chunks().to_batches()[0]
    nulls = pa.record_batch([pa.array([None, 1]), pa.array([0.5, None])], schema=rows.schema)
    sent = [rows.slice(start % 700, 1 + start % 60) for start in range(3000)]
    sent[1000:1000] = [nulls, rows.slice(0, 0), rows]
    reader = pa.RecordBatchReader.from_batches(rows.schema, sent)
    sender = threading.Thread(target=aljava.write, args=(reader, f"unix://{folder}/s"))
    with aljava.listen(f"unix://{folder}/s") as listener:
        sender.start()
        found = list(next(listener))
    sender.join()
    assert len(found) == len(sent)
    assert all(one.equals(other) for one, other in zip(found, sent, strict=True))


def test_what_follows_on_the_heels_is_not_held_back(folder: str) -> None:
    """The second of two small batches is sent, though the third never comes."""
    go_on = threading.Event()
    batch = numbers(10).to_batches()[0]

    def live():
        yield batch
        yield batch
        assert go_on.wait(30)

    reader = pa.RecordBatchReader.from_batches(batch.schema, live())
    sender = threading.Thread(target=aljava.write, args=(reader, f"unix://{folder}/s"))
    sender.start()
    arriving = aljava.open(f"unix://{folder}/s").to_reader()
    assert [arriving.read_next_batch().num_rows for _ in range(2)] == [10, 10]
    go_on.set()
    assert list(arriving) == []
    sender.join()


def test_columns_and_filter_and_one_pass(folder: str) -> None:
    sender = threading.Thread(target=aljava.write, args=(table(100), f"unix://{folder}/s"))
    sender.start()
    dataset = aljava.open(f"unix://{folder}/s")
    sender_done = dataset.to_table(columns=["value"], filter=pc.field("id") < 3)
    assert sender_done.to_pydict() == {"value": [0.0, 0.5, 1.0]}
    with pytest.raises(InvalidOption, match="comes once"):
        dataset.to_table()
    sender.join()


def test_what_is_known_of_a_stream_before_it_has_come(folder: str) -> None:
    address = f"unix://{folder}/s"
    sender = threading.Thread(target=aljava.write, args=(table(1000), address))
    sender.start()
    dataset = aljava.open(address)
    assert (dataset.address, dataset.files, dataset.format) == (address, [address], Format.IPC_STREAM)
    assert dataset.formats == {Format.IPC_STREAM}
    assert list(dataset.get_fragments()) == [dataset]
    assert repr(dataset).splitlines()[:2] == [f"<aljava.Dataset {address} (arriving)>", "  id: int64"]
    assert f"&lt;aljava.Dataset {address}" in dataset._repr_html_()
    for unknown in ("num_rows", "num_batches", "nbytes", "zones"):
        with pytest.raises(InvalidOption, match="is known when they have come"):
            getattr(dataset, unknown)
    for refused in (dataset.explain, lambda: dataset.filter(pc.field("id") > 1), lambda: pickle.dumps(dataset)):
        with pytest.raises(InvalidOption, match=re.escape(address)):
            refused()
    told: list[tuple[int, int | None]] = []
    batches = list(dataset.to_batches(columns=["id"], batch_size=300, progress=lambda *now: told.append(now)))
    assert [batch.num_rows for batch in batches] == [300, 300, 300, 100]
    assert told[-1] == (1000, 1000)
    sender.join()
    for ask, answer in (
        (lambda it: it.count_rows(filter=pc.field("id") < 7), table(1000).filter(pc.field("id") < 7).num_rows),
        (lambda it: it.take([5, 3], columns=["id"]), table(1000).select(["id"]).take([5, 3])),
    ):
        sender = threading.Thread(target=aljava.write, args=(table(1000), address))
        sender.start()
        assert ask(aljava.open(address)) == answer
        sender.join()


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_plain_pyarrow_sends(scheme: str, folder: str) -> None:
    """A peer that knows no hello leaves it unread, and still is understood."""
    address = f"unix://{folder}/s" if scheme == "unix" else "tcp://127.0.0.1:0"
    with aljava.listen(address) as listener:
        code = """
        kind, target = sys.argv[1].split("://")
        s = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        s.connect(target if kind == "unix" else ("127.0.0.1", int(target.split(":")[1])))
        from tests.streams.peers import table
        with s.makefile("wb") as file, pa.ipc.new_stream(file, table(5000).schema) as writer:
            writer.write_table(table(5000), max_chunksize=700)
        s.close()
        """
        with process(code, listener.address) as sender:
            assert next(listener).read_all().equals(table(5000))
            output(sender)


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_plain_pyarrow_receives(scheme: str, folder: str) -> None:
    """No hello comes, so bytes go out: batches large enough for shared memory too."""
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as waiting:
        waiting.bind(f"{folder}/s" if scheme == "unix" else ("127.0.0.1", 0))
        waiting.listen()
        address = f"unix://{folder}/s" if scheme == "unix" else f"tcp://127.0.0.1:{waiting.getsockname()[1]}"
        code = """
        from tests.streams.peers import numbers
        print(aljava.write(numbers(2_000_000), sys.argv[1]).rows)
        """
        with process(code, address) as sender:
            connection, _ = waiting.accept()
            with connection, connection.makefile("rb") as file, pa.ipc.open_stream(file) as reader:
                found = reader.read_all()
            assert found.equals(numbers(2_000_000))
            assert output(sender) == "2000000"


def test_several_senders_at_once(folder: str) -> None:
    with aljava.listen(f"unix://{folder}/s") as listener:
        senders = [
            threading.Thread(target=aljava.write, args=(numbers(1000 * (n + 1)), listener.address)) for n in range(5)
        ]
        for sender in senders:
            sender.start()
        readers = [next(listener) for _ in senders]
        assert sorted(reader.read_all().num_rows for reader in reversed(readers)) == [1000, 2000, 3000, 4000, 5000]
        for sender in senders:
            sender.join()


def test_a_listener_that_is_closed_lets_go_of_all(folder: str) -> None:
    listener = aljava.listen(f"unix://{folder}/s")
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(f"{folder}/s")

    def send() -> None:
        with pytest.raises(TransferError):
            aljava.write(numbers(5_000_000), listener.address)

    sender = threading.Thread(target=send)
    sender.start()
    first = next(listener)
    listener.close()
    assert list(listener) == []
    assert silent.recv(100) in (b"", b"aljava: memory 2")
    silent.close()
    assert os.listdir(folder) == []
    assert first.read_next_batch().num_rows > 0  # what was yielded lives on
    del first
    sender.join()


def test_a_dead_listener_leaves_no_obstacle(folder: str) -> None:
    with process(
        "l = aljava.listen(sys.argv[1]); print('ready', flush=True); time.sleep(60)", f"unix://{folder}/s"
    ) as one:
        assert one.stdout.readline() == b"ready\n"
        with pytest.raises(TransferError, match="somebody waits there already"):
            aljava.listen(f"unix://{folder}/s")
        one.kill()
        one.wait()
    with aljava.listen(f"unix://{folder}/s"):
        pass
    assert os.listdir(folder) == []


def test_descriptors_that_do_not_block() -> None:
    """As event loops hand them on."""
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    found = []
    receiver = threading.Thread(target=lambda: found.append(aljava.read(f"fd:{reading}")))
    receiver.start()
    time.sleep(0.05)
    aljava.write(numbers(1_000_000), f"fd:{writing}")
    os.close(writing)
    receiver.join()
    os.close(reading)
    assert found[0].equals(numbers(1_000_000))


def test_a_terminal_and_what_is_not_open() -> None:
    ours, theirs = os.openpty()
    for call in (lambda: aljava.write(table(3), f"fd:{theirs}"), lambda: aljava.read(f"fd:{theirs}")):
        with pytest.raises(AccessDenied, match="is a terminal, and a table is not text"):
            call()
    os.close(ours)
    os.close(theirs)
    with pytest.raises(AccessDenied, match="is not open: Bad file descriptor"):
        aljava.read(f"fd:{theirs}")


def test_where_nobody_can_wait_or_call(folder: str, certificates: dict[str, str]) -> None:
    with open(f"{folder}/file", "w") as file:
        file.write("no folder, no certificate")
    with pytest.raises(AccessDenied, match="cannot be reached: Not a directory"):
        aljava.write(table(3), f"unix://{folder}/file/s")
    with pytest.raises(TransferError, match="cannot wait there"):
        aljava.listen(f"unix://{folder}/file/s")
    with pytest.raises(TransferError, match="cannot wait there"):
        aljava.listen("tcp://192.0.2.1:0")
    with pytest.raises(AccessDenied, match="the certificate or its key cannot be used"):
        aljava.listen(f"tcp+tls://127.0.0.1:0?cert={folder}/file&key={folder}/file")
    with pytest.raises(TransferError, match=r"nobody called within 0\.1 seconds"):
        aljava.read(f"unix://{folder}/s?timeout=0.1")
    # Who does not complete the handshake is passed over: the next one is served.
    options = f"cert={certificates['cert']}&key={certificates['key']}"
    with aljava.listen(f"tcp+tls://127.0.0.1:0?{options}") as listener:
        port = int(listener.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                while plain.recv(100):  # an alert, and the end
                    pass
        sender = threading.Thread(
            target=aljava.write, args=(table(5), f"tcp+tls://localhost:{port}?ca={certificates['cert']}")
        )
        sender.start()
        assert next(listener).read_all().equals(table(5))
        sender.join()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix://relative/path", "unix:///ABSOLUTE/PATH"),
        ("unix:///" + "x" * 200, "103 bytes"),
        ("tcp://localhost", "HOST:PORT"),
        ("tcp://localhost:99999", "HOST:PORT"),
        ("tcp://localhost:9000?colour=red", "no option 'colour'"),
        ("tcp://localhost:9000?timeout=soon", "timeout=soon"),
        ("unix:///tmp/x?shared_memory=perhaps", "neither on nor off"),
    ],
)
def test_malformed_addresses(address: str, words: str) -> None:
    with pytest.raises(AddressError, match=words):
        aljava.write(table(1), address)


def test_what_cannot_be(folder: str, certificates: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="nobody receives there"):
        aljava.write(table(1), f"unix://{folder}/nobody?timeout=0.2")
    with pytest.raises(TransferError, match="nobody called within"):
        aljava.read(f"unix://{folder}/nobody?timeout=0.2")
    with pytest.raises(AddressError, match="nobody could know the port"):
        aljava.read("tcp://127.0.0.1:0")
    with pytest.raises(InvalidOption, match="a certificate"):
        aljava.listen("tcp+tls://127.0.0.1:0")
    with pytest.raises(InvalidOption, match="stream"):
        aljava.write(table(1), f"unix://{folder}/s", mode="append")
    with pytest.raises(AccessDenied, match="fd:199 is not open"):
        aljava.read("fd:199")
    with pytest.raises(AddressError, match="no socket address"):
        aljava.listen("x.arrow")
    with pytest.raises(AddressError, match="5 is no socket address"):
        aljava.listen(5)
    with open(f"{folder}/file", "w"), pytest.raises(TransferError, match="no socket"):
        aljava.listen(f"unix://{folder}/file")


def test_a_certificate_that_nobody_signed_is_refused(certificates: dict[str, str]) -> None:
    with aljava.listen(
        f"tcp+tls://127.0.0.1:0?cert={certificates['cert']}&key={certificates['key']}", timeout=0.1
    ) as listener:
        with pytest.raises(AccessDenied, match="not trusted"):
            aljava.write(table(1), listener.address)
        with pytest.raises(TransferError):
            next(listener)


@pytest.mark.parametrize("after", [0, 100, 5000])
def test_a_stream_that_is_cut_is_an_error(after: int, folder: str) -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table())
    payload = sink.getvalue().to_pybytes()
    with aljava.listen(f"unix://{folder}/s", timeout=1) as listener:
        with socket.socket(socket.AF_UNIX) as sender:
            sender.connect(f"{folder}/s")
            sender.sendall(payload[:after] if after else payload[:-8])
        if after in (0, 5000):
            reader = next(listener)
            with pytest.raises(TruncatedFile, match="the connection was cut"):
                reader.read_all()
        else:
            with pytest.raises(TransferError, match="nobody called"):
                next(listener)
            assert listener.refused == 1
