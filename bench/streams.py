"""Streams between two processes: sockets, shared memory, HTTP and Flight, against pyarrow's own ways.

Each contestant receives in this process from a sender in another, which is started and has its table in memory before
the clock starts. The receiver takes every batch and reads one value of each column, then lets it go, as whoever works
through a stream does.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight

import aljava
from bench.harness import Scenario

_BARE = 1 << 20


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """Bytes over a socket, tokens over a socket, TCP, many small batches, HTTP with one and with eight clients."""
    rows = 1_000_000 if quick else 62_500_000  # 16 bytes each

    def unix() -> Scenario:
        return _between(
            "1 GB between two processes, Unix socket",
            rows,
            {
                "aljava, bytes": ("unix-bytes", _drain_aljava),
                "bare sendmsg and recv_into": ("unix-bare", _drain_bare),
                "pyarrow, makefile": ("unix-makefile", _drain_makefile),
                "Arrow Flight": ("flight", _drain_flight),
            },
            {"pyarrow, makefile": 2.5, "Arrow Flight": 3},
            "The receiver's kernel copies the bytes out of the sender's memory once, which takes 90 ms of it.",
        )

    def shared(where: str, kind: str) -> Scenario:
        return _between(
            f"1 GB between two processes, shared memory, a table that is {where}",
            rows,
            {
                "aljava": (kind, _drain_aljava),
                "pyarrow, makefile": ("unix-makefile", _drain_makefile),
                "Arrow Flight": ("flight", _drain_flight),
            },
            {"pyarrow, makefile": 10, "Arrow Flight": 10},
            "It is copied into shared memory once, by both cores, at the speed of memory.",
        )

    def tcp() -> Scenario:
        return _between(
            "1 GB over TCP loopback",
            rows,
            {
                "aljava": ("tcp", _drain_aljava),
                "bare sendmsg and recv_into": ("tcp-bare", _drain_bare),
                "pyarrow, makefile": ("tcp-makefile", _drain_makefile),
                "Arrow Flight": ("flight", _drain_flight),
            },
            {"Arrow Flight": 2},
            "The kernel copies every byte twice, whoever sends it: bare calls, without a table, take 160 ms of it.",
        )

    def small() -> Scenario:
        return _between(
            "10,000 batches of 1 kB, one way",
            -(1_000 if quick else 10_000),
            {"aljava": ("unix-bytes", _drain_aljava), "pyarrow, makefile": ("unix-makefile", _drain_makefile)},
            {"pyarrow, makefile": 1},
        )

    def http(clients: int) -> Callable[[], Scenario]:
        return lambda: _served(f"HTTP, table of 500 MB, {clients} client(s)", rows // 2, clients)

    return {
        "unix": unix,
        "shared-memory": lambda: shared("in a store", "unix-store"),
        "shared-memory-fresh": lambda: shared("not there yet", "unix"),
        "tcp": tcp,
        "small-batches": small,
        "http-1": http(1),
        "http-8": http(8),
        "memory": lambda: _memory(1_000_000 if quick else 62_500_000),
    }


def _table(rows: int) -> pa.Table:
    """Two columns of eight bytes; a negative number stands for that many batches of 64 rows."""
    if rows < 0:
        batch = pa.record_batch({"id": np.arange(64), "value": np.arange(64) * 0.5})
        return pa.Table.from_batches([batch] * -rows)
    return pa.table({"id": np.arange(rows), "value": np.arange(rows) * 0.5})


def _between(
    name: str,
    rows: int,
    contestants: dict[str, tuple[str, Callable[[Any], int]]],
    targets: dict[str, float],
    why: str = "",
) -> Scenario:
    stack = _closing()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="alj-bench-"))
    nbytes = abs(rows) * (1024 if rows < 0 else 16)

    def contestant(kind: str, drain: Callable[[Any], int]) -> Callable[[], None]:
        sender = stack.enter_context(_sender(kind, rows, folder))
        wanted = abs(rows) * (64 if rows < 0 else 1)

        def once() -> None:
            found = drain(sender)
            assert found == wanted, f"{found} rows came, {wanted} were sent"

        return once

    made = {label: contestant(kind, drain) for label, (kind, drain) in contestants.items()}
    floors = tuple(label for label in made if label.startswith("bare "))
    return Scenario(name, made, nbytes, targets, floors=floors, why=why)


def _closing() -> ExitStack:
    """What is entered here ends with this program, if not before."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack


class _Sender:
    """A process that sends the same table each time it is told to."""

    def __init__(self, kind: str, rows: int, folder: str) -> None:
        self.kind = kind
        self.address = f"unix://{folder}/{kind}"
        if kind.startswith("tcp"):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        if kind == "unix-bytes":
            self.address += "?shared_memory=off"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.streams", kind, str(rows), self.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.ready = self._process.stdout.readline().strip()

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@contextmanager
def _sender(kind: str, rows: int, folder: str) -> Iterator[_Sender]:
    sender = _Sender(kind, rows, folder)
    try:
        yield sender
    finally:
        sender.close()


def _taken(batches: Any) -> int:
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        for column in batch.columns:
            column[len(column) - 1].as_py()
    return rows


def _drain_aljava(sender: _Sender) -> int:
    with aljava.listen(sender.address) as calls:
        sender.go()
        return _taken(next(calls))


def _drain_makefile(sender: _Sender) -> int:
    with _called(sender) as connection, connection.makefile("rb") as file, pa.ipc.open_stream(file) as reader:
        return _taken(reader)


def _drain_bare(sender: _Sender) -> int:
    """The floor: the same bytes into memory that is used again and again, and nothing made of them."""
    memory = memoryview(bytearray(_BARE))
    size = 0
    with _called(sender) as connection:
        while got := connection.recv_into(memory, 0, socket.MSG_WAITALL):
            size += got
    return size // 16


@contextmanager
def _called(sender: _Sender) -> Iterator[socket.socket]:
    kind, _, target = sender.address.partition("://")
    with socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET) as waiting:
        if kind == "unix":
            waiting.bind(target)
        else:
            waiting.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            waiting.bind(("127.0.0.1", int(target.rpartition(":")[2])))
        waiting.listen()
        sender.go()
        connection, _ = waiting.accept()
        with connection:
            yield connection
        if kind == "unix":
            os.unlink(target)


def _drain_flight(sender: _Sender) -> int:
    with pa.flight.connect(sender.ready) as client:
        return _taken(client.do_get(pa.flight.Ticket(b"x")).to_reader())


def _memory(rows: int) -> Scenario:
    """How much sender and receiver hold at most while batches of 8 MB pass that nobody counts, and while one waits."""
    facts: dict[str, dict[str, float]] = {}

    def contestant(label: str, options: str, pause: float) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory(prefix="alj-bench-") as folder:
                command = [sys.executable, "-m", "bench.streams"]
                address = f"unix://{folder}/s{options}"
                receiver = subprocess.Popen(
                    [*command, "drain", str(rows), address, str(pause)], stdout=subprocess.PIPE, text=True
                )
                sender = subprocess.Popen([*command, "endless", str(rows), address], stdout=subprocess.PIPE, text=True)
                peaks = [float(process.communicate()[0]) for process in (sender, receiver)]
            facts[label] = {"sender": peaks[0], "receiver": peaks[1]}

        return run

    return Scenario(
        "memory of both ends, a stream of 1 GB made as it goes",
        {
            label: contestant(label, options, pause)
            for label, options, pause in (
                ("aljava, bytes", "?shared_memory=off", 0),
                ("aljava, bytes, a slow reader", "?shared_memory=off", 0.002),
                ("aljava, shared memory", "", 0),
                ("aljava, shared memory, a slow reader", "", 0.002),
            )
        },
        facts=facts,
    )


def _send_endless(rows: int, address: str) -> None:
    schema = pa.schema([("id", pa.int64()), ("value", pa.float64())])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, 500_000):
            ids = np.arange(start, min(start + 500_000, rows))
            yield pa.record_batch([ids, ids * 0.5], schema=schema)

    aljava.write(pa.RecordBatchReader.from_batches(schema, batches()), address)


def _drain_slowly(rows: int, address: str, pause: float) -> None:
    found = 0
    with aljava.listen(address) as calls:
        for batch in next(calls):
            found += batch.num_rows
            time.sleep(pause)
    assert found == rows


def _peak() -> int:
    """Most memory that this process ever had, its part of shared memory included, in bytes."""
    # Not `getrusage`, which goes on counting from what the parent had.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _served(name: str, rows: int, clients: int) -> Scenario:
    stack = _closing()
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="alj-bench-"))
    aljava.write(_table(rows), f"{folder}/t.arrow", compression="none")
    command = [sys.executable, "-m", "aljava", "serve", f"{folder}/t.arrow", "--http", "127.0.0.1:0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(server.kill)
    assert server.stdout is not None
    http = server.stdout.readline().strip().removeprefix("HTTP: ")
    flight = stack.enter_context(_sender("flight", rows, folder))

    def at_once(one: Callable[[], int]) -> Callable[[], None]:
        def run() -> None:
            found: list[int] = []
            threads = [threading.Thread(target=lambda: found.append(one())) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert found == [rows] * clients

        return run

    return Scenario(
        name,
        {
            "aljava serve": at_once(lambda: _taken(aljava.open(f"{http}/tables/t").to_reader())),
            "Arrow Flight": at_once(lambda: _drain_flight(flight)),
        },
        rows * 16 * clients,
        {"Arrow Flight": 1},
    )


class _FlightPeer(pyarrow.flight.FlightServerBase):
    """What a user of pyarrow writes."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._table = table

    def do_get(self, context: Any, ticket: Any) -> Any:
        """The table."""
        return pa.flight.RecordBatchStream(self._table)


def _main(kind: str, rows: int, address: str, pause: str = "0") -> None:
    """The process at the other end."""
    if kind in ("endless", "drain"):
        if kind == "endless":
            _send_endless(rows, address)
        else:
            _drain_slowly(rows, address, float(pause))
        print(_peak())
        return
    table = _table(rows)
    if kind == "unix-store":
        store = aljava.Store(f"bench-streams-{os.getpid()}")
        atexit.register(store.destroy)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        store["t"] = table
        table = store["t"]
    if kind == "flight":
        # gRPC's messages are limited to what a client takes: batches as pyarrow's documentation has them.
        server = _FlightPeer(pa.Table.from_batches(table.to_batches(max_chunksize=131_072)))
        print(f"grpc://127.0.0.1:{server.port}", flush=True)
        server.serve()
    print("ready", flush=True)
    for _ in sys.stdin:
        if kind.endswith(("makefile", "bare")):
            scheme, _, target = address.partition("://")
            with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as connection:
                connection.connect(target if scheme == "unix" else ("127.0.0.1", int(target.rpartition(":")[2])))
                if kind.endswith("bare"):
                    for column in table.columns:
                        connection.sendall(column.chunk(0).buffers()[1])
                    continue
                with connection.makefile("wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                    for batch in table.to_batches(max_chunksize=1_048_576):
                        writer.write_batch(batch)
        else:
            # A reader, so that small batches travel one by one, as pyarrow sends them.
            aljava.write(pa.RecordBatchReader.from_batches(table.schema, table.to_batches()), address)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
