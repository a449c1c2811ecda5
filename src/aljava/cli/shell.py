"""The shell of `aljava sql`: lines with a history and completion, queries that control-C interrupts."""

import glob
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from aljava.cli import complete
from aljava.cli.sql import connected, put, watched
from aljava.errors import AljavaError
from aljava.queries import sql
from aljava.statements import quoted_names, tokens

HISTORY_LINES = 10_000

HELP = """\
  SQL in DuckDB's dialect; a statement ends with “;” and may take several lines.
  Addresses stand in quotes: from 'trades.arrow', from 'shm://desk/trades', from 'folder/*.arrow'
  Tab completes addresses, tables, columns and keywords. Control-C stops a query, control-D or .exit leaves.
"""


class Shell:
    """Reads statements from a terminal and shows their rows, until control-D."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def run(self) -> None:
        """Runs until the user leaves."""
        print("Aljava: SQL over addresses. .help says how; control-D leaves.")
        with connected() as connection, _history() as readline, _waking_on_interrupt():
            if readline:
                _Completer(connection, self._lines).install(readline)
            while (statement := self._next()) is not None:
                self._show(connection, statement)

    def _next(self) -> str | None:
        """The next statement; None at the end."""
        self._lines.clear()
        while True:
            try:
                line = input("   ...> " if self._lines else "aljava> ")
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                print("^C")
                self._lines.clear()
                continue
            if not self._lines:
                command = line.strip().rstrip(";").lower()
                if command in (".exit", ".quit", "exit", "quit"):
                    return None
                if command == ".help":
                    print(HELP, end="")
                    continue
                if not command:
                    continue
            self._lines.append(line)
            text = "\n".join(self._lines)
            if _is_whole(text):
                return text

    def _show(self, connection: Any, statement: str) -> None:
        try:
            relation = watched(connection, lambda: sql(statement, connection=connection))
            watched(connection, lambda: put(relation, connection, None, None))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        except (AljavaError, duckdb.Error) as error:
            print(error, file=sys.stderr)


def _is_whole(text: str) -> bool:
    """Whether the last statement has its semicolon, outside text and comments."""
    words = tokens(text)
    return bool(words) and words[-1].text == ";"


@contextmanager
def _history() -> Iterator[Any]:
    """Python's readline with the history of earlier sessions, kept at the end; None where Python has no readline."""
    try:
        import readline
    except ImportError:
        yield None
        return
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = Path(state, "aljava", "sql_history")
    with suppress(OSError):  # no history yet
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield readline
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
        except OSError as error:
            print(f"the history is not kept: {error}", file=sys.stderr)


@contextmanager
def _waking_on_interrupt() -> Iterator[None]:
    """Has control-C at the prompt heard always, and not only when it comes while Python's line editor sleeps.

    The editor looks for signals when one ends its sleep. One that comes in the moment before, or on another thread
    (DuckDB has some), would wait until a key is pressed. So a thread that hears of every signal wakes the editor a few
    times after it, with a signal that means nothing.
    """
    main = threading.get_ident()
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def wake() -> None:
        while byte := os.read(heard, 1):
            for _ in range(3) if byte[0] == signal.SIGINT else ():
                time.sleep(0.02)
                signal.pthread_kill(main, signal.SIGUSR1)

    waker = threading.Thread(target=wake, name="waker", daemon=True)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    waker.start()
    signal.set_wakeup_fd(told)
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        os.close(told)
        waker.join()
        os.close(heard)
        signal.signal(signal.SIGUSR1, before)


class _Completer:
    """What the word before the cursor may become.

    Within quotes, an address: a file, a folder, an object in shared memory. Elsewhere a table of the connection, a
    column of the tables and addresses named so far, or a keyword.
    """

    def __init__(self, connection: Any, lines: list[str]) -> None:
        self._connection = connection
        self._lines = lines
        self._found: list[str] = []
        self._columns: dict[str, list[str]] = {}

    def install(self, readline: Any) -> None:
        # Not quotes: readline would close them behind a folder too. Not slashes: an address is one word.
        readline.set_completer_delims(" \t\n(),;=<>")
        readline.set_completer(self._complete)
        readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
        self._readline = readline

    def _complete(self, word: str, state: int) -> str | None:
        if state == 0:
            before = self._readline.get_line_buffer()[: self._readline.get_begidx()]
            self._found = sorted(self.candidates("\n".join([*self._lines, before]), word))
        return self._found[state] if state < len(self._found) else None

    def candidates(self, before: str, word: str) -> set[str]:
        """What `word` may become.

        Args:
            before: the statement up to the word.
            word: what stands before the cursor, up to a space or a sign that is no part of an address.
        """
        text = before + word
        opened = _open_quote(text)
        if opened is not None:
            # The word may be the end of an address with a space in it.
            known = len(before) - opened
            quote = text[opened]
            addresses = (quote + address for address in _addresses(text[opened + 1 :]))
            return {(it if it.endswith("/") else it + quote)[max(known, 0) :] for it in addresses}
        lower = word.lower()
        keywords = {keyword for keyword in _keywords() if keyword.startswith(lower)}
        names = {name for name in self._names(before) if name.lower().startswith(lower)}
        return names | (keywords if word else set())

    def _names(self, before: str) -> Iterator[str]:
        """The tables of the connection, and the columns of these and of the addresses in the statement."""
        for (table,) in self._connection.sql("select table_name from information_schema.tables").fetchall():
            yield table
            yield from self._columns_of(f'"{table}"')
        for name in quoted_names(before + self._readline.get_line_buffer()[self._readline.get_begidx() :]):
            yield from self._columns_of("'" + name.replace("'", "''") + "'")

    def _columns_of(self, table: str) -> list[str]:
        if table not in self._columns:
            try:
                self._columns[table] = sql(f"from {table}", connection=self._connection).columns
            except AljavaError:
                return []
        return self._columns[table]


def _open_quote(text: str) -> int | None:
    """Where the quote stands that is open at the end of the text; None if none is."""
    opened = None
    for at, char in enumerate(text):
        if opened is None and char in "'\"":
            opened = at
        elif opened is not None and char == text[opened]:
            opened = None
    return opened


def _addresses(word: str) -> Iterator[str]:
    yield from complete.shared(word)
    for path in glob.glob(glob.escape(word) + "*"):
        yield path + "/" if os.path.isdir(path) else path


def _keywords() -> list[str]:
    query = "select keyword_name from duckdb_keywords() where keyword_category <> 'unreserved'"
    return [name for (name,) in sql(query).fetchall() if name.isalpha()]
