"""A pytest plugin that runs pyarrow's own tests on Aljava: `pytest -p tests.ipc.substitution --engine=aljava …`.

In the module of each test that pytest collected, the name `pa` is replaced by a stand-in for pyarrow whose `ipc` is
`aljava.ipc`, and each name imported from `pyarrow.feather` by the one of `aljava.feather`. pyarrow itself is not
changed, for Aljava stands on it. What `aljava.ipc` lacks is missing in the stand-in: a test that asks for it fails.

`--report=FILE` writes, for each test, its outcome and which functions of Aljava ran in it.
"""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pyarrow as pa
import pytest

import aljava
import aljava.feather
import aljava.ipc


class StandIn(ModuleType):
    """Looks like pyarrow, but for the names that `aljava.ipc` and `aljava.feather` take over."""

    def __init__(self, ipc: ModuleType, feather: ModuleType) -> None:
        super().__init__("pyarrow", "pyarrow with Aljava's IPC and Feather in place of its own")
        self.ipc = ipc
        self.feather = feather

    def __getattr__(self, name: str) -> Any:
        # pyarrow has the classes of pyarrow.ipc once more at its top: pa.RecordBatchStreamWriter and so on.
        if hasattr(pa.ipc, name) and getattr(pa, name, None) is getattr(pa.ipc, name) and hasattr(self.ipc, name):
            return getattr(self.ipc, name)
        return getattr(pa, name)


def substitute(module: ModuleType) -> None:
    """Let the module see Aljava where it would see pyarrow's IPC and Feather."""
    for name, value in list(vars(module).items()):
        if value is pa:
            setattr(module, name, StandIn(aljava.ipc, aljava.feather))
        elif getattr(value, "__module__", None) == "pyarrow.feather":
            setattr(module, name, getattr(aljava.feather, name))


class Recorder:
    """The outcome of each test, and the functions of Aljava that ran in it."""

    HOME = str(Path(aljava.__file__).parent)

    def __init__(self, engine: str, report: Path) -> None:
        self.engine = engine
        self.report = report
        self.outcomes: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.called: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}  # node ids depend on the folder that pytest takes as its root
        self._seen: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._names = {item.nodeid: f"{item.module.__name__}::{item.name}" for item in items}  # type: ignore[attr-defined]
        if self.engine == "aljava":
            for module in {item.module for item in items}:  # type: ignore[attr-defined]
                substitute(module)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.HOME):
            self._seen.add(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self._seen = set()
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        yield
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        self.called[self._names[item.nodeid]] = sorted(self._seen)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = self._names[report.nodeid]
        if report.when == "call" or not report.passed:
            self.outcomes[name] = "xfailed" if hasattr(report, "wasxfail") else report.outcome
            if not report.passed:
                self.reasons[name] = report.longreprtext

    def pytest_sessionfinish(self) -> None:
        found = {
            name: {
                "outcome": outcome,
                "reason": self.reasons.get(name, ""),
                "called": self.called.get(name, []),
            }
            for name, outcome in self.outcomes.items()
        }
        self.report.write_text(json.dumps(found))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", choices=("pyarrow", "aljava"), required=True)
    parser.addoption("--report", type=Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("--engine"), config.getoption("--report")))
