"""`shm://STORE/KEY` and `shm://STORE`, wherever an address is taken."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import aljava
from aljava.cli import app
from aljava.errors import AddressError, NotFound, SchemaMismatch
from aljava.store import Store, opened
from tests.store.actors import Actor, table, values

LARGE = pa.table({"n": np.arange(100_000), "word": ["a", "b"] * 50_000})


@pytest.fixture
def name(store: Store) -> str:
    return f"shm://{store.name}"


def test_read_open_write_sql_and_copy(store: Store, name: str, tmp_path: Path) -> None:
    assert aljava.write(LARGE, f"{name}/t").rows == 100_000
    assert aljava.read(f"{name}/t").equals(LARGE)
    assert aljava.open(f"{name}/t").to_table(columns=["n"]).equals(LARGE.select(["n"]))
    assert aljava.sql(f"select sum(n) from '{name}/t'").fetchall() == [(sum(range(100_000)),)]
    aljava.copy(f"{name}/t", f"{tmp_path}/t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").equals(LARGE)
    aljava.copy(f"{tmp_path}/t.parquet", f"{name}/back")
    assert store["back"].equals(LARGE)
    aljava.append(LARGE, f"{name}/back")
    assert store["back"].num_rows == 200_000


def test_a_key_with_special_characters_is_percent_encoded(store: Store, name: str) -> None:
    aljava.write(LARGE, f"{name}/a%2Fb%20🏹")
    assert list(store) == ["a/b 🏹"]
    assert aljava.read(f"{name}/a%2Fb%20🏹").equals(LARGE)


def test_what_is_not_there_is_named(store: Store, name: str) -> None:
    with pytest.raises(NotFound, match="missing does not exist"):
        aljava.read(f"{name}/missing")
    with pytest.raises(NotFound, match="holds no tables"):
        aljava.read(name)
    with pytest.raises(AddressError, match="shm://STORE/KEY"):
        aljava.read("shm://")
    with pytest.raises(AddressError, match="shm://STORE/KEY"):
        aljava.write(LARGE, name)


def test_a_store_is_one_table_of_all_its_tables(store: Store, name: str) -> None:
    store.update({"b": LARGE, "a": LARGE.slice(0, 10)})
    assert aljava.read(name).equals(pa.concat_tables([LARGE.slice(0, 10), LARGE]))
    store["c"] = {"other": [1]}
    with pytest.raises(SchemaMismatch, match="/c has no column 'n'"):
        aljava.read(name)


def test_every_command_takes_them(store: Store, name: str, tmp_path: Path) -> None:
    store["t"] = LARGE
    for command in (
        ["info", f"{name}/t"],
        ["info", name],
        ["head", f"{name}/t"],
        ["tail", f"{name}/t"],
        ["layout", f"{name}/t"],
        ["zones", f"{name}/t"],
        ["verify", f"{name}/t"],
        ["sql", f"select count(*) as n from '{name}/t'"],
        ["copy", f"{name}/t", str(tmp_path / "t.csv")],
        ["copy", str(tmp_path / "t.csv"), f"{name}/copied"],
        ["concat", f"{name}/t", f"{name}/copied", f"{name}/both"],
        ["append", f"{name}/t", f"{name}/both"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert store["both"].num_rows == 300_000
    listed = json.loads(CliRunner().invoke(app, ["store", "ls", store.name, "--json"]).output)
    assert [(one["key"], one["rows"]) for one in listed] == [("both", 300_000), ("copied", 100_000), ("t", 100_000)]


# ------------------------------------------------------------------------------------------- one Store for all of them


def test_writing_to_an_address_recycles_through_kept_maps(store: Store, name: str) -> None:
    for number in range(10):
        aljava.write(table(number), f"{name}/k")
    stats = opened(store.name).stats()
    assert (stats.fresh_writes, stats.recycled_writes) == (2, 8)
    assert len(opened(store.name)._folder._kept) == 2
    assert os.listdir(f"{store.path}/.writers") == [opened(store.name)._folder._writer]


def test_threads_write_and_read_one_address_at_once(store: Store, name: str) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        for _ in range(20):
            aljava.write(table(number), f"{name}/k{number % 2}")
            found = values(opened(store.name), f"k{number % 2}")[0]
            if not isinstance(found, int):
                failures.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(f"{store.path}/.work") == []


def test_a_forked_child_writes_under_an_identity_of_its_own(store: Store, name: str) -> None:
    aljava.write(table(1), f"{name}/k")
    mine = opened(store.name)._folder._writer

    def child() -> object:
        aljava.write(table(2), f"{name}/k")
        aljava.write(table(3), f"{name}/child")
        return opened(store.name)._folder._writer != mine

    with Actor(child) as actor:
        assert actor.wait() == "ended", actor.result()
        assert actor.result() == "True"
    aljava.write(table(4), f"{name}/k")
    assert values(store, "k", "child") == [4, 3]


def test_destroying_the_store_gives_back_what_addresses_keep(no_leaks: None) -> None:
    aljava.write(LARGE, "shm://gone/k")
    aljava.write(LARGE, "shm://gone/k")
    folder = opened("gone")._folder
    assert folder._kept or folder._writer_lock is not None
    Store("gone").destroy()
    assert (folder._kept, folder._writer_lock) == ({}, None)
    aljava.write(LARGE, "shm://gone/k")  # begins anew
    assert aljava.read("shm://gone/k").equals(LARGE)
    Store("gone").destroy()


def test_many_stores_are_not_all_kept(no_leaks: None) -> None:
    for number in range(20):
        aljava.write(LARGE, f"shm://many{number}/k")
    writers = [target for target in map(_target, os.listdir("/proc/self/fd")) if "/.writers/" in target]
    assert len(writers) <= 8
    for number in range(20):
        Store(f"many{number}").destroy()


def test_another_place_is_another_store(no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aljava.write(LARGE, "shm://desk/k")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("ALJAVA_SHM", str(tmp_path))
        with pytest.raises(NotFound):
            aljava.read("shm://desk/k")
    assert aljava.read("shm://desk/k").equals(LARGE)
    Store("desk").destroy()


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""
