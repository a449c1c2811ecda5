"""asyncio: batches over streams, under the standard loop and under uvloop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any

import psutil
import pyarrow as pa
import pytest

import aljava
from aljava.aio import read_batches, write_batches
from aljava.errors import InvalidData, TransferError, TruncatedFile, UnsupportedType
from aljava.streams.messages import Limits
from tests.streams.peers import numbers, table

pytestmark = pytest.mark.usefixtures("no_leaks")
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    return uvloop.run


async def between(send: Any, take: Any) -> Any:
    """Runs `send(writer)` at a server and `take(reader)` at its client."""
    results: dict[str, Any] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            results["sent"] = await send(writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            return await take(reader)
        finally:
            writer.close()
            await writer.wait_closed()


async def gather(reader: asyncio.StreamReader) -> pa.Table:
    return pa.Table.from_batches([batch async for batch in read_batches(reader)])


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """uvloop opens a pipe for signals when it first runs, and keeps it."""
    with suppress(ImportError):
        import uvloop

        uvloop.run(asyncio.sleep(0))


@pytest.mark.parametrize("of", [table(5000), numbers(2_000_000), table(0)], ids=["types", "large", "empty"])
def test_a_table_arrives(run: Run, of: pa.Table) -> None:
    async def take(reader: asyncio.StreamReader) -> list[pa.RecordBatch]:
        return [batch async for batch in read_batches(reader)]

    found = run(between(lambda writer: write_batches(writer, of), take))
    assert pa.Table.from_batches(found, of.schema).equals(of)


def test_plain_pyarrow_understands_it(run: Run) -> None:
    async def take(reader: asyncio.StreamReader) -> bytes:
        return await reader.read()

    payload = run(between(lambda writer: write_batches(writer, table(100), compression="zstd"), take))
    assert pa.ipc.open_stream(payload).read_all().equals(table(100))


def test_several_streams_behind_each_other(run: Run) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        for rows in (10, 20, 30):
            await write_batches(writer, table(rows))

    async def take(reader: asyncio.StreamReader) -> list[int]:
        return [(await gather(reader)).num_rows for _ in range(3)]

    assert run(between(send, take)) == [10, 20, 30]


def test_batches_as_they_are_made(run: Run) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def live():
            yield numbers(1).to_batches()[0]
            await go_on.wait()
            yield numbers(2).to_batches()[0]

        async def take(reader: asyncio.StreamReader) -> list[int]:
            rows = []
            async for batch in read_batches(reader):
                rows.append(batch.num_rows)
                go_on.set()
            return rows

        assert await between(lambda writer: write_batches(writer, live()), take) == [1, 2]

    run(main())


def test_a_slow_reader_holds_the_writer_back(run: Run) -> None:
    made = 0

    def batches():
        nonlocal made
        for _ in range(1000):
            made += 1
            yield from numbers(100_000).to_batches()

    async def take(reader: asyncio.StreamReader) -> None:
        batches = read_batches(reader)
        await anext(batches)
        before = psutil.Process().memory_info().rss
        await asyncio.sleep(0.5)
        assert made < 30  # of 1.6 MB each: what the connection and its buffers hold
        assert psutil.Process().memory_info().rss - before < 64 << 20
        await batches.aclose()

    async def send(writer: asyncio.StreamWriter) -> None:
        with pytest.raises((aljava.AljavaError, OSError)):
            await write_batches(writer, pa.RecordBatchReader.from_batches(numbers(1).schema, batches()))

    run(between(send, take))


def test_cancelled(run: Run) -> None:
    async def take(reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(0.2):
            async for _ in read_batches(reader):
                pass

    async def send(writer: asyncio.StreamWriter) -> None:
        async def slow():
            yield numbers(10).to_batches()[0]
            await asyncio.sleep(0.5)

        await write_batches(writer, slow())

    with pytest.raises(TimeoutError):
        run(between(send, take))


def test_what_is_no_stream(run: Run) -> None:
    async def read(data: bytes) -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        await gather(reader)

    whole = aljava.dumps(table(10)).to_pybytes()
    for cut in (0, 5, 100, len(whole) - 8):
        with pytest.raises(TruncatedFile, match="cut"):
            run(read(whole[:cut]))
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100)):
        with pytest.raises(InvalidData):
            run(read(rubbish))


def test_what_is_no_whole_stream(run: Run) -> None:
    async def read(data: bytes, error: Exception | None = None, limits: Limits = Limits()) -> int:  # noqa: B008
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof() if error is None else reader.set_exception(error)
        return sum([batch.num_rows async for batch in read_batches(reader, limits=limits)])

    whole = aljava.dumps(numbers(1000)).to_pybytes()
    assert run(read(whole)) == 1000
    with pytest.raises(InvalidData, match="ended before its schema"):
        run(read(whole[-8:]))
    with pytest.raises(InvalidData, match=r"bytes of body, and at most 1,000 are taken\. Send smaller batches"):
        run(read(whole, limits=Limits(body=1000)))

    async def reset(at: int) -> None:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(whole[:at])
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            # What is not read makes the end a reset.
            writer.write(b"hello")
            try:
                await gather(reader)
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    for at in (0, 300, len(whole) - 300):
        with pytest.raises((TransferError, TruncatedFile), match="cut"):
            run(reset(at))


def test_no_batches_have_no_schema(run: Run) -> None:
    async def none() -> AsyncIterator[pa.RecordBatch]:
        for batch in ():
            yield batch

    async def send(writer: asyncio.StreamWriter) -> None:
        with pytest.raises(InvalidData, match="an asynchronous iterator without batches"):
            await write_batches(writer, none())

    async def take(reader: asyncio.StreamReader) -> bytes:
        return await reader.read()

    assert run(between(send, take)) == b""


def test_what_is_no_table(run: Run) -> None:
    async def take(reader: asyncio.StreamReader) -> bytes:
        return await reader.read()

    async def send(writer: asyncio.StreamWriter) -> None:
        with pytest.raises(UnsupportedType):
            await write_batches(writer, 5)

    assert run(between(send, take)) == b""
