"""The two notebooks run, from top to bottom, and do the same."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent.parent / "docs"


def cells(name: str, kind: str) -> list[str]:
    return [cell.source for cell in nbformat.read(DOCS / name, 4).cells if cell.cell_type == kind]


def test_both_have_the_same_code() -> None:
    assert cells("tour.ipynb", "code") == cells("passeio.ipynb", "code")
    assert len(cells("tour.ipynb", "markdown")) == len(cells("passeio.ipynb", "markdown"))


@pytest.mark.parametrize("name", ["tour.ipynb", "passeio.ipynb"])
def test_committed_without_outputs(name: str) -> None:
    notebook = nbformat.read(DOCS / name, 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_it_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(DOCS / "tour.ipynb", 4)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("text/html" in output.get("data", {}) for output in shown) >= 6
    # What is printed in one go may come in two pieces.
    assert "TruncatedFile: cut.arrow" in "".join(output.get("text", "") for output in shown)
