"""The server, with clients that we did not write and with our own."""

import io
import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight
import pytest

import aljava
from aljava.errors import AccessDenied, AddressError, InvalidData, NotFound, QueryError, TransferError
from tests.ipc.test_other_readers import node_modules  # noqa: F401  a fixture
from tests.server.conftest import TOKEN, Served
from tests.streams.peers import numbers, process, table


def get(address: str, **headers: str) -> bytes:
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}", **headers})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def stream(payload: bytes) -> pa.Table:
    return pa.ipc.open_stream(payload).read_all()


def test_lists_and_describes(served: Served) -> None:
    assert {"data/t", "n", "desk-served/quotes"} <= set(json.loads(get(f"{served.http}/tables"))["tables"])
    columns = json.loads(get(f"{served.http}/schemas/n"))["columns"]
    assert columns[0] == {"name": "id", "type": "int64", "nullable": True}
    assert get(f"{served.http}/health") == b"ok\n"
    assert b"aljava_requests_total" in get(f"{served.http}/metrics")


def test_a_table_and_parts_of_it(served: Served) -> None:
    assert stream(get(f"{served.http}/tables/n")).equals(numbers(100_000))
    assert stream(get(f"{served.http}/tables/desk-served/quotes")).equals(table(10))
    found = stream(get(f"{served.http}/tables/data/t?columns=value,day&filter=id%3C9%20and%20day=%27tue%27&limit=2"))
    assert found.to_pydict() == {"value": [0.5, 2.0], "day": ["tue", "tue"]}


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_codec_that_the_client_takes(served: Served, codec: str) -> None:
    plain = get(f"{served.http}/tables/n")
    packed = get(f"{served.http}/tables/n", Accept=f'application/vnd.apache.arrow.stream; codecs="snappy, {codec}"')
    assert len(packed) < len(plain)
    assert stream(packed).equals(numbers(100_000))


def test_sql(served: Served) -> None:
    query = 'select count(*) as rows, max(value) as value from n join (select id from "data/t") using (id)'
    request = urllib.request.Request(
        f"{served.http}/sql", query.encode(), headers={"Authorization": f"Bearer {TOKEN}"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert stream(response.read()).num_rows == 1


def test_pandas_and_polars(served: Served) -> None:
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    payload = get(f"{served.http}/tables/n")
    assert polars.read_ipc_stream(io.BytesIO(payload)).height == 100_000
    assert isinstance(pa.ipc.open_stream(payload).read_pandas(), pandas.DataFrame)


def test_curl_into_pyarrow(served: Served) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    command = ["curl", "-sf", "-u", f":{TOKEN}", f"{served.http}/tables/n"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert pa.ipc.open_stream(curl.stdout).read_all().equals(numbers(100_000))


def test_duckdb(served: Served) -> None:
    duckdb = pytest.importorskip("duckdb")
    arriving = aljava.open(served.with_token(f"{served.http}/tables/n")).to_reader()  # noqa: F841  DuckDB sees it
    assert duckdb.sql("select sum(id) from arriving").fetchall() == [(4999950000,)]


def test_javascript(served: Served, node_modules: Path) -> None:  # noqa: F811  the fixture
    script = """
    const {tableFromIPC, RecordBatchReader} = require('apache-arrow');
    (async () => {
      const answer = await fetch(process.argv[1], {headers: {Authorization: 'Bearer ' + process.argv[2]}});
      let rows = 0, sum = 0;
      for await (const batch of await RecordBatchReader.from(answer)) {
        rows += batch.numRows;
        for (const value of batch.getChild('value')) sum += value;
      }
      console.log(rows, sum);
    })();
    """
    for name, expected in (("n", f"100000 {99_999 * 100_000 / 4:.0f}"),):
        done = subprocess.run(
            ["node", "-e", script, f"{served.http}/tables/{name}", TOKEN],
            env={"NODE_PATH": str(node_modules), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == expected, done.stderr


def test_our_own_client(served: Served) -> None:
    for base in (f"{served.http}/tables", served.flight):
        address = served.with_token(base)
        assert aljava.read(f"{address}/data/t").equals(table(5000))
        dataset = aljava.open(f"{address}/n")
        for _ in range(2):  # a server gives a table as often as asked
            assert dataset.to_table(["id"], pc.field("value") < 1).to_pydict() == {"id": [0, 1]}
        assert TOKEN not in repr(dataset)
        with pytest.raises(NotFound, match="no table 'none'"):
            aljava.read(f"{address}/none")
        with pytest.raises(AccessDenied, match="asks for a token"):
            aljava.read(served.with_token(base, "token-of-a-thief") + "/n")
        with pytest.raises(QueryError, match="no column 'colour'"):
            aljava.read(f"{address}/n", columns=["colour"])


def test_uploads(served: Served) -> None:
    for number, base in enumerate((f"{served.http}/tables", served.flight)):
        address = served.with_token(base)
        for name in (f"data/up{number}", f"desk-served/up{number}"):
            for rows in (20, 50):
                assert aljava.write(table(rows), f"{address}/{name}").rows == rows
                assert aljava.read(f"{address}/{name}").equals(table(rows))
        for name in ("n", f"elsewhere/x{number}"):
            with pytest.raises(AccessDenied, match="in no folder"):
                aljava.write(table(5), f"{address}/{name}")
    assert aljava.read(f"{served.folder}/data/up0.arrow").equals(table(50))


def test_an_upload_that_is_cut_changes_nothing(served: Served) -> None:
    address = served.with_token(f"{served.http}/tables/data/whole")
    aljava.write(table(5), address)

    def broken():
        yield from numbers(1000).to_batches()
        raise RuntimeError("the sender's own")

    schema = numbers(1).schema
    for target in (address, served.with_token(f"{served.flight}/data/whole")):
        with pytest.raises(RuntimeError, match="the sender's own"):
            aljava.write(pa.RecordBatchReader.from_batches(schema, broken()), target)
    for target in (address, served.with_token(f"{served.flight}/data/whole")):
        code = """
        from tests.streams.peers import numbers
        def some():
            yield from numbers(500_000).to_batches()
            print("sent", flush=True)
            time.sleep(60)
        aljava.write(pa.RecordBatchReader.from_batches(numbers(1).schema, some()), sys.argv[1])
        """
        with process(code, target) as child:
            assert child.stdout.readline() == b"sent\n"
            child.kill()
    request = urllib.request.Request(
        f"{served.http}/tables/data/whole",
        aljava.dumps(table(50)).to_pybytes()[:-100],
        headers={"Authorization": f"Bearer {TOKEN}"},
        method="PUT",
    )
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=60)
    assert aljava.read(address).equals(table(5))


def test_plain_flight_client(served: Served) -> None:
    options = pa.flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {TOKEN}".encode())])
    with pa.flight.connect(served.flight) as client:
        names = {b"/".join(info.descriptor.path).decode() for info in client.list_flights(options=options)}
        assert {"data/t", "n"} <= names
        info = client.get_flight_info(pa.flight.FlightDescriptor.for_path("data", "t"), options)
        assert info.schema == table().schema
        assert client.do_get(info.endpoints[0].ticket, options).read_all().equals(table(5000))
        ask = json.dumps({"table": "data/t", "columns": ["value"], "filter": "id in (1, 2)", "limit": 5}).encode()
        assert client.do_get(pa.flight.Ticket(ask), options).read_all().to_pydict() == {"value": [0.5, 1.0]}
        more = json.dumps({"table": "data/t", "limit": 1_000_000}).encode()
        assert client.do_get(pa.flight.Ticket(more), options).read_all().num_rows == 5000
        by_command = pa.flight.FlightDescriptor.for_command(ask)
        assert client.get_schema(by_command, options).schema.names == ["value"]
        assert client.get_flight_info(by_command, options).schema.names == ["value"]
        assert [result.body.to_pybytes() for result in client.do_action("health", options)] == [b"ok"]
        assert {action.type for action in client.list_actions(options)} == {"health", "metrics"}
        (metrics,) = client.do_action("metrics", options)
        assert b"bytes_sent" in metrics.body.to_pybytes()
        with pytest.raises(NotImplementedError, match="no action 'reboot'"):
            list(client.do_action("reboot", options))
        for bad in (b'{"table": 5}', b"{", b'{"table": "n", "more": 1}', b"[" * 1000, b"n" * 100_000):
            with pytest.raises((pa.ArrowInvalid, pa.ArrowKeyError)):
                client.do_get(pa.flight.Ticket(bad), options).read_all()
        with pytest.raises(pa.flight.FlightUnauthenticatedError):
            list(client.list_flights())


def test_damage_is_an_error(served: Served) -> None:
    with open(f"{served.folder}/data/damaged.arrow", "wb") as file:
        file.write(aljava.dumps(table(100)).to_pybytes()[:-500])
    with pytest.raises((InvalidData, aljava.AljavaError)):
        aljava.read(served.with_token(f"{served.http}/tables/data/damaged"))


SILENT_FLIGHT = """
from pyarrow import flight
from tests.streams.peers import numbers
class Server(flight.FlightServerBase):
    def get_flight_info(self, context, descriptor):
        if b"deaf" in descriptor.path:
            time.sleep(60)
        endpoint = flight.FlightEndpoint(b"x", [])
        return flight.FlightInfo(numbers(1).schema, descriptor, [endpoint], -1, -1)
    def do_get(self, context, ticket):
        def batches():
            yield from numbers(10).to_batches()
            time.sleep(60)
        return flight.GeneratorStream(numbers(1).schema, batches())
server = Server("grpc://127.0.0.1:0")
print(server.port, flush=True)
server.serve()
"""
SILENT_HTTP = """
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
while True:
    caller = listening.accept()[0]
    if b"deaf" not in caller.recv(10_000):
        from tests.streams.peers import numbers
        caller.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 99999\\r\\n\\r\\n")
        caller.sendall(aljava.dumps(numbers(10)).to_pybytes()[:-8])
    kept = globals().setdefault("kept", [])
    kept.append(caller)
"""


@pytest.mark.parametrize(("code", "base"), [(SILENT_FLIGHT, "grpc://{}"), (SILENT_HTTP, "http://{}/tables")])
def test_a_server_that_falls_silent(code: str, base: str) -> None:
    with process(code) as server:
        address = base.format(f"127.0.0.1:{int(server.stdout.readline())}")
        with pytest.raises(TransferError, match=r"/deaf.*(timed out|silent for 1 seconds)"):
            aljava.read(f"{address}/deaf?timeout=1")
        with pytest.raises(TransferError, match=r"/n: .*(within the time limit|silent for 1 seconds)"):
            aljava.read(f"{address}/n?timeout=1")
        # What came before the silence has been yielded.
        reader = aljava.open(f"{address}/n?timeout=1").to_reader()
        assert reader.read_next_batch().num_rows > 0
        with pytest.raises(TransferError, match=r"within the time limit|silent for 1 seconds"):
            reader.read_next_batch()
    for address in ("grpc://h:1/n", "http://h/tables/n"):
        with pytest.raises(AddressError, match="no number of seconds"):
            aljava.read(f"{address}?timeout=soon")
        with pytest.raises(AddressError, match="has no option 'ca'; it has timeout"):
            aljava.read(f"{address}?ca=x")
