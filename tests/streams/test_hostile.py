"""Senders that mean harm: damaged frames, impossible lengths, bombs, silence, crowds."""

import os
import resource
import socket
import struct
import sys
import threading
from collections import deque
from contextlib import suppress

import flatbuffers
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aljava
from aljava.errors import AljavaError, InvalidData
from aljava.streams.channels import SocketChannel
from aljava.streams.messages import STRANGER, Limits
from aljava.streams.receiving import receive
from tests.streams.peers import numbers, table

pytestmark = pytest.mark.usefixtures("no_leaks")


def payload(of: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, of.schema) as writer:
        writer.write_table(of)
    return sink.getvalue().to_pybytes()


def received(data: bytes) -> pa.Table:
    """What a receiver makes of a stranger's bytes."""
    ours, theirs = socket.socketpair()

    def feed() -> None:
        with theirs, suppress(OSError):  # the receiver has hung up, as it should
            theirs.sendall(data)

    sender = threading.Thread(target=feed)
    sender.start()
    try:
        return receive(SocketChannel(ours, "a stranger", 5), limits=STRANGER, shared_memory=False).read_all()
    finally:
        ours.close()
        sender.join()


def test_what_is_whole_arrives() -> None:
    assert received(payload(table())).equals(table())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "a message should begin"),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(100), "2,147,483,647 bytes of metadata"),
        (b"\xff\xff\xff\xff" + struct.pack("<i", -1) + bytes(100), "-1 bytes of metadata"),
        (b"\xff\xff\xff\xff\x10\0\0\0" + b"\xff" * 16, "points outside"),
        (b"\xff\xff\xff\xff\0\0\0\0", "before its schema"),
        (b"ARROW1\0\0", "cut"),
    ],
)
def test_no_stream(data: bytes, words: str) -> None:
    with pytest.raises(InvalidData, match=words):
        received(data)


@pytest.mark.parametrize("length", [1 << 62, (1 << 63) - 1, -1, -(1 << 63), 1 << 40])
def test_a_body_of_an_impossible_length(length: int) -> None:
    """The length of the first record batch's body, in its metadata, becomes another."""
    of = numbers(1000)
    data = bytearray(payload(of))
    at = data.index(struct.pack("<q", 16_000))
    data[at : at + 8] = struct.pack("<q", length)
    before = psutil.Process().memory_info().rss
    with pytest.raises(InvalidData):
        received(bytes(data))
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_a_claim_within_the_limit_takes_no_memory_until_bytes_come() -> None:
    data = bytearray(payload(numbers(1000)))
    at = data.index(struct.pack("<q", 16_000))
    data[at : at + 8] = struct.pack("<q", STRANGER.body)
    before = psutil.Process().memory_info().rss
    with pytest.raises(InvalidData, match="the connection was cut"):
        received(bytes(data))
    assert psutil.Process().memory_info().rss - before < 64 << 20


def bomb(levels: int, metadata: int) -> bytes:
    """A schema whose every field has the field below twice as its children: 2 ** levels fields in a few kilobytes."""
    builder = flatbuffers.Builder(1024)
    name = builder.CreateString("f" * 10)
    text = builder.CreateString("x" * metadata)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependUOffsetTRelativeSlot(1, text, 0)
    pair = builder.EndObject()
    builder.StartVector(4, 1, 4)
    builder.PrependUOffsetTRelative(pair)
    pairs = builder.EndVector()
    builder.StartObject(0)
    struct_type = builder.EndObject()
    children = None
    for _ in range(levels):
        builder.StartObject(7)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUint8Slot(2, 13, 0)  # Struct_
        builder.PrependUOffsetTRelativeSlot(3, struct_type, 0)
        if children is not None:
            builder.PrependUOffsetTRelativeSlot(5, children, 0)
        if metadata:
            builder.PrependUOffsetTRelativeSlot(6, pairs, 0)
        field = builder.EndObject()
        builder.StartVector(4, 2, 4)
        builder.PrependUOffsetTRelative(field)
        builder.PrependUOffsetTRelative(field)
        children = builder.EndVector()
    builder.StartObject(4)
    builder.PrependUOffsetTRelativeSlot(1, children, 0)
    schema = builder.EndObject()
    builder.StartObject(5)
    builder.PrependInt16Slot(0, 4, 0)
    builder.PrependUint8Slot(1, 1, 0)
    builder.PrependUOffsetTRelativeSlot(2, schema, 0)
    builder.Finish(builder.EndObject())
    data = bytes(builder.Output())
    data += bytes(-len(data) % 8)
    return b"\xff\xff\xff\xff" + struct.pack("<i", len(data)) + data + b"\xff\xff\xff\xff\0\0\0\0"


def test_a_small_schema_of_that_kind_is_a_schema() -> None:
    assert received(bomb(3, 5)).schema.field(0).type.num_fields == 2


@pytest.mark.parametrize(("levels", "metadata"), [(30, 0), (60, 0), (12, 200_000), (200, 0)])
def test_a_schema_bomb(levels: int, metadata: int) -> None:
    before = psutil.Process().memory_info().rss
    with pytest.raises(InvalidData, match="the schema"):
        received(bomb(levels, metadata))
    assert psutil.Process().memory_info().rss - before < 200 << 20


def test_a_compressed_bomb() -> None:
    """Zeros shrink by a factor of ten thousand."""
    zeros = pa.table({"zeros": pa.array([0]).take(pa.array([0] * (1 << 20)))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, zeros.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(zeros)
    data = bytearray(sink.getvalue())
    assert received(bytes(data)).equals(zeros)
    at = data.index(struct.pack("<q", 8 << 20))
    data[at : at + 8] = struct.pack("<q", 1 << 44)
    with pytest.raises(InvalidData):
        received(bytes(data))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_never_crashes(data: st.DataObject) -> None:
    good = bytearray(payload(table(50)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    good = good[: data.draw(st.integers(0, len(good)))]
    try:
        found = received(bytes(good))
    except AljavaError:
        return
    found.validate(full=True)


def test_silence_keeps_nobody_waiting(folder: str) -> None:
    """Callers that say nothing, or a byte now and then, while another sends."""
    with aljava.listen(f"unix://{folder}/s", timeout=30) as listener:
        silent = []
        for number in range(20):
            caller = socket.socket(socket.AF_UNIX)
            caller.connect(f"{folder}/s")
            caller.send(b"\xff" * (number % 5))
            silent.append(caller)
        sender = threading.Thread(target=aljava.write, args=(table(10), listener.address))
        sender.start()
        assert next(listener).read_all().equals(table(10))
        sender.join()
        for caller in silent:
            caller.close()


@pytest.mark.long
def test_the_slow_are_cut_off_and_a_thousand_are_survived(folder: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4000:
        pytest.skip(f"at most {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4000), hard))
    callers: list[socket.socket] = []
    with aljava.listen("tcp://127.0.0.1:0", timeout=60) as listener:
        host, port = listener.address.removeprefix("tcp://").split(":")
        for _ in range(1000):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex((host, int(port)))
            callers.append(caller)
        threads = threading.active_count()
        assert threads < 120  # those that are being opened are few, the others wait in the system
        for caller in callers[100:]:
            caller.close()
        # The first hundred stay and say nothing: they are cut off, and then comes who has something to say.
        sender = threading.Thread(target=aljava.write, args=(table(10), listener.address + "?timeout=60"))
        sender.start()
        assert next(listener).read_all().equals(table(10))
        sender.join()
    for caller in callers[:100]:
        caller.close()


def test_a_peer_that_lies_about_memory(folder: str) -> None:
    """Tokens for segments that never came, of sizes that they do not have, and with descriptors that are no memory."""
    from aljava.streams import sharing

    head = payload(numbers(10))[:-8]
    schema_end = 8 + int.from_bytes(head[4:8], "little")
    lies = [
        struct.pack("<4sIQIII4x", b"ALJ\xfe", 7, 1000, 0, 0, 0),
        struct.pack("<4sIQIII4x", b"ALJ\xfe", 7, 1000, 0, 1, 0),
        struct.pack("<4sIQIII4x", b"ALJ\xfe", 1, 1 << 60, 0, 1, 0),
        struct.pack("<4sIQIII4x", b"ALJ\xfd", 1, 8, 0, 1, 0),
        # One that lies in no store, and whose descriptor is of something else.
        struct.pack("<4sIQIII4x", b"ALJ\xfe", 1, 200, 0, 3, 0) + bytes(200),
        struct.pack("<4sIQIII4x", b"ALJ\xfe", 1, 1 << 40, 0, 3, 0),
    ]
    for number, lie in enumerate([*lies, *lies]):
        with aljava.listen(f"unix://{folder}/s") as listener, socket.socket(socket.AF_UNIX) as liar:
            liar.connect(f"{folder}/s")
            liar.sendall(head[:schema_end])
            if number < len(lies):
                with open("/dev/zero", "rb") as zero:
                    socket.send_fds(liar, [lie], [zero.fileno()])
            else:
                liar.sendall(lie)
                liar.shutdown(socket.SHUT_WR)
            reader = next(listener)
            with pytest.raises(AljavaError):
                deque(reader, maxlen=0)
    assert len(lies[0]) == sharing.TOKEN_SIZE


@pytest.mark.skipif(sys.platform != "linux", reason="memory of that kind is Linux's")
def test_memory_that_its_sender_could_cut_short_is_not_mapped(folder: str) -> None:
    head = payload(numbers(10))[:-8]
    with aljava.listen(f"unix://{folder}/s") as listener, socket.socket(socket.AF_UNIX) as liar:
        liar.connect(f"{folder}/s")
        liar.sendall(head[: 8 + int.from_bytes(head[4:8], "little")])
        memory = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, 4096)
        socket.send_fds(liar, [struct.pack("<4sIQIII4x", b"ALJ\xfe", 1, 1000, 0, 1, 0)], [memory])
        os.close(memory)
        with pytest.raises(InvalidData, match="segment 1 is not sealed: it could be cut short"):
            deque(next(listener), maxlen=0)


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"aljava: memory 9", b"aljava"])
def test_a_receiver_that_speaks_of_something_else(words: bytes, folder: str) -> None:
    """Nothing is shared with it: the stream goes as bytes, which any reader of Arrow streams understands."""
    of, found = numbers(1_000_000), []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        listening.listen()

        def take() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as file:
                connection.sendall(words)
                found.append(pa.ipc.open_stream(file).read_all())

        taker = threading.Thread(target=take)
        taker.start()
        aljava.write(of, f"unix://{folder}/s")
        taker.join()
    assert found[0].equals(of)


def test_bodies_that_unpack_to_more_than_is_taken() -> None:
    """Each buffer may claim as much as it can hold; all together not more than the limit."""
    sink = pa.BufferOutputStream()
    of = pa.table({"a": pa.array([7] * 2000), "b": pa.array([8] * 2000)})
    with pa.ipc.new_stream(sink, of.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(of)
    for most, fits in ((40_000, True), (20_000, False)):
        ours, theirs = socket.socketpair()
        theirs.sendall(sink.getvalue())
        theirs.close()
        reader = receive(SocketChannel(ours, "a stranger", 5), limits=Limits(body=most), shared_memory=False)
        if fits:
            assert reader.read_all() == of
        else:
            with pytest.raises(InvalidData, match="20,000"):
                reader.read_all()
        ours.close()


def test_a_body_that_no_memory_holds() -> None:
    whole = payload(numbers(10))
    head = next(at for at in range(8, len(whole)) if whole[at : at + 4] == b"\xff\xff\xff\xff")
    at = whole.index((80).to_bytes(8, "little"), head)
    lie = whole[:at] + (1 << 50).to_bytes(8, "little") + whole[at + 8 :]
    ours, theirs = socket.socketpair()
    theirs.sendall(lie)
    theirs.close()
    with pytest.raises(InvalidData, match="bytes"):
        receive(SocketChannel(ours, "a peer", 5), limits=Limits(), shared_memory=False).read_all()
    ours.close()


def test_a_listener_that_trusts_nobody(folder: str) -> None:
    """Not even a sender of the same user: every value is checked."""
    damaged = bytearray(payload(pa.table({"s": ["naïve", "x"]})))
    at = bytes(damaged).index("ï".encode())
    damaged[at] = 0xFF
    for untrusted in (False, True):
        with aljava.listen(f"unix://{folder}/s", untrusted=untrusted) as listener:
            with socket.socket(socket.AF_UNIX) as sender:
                sender.connect(f"{folder}/s")
                sender.sendall(damaged)
            if untrusted:
                with pytest.raises(InvalidData):
                    next(listener).read_all()
            else:
                assert next(listener).read_all().num_rows == 2
