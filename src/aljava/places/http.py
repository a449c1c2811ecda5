"""Files on a web server, read by range."""

import base64
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import pyarrow as pa

from aljava.errors import AccessDenied, AljavaError, InvalidData, InvalidOption, NotFound, TransferError
from aljava.places.place import Place
from aljava.places.ranged import TAIL, RangedFile, RangedSource

TIMEOUT = 60
_TOTAL = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class HttpFile(Place):
    """A file at an `http://` or `https://` address. A server that knows no ranges is read whole.

    Args:
        address: the URL; `user:password@` in it is sent as basic authentication and never shown.
        storage_options: `headers`, a mapping of further request headers.
    """

    remote = True

    def __init__(self, address: str, storage_options: Mapping[str, Any] | None = None) -> None:
        parts = urlsplit(address)
        netloc = parts.netloc.rpartition("@")[2]
        self._url = urlunsplit(parts._replace(netloc=netloc))
        # A signed URL carries its signature in the query.
        self.address = urlunsplit(parts._replace(netloc=netloc, query="", fragment=""))
        options = dict(storage_options or {})
        self._headers = {str(name): str(value) for name, value in options.pop("headers", {}).items()}
        if options:
            raise InvalidOption(f"storage_options of http:// addresses has only 'headers', not {', '.join(options)}")
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"

    def source(self) -> pa.NativeFile:
        with self._explained(), self._ask(f"bytes=-{TAIL}") as response:
            match = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
            content = response.read()
            if response.status != 206 or match is None:
                if not content:
                    raise InvalidData(f"{self.address} is empty (0 bytes)")
                return pa.BufferReader(content)
            size = int(match[3])
        return RangedSource(RangedFile(self._fetch, size, self.address, content), mode="r")

    def sink(self, *, create: bool = False, durable: bool = False) -> Any:
        raise InvalidOption(f"{self.address}: http:// addresses are read, not written")

    def _fetch(self, low: int, high: int) -> bytes:
        with self._explained(), self._ask(f"bytes={low}-{high - 1}") as response:
            if response.status != 206:
                raise TransferError(f"{self.address} answered a request for a range with status {response.status}")
            return bytes(response.read())

    def _ask(self, range: str) -> Any:
        request = urllib.request.Request(self._url, headers={**self._headers, "Range": range})
        return urllib.request.urlopen(request, timeout=TIMEOUT)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AljavaError:
            raise
        except urllib.error.HTTPError as error:
            with error:
                match error.code:
                    case 404 | 410:
                        raise NotFound(f"{self.address} does not exist (status {error.code})") from None
                    case 401 | 403 | 407:
                        raise AccessDenied(f"{self.address} is refused by the server (status {error.code})") from None
                    case 416:
                        raise InvalidData(f"{self.address} is empty (0 bytes)") from None
                raise TransferError(f"{self.address} cannot be read: the server answered {error.code}") from None
        except http.client.IncompleteRead as error:
            raise TransferError(
                f"{self.address}: the connection was cut after {len(error.partial):,} bytes; try again"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise TransferError(f"{self.address} cannot be read: {reason}") from error
