"""What a server offers, to whom, and how much of everything."""

import hmac
import ipaddress
import ssl
from dataclasses import dataclass

from aljava.errors import AccessDenied, InvalidOption, NotFound


@dataclass(frozen=True)
class Limits:
    """How much a server gives and takes."""

    #: Bytes of one upload.
    upload_bytes: int = 4 << 30
    #: Seconds that one query may run, its rows being sent included.
    sql_seconds: float = 30.0
    #: Bytes of memory that one query may use.
    sql_bytes: int = 1 << 30
    #: Queries at a time.
    queries: int = 4
    #: Connections at a time, calls at a time for Flight; further ones are closed at once.
    connections: int = 256
    #: Seconds in which a client must have sent the head of its request.
    head_seconds: float = 10.0
    #: Seconds without progress after which a client that takes or sends nothing is cut off.
    stall_seconds: float = 60.0


@dataclass(frozen=True)
class Settings:
    """How a server behaves."""

    #: What a client must know; None lets everybody of this machine in.
    token: str | None = None
    #: Whether clients may send SQL.
    allow_sql: bool = False
    #: Whether clients may upload tables into the folders and stores that are served.
    allow_upload: bool = False
    #: PEM files, for TLS.
    tls_cert: str | None = None
    tls_key: str | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidOption("TLS takes a certificate and its key: give both --tls-cert and --tls-key")
        if self.token is not None and len(self.token) < 8:
            raise InvalidOption("a token has at least 8 characters: make one with `openssl rand -hex 16`")

    def certificates(self) -> list[tuple[bytes, bytes]]:
        """What stands in the files for TLS, certificate and key; empty without TLS.

        Raises:
            AccessDenied: they cannot be read, or do not belong together.
        """
        if not self.tls_cert or not self.tls_key:
            return []
        try:
            # Without a password for the key, the system would ask at the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.tls_cert, self.tls_key, password="")
            with open(self.tls_cert, "rb") as cert, open(self.tls_key, "rb") as key:
                return [(cert.read(), key.read())]
        except OSError as error:
            files = f"the certificate {self.tls_cert} or its key {self.tls_key}"
            raise AccessDenied(f"{files} cannot be used: {error.strerror or error}") from error

    def admits(self, token: str | None) -> bool:
        """Whether a client that shows this token may come in; takes as long for a wrong token as for the right one."""
        if self.token is None:
            return True
        return hmac.compare_digest((token or "").encode(), self.token.encode())

    def require_safe(self, host: str) -> None:
        """Raises AccessDenied for listening where others than this machine can call, without a token."""
        if self.token is None and not _is_loopback(host):
            raise AccessDenied(
                f"listening at {host} lets other machines in: give them a token (--token-file), or listen at 127.0.0.1"
            )


def read_token(path: str) -> str:
    """The token in a file, without the white space around it.

    Raises:
        NotFound, AccessDenied: the file cannot be read.
        InvalidOption: it holds no token.
    """
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(4096).strip()
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist: write a token into it") from error
    except OSError as error:
        raise AccessDenied(f"{path} cannot be read: {error.strerror}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidOption(f"{path} holds no token: one line of letters, digits and signs")
    return token


def host_and_port(text: str) -> tuple[str, int]:
    """`HOST:PORT`, taken apart.

    Raises:
        InvalidOption: it is something else.

    Example:
        >>> host_and_port("127.0.0.1:8815"), host_and_port("[::1]:0")
        (('127.0.0.1', 8815), ('::1', 0))
    """
    host, separator, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise InvalidOption(f"{text!r} is not HOST:PORT, as in 127.0.0.1:8815")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
