"""Which tables there are: names, and the addresses behind them.

A name is looked up among those that exist, and never made into a path. So no spelling of a name (`..`, encoded
slashes, NUL) leads anywhere but to a table that is listed.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from aljava.address import SCHEME
from aljava.dataset import Dataset
from aljava.errors import AccessDenied, InvalidOption, KeyNotFound, NotFound, StoreError

_UPLOADED = ".arrow"
#: Files of a folder that are offered, by the ends of their names.
SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc", ".parquet")
_MOST = 10_000
_DEEPEST = 8
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Table:
    """One table that is offered."""

    #: As clients call it.
    name: str
    #: Where it stands.
    address: str


class Catalogue:
    """The tables behind some addresses: files by their name without its end, folders and stores with what they hold.

    Args:
        addresses: files, folders, `shm://STORE` or `shm://STORE/KEY`.

    Raises:
        NotFound: a file or folder that does not exist.
        InvalidOption: two that would have the same name.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}
        self._stores: dict[str, str] = {}
        for address in addresses:
            name, kind, target = _kind(address)
            if name in self._files or name in self._folders or name in self._stores:
                raise InvalidOption(f"{address}: another address is called {name!r} already; rename one")
            {"file": self._files, "folder": self._folders, "store": self._stores}[kind][name] = target

    def __iter__(self) -> Iterator[Table]:
        """All tables, as they are now."""
        for name, address in self._files.items():
            yield Table(name, address)
        for name, folder in self._folders.items():
            for inner, path in _in_folder(folder):
                yield Table(f"{name}/{inner}", path)
        for name, store in self._stores.items():
            for key in _store(store):
                yield Table(f"{name}/{key}", _object(store, key))

    def open(self, name: str) -> Dataset:
        """The table of that name.

        Raises:
            NotFound: there is none.
        """
        import aljava

        return aljava.open(self._find(name))

    def _find(self, name: str) -> str:
        top, _, rest = name.partition("/")
        if not rest and top in self._files:
            return self._files[top]
        if rest and top in self._folders:
            for inner, path in _in_folder(self._folders[top]):
                if inner == rest:
                    return path
        if rest and top in self._stores:
            try:
                if rest in _store(self._stores[top]):
                    return _object(self._stores[top], rest)
            except (KeyNotFound, StoreError):  # a name that no key can have
                pass
        raise NotFound(f"there is no table {name!r}")

    def target(self, name: str) -> str:
        """The address that an upload under this name goes to.

        Raises:
            AccessDenied: not in a folder or a store that is served.
            InvalidOption: a name that no table can have.
        """
        top, _, rest = name.partition("/")
        if top not in self._folders and top not in self._stores:
            raise AccessDenied(f"{name!r} is in no folder and no store that is served: uploads go to FOLDER/NAME")
        if not _NAME.fullmatch(rest):
            raise InvalidOption(f"{rest!r} is no name for a table: letters, digits, '_', '.' and '-', 100 at most")
        if top in self._stores:
            return _object(self._stores[top], rest)
        folder = self._folders[top]
        existing = next((path for inner, path in _in_folder(folder) if inner == rest), None)
        return existing or os.path.join(folder, rest + _UPLOADED)


def limited(reader: pa.RecordBatchReader, rows: int | None) -> pa.RecordBatchReader:
    """At most the first `rows` rows; all where it is None."""
    if rows is None:
        return reader

    def batches() -> Iterator[pa.RecordBatch]:
        left = rows
        while left:
            try:
                batch = reader.read_next_batch().slice(0, left)
            except StopIteration:
                return
            left -= batch.num_rows
            yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _kind(address: str) -> tuple[str, str, str]:
    if address.startswith("shm://"):
        store, _, key = address.removeprefix("shm://").partition("/")
        return (key, "file", address) if key else (store, "store", store)
    if SCHEME.match(address) and not address.startswith("file://"):
        raise InvalidOption(f"{address}: a server offers files, folders and stores of its own machine")
    path = os.path.realpath(address.removeprefix("file://"))
    if os.path.isdir(path):
        return os.path.basename(path), "folder", path
    if not os.path.isfile(path):
        raise NotFound(f"{address} does not exist")
    return _stem(os.path.basename(path)), "file", path


def _stem(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def _in_folder(folder: str) -> list[tuple[str, str]]:
    """Name and path of each table below a folder; what is hidden, not UTF-8, or a link out of it, is left out."""
    found: list[tuple[str, str]] = []
    waiting = [("", folder, 1)]
    while waiting and len(found) < _MOST:
        prefix, path, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError:  # gone, or not ours to read
            continue
        for entry in entries:
            if entry.name.startswith(".") or not _is_text(entry.name):
                continue
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(folder + os.sep):
                continue
            if entry.is_dir(follow_symlinks=False):
                if depth < _DEEPEST:
                    waiting.append((f"{prefix}{entry.name}/", entry.path, depth + 1))
            elif entry.is_file() and entry.name.lower().endswith(SUFFIXES):
                found.append((prefix + _stem(entry.name), entry.path))
    return found


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8: no other can be written into a list, or asked for."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _store(name: str) -> Any:
    from aljava.store import opened

    return opened(name)


def _object(store: str, key: str) -> str:
    from urllib.parse import quote

    return f"shm://{quote(store, safe='')}/{quote(key, safe='')}"
