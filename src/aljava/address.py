"""Addresses: from what a user writes to the places that it names.

==============================  ======================================================
`"x.arrow"`, a `Path`           a file of this machine (`file://` too)
`"day=*/x.arrow"`, a folder     the files in it, with their Hive partitions
`["x.arrow", "y.arrow"]`        several addresses as one table
`"shm://STORE/KEY"`             an object in a store of shared memory; `"shm://STORE"` is all of them as one table
`"s3://BUCKET/KEY"`, `"gs://"`  objects of a file system of pyarrow or fsspec
`"https://HOST/x.arrow"`        a file on a web server
`"unix:///PATH"`, `"tcp://"`    a socket: `write` calls there, `read` waits there (`tcp+tls://` too)
`"http://HOST/tables/NAME"`     a table of `aljava serve` (`https://` too)
`"grpc://HOST:PORT/NAME"`       the same by Arrow Flight (`grpc+tls://` too)
`"-"`, `"fd:3"`, a named pipe   standard input or output, an open descriptor, a pipe
`b"…"`, `pa.Buffer`             bytes of this process
`open("x", "rb")`               a file object
==============================  ======================================================
"""

import os
import re
import stat
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from aljava.errors import AddressError, InvalidOption
from aljava.places.place import Place

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# A table of `aljava serve`; a file of a web server has an end to its name.
_SERVED = re.compile(r"^/tables/[^.]+$")
_DESCRIPTOR = re.compile(r"fd:\d+")
#: Schemes whose addresses name one table each, and never a folder or a glob.
WHOLE = ("shm", "http", "https", "unix", "tcp", "tcp+tls", "grpc", "grpc+tls")
KINDS = (
    "a path, file://, shm://STORE/KEY, unix:///PATH, tcp://HOST:PORT, fd:N, -, http(s)://, s3://, gs://, "
    "abfs://, hdfs:// or what else fsspec knows, "
    "a buffer or a file object"
)


def locate(address: Any, *, filesystem: Any = None, storage_options: Mapping[str, Any] | None = None) -> Place:
    """The one place that an address names. Nothing is opened or looked for yet.

    Args:
        address: what the module's docstring lists, but no glob and no list.
        filesystem: of pyarrow or fsspec, in which the address is a path.
        storage_options: for fsspec's file system, or `headers` for http.

    Raises:
        AddressError: no known kind of address, or a malformed one.

    Example:
        >>> locate("trades.arrow").address
        'trades.arrow'
    """
    if isinstance(address, Place):
        return address
    if filesystem is not None or storage_options is not None:
        return _with_options(address, filesystem, storage_options)
    if isinstance(address, str) and (match := SCHEME.match(address)):
        return _by_scheme(address, match[1].lower())
    if isinstance(address, str) and (address == "-" or _DESCRIPTOR.fullmatch(address)):
        from aljava.places.pipes import DescriptorPlace

        return DescriptorPlace(address)
    if isinstance(address, str | os.PathLike):
        if not os.fspath(address):
            raise AddressError(f"an empty address: give {KINDS}")
        if _is_named_pipe(address):
            from aljava.places.pipes import NamedPipe

            return NamedPipe(address)
        from aljava.places.local import LocalFile

        return LocalFile(address)
    if isinstance(address, pa.Buffer) or _is_buffer(address):
        from aljava.places.memory import MemoryBuffer

        return MemoryBuffer(address)
    if hasattr(address, "read") or hasattr(address, "write"):
        from aljava.places.fileobject import FileObject

        return FileObject(address)
    raise AddressError(f"no address is of type {type(address).__qualname__}: give {KINDS}")


def local_path(address: str) -> str:
    """The path behind a `file://` address.

    Raises:
        AddressError: it names another machine.

    Example:
        >>> local_path("file:///tmp/a%20b")
        '/tmp/a b'
    """
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise AddressError(f"{address} names another machine ({parts.netloc}): file:// is for this one")
    # The path as it stands, with what urlsplit takes for a query or a fragment.
    return unquote(address[len("file://") + len(parts.netloc) :])


def _by_scheme(address: str, scheme: str) -> Place:
    match scheme:
        case "file":
            from aljava.places.local import LocalFile

            return LocalFile(local_path(address))
        case "shm":
            from aljava.places.shared import SharedObject

            return SharedObject(address)
        case "unix" | "tcp" | "tcp+tls":
            from aljava.places.sockets import SocketPlace

            return SocketPlace(address)
        case "grpc" | "grpc+tls":
            from aljava.places.flight import FlightTable

            return FlightTable(address)
        case "http" | "https" if _SERVED.search(urlsplit(address).path):
            from aljava.places.served import ServedTable

            return ServedTable(address)
        case "http" | "https":
            from aljava.places.http import HttpFile

            return HttpFile(address)
    from aljava.places.remote import RemoteFile, find

    return RemoteFile(*find(address))


def _with_options(address: Any, filesystem: Any, storage_options: Mapping[str, Any] | None) -> Place:
    if not isinstance(address, str | os.PathLike):
        raise InvalidOption("filesystem= and storage_options= are for addresses that are text")
    text = os.fspath(address)
    match = SCHEME.match(text)
    if filesystem is None and match is None:
        raise InvalidOption(f"{text} is a path of this machine, which has no storage_options")
    if filesystem is None and match is not None and match[1].lower() in ("http", "https"):
        from aljava.places.http import HttpFile

        return HttpFile(text, storage_options)
    from aljava.places.remote import RemoteFile, find

    return RemoteFile(*find(text, filesystem, storage_options))


def _is_named_pipe(path: str | os.PathLike[str]) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except (OSError, ValueError):  # whoever opens it says what is wrong with it
        return False


def _is_buffer(address: Any) -> bool:
    try:
        memoryview(address)
    except TypeError:
        return False
    return True
