"""Reads damaged payloads, one after the other, in a process of its own: its death is a finding.

A case is a number: it chooses a payload of ours and how it is damaged, always the same. The process takes requests on
standard input, one a line, and answers each with one line on standard output:

    case 4711            →  read (a valid table) or refused (an error of Aljava's)
    file stream PATH     →  the same, for a file from elsewhere that is read as a stream

It answers nothing else. Another exception, a table that is not valid or memory beyond an allowance that is generous for
payloads of a few kilobytes ends the process with a traceback, as a crash ends it without one.
"""

import faulthandler
import functools
import io
import random
import resource
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import aljava
import aljava.feather
import aljava.ipc
from aljava.ipc.checksums import read_checksums
from aljava.ipc.zones import Zones
from tests.ipc.payloads import COMPRESSIONS, FORMATS, written
from tests.types import arrays

# What reading a payload may take beyond a multiple of its size: a read-ahead, a thread, what a batch of 40 rows holds.
ALLOWANCE = 8 << 20
MULTIPLE = 32
ADDRESS_SPACE = 1 << 30

ROWS = 40
# Lengths and offsets that arithmetic on 32 or 64 bits trips over.
NUMBERS = (0, 1, 7, 8, 63, 64, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 62), (1 << 63) - 1)


@functools.cache
def payloads() -> list[tuple[str, bytes]]:
    """The payloads that are damaged, each with its format."""
    return [*payloads_of_all_types(), *payloads_with_zones(), *payloads_of_other_kinds()]


def payloads_of_all_types() -> Iterator[tuple[str, bytes]]:
    """Small ones of eight columns each, of both formats, under every compression."""
    columns = list(arrays(ROWS).items())
    # Enough of each value for a codec to find something to save.
    columns += [("runs", pa.array([i // 10 for i in range(ROWS)])), ("text", pa.array(["flecha e arco"] * ROWS))]
    for start in range(0, len(columns), 8):
        table = pa.table(dict(columns[start : start + 8])).replace_schema_metadata({"made": "for damage"})
        for format_ in FORMATS:
            for compression in COMPRESSIONS:
                yield format_, written(table.schema, table.to_batches(max_chunksize=25), format_, compression)


def payloads_with_zones() -> Iterator[tuple[str, bytes]]:
    """Files with enough rows for zone maps, that compress to little."""
    rows = range(20_000)
    table = pa.table({"step": [i // 1000 for i in rows], "name": [f"name {i // 3000}" for i in rows]})
    for batch_rows in (5_000, 20_000):
        yield "file", written(table.schema, table.to_batches(max_chunksize=batch_rows), "file", "zstd")


def payloads_of_other_kinds() -> Iterator[tuple[str, bytes]]:
    """What Aljava rarely writes, but reads: older metadata, no markers, dictionaries that grow, Feather version 1."""
    words = pa.array([f"word {i}" for i in range(9)])
    growing = [
        pa.record_batch([pa.DictionaryArray.from_arrays(pa.array([0, size - 1], pa.int8()), words[:size])], ["word"])
        for size in (3, 6, 9)
    ]
    settings = (
        {"emit_dictionary_deltas": True},
        {"metadata_version": pa.ipc.MetadataVersion.V4},
        {"use_legacy_format": True},
    )
    for format_, new in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        for options in settings:
            sink = io.BytesIO()
            with new(sink, growing[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
                # A file cannot hold a second dictionary for a column, only what is added to the first.
                for batch in growing if format_ == "stream" or "emit_dictionary_deltas" in options else growing[:1]:
                    writer.write_batch(batch)
            yield format_, sink.getvalue()
    table = pa.table({"n": [1, None] * 9, "word": growing[0]["word"].take([0, 1, None] * 6), "text": ["a", "bc"] * 9})
    sink = io.BytesIO()
    aljava.feather.write_feather(table, sink, version=1)
    yield "feather", sink.getvalue()


def damaged(case: int) -> tuple[str, bytes]:
    """The payload of a case: its format and its bytes."""
    chance = random.Random(case)
    format_, payload = chance.choice(payloads())
    damage = bytearray(payload)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice((flip, flip, renumber, renumber, renumber, cut, take_out, repeat, swap, clear, graft))(
            damage, chance
        )
    return format_, bytes(damage)


def flip(payload: bytearray, chance: random.Random) -> None:
    """One bit."""
    if payload:
        payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)


def renumber(payload: bytearray, chance: random.Random) -> None:
    """A number that looks like a length, a count or an offset becomes another, often an absurd one."""
    width, form = chance.choice(((4, "<i"), (8, "<q")))
    places = [
        place
        for place in range(0, len(payload) - width + 1, width)
        if -2 <= struct.unpack_from(form, payload, place)[0] <= 2 * len(payload)
    ]
    if places:
        place = chance.choice(places)
        old = struct.unpack_from(form, payload, place)[0]
        new = chance.choice((old + 1, old - 1, old * 2, old + 8, -old, -1, *NUMBERS, *(-number for number in NUMBERS)))
        payload[place : place + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def region(payload: bytearray, chance: random.Random) -> slice:
    """Some part, mostly small, mostly at a boundary of 8 bytes."""
    step = chance.choice((1, 8, 8, 8))
    start = chance.randrange(len(payload) + 1) // step * step
    return slice(start, start + step * chance.choice((1, 1, 2, 8, 64)))


def cut(payload: bytearray, chance: random.Random) -> None:
    """All from some byte on."""
    del payload[chance.randrange(len(payload) + 1) :]


def take_out(payload: bytearray, chance: random.Random) -> None:
    """A part that is missing: what follows moves up."""
    del payload[region(payload, chance)]


def repeat(payload: bytearray, chance: random.Random) -> None:
    """A part that stands there twice."""
    part = region(payload, chance)
    payload[part.stop : part.stop] = payload[part]


def swap(payload: bytearray, chance: random.Random) -> None:
    """Two parts in each other's place."""
    one, other = region(payload, chance), region(payload, chance)
    payload[one], payload[other] = payload[other], payload[one]


def clear(payload: bytearray, chance: random.Random) -> None:
    """A part of zeros or ones."""
    part = region(payload, chance)
    payload[part] = bytes([chance.choice((0, 255))]) * len(payload[part])


def graft(payload: bytearray, chance: random.Random) -> None:
    """A part of another payload."""
    _, donor = chance.choice(payloads())
    source, target = region(bytearray(donor), chance), region(payload, chance)
    payload[target] = donor[source]


class Finding(Exception):
    """What must not happen when a payload is read."""


def attempt(format_: str, payload: bytes, way: int) -> str:
    """Read the whole payload, in one of the ways: "read" or "refused".

    Raises:
        Finding: anything else.
    """
    pool = pa.default_memory_pool()
    allocated, resident = pool.max_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_all(format_, payload, way)
        outcome = "read"
    except aljava.AljavaError:
        outcome = "refused"
    allowed = ALLOWANCE + MULTIPLE * len(payload)
    taken = pool.max_memory() - max(allocated, allowed)
    if taken > 0:
        raise Finding(f"{len(payload)} bytes made Arrow allocate {pool.max_memory()} bytes")
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident)
    if grown > allowed + (32 << 20):
        raise Finding(f"{len(payload)} bytes made the process grow by {grown} bytes")
    return outcome


# Sources and options take different ways through the reader.
WAYS: tuple[tuple[Callable[[bytes], Any], aljava.ipc.ReadOptions], ...] = (
    (pa.py_buffer, aljava.ipc.ReadOptions()),
    (pa.py_buffer, aljava.ipc.ReadOptions(untrusted=True)),
    (io.BytesIO, aljava.ipc.ReadOptions(untrusted=True, use_threads=False)),
    (pa.py_buffer, aljava.ipc.ReadOptions(columns=(0,), use_threads=False)),
)


def read_all(format_: str, payload: bytes, way: int) -> pa.Table:
    """The table in a payload from a stranger."""
    source, options = WAYS[way]
    if format_ == "feather":
        return aljava.feather.read_table(source(payload), columns=options.columns)
    open_ = aljava.ipc.open_file if format_ == "file" else aljava.ipc.open_stream
    with open_(source(payload), options=options) as reader:
        table = reader.read_all()
        if format_ == "file" and options.columns is None:  # zones are those of the whole schema
            read_checksums(reader.footer)
            zones = Zones.from_metadata(dict(reader.footer.metadata), reader.schema)
            if zones is not None:
                zones.prune(pc.field(reader.schema.names[0]).is_null())
    try:
        table.validate(full=options.untrusted)
    except pa.ArrowInvalid as error:
        raise Finding(f"a table that is not valid: {error}") from error
    return table


def answer(request: str) -> str:
    """One request, one line; a file from elsewhere is read in every way, and counts as read if one of them reads it."""
    word, _, rest = request.partition(" ")
    if word == "case":
        return attempt(*damaged(int(rest)), way=int(rest) % len(WAYS))
    format_, _, path = rest.partition(" ")
    payload = Path(path).read_bytes()
    return min(attempt(format_, payload, way) for way in range(len(WAYS)))


def main() -> None:
    """Answer requests until there are no more."""
    faulthandler.enable()
    warnings.simplefilter("ignore", DeprecationWarning)  # of Feather 1
    for format_, payload in payloads():  # unharmed: also starts all threads before the address space is bounded
        assert all(attempt(format_, payload, way) == "read" for way in range(len(WAYS)))
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ADDRESS_SPACE, in_use + ADDRESS_SPACE))
    print("ready", flush=True)
    for request in sys.stdin:
        print(answer(request.rstrip("\n")), flush=True)


if __name__ == "__main__":
    main()
