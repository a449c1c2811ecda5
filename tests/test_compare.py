"""Comparing codecs: real files, real figures, and advice that follows from them."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import aljava
from aljava.charts import _ceiling
from aljava.comparison import CODECS, Comparison, Measured, take_sample
from aljava.errors import InvalidOption, UnsupportedType


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(1)
    return pa.table(
        {
            "noise": random.integers(0, 1 << 62, 50_000),
            "text": pa.array(["the same text again and again"] * 50_000),
        }
    )


@pytest.fixture(scope="module")
def comparison(table: pa.Table) -> Comparison:
    return aljava.compare(table, repeat=1)


def test_every_codec_is_measured(comparison: Comparison, table: pa.Table) -> None:
    figures = comparison.table
    assert tuple(figures.column("codec").to_pylist()) == CODECS
    assert (comparison.rows, comparison.bytes) == (50_000, table.nbytes)
    assert all(value > 0 for name in ("bytes", "write_seconds", "read_seconds") for value in figures[name].to_pylist())


def test_figures_tell_what_shrinks_and_what_stays_raw(comparison: Comparison, table: pa.Table) -> None:
    by_codec = {it.codec: it for it in comparison.measured}
    assert by_codec["none"].raw_columns == ("noise", "text")
    assert by_codec["zstd:3"].bytes < 0.5 * by_codec["none"].bytes
    # What auto does with noise is its promise: not compressed, so not copied.
    assert by_codec["auto"].raw_columns == ("noise",)
    assert by_codec["auto"].bytes < 0.5 * by_codec["none"].bytes


def test_a_size_is_that_of_the_file(table: pa.Table, tmp_path: Path) -> None:
    written = aljava.write(table, tmp_path / "it.arrow", compression="lz4")
    assert aljava.compare(table, codecs=["lz4"], repeat=1).measured[0].bytes == written.bytes


def _comparison(*measured: Measured, goal: str = "balanced") -> Comparison:
    return Comparison(measured, rows=10, total_rows=10, bytes=2_000_000_000, goal=goal)


SMALL = Measured("zstd:9", bytes=200_000_000, write_seconds=20, read_seconds=1, raw_columns=(), columns=2)
QUICK = Measured("none", 2_000_000_000, 0.5, 0.2, ("a", "b"), 2)
MIDDLE = Measured("auto", 400_000_000, 1.5, 0.5, ("a",), 2)


@pytest.mark.parametrize(("goal", "codec"), [("speed", "none"), ("balanced", "auto"), ("size", "zstd:9")])
def test_advice_follows_the_figures_and_the_goal(goal: str, codec: str) -> None:
    comparison = _comparison(SMALL, QUICK, MIDDLE, goal=goal)
    assert comparison.choice.codec == codec
    assert f'compression="{codec}"' in comparison.advice


def test_advice_turns_when_the_figures_turn() -> None:
    slow = replace(MIDDLE, write_seconds=30.0)
    assert _comparison(SMALL, QUICK, slow).choice.codec == "none"


def test_within_the_noise_the_one_with_more_raw_columns_wins() -> None:
    rival = replace(MIDDLE, codec="zstd", write_seconds=1.45, raw_columns=())
    assert _comparison(MIDDLE, rival).choice.codec == "auto"
    # A size is exact: the smallest is the smallest.
    smaller = replace(MIDDLE, codec="zstd", bytes=399_000_000, raw_columns=())
    assert _comparison(MIDDLE, smaller, goal="size").choice.codec == "zstd"


def test_large_data_is_sampled_from_all_over(table: pa.Table) -> None:
    numbered = pa.table({"row": range(10_000)})
    sample = take_sample(numbered, 800)["row"].to_pylist()
    assert len(sample) == len(set(sample)) == 800
    assert sample == sorted(sample)
    assert (sample[0], sample[-1]) == (0, 9_999)
    assert max(b - a for a, b in itertools.pairwise(sample)) < 2_000

    comparison = aljava.compare(table, codecs=["none"], repeat=1, sample=1_000)
    assert (comparison.rows, comparison.total_rows) == (1_000, 50_000)
    assert "1,000 of 50,000 rows" in repr(comparison)


@pytest.mark.parametrize("rows", [1, 7, 9_999])
def test_a_sample_has_as_many_rows_as_asked_for(rows: int) -> None:
    assert take_sample(pa.table({"row": range(10_000)}), rows).num_rows == rows


def test_it_takes_addresses_and_whatever_is_table_like(table: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "it.arrow"
    aljava.write(table.slice(0, 100), path)
    for data in (path, str(path), path.read_bytes(), {"id": [1, 2, 3]}):
        assert aljava.compare(data, codecs=["none"], repeat=1).measured[0].bytes > 0


def test_a_table_without_rows_needs_no_codec() -> None:
    assert "no rows" in aljava.compare(pa.table({"id": pa.array([], pa.int64())}), repeat=1).advice


def test_it_shows_itself(comparison: Comparison) -> None:
    text = repr(comparison)
    assert all(codec in text for codec in CODECS)
    assert comparison.advice in text
    html = comparison._repr_html_()
    assert html.count("<svg") == 4
    page = comparison.to_html()
    assert page.startswith("<!doctype html>")
    assert "http" not in page
    assert html in page


def test_it_plots(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = comparison.plot()
    figure.savefig(tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 1_000
    assert {text.get_text() for text in figure.axes[0].texts} == set(CODECS)


@pytest.mark.parametrize(
    "options",
    [
        {"goal": "beauty"},
        {"codecs": []},
        {"codecs": ["rar"]},
        {"repeat": 0},
        {"sample": 0},
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        aljava.compare({"id": [1]}, **options)  # type: ignore[arg-type]


def test_what_is_no_table() -> None:
    with pytest.raises(UnsupportedType):
        aljava.compare(42)


def test_nothing_is_left_behind(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaks: None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    aljava.compare(table, codecs=["none", "auto"], repeat=2)
    with pytest.raises(InvalidOption):
        aljava.compare(table, codecs=["rar"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [0, 0.0004, 0.3, 0.99, 1, 1.7, 9.9, 21.1, 1234, 99999])
def test_an_axis_ends_at_a_round_number_that_is_not_far(value: float) -> None:
    end = _ceiling(value)
    assert value <= end
    assert end <= max(1.0, 2.1 * value)


def test_the_library_does_not_need_matplotlib() -> None:
    code = "import sys, aljava; sys.exit('matplotlib' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
