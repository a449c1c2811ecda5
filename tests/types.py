"""Arrays of every type that Arrow IPC carries, and of every layout of it that a reader or writer treats in its own way.

Where one type has several layouts (views in order or shuffled, unions with type codes 0, 1 or 5, 9, run ends of 16 or
32 bits), each stands under a name of its own. About one value in ten is null. There are no NaNs, so that
`pa.Array.equals` compares what was written with what was read.
"""
# ruff: noqa: A005 - always imported as `tests.types`, so that it shadows nothing

import decimal
import uuid
from typing import Any

import numpy as np
import pyarrow as pa

WORDS = ("arrow", "quiver", "aljava", "flecha", "coração", "矢", "", "s" * 30)


def arrays(rows: int = 1000, seed: int = 1) -> dict[str, pa.Array]:
    """One array a type, by a short name that can serve as the name of a column.

    Args:
        rows: the length of each array.
        seed: the same rows and seed give the same arrays.
    """
    maker = _Maker(rows, np.random.default_rng(seed))
    made: dict[str, pa.Array] = {}
    for group in (numbers, moments, texts, lists, records, dictionaries, unions, runs, extensions):
        made.update(group(maker))
    assert all(len(array) == rows for array in made.values())
    return made


class _Maker:
    """How many rows, the source of chance, and the two things that every group asks for."""

    def __init__(self, rows: int, rng: np.random.Generator) -> None:
        self.rows = rows
        self.rng = rng

    def sprinkled(self, values: list[Any]) -> list[Any]:
        """The values, about one in ten of them replaced by null."""
        gone = self.rng.random(len(values)) < 0.1
        return [None if null else value for value, null in zip(values, gone, strict=True)]

    def integers(self, type_: pa.DataType, low: int | None = None, high: int | None = None) -> pa.Array:
        """Integers from low to high, or over the whole range of the type, with nulls."""
        bounds = np.iinfo(type_.to_pandas_dtype())
        low, high = bounds.min if low is None else low, bounds.max if high is None else high
        values = self.rng.integers(low, high, self.rows, dtype=type_.to_pandas_dtype(), endpoint=True)
        return pa.array(self.sprinkled(values.tolist()), type_)

    def words(self) -> pa.Array:
        """Short strings, long ones, empty ones, some outside ASCII, most of them distinct."""
        picked = self.rng.integers(0, len(WORDS), self.rows)
        return pa.array(self.sprinkled([WORDS[k] + str(i) * (i % 3) for i, k in enumerate(picked)]), pa.string())

    def one_each(self, values: pa.Array) -> pa.Array:
        """A list array whose row i is [values[i]]: what puts any type one level down."""
        return pa.ListArray.from_arrays(pa.array(np.arange(self.rows + 1), pa.int32()), values)


def numbers(maker: _Maker) -> dict[str, pa.Array]:
    """Integers, floats, booleans, decimals of all widths, and null."""
    made = {}
    for type_ in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()):
        made[str(type_)] = maker.integers(type_)
    for name, type_ in (("float16", pa.float16()), ("float32", pa.float32()), ("float64", pa.float64())):
        values = maker.rng.standard_normal(maker.rows).astype(type_.to_pandas_dtype())
        made[name] = pa.array(maker.sprinkled(list(values)), type_)
    coins = (maker.rng.random(maker.rows) < 0.5).tolist()
    made["bool"] = pa.array(maker.sprinkled(coins), pa.bool_())
    made["bool_without_nulls"] = pa.array(coins, pa.bool_())
    made["null"] = pa.nulls(maker.rows)
    for type_ in (pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal128(38, 2), pa.decimal256(76, 2)):
        cents = maker.rng.integers(-(10**9) + 1, 10**9, maker.rows).tolist()
        made[f"decimal{type_.bit_width}"] = pa.array(
            maker.sprinkled([decimal.Decimal(cent).scaleb(-2) for cent in cents]), type_
        )
    return made


def moments(maker: _Maker) -> dict[str, pa.Array]:
    """Dates, times, timestamps with and without a zone, durations, intervals."""
    days = maker.integers(pa.int32(), -30_000, 30_000)
    seconds = maker.integers(pa.int32(), 0, 86_399)
    ticks = maker.integers(pa.int64(), -(10**15), 10**15)
    intervals = [(i % 25 - 12, i % 61 - 30, i * 1_000_003) for i in range(maker.rows)]
    return {
        "date32": days.cast(pa.date32()),
        "date64": days.cast(pa.date32()).cast(pa.date64()),
        "time32": seconds.cast(pa.time32("s")),
        "time64": seconds.cast(pa.int64()).cast(pa.time64("us")),
        "timestamp": ticks.cast(pa.timestamp("us")),
        "timestamp_zone": ticks.cast(pa.timestamp("ns", "Europe/Lisbon")),
        "duration": ticks.cast(pa.duration("ms")),
        "interval": pa.array(maker.sprinkled(intervals), pa.month_day_nano_interval()),
    }


def texts(maker: _Maker) -> dict[str, pa.Array]:
    """Strings and binaries: 32 and 64-bit offsets, views, fixed width."""
    string = maker.words()
    binary = string.cast(pa.binary())
    return {
        "string": string,
        "large_string": string.cast(pa.large_string()),
        "string_view": string.cast(pa.string_view()),
        "binary": binary,
        "large_binary": binary.cast(pa.large_binary()),
        "binary_view": binary.cast(pa.binary_view()),
        "fixed_binary": pa.array(maker.sprinkled([maker.rng.bytes(7) for _ in range(maker.rows)]), pa.binary(7)),
    }


def lists(maker: _Maker) -> dict[str, pa.Array]:
    """Lists of all kinds: offsets, views in order and shuffled, fixed size, lists of lists, maps."""
    rows = range(maker.rows)
    counting = [list(range(i % 5)) for i in rows]
    views = pa.array(maker.sprinkled(counting), pa.list_view(pa.int32()))
    nested = [[["a" * k for k in range(j)] for j in range(i % 4)] for i in rows]
    pairs = [[(str(j), j) for j in range(i % 4)] for i in rows]
    return {
        "list": pa.array(maker.sprinkled(counting), pa.list_(pa.int32())),
        "large_list": pa.array(maker.sprinkled(counting), pa.large_list(pa.int32())),
        "list_list_string": pa.array(maker.sprinkled(nested), pa.list_(pa.list_(pa.string()))),
        "list_string_view": maker.one_each(texts(maker)["string_view"]),
        "fixed_list": pa.array(maker.sprinkled([[i % 100, None, 2] for i in rows]), pa.list_(pa.int16(), 3)),
        "fixed_list_bool": pa.array(maker.sprinkled([[True, None, False]] * maker.rows), pa.list_(pa.bool_(), 3)),
        "list_view": views,
        "list_view_shuffled": views.take(pa.array(maker.rng.permutation(maker.rows))),
        "large_list_view": pa.array(maker.sprinkled(counting), pa.large_list_view(pa.int64())),
        "map": pa.array(maker.sprinkled(pairs), pa.map_(pa.string(), pa.int32())),
    }


def records(maker: _Maker) -> dict[str, pa.Array]:
    """Structs, also without any field."""
    values = [{"a": i, "b": str(i), "c": [1] * (i % 3)} for i in range(maker.rows)]
    fields = [("a", pa.int64()), ("b", pa.string()), ("c", pa.list_(pa.int8()))]
    return {
        "struct": pa.array(maker.sprinkled(values), pa.struct(fields)),
        "struct_without_fields": pa.array([{}] * maker.rows, pa.struct([])),
    }


def dictionaries(maker: _Maker) -> dict[str, pa.Array]:
    """Dictionaries: of strings, with a null among the values, of lists, of dictionaries, inside lists and structs."""
    words = maker.words().dictionary_encode()
    three = [maker.integers(pa.int8(), 0, 2) for _ in range(3)]
    with_null = pa.DictionaryArray.from_arrays(three[0], pa.array(["a", "b", None]))
    of_lists = pa.DictionaryArray.from_arrays(three[1], pa.array([["x", "y"], ["z"], None]))
    inner = pa.StructArray.from_arrays([pa.array(["p", "q", "p"]).dictionary_encode()], ["k"])
    return {
        "dictionary": words,
        "dictionary_with_null": with_null,
        "dictionary_of_lists": of_lists,
        "dictionary_of_dictionaries": pa.DictionaryArray.from_arrays(three[2].cast(pa.int16()), inner),
        "list_of_dictionary": maker.one_each(words),
        "struct_of_dictionaries": pa.StructArray.from_arrays([words, with_null], ["d", "e"]),
    }


def unions(maker: _Maker) -> dict[str, pa.Array]:
    """Sparse and dense unions, with type codes that are not positions, and inside a struct."""
    child = maker.rng.integers(0, 2, maker.rows)
    numbers_, words = pa.array(np.arange(maker.rows), pa.int64()), maker.words()
    sparse = pa.UnionArray.from_sparse(pa.array(child, pa.int8()), [numbers_, words])
    within = np.where(child == 0, np.cumsum(child == 0), np.cumsum(child == 1)) - 1
    offsets = pa.array(within, pa.int32())
    children = [numbers_.slice(0, int((child == 0).sum())), words.slice(0, int((child == 1).sum()))]
    dense = pa.UnionArray.from_dense(pa.array(child, pa.int8()), offsets, children)
    codes = pa.array(np.where(child == 0, 5, 9), pa.int8())
    return {
        "sparse_union": sparse,
        "dense_union": dense,
        "dense_union_codes": pa.UnionArray.from_dense(codes, offsets, children, ["a", "b"], [5, 9]),
        "struct_of_unions": pa.StructArray.from_arrays([dense, sparse], ["a", "b"]),
    }


def runs(maker: _Maker) -> dict[str, pa.Array]:
    """Run-end encoded arrays, with runs of ten rows and the last one shorter."""
    ends = np.minimum(np.arange(10, maker.rows + 10, 10), maker.rows)
    short = pa.int16() if maker.rows < 2**15 else pa.int64()
    values = pa.array(maker.sprinkled(list(range(len(ends)))), pa.int64())
    run_end = pa.RunEndEncodedArray.from_arrays(pa.array(ends, pa.int32()), values)
    words = maker.words().slice(0, len(ends))
    return {
        "run_end": run_end,
        "run_end_string": pa.RunEndEncodedArray.from_arrays(pa.array(ends, short), words),
        "list_of_run_end": maker.one_each(run_end),
    }


def extensions(maker: _Maker) -> dict[str, pa.Array]:
    """The canonical extension types that pyarrow knows."""
    uuids = [uuid.UUID(int=i).bytes for i in range(maker.rows)]
    texts_ = ['{"a": ' + str(i) + "}" for i in range(maker.rows)]
    tensors = pa.array(maker.rng.random(maker.rows * 6), pa.float64())
    return {
        "uuid": pa.array(maker.sprinkled(uuids), pa.uuid()),
        "json": pa.array(maker.sprinkled(texts_), pa.json_(pa.string())),
        "bool8": pa.ExtensionArray.from_storage(pa.bool8(), maker.integers(pa.int8(), 0, 1)),
        "tensor": pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float64(), [2, 3]), pa.FixedSizeListArray.from_arrays(tensors, 6)
        ),
        "opaque": pa.ExtensionArray.from_storage(pa.opaque(pa.int32(), "type", "vendor"), maker.integers(pa.int32())),
    }
