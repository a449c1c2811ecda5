"""Tables of a store over a Unix socket: the receiver stands on the store's own memory, for as long as it holds it."""

import os
import threading
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

import aljava
from tests.streams.peers import numbers, output, process

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that starts slowly gets bytes, which is not what is looked at here."""
    monkeypatch.setattr("aljava.streams.sharing._HELLO_WAIT", 10)


@pytest.fixture
def store() -> Iterator[aljava.Store]:
    store = aljava.Store("lent-tables")
    yield store
    store.destroy()


def maps_of(store: str) -> list[str]:
    with open("/proc/self/maps") as maps:
        return [line for line in maps if f"/{store}/" in line]


def through_a_socket(folder: str, sent: pa.Table) -> pa.Table:
    with aljava.listen(f"unix://{folder}/s") as listener:
        sender = threading.Thread(target=aljava.write, args=(sent, listener.address))
        sender.start()
        found = next(listener).read_all()
        sender.join()
    return found


RECEIVE = """
table = aljava.read(sys.argv[1])
with open("/proc/self/maps") as maps:
    print(sum("/lent-tables/" in line for line in maps), table["id"].chunk(0)[5], flush=True)
sys.stdin.readline()
value = table["value"].to_numpy()
assert (value == value[0]).all()
print(value[0], len(os.listdir("/proc/self/fd")) < 12)
"""


def test_the_receiver_maps_the_store(store: aljava.Store, folder: str) -> None:
    rows = 500_000
    store["t"] = pa.table({"id": np.arange(rows), "value": np.full(rows, 7.0)})
    table = store["t"]
    with process(RECEIVE, f"unix://{folder}/s", stdin=-1) as receiver:
        aljava.write(table, f"unix://{folder}/s")
        assert receiver.stdout.readline() == b"1 5\n"
        # The sender lets go, and the store is used on: what the receiver holds stays as it was.
        del table
        for number in range(20):
            store["t"] = pa.table({"id": np.arange(rows), "value": np.full(rows, float(number))})
        receiver.stdin.write(b"\n")
        assert output(receiver) == "7.0 True"
    # And once it is gone, its memory is the store's again.
    for number in range(5):
        store["t"] = pa.table({"id": np.arange(rows), "value": np.full(rows, float(number))})
    assert len(os.listdir(os.path.join(os.environ["ALJAVA_SHM"], "lent-tables", ".pool"))) <= 3


@pytest.mark.parametrize("kind", ["numbers", "text", "dictionary", "nulls", "lists", "views"])
def test_every_kind_and_every_part(kind: str, store: aljava.Store, folder: str) -> None:
    rows = 200_000
    column = {
        "numbers": lambda: pa.array(np.arange(rows)),
        "text": lambda: pa.array([f"text {n}" for n in range(rows)]),
        "dictionary": lambda: pa.array([f"text {n % 9}" for n in range(rows)]).dictionary_encode(),
        "nulls": lambda: pa.array(np.arange(rows), mask=np.arange(rows) % 3 == 0),
        "lists": lambda: pa.array([[n] * (n % 3) for n in range(rows)]),
        "views": lambda: pa.array([f"a text that is longer {n}" for n in range(rows)], pa.string_view()),
    }[kind]()
    store["t"] = pa.table({"a": column, "b": np.arange(rows) * 0.5})
    table = store["t"]
    for part in (table, table.select(["a"]), table.slice(8, 100_000), table.slice(7, 100_001), table.slice(3, 5)):
        assert through_a_socket(folder, part).equals(part)


def test_it_is_not_copied(store: aljava.Store, folder: str) -> None:
    store["t"] = numbers(1_000_000)
    table = store["t"]
    assert len(maps_of("lent-tables")) == 1
    found = through_a_socket(folder, table)
    assert len(maps_of("lent-tables")) == 2
    # What was received from a store lies in a store, and travels on in the same way.
    again = through_a_socket(folder, found)
    assert len(maps_of("lent-tables")) == 3
    assert again.equals(table)
    found = through_a_socket(folder, numbers(1_000_000))
    assert len(maps_of("lent-tables")) == 2


def test_more_tables_than_are_kept_open(store: aljava.Store, folder: str) -> None:
    for number in range(40):
        store[f"t{number}"] = pa.table({"id": np.full(20_000, number)})
    with aljava.listen(f"unix://{folder}/s") as listener:
        batches = (batch for number in range(40) for batch in store[f"t{number}"].to_batches())
        reader = pa.RecordBatchReader.from_batches(pa.schema([("id", pa.int64())]), batches)
        sender = threading.Thread(target=aljava.write, args=(reader, listener.address))
        sender.start()
        found = [batch["id"].to_pylist() for batch in next(listener)]
        sender.join()
    assert found == [[number] * 20_000 for number in range(40)]


@pytest.mark.long
@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_kill(end: str, store: aljava.Store, folder: str) -> None:
    """Neither end leaves a lock: the store gets all of its memory back."""
    store["t"] = numbers(500_000)
    wait = "; print('sent', flush=True); time.sleep(60)"
    code = {
        "sender": "t = aljava.Store('lent-tables')['t']; aljava.write(t, sys.argv[1])" + wait,
        "receiver": "t = aljava.read(sys.argv[1])" + wait,
    }
    other = "receiver" if end == "sender" else "sender"
    with process(code[end], f"unix://{folder}/s") as one, process(code[other], f"unix://{folder}/s") as two:
        assert one.stdout.readline() == two.stdout.readline() == b"sent\n"
        one.kill()
        two.kill()
    del store["t"]
    for _ in range(4):
        store["t"] = numbers(500_000)
    assert len(os.listdir(os.path.join(os.environ["ALJAVA_SHM"], "lent-tables", ".pool"))) <= 2
