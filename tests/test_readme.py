"""What the README and the guides show at a prompt is what a user gets."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aljava

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


@pytest.mark.parametrize(("name", "least"), [("README.md", 9), ("docs/files.md", 30), ("docs/sql.md", 9)])
def test_examples(name: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(ROOT / name), module_relative=False)
    assert tried >= least
    assert failed == 0


def test_commands(tmp_path: Path) -> None:
    """Each command of the page is run, and shows what the page shows, but for the figures."""
    trades = {
        "day": [1] * 50_000 + [2] * 50_000,
        "id": range(100_000),
        "price": [number % 997 / 4 for number in range(100_000)],
    }
    aljava.write(trades, tmp_path / "trades.arrow", batch_rows=50_000)
    (tmp_path / "aljava").write_text(f'#!/bin/sh\nexec {sys.executable} -m aljava "$@"\n')
    (tmp_path / "aljava").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "COLUMNS": "100"}
    shown = 0
    for block in re.findall(r"```console\n(.*?)```", (ROOT / "docs/command.md").read_text(), re.S):
        for command, expected in re.findall(r"^\$ ([^\n]*)\n(.*?)(?=^\$ |\Z)", block, re.S | re.M):
            done = subprocess.run(
                command, shell=True, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
            )
            assert _words(done.stdout + done.stderr) == _words(expected), command
            shown += 1
    assert shown >= 14


def _words(text: str) -> list[str]:
    """The text without its figures, and without what is drawn as wide as they are."""
    return re.sub(r"[\d.,%]+|[█-▏─]+", " ", text).split()


def test_every_document_is_there() -> None:
    text = README.read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name in ("index.md", "reference.md") or f"docs/{page.name}" in text
        assert page.name in (ROOT / "mkdocs.yml").read_text()
