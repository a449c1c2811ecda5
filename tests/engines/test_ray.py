"""`Dataset.to_ray`, on a real Ray of two CPUs. `make test-engines` installs Ray and runs these."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import aljava
from aljava.errors import InvalidOption, MissingDependency, QueryError
from tests.engines.local_ray import two_cpus

pytestmark = pytest.mark.ray

ROWS = 40_000


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with two_cpus() as ray:
        yield ray


def table() -> pa.Table:
    rng = np.random.default_rng(7)
    return pa.table(
        {
            "id": np.arange(ROWS),
            "price": rng.random(ROWS),
            "some": pa.array([None if row % 7 == 0 else row for row in range(ROWS)], pa.int64()),
            "side": ["buy", "sell"] * (ROWS // 2),
            "tags": [["x", "y"], []] * (ROWS // 2),
        }
    )


@pytest.fixture
def dataset(tmp_path: Path) -> aljava.Dataset:
    aljava.write(table(), tmp_path / "trades.arrow", batch_rows=5000)
    return aljava.open(tmp_path / "trades.arrow")


def tasks(rows: Any) -> list[Any]:
    """What Ray's planner comes to read: the read tasks after it has pushed down what it can."""
    from aljava.engines.ray import AljavaDatasource

    found = []
    original = AljavaDatasource.get_read_tasks

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        made = original(self, *arguments, **options)
        found[:] = made
        return made

    AljavaDatasource.get_read_tasks = noted
    try:
        rows.materialize()
    finally:
        AljavaDatasource.get_read_tasks = original
    return found


def test_every_row_comes_back(ray: Any, dataset: aljava.Dataset) -> None:
    rows = dataset.to_ray(override_num_blocks=4)
    back = pa.concat_tables(ray.get(rows.to_arrow_refs()))
    assert back.sort_by("id").equals(table())
    assert rows.schema().names == table().schema.names
    assert rows.count() == ROWS


def test_columns_and_filter(ray: Any, dataset: aljava.Dataset) -> None:
    wanted = pc.field("id") >= 37_500
    rows = dataset.to_ray(columns=["price", "id"], filter=wanted)
    back = pa.concat_tables(ray.get(rows.to_arrow_refs()))
    assert back.sort_by("id").equals(table().select(["price", "id"]).slice(37_500))
    made = tasks(dataset.to_ray(columns=["price", "id"], filter=wanted))
    assert sum(task.metadata.size_bytes for task in made) == pytest.approx(2500 * 16, rel=2)
    assert all(task.metadata.input_files == (dataset.address,) for task in made)
    computed = dataset.to_ray({"twice": pc.field("id") * 2}, wanted)
    assert computed.sum("twice") == 2 * sum(range(37_500, ROWS))


def test_what_ray_is_asked_for_is_pushed_down(ray: Any, dataset: aljava.Dataset) -> None:
    expressions = pytest.importorskip("ray.data.expressions")
    all_bytes = sum(task.metadata.size_bytes for task in tasks(dataset.to_ray()))
    rows = dataset.to_ray().filter(expr=expressions.col("id") < 100).select_columns(["price"])
    made = tasks(rows)
    assert made[0].schema.names == ["price"]
    assert sum(task.metadata.size_bytes for task in made) < all_bytes / 8
    assert sorted(row["price"] for row in rows.take_all()) == sorted(table()["price"][:100].to_pylist())
    both = dataset.to_ray(filter=pc.field("id") >= 50).filter(expr=expressions.col("id") < 100)
    assert both.count() == 50


def test_estimates_come_from_metadata(ray: Any, dataset: aljava.Dataset) -> None:
    from aljava.engines.ray import AljavaDatasource

    source = AljavaDatasource(dataset, ["id", "price"], None)
    assert source.estimate_inmemory_data_size() == pytest.approx(ROWS * 16, rel=0.5)
    made = source.get_read_tasks(4)
    assert 4 <= len(made) <= 8
    assert sum(task.metadata.num_rows for task in made) == ROWS


def test_blocks_point_at_the_map(ray: Any) -> None:
    from aljava.engines.ray import AljavaDatasource

    aljava.write(table().select(["id", "price"]), "shm://engines-ray/raw")
    try:
        dataset = aljava.open("shm://engines-ray/raw")
        (task,) = AljavaDatasource(dataset, None, None).get_read_tasks(1)
        allocated = pa.total_allocated_bytes()
        blocks = list(task())
        assert sum(block.nbytes for block in blocks) == ROWS * 16
        assert pa.total_allocated_bytes() - allocated < 10_000
    finally:
        aljava.Store("engines-ray").destroy()


def test_the_store_and_folders(ray: Any, tmp_path: Path) -> None:
    for day in (1, 2, 3):
        (tmp_path / f"day={day}").mkdir()
        aljava.write({"id": [day * 10, day * 10 + 1]}, tmp_path / f"day={day}" / "x.arrow")
    rows = aljava.open(tmp_path).to_ray(filter=pc.field("day") > 1)
    assert sorted(row["id"] for row in rows.take_all()) == [20, 21, 30, 31]
    aljava.write(table(), "shm://engines-ray/trades")
    try:
        assert aljava.open("shm://engines-ray/trades").to_ray().count() == ROWS
        assert aljava.open("shm://engines-ray").to_ray(["id"]).sum("id") == ROWS * (ROWS - 1) // 2
    finally:
        aljava.Store("engines-ray").destroy()


def test_a_filter_without_matches(ray: Any, dataset: aljava.Dataset) -> None:
    for nothing in (pc.field("id") < 0, (pc.field("id") == 3) & (pc.field("price") > 1)):
        rows = dataset.to_ray(["price"], nothing)
        assert rows.count() == 0
        assert rows.schema().names == ["price"]


def test_a_row_limit(ray: Any, dataset: aljava.Dataset) -> None:
    assert dataset.to_ray().limit(7).count() == 7


def test_bad_arguments(ray: Any, dataset: aljava.Dataset) -> None:
    with pytest.raises(QueryError, match="no column 'nix'"):
        dataset.to_ray(["nix"])
    with pytest.raises(QueryError, match="no column 'nix'"):
        dataset.to_ray(filter=pc.field("nix") == 1)
    with pytest.raises(InvalidOption, match="this process only"):
        aljava.open(aljava.dumps(table())).to_ray()


def test_an_address_that_is_gone(ray: Any, dataset: aljava.Dataset) -> None:
    rows = dataset.to_ray()
    os.unlink(dataset.address)
    with pytest.raises(Exception, match="does not exist"):
        rows.count() if rows.sum("id") else None


def test_without_ray(dataset: aljava.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = __import__("sys").modules
    monkeypatch.delitem(modules, "aljava.engines.ray", raising=False)
    monkeypatch.setitem(modules, "ray.data", None)
    with pytest.raises(MissingDependency, match=r"aljava\[cluster\]"):
        dataset.to_ray()
