"""Files that queries keep open: the next query sees what stands there, and nothing keeps what is gone."""

import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

import aljava
from aljava.errors import NotFound
from aljava.kept import KeptFiles
from aljava.places.local import LocalFile

LONG_AGO = 1_000_000_000  # seconds


def ids(kept: KeptFiles, path: Path) -> list[int]:
    fragment = kept.open(LocalFile(path))
    return [value for task in fragment.tasks(["id"]) for batch in task.read() for value in batch["id"].to_pylist()]


@pytest.fixture
def kept() -> KeptFiles:
    return KeptFiles(settled=0)


@pytest.fixture
def path(kept: KeptFiles, tmp_path: Path) -> Path:
    path = tmp_path / "kept.arrow"
    aljava.write({"id": [1, 2, 3]}, path, compression="none")
    assert ids(kept, path) == [1, 2, 3]
    assert kept.open(LocalFile(path)) is kept.open(LocalFile(path))
    return path


def test_a_replaced_file_is_opened_anew(kept: KeptFiles, path: Path) -> None:
    aljava.write({"id": [10, 20, 30]}, path)
    assert ids(kept, path) == [10, 20, 30]


def test_an_appended_file_is_opened_anew(kept: KeptFiles, path: Path) -> None:
    aljava.append({"id": [4]}, path)
    assert ids(kept, path) == [1, 2, 3, 4]


def test_a_file_overwritten_in_place_with_as_many_bytes_is_opened_anew(
    kept: KeptFiles, path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.arrow"
    aljava.write({"id": [7, 8, 9]}, other)
    content = other.read_bytes()
    assert len(content) == path.stat().st_size
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert ids(kept, path) == [7, 8, 9]


def test_a_name_means_what_it_means_in_the_folder_of_the_moment(
    kept: KeptFiles, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    aljava.write({"id": [100]}, other / "kept.arrow")
    monkeypatch.chdir(tmp_path)
    assert ids(kept, Path("kept.arrow")) == [1, 2, 3]
    monkeypatch.chdir(other)
    assert ids(kept, Path("kept.arrow")) == [100]


def test_a_deleted_file_is_let_go_when_another_is_opened(kept: KeptFiles, path: Path, tmp_path: Path) -> None:
    aljava.write({"id": range(100_000)}, path, compression="none")
    kept.open(LocalFile(path))
    path.unlink()
    assert "kept.arrow (deleted)" in _mapped(tmp_path)
    with pytest.raises(NotFound):
        kept.open(LocalFile(path))
    aljava.write({"id": [1]}, tmp_path / "next.arrow")
    kept.open(LocalFile(tmp_path / "next.arrow"))
    assert "kept.arrow" not in _mapped(tmp_path)


def _mapped(folder: Path) -> str:
    return "\n".join(line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line)


def test_queries_keep_a_file_that_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "settled.arrow"
    aljava.write({"id": range(100_000)}, path, compression="none")
    query = f"select count(id) from '{path}'"
    assert aljava.sql(query).fetchall() == [(100_000,)]
    assert "settled.arrow" not in _mapped(tmp_path)
    time.sleep(2.1)
    assert aljava.sql(query).fetchall() == [(100_000,)]
    assert "settled.arrow" in _mapped(tmp_path)
    aljava.write({"id": [4]}, path)
    assert aljava.sql(query).fetchall() == [(1,)]
    assert "settled.arrow" not in _mapped(tmp_path)


def test_a_file_that_was_just_written_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "new.arrow"
    aljava.write({"id": [1]}, path)
    kept = KeptFiles()  # as queries have it
    assert kept.open(LocalFile(path)) is not kept.open(LocalFile(path))


def test_no_more_than_so_many_are_kept(tmp_path: Path) -> None:
    kept = KeptFiles(most=2, settled=0)
    places = []
    for number in range(3):
        aljava.write({"id": [number]}, tmp_path / f"{number}.arrow")
        places.append(LocalFile(tmp_path / f"{number}.arrow"))
    first, *others = [kept.open(place) for place in places]
    assert kept.open(places[0]) is not first
    assert kept.open(places[2]) is others[1]


def test_shared_memory_is_not_kept() -> None:
    with aljava.Store("kept-not") as store:
        store["t"] = pa.table({"id": range(100_000)})
        assert aljava.sql("select max(id) from 'shm://kept-not/t'").fetchall() == [(99_999,)]
        assert store.infos()[0].readers == 0
        store.destroy()


def test_threads_read_a_file_that_is_replaced_under_them(tmp_path: Path) -> None:
    path = tmp_path / "busy.arrow"
    aljava.write({"id": [0] * 1000, "twin": [0] * 1000}, path)
    kept, failures, over = KeptFiles(settled=0), [], threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                for task in kept.open(LocalFile(path)).tasks(None):
                    for batch in task.read():
                        assert len(batch["id"].unique()) == 1
                        assert batch["id"].equals(batch["twin"])
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(200):
        aljava.write({"id": [number] * 1000, "twin": [number] * 1000}, path)
    over.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert kept.open(LocalFile(path)).batches([0])[0]["id"][0].as_py() == 199
