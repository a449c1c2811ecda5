"""From one address to the payloads that it names: globs, folders with Hive partitions, stores, lists of addresses.

::

    sales/                          sales/year=*/*.arrow           ["a.arrow", "s3://bucket/b.arrow"]
    ├── year=2025/part-0.arrow      the same files                 two files, one table
    └── year=2026/part-0.arrow      year is a column of both
"""

import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from aljava.address import SCHEME, WHOLE, local_path, locate
from aljava.errors import AccessDenied, NotFound
from aljava.places.place import Place

MAGIC = re.compile(r"[*?\[]")
#: The name of a job's manifest, beside the outputs.
MANIFEST = "_manifest.arrow"
_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """One file of a dataset."""

    #: Where it stands.
    place: Place
    #: What the folders say of all of its rows: column name to text, None for a null.
    partition: Mapping[str, str | None] = field(default_factory=dict)


def parts(address: Any, *, filesystem: Any = None, storage_options: Mapping[str, Any] | None = None) -> list[Part]:
    """The payloads that an address names, in the order of their names; a list keeps its own order.

    Args:
        address: what `aljava.address.locate` takes, a glob, a folder, a whole store (`shm://STORE`), or a list of
            these.
        filesystem: as in `locate`.
        storage_options: as in `locate`.

    Raises:
        NotFound: a glob that matches nothing, a folder without files.
        AddressError: as `locate`.

    Example:
        >>> import tempfile, os
        >>> folder = tempfile.mkdtemp()
        >>> os.makedirs(folder + "/year=2025"); os.makedirs(folder + "/year=2026")
        >>> for year in (2025, 2026):
        ...     _ = open(f"{folder}/year={year}/part.arrow", "wb").write(b"x")
        >>> [dict(part.partition) for part in parts(folder)]
        [{'year': '2025'}, {'year': '2026'}]
    """
    if isinstance(address, list | tuple | set | frozenset):
        found = [
            part for each in address for part in parts(each, filesystem=filesystem, storage_options=storage_options)
        ]
        if not found:
            raise NotFound("an empty list of addresses names no table")
        return found
    if isinstance(address, str | os.PathLike) and not isinstance(os.fspath(address), bytes):
        text = os.fspath(address)
        if not text:
            return [Part(locate(address))]
        match = SCHEME.match(text)
        scheme = match[1].lower() if match else None
        if scheme == "shm" and filesystem is None and storage_options is None:
            return _shared(text)
        if filesystem is None and scheme in (None, "file") and storage_options is None:
            return _local(local_path(text) if scheme else text)
        if filesystem is not None or scheme not in WHOLE:
            return _remote(text, filesystem, storage_options)
    return [Part(locate(address, filesystem=filesystem, storage_options=storage_options))]


def _local(path: str) -> list[Part]:
    from aljava.places.local import LocalFile

    if not os.path.isdir(path) and (os.path.lexists(path) or not MAGIC.search(path)):
        return [Part(locate(path))]
    root, found = matching(path)
    names = []
    for name, entry in found:
        if isinstance(entry, OSError):
            raise AccessDenied(f"the folder {os.path.join(root, name)} cannot be listed: {entry.strerror}") from entry
        names.append(name)
    if not names:
        shown = LocalFile(path).address
        raise NotFound(f"the folder {shown} holds no files" if os.path.isdir(path) else f"{shown} matches no file")
    return [Part(LocalFile(os.path.join(root, name)), _hive(name)) for name in sorted(names)]


def matching(path: str) -> tuple[str, Iterator[tuple[str, "os.DirEntry[str] | OSError | None"]]]:
    """The files that a folder of this machine holds, or a glob matches, as a stream.

    Args:
        path: of the folder, or the glob. What stands there is no glob, whatever its name.

    Returns:
        the folder above all of them, and of each its name relative to that, and its entry where there is one. Of a
        folder that cannot be listed why.
    """
    magic = None if os.path.isdir(path) else MAGIC.search(path)
    if magic is None:
        return path, walk(path)
    root = os.path.dirname(path[: magic.start()])
    wanted = path[len(root) :].lstrip("/")
    if "**" not in wanted:
        return root, _globbed(path, root)
    # Not by `glob`, which follows a link that goes in a circle until the system refuses.
    fits = re.compile(f"{pattern(wanted).pattern}(?:/.*)?", re.S).fullmatch
    return root, ((name, entry) for name, entry in walk(root) if fits(name) or isinstance(entry, OSError))


def _globbed(path: str, root: str) -> Iterator[tuple[str, "os.DirEntry[str] | OSError | None"]]:
    for match in glob.iglob(path):
        name = os.path.relpath(match, root or ".")
        if os.path.isdir(match):
            found: Iterator[Any] = walk(root, name)
        else:
            found = iter([(name, None)])
        yield from ((name, entry) for name, entry in found if isinstance(entry, OSError) or is_meant(name, path))


def walk(root: str, start: str = "") -> Iterator[tuple[str, "os.DirEntry[str] | OSError"]]:
    """The files below a folder, in no order. Links are followed, but for those to a folder that they stand in.

    Args:
        root: the folder that names are relative to; empty for the current one.
        start: where to begin, relative to that.

    Yields:
        the name of each file, with slashes, and its entry; of a folder that cannot be listed why.
    """
    parts = start.split("/") if start else []
    above = tuple(_identity(os.path.join(root, *parts[:depth]) or ".") for depth in range(len(parts)))
    left = [(start, above)]
    while left:
        below, above = left.pop()
        folder = os.path.join(root, below) or "."
        try:
            identity = _identity(folder)
            entries = os.scandir(folder)
        except OSError as error:
            yield below, error
            continue
        with entries:
            if identity in above:
                continue
            for entry in entries:
                if not is_data(entry.name):
                    continue
                name = f"{below}/{entry.name}" if below else entry.name
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself: whoever opens it says so
                    is_folder = False
                if is_folder:
                    left.append((name, (*above, identity)))
                else:
                    yield name, entry


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _shared(address: str) -> list[Part]:
    """One object of a store, or all: `shm://STORE`."""
    name, _, key = address[len("shm://") :].partition("/")
    if not name or key:
        return [Part(locate(address))]
    from aljava.store import opened

    keys = list(opened(unquote(name)))
    if not keys:
        raise NotFound(f"the store {address} holds no tables")
    return [Part(locate(f"shm://{name}/{quote(key, safe='')}")) for key in keys]


def _remote(text: str, filesystem: Any, storage_options: Mapping[str, Any] | None) -> list[Part]:
    import pyarrow.fs

    from aljava.places.remote import RemoteFile, find

    system, path, shown, secrets = find(text, filesystem, storage_options)
    whole = RemoteFile(system, path, shown, secrets)
    magic = MAGIC.search(path)
    with whole.explained("read"):
        if magic is None and system.get_file_info(path).type != pyarrow.fs.FileType.Directory:
            return [Part(whole)]
        root = path.rstrip("/") if magic is None else path[: magic.start()].rpartition("/")[0]
        below = system.get_file_info(pyarrow.fs.FileSelector(root, recursive=True, allow_not_found=True))
    wanted: Callable[[str], Any] = pattern(path).fullmatch if magic else lambda name: True
    names = sorted(
        info.path
        for info in below
        if info.type == pyarrow.fs.FileType.File
        and is_meant(info.path[len(root) :].lstrip("/"), path)
        and wanted(info.path)
    )
    if not names:
        raise NotFound(f"{shown} matches no file" if magic else f"the folder {shown} holds no files")
    prefix = shown[: len(shown) - len(path)] if shown.endswith(path) else shown + ": "
    return [
        Part(RemoteFile(system, name, prefix + name, secrets), _hive(name[len(root) :].lstrip("/"))) for name in names
    ]


def is_data(name: str) -> bool:
    """Hidden files and what frameworks leave (`_SUCCESS`) are no data; `_` begins a partition's name too."""
    return not name.startswith(".") and (not name.startswith("_") or "=" in name)


def is_meant(name: str, address: str) -> bool:
    """Whether an address means a file found by it: all data, and what a glob says plainly but for a job's manifest.

    Args:
        name: the file's, relative to the folder that was searched, with slashes.
        address: the folder or the glob.
    """
    if MAGIC.search(address) and "**" not in address:
        return name.rpartition("/")[2] != MANIFEST
    return all(map(is_data, name.split("/")))


def _hive(path: str) -> dict[str, str | None]:
    keys: dict[str, str | None] = {}
    for segment in path.split("/")[:-1]:
        name, equals, value = segment.partition("=")
        if equals and name:
            keys[unquote(name)] = None if value == _NULL else unquote(value)
    return keys


def pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression over whole paths: `*` stays within a folder, `**` does not."""
    out = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", glob, re.S):
        match token:
            case "**/":
                out.append("(?:.*/)?")
            case "**":
                out.append(".*")
            case "*":
                out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case _ if len(token) > 1:
                out.append("[" + token[1:-1].replace("\\", "\\\\").replace("!", "^", token[1] == "!") + "]")
            case _:
                out.append(re.escape(token))
    return re.compile("".join(out), re.S)
