"""Dataframes over payloads: what comes back, and that the table in `docs/conformance.md` is what is measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import aljava
from aljava.errors import UnsupportedType
from tests import conformance

INNER = polars.Struct({"it": polars.Categorical})
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


@pytest.fixture
def views(tmp_path: Path) -> polars.DataFrame:
    """Text as Polars has it: of views, also in its categories, with which pyarrow can do next to nothing."""
    text = polars.Series(["low", "high", None] * 4000)
    categories = polars.Enum(["low", "high"])
    frame = polars.DataFrame({"text": text, "category": text.cast(polars.Categorical), "enum": text.cast(categories)})
    aljava.write(frame, tmp_path / "polars.arrow", batch_rows=1000)
    return frame


@pytest.mark.parametrize("column", ["text", "category", "enum"])
def test_text_and_categories_of_polars(views: polars.DataFrame, tmp_path: Path, column: str) -> None:
    dataset = aljava.open(tmp_path / "polars.arrow")
    for filter, rows in (
        (pc.field(column) == "low", 4000),
        (pc.field(column).isin(["low", "none"]), 4000),
        (pc.field(column) > "low", 0),
        (pc.field(column).is_null(), 4000),
        *[(pc.match_substring(pc.field(column), "ig"), 4000)] * (column == "text"),  # pyarrow has it not for categories
    ):
        assert dataset.count_rows(filter=filter) == rows
        found = dataset.to_table(filter=filter)
        assert (found.num_rows, found.schema) == (rows, dataset.schema)
    assert aljava.verify(tmp_path / "polars.arrow").ok
    aljava.write({column: ["medium"]}, tmp_path / "grows.arrow")
    aljava.append(views.select(column), tmp_path / "grows.arrow")
    assert aljava.read(tmp_path / "grows.arrow")[column].to_pylist()[:3] == ["medium", "low", "high"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_text_and_categories_of_polars_in_other_formats(views: polars.DataFrame, tmp_path: Path, suffix: str) -> None:
    aljava.copy(tmp_path / "polars.arrow", tmp_path / f"out.{suffix}")
    read = {"csv": polars.read_csv, "jsonl": polars.read_ndjson, "parquet": polars.read_parquet}[suffix]
    assert read(tmp_path / f"out.{suffix}").cast(polars.String).equals(views.cast(polars.String))


def test_categories_within_lists_of_polars(tmp_path: Path) -> None:
    lists = polars.Series([["low"], ["high", None], []], dtype=polars.List(polars.Categorical))
    frame = polars.DataFrame({"lists": lists, "structs": polars.Series([{"it": "low"}] * 3).cast(INNER)})
    aljava.write(frame, tmp_path / "polars.arrow")
    assert aljava.verify(tmp_path / "polars.arrow").ok
    aljava.copy(tmp_path / "polars.arrow", tmp_path / "out.jsonl")
    assert polars.read_ndjson(tmp_path / "out.jsonl")["lists"].to_list() == lists.to_list()
    with pytest.raises(UnsupportedType, match=r"Name the columns that are wanted, or copy to \.arrow"):
        aljava.copy(tmp_path / "polars.arrow", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
