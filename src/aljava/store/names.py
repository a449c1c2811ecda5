"""Which names a store and its keys may have, and the file names that stand for keys.

Any text up to the file system's limit can be a key: what a file name cannot hold, and what would be a path or a hidden
file, is percent-escaped, so that a key never leaves its store's folder. Letters of every script, and emoji, stay.
"""

import os
import re
from urllib.parse import unquote

from aljava.errors import InvalidKey

SUFFIX = ".arrow"
# Linux and macOS: NAME_MAX.
_LONGEST = 255
_ESCAPED = re.compile(r"[/%\\\x00-\x1f\x7f]|^\.")
_STORE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def file_name(key: str) -> str:
    """The name of the file that holds the object of a key.

    Example:
        >>> file_name("trades"), file_name("../x"), file_name("daily/eu")
        ('trades.arrow', '%2E.%2Fx.arrow', 'daily%2Feu.arrow')
    """
    if not isinstance(key, str):
        raise InvalidKey(f"a key is text, not {type(key).__name__}: {key!r}")
    if not key:
        raise InvalidKey("a key cannot be empty")
    name = _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", key) + SUFFIX
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"the key {key!r} is not valid Unicode text") from None
    if length > _LONGEST:
        raise InvalidKey(
            f"the key {key[:20]!r}… takes {length - len(SUFFIX)} bytes as a file name; the limit is "
            f"{_LONGEST - len(SUFFIX)}"
        )
    return name


def key_of(name: str) -> str | None:
    """The key that a file name stands for, or `None` for a file that is no object."""
    if name.startswith(".") or not name.endswith(SUFFIX):
        return None
    return unquote(name.removesuffix(SUFFIX))


def check_store_name(name: str) -> str:
    """Returns the name of a store unchanged, or raises `InvalidKey`."""
    if not isinstance(name, str) or not _STORE.fullmatch(name):
        raise InvalidKey(
            f"{name!r} cannot name a store: use 1 to 100 letters, digits, '_', '-' and '.', the first no '.' or '-'"
        )
    return name


def root_folder() -> str:
    """The folder of all stores: `$ALJAVA_SHM`, else a folder of this user in the machine's memory file system."""
    if chosen := os.environ.get("ALJAVA_SHM"):
        return chosen
    base = "/dev/shm" if os.path.isdir("/dev/shm") else os.environ.get("TMPDIR", "/tmp")
    return os.path.join(base, f"aljava-{os.geteuid()}")
