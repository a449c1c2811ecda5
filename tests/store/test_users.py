"""Two users of one machine: what is whose, and how a store is shared between them. Needs root, to become another."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import aljava
from aljava import ipc, jobs
from aljava.errors import AccessDenied
from aljava.server.catalogue import Catalogue
from aljava.store import Store
from tests.store.actors import run, table, value_of, values

NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def place(no_leaks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for stores that every user can reach, as /dev/shm is."""
    folder = Path(tempfile.mkdtemp(prefix="aljava-users-", dir="/dev/shm"))
    folder.chmod(0o1777)
    monkeypatch.setenv("ALJAVA_SHM", str(folder / "stores"))
    yield folder
    shutil.rmtree(folder)


def as_nobody(work: Callable[[], object]) -> str:
    """Runs `work` in a process of another user: the `repr` of its result, or of the refusal."""

    def act() -> object:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            return work()
        except AccessDenied as refusal:
            return refusal

    return run(act)


def test_a_store_is_its_owners_alone(place: Path) -> None:
    with Store("desk") as store:
        store["k"] = table(1)
        assert "belongs to user 0, not to 65534" in as_nobody(lambda: Store("desk"))
        # Saying that it is shared does not make it so.
        assert "belongs to user 0" not in as_nobody(lambda: Store("desk", mode=0o777))
        for trial in (
            lambda: Store("desk", mode=0o777)["k"],
            lambda: Store("desk", mode=0o777).put(table(2), "k"),
            lambda: list(Store("desk", mode=0o777)),
            lambda: Store("other", mode=0o777).put(table(2), "k"),
        ):
            assert as_nobody(trial).startswith("AccessDenied("), trial
        assert values(store, "k") == [1]
        store.destroy()


def test_a_store_that_others_may_only_read(place: Path) -> None:
    with Store("desk", mode=0o755) as store:
        store["k"] = table(1)
        assert as_nobody(lambda: values(Store("desk", mode=0o755), "k")) == "[1]"
        assert "cannot be written by user 65534" in as_nobody(lambda: Store("desk", mode=0o755).put(table(2), "k"))
        assert values(store, "k") == [1]
        store.destroy()
    os.chmod(place, 0o755)
    shutil.rmtree(place / "stores")
    assert "stores cannot be made by user 65534" in as_nobody(lambda: Store("own").put(table(1), "k"))


def test_files_of_another_user(place: Path) -> None:
    aljava.write({"a": [1]}, place / "x.arrow")
    os.chmod(place / "x.arrow", 0o600)
    os.mkdir(place / "closed", 0o755)
    os.makedirs(place / "in" / "hidden")
    os.chmod(place / "in" / "hidden", 0)
    os.symlink("in/hidden", place / "hidden")
    path = str(place / "x.arrow")
    for trial, said in (
        (lambda: aljava.read(path), "Permission denied"),
        (lambda: ipc.open_file(path), "Permission denied"),
        (lambda: aljava.append({"a": [2]}, path), "Permission denied"),
        (lambda: aljava.write({"a": [2]}, f"{place}/closed/x.arrow"), "cannot be written: Permission denied"),
        (lambda: aljava.listen(f"unix://{place}/closed/s"), "this user may not wait there"),
        (lambda: aljava.open(f"{place}/hidden/"), "hidden/ cannot be listed"),
    ):
        answer = as_nobody(trial)
        assert answer.startswith("AccessDenied("), answer
        assert said in answer
    assert aljava.read(place / "x.arrow")["a"].to_pylist() == [1]
    aljava.write({"a": [1]}, place / "in" / "open.arrow")
    catalogue = as_nobody(lambda: [table.name for table in Catalogue([str(place / "in")])])
    assert catalogue == "['in/open']"

    def compact() -> object:
        with jobs.executor_for("threads") as threads, tempfile.TemporaryDirectory() as out:
            done = jobs.compact(str(place / "in"), out, executor=threads)
            return done.rows, done.failures.to_pylist()

    assert "(1, [{'source': " in (said := as_nobody(compact))
    assert "cannot be listed: Permission denied" in said


def test_another_users_folder_of_the_same_name_is_refused(place: Path) -> None:
    """Whoever is first cannot lay a trap: a folder that another user could change is not used."""

    def lay() -> object:
        os.mkdir(place / "stores")
        os.mkdir(place / "stores/desk", 0o777)
        return "laid"

    assert as_nobody(lay) == "'laid'"
    with pytest.raises(AccessDenied, match="belongs to user 65534, not to 0"):
        Store("desk")


def test_a_shared_store_is_read_written_and_recycled_by_all_of_its_users(place: Path) -> None:
    with Store("team", mode=0o777) as store:
        store["ours"] = store["k"] = table(1)
        held = store["k"]

        def other() -> object:
            with Store("team", mode=0o777) as theirs:
                found = values(theirs, "k")
                for number in range(5):
                    theirs["k"] = table(10 + number)
                del theirs["ours"]
                theirs["small"] = table(3, 100)
                return found, theirs.stats().recycled_writes > 0, theirs.info("k").readers

        assert as_nobody(other) == "([1], True, 0)"
        assert value_of(held) == 1
        assert values(store, "k", "small", "ours") == [14, 3, None]
        for number in range(5):
            store["k"] = table(20 + number)
        assert as_nobody(lambda: values(Store("team", mode=0o777), "k")) == "[24]"
        store.destroy()


def test_what_was_put_with_a_narrower_mode_is_refused_and_not_recycled_by_others(place: Path) -> None:
    with Store("team", mode=0o777) as shared, Store("team") as private:
        shared["k"] = table(1)
        private["p"] = table(2)
        private["gone"] = table(3)
        del private["gone"]
        assert "narrower mode" in as_nobody(lambda: Store("team", mode=0o777)["p"])

        def other() -> object:
            with Store("team", mode=0o777) as theirs:
                return theirs.put(table(4), "new"), theirs.stats().recycled_writes

        assert as_nobody(other) == "('new', 0)"
        assert values(shared, "new", "k", "p") == [4, 1, 2]
        assert os.listdir(f"{shared.path}/.work") == []
        shared.destroy()
