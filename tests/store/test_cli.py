"""`aljava store`, as typed at a prompt."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

import aljava
from aljava.cli.store import app
from aljava.errors import AddressError, InvalidData, KeyNotFound
from aljava.store import Store, stores

TABLE = pa.table({"n": range(10_000), "word": ["a", "b"] * 5_000})


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_put_get_and_remove(store: Store, tmp_path: Path) -> None:
    aljava.write(TABLE, tmp_path / "in.arrow")
    done = run("put", f"{store.name}/t", str(tmp_path / "in.arrow"))
    assert "10,000 rows" in done.output, done.exception
    assert store["t"].equals(TABLE)
    assert run("get", f"shm://{store.name}/t", str(tmp_path / "out.arrow")).exit_code == 0
    assert aljava.read(tmp_path / "out.arrow").equals(TABLE)
    assert run("rm", f"{store.name}/t").exit_code == 0
    assert "t" not in store


def test_ls_names_objects_with_their_readers(store: Store) -> None:
    store.update({"first": TABLE, "[second]": TABLE.slice(0, 3)})
    held = store["first"]
    shown = run("ls", store.name).output
    assert "[second]" in shown
    assert "10,000" in shown
    listed = json.loads(run("ls", store.name, "--json").output)
    assert [(one["key"], one["rows"], one["readers"]) for one in listed] == [("[second]", 3, 0), ("first", 10_000, 1)]
    assert listed[1]["schema"] == {"n": "int64", "word": "string"}
    del held
    everything = json.loads(run("ls", "--json").output)
    assert {"store": store.name, "objects": 2}.items() <= next(
        one for one in everything if one["store"] == store.name
    ).items()
    assert store.name[:20] in run("ls").output


def test_ls_without_stores_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALJAVA_SHM", str(tmp_path))
    assert "no stores: `aljava store put" in run("ls").output


def test_info_shows_the_schema(store: Store) -> None:
    store["t"] = TABLE
    assert "word" in run("info", f"{store.name}/t").output
    assert json.loads(run("info", f"{store.name}/t", "--json").output)["rows"] == 10_000


def test_stat_and_trim(store: Store) -> None:
    store["t"] = TABLE
    store["t"] = TABLE
    stat = json.loads(run("stat", store.name, "--json").output)
    assert stat == {"objects": 1, "bytes_used": stat["bytes_pooled"], "bytes_pooled": stat["bytes_pooled"]}
    assert "waiting" in run("stat", store.name).output
    assert "given back" in run("trim", store.name).output
    assert store.stats().bytes_pooled == 0


def test_what_reports_does_so_in_json_too(store: Store, tmp_path: Path) -> None:
    aljava.write(TABLE, tmp_path / "in.arrow")
    put = json.loads(run("put", f"{store.name}/t", str(tmp_path / "in.arrow"), "--json").output)
    assert (put["key"], put["rows"], put["bytes"]) == ("t", 10_000, store.info("t").bytes)
    target = str(tmp_path / "out.arrow")
    got = json.loads(run("get", f"{store.name}/t", target, "--json").output)
    assert got == {"target": target, "rows": 10_000, "bytes": os.path.getsize(target)}
    store["t"] = TABLE
    assert json.loads(run("trim", store.name, "--json").output) == {"bytes_given_back": put["bytes"]}


def test_every_command_has_an_example() -> None:
    for command in ("ls", "put", "get", "info", "rm", "stat", "trim", "destroy", "watch"):
        assert f"Example: aljava store {command} desk" in run(command, "--help").output


def test_watch_looks_again(store: Store) -> None:
    store["t"] = TABLE
    assert "10,000" in run("watch", store.name, "--every", "0.05", "--times", "3").output


@pytest.mark.parametrize("content", [b"", b"dear diary", b"ARROW1\0\0" * 20, "cut", "flipped"])
def test_one_damaged_file_hides_none_of_the_others(store: Store, content: bytes | str) -> None:
    store["sound"] = {"id": [1, 2, 3]}
    store["broken"] = {"id": [1, 2, 3]}
    path = Path(store.path) / "broken.arrow"
    whole = path.read_bytes()
    if content == "cut":
        content = whole[:-40]
    elif content == "flipped":
        content = whole[:12] + b"\xff" * 3 + whole[15:]
    assert isinstance(content, bytes)
    path.write_bytes(content)
    broken, sound = store.infos()
    assert (broken.key, broken.bytes) == ("broken", len(content))
    assert "'broken'" in (broken.damage or "")
    assert (sound.key, sound.rows, sound.damage) == ("sound", 3, None)
    assert "damaged" in run("ls", store.name).stdout
    assert "sound" in run("watch", store.name, "--times", "1").stdout
    assert [it["damage"] is None for it in json.loads(run("ls", store.name, "--json").stdout)] == [False, True]
    with pytest.raises(InvalidData):
        store.info("broken")


def test_destroy(store: Store) -> None:
    store["t"] = TABLE
    assert run("destroy", store.name).exit_code == 0
    assert store.name not in stores()


def test_mistakes_are_named(store: Store) -> None:
    store["t"] = TABLE
    assert isinstance(run("ls", "no-such-store").exception, AddressError)
    assert isinstance(run("rm", store.name).exception, AddressError)
    assert isinstance(run("info", f"{store.name}/missing").exception, KeyNotFound)
    assert "no-such-store" not in os.listdir(os.environ["ALJAVA_SHM"])
