"""Clients that mean harm: none gets in, none takes the server down, memory stays bounded."""

import base64
import html.parser
import http.client
import http.client as http_client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.flight
import pytest

import aljava
from aljava.errors import AccessDenied, InvalidOption, NotFound, TransferError
from aljava.server.catalogue import Catalogue
from aljava.server.http import HttpServer
from aljava.server.page import listing
from aljava.server.settings import Limits, Settings, host_and_port, read_token
from tests.server.conftest import TOKEN, Served
from tests.streams.peers import numbers, table


def ask(served: Served, path: str, *, token: str | None = TOKEN, method: str = "GET", body: bytes | None = None) -> int:
    """The status that a raw path gets: nothing cleans it up on the way."""
    parts = urlsplit(served.http)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def unharmed(served: Served):
    """Whatever a test does, the server then answers, and has not grown."""
    before = served.memory()
    yield
    assert ask(served, "/health", token=None) == 200
    assert ask(served, "/tables") == 200
    assert served.memory() - before < 200 << 20


def test_no_token_and_wrong_tokens(served: Served) -> None:
    for path in ("/tables", "/tables/n", "/schemas/n", "/metrics", "/nowhere", "/tables/none"):
        for token in (None, "", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "x" * 10_000):
            assert ask(served, path, token=token) == 401
    assert ask(served, "/sql", token="wrong", method="POST", body=b"select 1") == 401
    assert ask(served, "/tables/data/x", token="wrong", method="PUT", body=b"x" * 100) == 401


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "data/../secret",
        "data/../../etc/passwd",
        "data/%2e%2e/secret",
        "data%2F..%2Fsecret",
        "data/..%2fsecret",
        "data/..%252fsecret",
        "data/link",
        "data/t%00.arrow",
        "%00",
        "//etc/passwd",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "data/",
        "data",
        "desk-served/../quotes",
        "desk-served/.pool",
        "desk-served/%2E%2E/x",
        "shm://desk-served/quotes",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "n.arrow",
        "x" * 5000,
    ],
)
def test_path_tricks(served: Served, name: str) -> None:
    assert ask(served, f"/tables/{name}") in (404, 307)
    assert ask(served, f"/schemas/{name}") in (404, 307)


@pytest.mark.parametrize(
    "name", ["data/../x", "data/%2e%2e%2fx", "data/.hidden", "data/a/b", "data/x%00", "../x", "data/", "n"]
)
def test_uploads_go_nowhere_else(served: Served, name: str) -> None:
    body = aljava.dumps(table(5)).to_pybytes()
    assert ask(served, f"/tables/{name}", method="PUT", body=body) in (400, 403, 404, 405)
    options = pa.flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {TOKEN}".encode())])
    with pa.flight.connect(served.flight) as client:
        descriptor = pa.flight.FlightDescriptor.for_path(*urllib.request.unquote(name).split("/"))
        writer, _ = client.do_put(descriptor, table(5).schema, options)

        def put() -> None:
            writer.write_table(table(5))
            writer.close()

        with pytest.raises((pa.ArrowException, pa.flight.FlightError)):
            put()


@pytest.mark.parametrize("body", [b"", b"x" * 1000, b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"PAR1" + bytes(100)])
def test_uploads_of_rubbish(served: Served, body: bytes) -> None:
    assert ask(served, "/tables/data/rubbish", method="PUT", body=body) == 400
    assert ask(served, "/tables/data/rubbish") == 404


@pytest.mark.parametrize(
    "query",
    [
        "select * from '/etc/passwd'",
        "select * from read_text('/etc/passwd')",
        "select * from read_csv('/etc/passwd')",
        "select * from glob('/*')",
        "attach '/tmp/other.db'",
        "copy (select 1) to '/tmp/stolen'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "pragma database_list",
        "create table t as select 1",
        "select 1; select 2",
        "select * from 'http://127.0.0.1/x.parquet'",
        "select * from secret",
        "selec",
        "",
        "\0",
        "select 1" + " " * 200_000,
    ],
    ids=lambda query: query[:60],
)
def test_sql_that_reaches_out(served: Served, query: str) -> None:
    assert ask(served, "/sql", method="POST", body=query.encode()) in (400, 403)


@pytest.mark.long
def test_sql_that_takes_all_memory(served: Served) -> None:
    assert ask(served, "/sql", method="POST", body=b"select repeat('x', 1000000000) from range(10)") == 400
    assert ask(served, "/sql", method="POST", body=b"select * from range(1000000000) t(a) order by hash(a)") == 400


@pytest.mark.long
def test_sql_that_runs_for_ever(served: Served) -> None:
    query = b"with recursive t(n) as (select 1 union all select n + 1 from t) select max(n) from t"
    assert ask(served, "/sql", method="POST", body=query) == 400
    assert not [child for child in served.process.children() if child.status() != "zombie"]


def test_filters_are_no_code(served: Served) -> None:
    for text in (
        "__import__('os').system('true')",
        "1=1",
        "id = id",
        "id; drop table n",
        "(" * 5000,
        "id in ()",
        "id = 'x",
    ):
        assert ask(served, f"/tables/n?filter={quote(text)}") == 400
    assert ask(served, "/tables/n?limit=-1") == 400
    assert ask(served, "/tables/n?limit=1e9") == 400
    assert ask(served, "/tables/n?columns=none") == 400
    assert ask(served, "/tables/n?path=/etc/passwd") == 400


@pytest.mark.long
def test_slow_loris_and_crowds(served: Served) -> None:
    """A thousand connections that say nothing, or a byte now and then: others are served, the silent are cut off."""
    address = (urlsplit(served.http).hostname, urlsplit(served.http).port)
    before = served.process.num_fds()
    callers = []
    for _ in range(1000):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(address)
        callers.append(caller)
    time.sleep(1)
    assert served.process.num_fds() < before + 400
    start = time.monotonic()
    open_callers = set(callers)
    while open_callers and time.monotonic() - start < 60:
        for caller in list(open_callers):
            try:
                caller.send(b"G" if caller is callers[0] else b"")
                if caller.recv(100) == b"":
                    open_callers.discard(caller)
            except BlockingIOError:
                continue
            except OSError:
                open_callers.discard(caller)
        time.sleep(0.5)
    for caller in callers:
        caller.close()
    assert not open_callers, f"{len(open_callers)} silent connections are still open"


def test_heads_without_end_and_broken_requests(served: Served) -> None:
    for data in (
        b"GET /tables HTTP/1.1\r\n" + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"PUT /tables/data/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        + TOKEN.encode()
        + b"\r\nContent-Length: 9223372036854775807\r\n\r\nabc",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with socket.create_connection((urlsplit(served.http).hostname, urlsplit(served.http).port), 10) as caller:
            caller.sendall(data)
            caller.settimeout(0.5)
            try:
                caller.recv(1000)
            except (TimeoutError, ConnectionResetError):
                continue


def test_a_client_that_hangs_up_in_the_middle(served: Served) -> None:
    for _ in range(10):
        with socket.create_connection((urlsplit(served.http).hostname, urlsplit(served.http).port), 10) as caller:
            caller.sendall(
                b"GET /tables/n HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
            )
            caller.recv(1000)


def test_what_is_not_allowed_or_too_much(tmp_path) -> None:
    os.makedirs(tmp_path / "data")
    aljava.write(numbers(10), tmp_path / "data" / "n.arrow")
    address = [str(tmp_path / "data")]

    def refused(server: HttpServer, path: str, body: bytes | None, method: str, **headers: str) -> str:
        request = urllib.request.Request(server.address + path, body, headers, method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        return f"{caught.value.code}: {caught.value.read().decode()}"

    with HttpServer(Catalogue(address), address, Settings(), "127.0.0.1", 0) as server:
        said = refused(server, "/sql", b"select 1", "POST")
        assert "SQL is not allowed on this server (--allow-sql)" in said
        said = refused(server, "/tables/data/new", b"x", "PUT")
        assert "uploads are not allowed on this server (--allow-upload)" in said
        head = urllib.request.Request(f"{server.address}/tables/data/n", method="HEAD")
        with urllib.request.urlopen(head, timeout=60) as response:
            assert (response.status, response.read()) == (200, b"")
    limits = Limits(upload_bytes=1000, queries=1)
    settings = Settings(token=TOKEN, allow_sql=True, allow_upload=True, limits=limits)
    with HttpServer(Catalogue(address), address, settings, "127.0.0.1", 0) as server:
        for shown in ("Basic not-base64!", "Digest x", "Bearer"):
            assert refused(server, "/tables", None, "GET", Authorization=shown).startswith("401")
        mine = {"Authorization": f"Bearer {TOKEN}"}
        said = refused(server, "/tables/data/new", bytes(2000), "PUT", **mine)
        assert said.startswith("413")
        assert "at most 1,000 bytes; nothing was changed" in said
        said = refused(server, "/sql", b"-- " + bytes((1 << 20) + 1000), "POST", **mine)
        assert "the body has at most 1,048,576 bytes" in said
        # One query runs for as long as its rows are not taken.
        first = urllib.request.Request(server.address + "/sql", b"select * from range(10000000)", mine)
        with urllib.request.urlopen(first, timeout=60):
            said = refused(server, "/sql", b"select 1", "POST", **mine)
        assert "503" in said
        assert "1 queries run already: try again" in said
    assert os.listdir(tmp_path / "data") == ["n.arrow"]


def test_where_a_server_may_listen(tmp_path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org"):
        with pytest.raises(AccessDenied, match="token"):
            Settings().require_safe(host)
        Settings(token="long enough").require_safe(host)
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        Settings().require_safe(host)
    for text in ("127.0.0.1", ":80", "host:port", "host:99999"):
        with pytest.raises(InvalidOption):
            host_and_port(text)
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(InvalidOption):
        read_token(str(tmp_path / "empty"))
    with pytest.raises(NotFound, match="write a token into it"):
        read_token(str(tmp_path / "none"))
    with pytest.raises(AccessDenied, match="cannot be read: Is a directory"):
        read_token(str(tmp_path))
    with pytest.raises(InvalidOption, match="8 characters"):
        Settings(token="short")
    with pytest.raises(InvalidOption, match="both"):
        Settings(tls_cert="x")
    with pytest.raises(InvalidOption, match="its own machine"):
        Catalogue(["s3://bucket/x"])
    with pytest.raises(NotFound, match="does not exist"):
        Catalogue([str(tmp_path / "none.arrow")])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        aljava.write(numbers(3), tmp_path / folder / "same.arrow")
    with pytest.raises(InvalidOption, match="another address is called 'same' already"):
        Catalogue([str(tmp_path / "a" / "same.arrow"), str(tmp_path / "b" / "same.arrow")])


def test_what_is_listed_is_all_there_is(served: Served) -> None:
    request = urllib.request.Request(f"{served.http}/tables", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request) as response:
        names = json.load(response)["tables"]
    assert not [name for name in names if "secret" in name or "link" in name]


@pytest.mark.long
def test_a_server_ends_though_a_client_takes_nothing(tmp_path) -> None:
    aljava.write(numbers(5_000_000), str(tmp_path / "t.arrow"), compression="none")
    command = [sys.executable, "-m", "aljava", "serve", str(tmp_path / "t.arrow"), "--http", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        http = process.stdout.readline().strip().removeprefix("HTTP: ")
        with urllib.request.urlopen(f"{http}/tables/t") as response:
            assert response.read(1000)
            process.terminate()
            assert process.communicate(timeout=60) == ("", "")
            with pytest.raises(http_client.IncompleteRead):
                response.read()
    assert process.returncode == 0


NAMES = [
    "<script>alert(1)<",
    '"><img src=x onerror=alert(1)>',
    "a&amp;b",
    "' onmouseover='",
    "ключ ✓ %2e%2e",
    "two words?#",
]


def test_the_page_for_browsers(tmp_path) -> None:
    """Whatever tables and columns are called is text, and their links lead to them."""
    os.makedirs(tmp_path / "data")
    for name in NAMES:
        aljava.write({"<b onclick=x>": [1, 2, 3]}, tmp_path / "data" / f"{name}.arrow")
    (tmp_path / "data" / "broken.arrow").write_bytes(b"ARROW1 and no more")
    with open(os.fsencode(tmp_path) + b"/data/\xff\xfe.arrow", "wb"):
        pass  # a name that no page and no JSON can hold
    catalogue = Catalogue([str(tmp_path / "data")])
    with HttpServer(catalogue, [], Settings(), "127.0.0.1", 0) as server:
        request = urllib.request.Request(f"{server.address}/", headers={"Accept": "text/html,*/*;q=0.8"})
        with urllib.request.urlopen(request) as response:
            page, headers = response.read().decode(), response.headers
        assert headers["Content-Type"].startswith("text/html")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        seen = _Page()
        seen.feed(page)
        assert seen.tags <= {"html", "head", "meta", "title", "style", "body", "main", "h1", "p", "div", "table"} | {
            "thead", "tbody", "tr", "th", "td", "b", "span", "a", "pre", "colgroup", "col"
        }  # fmt: skip
        assert seen.attributes <= {"lang", "charset", "name", "content", "style", "class", "href"}
        for name in NAMES:
            assert f"data/{name}" in seen.texts
        assert "<b onclick=x>" in seen.texts
        assert "cannot be read" in seen.texts
        found = []
        for link in seen.links:
            if "broken" not in link:
                with urllib.request.urlopen(server.address + link) as response:
                    found.append(response.read())
        assert len(found) == 2 * len(NAMES)
        assert sum(pa.ipc.open_stream(body).read_all().num_rows for body in found[::2]) == 3 * len(NAMES)
        with urllib.request.urlopen(f"{server.address}/") as response:
            assert set(json.load(response)["tables"]) == {f"data/{name}" for name in (*NAMES, "broken")}


class _Page(html.parser.HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [str(value) for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_browser_is_asked_for_the_token(served: Served) -> None:
    request = urllib.request.Request(f"{served.http}/", headers={"Accept": "text/html"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert (caught.value.code, caught.value.headers["WWW-Authenticate"]) == (401, 'Basic realm="aljava"')
    request.add_header("Authorization", "Basic " + base64.b64encode(f":{TOKEN}".encode()).decode())
    with urllib.request.urlopen(request) as response:
        assert "desk-served/quotes" in response.read().decode()


def test_folders_in_folders_and_more_tables_than_a_page_shows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("aljava.server.page._MOST_NAMES", 200)
    monkeypatch.setattr("aljava.server.page._PATIENCE", 0.01)
    aljava.write(numbers(3), tmp_path / "first.arrow")
    for number in range(3):
        os.makedirs(tmp_path / f"{number}" / "deep")
        for name in range(100):
            os.link(tmp_path / "first.arrow", tmp_path / f"{number}" / "deep" / f"{name}.arrow")
    catalogue = Catalogue([str(tmp_path)])
    assert f"{tmp_path.name}/2/deep/99" in [table.name for table in catalogue]
    assert catalogue.open(f"{tmp_path.name}/2/deep/99").num_rows == 3
    page = listing(catalogue, "http://localhost:8000/")
    assert "301 tables, each to be had as an Arrow stream." in page
    assert "The first 200 are shown here; GET /tables names all" in page
    with HttpServer(catalogue, [str(tmp_path)], Settings(), "127.0.0.1", 0) as server:
        port = int(server.address.rpartition(":")[2].strip("/"))
        with pytest.raises(TransferError, match=f"127.0.0.1:{port}: cannot listen there: Address already in use"):
            HttpServer(catalogue, [str(tmp_path)], Settings(), "127.0.0.1", port)
