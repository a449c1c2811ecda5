"""What commands have in common when they show something: the console, the status line, the page."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aljava.errors import AccessDenied, InvalidOption, NotFound


def pandas_is_not_needed() -> None:
    """Has pyarrow look for pandas now, and find none.

    It looks when it makes its first scalar, to know whether that is of pandas: where pandas is installed, importing it
    takes longer than all else that a command does which only looks at a table.
    """
    import pyarrow

    if "pandas" in sys.modules:
        return
    hidden = _NoPandas()
    sys.meta_path.insert(0, hidden)
    try:
        pyarrow.scalar(0)
    finally:
        sys.meta_path.remove(hidden)


class _NoPandas:
    """A finder of modules that knows of one that it is not there."""

    @staticmethod
    def find_spec(name: str, path: Any, target: Any = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is not looked for here")


def console(*, wide: bool = False) -> Any:
    """Rich's console on standard output; characters that its encoding lacks become question marks.

    Args:
        wide: whether a line may be as long as it is where nobody watches, as in a pipe or a file.
    """
    from rich.console import Console

    if sys.stdout.encoding.lower() not in ("utf-8", "utf8") and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False, width=100_000 if wide and not sys.stdout.isatty() else None)


def printable(text: str, keep: str = "") -> str:
    """The text with what would move a terminal's cursor, or change its colours, made visible.

    Args:
        text: anything, also a file's name.
        keep: characters to leave as they are.

    Example:
        >>> print(printable(chr(27) + "[31m"))
        \\x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )


def count(number: int, what: str) -> str:
    """A number of things.

    Example:
        >>> count(1, "row"), count(2000, "batch")
        ('1 row', '2,000 batches')
    """
    return f"{number:,} {what}{('es' if what.endswith('h') else 's') * (number != 1)}"


def names(columns: str | None) -> list[str] | None:
    """Column names from a list with commas; a name with a comma stands in double quotes.

    Example:
        >>> names('day, "net, gross"')
        ['day', 'net, gross']
    """
    if columns is None:
        return None
    import csv

    (found,) = csv.reader([columns.replace("\n", " ")], skipinitialspace=True)
    return [name for name in (name.strip() for name in found) if name]


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Says on a terminal what is going on; silent where nobody watches.

    An empty text takes the line away, until the next. That comes before anything is printed: both are on one terminal.
    """
    from rich.console import Console
    from rich.markup import escape

    on_error = Console(stderr=True)
    if not on_error.is_terminal:
        yield lambda text: None
        return
    line = on_error.status("")

    def show(text: str) -> None:
        if text:
            line.update(f"[dim]{escape(printable(text))} …[/]")
            line.start()
        else:
            line.stop()

    try:
        yield show
    finally:
        line.stop()


def must_take_a_file(path: str) -> None:
    """Finds out before the work, not after it, that a page cannot be written."""
    folder = os.path.dirname(os.path.realpath(path))
    if os.path.isdir(path):
        raise InvalidOption(f"--html {path} is a folder: name a file in it")
    if not os.path.isdir(folder):
        raise NotFound(f"--html {path} cannot be written: the folder {folder} does not exist; make it first")
    _must_be_writable(folder, f"--html {path}")


def make_folder(path: str) -> None:
    """Makes the folder that files are to be kept in, and finds out whether it takes any."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:
        raise InvalidOption(f"--keep {path} is a file: name a folder") from error
    except OSError as error:
        raise AccessDenied(f"--keep {path} cannot be made: {error.strerror}. Choose another folder") from error
    _must_be_writable(path, f"--keep {path}")


def _must_be_writable(folder: str, what: str) -> None:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise AccessDenied(f"{what}: {folder} cannot be written ({error.strerror}). Choose another folder") from error


def write_page(path: str, content: str) -> None:
    """Writes a page, whole or not at all."""
    from aljava.places.local import LocalFile

    with LocalFile(path).sink() as sink:
        sink.write(content.encode())
