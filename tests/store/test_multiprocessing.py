"""Tables that go to workers and back through shared memory: real pools, queues and pipes, under each start method."""

import gc
import glob
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import aljava.multiprocessing
from aljava.errors import InvalidOption, KeyNotFound
from tests.store import workers
from tests.store.actors import Actor

ROWS = 200_000
SUM = ROWS * (ROWS - 1) // 2
METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture(autouse=True)
def active(_no_leaks: None) -> Iterator[None]:
    aljava.multiprocessing.activate()
    yield
    aljava.multiprocessing.deactivate()
    assert families() == [], "the last member of the family has left"


def stop_servers() -> None:
    """Ends the processes that multiprocessing itself keeps, for the leak check."""
    from multiprocessing import forkserver, resource_tracker

    gc.collect()  # semaphores, which the tracker has to be told of
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest, _no_leaks: None) -> Iterator[Any]:
    yield multiprocessing.get_context(request.param)
    stop_servers()


@pytest.fixture
def spawning(_no_leaks: None) -> Iterator[Any]:
    yield multiprocessing.get_context("spawn")
    stop_servers()


def families() -> list[str]:
    return glob.glob(os.path.join(os.environ["ALJAVA_SHM"], ".family-*"))


def tokens() -> list[str]:
    return [name for family in families() for name in os.listdir(f"{family}/.tokens")]


def test_a_pool_gets_tables_and_gives_them_back(context: Any) -> None:
    table = workers.make(ROWS)
    with context.Pool(2) as pool:
        assert pool.map(workers.describe, [table] * 4) == [(SUM, True)] * 4
        doubled = pool.apply(workers.double, (table,))
        pool.close()
        pool.join()
    assert workers.describe(doubled) == (2 * SUM, True)
    assert tokens() == []


def test_an_executor_gets_tables_and_gives_them_back(context: Any) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(workers.describe, [workers.make(ROWS)] * 3)) == [(SUM, True)] * 3
        batch = executor.submit(workers.echo, workers.make(ROWS).to_batches()[0]).result()
    assert isinstance(batch, pa.RecordBatch)
    assert workers.describe(pa.Table.from_batches([batch])) == (SUM, True)
    assert tokens() == []


def test_queues_and_pipes_carry_tables(context: Any) -> None:
    queue, answers = context.Queue(), context.SimpleQueue()
    worker = context.Process(target=workers.serve, args=(queue, answers))
    worker.start()
    for _ in range(3):
        queue.put(workers.make(ROWS))
    assert [answers.get() for _ in range(3)] == [(SUM, True)] * 3
    queue.put(None)
    worker.join()
    queue.close()
    queue.join_thread()
    receiver, sender = context.Pipe()
    with receiver, sender:
        sender.send({"name": "a table in a dict", "table": workers.make(ROWS)})
        assert workers.describe(receiver.recv()["table"]) == (SUM, True)
    assert tokens() == []


def test_a_worker_that_only_sends_is_activated_by_the_initializer(context: Any) -> None:
    with context.Pool(1, initializer=aljava.multiprocessing.activate) as pool:
        table = pool.apply(workers.make, (ROWS,))
        pool.close()
        pool.join()
    assert workers.describe(table) == (SUM, True)


def send(thing: Any) -> Any:
    """Through a pickle as `multiprocessing` makes them, and back."""
    return pickle.loads(bytes(ForkingPickler.dumps(thing)))


def test_the_token_is_a_few_bytes_and_the_content_arrives_exactly() -> None:
    words = pa.table(
        {"word": [f"word {number}" for number in range(ROWS)], "n": pa.array([None, 1] * (ROWS // 2))},
        metadata={"source": "here"},
    )
    assert len(bytes(ForkingPickler.dumps(words))) < 400
    received = send(words)
    assert received.equals(words)
    assert received.schema.equals(words.schema, check_metadata=True)
    assert send(words.slice(5, 100_000)).equals(words.slice(5, 100_000))


def test_a_table_that_is_sent_again_is_not_placed_again() -> None:
    table = workers.make(ROWS)
    received = [send(table) for _ in range(5)]
    segments = [name for family in families() for name in os.listdir(f"{family}/.work")]
    assert len(segments) == 1
    del table
    assert all(workers.total(one) == SUM for one in received)
    assert [name for family in families() for name in os.listdir(f"{family}/.work")] == []


def test_memory_is_recycled_when_nobody_has_the_table_any_more() -> None:
    for _ in range(20):
        assert workers.total(send(workers.make(ROWS))) == SUM
    family = aljava.multiprocessing._Family.current
    assert family is not None
    assert family.folder.fresh <= 2


def test_small_tables_go_the_ordinary_way() -> None:
    small = workers.make(100)
    assert send(small).equals(small)
    assert not workers.is_shared(send(small))
    aljava.multiprocessing.activate(min_bytes=100_000_000)
    assert not workers.is_shared(send(workers.make(ROWS)))
    with pytest.raises(InvalidOption):
        aljava.multiprocessing.activate(min_bytes=-1)


def test_ordinary_pickles_stay_ordinary() -> None:
    """A pickle in a file has to outlive the family."""
    table = workers.make(ROWS)
    assert not workers.is_shared(pickle.loads(pickle.dumps(table)))


def test_frames_travel_if_asked_for(spawning: Any) -> None:
    frame, polars_frame = pd.DataFrame({"n": range(ROWS)}, index=range(5, ROWS + 5)), pl.DataFrame({"n": range(ROWS)})
    assert len(bytes(ForkingPickler.dumps(frame))) > ROWS
    aljava.multiprocessing.activate(pandas=True, polars=True)
    assert len(bytes(ForkingPickler.dumps(frame))) < 400
    pd.testing.assert_frame_equal(send(frame), frame)
    assert send(polars_frame).equals(polars_frame)
    with spawning.Pool(1) as pool:
        changed = pool.apply(workers.change_in_place, (frame.reset_index(drop=True),))
        pool.close()
        pool.join()
    assert changed["n"].tolist()[:3] == [-1, 1, 2]


def test_a_token_is_used_once() -> None:
    pickled = bytes(ForkingPickler.dumps(workers.make(ROWS)))
    pickle.loads(pickled)
    with pytest.raises(KeyNotFound, match="received before"):
        pickle.loads(pickled)


def test_a_token_reaches_a_process_of_another_family() -> None:
    """One that was started by itself has a key of its own, and takes what it is handed through a pipe."""
    pickled = bytes(ForkingPickler.dumps(workers.make(ROWS)))
    assert len(pickled) < 500
    for expected in (str((SUM, True)), "received before"):
        body = f"import pickle; print(workers.describe(pickle.loads({pickled!r})))"
        done = program(body)
        assert expected in done.stdout + done.stderr
    assert tokens() == []
    assert others() == []


def test_what_is_not_installed_is_named() -> None:
    for name in ("pandas", "polars"):
        done = program(f"sys.modules[{name!r}] = None; aljava.multiprocessing.activate({name}=True)")
        assert f"MissingDependency: {name} is not installed: pip install 'aljava[{name}]'" in done.stderr


def test_a_worker_that_dies_leaks_nothing() -> None:
    table = workers.make(ROWS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        died = executor.submit(workers.die, table)
        with pytest.raises(BrokenProcessPool):
            died.result()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as executor:
        assert executor.submit(workers.describe, table).result() == (SUM, True)
    del table
    family = aljava.multiprocessing._Family.current
    assert family is not None
    assert tokens() == []
    pooled = sum(size for size, _ in family.folder.pool())
    assert family.folder.trim() == pooled > 0


def test_a_sender_may_end_before_its_table_is_received(spawning: Any) -> None:
    queue = spawning.Queue()
    sender = spawning.Process(target=workers.put_and_leave, args=(queue, ROWS))
    sender.start()
    sender.join()
    assert workers.describe(queue.get()) == (SUM, True)
    queue.close()
    queue.join_thread()


PROGRAM = """if True:
    import multiprocessing, os, sys, time
    import aljava.multiprocessing
    from tests.store import workers
    aljava.multiprocessing.activate()
    {body}
"""


def program(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def others() -> list[str]:
    """The families of other processes than this."""
    family = aljava.multiprocessing._Family.current
    assert family is not None
    return [path for path in families() if path != family.path]


def test_a_queue_that_is_never_read_is_swept_with_its_family() -> None:
    done = program("queue = multiprocessing.Queue(); queue.put(workers.make(200_000)); time.sleep(0.5)")
    assert (done.returncode, done.stderr) == (0, "")
    assert others() == []


def test_a_family_that_was_killed_is_swept_by_the_next() -> None:
    done = program("ends = multiprocessing.Pipe(); ends[0].send(workers.make(200_000)); os.kill(os.getpid(), 9)")
    assert done.returncode == -9
    assert len(others()) == 1
    aljava.multiprocessing.deactivate()
    aljava.multiprocessing.activate()
    assert others() == []


def test_when_the_parent_goes_first_its_child_still_receives() -> None:
    """The child waits until its parent is dead, and takes what the parent has sent; then nothing is left."""
    done = program(
        "reader, writer = multiprocessing.Pipe(); parent = os.getpid(); go = os.fork()\n"
        "    if go: writer.send(workers.make(200_000)); os.kill(parent, 9)\n"
        "    while os.getppid() == parent: time.sleep(0.01)\n"
        "    print(workers.describe(reader.recv())); sys.stdout.flush()\n"
        "    aljava.multiprocessing.deactivate()"
    )
    assert done.stdout.strip() == str((SUM, True)), done.stderr
    for _ in range(100):
        if not others():
            break
        time.sleep(0.05)
    assert others() == []


def test_a_forked_child_leaves_its_parents_segments_alone() -> None:
    table = workers.make(ROWS)
    received = send(table)

    def child() -> object:
        nonlocal table
        mine = send(table)
        del table
        return workers.describe(mine)

    with Actor(child) as actor:
        assert actor.wait() == "ended", actor.result()
        assert actor.result() == str((SUM, True))
    assert workers.describe(send(table)) == workers.describe(received) == (SUM, True)
