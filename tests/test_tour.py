"""The tour: every system does its work for real, and a step that goes wrong says so while the others go on."""

import datetime
import decimal
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

import aljava
from aljava.errors import InvalidData, InvalidOption, NotFound, TransferError
from aljava.store import stores
from aljava.tour import Section, Step, TourData, load, run
from aljava.tour.page import page
from aljava.tour.peer import Peer

NAMES = ["IPC stream", "Feather", "Serialization", "Shared memory", "Compression", "SQL"]


def steps(sections: tuple[Section, ...]) -> dict[str, Step]:
    return {f"{section.name}: {step.name}": step for section in sections for step in section.steps}


def failures(table: pa.Table) -> list[str]:
    tour = run(TourData("a test", "made", table))
    return [f"{section.name}, {step.name}: {step.error}" for section, step in tour.failed]


def tour_stores() -> list[str]:
    """The stores of tours; other tests have theirs meanwhile."""
    return [name for name in stores() if name.startswith("tour-")]


def test_the_notebooks_table_goes_through_all_systems(no_leaks: None) -> None:
    tour = run(load(rows=100_000))
    assert [section.name for section in tour.sections] == NAMES
    assert tour.failed == ()
    done = steps(tour.sections)
    assert all(step.verified and step.seconds is not None and step.note for step in done.values())
    # What is said about copies, by what the kernel says of the addresses.
    assert done["IPC stream: back from the buffer"].zero_copy
    assert done["Feather: through a memory map"].zero_copy
    assert done["Shared memory: get in a second process"].zero_copy
    comparison = tour.sections[4].comparison
    assert comparison is not None
    assert [it.codec for it in comparison.measured] == ["none", "lz4", "zstd", "auto"]
    assert comparison.advice in tour.advice
    assert tour_stores() == []


def test_the_notebooks_table_is_what_the_notebook_says() -> None:
    table = load(rows=1_000).table
    assert table.schema == pa.schema([("id", pa.int64()), ("value", pa.float64()), ("category", pa.string())])
    assert table["id"].to_pylist() == list(range(1_000))
    assert set(table["category"].to_pylist()) == set("ABCDE")
    assert table.equals(load(rows=1_000).table)


NAN = float("nan")
TABLES: dict[str, dict[str, Any]] = {
    "nulls": {
        "id": pa.array([1, None, 2**53 + 1]),
        "value": pa.array([NAN, None, -0.0]),
        "flag": pa.array([True, None, False]),
        "text": pa.array(["a", None, ""]),
    },
    "text of all kinds": {
        "view": pa.array(["short", None, "a text that is longer than twelve bytes"], pa.string_view()),
        "large": pa.array(["a", "b", None], pa.large_string()),
        "bytes": pa.array([b"\0", b"", None]),
        "category": pa.array(["x", "y", "x"]).dictionary_encode(),
    },
    "dates and decimals": {
        "day": pa.array([datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)]),
        "at": pa.array([0, None, 1], pa.timestamp("us", "Europe/Lisbon")),
        "price": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("-0.01")], pa.decimal128(15, 2)),
        "took": pa.array([1, 2, None], pa.duration("ms")),
    },
    "nested": {
        "list": pa.array([[1.0, NAN], None, []]),
        "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}]),
        "vector": pa.array([[1.0, 2.0], None, [3.0, NAN]], pa.list_(pa.float32(), 2)),
        "map": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    },
    "no numbers": {"text": pa.array(["a", "b", "c"])},
    "large numbers": {"id": pa.array([2**62, 2**62, 2**62]), "u": pa.array([2**64 - 1, 1, 0], pa.uint64())},
    "odd names": {'say "hi"': pa.array([1, 2, 3]), "it's": pa.array(["a", "b", "c"]), "": pa.array([1.5, 2.5, NAN])},
    "nulls alone": {"nothing": pa.nulls(3)},
    "one column of identifiers": {"id": pa.array(range(30_000))},
}


QUICK = ["nulls", "odd names", "no numbers"]


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(it, marks=pytest.mark.long) for it in TABLES if it not in QUICK)]
)
def test_tables_of_other_kinds_go_through_too(name: str) -> None:
    assert failures(pa.table(TABLES[name])) == []


@pytest.mark.parametrize("name", ["nulls", pytest.param("nested", marks=pytest.mark.long)])
def test_tables_without_rows_go_through_too(name: str) -> None:
    assert failures(pa.table(TABLES[name]).slice(0, 0)) == []


def test_slices_chunks_and_metadata_go_through_too() -> None:
    field = pa.field("id", pa.int64(), nullable=False, metadata={"unit": "one"})
    table = pa.table([pa.array(range(1_000))], pa.schema([field], metadata={"who": "we"}))
    assert failures(pa.concat_tables([table.slice(3, 500), table.slice(100, 0), table.slice(990)])) == []


def test_a_pandas_frame_with_an_index_goes_through_too(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"value": [1.5, NAN, 2.5]}, index=pandas.Index(["a", "b", "c"], name="key"))
    aljava.write(frame, tmp_path / "frame.arrow")
    tour = run(load(str(tmp_path / "frame.arrow")))
    assert tour.failed == ()


def test_it_reports_its_progress_and_its_sections() -> None:
    begun: list[tuple[str, str]] = []
    finished: list[Section] = []
    tour = run(load(rows=10), progress=lambda *names: begun.append(names), finished=finished.append)
    assert begun == [(section.name, step.name) for section in tour.sections for step in section.steps]
    assert tuple(finished) == tour.sections


def test_a_step_that_fails_says_so_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    # A real fault: the second process is an interpreter that cannot be started.
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    tour = run(load(rows=1_000))
    failed = [step.name for _, step in tour.failed]
    assert failed == ["through a pipe", "get in a second process", "sum there"]
    errors = [step.error for _, step in tour.failed]
    assert "/nonexistent/python" in (errors[0] or "")
    assert "needs the step 'get in a second process'" in (errors[2] or "")
    assert [section.name for section in tour.sections] == NAMES
    assert tour.to_dict()["verified"] is False


def test_kept_files_are_what_others_read(tmp_path: Path) -> None:
    data = load(rows=5_000)
    assert run(data, keep=str(tmp_path)).failed == ()
    assert pa.feather.read_table(tmp_path / "table.feather").equals(data.table)
    for codec in ("none", "lz4", "zstd", "auto"):
        with pa.ipc.open_file(tmp_path / f"table-{codec}.arrow") as file:
            assert file.read_all().equals(data.table)
    for name in ("array", "batch", "table", "frame", "tensor"):
        with pa.ipc.open_stream(tmp_path / f"{name}.arrow") as stream:
            assert stream.read_all().num_rows == 5_000


def test_without_keep_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(load(rows=1_000))
    assert os.listdir(tmp_path) == []
    assert tour_stores() == []


def test_no_room_for_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(TransferError, match="no temporary folder can be made"):
        run(load(rows=1))


# --- the data ---------------------------------------------------------------------------------------------------------


def test_any_file_that_read_knows(tmp_path: Path) -> None:
    table = load(rows=100).table
    aljava.write(table, tmp_path / "a.arrow")
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    pa.feather.write_feather(table, str(tmp_path / "a.feather"), version=1)
    # The bytes tell a table's format, whatever its file is called.
    pa.parquet.write_table(table, tmp_path / "parquet.csv")
    found = {name: load(str(tmp_path / name)) for name in os.listdir(tmp_path)}
    assert {name: data.origin for name, data in found.items()} == {
        "a.arrow": "Arrow IPC file",
        "a.parquet": "Parquet",
        "a.feather": "Feather V1",
        "parquet.csv": "Parquet",
    }
    assert all(data.table.equals(table) for data in found.values())


def test_csv_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n1,a\n2,\n")
    (tmp_path / "a.tsv").write_text("id\tname\n1\ta\n")
    (tmp_path / "a.jsonl").write_text('{"id": 1, "name": "a"}\n{"id": 2, "name": null}\n')
    assert load(str(tmp_path / "a.csv")).table.to_pydict() == {"id": [1, 2], "name": ["a", None]}
    assert load(str(tmp_path / "a.tsv")).table.to_pydict() == {"id": [1], "name": ["a"]}
    assert load(str(tmp_path / "a.jsonl")).table.to_pydict() == {"id": [1, 2], "name": ["a", None]}
    assert load(str(tmp_path / "a.csv"), rows=1).table.num_rows == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("ragged.csv", "a,b\n1,2\n\n3,4\n5,6,7\n", r"ragged\.csv, line 5: 3 values where the header has 2"),
        ("short.csv", "a,b\n1\n", r"short\.csv, line 2: 1 values where the header has 2"),
        ("bad.jsonl", '{"a": 1}\n{"a":\n', r"cannot be read as JSON lines"),
        ("array.json", '[{"a": 1}]', r"is one JSON array"),
        ("text.arrow", "hello\n", r"looks like text"),
        ("empty.csv", "", r"is empty"),
    ],
)
def test_files_that_hold_no_table(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InvalidData, match=reason):
        load(str(tmp_path / name))


def test_a_line_far_down_a_large_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    path.write_text("a,b\n" + "1,2\n" * 400_000 + "1,2,3\n" + "1,2\n" * 400_000)
    with pytest.raises(InvalidData, match="line 400002: 3 values"):
        load(str(path))


def test_no_file_and_no_number() -> None:
    with pytest.raises(NotFound):
        load("nothing.csv")
    with pytest.raises(InvalidOption):
        load(rows=-1)


# --- the second process -----------------------------------------------------------------------------------------------


def test_a_second_process_that_ends_early_is_told_with_its_reason() -> None:
    with Peer("share", "no such store!", "table", "") as peer, pytest.raises(TransferError, match=r"status 1.*store"):
        peer.answer()


def test_a_second_process_does_not_outlive_a_failure(no_leaks: None) -> None:
    def stopped() -> None:
        with Peer("receive") as peer:
            peer.answer()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()


def test_a_copy_in_the_second_process_would_be_seen() -> None:
    """The proof proves something: of a table that was copied, no buffer lies in the map."""
    code = (
        "import pyarrow as pa, aljava.store\n"
        "from aljava.tour import peer\n"
        "class Copying(aljava.store.Store):\n"
        "    def __getitem__(self, key):\n"
        "        with pa.ipc.open_file(pa.py_buffer(self.buffer(key).to_pybytes())) as file:\n"
        "            return file.read_all()\n"
        "aljava.store.Store = Copying\n"
        "peer.share('copied', 'table', 'id')\n"
    )
    with aljava.Store("copied") as store:
        try:
            held = load(rows=2_000_000).table
            store["table"] = held
            answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
        finally:
            store.destroy()
    assert '"buffers_inside": 0' in answer
    import json

    assert json.loads(answer)["private_bytes"] > held.nbytes // 2


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_stands_by_itself() -> None:
    table = pa.table({"<script>alert(1)</script>": [1, 2, 3]})
    html = page(run(TourData("a <b>name</b>", "made", table)))
    assert html.startswith("<!doctype html>")
    assert "<script" not in html
    assert "<b>name" not in html
    assert not any(word in html for word in ("http://", "https://", "src=", "@import", "url("))
    assert all(name in html for name in NAMES)
    assert html.count("<svg") >= 4 + 3


@pytest.mark.long
def test_a_stopped_tour_leaves_nothing_behind(tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        tour = subprocess.Popen(
            [sys.executable, "-m", "aljava", "tour", "--rows", "3000000"],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not tour_stores() and tour.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5)
        tour.send_signal(number)
        _, said = tour.communicate(timeout=60)
        assert tour.returncode == 128 + number
        assert "Traceback" not in said
        assert os.listdir(tmp_path) == []
        assert tour_stores() == []
