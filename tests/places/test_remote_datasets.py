"""Datasets in an object store: every operation, and no more bytes on the wire than it takes."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import aljava
from aljava.errors import AlreadyExists, TransferError
from aljava.places.ranged import TAIL
from tests.places.test_places import s3, s3_address, web  # noqa: F401

ROWS = 400_000


@pytest.fixture(scope="module", params=["none", "zstd"])
def stored(request, s3):  # noqa: F811
    noise = np.random.default_rng(1)
    table = pa.table(
        {f"c{i}": noise.integers(0, 1 << 40, ROWS) for i in range(9)}
        | {"kind": pa.array([f"kind {i // 50_000}" for i in range(ROWS)]).dictionary_encode()}
    ).add_column(0, "id", pa.array(range(ROWS), pa.int64()))
    address = s3_address(s3, f"table-{request.param}.arrow")
    aljava.write(table, address, compression=request.param, batch_rows=50_000)
    return s3, address, table


def test_everything(stored) -> None:
    _, address, table = stored
    dataset = aljava.open(address)
    assert dataset.num_rows == ROWS
    assert dataset.to_table().equals(table)
    assert dataset.tail(3, ["id"])["id"].to_pylist() == [ROWS - 3, ROWS - 2, ROWS - 1]
    filter = (pc.field("id") >= 120_000) & (pc.field("kind") == "kind 2")
    assert dataset.to_table(["kind", "id"], filter).equals(table.filter(filter).select(["kind", "id"]))
    assert aljava.verify(address).findings == ()


def test_one_column_costs_one_column(stored) -> None:
    server, address, table = stored
    server.count()
    column = aljava.read(address, columns=["c4"])
    assert column["c4"].equals(table["c4"])
    assert server.count() < 1.2 * table["c4"].nbytes + TAIL


def test_a_filter_costs_what_may_match(stored) -> None:
    server, address, table = stored
    server.count()
    assert aljava.read(address, columns=["c1"], filter=pc.field("id") == 7)["c1"].to_pylist() == [
        table["c1"][7].as_py()
    ]
    assert server.count() < 2 * 1.2 * 8 * 50_000 + 2 * TAIL


def test_append_and_create(s3) -> None:  # noqa: F811
    address = s3_address(s3, "grows.arrow")
    aljava.append({"a": [1]}, address)
    aljava.append({"a": [2]}, address)
    assert aljava.read(address).to_pydict() == {"a": [1, 2]}
    assert aljava.verify(address).findings == ()
    with pytest.raises(AlreadyExists):
        aljava.write({"a": [3]}, address, mode="create")


def test_partitions(s3) -> None:  # noqa: F811
    for year in (2025, 2026):
        aljava.write({"a": [year]}, f"bucket/sales/year={year}/x.arrow", filesystem=s3.system)
    dataset = aljava.open("bucket/sales", filesystem=s3.system)
    assert dataset.to_table(filter=pc.field("year") == 2026).to_pydict() == {"a": [2026], "year": [2026]}


def test_a_server_that_resets_in_the_middle(stored) -> None:
    server, address, _ = stored
    dataset = aljava.open(address)
    server.cut(100_000)
    try:
        with pytest.raises(TransferError, match="table-"):
            dataset.to_table()
    finally:
        server.cut(0)


def test_a_web_server(web, tmp_path) -> None:  # noqa: F811
    with pytest.raises(aljava.errors.InvalidData, match="a%20file"):
        aljava.open(f"{web.url}/a%20file")
