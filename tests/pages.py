"""Runs what a page of the documentation shows, block by block, from top to bottom, in an empty folder.

Each fenced block names its language, so that none escapes by being nameless:

- `pycon`: a session at Python's prompt. What is shown is what comes; `...` stands for anything.
- `python`: a program, run in the namespace of the page's session. With `title="NAME.py"` it becomes a file, for a later
  command to run.
- `console`: commands behind `$`, with what they print. Figures, and bars as wide as they are, may differ; `...`
  stands for anything. A command that ends in `&` goes on in the background, and has printed what is shown by the end of
  the page. While it runs, a command that does not do yet what is shown is tried again.
- anything else (`text`, `sql`, `json`) is not run, and may not look like one of these.

Comments before a block, which a reader of the page does not see:

- `<!-- needs: torch -->`: skipped where that module is not installed.
- `<!-- not run: WHY -->`: not run; says why.
- `<!-- setup ... -->`: a Python program, run in the page's namespace, for what a reader has already.

`host:PORT`, `127.0.0.1:PORT` and `0.0.0.0:PORT` become free ports of this machine.
"""

import contextlib
import doctest
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

RUN = ("pycon", "python", "console")
SHOWN = ("text", "sql", "json", "toml", "html")
# Seconds that a command may take.
PATIENCE = 90

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?P<options>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.S | re.M
)
_COMMENT = re.compile(r"^ *<!-- (?P<kind>setup|needs:|not run:)(?P<text>.*?)-->", re.S | re.M)
_COMMAND = re.compile(r"^\$ (?P<command>(?:[^\n]*\\\n)*[^\n]*)\n(?P<shown>.*?)(?=^\$ |\Z)", re.S | re.M)


@dataclass(frozen=True)
class Block:
    """One fenced block, or a hidden program."""

    #: The line of the page on which its first line stands, from 1.
    line: int
    language: str
    code: str
    #: The file that it is, of a titled program.
    title: str
    #: Modules without which it is skipped.
    needs: tuple[str, ...]
    #: Why it is not run; empty where it is.
    not_run: str


def blocks(text: str) -> list[Block]:
    """The blocks of a page, in their order.

    Raises:
        ValueError: a block that could escape: without a language, or with prompts in what is not run.
    """
    found: list[Block] = []
    fences = list(_FENCE.finditer(text))
    comments = [it for it in _COMMENT.finditer(text) if not any(f.start() < it.start() < f.end() for f in fences)]
    pending: dict[str, str] = {}
    for match in sorted([*fences, *comments], key=re.Match.start):
        line = text.count("\n", 0, match.start()) + 2
        if match.re is _COMMENT:
            if match["kind"] == "setup":
                found.append(Block(line, "python", textwrap.dedent(match["text"]), "", (), ""))
            else:
                pending[match["kind"]] = match["text"].strip()
            continue
        language, body = match["language"], textwrap.dedent(match["body"])
        if language not in RUN + SHOWN:
            raise ValueError(f"line {line - 1}: a block of language {language!r}; name one of {', '.join(RUN + SHOWN)}")
        if language in SHOWN and re.search(r"^(\$|>>>) ", body, re.M):
            raise ValueError(f"line {line - 1}: what has a prompt is run: call it console or pycon")
        if language == "console" and not body.startswith("$ "):
            raise ValueError(f"line {line - 1}: a console block begins with its first command, behind `$ `")
        title = re.search(r'title="([^"]+)"', match["options"])
        needs = tuple(pending.get("needs:", "").replace(",", " ").split())
        found.append(Block(line, language, body, title[1] if title else "", needs, pending.get("not run:", "")))
        pending = {}
    return found


class Page:
    """A page that is being run, in the current folder."""

    def __init__(self, path: Path, programs: Path) -> None:
        self.path = path
        self.blocks = blocks(path.read_text())
        self.namespace: dict[str, Any] = {"__name__": "__page__"}
        self.background: list[tuple[str, str, subprocess.Popen[str], Path]] = []
        self.ports: dict[str, int] = {}
        self.skipped: list[str] = []
        self.ran = 0
        for name, module in (("aljava", "-m aljava "), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module}"$@"\n')
            (programs / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "COLUMNS": "100",
            "PYTHONUNBUFFERED": "1",
        }

    def run(self) -> None:
        """Runs every block. Raises AssertionError with the page and line of what does not do what it shows."""
        titles = [block.title for block in self.blocks if block.title]
        commands = "\n".join(block.code for block in self.blocks if block.language == "console")
        assert all(title in commands for title in titles), f"{self.path.name}: no command runs one of {titles}"
        try:
            for block in self.blocks:
                self._run(block)
            self._finish()
        finally:
            for *_, process, _ in self.background:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait(PATIENCE)

    def _run(self, block: Block) -> None:
        where = f"{self.path.name}:{block.line}"
        missing = [name for name in block.needs if importlib.util.find_spec(name) is None]
        if block.language in SHOWN or block.not_run or missing:
            if missing:
                self.skipped.append(f"{where} needs {', '.join(missing)}")
            return
        self.ran += 1
        code = re.sub(r"\b(?:host|localhost|0\.0\.0\.0|127\.0\.0\.1):(\d+)", self._port, block.code)
        if block.title:
            Path(block.title).write_text(code)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + code, str(self.path), "exec"), self.namespace)
        elif block.language == "pycon":
            self._session(code, where, block.line)
        else:
            for match in _COMMAND.finditer(code):
                self._command(match["command"], match["shown"], where)

    def _session(self, code: str, where: str, line: int) -> None:
        test = doctest.DocTestParser().get_doctest(code, self.namespace, where, str(self.path), line - 1)
        test.globs = self.namespace
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
        assert not runner.run(test, out=said.append, clear_globs=False).failed, "".join(said)

    def _command(self, command: str, shown: str, where: str) -> None:
        if command.rstrip().endswith("&"):
            output = Path(f".background-{len(self.background)}")
            process = subprocess.Popen(
                ["bash", "-c", "exec " + command.rstrip().rstrip("&")],
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
            self.background.append((where, shown, process, output))
            return
        end = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run(
                ["bash", "-c", command],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                env=self.environment,
                timeout=PATIENCE,
            )
            printed = done.stdout + done.stderr
            if is_shown(shown, printed):
                return
            if not self._is_waited_for() or time.monotonic() > end:
                raise AssertionError(f"{where}: {command}\n--- shown\n{shown}--- printed\n{printed}{self._beside()}")
            time.sleep(0.2)

    def _is_waited_for(self) -> bool:
        return any(process.poll() is None for *_, process, _ in self.background)

    def _beside(self) -> str:
        return "".join(f"--- {where} in the background\n{file.read_text()}" for where, _, _, file in self.background)

    def _finish(self) -> None:
        for where, shown, process, output in self.background:
            end = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < end and not is_shown(shown, output.read_text()):
                time.sleep(0.05)
            printed = output.read_text()
            assert is_shown(shown, printed), f"{where}, in the background\n--- shown\n{shown}--- printed\n{printed}"

    def _port(self, match: re.Match[str]) -> str:
        if match[1] not in self.ports:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self.ports[match[1]] = probe.getsockname()[1]
        return f"127.0.0.1:{self.ports[match[1]]}"


def is_shown(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows, but for figures."""
    want = "...".join(_plain(part) for part in shown.split("..."))
    words = " ".join(want.split()), " ".join(_plain(printed).split())
    return doctest.OutputChecker().check_output(*words, doctest.ELLIPSIS)


def _plain(text: str) -> str:
    """Text without its figures, their units, and what is drawn as wide as they are."""
    text = re.sub(r"\d[\d.,]*(?: ?(?:[kMG]?B(?:/s)?|µs|ms|s)\b)?%?", " ", text)
    return re.sub(r"[\d.,%]+|[█-▏─]+", " ", text)
