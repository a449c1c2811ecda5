"""The files of a job, listed as a stream, and the folders that they stand in and go to.

A `Root` is a folder of this machine or of an object store, a `Source` a file below one. Neither is open: both travel to
workers, which find the place for themselves.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs

from aljava.address import SCHEME, WHOLE, local_path, locate
from aljava.errors import AccessDenied, AljavaError, InvalidOption, NotFound
from aljava.listing import MAGIC, is_data, is_meant, matching, pattern
from aljava.places.local import LocalFile
from aljava.places.place import Place
from aljava.places.remote import RemoteFile, find, shown_and_secrets

#: File systems that were found already, by what was asked for: a worker meets the same few with every task.
_FOUND: dict[tuple[str, str], tuple[Any, str, str, tuple[str, ...]]] = {}


@dataclass(frozen=True)
class Root:
    """A folder, here or in an object store; or no folder at all, below which whole addresses stand.

    Examples:
        >>> Root("/data/sales").place("2026/june.arrow").address
        '/data/sales/2026/june.arrow'
    """

    #: As `aljava.open` takes it; a path is absolute. May hold credentials: `shown` does not. Empty for no folder.
    address: str
    #: For fsspec's file system of the address.
    storage_options: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, address: Any, *, storage_options: Mapping[str, Any] | None = None) -> "Root":
        """The folder at an address.

        Raises:
            InvalidOption: the address can be no folder.
        """
        if not isinstance(address, str | os.PathLike) or not os.fspath(address):
            raise InvalidOption(f"a job takes folders by their addresses, and {address!r} is none")
        text = os.fspath(address)
        scheme = SCHEME.match(text)
        if scheme and scheme[1].lower() in WHOLE:
            raise InvalidOption(f"{text} names one payload and no folder that files could go to")
        if scheme is None or scheme[1].lower() == "file":
            return cls(os.path.abspath(local_path(text) if scheme else text))
        return cls(text, storage_options)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return bool(self.address) and SCHEME.match(self.address) is None

    @cached_property
    def shown(self) -> str:
        """The address as it may be shown."""
        return self.address if self.is_local or not self.address else self.remote()[2].rstrip("/")

    def remote(self) -> tuple[Any, str, str, tuple[str, ...]]:
        """The file system, the path of the folder in it, the address to show, and the secrets in that."""
        key = (self.address, repr(self.storage_options))
        if key not in _FOUND:
            _FOUND[key] = find(self.address, None, self.storage_options)
        return _FOUND[key]

    def place(self, name: str) -> Place:
        """The place of a file below.

        Args:
            name: relative to the folder, with `/` between folders.
        """
        if not self.address:
            return locate(name)
        if self.is_local:
            return LocalFile(os.path.join(self.address, name))
        system, path, shown, secrets = self.remote()
        return RemoteFile(system, f"{path.rstrip('/')}/{name}", f"{shown.rstrip('/')}/{name}", secrets)

    def output(self, name: str) -> Place:
        """The place of a file that is to be written: the folders that it needs are made."""
        place = self.place(name)
        if isinstance(place, LocalFile):
            with place.explained("written"):
                os.makedirs(os.path.dirname(place.path), exist_ok=True)
        return place

    def address_of(self, name: str) -> str:
        """The address of a file below, as it may be shown."""
        if not self.address:
            return shown_and_secrets(name)[0]
        return shown(f"{self.shown.rstrip('/')}/{name}")

    def files(self) -> "Iterator[Source]":
        """Every file below, as a stream, in no order; none where there is no folder."""
        if not self.is_local:
            return _below(self, *self.remote()[:2])
        return _local(self.address) if os.path.isdir(self.address) else iter(())


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a job, as it was listed."""

    #: The folder that it stands below.
    root: Root
    #: Where, relative to that, with `/` between folders.
    name: str
    #: Bytes; 0 where the listing does not say.
    size: int = 0
    #: When it was changed last, in nanoseconds since 1970; 0 where the listing does not say.
    modified: int = 0
    #: Why it is no file that can be read, where the listing found that out.
    problem: str | None = None

    @property
    def address(self) -> str:
        """Where it stands, as it may be shown."""
        return self.root.address_of(self.name)

    def place(self) -> Place:
        """Where it stands."""
        return self.root.place(self.name)


def listed(address: Any, *, storage_options: Mapping[str, Any] | None = None) -> Iterator[Source]:
    """The files that an address names, as a stream: folders are walked, the pages of a bucket are passed on.

    Args:
        address: a path, a glob, a folder, one of an object store, an address of one payload; a `Source`; or any
            iterable of these, which may be longer than memory.
        storage_options: for fsspec's file system of the address.

    Raises:
        NotFound: nothing stands there.
        AccessDenied: the folder cannot be listed. A folder further down that cannot be is a source with a `problem`.

    Examples:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> _ = open(folder + "/a.csv", "w").write("id\\n1\\n")
        >>> [(source.name, source.size) for source in listed(folder)]
        [('a.csv', 5)]
    """
    if isinstance(address, Source):
        yield address
        return
    if isinstance(address, str | os.PathLike):
        text = os.fsdecode(os.fspath(address))
        scheme = SCHEME.match(text)
        if scheme and scheme[1].lower() in WHOLE:
            found: Iterator[Source] = iter([Source(Root(""), text)])
        elif scheme is None or scheme[1].lower() == "file":
            found = _local(local_path(text) if scheme else text)
        else:
            found = _remote(text, storage_options)
        first = next(found, None)
        if first is None:
            raise NotFound(
                f"{shown_and_secrets(text)[0]} names no file: the folder is empty, or the pattern matches nothing"
            )
        yield first
        yield from found
        return
    if not isinstance(address, Iterable) or isinstance(address, bytes | bytearray | memoryview):
        raise InvalidOption(f"a job takes addresses of files, not a {type(address).__qualname__}")
    for each in address:
        yield from listed(each, storage_options=storage_options)


def is_one(address: str) -> bool:
    """Whether an address names one file or payload: no folder, no glob.

    Examples:
        >>> is_one("trades.arrow"), is_one("*.arrow"), is_one("shm://desk/trades")
        (True, False, True)
    """
    scheme = SCHEME.match(address)
    if scheme and scheme[1].lower() in WHOLE:
        return True
    if scheme and scheme[1].lower() != "file":
        if MAGIC.search(address.partition("?")[0]):
            return False
        place = locate(address)
        with place.explained("read"):  # type: ignore[attr-defined]
            kind = place.filesystem.get_file_info(place.path).type  # type: ignore[attr-defined]
        return bool(kind != pyarrow.fs.FileType.Directory)
    path = local_path(address) if scheme else address
    return (os.path.lexists(path) and not os.path.isdir(path)) or not (MAGIC.search(path) or os.path.isdir(path))


def _local(path: str) -> Iterator[Source]:
    if not os.path.isdir(path) and (os.path.lexists(path) or not MAGIC.search(path)):
        LocalFile(path)  # says what is wrong with a name that none can be
        if not os.path.lexists(path):
            raise NotFound(f"{path} does not exist: check the name and the folder")
        folder, name = os.path.split(os.path.abspath(path))
        yield _stated(Root(folder), name, None)
        return
    folder, found = matching(path)
    root = Root(os.path.abspath(folder))
    for name, entry in found:
        yield _stated(root, name, entry)


def _stated(root: Root, name: str, entry: "os.DirEntry[str] | OSError | None") -> Source:
    if isinstance(entry, OSError):
        folder = os.path.join(root.address, name) if name else root.address
        said = f"the folder {folder} cannot be listed: {entry.strerror}"
        if not name:
            raise AccessDenied(said) from entry
        return Source(root, name, problem=said)
    try:
        found = os.stat(os.path.join(root.address, name)) if entry is None else entry.stat()
    except OSError:  # the task says why
        return Source(root, name)
    return Source(root, name, found.st_size, found.st_mtime_ns)


def _glob(before: str, path: str) -> "re.Match[str] | None":
    """Where the first magic character stands in a path; none is magic that the address has percent-encoded."""
    return MAGIC.search(path) if MAGIC.search(before) else None


def _remote(text: str, storage_options: Mapping[str, Any] | None) -> Iterator[Source]:
    system, path, shown, secrets = find(text, None, storage_options)
    whole = RemoteFile(system, path, shown, secrets)
    before, question, query = text.partition("?")
    magic = _glob(before, path)
    if magic is None:
        with whole.explained("read"):
            info = system.get_file_info(path)
        if info.type == pyarrow.fs.FileType.Directory:
            for source in _below(Root(text, storage_options), system, path):
                if all(map(is_data, source.name.split("/"))):
                    yield source
            return
        if info.type == pyarrow.fs.FileType.NotFound:
            raise NotFound(f"{shown} does not exist")
        root = Root(before.rpartition("/")[0] + question + query, storage_options)
        yield _informed(root, path.rpartition("/")[2], info)
        return
    # The folder above the first segment with a magic character.
    folder = before[: MAGIC.search(before).start()].rpartition("/")[0]  # type: ignore[union-attr]
    below = path[: magic.start()].rpartition("/")[0]
    root = Root(folder + question + query, storage_options)
    wanted = pattern(path)
    for source in _below(root, system, below):
        if wanted.fullmatch(f"{below}/{source.name}") and is_meant(source.name, path):
            yield source


def _below(root: Root, system: Any, path: str) -> Iterator[Source]:
    """What is below a folder of an object store: page by page where that can be asked for, else folder by folder."""
    top = RemoteFile(system, path, root.shown, root.remote()[3])
    pages = _pages(system, path) if system.type_name == "s3" else None
    if pages is not None:
        with top.explained("listed"):
            for key, size, modified in pages:
                yield Source(root, key, size, modified)
        return
    left = [path]
    while left:
        folder = left.pop()
        try:
            with top.explained("listed"):
                found = system.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
        except AljavaError as error:
            if folder == path:
                raise
            yield Source(root, folder[len(path) :].lstrip("/"), problem=f"a folder cannot be listed: {error}")
            continue
        for info in found:
            if info.type == pyarrow.fs.FileType.Directory:
                if is_data(info.base_name):
                    left.append(info.path)
            elif is_data(info.base_name):
                yield _informed(root, info.path[len(path) :].lstrip("/"), info)


def _informed(root: Root, name: str, info: Any) -> Source:
    return Source(root, name, info.size or 0, info.mtime_ns or 0)


def _pages(system: Any, path: str) -> Iterator[tuple[str, int, int]] | None:
    """The keys below a prefix of S3, a thousand a page; None where boto3 is not installed.

    pyarrow has no call that returns before all of a listing is there. Its file system says how it reaches the server
    when it is pickled.
    """
    try:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return None
    (options,) = system.__reduce__()[1]
    if options["role_arn"]:
        return None
    endpoint = options["endpoint_override"]
    client = boto3.client(
        "s3",
        region_name=options["region"],
        aws_access_key_id=options["access_key"] or None,
        aws_secret_access_key=options["secret_key"] or None,
        aws_session_token=options["session_token"] or None,
        endpoint_url=f"{options['scheme']}://{endpoint}" if endpoint and "://" not in endpoint else endpoint or None,
        verify=options["tls_ca_file_path"] or None,
        config=Config(
            signature_version=UNSIGNED if options["anonymous"] else None,
            s3={
                "addressing_style": "virtual" if options["force_virtual_addressing"] else "path" if endpoint else "auto"
            },
        ),
    )
    bucket, _, prefix = path.strip("/").partition("/")
    prefix = prefix and prefix.rstrip("/") + "/"

    def keys() -> Iterator[tuple[str, int, int]]:
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", ()):
                    name = item["Key"][len(prefix) :]
                    if name and not name.endswith("/"):
                        yield name, item["Size"], int(item["LastModified"].timestamp()) * 1_000_000_000
        except (ClientError, BotoCoreError) as error:
            raise OSError(str(error)) from None

    return keys()


def in_folder(folder: Root, other: Root) -> bool:
    """Whether a folder is another or lies below it, links followed.

    Examples:
        >>> in_folder(Root("/data/out"), Root("/data")), in_folder(Root("/data"), Root("/data/out"))
        (True, False)
    """
    if folder.is_local != other.is_local or not other.address:
        return False
    if folder.is_local:
        inner, outer = (os.path.realpath(root.address) for root in (folder, other))
        return os.path.join(inner, "").startswith(os.path.join(outer, ""))
    (system, inner, *_), (other_system, outer, *_) = folder.remote(), other.remote()
    return bool(system.equals(other_system)) and f"{inner.strip('/')}/".startswith(f"{outer.strip('/')}/")


def feeding(
    address: Any, target: Root, rename: Callable[[str], str], storage_options: Mapping[str, Any] | None = None
) -> Root | None:
    """The folder of sources in which what goes to a target would be listed too; None if that cannot be.

    Args:
        address: of sources.
        target: where outputs go.
        rename: makes the name of an output of that of a source.
        storage_options: for fsspec's file system of the address.
    """
    if not isinstance(address, str | os.PathLike):
        return None
    text = os.fsdecode(os.fspath(address))
    scheme = SCHEME.match(text)
    if scheme and scheme[1].lower() in WHOLE:
        return None
    if scheme is None or scheme[1].lower() == "file":
        path = os.path.abspath(local_path(text) if scheme else text)
        magic = None if os.path.lexists(path) else MAGIC.search(path)
        if magic is None:
            root = Root(path)
            return root if os.path.isdir(path) and in_folder(target, root) else None
        root = Root(os.path.dirname(path[: magic.start()]))
        inner, outer = os.path.realpath(target.address), os.path.realpath(root.address)
    else:
        system, path, shown, secrets = find(text, None, storage_options)
        before, question, query = text.partition("?")
        magic = _glob(before, path)
        if magic is None:
            with RemoteFile(system, path, shown, secrets).explained("read"):
                info = system.get_file_info(path)
            root = Root(text, storage_options)
            is_folder = info.type == pyarrow.fs.FileType.Directory
            return root if is_folder and in_folder(target, root) else None
        folder = before[: MAGIC.search(before).start()].rpartition("/")[0]  # type: ignore[union-attr]
        root = Root(folder + question + query, storage_options)
        outer = path[: magic.start()].rpartition("/")[0]
        inner = "" if target.is_local else target.remote()[1].rstrip("/")
    if not in_folder(target, root):
        return None
    below = path[len(path[: magic.start()].rpartition("/")[0]) :]
    sample = rename(re.sub(r"\[[^\]]*\]|[*?]", "x", path.rpartition("/")[2]))
    return root if "**" in below or pattern(outer + below).fullmatch(f"{inner}/{sample}") else None


def shown(name: str) -> str:
    """A file's name as text that can be written; the bytes of one that is no text are spelled out."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def stem(name: str, ends: Iterable[str]) -> str:
    """A name without the end that says its format.

    Args:
        name: of a file, or a whole address.
        ends: that can be taken off, each with its dot; longer ones first.

    Examples:
        >>> stem("2026/june.csv.gz", (".csv.gz", ".csv")), stem("https://host/june.csv?v=2", (".csv",))
        ('2026/june', 'june')
    """
    if SCHEME.match(name):
        name = urlsplit(name).path.rpartition("/")[2] or "table"
    for end in ends:
        if name.lower().endswith(end) and not name[: -len(end)].endswith("/") and len(name) > len(end):
            return name[: -len(end)]
    return name
