"""Damaged payloads end in an error of Aljava's or in a valid table: no crash, no hang, no absurd allocation."""

import functools
import os
from pathlib import Path

import pyarrow as pa
import pytest

from tests.ipc import fuzz, fuzz_worker
from tests.ipc.payloads import written_by_pyarrow

pytestmark = pytest.mark.filterwarnings("ignore:Feather V1:DeprecationWarning")

KINDS = {"arrow-ipc-file": "file", "arrow-ipc-stream": "stream"}


@pytest.mark.parametrize("folder", KINDS)
def test_files_that_crashed_other_readers(test_data: Path, folder: str) -> None:
    paths = sorted((test_data / "fuzz" / folder).iterdir())
    assert len(paths) >= 28
    # Each is also read as what it is not.
    result = fuzz.run(f"file {format_} {path}" for path in paths for format_ in KINDS.values())
    assert not result.findings, told(result)
    assert result.outcomes.total() == 2 * len(paths)
    assert result.outcomes["refused"] > len(paths)


@pytest.mark.long
def test_damage_done_to_our_own_payloads() -> None:
    result = fuzz.run(fuzz.cases(0, 10_000))
    assert not result.findings, told(result)
    assert result.outcomes.total() == 10_000
    # Damage that is found, and damage that hits padding, a value or the length of what is not read.
    assert min(result.outcomes["refused"], result.outcomes["read"]) > 1_000, result.outcomes


def test_a_case_is_always_the_same() -> None:
    assert [fuzz_worker.damaged(case) for case in range(50)] == [fuzz_worker.damaged(case) for case in range(50)]


def test_types_nested_too_deep(tmp_path: Path) -> None:
    """What recursion would die of. pyarrow writes such a schema, and reads it up to a depth of its own."""
    paths = []
    for depth in (50, 100, 500, 5000):
        paths.append(tmp_path / str(depth))
        nested = functools.reduce(lambda type_, _: pa.list_(type_), range(depth), pa.int32())
        with pa.ipc.new_stream(paths[-1], pa.schema([("deep", nested)])):
            pass
    result = fuzz.run(f"file stream {path}" for path in paths)
    assert not result.findings, told(result)
    assert result.outcomes["refused"] >= 2


def told(result: fuzz.Result) -> str:
    """The findings, to be read."""
    return "\n\n".join(f"{request}: {words}" for request, words in result.findings)


# What would be found, is found.


def test_death_is_a_finding(tmp_path: Path) -> None:
    asked, words = only_finding(f"file stream {tmp_path / 'nowhere'}")
    assert asked.endswith("nowhere")
    assert "FileNotFoundError" in words


def test_silence_is_a_finding(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "silent")  # to open it takes as long as nobody writes
    _, words = only_finding(f"file stream {tmp_path / 'silent'}", hang_seconds=1)
    assert "SIGABRT" in words
    assert "answer" in words  # where it hangs


def test_memory_is_a_finding(tmp_path: Path) -> None:
    table = pa.table({"zeros": pa.array([bytes(1 << 26)])})
    (tmp_path / "zeros").write_bytes(written_by_pyarrow(table.schema, table.to_batches(), "stream", "zstd"))
    assert (tmp_path / "zeros").stat().st_size < 1 << 14
    _, words = only_finding(f"file stream {tmp_path / 'zeros'}")
    assert "made Arrow allocate" in words


def only_finding(request: str, hang_seconds: float = fuzz.HANG_SECONDS) -> tuple[str, str]:
    """The one finding of a request; another worker goes on after it."""
    result = fuzz.run([request, "case 1"], hang_seconds)
    (finding,) = result.findings
    assert result.outcomes.total() == 1
    return finding
