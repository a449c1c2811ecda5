"""Processes that stop at any call: no mixed bytes, no lost put, nobody else waits, nothing leaks.

A first protocol (pool files recognised by their link count, a lock held while filling, a rename at the end) failed the
interleavings that are named below: it overwrote live keys, lost puts, let readers hang, and leaked.
"""

import os
from collections.abc import Callable

import pytest

from aljava.store import Store
from tests.store.actors import Actor, Moment, after, before, run, table, value_of, values

# Where a writer that recycles a segment stands between two of its calls.
STEPS = [
    before("_claim_named/rename"),  # has read the pool's list
    after("_claim_named/rename"),  # has claimed a segment
    before("_take/flock"),
    after("_take/flock"),  # holds the exclusive lock of the test
    after("_take/flock", 2),  # has let go of it
    before("_copy", 4),  # is in the middle of the copy
    before("exchange"),
    after("exchange"),  # the new object is there, the old one not in the pool
]
ENTERING = [after("_identify/open"), before("_identify/flock"), after("_identify/flock"), after("_identify/stat")]
READING = [
    after("open_path/open"),
    before("_still_named/flock"),
    after("_still_named/flock"),
    after("_still_named/stat"),
    after("__init__"),
]


@pytest.fixture
def primed(store: Store) -> Store:
    """Two keys that hold 2 and 4, and a pool of four segments."""
    for number in range(4):
        store[f"pooled{number}"] = table(1)
    store["k"], store["k2"] = table(2), table(4)
    for number in range(4):
        del store[f"pooled{number}"]
    return store


def stopped(work: Callable[[], object], at: Moment) -> Actor:
    actor = Actor(work, at)
    assert actor.state == "stopped", (at, actor.state, actor.result())
    return actor


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_writer_that_sleeps_never_overwrites_a_live_key(primed: Store, step: Moment) -> None:
    with stopped(lambda: primed.put(table(9), "other"), step) as sleeper:
        for number in range(4):  # takes, fills and publishes what the sleeper may have had an eye on
            assert run(lambda number=number: primed.put(table(10 + number), f"new{number % 2}")) == f"'new{number % 2}'"
        assert sleeper.go_on() == "ended", sleeper.result()
    assert values(primed, "k", "k2", "new0", "new1", "other") == [2, 4, 12, 13, 9]


@pytest.mark.parametrize("first", STEPS, ids=str)
def test_two_writers_lose_no_put_and_no_reader_waits(primed: Store, first: Moment) -> None:
    for second in STEPS:
        primed["ka"], primed["kb"] = table(5), table(6)
        with (
            stopped(lambda: primed.put(table(7), "ka"), first) as a,
            stopped(lambda: primed.put(table(8), "kb"), second) as b,
        ):
            assert run(lambda: values(primed, "k", "k2")) == "[2, 4]"
            primed._folder.sweep(now=True)  # who is stopped is not dead
            assert a.go_on() == "ended", a.result()
            assert b.go_on() == "ended", b.result()
        assert values(primed, "ka", "kb", "k", "k2") == [7, 8, 2, 4]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_a_late_reader_does_not_wait_for_the_writer_that_took_its_segment(primed: Store, step: Moment) -> None:
    with stopped(lambda: value_of(primed["k"]), after("open_path/open")) as reader:
        primed["k"] = table(20)  # what the reader has opened is in the pool now
        with stopped(lambda: primed.put(table(5), "other"), step) as writer:
            assert reader.go_on() == "ended"
            assert reader.result() == "20"
            assert writer.go_on() == "ended", writer.result()
    assert values(primed, "k", "other") == [20, 5]


@pytest.mark.parametrize("step", [after("exchange"), before("rename_new"), after("rename_new")], ids=str)
def test_a_writer_that_stops_after_publishing_holds_up_nobody(primed: Store, step: Moment) -> None:
    with stopped(lambda: primed.put(table(7), "k"), step) as writer:
        assert run(lambda: values(primed, "k")) == "[7]"
        assert run(lambda: primed.put(table(8), "k")) == "'k'"
        assert writer.go_on() == "ended", writer.result()
    assert values(primed, "k") == [8]


@pytest.mark.parametrize("what", ["replaced", "deleted", "deleted and recycled"])
@pytest.mark.parametrize("step", READING, ids=str)
def test_a_reader_that_sleeps_sees_one_object_whole(primed: Store, step: Moment, what: str) -> None:
    with stopped(lambda: values(primed, "k"), step) as reader:
        if what.startswith("deleted"):
            del primed["k"]
        for number in range(30, 58):
            if what == "replaced":
                primed["k"] = table(number)
            elif what == "deleted and recycled":
                primed["other"] = table(number)
        assert reader.go_on() == "ended"
        allowed = {"replaced": "[2] [57]", "deleted": "[2] [None]", "deleted and recycled": "[2] [None]"}[what]
        assert reader.result() in allowed


@pytest.mark.parametrize("first", [before("exchange"), after("exchange")], ids=str)
@pytest.mark.parametrize("second", [before("exchange"), after("exchange")], ids=str)
def test_two_replacers_of_one_key_leak_nothing(primed: Store, first: Moment, second: Moment) -> None:
    before_bytes = primed.stats().bytes_pooled
    with (
        stopped(lambda: primed.put(table(7), "k"), first) as a,
        stopped(lambda: primed.put(table(8), "k"), second) as b,
    ):
        assert a.go_on() == b.go_on() == "ended"
    assert values(primed, "k")[0] in (7, 8)
    assert primed.stats().bytes_pooled == before_bytes
    assert os.listdir(f"{primed.path}/.work") == []


@pytest.mark.parametrize("step", [before("withdraw/rename"), after("withdraw/rename"), before("rename_new")], ids=str)
def test_deleting_against_replacing_loses_only_what_was_deleted(primed: Store, step: Moment) -> None:
    with stopped(lambda: primed.__delitem__("k"), step) as deleter:
        primed["k"] = table(9)
        assert deleter.go_on() == "ended", deleter.result()
    # A deleter that had not begun takes the new object; one that had, took the old one.
    assert values(primed, "k") == [None if step == before("withdraw/rename") else 9]
    assert os.listdir(f"{primed.path}/.work") == []
    assert all(os.stat(f"{primed.path}/.pool/{name}").st_nlink == 1 for name in os.listdir(f"{primed.path}/.pool"))


@pytest.mark.parametrize("step", ENTERING, ids=str)
def test_a_writer_that_stops_at_its_start_is_not_swept_away(primed: Store, step: Moment) -> None:
    def put() -> str:
        with Store(primed.name) as fresh:
            return fresh.put(table(7), "a")

    with stopped(put, step) as writer:
        primed._folder.sweep(now=True)
        primed["b"] = table(8)
        assert writer.go_on() == "ended", writer.result()
    assert values(primed, "a", "b") == [7, 8]


def test_stopping_at_every_moment_of_a_put_holds_up_nobody(primed: Store) -> None:
    """Each moment of a put is tried, in steps of five; the others go on meanwhile, and then so does the put."""
    moment = 0
    while True:
        moment += 5
        with Actor(lambda: primed.put(table(9), "k"), moment) as writer:
            if writer.state == "ended":
                break
            assert writer.state == "stopped", writer.result()
            assert values(primed, "k2") == [4]
            primed["k"] = table(11)
            primed["other"] = table(12)
            del primed["other"]
            primed._folder.sweep(now=True)
            assert writer.go_on() == "ended", writer.result()
        assert values(primed, "k")[0] in (9, 11)
        assert os.listdir(f"{primed.path}/.work") == []
    assert moment > 100


def test_stopping_at_every_moment_of_a_get_holds_up_nobody(primed: Store) -> None:
    moment = 0
    while True:
        moment += 1
        primed["k"] = table(2)
        with Actor(lambda: values(primed, "k"), moment) as reader:
            if reader.state == "ended":
                break
            for number in range(3):
                primed["k"] = table(20 + number)
            assert reader.go_on() == "ended"
            assert reader.result() in ("[2]", "[22]")
    assert moment > 15
