"""TLS on every address that has it: who is not who it says is told so in one line, and nobody hangs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import aljava
from aljava.errors import AccessDenied, AljavaError, TransferError
from aljava.server.catalogue import Catalogue
from aljava.server.flight import FlightServer
from aljava.server.http import HttpServer
from aljava.server.settings import Settings
from tests.server.conftest import TOKEN
from tests.streams.peers import make_certificate, numbers

pytestmark = pytest.mark.usefixtures("no_leaks")
KINDS = ("tcp+tls", "https", "grpc+tls")
#: More than a socket's memory holds.
ROWS = 300_000


@contextmanager
def served(kind: str, certificate: dict[str, str] | None, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Where to write a table, by name, and what counts the tables that came whole."""
    with ExitStack() as ends:
        if kind == "tcp+tls":
            options = "" if certificate is None else f"?cert={certificate['cert']}&key={certificate['key']}"
            scheme = "tcp" if certificate is None else "tcp+tls"
            calls = ends.enter_context(aljava.listen(f"{scheme}://127.0.0.1:0{options}"))
            whole = []

            def take() -> None:
                for reader in calls:
                    whole.append(reader.read_all().equals(numbers(ROWS)))

            taking = threading.Thread(target=take)
            taking.start()
            ends.callback(taking.join)
            ends.callback(calls.close)
            yield calls.address.replace("127.0.0.1", "localhost"), lambda: sum(whole)
            return
        (folder / "data").mkdir(exist_ok=True)
        tls = {} if certificate is None else {"tls_cert": certificate["cert"], "tls_key": certificate["key"]}
        settings = Settings(token=TOKEN, allow_upload=True, **tls)
        catalogue = Catalogue([str(folder / "data")])
        if kind == "https":
            server = HttpServer(catalogue, [], settings, "127.0.0.1", 0)
        else:
            server = FlightServer(catalogue, settings, "127.0.0.1", 0)
        ends.callback(server.close)
        address = server.address.replace("127.0.0.1", "localhost").replace("://", f"://:{TOKEN}@")
        path = "/tables/data/sent" if kind == "https" else "/data/sent"
        yield address + path, lambda: len(list((folder / "data").iterdir()))


def said(error: type[AljavaError], words: str, address: str) -> str:
    """What a sender is told."""
    with pytest.raises(error, match=words) as caught:
        aljava.write(numbers(ROWS), address)
    text = str(caught.value)
    assert "\n" not in text
    assert TOKEN not in text
    assert text.startswith(address.partition("?")[0].replace(f":{TOKEN}@", ""))
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_certificates(kind: str, tmp_path: Path) -> None:
    good = make_certificate(str(tmp_path / "good"))
    other = make_certificate(str(tmp_path / "other"), "elsewhere.example")
    expired = make_certificate(str(tmp_path / "expired"), days=-1)
    with served(kind, good, tmp_path) as (address, count):
        said(AccessDenied, r"not trusted: self.signed certificate\. Name the authority .* \?ca=FILE", address)
        said(AccessDenied, "not trusted", f"{address}?ca={other['cert']}")
        said(AccessDenied, "No such file", f"{address}?ca={tmp_path}/none.pem")
        said(AccessDenied, "cannot be used", f"{address}?ca={good['key']}")
        assert count() == 0
        assert aljava.write(numbers(ROWS), f"{address}?ca={good['cert']}").rows == ROWS
        if kind != "tcp+tls":
            assert aljava.read(f"{address}?ca={good['cert']}").equals(numbers(ROWS))
    assert count() == 1
    with served(kind, other, tmp_path / "other") as (address, count):
        text = said(AccessDenied, "not trusted: .*(mismatch|is not in)", f"{address}?ca={other['cert']}")
        assert "?ca=" not in text
    assert count() == 0
    with served(kind, expired, tmp_path / "expired") as (address, count):
        said(AccessDenied, "not trusted: certificate has expired$", f"{address}?ca={expired['cert']}")
    assert count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_end_without_tls(kind: str, tmp_path: Path) -> None:
    good = make_certificate(str(tmp_path / "good"))
    plain = {"tcp+tls": "tcp", "https": "http", "grpc+tls": "grpc"}[kind]
    with served(kind, good, tmp_path) as (address, count):
        for _ in range(3):
            said(TransferError, "closed|hung up|reached", address.replace(kind, plain))
        assert aljava.write(numbers(ROWS), f"{address}?ca={good['cert']}").rows == ROWS
    assert count() == 1
    with served(kind, None, tmp_path / "good") as (address, count):
        for _ in range(3):
            said(TransferError, "TLS|SSL", f"{address.replace(plain, kind, 1)}?ca={good['cert']}")
        assert count() == 0
        assert aljava.write(numbers(ROWS), address).rows == ROWS
    assert count() == 1


def test_a_server_with_files_that_are_no_certificate(tmp_path: Path) -> None:
    good, other = (make_certificate(str(tmp_path / name)) for name in ("good", "other"))
    (tmp_path / "text").write_text("no certificate")
    for cert, key in ((good["cert"], other["key"]), (tmp_path / "none", good["key"]), (tmp_path / "text", good["key"])):
        settings = Settings(tls_cert=str(cert), tls_key=str(key))
        with pytest.raises(AccessDenied, match="the certificate .* cannot be used"):
            HttpServer(Catalogue([str(tmp_path)]), [], settings, "127.0.0.1", 0)
        with pytest.raises(AccessDenied, match="the certificate .* cannot be used"):
            FlightServer(Catalogue([str(tmp_path)]), settings, "127.0.0.1", 0)
