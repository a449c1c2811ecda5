"""Dataframes over payloads: what comes back, and that the table in `docs/conformance.md` is what is measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

import aljava
from tests import conformance

PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"


def raw(tmp_path: Path, table: Any) -> str:
    address = str(tmp_path / "raw.arrow")
    aljava.write(table, address, compression="none")
    return address


@pytest.mark.long
def test_the_page_on_copies_is_what_is_measured() -> None:
    measured = conformance.page()
    written = PAGE.read_text()
    for name, version in conformance.versions().items():
        if f"{name} {version}" not in written:
            pytest.skip(f"docs/conformance.md was measured with another {name} than {version}")
    assert measured == written, "measure it anew: python -m tests.conformance > docs/conformance.md"


@pytest.mark.parametrize("library", ["pyarrow", "NumPy", "pandas", "pandas, `ArrowDtype`", "Polars"])
@pytest.mark.parametrize("kind", ["int64", "float64", "uint8", "float32", "timestamp[us]"])
def test_numbers_are_not_copied(tmp_path: Path, kind: str, library: str) -> None:
    column = conformance.columns()[kind]
    assert conformance.measure(column, tmp_path, library)[library] == conformance.NO_COPY


def test_the_measure_sees_a_copy(tmp_path: Path) -> None:
    column = conformance.columns()["int64"]
    path = tmp_path / "column.arrow"
    aljava.write(pa.table({"a": column}), path, compression="zstd")
    assert conformance._cell(conformance._numpy, path) == conformance.COPY


def test_text_is_not_copied_on_the_way_to_pandas(tmp_path: Path) -> None:
    columns = conformance.columns()
    assert conformance.measure(columns["large_string"], tmp_path, "pandas")["pandas"] == conformance.NO_COPY
    assert conformance.measure(columns["string"], tmp_path, "pandas")["pandas"] == conformance.IN_PART


def test_embeddings_become_one_array_of_two_dimensions(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).random((5000, 64), "float32")
    address = raw(tmp_path, {"id": np.arange(5000), "vector": vectors})
    arrays = aljava.open(address).to_numpy()
    assert arrays["vector"].shape == (5000, 64)
    assert np.array_equal(arrays["vector"], vectors)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 64)
    assert conformance.measure(column, tmp_path, "NumPy")["NumPy"] == conformance.NO_COPY


def test_the_index_and_the_attributes_of_a_frame_come_back(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {"price": [0.5, 1.5], "day": pandas.Categorical(["mon", "tue"])},
        index=pandas.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["desk", "number"]),
    )
    frame.attrs = {"source": "desk"}
    back = aljava.open(raw(tmp_path, frame)).to_pandas()
    pandas.testing.assert_frame_equal(back, frame)
    assert back.attrs == {"source": "desk"}


def test_types_mapper(tmp_path: Path) -> None:
    address = raw(tmp_path, {"a": [1, None]})
    frame = aljava.open(address).to_pandas(types_mapper=pandas.ArrowDtype)
    assert frame["a"].dtype == pandas.ArrowDtype(pa.int64())
    assert frame["a"].isna().tolist() == [False, True]


def test_columns_and_filter(tmp_path: Path) -> None:
    dataset = aljava.open(raw(tmp_path, {"id": [1, 2, 3], "value": [0.5, 1.5, 2.5]}))
    wanted = pa.compute.field("value") > 1
    assert dataset.to_pandas(columns=["id"], filter=wanted).to_dict("list") == {"id": [2, 3]}
    assert dataset.to_numpy(columns=["id"], filter=wanted)["id"].tolist() == [2, 3]
    assert dataset.to_polars(columns=["id"], filter=wanted).collect().to_dict(as_series=False) == {"id": [2, 3]}


def test_polars_pushes_down(tmp_path: Path) -> None:
    frame = aljava.open(raw(tmp_path, {"id": np.arange(1000), "value": np.arange(1000) / 10})).to_polars()
    assert isinstance(frame, polars.LazyFrame)
    lazy = frame.filter(polars.col("id") > 990).select("value")
    assert lazy.collect()["value"].to_list() == [i / 10 for i in range(991, 1000)]
    assert "FILTER" not in lazy.explain().split("SELECTION")[0]


def test_frames_outlive_the_file(tmp_path: Path) -> None:
    address = raw(tmp_path, {"id": np.arange(100_000)})
    arrays, frame = aljava.open(address).to_numpy(), aljava.open(address).to_pandas()
    aljava.write({"id": np.zeros(100_000, "int64")}, address, compression="none")
    Path(address).unlink()
    assert arrays["id"][-1] == frame["id"].iloc[-1] == 99_999
