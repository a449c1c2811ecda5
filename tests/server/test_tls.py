"""TLS on every address that has it: who is who it says is let in, and nobody else."""

import datetime
import ipaddress
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import aljava
from aljava.errors import AccessDenied, AljavaError, TransferError
from aljava.server.catalogue import Catalogue
from aljava.server.flight import FlightServer
from aljava.server.http import HttpServer
from aljava.server.settings import Settings
from tests.streams.peers import numbers, table

pytest.importorskip("cryptography", reason="no cryptography to make certificates with")

CASES = ["good", "wrong name", "untrusted", "expired"]


@dataclass
class Certificates:
    """An authority, and certificates that it signed; of `untrusted` another one."""

    folder: Path

    @property
    def ca(self) -> str:
        return str(self.folder / "ca.pem")

    def pair(self, name: str) -> tuple[str, str]:
        return str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key")


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    def issue(name: str, hosts: list[str], until: datetime.timedelta, signer=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, signing = (subject, key) if signer is None else signer
        names = [
            x509.DNSName(host) if host[0].isalpha() else x509.IPAddress(ipaddress.ip_address(host)) for host in hosts
        ]
        builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - 30 * day).not_valid_after(now + until)
        builder = builder.add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(signing, hashes.SHA256())
        plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
        return subject, key

    authority = issue("ca", [], 10 * day)
    stranger = issue("stranger", [], 10 * day)
    local = ["localhost", "127.0.0.1"]
    issue("good", local, day, authority)
    issue("wrong name", ["elsewhere.example"], day, authority)
    issue("untrusted", local, day, stranger)
    issue("expired", local, -day, authority)
    return Certificates(folder)


@pytest.fixture(scope="module", params=CASES)
def served(request: pytest.FixtureRequest, issued: Certificates) -> Iterator[tuple[str, str, str]]:
    """A case, and the addresses of a server that shows its certificate, over HTTP and Flight."""
    case = request.param
    aljava.write(table(1000), str(issued.folder / "t.arrow"))
    cert, key = issued.pair(case)
    command = [sys.executable, "-m", "aljava", "serve", str(issued.folder / "t.arrow")]
    command += ["--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--tls-cert", cert, "--tls-key", key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        http = process.stdout.readline().strip().removeprefix("HTTP: ")
        flight = process.stdout.readline().strip().removeprefix("Arrow Flight: ")
        yield case, http, flight
        process.terminate()


def test_https(served: tuple[str, str, str], issued: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    case, http, _ = served
    assert http.startswith("https://")
    monkeypatch.setenv("SSL_CERT_FILE", issued.ca)
    address = f"{http.replace('127.0.0.1', 'localhost')}/tables/t"
    if case == "good":
        assert aljava.read(address).equals(table(1000))
        monkeypatch.delenv("SSL_CERT_FILE")
        assert aljava.read(f"{address}?ca={issued.ca}").equals(table(1000))
        with pytest.raises(AljavaError):  # who speaks no TLS gets nothing
            aljava.read(address.replace("https", "http"))
    else:
        with pytest.raises(AccessDenied, match="certificate"):
            aljava.read(address)
        with pytest.raises(AccessDenied, match="certificate"):
            aljava.read(f"{address}?ca={issued.ca}")


def test_flight(served: tuple[str, str, str], issued: Certificates) -> None:
    case, _, flight = served
    assert flight.startswith("grpc+tls://")
    address = f"{flight.replace('127.0.0.1', 'localhost')}/t?ca={issued.ca}"
    if case == "good":
        assert aljava.read(address).equals(table(1000))
    else:
        with pytest.raises(AccessDenied, match="certificate is not trusted"):
            aljava.read(address)
        shown = subprocess.run([sys.executable, "-m", "aljava", "head", address], capture_output=True, text=True)
        assert shown.returncode == 1
        assert len(shown.stderr.splitlines()) == 1


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("case", CASES)
def test_sockets(case: str, issued: Certificates) -> None:
    cert, key = issued.pair(case)
    with aljava.listen(f"tcp+tls://127.0.0.1:0?cert={cert}&key={key}", timeout=30) as listener:
        address = f"{listener.address.replace('127.0.0.1', 'localhost')}?ca={issued.ca}"
        if case == "good":
            sender = threading.Thread(target=aljava.write, args=(table(1000), address))
            sender.start()
            assert next(listener).read_all().equals(table(1000))
            sender.join()
        else:
            with pytest.raises(AccessDenied, match="certificate is not trusted"):
                aljava.write(table(1000), address)


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("shown", ["good", "untrusted", None])
def test_callers_that_must_show_one_too(shown: str | None, issued: Certificates) -> None:
    cert, key = issued.pair("good")
    with aljava.listen(f"tcp+tls://127.0.0.1:0?cert={cert}&key={key}&ca={issued.ca}", timeout=2) as listener:
        address = f"{listener.address.replace('127.0.0.1', 'localhost')}?ca={issued.ca}"
        if shown:
            address += "&cert={}&key={}".format(*issued.pair(shown))

        def send() -> None:
            try:
                aljava.write(table(1000), address)
            except AljavaError:
                assert shown != "good"

        sender = threading.Thread(target=send)
        sender.start()
        if shown == "good":
            assert next(listener).read_all().equals(table(1000))
        else:
            with pytest.raises(TransferError, match="nobody called"):
                next(listener)
        sender.join()


KINDS = ("tcp+tls", "https", "grpc+tls")
#: More than a socket's memory holds.
ROWS = 300_000
TOKEN = "token-of-the-test"


@contextmanager
def receiving(kind: str, pair: tuple[str, str] | None, folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """Where a table can be written, with TLS or without, and what counts the tables that came whole."""
    with ExitStack() as ends:
        if kind == "tcp+tls":
            waited = "tcp://127.0.0.1:0" if pair is None else "tcp+tls://127.0.0.1:0?cert={}&key={}".format(*pair)
            calls = ends.enter_context(aljava.listen(waited))
            whole = []
            taking = threading.Thread(
                target=lambda: whole.extend(reader.read_all().equals(numbers(ROWS)) for reader in calls)
            )
            taking.start()
            ends.callback(taking.join)
            ends.callback(calls.close)
            yield calls.address.replace("127.0.0.1", "localhost"), lambda: sum(whole)
            return
        folder.mkdir(parents=True)
        cert, key = pair or (None, None)
        settings = Settings(token=TOKEN, allow_upload=True, tls_cert=cert, tls_key=key)
        arguments = (settings, "127.0.0.1", 0)
        catalogue = Catalogue([str(folder)])
        server = HttpServer(catalogue, [], *arguments) if kind == "https" else FlightServer(catalogue, *arguments)
        ends.callback(server.close)
        base = server.address.replace("127.0.0.1", "localhost").replace("://", f"://:{TOKEN}@")
        path = "/tables/data/sent" if kind == "https" else "/data/sent"
        yield base + path, lambda: len(list(folder.iterdir()))


def refused(kind: type[AljavaError], words: str, address: str) -> None:
    """What a sender is told: one line, with the address and without the token."""
    with pytest.raises(kind, match=words) as caught:
        aljava.write(numbers(ROWS), address)
    said = str(caught.value)
    assert "\n" not in said
    assert TOKEN not in said
    assert said.startswith(address.partition("?")[0].replace(f":{TOKEN}@", ""))


@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_sender_is_told(kind: str, issued: Certificates, tmp_path: Path) -> None:
    with receiving(kind, issued.pair("good"), tmp_path / "data") as (address, count):
        refused(AccessDenied, r"not trusted: .* Name the authority that signed it with \?ca=FILE", address)
        refused(AccessDenied, "not trusted", f"{address}?ca={issued.folder}/stranger.pem")
        refused(AccessDenied, "none.pem cannot be used: No such file", f"{address}?ca={issued.folder}/none.pem")
        refused(AccessDenied, "good.key cannot be used", f"{address}?ca={issued.folder}/good.key")
        plain = {"tcp+tls": "tcp", "https": "http", "grpc+tls": "grpc"}[kind]
        for _ in range(3):
            words = r"closed .* then write tcp\+tls://" if kind == "tcp+tls" else "closed|hung up|reset"
            refused(TransferError, words, address.replace(kind, plain))
        assert count() == 0
        assert aljava.write(numbers(ROWS), f"{address}?ca={issued.ca}").rows == ROWS
    assert count() == 1
    for case, words in (("wrong name", "(mismatch|is not in)"), ("expired", "certificate has expired$")):
        with receiving(kind, issued.pair(case), tmp_path / case / "data") as (address, count):
            refused(AccessDenied, f"not trusted: .*{words}", f"{address}?ca={issued.ca}")
        assert count() == 0
    with receiving(kind, None, tmp_path / "plain" / "data") as (address, count):
        for _ in range(3):
            refused(TransferError, "TLS|SSL", f"{address.replace(plain, kind, 1)}?ca={issued.ca}")
        assert count() == 0
        assert aljava.write(numbers(ROWS), address).rows == ROWS
    assert count() == 1


def test_a_server_with_files_that_are_no_certificate(issued: Certificates, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    cert, key = issued.pair("good")
    for pair in ((cert, issued.pair("expired")[1]), (str(tmp_path / "none"), key), (str(tmp_path / "text"), key)):
        arguments = (Settings(tls_cert=pair[0], tls_key=pair[1]), "127.0.0.1", 0)
        with pytest.raises(AccessDenied, match="cannot be used"):
            HttpServer(Catalogue([str(tmp_path)]), [], *arguments)
        with pytest.raises(AccessDenied, match="cannot be used"):
            FlightServer(Catalogue([str(tmp_path)]), *arguments)
