"""What `Store` promises to one process: a mapping of tables, kept exactly, on shared memory."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aljava.errors import (
    AccessDenied,
    AlreadyExists,
    InvalidData,
    InvalidKey,
    InvalidOption,
    KeyNotFound,
    StoreBusy,
    StoreError,
    StoreFull,
    UnsupportedType,
)
from aljava.store import Store, payload, stores
from aljava.store.filling import write_all
from aljava.store.kernel import Mapping
from aljava.store.names import file_name, key_of, root_folder

SHARED = 64 << 10  # bytes from which two threads share the work
SMALL = pa.table({"n": [1, 2, None], "word": ["a", None, "ccc"]})
LARGE = pa.table({"n": np.arange(100_000), "x": np.arange(100_000) / 7})


def addresses(table: pa.Table) -> list[int]:
    return [
        buffer.address
        for column in table.columns
        for chunk in column.chunks
        for buffer in chunk.buffers()
        if buffer is not None
    ]


def test_the_folder_of_all_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALJAVA_SHM")
    base = "/dev/shm" if os.path.isdir("/dev/shm") else os.environ.get("TMPDIR", "/tmp")
    assert root_folder() == f"{base}/aljava-{os.geteuid()}"


def test_what_is_no_object_is_no_key(store: Store) -> None:
    store["a"] = SMALL
    for name in (".b.arrow", "c", "d.parquet"):
        Path(store.path, name).write_text("of somebody else")
    assert list(store) == ["a"]


@pytest.mark.parametrize("table", [SMALL, LARGE, SMALL.slice(0, 0), LARGE.slice(17, 60_000)], ids=str)
def test_a_table_comes_back_as_it_was(store: Store, table: pa.Table) -> None:
    store["t"] = table
    assert store["t"].equals(table)
    store["t"].validate(full=True)


SHAPES = {
    "one batch": LARGE,
    "no rows": LARGE.slice(0, 0),
    "two batches": pa.concat_tables([LARGE, LARGE]),
    "a dictionary": LARGE.append_column("c", pa.array(["a", "b"] * 50_000).dictionary_encode()),
    "nested": pa.table({"l": [[{"x": 1}], None, []] * 30_000}),
    "a long footer": LARGE.replace_schema_metadata({"note": "x" * 5_000}),
    "wide": pa.table({f"c{number}": range(10) for number in range(500)}),
    "small": SMALL,
}


@pytest.mark.parametrize("table", SHAPES.values(), ids=SHAPES.keys())
def test_a_second_get_of_the_same_shape_is_as_exact_as_the_first(store: Store, table: pa.Table) -> None:
    """What a first get learns from a footer serves all later ones with that footer, of other content too."""
    other = pa.Table.from_batches(
        [batch.take(pa.array(range(len(batch))[::-1])) for batch in table.to_batches()], table.schema
    )
    store.update({"t": table, "u": other})
    for _ in range(2):
        assert store["t"].equals(table, check_metadata=True)
        assert store["u"].equals(other, check_metadata=True)
    store["t"].validate(full=True)


def test_what_is_learned_from_footers_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aljava.store.payload._MOST_SEEN", 3)
    for rows in range(10):
        store["t"] = SMALL.slice(0, 1).append_column(f"c{rows}", [[1]])
        assert store["t"].num_columns == 3
    assert len(payload._seen) <= 3


@pytest.mark.parametrize("table", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("as_reader", [False, True])
def test_create_replaces_nothing(store: Store, table: pa.Table, as_reader: bool) -> None:
    def data() -> object:
        return table.to_reader() if as_reader else table

    assert store.put(data(), "t", create=True) == "t"
    other = table.slice(0, 1)
    with pytest.raises(AlreadyExists, match="exists already"):
        store.put(other.to_reader() if as_reader else other, "t", create=True)
    assert store["t"].equals(table)
    assert store.stats().objects == 1
    assert os.listdir(f"{store.path}/.work") == []


def test_schema_metadata_survives(store: Store) -> None:
    table = LARGE.replace_schema_metadata({"unit": "€", "empty": ""})
    store["t"] = table
    assert store["t"].schema.equals(table.schema, check_metadata=True)


def test_it_is_a_mutable_mapping(store: Store) -> None:
    store.update({"b": SMALL, "a": LARGE})
    assert list(store) == ["a", "b"]
    assert len(store) == 2
    assert "a" in store
    assert "c" not in store
    assert 1 not in store
    assert store.get("c") is None
    assert store.pop("a").equals(LARGE)
    del store["b"]
    assert not list(store)
    with pytest.raises(KeyNotFound, match="no such key"):
        store["a"]
    with pytest.raises(KeyNotFound):
        del store["a"]


def test_put_without_a_key_makes_one(store: Store) -> None:
    first, second = store.put(SMALL), store.put(SMALL)
    assert first != second
    assert sorted([first, second]) == list(store)


def test_a_table_that_is_got_lies_on_the_shared_memory(store: Store) -> None:
    store["t"] = LARGE
    buffer = store.buffer("t")
    table = pa.ipc.open_file(pa.BufferReader(buffer)).read_all()
    assert all(buffer.address <= address < buffer.address + buffer.size for address in addresses(table))
    assert np.shares_memory(table["n"].chunk(0).to_numpy(), np.frombuffer(buffer, np.uint8))
    frame = pl.from_arrow(store["t"])
    assert isinstance(frame, pl.DataFrame)
    assert frame["n"].sum() == sum(range(100_000))
    assert duckdb.from_arrow(store["t"]).aggregate("sum(n)").fetchall() == [(sum(range(100_000)),)]


def test_what_is_held_outlives_key_store_and_folder(no_leaks: None) -> None:
    store = Store("outlived")
    store["t"] = LARGE
    column = store["t"]["n"].chunk(0).to_numpy()
    store["t"] = SMALL
    del store["t"]
    store.destroy()
    del store
    assert column.sum() == sum(range(100_000))


def test_any_arrow_program_can_read_an_object(store: Store) -> None:
    store["t"] = LARGE
    program = """if True:
        import sys, polars, pyarrow as pa
        print(pa.ipc.open_file(pa.memory_map(sys.argv[1])).read_all()["n"].to_numpy().sum())
        print(polars.read_ipc(sys.argv[1])["n"].sum())
    """
    path = os.path.join(store.path, "t.arrow")
    run = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(sum(range(100_000)))] * 2


def test_a_reader_is_streamed_in(store: Store) -> None:
    seen = []

    def batches():
        for start in range(0, 100_000, 1_000):
            seen.append(start)
            yield from LARGE.slice(start, 1_000).to_batches()

    store["t"] = pa.RecordBatchReader.from_batches(LARGE.schema, batches())
    assert len(seen) == 100
    assert store["t"].equals(LARGE)
    assert store["t"]["n"].num_chunks == 100


def test_a_reader_that_fails_leaves_nothing(store: Store) -> None:
    def batches():
        yield from LARGE.to_batches()
        raise ConnectionError("the source is gone")

    store["t"] = SMALL
    with pytest.raises(ConnectionError):
        store["t"] = pa.RecordBatchReader.from_batches(LARGE.schema, batches())
    assert store["t"].equals(SMALL)
    assert not os.listdir(os.path.join(store.path, ".work"))


def test_dictionaries_that_change_become_one(store: Store) -> None:
    batches = [
        pa.record_batch({"c": pa.array(words).dictionary_encode()}) for words in (["a", "b"], ["c", "a"], ["b", None])
    ]
    words = ["a", "b", "c", "a", "b", None]
    store["table"] = pa.Table.from_batches(batches)
    store["reader"] = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    assert store["table"]["c"].to_pylist() == store["reader"]["c"].to_pylist() == words


def test_anything_table_like_goes_in_and_other_things_do_not(store: Store) -> None:
    store["batch"] = LARGE.to_batches()[0]
    store["frame"] = pl.from_arrow(LARGE)
    store["relation"] = duckdb.from_arrow(LARGE)
    store["arrays"] = {"n": np.arange(100_000), "x": np.arange(100_000) / 7}
    assert all(store[key].equals(LARGE) for key in store)
    with pytest.raises(UnsupportedType):
        store["x"] = object()


def test_memory_is_recycled(store: Store) -> None:
    for _ in range(10):
        store["t"] = LARGE
    stats = store.stats()
    assert (stats.fresh_writes, stats.recycled_writes) == (2, 8)
    assert stats.objects == 1
    assert stats.bytes_pooled == stats.bytes_used
    assert store.trim() == stats.bytes_pooled
    assert store.stats().bytes_pooled == 0
    assert store["t"].equals(LARGE)


def test_a_recycled_object_holds_no_byte_of_the_one_before(store: Store) -> None:
    store["t"] = pa.table({"secret": [b"\xa5" * 1_000_000]})
    del store["t"]
    store["t"] = pa.table({"public": [b"x" * 900_000]})
    assert store.stats().recycled_writes == 1
    assert b"\xa5" * 8 not in store.buffer("t").to_pybytes()


@pytest.mark.parametrize("alone", [0, 2])
def test_a_copy_on_two_threads_is_exact(store: Store, monkeypatch: pytest.MonkeyPatch, alone: int) -> None:
    """Where two are seen to be no faster, one goes on alone for a while."""
    monkeypatch.setattr("aljava.store.filling._COPIES_ALONE", alone)
    monkeypatch.setattr("aljava.store.filling._PROBE", 64 << 10)
    monkeypatch.setattr("aljava.store.filling._COPIES_BETWEEN_PROBES", 2)
    generator = np.random.default_rng(1)
    for rows in (110_001, 107_003, 104_007, 102_019, 100_043):
        table = pa.table({"n": generator.integers(0, 1 << 60, rows), "x": generator.random(rows)})
        store["t"] = table
        assert store["t"].equals(table)
    assert store.stats().recycled_writes >= 3


def test_new_memory_that_two_threads_fill_is_exact(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aljava.store.filling._SHARED_WORK", SHARED)
    monkeypatch.setattr("aljava.store.filling._PIECE", 10_000)
    generator = np.random.default_rng(1)
    for number, rows in enumerate((110_001, 407_003, 5_007)):
        table = pa.table({"n": generator.integers(0, 1 << 60, rows), "x": generator.random(rows)})
        store[f"{number}"] = table
        assert store[f"{number}"].equals(table)
    assert store.stats().fresh_writes == 3
    del store["1"]
    again = pa.table({"n": generator.integers(0, 1 << 60, 407_003), "x": generator.random(407_003)})
    store["1"] = again  # through the map that was half populated
    assert store["1"].equals(again)
    assert store.stats().recycled_writes == 1


def test_without_recycling_memory_goes_back_at_once(no_leaks: None) -> None:
    with Store("plain", recycle=False) as store:
        for _ in range(3):
            store["t"] = LARGE
        assert store["t"].equals(LARGE)
        assert store.stats().bytes_pooled == 0
        store.destroy()


def test_prefault_makes_the_first_put_a_copy(store: Store) -> None:
    store.prefault(LARGE.nbytes + 10_000)
    store["t"] = LARGE
    assert (store.stats().fresh_writes, store.stats().recycled_writes) == (0, 1)
    assert store["t"].equals(LARGE)
    with pytest.raises(InvalidOption):
        store.prefault(1 << 60)


def test_wait_returns_what_another_thread_puts(store: Store) -> None:
    thread = threading.Timer(0.05, store.put, (LARGE, "late"))
    thread.start()
    assert store.wait("late", timeout=30).equals(LARGE)
    thread.join()
    with pytest.raises(StoreBusy, match="nobody has put 'never'"):
        store.wait("never", timeout=0.01)


def test_the_same_name_is_the_same_store(store: Store) -> None:
    with Store(store.name) as other:
        store["t"] = LARGE
        assert other["t"].equals(LARGE)
        del other["t"]
    assert "t" not in store
    assert store.name in stores()


def test_looking_at_a_store_that_is_not_there_leaves_none_behind(no_leaks: None) -> None:
    with Store("not-there") as store:
        assert (list(store), store.get("k"), store.infos(), store.trim(), "k" in store) == ([], None, [], 0, False)
        assert store.stats().objects == 0
        store.destroy()
    assert "not-there" not in stores()


def test_a_destroyed_store_begins_anew(store: Store) -> None:
    store["a"] = LARGE
    with Store(store.name) as other:
        other.destroy()
    assert list(store) == []
    store["b"] = LARGE
    assert list(store) == ["b"]


def test_repr_names_what_is_there(store: Store) -> None:
    store["t"] = LARGE
    assert repr(store) == f"<Store {store.name!r}: 1 object, 1.60 MB>"


def test_info_says_what_an_object_is(store: Store) -> None:
    store["t"] = LARGE.replace_schema_metadata({"unit": "m"})
    store["dictionary"] = pa.table({"c": pa.array(["a", "b"] * 5).dictionary_encode()})
    held = [store["t"], store["t"]]
    info = store.info("t")
    assert (info.key, info.rows, info.readers) == ("t", 100_000, 2)
    assert info.bytes == os.path.getsize(os.path.join(store.path, "t.arrow"))
    assert info.schema.equals(held[0].schema, check_metadata=True)
    assert 0 <= info.age < 600
    held.clear()
    assert store.info("t").readers == 0
    assert [(info.key, info.rows) for info in store.infos()] == [("dictionary", 10), ("t", 100_000)]
    with pytest.raises(KeyNotFound):
        store.info("missing")


def test_info_of_many_batches_and_columns(store: Store) -> None:
    wide = pa.table({f"column {number}": [number] for number in range(1_000)})
    store["t"] = pa.Table.from_batches(wide.to_batches() * 7)
    assert store.info("t").rows == 7
    assert store.info("t").schema == wide.schema


def test_a_file_that_is_no_object_is_named(store: Store) -> None:
    store["t"] = SMALL
    Path(store.path, "odd.arrow").write_text("this is no Arrow file")
    with pytest.raises(InvalidData, match="'odd' ends with"):
        store.info("odd")


def test_a_damaged_object_is_an_error_that_names_it(store: Store) -> None:
    store["t"] = LARGE
    assert store["t"].equals(LARGE)  # what its footer says is known from here on
    whole = Path(store.path, "t.arrow").read_bytes()
    metadata = bytearray(whole)
    metadata[340:400] = b"\xff" * 60  # of the batch
    damaged = {"text": b"no Arrow file", "empty": b"", "cut": whole[:-1_000], "metadata": bytes(metadata)}
    for key, content in damaged.items():
        Path(store.path, f"{key}.arrow").write_bytes(content)
        with pytest.raises(InvalidData, match=f"/{key} is damaged"):
            store[key]


def test_a_notebook_shows_the_objects(store: Store) -> None:
    store.update({f"<{number:02}>": SMALL for number in range(60)})
    shown = store._repr_html_()
    assert '<td>&lt;00&gt;</td><td class="number">3</td>' in shown
    assert "n: int64, word: string" in shown
    assert "and 10 more" in shown


# ----------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "key", ["../x", ".", "..", "a/b", "/etc/passwd", "🏹 aljava", "a\0b", "%2F", "a\nb", "x" * 249]
)
def test_odd_keys_are_kept_inside_the_store(store: Store, key: str) -> None:
    around = {*os.listdir(os.path.dirname(store.path)), store.name}
    store[key] = SMALL
    assert list(store) == [key]
    assert store[key].equals(SMALL)
    assert set(os.listdir(os.path.dirname(store.path))) == around
    del store[key]
    assert key not in store


@pytest.mark.parametrize("key", ["", "x" * 250, "é" * 150, "\ud800", 7, None, b"bytes"])
def test_impossible_keys_are_refused(store: Store, key: object) -> None:
    with pytest.raises(InvalidKey):
        store[key]  # type: ignore[index]
    if key is not None:  # put(data, None) makes a key
        with pytest.raises(InvalidKey):
            store.put(SMALL, key)  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=80))
@settings(deadline=None)
def test_every_key_has_one_file_name_and_back(key: str) -> None:
    try:
        name = file_name(key)
    except InvalidKey:
        assert len(key.encode(errors="surrogatepass")) > 80 or "\\ud" in ascii(key)
        return
    assert key_of(name) == key
    assert os.path.basename(os.path.normpath(f"/store/{name}")) == name
    assert not name.startswith(".")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "é", "x" * 101, "a\n"])
def test_odd_store_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidKey):
        Store(name)


# ----------------------------------------------------------------------------------------------------- room


def test_no_capacity_and_no_such_memory(store: Store) -> None:
    for capacity in (0, -1):
        with pytest.raises(InvalidOption, match="a number of bytes above 0"):
            Store("no-capacity", capacity=capacity)
    for nbytes in (10, 1 << 60):
        with pytest.raises(InvalidOption, match=f"the pool takes segments of 65536 to .* bytes, not {nbytes}"):
            store.prefault(nbytes)
    with pytest.raises(KeyNotFound, match="missing"):
        store.private_map("missing")
    store["small"] = SMALL
    assert store.private_map("small") is None


def test_no_stores_where_there_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ALJAVA_SHM", str(tmp_path / "none"))
    assert stores() == []


def test_an_object_larger_than_the_capacity_is_refused(no_leaks: None) -> None:
    with Store("capacity", capacity=1_000_000, evict=True) as store:
        store["small"] = SMALL
        with pytest.raises(StoreFull, match="of 1,000,000 bytes"):
            store["t"] = LARGE
        with pytest.raises(StoreFull):
            store["t"] = LARGE.to_reader(1_000)
        assert "t" not in store
        store.destroy()


def test_over_the_capacity_put_fails_and_deleting_helps(no_leaks: None) -> None:
    with Store("capacity", capacity=4 * LARGE.nbytes) as store:
        for number in range(3):
            store[f"{number}"] = LARGE
        with pytest.raises(StoreFull, match="Delete keys"):
            store["3"] = LARGE
        assert list(store) == ["0", "1", "2"]
        del store["1"]
        store["3"] = LARGE
        store.destroy()


def test_eviction_drops_what_was_not_used_for_longest(no_leaks: None) -> None:
    with Store("evict", capacity=4 * LARGE.nbytes, evict=True) as store:
        for number in range(3):
            store[f"{number}"] = LARGE
        for number, seconds in enumerate([30, 10, 20]):  # `1` was used last
            path = os.path.join(store.path, f"{number}.arrow")
            os.utime(path, (os.stat(path).st_atime - seconds, os.stat(path).st_mtime))
        store["3"] = LARGE
        assert list(store) == ["1", "2", "3"]
        store["1"]
        store["4"] = LARGE
        assert list(store) == ["1", "3", "4"]
        store.destroy()


def test_what_a_reader_holds_counts_until_it_lets_go(no_leaks: None) -> None:
    with Store("held", capacity=2 * LARGE.nbytes) as store:
        store["t"] = LARGE
        held = store["t"]
        del store["t"]
        with pytest.raises(StoreFull):
            store["u"] = LARGE
        assert held.equals(LARGE)
        del held
        store["u"] = LARGE
        store.destroy()


def test_many_small_objects_are_held_to_the_capacity(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aljava.store.folder._SECONDS_BETWEEN_LOOKS", 0)
    with Store("small", capacity=100_000) as store:
        with pytest.raises(StoreFull):
            store.update({f"{number}": SMALL for number in range(1_000)})
        assert store.stats().bytes_used <= 100_000
        assert len(store) > 50
        store.destroy()


def test_ten_thousand_small_objects(store: Store) -> None:
    for number in range(10_000):
        store[f"{number:05}"] = SMALL
    assert len(store) == 10_000
    assert all(store[f"{number:05}"].num_rows == 3 for number in range(0, 10_000, 100))
    store.clear()
    assert len(store) == 0


def test_a_folder_of_another_user_is_refused(no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a folder of another user")
    (tmp_path / "desk").mkdir()
    os.chown(tmp_path / "desk", 12_345, 12_345)
    monkeypatch.setenv("ALJAVA_SHM", str(tmp_path))
    with pytest.raises(AccessDenied, match="belongs to user 12345"):
        Store("desk")
    os.chown(tmp_path, 12_345, 12_345)
    with pytest.raises(AccessDenied, match="belongs to user 12345"):
        Store("other")


def test_a_symbolic_link_is_no_store(no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "desk").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("ALJAVA_SHM", str(tmp_path))
    with pytest.raises(AccessDenied, match="not a folder"):
        Store("desk")


@pytest.mark.parametrize("module", ["aljava.store", "aljava.multiprocessing", "aljava.places.local"])
def test_another_platform_is_named(no_leaks: None, module: str) -> None:
    """Without the file locks of Linux and macOS, in a process that believes to be on Windows."""
    program = """if True:
        import sys, multiprocessing.util, pyarrow.dataset, numpy
        sys.platform, sys.modules["fcntl"] = "win32", None
        import aljava.errors
        try:
            __import__(sys.argv[1])
        except aljava.errors.UnsupportedPlatform as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program, module], capture_output=True, text=True, check=True)
    assert "Linux or macOS, and this is win32" in done.stdout


def test_more_than_one_call_can_move_is_written(
    no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aljava.store.filling._BYTES_A_CALL", 1_000)
    monkeypatch.setattr("aljava.store.filling._BUFFERS_A_CALL", 3)
    pieces = [os.urandom(size) for size in (0, 2_500, 1, 999, 1_000, 0, 7, 8, 9, 10, 3_000)]
    with open(tmp_path / "file", "wb") as file:
        write_all(file.fileno(), [memoryview(piece) for piece in pieces], 5)
    assert (tmp_path / "file").read_bytes() == bytes(5) + b"".join(pieces)


def test_a_store_destroyed_during_a_put_says_so(store: Store) -> None:
    def batches():
        yield from LARGE.to_batches()
        with Store(store.name) as other:
            other.destroy()

    with pytest.raises(StoreError, match="destroyed while"):
        store["t"] = pa.RecordBatchReader.from_batches(LARGE.schema, batches())


def test_few_maps_are_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aljava.store.folder._KEPT_MAPPINGS", 1)
    for number in range(3):
        for key in "abc":
            store[key] = LARGE.slice(0, 50_000 + number)
    assert len(store._folder._kept) == 1
    assert [store[key].num_rows for key in "abc"] == [50_002] * 3


def test_a_map_larger_than_memory_can_be() -> None:
    with open("/dev/zero", "rb") as file, pytest.raises(OSError, match="cannot map"):
        Mapping(file.fileno(), 1 << 60)
