"""What the README and the guide on SQL show at a prompt is what a user gets."""

import doctest
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"


@pytest.mark.parametrize("page", ["README.md", "docs/sql.md"])
def test_examples(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(README.parent / page), module_relative=False)
    assert tried >= 9
    assert failed == 0


def test_every_document_is_there() -> None:
    text = README.read_text()
    for name in ("store", "format", "format-zones", "format-files", "streams", "sql", "conformance"):
        assert f"docs/{name}.md" in text
        assert (README.parent / "docs" / f"{name}.md").is_file()
