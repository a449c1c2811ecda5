"""Every error that Aljava raises for a user to meet.

Each names the address, the reason and, where there is one, the way out. They also derive from the exception that
Python or pyarrow would raise in the same place, so that code written for those keeps working::

    AljavaError
    ├── InvalidOption (ValueError)              an argument that cannot be meant
    ├── AddressError (ValueError)               an address of no known kind, or malformed
    ├── NotFound (FileNotFoundError)            nothing stands at the address
    ├── AlreadyExists (FileExistsError)         mode="create", and something stands there
    ├── AccessDenied (PermissionError)          the system does not let us
    ├── TransferError (OSError)                 reading or writing failed underneath: disk full, connection cut
    ├── InvalidData (pyarrow.ArrowInvalid)      the bytes are not what they should be
    │   └── TruncatedFile                       a file without its end; `aljava repair` saves what is whole
    ├── SchemaMismatch (pyarrow.ArrowInvalid)   data that does not fit the schema it meets
    ├── UnsupportedType (pyarrow.ArrowNotImplementedError)  a type, or kind of object, that cannot go there
    ├── QueryError (ValueError)                 SQL or a filter that cannot be run
    ├── StoreError
    │   ├── KeyNotFound (KeyError)              no such key in the store
    │   ├── InvalidKey (ValueError)             a name that cannot be a key or a store
    │   ├── StoreFull (MemoryError)             the capacity, or the machine's memory, is used up
    │   └── StoreBusy (TimeoutError)            a wait that came to its end
    ├── JobError (RuntimeError)                 a bulk job that cannot begin, or has lost what it runs on
    ├── MissingDependency (ImportError)         an optional package is not installed; says which extra brings it
    └── UnsupportedPlatform (NotImplementedError)  this system cannot do it
"""

from importlib import import_module
from typing import Any

import pyarrow as pa


class AljavaError(Exception):
    """The root of all errors of Aljava.

    Examples:
        >>> import aljava
        >>> try:
        ...     aljava.read("no-such-file.arrow")
        ... except aljava.AljavaError as error:
        ...     print(type(error).__name__)
        NotFound
    """

    def __str__(self) -> str:
        # OSError and KeyError print their arguments in forms of their own; a user reads a sentence.
        return str(self.args[0]) if self.args else ""


class InvalidOption(AljavaError, ValueError):
    """An argument that cannot be meant: an unknown codec, a negative number of rows."""


class AddressError(AljavaError, ValueError):
    """An address of no known kind, or one that is malformed."""


class NotFound(AljavaError, FileNotFoundError):
    """Nothing stands at the address."""


class AlreadyExists(AljavaError, FileExistsError):
    """Something stands at the address already, and `mode="create"` does not replace it."""


class AccessDenied(AljavaError, PermissionError):
    """The operating system or the server does not let this user."""


class TransferError(AljavaError, OSError):
    """Reading or writing failed underneath: a full disk, a broken pipe, a connection that was cut."""


class InvalidData(AljavaError, pa.ArrowInvalid):
    """The bytes are not what they should be: damaged, hostile, or of another format."""


class TruncatedFile(InvalidData):
    """A file without its end: its writer died, or a copy was cut short."""


class SchemaMismatch(AljavaError, pa.ArrowInvalid):
    """The data does not fit the schema that it meets."""


class UnsupportedType(AljavaError, pa.ArrowNotImplementedError):
    """A type, or a kind of object, that cannot go where it was sent."""


class QueryError(AljavaError, ValueError):
    """SQL or a filter that cannot be run."""


class StoreError(AljavaError):
    """What can go wrong in a shared memory store."""


class KeyNotFound(StoreError, KeyError):
    """The store has no such key."""


class InvalidKey(StoreError, ValueError):
    """A name that cannot be that of a key or of a store."""


class StoreFull(StoreError, MemoryError):
    """The store's capacity, or the machine's shared memory, is used up."""


class StoreBusy(StoreError, TimeoutError):
    """A wait on another process came to its end."""


class JobError(AljavaError, RuntimeError):
    """A bulk job that cannot begin, or has lost what it runs on: no scheduler, a worker that does not fit, a manifest
    of another job.
    """


class MissingDependency(AljavaError, ImportError):
    """An optional package is not installed."""


class UnsupportedPlatform(AljavaError, NotImplementedError):
    """This operating system cannot do what was asked."""


def require(module: str, extra: str | None = None, name: str | None = None) -> Any:
    """A module of an optional package, imported.

    Args:
        module: its name.
        extra: the extra that brings the package; by default called as the module is.
        name: of the package, for people; by default the module's.

    Raises:
        MissingDependency: it is not installed.

    Example:
        >>> require("pandas").__name__
        'pandas'
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"this needs {name or module}, which is not installed: pip install 'aljava[{extra or module}]'"
        ) from error
