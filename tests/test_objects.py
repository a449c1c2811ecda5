"""dumps and loads: back as the same kind of thing, and plain Arrow IPC in between."""

import datetime
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

import aljava
from aljava.errors import InvalidData, InvalidOption, UnsupportedType

TABLE = pa.table({"id": pa.chunked_array([[1], [2, 3]]), "name": ["a", None, "c"]}).replace_schema_metadata({"k": "v"})

ARROW = {
    "table": TABLE,
    "empty table": TABLE.schema.empty_table(),
    "no columns": pa.table({}),
    "batch": pa.record_batch({"id": [1, 2]}),
    "array": pa.array([1.5, None]),
    "sliced array": pa.array(range(100)).slice(90),
    "empty array": pa.array([], pa.list_(pa.string())),
    "dictionary": pa.array(["x", "y", "x"]).dictionary_encode(),
    "extension": pa.array([b"0123456789abcdef", None], pa.uuid()),
    "chunked array": pa.chunked_array([[1], [], [2, 3]]),
    "no chunks": pa.chunked_array([], pa.timestamp("us", "UTC")),
    "dictionary chunks": pa.chunked_array([pa.array(["x"]).dictionary_encode(), pa.array(["y"]).dictionary_encode()]),
    "scalar": pa.scalar({"a": 1, "b": ["x"]}),
    "null scalar": pa.scalar(None, pa.decimal128(9, 2)),
    "dictionary scalar": pa.array(["x", "y"]).dictionary_encode()[1],
    "schema": pa.schema([pa.field("id", pa.int8(), nullable=False, metadata={"unit": "m"})], {"k": "v"}),
    "tensor": pa.Tensor.from_numpy(np.arange(6.0).reshape(2, 3), dim_names=["row", "column"]),
    "column-major tensor": pa.Tensor.from_numpy(np.asfortranarray(np.arange(6).reshape(2, 3))),
    "empty tensor": pa.Tensor.from_numpy(np.zeros((0, 3))),
}


@pytest.mark.parametrize("kind", ARROW)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_arrow_objects(kind, compression) -> None:
    original = ARROW[kind]
    buffer = aljava.dumps(original, compression=compression)
    back = aljava.loads(buffer)
    assert isinstance(back, type(original))
    assert back.equals(original)
    if isinstance(original, pa.Table | pa.RecordBatch):
        assert back.schema.equals(original.schema, check_metadata=True)
    if isinstance(original, pa.Schema):
        assert back.equals(original, check_metadata=True)
    if isinstance(original, pa.ChunkedArray):
        assert [len(chunk) for chunk in back.chunks] == [len(chunk) for chunk in original.chunks]
    if isinstance(original, pa.Tensor):
        assert (back.shape, back.dim_names) == (original.shape, original.dim_names)
        assert back.strides == original.strides or not original.size


@pytest.mark.parametrize("kind", ARROW)
def test_any_arrow_reader_reads_it(kind) -> None:
    with pa.ipc.open_stream(aljava.dumps(ARROW[kind])) as reader:
        reader.read_all().validate(full=True)


NUMPY = {
    "vector": np.arange(3),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "not contiguous": np.arange(24).reshape(4, 6)[::2, ::3],
    "no dimension": np.array(5),
    "no elements": np.zeros((0, 3)),
    "half": np.array([1.5, np.nan], np.float16),
    "big-endian": np.arange(4, dtype=">i4"),
    "booleans": np.array([[True], [False]]),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "flecha", ""]),
    "bytes": np.array([b"a", b"bcd"]),
    "dates": np.array(["2024-02-29", "NaT"], "M8[D]"),
    "generic units": np.array([5, 7], "m8[25s]"),
    "records": np.array([(1, (2.5, [1, 2]))], [("a", "i4"), ("b", [("c", "f8"), ("d", "u1", (2,))])]),
    "wide floats": np.array([1.5], np.longdouble),
}


@pytest.mark.parametrize("kind", NUMPY)
def test_numpy_arrays(kind) -> None:
    original = NUMPY[kind]
    back = aljava.loads(aljava.dumps(original))
    assert isinstance(back, np.ndarray)
    assert (back.dtype, back.shape) == (original.dtype, original.shape)
    np.testing.assert_array_equal(back, original)
    assert back.flags.f_contiguous == original.flags.f_contiguous or not original.flags.c_contiguous


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_numpy_arrays_of_any_type_and_shape(array: np.ndarray) -> None:
    back = aljava.loads(aljava.dumps(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


FRAME = pd.DataFrame(
    {"when": pd.date_range("2024-01-01", periods=3, tz="Europe/Lisbon"), "name": ["a", None, "c"], "n": [1.5, None, 2]},
    index=pd.Index([3, 4, 5], name="key"),
)


@pytest.mark.parametrize("frame", [FRAME, FRAME.astype({"name": "category"}), FRAME.iloc[:0], FRAME.convert_dtypes()])
def test_pandas_frames(frame) -> None:
    frame = frame.copy()
    frame.attrs = {"source": "test"}
    back = aljava.loads(aljava.dumps(frame))
    pd.testing.assert_frame_equal(back, frame)
    assert back.attrs == frame.attrs


@pytest.mark.parametrize("name", ["price", None, 7])
def test_pandas_series(name) -> None:
    series = FRAME["n"].rename(name)
    back = aljava.loads(aljava.dumps(series))
    pd.testing.assert_series_equal(back, series)
    assert back.name == name


POLARS = pl.DataFrame(
    {
        "name": ["a", None, "c"],
        "kind": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        "grade": pl.Series(["low", "high", None], dtype=pl.Enum(["low", "high"])),
        "list": [[1, 2], [], None],
        "when": [datetime.datetime(2024, 1, 1)] * 3,
        "took": [datetime.timedelta(seconds=1)] * 3,
        "price": pl.Series(["1.50", "2.25", None]).cast(pl.Decimal(9, 2)),
    }
)


@pytest.mark.parametrize("frame", [POLARS, POLARS.head(0), POLARS.select("name")])
def test_polars_frames(frame) -> None:
    back = aljava.loads(aljava.dumps(frame))
    assert back.equals(frame)
    assert back.schema == frame.schema


@pytest.mark.parametrize("name", POLARS.columns)
def test_polars_series(name) -> None:
    back = aljava.loads(aljava.dumps(POLARS[name]))
    assert back.equals(POLARS[name], check_names=True, check_dtypes=True)


def addresses(buffer: pa.Buffer) -> range:
    return range(buffer.address, buffer.address + buffer.size)


def test_nothing_is_copied_without_compression() -> None:
    buffer = aljava.dumps(np.arange(1000.0))
    assert aljava.loads(buffer).__array_interface__["data"][0] in addresses(buffer)
    buffer = aljava.dumps(pa.array(range(1000)))
    assert aljava.loads(buffer).buffers()[1].address in addresses(buffer)


def test_a_plain_stream_is_a_table() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    for kind in (bytes, bytearray, memoryview):
        assert aljava.loads(kind(sink.getvalue().to_pybytes())).equals(TABLE)


@pytest.mark.parametrize("obj", [object(), np.array([object()]), pd.Series([1, "x"]), {1: 2}, "text", 5])
def test_what_has_no_arrow_form(obj) -> None:
    with pytest.raises(UnsupportedType):
        aljava.dumps(obj)


def test_unknown_compression() -> None:
    with pytest.raises(InvalidOption, match="snappy"):
        aljava.dumps(TABLE, compression="snappy")


@pytest.mark.parametrize("data", [b"", b"hello, world, this is no stream", b"\xff" * 64, bytes(64)])
def test_no_stream(data) -> None:
    with pytest.raises(InvalidData):
        aljava.loads(data)


def test_claims_that_the_columns_do_not_keep() -> None:
    """A payload is only bytes: what it says of itself is checked, and never trusted with more than its columns."""
    cases = [
        ("numpy.ndarray", b'{"shape": [99], "order": "C", "dtype": "<i8"}'),
        ("numpy.ndarray", b'{"shape": [3], "order": "C", "dtype": "O"}'),
        ("numpy.ndarray", b'{"shape": [3], "order": "C", "dtype": "no such"}'),
        ("numpy.ndarray", b"[]"),
        ("numpy.ndarray", b"not json"),
        ("tensor", b'{"shape": [3], "order": "C", "dtype": "<i8"}'),
        ("pandas.Series", b"{}"),
        ("polars.DataFrame", b'{"categorical": ["missing"]}'),
        ("scalar", b"null"),
        ("pickle", b"null"),
    ]
    for kind, detail in cases:
        sink = pa.BufferOutputStream()
        schema = pa.schema([("n", pa.int64())], {"aljava.kind": kind, "aljava.detail": detail})
        with pa.ipc.new_stream(sink, schema) as writer:
            if kind != "scalar":
                writer.write_batch(pa.record_batch([pa.array([1, 2, 3])], schema=schema))
        with pytest.raises(InvalidData):
            aljava.loads(sink.getvalue())


def test_a_series_whose_name_is_no_text() -> None:
    with pytest.raises(UnsupportedType, match=r"whose name is a tuple \(\('a', 1\)\): rename it"):
        aljava.dumps(pd.Series([1], name=("a", 1)))


def test_a_frame_where_its_library_is_not_installed() -> None:
    code = "import sys; sys.modules['polars'] = None; import aljava; aljava.loads(sys.stdin.buffer.read())"
    payload = aljava.dumps(pl.DataFrame({"a": [1]})).to_pybytes()
    done = subprocess.run([sys.executable, "-c", code], input=payload, capture_output=True, timeout=60)
    assert b"MissingDependency: the buffer holds a polars object: pip install 'aljava[polars]'" in done.stderr
