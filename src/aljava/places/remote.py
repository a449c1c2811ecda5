"""Files of object stores and other machines, through the file systems of pyarrow and of fsspec.

An object is written in one go when all of its bytes are here: they are gathered in memory, or in a temporary file of
this machine when they are many. Streaming them up would leave half an object behind a writer that fails, since a
stream of pyarrow that is let go of is completed and not aborted.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

import pyarrow as pa
import pyarrow.fs

from aljava.errors import (
    AccessDenied,
    AddressError,
    AljavaError,
    AlreadyExists,
    InvalidData,
    InvalidOption,
    MissingDependency,
    NotFound,
    TransferError,
)
from aljava.places.place import Place
from aljava.places.ranged import RangedFile, RangedSource

# What is larger waits in a file rather than in memory.
IN_MEMORY = 64 << 20
CHUNK = 16 << 20

#: How long Google's client tries again where its server cannot be reached: of itself a quarter of an hour.
PATIENCE_SECONDS = 20
# What may stand in the path and the query of a URI; percent signs are the user's own encoding.
_LEGAL = "%/:?@!$&'()*+,;=~"

FileSystem = pyarrow.fs.FileSystem


class RemoteFile(Place):
    """A file of a file system that is not this machine's own.

    Args:
        filesystem: of pyarrow.
        path: of the file, in that file system.
        address: what the user calls it, without credentials.
        secrets: texts that never appear in a message.
    """

    remote = True

    def __init__(self, filesystem: Any, path: str, address: str, secrets: Iterable[str] = ()) -> None:
        self.filesystem, self.path, self.address = filesystem, path, address
        self._secrets = tuple(secret for secret in secrets if secret)

    def source(self) -> pa.NativeFile:
        with self.explained("read"):
            file = self.filesystem.open_input_file(self.path)
            size = file.size()
        if not size:
            raise InvalidData(f"{self.address} is empty (0 bytes): its writer has not finished, or failed")

        def fetch(low: int, high: int) -> bytes:
            with self.explained("read"):
                return bytes(file.read_at(high - low, low))

        return RangedSource(RangedFile(fetch, size, self.address), mode="r")

    @contextmanager
    def sink(self, *, create: bool = False, durable: bool = False) -> Iterator[Any]:
        if create:
            self._must_be_free()
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as spool:
            yield spool
            spool.seek(0)
            if create:
                self._must_be_free()
            with self.explained("written"):
                self._upload(spool)

    def _upload(self, spool: Any) -> None:
        stream = self.filesystem.open_output_stream(self.path)
        try:
            while chunk := spool.read(CHUNK):
                stream.write(chunk)
        except OSError:
            # The stream remembers its failure, and closing it completes nothing.
            stream = None
            raise
        stream.close()

    def _must_be_free(self) -> None:
        with self.explained("written"):
            if self.filesystem.get_file_info(self.path).type != pyarrow.fs.FileType.NotFound:
                raise AlreadyExists(f'{self.address} exists already, and mode="create" does not replace it')

    @contextmanager
    def explained(self, done: str) -> Iterator[None]:
        """Turns the errors of a file system into ours."""
        try:
            yield
        except AljavaError:
            raise
        except FileNotFoundError:
            raise NotFound(f"{self.address} does not exist") from None
        except PermissionError as error:
            raise AccessDenied(f"{self.address} cannot be {done}: {self._reason(error)}") from None
        except (OSError, pa.ArrowException) as error:
            reason = self._reason(error)
            if re.search(r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|Unauthorized|Forbidden|\b40[13]\b", reason):
                raise AccessDenied(f"{self.address} cannot be {done}: {reason}") from None
            if re.search(r"NO_SUCH_(KEY|BUCKET)|NOT_FOUND|Path does not exist|\b404\b", reason):
                raise NotFound(f"{self.address} does not exist: {reason}") from None
            raise TransferError(f"{self.address} cannot be {done}: {reason}") from None

    def _reason(self, error: BaseException) -> str:
        return without(self._secrets, str(error))


def without(secrets: Iterable[str], text: str) -> str:
    """The text with every secret struck out."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def find(address: str, filesystem: Any = None, storage_options: Any = None) -> tuple[Any, str, str, tuple[str, ...]]:
    """The file system behind an address, the path in it, the address to show, and the secrets in it.

    Args:
        address: `SCHEME://…`, or with `filesystem` a path in it.
        filesystem: of pyarrow or of fsspec; handed on untouched.
        storage_options: for fsspec's file system of that scheme; handed on untouched.

    Raises:
        AddressError: neither pyarrow nor fsspec knows the scheme.
        MissingDependency: fsspec, or the package that it needs for the scheme, is not installed.
    """
    scheme, _, rest = address.partition("://")
    shown, secrets = shown_and_secrets(address)
    if filesystem is not None:
        if storage_options is not None:
            raise InvalidOption("filesystem= and storage_options= both say how to get there: give one")
        path = rest.partition("?")[0] if rest else address
        return _wrapped(filesystem), path, shown, secrets
    if storage_options is None:
        try:
            system, path = _azure(scheme, rest) or FileSystem.from_uri(_quoted(address))
            return system, path, shown, secrets
        except pa.ArrowInvalid as error:
            if "Unrecognized filesystem type" not in str(error):
                raise AddressError(f"{shown} cannot be understood: {without(secrets, str(error))}") from None
        except (pa.ArrowNotImplementedError, OSError) as error:
            raise TransferError(f"{shown} cannot be reached: {without(secrets, str(error)[:500])}") from None
    else:
        secrets += tuple(_texts(storage_options))
    return (*_by_fsspec(scheme, address, shown, storage_options), shown, secrets)


def shown_and_secrets(address: str) -> tuple[str, tuple[str, ...]]:
    """An address as it may be shown: without user, password and query; and the parts that were struck."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address, ()
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    # In abfs://CONTAINER@ACCOUNT the part before the @ is no secret; a password follows a colon.
    if scheme in ("abfs", "abfss") and ":" not in user:
        user, host = "", authority
    secrets = [part for part in (user, *user.split(":", 1), query) if part]
    return f"{scheme}://{host}{slash}{path}", tuple(secrets)


def _quoted(address: str) -> str:
    """The address with what a URI cannot hold (spaces, letters beyond ASCII) percent-encoded, and the rest as it is."""
    scheme, _, rest = address.partition("://")
    authority, slash, path = rest.partition("/")
    patience = ""
    if scheme in ("gs", "gcs") and "retry_limit_seconds" not in path:
        patience = f"{'&' if '?' in path else '?'}retry_limit_seconds={PATIENCE_SECONDS}"
    return f"{scheme}://{authority}{slash}{quote(path, safe=_LEGAL)}{patience}"


def _azure(scheme: str, rest: str) -> tuple[Any, str] | None:
    """The file system of an Azure address with a key in it; None for any other address.

    pyarrow 26 reads such an address and leaves the key out: it looks for credentials elsewhere, and may end the process
    where it finds none.
    """
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    login, _, host = authority.rpartition("@")
    user, colon, key = login.partition(":")
    if scheme not in ("abfs", "abfss") or not colon:
        return None
    account, _, domain = host.partition(".")
    given: dict[str, str] = {}
    if domain in ("dfs.core.windows.net", "blob.core.windows.net"):
        path = f"{user}/{path}" if user else path
    else:
        account = user
        given = {"blob_storage_authority": host, "dfs_storage_authority": host}
    if dict(parse_qsl(query)).get("enable_tls") == "false":
        given |= {"blob_storage_scheme": "http", "dfs_storage_scheme": "http"}
    system = pyarrow.fs.AzureFileSystem(account_name=account, account_key=unquote(key), **given)
    return system, unquote(path)


def _texts(options: Any) -> Iterator[str]:
    values = options.values() if isinstance(options, dict) else options if isinstance(options, list | tuple) else ()
    for value in values:
        if isinstance(value, str) and len(value) > 3:
            yield value
        else:
            yield from _texts(value)


def _wrapped(filesystem: Any) -> Any:
    if isinstance(filesystem, FileSystem):
        return filesystem
    if hasattr(filesystem, "protocol") and hasattr(filesystem, "cat_file"):
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))
    raise InvalidOption(f"filesystem= takes one of pyarrow or of fsspec, not a {type(filesystem).__qualname__}")


def _by_fsspec(scheme: str, address: str, shown: str, storage_options: Any) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise MissingDependency(
            f"{shown} needs fsspec, which is not installed: pip install 'aljava[cloud]', or give filesystem="
        ) from error
    if scheme not in {*fsspec.available_protocols(), *fsspec.registry}:
        raise AddressError(
            f"{shown} is of an unknown kind ({scheme}://): give a path, file://, shm://STORE/KEY, http(s)://, s3://, "
            f"gs://, abfs://, hdfs:// or one that fsspec knows ({', '.join(sorted(fsspec.available_protocols()))})"
        )
    try:
        filesystem, path = fsspec.core.url_to_fs(address, **(storage_options or {}))
    except ImportError as error:
        raise MissingDependency(f"{shown} needs a package for {scheme}://: {error}") from error
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), os.fspath(path)
