"""Endpoints: where a socket address leads, how to call there and how to wait there for a call.

============================================  ==========================================================
`unix:///run/desk.sock`                       a Unix socket, for processes of this machine
`tcp://host:port`                             TCP; port 0 lets the system choose, where one waits
`tcp+tls://host:port?ca=authority.pem`        TLS over TCP, for who calls; `ca` only for an authority of your own
`tcp+tls://host:port?cert=c.pem&key=k.pem`    the same for who waits; with `ca`, callers must have a certificate too
============================================  ==========================================================

Who receives waits (binds and accepts), who sends calls (connects). `?timeout=SECONDS` sets how long to wait for the
other end to appear, and after how long a silent network is taken for a cut one; `?shared_memory=off` keeps a Unix
socket to plain bytes.
"""

import contextlib
import errno
import os
import re
import secrets
import socket
import ssl
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from aljava.errors import AccessDenied, AddressError, InvalidOption, NotFound, TransferError
from aljava.streams.channels import SocketChannel

SCHEMES = ("unix", "tcp", "tcp+tls")
#: Seconds to wait for the other end to appear, for who calls.
APPEAR = 10.0
#: Seconds after which a TCP peer that answers nothing is given up.
PATIENCE = 30.0
_BACKLOG = 128


@dataclass(frozen=True)
class Endpoint:
    """Where a socket address leads."""

    #: The address without its options, for messages.
    address: str
    #: "unix", "tcp" or "tcp+tls".
    scheme: str
    #: The path of a Unix socket, or host and port.
    target: str | tuple[str, int]
    #: Seconds, from `?timeout=`; None where the address has none.
    timeout: float | None
    #: Whether batches may travel through shared memory.
    shared_memory: bool
    #: Paths of PEM files.
    ca: str | None
    cert: str | None
    key: str | None

    @staticmethod
    def parse(address: str) -> "Endpoint":
        """Takes an address apart.

        Raises:
            AddressError: malformed, or with an option that it cannot have.

        Example:
            >>> Endpoint.parse("tcp://localhost:9000?timeout=5").target
            ('localhost', 9000)
        """
        parts = urlsplit(address)
        plain = address.partition("?")[0]
        scheme = parts.scheme.lower()
        allowed = {
            "unix": ("timeout", "shared_memory"),
            "tcp": ("timeout",),
            "tcp+tls": ("timeout", "ca", "cert", "key"),
        }
        options = parse_options(plain, parts.query, allowed[scheme])
        return Endpoint(
            address=plain,
            scheme=scheme,
            target=_path(plain, parts.netloc, parts.path) if scheme == "unix" else _host_and_port(plain, parts),
            timeout=seconds(plain, options),
            shared_memory=_on(plain, options),
            ca=options.get("ca"),
            cert=options.get("cert"),
            key=options.get("key"),
        )

    @property
    def patience(self) -> float:
        """Seconds after which a TCP peer that answers nothing is given up."""
        return PATIENCE if self.timeout is None else self.timeout

    def connect(self) -> SocketChannel:
        """Calls, and keeps calling until somebody waits there or the time is over.

        Raises:
            NotFound: nobody waits there.
            AccessDenied: the system does not let us, or the certificate is not one that we trust.
        """
        limit = APPEAR if self.timeout is None else self.timeout
        context = client_context(self.address, self.ca, self.cert, self.key) if self.scheme == "tcp+tls" else None
        end = time.monotonic() + limit
        pause = 0.001
        while True:
            try:
                return self._connect_once(max(0.01, end - time.monotonic()), context)
            except (ConnectionRefusedError, FileNotFoundError, TimeoutError, BlockingIOError) as error:
                if time.monotonic() + pause >= end:
                    raise NotFound(
                        f"{self.address}: nobody receives there, after {limit:g} seconds of trying. Start the receiver "
                        "(aljava receive, aljava.listen), or wait longer with ?timeout=SECONDS"
                    ) from error
                time.sleep(pause)
                pause = min(0.05, pause * 2)
            except ssl.SSLCertVerificationError as error:
                raise distrusted(self.address, error.verify_message) from error
            except ssl.SSLError as error:
                raise TransferError(f"{self.address}: the other end does not speak TLS: {error}") from error
            except (PermissionError, NotADirectoryError) as error:
                raise AccessDenied(f"{self.address} cannot be reached: {error.strerror}") from error
            except OSError as error:
                raise TransferError(f"{self.address} cannot be reached: {error.strerror or error}") from error

    def _connect_once(self, limit: float, context: ssl.SSLContext | None) -> SocketChannel:
        if isinstance(self.target, str):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(limit)
                connection.connect(self.target)
            except BaseException:
                connection.close()
                raise
            return SocketChannel(connection, self.address, self.patience)
        connection = socket.create_connection(self.target, timeout=limit)
        try:
            if context is not None:
                connection = context.wrap_socket(connection, server_hostname=self.target[0])
            return SocketChannel(connection, self.address, self.patience)
        except BaseException:
            connection.close()
            raise

    def bind(self) -> "Bound":
        """Begins to wait for calls.

        Raises:
            AccessDenied: the system does not let us.
            TransferError: the address is taken, or not one of this machine.
        """
        context = self._server_context()
        try:
            if isinstance(self.target, str):
                return Bound(self, _bind_path(self.target), context)
            family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
            listening = socket.create_server(self.target, family=family, backlog=_BACKLOG)
            return Bound(self, listening, context)
        except PermissionError as error:
            raise AccessDenied(f"{self.address}: this user may not wait there: {error.strerror}") from error
        except OSError as error:
            reason = "somebody waits there already" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
            raise TransferError(f"{self.address}: cannot wait there: {reason}") from error

    def _server_context(self) -> ssl.SSLContext | None:
        if self.scheme != "tcp+tls":
            return None
        if not self.cert:
            raise InvalidOption(f"{self.address}: who waits for TLS calls needs a certificate: add ?cert=FILE&key=FILE")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.ca:
                context.load_verify_locations(self.ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise AccessDenied(f"{self.address}: the certificate or its key cannot be used: {error}") from error
        return context


class Bound:
    """An endpoint at which calls are accepted. A Unix socket's file is removed when it is closed."""

    def __init__(self, endpoint: Endpoint, listening: socket.socket, context: ssl.SSLContext | None) -> None:
        self.endpoint = endpoint
        self._listening = listening
        self._context = context
        self.address = endpoint.address
        self._inode: int | None = None
        if isinstance(endpoint.target, str):
            self._inode = os.stat(endpoint.target).st_ino
        else:
            host, port = endpoint.target[0], listening.getsockname()[1]
            self.address = f"{endpoint.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def fileno(self) -> int:
        return self._listening.fileno()

    def accept(self, timeout: float | None = None) -> socket.socket:
        """The next call, not yet secured.

        Raises:
            TransferError: nobody called within `timeout` seconds.
        """
        self._listening.settimeout(timeout)
        try:
            connection, _ = self._listening.accept()
        except TimeoutError as error:
            raise TransferError(f"{self.address}: nobody called within {timeout:g} seconds") from error
        connection.settimeout(None)
        return connection

    def secure(self, connection: socket.socket, limit: float) -> SocketChannel:
        """Makes a channel of a call; a caller has `limit` seconds to complete a TLS handshake.

        Raises:
            TransferError: it did not, or not with a certificate that is asked for.
        """
        try:
            if self._context is not None:
                connection.settimeout(limit)
                connection = self._context.wrap_socket(connection, server_side=True)
            return SocketChannel(connection, self.address, self.endpoint.patience)
        except (OSError, ssl.SSLError) as error:
            connection.close()
            raise TransferError(f"{self.address}: a caller did not complete the TLS handshake: {error}") from error

    def close(self) -> None:
        if self._inode is not None:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(str(self.endpoint.target)).st_ino == self._inode:
                    os.unlink(str(self.endpoint.target))
            self._inode = None
        self._listening.close()


def client_context(address: str, ca: str | None, cert: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """How a client sees to it that the other end is who it says.

    Raises:
        AccessDenied: a file cannot be used.
    """
    files = [path for path in (ca, cert, key) if path]
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert:
            context.load_cert_chain(cert, key)
    except OSError as error:
        raise AccessDenied(f"{address}: {' or '.join(files)} cannot be used: {error.strerror or error}") from error
    return context


def distrusted(address: str, reason: str) -> AccessDenied:
    """The error for a certificate that does not prove what it should; the reason is OpenSSL's."""
    is_unknown = re.search("self.signed|local issuer|first certificate", reason)
    advice = ". Name the authority that signed it with ?ca=FILE" if is_unknown else ""
    return AccessDenied(f"{address}: its certificate is not trusted: {reason.rstrip('.')}{advice}")


def _bind_path(path: str) -> socket.socket:
    """A Unix socket that listens at `path`, for this user alone; takes the place of one whose owner is dead."""
    # Bound under another name and renamed: who calls `path` never meets a socket that does not listen yet.
    temporary = os.path.join(os.path.dirname(path), f".{secrets.token_hex(6)}")
    listening = socket.socket(socket.AF_UNIX)
    try:
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(temporary)
        try:
            listening.listen(_BACKLOG)
            _require_free(path)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except BaseException:
        listening.close()
        raise
    return listening


def _require_free(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is no socket stands there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except (BlockingIOError, TimeoutError):  # its queue of callers is full: it lives
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _path(address: str, netloc: str, path: str) -> str:
    decoded = unquote(path)
    if netloc or not decoded.startswith("/") or decoded.endswith("/") or "\0" in decoded:
        raise AddressError(f"{address} names no Unix socket: write unix:///ABSOLUTE/PATH")
    # sun_path of sockaddr_un: 108 bytes on Linux, 104 on macOS, with its NUL.
    if len(os.fsencode(decoded)) > 103:
        raise AddressError(f"{address}: the path of a Unix socket has at most 103 bytes: choose a shorter one")
    return decoded


def _host_and_port(address: str, parts: Any) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or parts.path not in ("", "/") or parts.username is not None:
        raise AddressError(f"{address} names no host and port: write {parts.scheme}://HOST:PORT")
    return host, port


def parse_options(address: str, query: str, allowed: Sequence[str]) -> dict[str, str]:
    """The options of an address.

    Raises:
        AddressError: one that it cannot have.
    """
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in allowed:
            raise AddressError(f"{address} has no option {name!r}; it has {', '.join(allowed)}")
    return options


def seconds(address: str, options: Mapping[str, str]) -> float | None:
    """What `?timeout=` says.

    Raises:
        AddressError: no number of seconds.
    """
    text = options.get("timeout")
    if text is None:
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise AddressError(f"{address}: timeout={text} is no number of seconds above 0")
    return float(text)


def _on(address: str, options: Mapping[str, str]) -> bool:
    text = options.get("shared_memory", "on")
    if text not in ("on", "off"):
        raise AddressError(f"{address}: shared_memory={text} is neither on nor off")
    return text == "on"
