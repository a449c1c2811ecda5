"""`aljava.torch`, with real loaders and their worker processes. `make test-engines` installs PyTorch and runs these."""

import contextlib
import doctest
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aljava
from aljava.errors import InvalidData, InvalidOption, MissingDependency, NotFound, QueryError, UnsupportedType

pytestmark = pytest.mark.torch
torch: Any = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402

from aljava.torch import IterableDataset  # noqa: E402

ROWS = 30_000


def points(rows: int = ROWS) -> pa.Table:
    values = np.arange(rows * 4, dtype=np.float32)
    return pa.table(
        {
            "id": np.arange(rows),
            "point": pa.FixedSizeListArray.from_arrays(pa.array(values), 4),
            "label": np.arange(rows) % 2 == 0,
        }
    )


@pytest.fixture(params=["store", "file", "compressed", "parquet", "folder", "stream", "buffer"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    table, kind = points(), request.param
    path = str(tmp_path / "points")
    if kind == "store":
        path = "shm://engines-torch/points"
        aljava.write(table, path)
    elif kind == "parquet":
        pa.parquet.write_table(table, path, row_group_size=7000)
    elif kind == "folder":
        os.mkdir(path)
        for number in range(3):
            aljava.write(table.slice(number * 10_000, 10_000), f"{path}/{number}.arrow")
    elif kind == "stream":
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, 7000)
    elif kind == "buffer":
        yield aljava.open(aljava.dumps(table))
        return
    else:
        aljava.write(table, path, batch_rows=7000, compression="zstd" if kind == "compressed" else "none")
    yield path
    with contextlib.suppress(Exception):
        aljava.Store("engines-torch").destroy()


def ids(batches: Any) -> list[int]:
    found = []
    for batch in batches:
        assert torch.equal(batch["point"][:, 0], batch["id"] * 4)
        assert torch.equal(batch["label"], batch["id"] % 2 == 0)
        found += batch["id"].tolist()
    return found


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_once(source: Any, workers: int, shuffle: bool, no_leaks: None) -> None:
    dataset = IterableDataset(source, 1000, shuffle=shuffle)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    assert len(loader) == 30
    found = ids(loader)
    assert sorted(found) == list(range(ROWS))
    assert (found == sorted(found)) == (not shuffle and not workers)


def test_spawned_workers(tmp_path: Path) -> None:
    aljava.write(points(), tmp_path / "points.arrow", compression="none")
    dataset = IterableDataset(tmp_path / "points.arrow", 1000, filter=pc.field("id") >= 1000)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert ids(loader) == list(range(1000, ROWS))
    with pytest.raises(InvalidOption, match="this process only"):
        pickle.dumps(IterableDataset(aljava.open(aljava.dumps(points())), 1000))
    aljava.write(points(10), tmp_path / "points.arrow")
    with pytest.raises(InvalidData, match="was changed since"):
        pickle.loads(pickle.dumps(dataset))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=8),
    batch_size=st.integers(1, 60),
    world_size=st.integers(1, 4),
    workers=st.integers(1, 3),
    shuffle=st.booleans(),
    window=st.integers(0, 100),
    filtered=st.booleans(),
    drop_last=st.booleans(),
)
def test_every_row_once_over_ranks_and_workers(  # noqa: PLR0917
    sizes: list[int],
    batch_size: int,
    world_size: int,
    workers: int,
    shuffle: bool,
    window: int,
    filtered: bool,
    drop_last: bool,
) -> None:
    ends = np.cumsum([0, *sizes])
    batches = [pa.record_batch({"id": np.arange(low, high)}) for low, high in pairwise(ends)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    total = int(ends[-1])
    found: list[int] = []
    counts = []
    for rank in range(world_size):
        dataset = IterableDataset(
            sink.getvalue(),
            batch_size,
            filter=pc.field("id") >= total // 3 if filtered else None,
            shuffle=shuffle,
            window=window if shuffle else None,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        mine = 0
        for worker in range(workers):
            with as_worker(worker, workers):
                got = [batch["id"] for batch in dataset]
            assert all(len(batch) == batch_size for batch in got[: len(got) if drop_last else -1])
            found += [int(number) for batch in got for number in batch]
            mine += len(got)
        counts.append(mine)
        assert filtered or mine == len(dataset)
    expected = list(range(total // 3 if filtered else 0, total))
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    if not drop_last:
        assert sorted(found) == expected
    elif not filtered:
        assert len(set(counts)) == 1
        assert total - len(found) < batch_size * world_size


@contextlib.contextmanager
def as_worker(worker: int, workers: int) -> Iterator[None]:
    """What a loader tells its workers, in this process."""
    info = torch.utils.data._utils.worker
    info._worker_info = info.WorkerInfo(id=worker, num_workers=workers, seed=0, dataset=None)
    try:
        yield
    finally:
        info._worker_info = None


def test_the_order_depends_on_seed_and_epoch(tmp_path: Path) -> None:
    aljava.write(points(), tmp_path / "points.arrow", batch_rows=1000, compression="none")

    def order(seed: int, epoch: int, **options: Any) -> list[int]:
        dataset = IterableDataset(tmp_path / "points.arrow", 500, shuffle=True, seed=seed, **options)
        dataset.set_epoch(epoch)
        return ids(dataset)

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    whole = order(1, 0, window=0)
    starts = whole[::1000]
    assert whole == [number for start in starts for number in range(start, start + 1000)]
    assert starts != sorted(starts)


def test_an_epoch_reaches_workers_that_live_on(tmp_path: Path) -> None:
    aljava.write(points(), tmp_path / "points.arrow", compression="none")
    dataset = IterableDataset(tmp_path / "points.arrow", 500, shuffle=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    first = ids(loader)
    dataset.set_epoch(1)
    assert ids(loader) != first
    dataset.set_epoch(0)
    assert ids(loader) == first


@pytest.mark.parametrize("options", [{}, {"shuffle": True, "window": 2000}, {"filter": pc.field("label")}])
@pytest.mark.parametrize("at", [0, 1, 13, 30])
def test_going_on_from_a_saved_position(tmp_path: Path, options: dict[str, Any], at: int) -> None:
    aljava.write(points(), tmp_path / "points.arrow", batch_rows=3500)
    make = lambda: IterableDataset(tmp_path / "points.arrow", 500, **options)  # noqa: E731
    dataset = make()
    dataset.set_epoch(3)
    whole = [batch["id"].tolist() for batch in dataset]
    running = iter(dataset)
    for _ in range(at):
        next(running)
    saved = pickle.loads(pickle.dumps(dataset.state_dict()))
    other = make()
    other.load_state_dict(saved)
    assert other.state_dict() == saved
    assert [batch["id"].tolist() for batch in other] == whole[at:]
    assert [batch["id"].tolist() for batch in other] == whole


def test_a_position_of_something_else(tmp_path: Path) -> None:
    aljava.write(points(), tmp_path / "points.arrow")
    state = IterableDataset(tmp_path / "points.arrow", 500).state_dict()
    other = IterableDataset(tmp_path / "points.arrow", 400)
    other.load_state_dict(state)
    with pytest.raises(InvalidOption, match="batch_size=500, and here it is 400"):
        iter(other)


def test_every_worker_goes_on(tmp_path: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    aljava.write(points(), tmp_path / "points.arrow", batch_rows=3500, compression="none")

    def loader() -> Any:
        dataset = IterableDataset(tmp_path / "points.arrow", 500, shuffle=True, window=2000)
        return stateful.StatefulDataLoader(dataset, batch_size=None, num_workers=2)

    whole = [batch["id"].tolist() for batch in loader()]
    first = loader()
    running = iter(first)
    for _ in range(17):
        next(running)
    saved = first.state_dict()
    del running
    second = loader()
    second.load_state_dict(saved)
    assert [batch["id"].tolist() for batch in second] == whole[17:]


@pytest.mark.parametrize("workers", [0, 1])
def test_raw_columns_are_not_copied(workers: int) -> None:
    aljava.write(points(), "shm://engines-torch/points")
    try:
        dataset = IterableDataset("shm://engines-torch/points", 1000)
        for batch in DataLoader(dataset, batch_size=None, num_workers=workers):
            for name, mapped in (("id", True), ("point", True), ("label", False)):
                assert any(low <= batch[name].data_ptr() < high for low, high in maps_of("points.arrow")) == mapped
        # They outlive the dataset and the table's replacement.
        expected = batch["id"].clone()
        del dataset
        aljava.write(pa.table({"id": np.zeros(ROWS, np.int64)}), "shm://engines-torch/points")
        aljava.write(pa.table({"id": np.zeros(ROWS, np.int64)}), "shm://engines-torch/points")
        assert torch.equal(batch["id"], expected)
    finally:
        aljava.Store("engines-torch").destroy()


def maps_of(name: str) -> list[tuple[int, int]]:
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            if name in line and line.split()[1].startswith("rw-p"):
                low, _, high = line.split()[0].partition("-")
                found.append((int(low, 16), int(high, 16)))
    return found


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_one_writes_to_a_tensor_nobody_else_sees(tmp_path: Path, workers: int, compression: str) -> None:
    aljava.write(points(), tmp_path / "points.arrow", compression=compression)
    before = (tmp_path / "points.arrow").read_bytes()
    dataset = IterableDataset(tmp_path / "points.arrow", 1000)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    for _ in range(2):
        for number, batch in enumerate(loader):
            assert batch["id"][0] == number * 1000
            batch["id"].mul_(-1).sub_(7)
            batch["point"].zero_()
    assert (tmp_path / "points.arrow").read_bytes() == before
    assert aljava.read(tmp_path / "points.arrow").equals(points())


def changed(batch: Any) -> Any:
    batch["id"] += 1
    batch["new"] = batch["point"].sum(dim=1)
    batch["text"] = "x"
    return batch


def test_what_a_worker_changes_arrives(tmp_path: Path) -> None:
    aljava.write(points(), tmp_path / "points.arrow", compression="none")
    dataset = IterableDataset(tmp_path / "points.arrow", 1000)
    batch = next(iter(DataLoader(dataset, batch_size=None, num_workers=1, collate_fn=changed)))
    assert type(batch) is dict
    assert batch["id"].tolist() == list(range(1, 1001))
    assert torch.equal(batch["new"], batch["point"].sum(dim=1))
    assert batch["text"] == "x"


@pytest.mark.parametrize("kind", ["file", "store"])
def test_replaced_while_it_is_read(tmp_path: Path, kind: str) -> None:
    address = str(tmp_path / "points.arrow") if kind == "file" else "shm://engines-torch/points"
    aljava.write(points(), address, compression="none")
    try:
        dataset = IterableDataset(address, 1000)
        aljava.write(points(5000), address, compression="none")
        for workers in (0, 2):
            assert sorted(ids(DataLoader(dataset, batch_size=None, num_workers=workers))) == list(range(ROWS))
    finally:
        with contextlib.suppress(Exception):
            aljava.Store("engines-torch").destroy()


def test_a_killed_worker_is_an_error_and_leaves_nothing(no_leaks: None) -> None:
    aljava.write(points(), "shm://engines-torch/points")
    dataset = IterableDataset("shm://engines-torch/points", 10, shuffle=True)
    running = iter(DataLoader(dataset, batch_size=None, num_workers=2))
    next(running)
    os.kill(running._workers[1].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker"):
        list(running)
    del running, dataset
    store = aljava.Store("engines-torch")
    assert [info.readers for info in store.infos()] == [0]
    store.destroy()


def test_types(tmp_path: Path) -> None:
    numbers = {
        name: pa.array([1, 2, 3], getattr(pa, name)()) for name in ("int8", "int16", "uint8", "uint16", "uint64")
    }
    table = pa.table(
        {
            **numbers,
            "half": pa.array(np.array([1, 2, 3], np.float16)),
            "date": pa.array([1, 2, 3], pa.date32()),
            "time": pa.array([1, 2, 3], pa.timestamp("ms")),
            "nested": pa.array([[[1, 2], [3, 4]]] * 3, pa.list_(pa.list_(pa.int32(), 2), 2)),
            "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(18).reshape(3, 2, 3)),
            "bits": pa.array([[True, False]] * 3, pa.list_(pa.bool_(), 2)),
        }
    )
    aljava.write(table, tmp_path / "types.arrow")
    (batch,) = IterableDataset(tmp_path / "types.arrow", 10)
    for name in (*numbers, "half", "date", "time"):
        assert batch[name].tolist() == [1, 2, 3]
    assert batch["uint16"].dtype == torch.uint16
    assert batch["date"].dtype == torch.int32
    assert batch["time"].dtype == torch.int64
    assert batch["nested"].tolist() == [[[1, 2], [3, 4]]] * 3
    assert batch["tensor"].tolist() == np.arange(18).reshape(3, 2, 3).tolist()
    assert batch["bits"].tolist() == [[True, False]] * 3


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a"]),
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array(["a"]).dictionary_encode(),
        pa.array([1], pa.decimal128(5)),
        pa.nulls(1),
    ],
    ids=lambda column: str(column.type),
)
def test_columns_without_a_tensor(column: pa.Array) -> None:
    buffer = aljava.dumps(pa.table({"id": [1], "other": column}))
    with pytest.raises(UnsupportedType, match=r"no tensor for the column 'other'.*columns=\['id'\]"):
        IterableDataset(buffer, 10)
    assert [batch["id"].tolist() for batch in IterableDataset(buffer, 10, columns=["id"])] == [[1]]


def test_nulls() -> None:
    buffer = aljava.dumps(
        pa.table({"x": [1.0, None], "n": [None, 1], "v": pa.array([[1.0], None], pa.list_(pa.float64(), 1))})
    )
    for column in ("x", "n", "v"):
        with pytest.raises(InvalidData, match=f"column '{column}' of .* has nulls"):
            list(IterableDataset(buffer, 10, columns=[column]))
    (batch,) = IterableDataset(buffer, 10, columns=["x"], nulls="nan")
    assert batch["x"][0] == 1
    assert batch["x"][1].isnan()
    with pytest.raises(InvalidData, match="column 'n'"):
        list(IterableDataset(buffer, 10, columns=["n"], nulls="nan"))
    (batch,) = IterableDataset(buffer, 10, columns={"n": pc.coalesce(pc.field("n"), pc.scalar(0))})
    assert batch["n"].tolist() == [0, 1]


def test_partitions_and_columns(tmp_path: Path) -> None:
    for day in (1, 2):
        (tmp_path / f"day={day}").mkdir()
        aljava.write({"id": [day * 10, day * 10 + 1]}, tmp_path / f"day={day}" / "x.arrow")
    (batch,) = IterableDataset(tmp_path, 10, columns=["day", "id"], filter=pc.field("day") == 2)
    assert list(batch) == ["day", "id"]
    assert batch["day"].tolist() == [2, 2]
    assert list(IterableDataset(tmp_path, 10, filter=pc.field("day") == 3)) == []


def test_bad_arguments(tmp_path: Path) -> None:
    buffer = aljava.dumps(points(10))
    for options, message in (
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 1, "window": 5}, "window is 5"),
        ({"batch_size": 1, "nulls": "zero"}, "nulls is 'zero'"),
        ({"batch_size": 1, "rank": 1}, "both or neither"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "rank is 2"),
    ):
        with pytest.raises(InvalidOption, match=message):
            IterableDataset(buffer, **options)
    for options in ({"columns": ["nix"]}, {"filter": pc.field("nix") == 1}, {"columns": []}):
        with pytest.raises(QueryError):
            IterableDataset(buffer, 1, **options)
    with pytest.raises(NotFound):
        IterableDataset(tmp_path / "nix.arrow", 1)
    with pytest.raises(TypeError, match="not known"):
        len(IterableDataset(buffer, 1, filter=pc.field("id") > 1))
    with open(tmp_path / "file", "wb+") as file:
        file.write(buffer)
        dataset = IterableDataset(file, 1)
        with pytest.raises(InvalidOption, match="spawn"):
            next(iter(DataLoader(dataset, batch_size=None, num_workers=1)))
    reading, writing = os.pipe()
    aljava.write(points(10), f"fd:{writing}")
    os.close(writing)
    with pytest.raises(InvalidOption, match="a stream"):
        IterableDataset(f"fd:{reading}", 1)
    os.close(reading)


def test_ranks_of_torch_distributed(tmp_path: Path) -> None:
    aljava.write(points(), tmp_path / "points.arrow")
    program = textwrap.dedent(f"""
        import sys, torch.distributed as dist
        from aljava.torch import IterableDataset
        rank = int(sys.argv[1])
        dist.init_process_group("gloo", init_method="file://{tmp_path}/meeting", rank=rank, world_size=2)
        print(sum(int(batch["id"].sum()) for batch in IterableDataset({str(tmp_path / "points.arrow")!r}, 1000)))
        dist.barrier()
        dist.destroy_process_group()
    """)
    ranks = [subprocess.Popen([sys.executable, "-c", program, str(rank)], stdout=subprocess.PIPE) for rank in (0, 1)]
    sums = [int(process.communicate(timeout=120)[0]) for process in ranks]
    assert sums == [sum(range(15_000)), sum(range(15_000, 30_000))]


def test_without_torch() -> None:
    program = "import sys; sys.modules['torch'] = None\nimport aljava.torch"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert f"{MissingDependency.__name__}: this needs PyTorch" in done.stderr
    assert "aljava[torch]" in done.stderr


def test_examples() -> None:
    import aljava.torch

    failed, tried = doctest.testmod(aljava.torch)
    assert tried >= 5
    assert failed == 0
