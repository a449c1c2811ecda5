"""Zone maps: what they say is true of the data, survives its text, and cannot be garbled into anything but an error."""

import base64
import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aljava.errors import InvalidData, InvalidOption, SchemaMismatch
from aljava.ipc.bounds import LONGEST
from aljava.ipc.zones import FEWEST_ROWS, KEY, ZONE_ROWS, ZoneBuilder, Zones
from tests.ipc.columns import COLUMNS


def zones_of(*batches: pa.RecordBatch, compressed: bool = False, rows: int = ZONE_ROWS) -> Zones:
    """Describe batches as if they were appended to a file of one batch, so that small ones are described too."""
    builder = ZoneBuilder.resume(batches[0].schema, None, 1, rows=rows)
    for batch in batches:
        builder.add(batch, compressed=compressed)
    zones = Zones.from_metadata(builder.finish(), batches[0].schema)
    assert zones is not None
    return zones


def batch_of(**columns: pa.Array) -> pa.RecordBatch:
    return pa.record_batch(list(columns.values()), names=list(columns))


def statistics(zones: Zones, name: str) -> list[dict[str, Any]]:
    return [row["columns"][name] for row in zones.table.to_pylist()]


def order_of(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=30, deadline=None)
@given(r=st.randoms(use_true_random=False), rows=st.integers(1, 7), compressed=st.booleans())
def test_statistics_are_true_and_tight(name: str, r: random.Random, rows: int, compressed: bool) -> None:
    column = COLUMNS[name]
    arrays = [column.array([column.draw(r)])]
    for _ in range(r.randint(0, 3)):
        missing = r.choice([0.0, 0.3, 1.0])
        values = [None if r.random() < missing else column.draw(r) for _ in range(r.randint(0, 20))]
        # A slice: what lies before and after it must not count.
        arrays.append(column.array(values).slice(r.randint(0, 2)))
    zones = zones_of(*(batch_of(x=array) for array in arrays), compressed=compressed, rows=rows)
    for place, known in zip(zones.table.to_pylist(), statistics(zones, "x"), strict=True):
        values = arrays[place["batch"] - 1].slice(place["offset"], place["rows"]).to_pylist()
        present = [value for value in values if value is not None]
        if values:
            assert known["nulls"] == len(values) - len(present)
        if known.get("min") is not None:
            assert all(order_of(known["min"]) <= order_of(value) for value in present)
        if known.get("max") is not None:
            assert all(order_of(value) <= order_of(known["max"]) for value in present)
        if name in TIGHT and values:
            bounded = present and not any(isinstance(value, float) and math.isnan(value) for value in present)
            ends = (min(present), max(present)) if bounded else (None, None)
            assert (known["min"], known["max"]) == ends


# Small batches share the bounds of dear columns, long values are cut.
TIGHT = [
    name
    for name, column in COLUMNS.items()
    if pa.types.is_primitive(column.type) or pa.types.is_decimal128(column.type)
]


@pytest.mark.parametrize("type", [pa.float16(), pa.float32(), pa.float64()])
def test_a_zone_with_nan_has_no_bounds(type: pa.DataType) -> None:
    values = pa.array(np.array([1, 2, np.nan, 3, 4, 5]), pa.float64()).cast(type)
    known = statistics(zones_of(batch_of(x=values), rows=2), "x")
    assert [(zone["min"], zone["max"]) for zone in known] == [(1, 2), (None, None), (4, 5)]


def test_raw_batches_have_zones_finer_than_the_batch_and_compressed_ones_are_one() -> None:
    batch = batch_of(x=pa.array(range(20_000)))
    builder = ZoneBuilder(batch.schema)
    builder.add(batch, compressed=False)
    builder.add(batch, compressed=True)
    builder.add(batch.slice(0, 0), compressed=True)
    builder.add(batch.slice(0, 10), compressed=False)
    zones = Zones.from_metadata(builder.finish(), batch.schema)
    assert zones is not None
    assert zones.table.drop_columns("columns").to_pydict() == {
        "batch": [0, 0, 0, 1, 2, 3],
        "offset": [0, 8192, 16384, 0, 0, 0],
        "rows": [8192, 8192, 3616, 20_000, 0, 10],
    }
    assert zones.prune(pc.field("x") == 19_999).tolist() == [False, False, True, True, False, True]


def test_every_row_is_in_one_zone_however_the_batch_is_cut() -> None:
    batch = batch_of(x=pa.array(range(300_001)))
    for rows in (1000, 8192, 131_072, 200_000, 10**6):
        zones = zones_of(batch, rows=rows)
        known = statistics(zones, "x")
        assert [zone["min"] for zone in known] == list(range(0, 300_001, rows))
        assert sum(zones.table["rows"].to_pylist()) == 300_001


def test_long_values_are_cut_so_that_bounds_stay_true() -> None:
    text = ["é" * 40, "é" * 39 + "z" * 10, "\U0010ffff" * 40, "\ud7ff" * 40]
    for value in text:
        (known,) = statistics(zones_of(batch_of(x=pa.array([value]))), "x")
        assert known["min"].encode() <= value.encode()
        assert len(known["min"].encode()) <= LONGEST
        assert known["max"] is None or (known["max"] >= value and len(known["max"].encode()) <= LONGEST)
    (known,) = statistics(zones_of(batch_of(x=pa.array([b"\xff" * 70, b"a\xff" * 40, b"a" * 63 + b"\xff" * 9]))), "x")
    assert (known["min"], known["max"]) == (b"a" * 63 + b"\xff", None)
    (known,) = statistics(zones_of(batch_of(x=pa.array([b"a" * 63 + b"\xff" * 9]))), "x")
    assert known["max"] == b"a" * 62 + b"b"


def test_strings_are_described_while_zones_lie_apart() -> None:
    zones, rows = 40, 2000
    apart = pa.array([f"{row:09}" for row in range(zones * rows)])
    alike = pa.array([f"{row * 7919 % rows:09}" for row in range(zones * rows)])
    constant = pa.array(["x"] * (zones * rows))
    found = zones_of(batch_of(apart=apart, alike=alike, constant=constant), rows=rows)
    assert [zone["min"] for zone in statistics(found, "apart")] == [f"{row:09}" for row in range(0, zones * rows, rows)]
    assert all(zone["min"] == zone["max"] == "x" for zone in statistics(found, "constant"))
    given_up = [zone["min"] is None for zone in statistics(found, "alike")]
    assert given_up == [False] * 8 + [True] * 32


def test_text_that_is_not_utf8_has_no_bounds() -> None:
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff"))
    encoded = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), broken)
    for array in (broken, encoded):
        assert statistics(zones_of(batch_of(x=array)), "x") == [{"min": None, "max": None, "nulls": 0}]


def test_dictionaries_whose_nulls_or_indices_cannot_be_trusted() -> None:
    with_null = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None]))
    assert statistics(zones_of(batch_of(x=with_null)), "x") == [{"min": None, "max": None, "nulls": None}]
    outside = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int8()), pa.array(["a"]), safe=False)
    assert statistics(zones_of(batch_of(x=outside)), "x") == [{"min": None, "max": None, "nulls": 0}]
    empty = pa.DictionaryArray.from_arrays(pa.array([None, None], pa.int8()), pa.array([], pa.string()))
    assert statistics(zones_of(batch_of(x=empty)), "x") == [{"min": None, "max": None, "nulls": 2}]


def test_columns_without_an_order_have_null_counts() -> None:
    batch = batch_of(
        list=pa.array([[1], None, []]),
        struct=pa.array([{"a": 1}, None, None]),
        map=pa.array([None, [("a", 1)], []], pa.map_(pa.string(), pa.int8())),
        null=pa.nulls(3),
        uuid=pa.array([b"0" * 16, None, None], pa.uuid()),
        union=pa.UnionArray.from_sparse(pa.array([0, 0, 0], pa.int8()), [pa.array([1, None, 3])]),
    )
    zones = zones_of(batch)
    (known,) = zones.table["columns"].to_pylist()
    assert {name: column["nulls"] for name, column in known.items()} == {
        "list": 1, "struct": 2, "map": 1, "null": 3, "uuid": 2, "union": None,
    }  # fmt: skip
    assert zones.prune(pc.field("list").is_null()).all()


def test_columns_that_share_a_name_are_left_out() -> None:
    batch = pa.record_batch([pa.array([1]), pa.array([2]), pa.array([3])], names=["x", "x", "batch"])
    zones = zones_of(batch)
    assert zones.table["columns"].type.names == ["batch"]
    assert zones.prune((pc.field("x") > 5) & (pc.field("batch") == 3)).tolist() == [True]
    assert zones.prune(pc.field("batch") > 5).tolist() == [False]


def test_what_is_not_worth_keeping() -> None:
    batch = batch_of(x=pa.array(range(FEWEST_ROWS - 1)))
    builder = ZoneBuilder(batch.schema)
    assert builder.finish() == {}
    builder.add(batch, compressed=False)
    assert builder.finish() == {}
    assert Zones.from_metadata({b"other": b"x"}, batch.schema) is None
    assert Zones.from_metadata(None, batch.schema) is None
    with pytest.raises(InvalidOption):
        ZoneBuilder(batch.schema, rows=0)


def test_a_file_without_columns_or_zones() -> None:
    batch = pa.record_batch([], schema=pa.schema([]))
    assert ZoneBuilder(batch.schema).finish() == {}
    schema = pa.schema([("x", pa.int8())])
    none = Zones(zones_of(batch_of(x=pa.array([1], pa.int8()))).table.slice(0, 0), schema)
    again = Zones.from_metadata(none.to_metadata(), schema)
    assert again is not None
    assert again.prune(pc.field("x") > 0).tolist() == []


@settings(max_examples=30, deadline=None)
@given(r=st.randoms(use_true_random=False))
def test_resuming_gives_what_one_writer_gives(r: random.Random) -> None:
    names = r.sample(list(COLUMNS), 3)
    batches = [
        batch_of(**{name: COLUMNS[name].array([COLUMNS[name].draw(r) for _ in range(rows)]) for name in names})
        for rows in (r.randint(1, 9), r.randint(1, 9), r.randint(0, 9))
    ]
    schema = batches[0].schema
    whole = zones_of(*batches, rows=4)
    start = zones_of(batches[0], rows=4)
    builder = ZoneBuilder.resume(schema, start, 2, rows=4)
    for batch in batches[1:]:
        builder.add(batch, compressed=False)
    resumed = Zones.from_metadata(builder.finish(), schema)
    assert resumed is not None
    assert resumed.table.equals(whole.table)


def test_resuming_checks_what_it_resumes() -> None:
    zones = zones_of(batch_of(x=pa.array([1])))
    with pytest.raises(SchemaMismatch):
        ZoneBuilder.resume(pa.schema([("y", pa.int64())]), zones, 2)
    with pytest.raises(InvalidData, match="describes record batch 1, but the file holds 1"):
        ZoneBuilder.resume(zones.schema, zones, 1)


@settings(max_examples=60, deadline=None)
@given(r=st.randoms(use_true_random=False))
def test_statistics_survive_their_text(r: random.Random) -> None:
    names = r.sample(list(COLUMNS), 4)
    arrays = {name: COLUMNS[name].array([COLUMNS[name].draw(r) for _ in range(9)]) for name in names}
    zones = zones_of(batch_of(**arrays), rows=2)
    metadata = zones.to_metadata()
    again = Zones.from_metadata(metadata, zones.schema)
    assert again is not None
    assert again.table.equals(zones.table)
    assert again.to_metadata() == metadata
    metadata[KEY].decode("ascii")


def text_of(raw: bytes) -> bytes:
    return base64.b64encode(pa.Codec("zstd").compress(raw, asbytes=True))


def stream_of(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


EXAMPLE = zones_of(
    batch_of(
        i=pa.array(range(40)),
        s=pa.array([f"{value:03}" for value in range(40)]),
        f=pa.array([1.5, None] * 20),
        d=pa.array(["a", "b"] * 20).dictionary_encode(),
    ),
    rows=8,
)


def mutate(r: random.Random, data: bytes) -> bytes:
    """Flip bits, change bytes, cut, repeat or swap stretches."""
    mutated = bytearray(data)
    for _ in range(r.choice([1, 1, 2, 5])):
        at = r.randrange(len(mutated)) if mutated else 0
        match r.randrange(5):
            case 0 if mutated:
                mutated[at] ^= 1 << r.randrange(8)
            case 1 if mutated:
                mutated[at] = r.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                del mutated[at : at + r.choice([1, 4, 8, 1000])]
            case 3:
                mutated[at:at] = mutated[at : at + r.choice([1, 4, 8, 64])]
            case 4 if len(mutated) >= 16:
                word = r.choice([2**31 - 1, 2**63 - 1, -1, 2**40]).to_bytes(8, "little", signed=True)
                at -= at % 8
                mutated[at : at + 8] = word
    return bytes(mutated)


def open_garbled(text: bytes) -> None:
    try:
        zones = Zones.from_metadata({KEY: text}, EXAMPLE.schema)
    except InvalidData:
        return
    assert zones is not None
    assert zones.prune((pc.field("i") > 3) | (pc.field("s") < "x")).shape == (len(zones),)


def garble(seed: int, cases: int) -> None:
    r = random.Random(seed)
    text = EXAMPLE.to_metadata()[KEY]
    raw = stream_of(EXAMPLE.table)
    for case in range(cases):
        # The text itself; what it holds before and after compression, so that garbage comes as far as the reader.
        match case % 3:
            case 0:
                open_garbled(mutate(r, text))
            case 1:
                open_garbled(base64.b64encode(mutate(r, base64.b64decode(text))))
            case 2:
                open_garbled(text_of(mutate(r, raw)))


def test_garbled_text_is_an_error_or_valid() -> None:
    garble(0, 1500)


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_much_garbled_text_is_an_error_or_valid(seed: int) -> None:
    garble(seed, 10_000)


def with_column(name: str, values: list[Any]) -> pa.Table:
    index = EXAMPLE.table.schema.get_field_index(name)
    field = EXAMPLE.table.schema.field(name)
    return EXAMPLE.table.set_column(index, field, pa.array(values, field.type))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (EXAMPLE.table.drop_columns("rows"), "expected the schema"),
        (with_column("batch", [1, 1, 1, 1, 0]), "follow each other"),
        (with_column("batch", [-1, -1, -1, -1, -1]), "follow each other"),
        (with_column("offset", [0, 8, 16, 24, 33]), "follow each other"),
        (with_column("offset", [8, 16, 24, 32, 40]), "follow each other"),
        (with_column("rows", [8, 8, 8, 8, 2**62]), "follow each other"),
        (with_column("rows", [8, 8, 8, 8, 1]), "nulls in column 'f'"),
    ],
)
def test_statistics_that_contradict_themselves(table: pa.Table, message: str) -> None:
    with pytest.raises(InvalidData, match=message):
        Zones.from_metadata({KEY: text_of(stream_of(table))}, EXAMPLE.schema)


def test_bounds_the_wrong_way_round() -> None:
    schema = pa.schema([("x", pa.int8())])
    zones = zones_of(batch_of(x=pa.array([1, 2], pa.int8())))
    low_high = pa.StructArray.from_arrays(
        [pa.array([2], pa.int8()), pa.array([1], pa.int8()), pa.array([0])], ["min", "max", "nulls"]
    )
    columns = pa.StructArray.from_arrays([low_high], fields=list(zones.table.schema.field("columns").type))
    table = zones.table.set_column(3, zones.table.schema.field("columns"), columns)
    with pytest.raises(InvalidData, match="minimum of column 'x' above its maximum"):
        Zones.from_metadata({KEY: text_of(stream_of(table))}, schema)


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    with pytest.raises(InvalidData, match="expected at most"):
        Zones.from_metadata({KEY: text_of(bytes(200 << 20))}, EXAMPLE.schema)
    with pytest.raises(InvalidData, match="without compression"):
        Zones.from_metadata({KEY: text_of(stream_of(EXAMPLE.table, compression="zstd"))}, EXAMPLE.schema)
