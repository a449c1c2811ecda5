"""Damaged payloads end in an error of Aljava's or in a valid table: no crash, no hang, no absurd allocation."""

from pathlib import Path

import pytest
from tests.ipc import fuzz, fuzz_worker

KINDS = {"arrow-ipc-file": "file", "arrow-ipc-stream": "stream"}


@pytest.mark.parametrize("folder", KINDS)
def test_files_that_crashed_other_readers(test_data: Path, folder: str) -> None:
    paths = sorted((test_data / "fuzz" / folder).iterdir())
    assert len(paths) >= 28
    # Each is also read as what it is not.
    result = fuzz.run(f"file {format_} {path}" for path in paths for format_ in KINDS.values())
    assert not result.findings
    assert result.outcomes.total() == 2 * len(paths)
    assert result.outcomes["refused"] > len(paths)


@pytest.mark.long
def test_damage_done_to_our_own_payloads() -> None:
    result = fuzz.run(fuzz.cases(0, 10_000))
    assert not result.findings
    assert result.outcomes.total() == 10_000
    # Damage that is found, and damage that hits padding, a value or the length of what is not read.
    assert min(result.outcomes["refused"], result.outcomes["read"]) > 1_000, result.outcomes


def test_a_case_is_always_the_same() -> None:
    assert [fuzz_worker.damaged(case) for case in range(50)] == [fuzz_worker.damaged(case) for case in range(50)]


@pytest.mark.parametrize(
    ("request_", "sign"),
    [
        ("file stream /nowhere", "FileNotFoundError"),
        ("case not-a-number", "ValueError"),
    ],
)
def test_a_worker_that_dies_is_a_finding(request_: str, sign: str) -> None:
    result = fuzz.run([request_, "case 1"])
    ((asked, words),) = result.findings
    assert asked == request_
    assert sign in words
    assert result.outcomes.total() == 1
