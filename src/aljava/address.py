"""Addresses: from what a user writes to the place that it names.

======================  ==================================================
`"x.arrow"`, a `Path`   a file of this machine (`file://` too)
`"shm://STORE/KEY"`     an object in a store of shared memory
`b"…"`, `pa.Buffer`     bytes of this process
`open("x", "rb")`       a file object
======================  ==================================================
"""

import os
import re
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from aljava.errors import AddressError
from aljava.places.place import Place

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
KINDS = "a path, file://, shm://STORE/KEY, a buffer or a file object"


def locate(address: Any) -> Place:
    """The place that an address names. Nothing is opened or looked for yet.

    Raises:
        AddressError: no known kind of address, or a malformed one.

    Example:
        >>> locate("trades.arrow").address
        'trades.arrow'
    """
    if isinstance(address, Place):
        return address
    if isinstance(address, str) and (match := _SCHEME.match(address)):
        return _by_scheme(address, match[1].lower())
    if isinstance(address, str | os.PathLike):
        if not os.fspath(address):
            raise AddressError(f"an empty address: give {KINDS}")
        from aljava.places.local import LocalFile

        return LocalFile(address)
    if isinstance(address, pa.Buffer) or _is_buffer(address):
        from aljava.places.memory import MemoryBuffer

        return MemoryBuffer(address)
    if hasattr(address, "read") or hasattr(address, "write"):
        from aljava.places.fileobject import FileObject

        return FileObject(address)
    raise AddressError(f"a {type(address).__qualname__} is no address: give {KINDS}")


def _by_scheme(address: str, scheme: str) -> Place:
    if scheme == "file":
        from aljava.places.local import LocalFile

        parts = urlsplit(address)
        if parts.netloc not in ("", "localhost"):
            raise AddressError(f"{address} names another machine ({parts.netloc}): file:// is for this one")
        return LocalFile(unquote(parts.path))
    if scheme == "shm":
        from aljava.places.shared import SharedObject

        return SharedObject(address)
    raise AddressError(f"{address.partition('?')[0]} is of an unknown kind ({scheme}://): give {KINDS}")


def _is_buffer(address: Any) -> bool:
    try:
        memoryview(address)
    except TypeError:
        return False
    return True
