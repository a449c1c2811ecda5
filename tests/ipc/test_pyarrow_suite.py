"""pyarrow's own tests of IPC and Feather pass on Aljava: its wheel ships them, and a program changes one import.

Each run is a pytest of its own (see `tests.ipc.substitution`). The same tests run on pyarrow alone give the outcomes to
be met. As in pyarrow's own default, three groups are off: `PYARROW_TEST_SLOW=1 PYARROW_TEST_LARGE_MEMORY=1` adds the
tests of 3 GB tables, `PYARROW_TEST_HYPOTHESIS=1` one whose tables take ten seconds each to draw (ours are in
`tests/strategies.py`).
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("pyarrow.tests.test_ipc", "pyarrow.tests.test_feather")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("pyarrow.tests") is None, reason="this build of pyarrow comes without its tests"
    ),
]

# Tests that cannot hold for Aljava, by name, with the reason.
NOT_APPLICABLE: dict[str, str] = {}

# Tests of objects that are pyarrow's own under both names: messages, the base class of readers, options, serialize().
OF_PYARROWS_OWN_OBJECTS = """test_read_options test_message_ctors_no_segfault test_message_reader
    test_message_serialize_read_message test_message_repr_shows_actual_values test_message_read_from_compressed
    test_message_read_schema test_message_read_record_batch test_get_record_batch_size
    test_schema_batch_serialize_methods test_schema_serialization_with_metadata test_py_record_batch_reader
    test_record_batch_reader_from_arrow_stream test_record_batch_reader_cast test_record_batch_reader_cast_nulls
    test_read_options_repr"""


def outcomes(engine: str, folder: Path) -> dict[str, Any]:
    """The outcome of each of pyarrow's tests, by name, and the functions of Aljava that it called."""
    report = folder / f"{engine}.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.ipc.substitution"),
            *(f"--engine={engine}", f"--report={report}", "--pyargs", *MODULES),
        ],
        cwd=folder,  # away from the project's own settings of pytest
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "PYARROW_TEST_HYPOTHESIS": "1",
            "HYPOTHESIS_PROFILE": "debug",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(report.read_text())
    return found


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcomes("pyarrow", tmp_path_factory.mktemp("pyarrow"))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcomes("aljava", tmp_path_factory.mktemp("aljava"))


def test_every_outcome_is_that_of_pyarrow(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    different = {
        name: f"{theirs[name]['outcome']} -> {ours[name]['outcome']}: {ours[name]['reason'][-600:]}"
        for name in theirs
        if ours[name]["outcome"] != theirs[name]["outcome"] and name not in NOT_APPLICABLE
    }
    assert not different, "\n\n".join(f"{name}: {how}" for name, how in different.items())
    applicable = theirs.keys() - NOT_APPLICABLE.keys()
    counts = Counter(ours[name]["outcome"] for name in applicable)
    assert counts == Counter(theirs[name]["outcome"] for name in applicable)
    assert counts["passed"] >= 150, counts


def test_our_code_ran_in_every_test(ours: dict[str, Any]) -> None:
    idle = {name for name, found in ours.items() if found["outcome"] == "passed" and not found["called"]}
    assert {name.partition("::")[2].partition("[")[0] for name in idle} <= set(OF_PYARROWS_OWN_OBJECTS.split())
    tests_of = Counter(module for found in ours.values() for module in {name.split(".")[0] for name in found["called"]})
    assert min(tests_of["writer"], tests_of["reader"], tests_of["feather"]) > 80, tests_of
