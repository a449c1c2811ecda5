"""What `docs/engines.md` shows at a prompt is what a user gets; each engine's section is run where it is installed."""

import doctest
import re
from pathlib import Path

import pytest

from tests.engines.local_ray import two_cpus

PAGE = Path(__file__).parent.parent.parent / "docs" / "engines.md"


def run(section: str, least: int) -> None:
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M)
    assert text
    examples = doctest.DocTestParser().get_doctest(text[1], {}, section, str(PAGE), 0)
    assert len(examples.examples) >= least
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("Dask", 8)


@pytest.mark.ray
def test_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with two_cpus():
        run("Ray", 6)
