"""What the README and the pages of the documentation show is what a user gets."""

import re
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, Page, blocks, is_shown

DOCS = ROOT / "docs"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the page, from top to bottom."""
    programs, folder = tmp_path / "programs", tmp_path / "folder"
    programs.mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    page = Page(path, programs)
    page.run()
    if page.skipped and not page.ran:
        pytest.skip("; ".join(page.skipped))


def test_nothing_escapes() -> None:
    for text in (
        "```\nx\n```",
        "```text\n$ ls\n```",
        "```python3\nx\n```",
        "```console\nls\n```",
        "    ```\n    x\n    ```",
    ):
        with pytest.raises(ValueError, match="line 1"):
            blocks(text + "\n")
    assert [block.code for block in blocks("- x\n\n    ```python\n    y\n    ```\n")] == ["y\n"]


def test_what_is_shown_is_compared() -> None:
    assert is_shown("3 rows in 2.5 ms\n", "4 rows in 25 µs\n")
    assert is_shown("first\n...\nlast\n", "first\nsecond\nlast\n")
    assert not is_shown("3 rows\n", "3 columns\n")
    assert not is_shown("", "an error\n")


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]:
        assert f" {path.relative_to(DOCS)}\n" in navigation


def test_links_of_the_readme() -> None:
    """Links between the other pages are checked when the site is built."""
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        if not target.startswith("https://"):
            assert (ROOT / target.partition("#")[0]).exists(), target
