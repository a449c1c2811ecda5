"""From one address to the payloads that it names: globs, folders with Hive partitions, stores, lists of addresses.

::

    sales/                          sales/year=*/*.arrow           ["a.arrow", "s3://bucket/b.arrow"]
    ├── year=2025/part-0.arrow      the same files                 two files, one table
    └── year=2026/part-0.arrow      year is a column of both
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Mapping
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

    if os.path.isdir(path):
        root, found = path, sorted(_files_below(path))
        if not found:
            raise NotFound(f"the folder {LocalFile(path).address} holds no files")
    elif MAGIC.search(path) and not os.path.lexists(path):
        root = os.path.dirname(path[: MAGIC.search(path).start()])  # type: ignore[union-attr]
        matches = sorted(glob.glob(path, recursive=True))
        found = [
            file for match in matches for file in (sorted(_files_below(match)) if os.path.isdir(match) else [match])
        ]
        found = [file for file in found if is_meant(os.path.relpath(file, root or ".").replace(os.sep, "/"), path)]
        if not found:
            raise NotFound(f"{LocalFile(path).address} matches no file")
    else:
        return [Part(locate(path))]
    return [Part(LocalFile(file), _hive(os.path.relpath(file, root or "."))) for file in found]


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


def _files_below(folder: str) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise AccessDenied(f"the folder {error.filename} cannot be listed: {error.strerror}") from error

    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if is_data(name)]
        yield from (os.path.join(parent, name) for name in files if is_data(name))


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
