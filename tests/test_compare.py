"""Comparing codecs: real files, real figures, and advice that follows from them."""

import io
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

import aljava
from aljava import charts
from aljava.charts import Axis, _ceiling
from aljava.comparison import Comparison, Measured
from aljava.comparison.contenders import CODECS
from aljava.comparison.sampling import SAMPLE_BYTES, sample_of
from aljava.comparison.shown import terminal_bars, terminal_columns, terminal_scatter
from aljava.errors import InvalidOption, UnsupportedType
from aljava.fragments import Task
from aljava.layout import layout


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
    assert aljava.compare(table, codecs="lz4", repeat=1).measured[0].bytes == written.bytes


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


def test_a_sentence_says_what_the_others_gain_and_cost() -> None:
    advice = _comparison(SMALL, QUICK, MIDDLE).advice
    assert "zstd:9 is 50% smaller but takes 10.5 times as long" in advice
    assert "none is 5.0 times as large but takes 65% less time" in advice
    assert advice.count(". ") == 0
    larger = replace(QUICK, codec="lz4", bytes=400_000_001, raw_columns=("a", "b"), write_seconds=1.4)
    assert "lz4 is as large and takes 20% less time" in _comparison(MIDDLE, larger, goal="size").advice
    assert "nothing else is smaller or takes less time" in _comparison(MIDDLE, replace(QUICK, write_seconds=9)).advice
    # What is never advised is not passed over in silence where it does better.
    pickled = replace(QUICK, codec="pickle", write_seconds=0.1)
    assert "nothing else but pickle, which is not advised, takes less time" in _comparison(
        QUICK, MIDDLE, pickled
    ).advise("speed")


def test_what_is_dominated_and_by_what() -> None:
    slow = replace(MIDDLE, codec="lz4", write_seconds=2.0, bytes=500_000_000)
    comparison = _comparison(SMALL, QUICK, MIDDLE, slow)
    assert comparison.dominated == {"lz4": "auto"}
    assert comparison.table["dominated_by"].to_pylist() == [None, None, None, "auto"]
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(terminal_scatter(comparison))
    drawn = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert (drawn.count("●"), drawn.count("○")) == (3, 1)
    assert all(name in drawn for name in ("zstd:9", "none", "auto", "lz4"))


def test_pickle_is_measured_and_not_advised() -> None:
    pickled = replace(QUICK, codec="pickle", write_seconds=0.01)
    assert _comparison(SMALL, QUICK, MIDDLE, pickled, goal="speed").choice.codec == "none"
    assert "nothing else but pickle, which is not advised" in _comparison(QUICK, MIDDLE, pickled, goal="speed").advice
    parquet = replace(SMALL, codec="parquet", bytes=1000)
    assert "write this data as Parquet" in _comparison(QUICK, parquet, goal="size").advice


def test_formats_are_measured_beside_the_codecs(table: pa.Table, tmp_path: Path) -> None:
    comparison = aljava.compare(table, codecs=["none"], formats=True, repeat=1)
    parquet.write_table(table, tmp_path / "it.parquet", compression="zstd")
    sizes = dict(zip(comparison.table["codec"].to_pylist(), comparison.table["bytes"].to_pylist(), strict=True))
    assert list(sizes) == ["none", "parquet", "pickle"]
    assert sizes["parquet"] == (tmp_path / "it.parquet").stat().st_size
    assert sizes["pickle"] == len(pickle.dumps(table, protocol=5))


def test_a_format_that_cannot_hold_the_table_is_left_out() -> None:
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    comparison = aljava.compare(pa.table({"u": union}), codecs=["none"], formats=True, repeat=1)
    assert [it.codec for it in comparison.measured] == ["none", "pickle"]
    assert "parquet is left out" in repr(comparison)


def test_every_column_tells_which_codec_gains_on_it(comparison: Comparison, table: pa.Table, tmp_path: Path) -> None:
    figures = {(row["column"], row["codec"]): row for row in comparison.columns.to_pylist()}
    assert set(figures) == {(name, codec) for name in table.column_names for codec in CODECS}
    assert figures["text", "zstd:3"]["ratio"] < 0.2
    assert figures["noise", "auto"]["zero_copy"]
    assert figures["noise", "auto"]["memory_bytes"] == table["noise"].nbytes
    assert figures["noise", "auto"]["bytes"] == pytest.approx(table["noise"].nbytes, abs=8)  # the word for "raw"
    assert not figures["text", "auto"]["zero_copy"]
    # As `aljava.layout` sees the file, and all of it together no more than the file.
    aljava.write(table, tmp_path / "it.arrow", compression="zstd:3")
    assert figures["text", "zstd:3"]["bytes"] == layout(tmp_path / "it.arrow").by_column()["text"]
    assert all(row["read_seconds"] > 0 for row in figures.values())


def test_memory_is_that_of_the_work(tmp_path: Path) -> None:
    """A raw file is read in place; a compressed one takes as much memory as there are values."""
    numbers = pa.table({"n": np.arange(4_000_000) % 1000})
    comparison = aljava.compare(numbers, codecs=["none", "zstd"], formats=True, repeat=1)
    peaks = {it.codec: it.peaks for it in comparison.measured}
    if any(it is None for it in peaks.values()):
        pytest.skip("this system does not tell the peak of a process")
    read = {codec: each[1] for codec, each in peaks.items() if each}
    assert read["none"] < 0.4 * numbers.nbytes
    assert all(numbers.nbytes * 0.9 < read[codec] for codec in ("zstd", "parquet", "pickle"))


def test_of_a_large_file_only_the_batches_are_read_that_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "large.arrow"
    rows, steps = 400_000, 64
    parts = (pa.record_batch({"row": range(n * rows, (n + 1) * rows)}) for n in range(steps))
    schema = pa.schema([("row", pa.int64())])
    aljava.write(pa.RecordBatchReader.from_batches(schema, parts), path, compression="zstd")
    read = []
    dataset = aljava.open(path)
    fragment = dataset._fragments[0]
    original = fragment.tasks

    def counted(*arguments: object) -> Iterator[Task]:
        for task in original(*arguments):
            yield replace(task, read=lambda task=task: read.append(task) or task.read())

    fragment.tasks = counted  # type: ignore[method-assign]
    sample = sample_of(dataset)
    assert sample.total_rows == rows * steps
    assert 0.5 * SAMPLE_BYTES < sample.table.nbytes <= SAMPLE_BYTES
    assert sum(task.nbytes for task in read) < 1.5 * SAMPLE_BYTES
    found = sample.table["row"].to_numpy()
    assert (np.diff(found) > 0).all()
    assert found[-1] > 0.9 * rows * steps
    assert "were not read" in sample.how

    read.clear()
    few = sample_of(dataset, 1_000)
    assert few.table.num_rows == 1_000
    assert len(read) <= 9
    assert few.table.get_total_buffer_size() < 100_000


def test_a_stream_is_thinned_on_the_way() -> None:
    schema = pa.schema([("row", pa.int64())])
    parts = (pa.record_batch({"row": range(n * 300_000, (n + 1) * 300_000)}) for n in range(200))
    before = pa.total_allocated_bytes()
    sample = sample_of(pa.RecordBatchReader.from_batches(schema, parts))
    assert pa.total_allocated_bytes() - before < 3 * SAMPLE_BYTES
    assert sample.total_rows == 60_000_000
    assert sample.table.nbytes <= SAMPLE_BYTES
    found = sample.table["row"].to_numpy()
    assert (found[0], (np.diff(found) > 0).all()) == (0, True)
    assert found[-1] > 55_000_000


def test_a_text_is_compared_as_well(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text("a,b\n1,x\n2,y\n")
    comparison = aljava.compare(tmp_path / "it.csv", codecs=["none"], repeat=1)
    assert (comparison.rows, [column.name for column in comparison.measured[0].by_column]) == (2, ["a", "b"])


@pytest.mark.parametrize(
    "table",
    [
        pa.table({}),
        pa.table({"one": [1]}),
        pa.table([[1, 2], [3, 4]], names=["same", "same"]),
        pa.table({"": [1], "a\n[b]<c>": ["x"]}),
        pa.table({"nested": [[{"a": [1, None]}], None]}),
        pa.table({f"c{number}": [number] for number in range(200)}),
    ],
    ids=["no columns", "one row", "two of a name", "odd names", "nested", "wide"],
)
def test_tables_of_every_shape(table: pa.Table) -> None:
    comparison = aljava.compare(table, formats=True, codecs=["none", "auto"], repeat=1)
    assert comparison.rows == table.num_rows
    assert "<c>" not in comparison.to_html()
    terminal = Console(width=40, file=io.StringIO())
    for shown in (terminal_bars(comparison), terminal_scatter(comparison), terminal_columns(comparison)):
        terminal.print(shown)
    assert repr(comparison)
    assert json.dumps(comparison.to_dict())


def test_large_data_is_sampled_from_all_over(table: pa.Table) -> None:
    numbered = pa.table({"row": range(10_000)})
    sample = sample_of(numbered, 800).table["row"].to_pylist()
    assert len(sample) == len(set(sample)) == 800
    assert sample == sorted(sample)
    assert (sample[0], sample[-1]) == (0, 9_999)
    assert max(b - a for a, b in itertools.pairwise(sample)) < 2_000

    comparison = aljava.compare(table, codecs=["none"], repeat=1, sample=1_000)
    assert (comparison.rows, comparison.total_rows) == (1_000, 50_000)
    assert "1,000 of 50,000 rows" in repr(comparison)


@pytest.mark.parametrize("rows", [1, 7, 9_999])
def test_a_sample_has_as_many_rows_as_asked_for(rows: int) -> None:
    assert sample_of(pa.table({"row": range(10_000)}), rows).table.num_rows == rows


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
    assert html.count("<svg") == 7
    page = comparison.to_html()
    assert page.startswith("<!doctype html>")
    assert "http" not in page
    assert charts.style() in html
    assert html.partition("</style>")[2].removesuffix("</div>") in page


def test_it_plots(comparison: Comparison, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = comparison.plot()
    figure.savefig(tmp_path / "it.png")
    hollow = sum(len(each.get_facecolors()) == 0 for each in figure.axes[0].collections)
    assert hollow == len(comparison.dominated)
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
        {"codecs": ["zstd:99"]},
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


@pytest.mark.parametrize("values", [[0.001, 0.002], [0.0011, 0.9], [3e-6, 90], [0, 5], [], [7]])
def test_an_axis_holds_its_values(values: list[float]) -> None:
    axis = Axis.of(values, factors=True)
    assert all(0 <= axis.place(value) <= 1 for value in values)
    assert 2 <= len(axis.ticks) <= 9
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in axis.ticks)


def test_the_library_does_not_need_matplotlib() -> None:
    code = "import sys, aljava; sys.exit('matplotlib' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
