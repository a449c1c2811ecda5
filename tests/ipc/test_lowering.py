"""A payload holds the rows it was given and no byte of any other."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aljava import ipc
from aljava.errors import UnsupportedType
from aljava.ipc.lowering import pack_views
from tests.ipc.samples import NAMES, columns

COLUMNS = columns(100)
OTHER = columns(100, seed=1)
OWN_DICTIONARY = [name for name in NAMES if "dictionar" in name]
PLAIN = [name for name in NAMES if name not in OWN_DICTIONARY]


def written(column: pa.Array, options: object = None) -> bytes:
    batch = pa.record_batch([column], names=["column"])
    sink = io.BytesIO()
    with ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("start", "rows"), [(0, 100), (0, 0), (9, 0), (3, 1), (5, 60), (8, 9), (99, 1)])
def test_a_slice_comes_back(name: str, start: int, rows: int) -> None:
    column = COLUMNS[name].slice(start, rows)
    table = pa.ipc.open_stream(written(column)).read_all()
    table.validate(full=True)
    assert table == pa.table({"column": column})


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("rows", [0, 1, 5, 8, 33])
def test_equal_slices_give_equal_bytes(name: str, rows: int) -> None:
    """The same rows, among other rows and at another place."""
    column = COLUMNS[name].slice(11, rows)
    before, after = OTHER[name].slice(0, 13), OTHER[name].slice(50, 21)
    moved = pa.concat_arrays([before, column, after]).slice(13, rows)
    assert moved.equals(column)
    assert written(moved) == written(column)


@pytest.mark.parametrize(
    "make",
    [
        lambda texts: pa.array(texts),
        lambda texts: pa.array(texts, pa.large_string()),
        lambda texts: pa.array(texts, pa.string_view()),
        lambda texts: pa.array([[text] for text in texts]),
        lambda texts: pa.array([[text] for text in texts], pa.list_view(pa.string())),
        lambda texts: pa.array([[text] for text in texts], pa.list_view(pa.string_view())),
        lambda texts: pa.array([{"a": text} for text in texts]),
        lambda texts: pa.array([[(text, text)] for text in texts], pa.map_(pa.string(), pa.string_view())),
        lambda texts: pa.UnionArray.from_dense(
            pa.array([0] * len(texts), pa.int8()), pa.array(range(len(texts)), pa.int32()), [pa.array(texts)]
        ),
        lambda texts: pa.UnionArray.from_sparse(pa.array([0] * len(texts), pa.int8()), [pa.array(texts)]),
        lambda texts: pa.RunEndEncodedArray.from_arrays(
            pa.array(range(1, len(texts) + 1), pa.int32()), pa.array(texts)
        ),
    ],
)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_row_does_not_carry_its_neighbours(make: object, compression: str) -> None:
    texts = [f"secret of row {number:04d}, long enough to be a view's" for number in range(50)]
    column = make(texts)  # type: ignore[operator]
    for row in (0, 7, 49):
        payload = written(column.slice(row, 1), ipc.WriteOptions(compression=compression))
        plain = written(pa.ipc.open_stream(payload).read_all().column(0).chunk(0))
        for data in (payload, plain):
            assert not [text for text in texts if text.encode() in data and text != texts[row]]


@pytest.mark.parametrize("rows", range(1, 9))
def test_no_bit_of_the_next_row_stands_behind_the_last(rows: int) -> None:
    column = pa.array([True] * 64).slice(0, rows)
    with_null = pa.array([None, *[1] * 63], pa.int8()).slice(0, rows)
    for array, buffer in ((column, 1), (with_null, 0)):
        table = pa.ipc.open_stream(written(array)).read_all()
        bits = table.column(0).chunk(0).buffers()[buffer]
        assert bits is None or bits[bits.size - 1] >> (rows % 8 or 8) == 0


def test_view_buffers_that_no_row_uses_are_left_out() -> None:
    column = pa.array(["short", "long enough to need a buffer of its own"] * 1000, pa.string_view())
    assert len(written(column.slice(0, 1))) == len(written(pa.array(["short"], pa.string_view())))


LONG = st.binary(min_size=13, max_size=30)


@given(
    st.lists(st.none() | st.binary(max_size=30), max_size=40) | st.lists(st.none() | LONG, min_size=9, max_size=40),
    st.integers(30, 200),
    st.randoms(),
)
def test_packed_views_hold_the_strings_of_their_rows_and_no_more(
    values: list[bytes | None], limit: int, random: object
) -> None:
    array = pa.array(values, pa.binary_view())
    order = list(range(len(values)))
    random.shuffle(order)  # type: ignore[attr-defined]
    order = order[: len(order) * 2 // 3]
    _, views, *data = array.buffers()
    chosen = np.frombuffer(views or b"", "V16")[order]
    wanted = [values[row] for row in order]
    bitmap = np.packbits(np.array([value is not None for value in wanted], bool), bitorder="little")
    packed, parts = pack_views(pa.py_buffer(bitmap), pa.py_buffer(chosen.tobytes()), data, limit)
    again = pa.Array.from_buffers(pa.binary_view(), len(order), [pa.py_buffer(bitmap), packed, *parts])
    again.validate(full=True)
    assert again.to_pylist() == wanted
    assert sum(part.size for part in parts) == sum(len(value) for value in wanted if value and len(value) > 12)
    assert len(parts) == 1 or all(part.size <= limit for part in parts)


def test_strings_that_views_share_are_kept_once() -> None:
    long = b"a string that many rows share, and none of them should pay for twice"
    views = np.zeros(1000, np.dtype([("length", "<i4"), ("prefix", "V4"), ("buffer", "<i4"), ("offset", "<i4")]))
    views["length"], views["prefix"] = len(long), long[:4]
    array = pa.Array.from_buffers(pa.binary_view(), 1000, [None, pa.py_buffer(views), pa.py_buffer(b"x" * 9 + long)])
    views["offset"] = 9
    array.validate(full=True)
    payload = written(array)
    assert payload.count(long) == 1
    assert b"x" * 9 not in payload
    assert pa.ipc.open_stream(payload).read_all().column(0).to_pylist() == [long] * 1000


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("inner", ["list_view", "dense union"])
@pytest.mark.parametrize("outer", ["fixed list", "fixed list with nulls", "fixed list of none", "run ends", "struct"])
def test_what_points_into_children_within_other_types(outer: str, inner: str, compression: str) -> None:
    if inner == "list_view":
        values = pa.array([[number] * (number % 4) for number in range(1000)], pa.list_view(pa.int64()))
    else:
        which, places = pa.array([0, 1] * 500, pa.int8()), pa.array(np.repeat(np.arange(500), 2), pa.int32())
        values = pa.UnionArray.from_dense(which, places, [pa.array(range(500)), pa.array(map(str, range(500)))])
    ends = pa.array(range(3, 3003, 3), pa.int32())
    none = pa.list_(values.type, 0)
    missing = pa.array([number % 3 == 0 for number in range(250)])
    array = {
        "fixed list": lambda: pa.FixedSizeListArray.from_arrays(values, 4),
        "fixed list with nulls": lambda: pa.FixedSizeListArray.from_arrays(values, 4, mask=missing),
        "fixed list of none": lambda: pa.Array.from_buffers(none, 10, [None], children=[values[:0]]),
        "run ends": lambda: pa.RunEndEncodedArray.from_arrays(ends, values),
        "struct": lambda: pa.StructArray.from_arrays([pa.RunEndEncodedArray.from_arrays(ends, values)], ["inside"]),
    }[outer]()
    for part in (array, array[7:99], array[5:5], array[100:101]):
        batch, sink = pa.record_batch({"it": part}), io.BytesIO()
        with ipc.new_file(sink, batch.schema, options=ipc.WriteOptions(compression)) as writer:
            writer.write_batch(batch)
        found = pa.ipc.open_file(sink.getvalue()).read_all()["it"]
        found.validate(full=True)
        assert found.to_pylist() == part.to_pylist()


@pytest.mark.parametrize("around", ["nothing", "struct", "list", "large list", "list_view", "extension", "map"])
def test_runs_of_an_extension_type_within_lists_that_share_their_values(around: str) -> None:
    """pyarrow neither takes rows from them nor concatenates them."""
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([n] * 16) for n in range(4)], pa.binary(16)))
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 8, 9, 12], pa.int16()), uuids)
    values = {
        "nothing": lambda: runs,
        "struct": lambda: pa.StructArray.from_arrays([runs], ["it"], mask=pa.array([False, True] * 6)),
        "list": lambda: pa.ListArray.from_arrays([*range(5), None, *range(6, 13)], runs),
        "large list": lambda: pa.LargeListArray.from_arrays([*range(0, 12, 2), 11, 11, 11, 11, 11, 11, 12], runs),
        "list_view": lambda: pa.ListViewArray.from_arrays([*range(10), 3, 0], [2] * 12, runs),
        "extension": lambda: pa.ExtensionArray.from_storage(pa.opaque(runs.type, "a", "b"), runs),
        "map": lambda: pa.MapArray.from_arrays(range(13), pa.array(range(12)), runs),
    }[around]()
    shared = pa.ListViewArray.from_arrays([6, 3, 0, 5], [3, 2, 0, 4], values)
    batch, sink = pa.record_batch({"it": shared[:3]}), io.BytesIO()
    with ipc.new_file(sink, batch.schema, options=ipc.WriteOptions("none")) as writer:
        if around == "map":
            with pytest.raises(UnsupportedType, match="pyarrow cannot gather its rows"):
                writer.write_batch(batch)
            return
        writer.write_batch(batch)
    found = pa.ipc.open_file(sink.getvalue()).read_all()["it"]
    found.validate(full=True)
    assert found.to_pylist() == shared[:3].to_pylist()


def test_runs_of_different_extension_types_are_not_taken_for_the_same() -> None:
    """pyarrow takes their types for equal."""
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"] * 2, pa.binary(16)))
    tensor = pa.fixed_shape_tensor(pa.float32(), [1])
    floats = pa.FixedSizeListArray.from_arrays(pa.array([1.5, 2.5], pa.float32()), 1)
    for values in (uuids, pa.ExtensionArray.from_storage(tensor, floats), uuids):
        runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int16()), values)
        batch, sink = pa.record_batch({"it": pa.ListArray.from_arrays([0, 2, 5], runs)}), io.BytesIO()
        with ipc.new_file(sink, batch.schema, options=ipc.WriteOptions("none")) as writer:
            writer.write_batch(batch)
        found = pa.ipc.open_file(sink.getvalue()).read_all()["it"]
        found.validate(full=True)
        assert found.to_pylist() == batch["it"].to_pylist()
