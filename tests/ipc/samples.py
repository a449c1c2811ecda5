"""A column of each type that pyarrow can express, for the tests of the format."""

import datetime as dt
import decimal
import uuid

import numpy as np
import pyarrow as pa


def _nulled(values: list[object]) -> list[object]:
    return [None if number % 7 == 3 else value for number, value in enumerate(values)]


def columns(rows: int, seed: int = 0) -> dict[str, pa.Array]:
    """Columns of `rows` rows each, by the name of what they show."""
    rng = np.random.default_rng(seed)
    numbers = [int(value) for value in rng.integers(0, 100, rows)]
    words = [f"{'w' * (value % 21)}{number}" for number, value in enumerate(numbers)]
    made: dict[str, pa.Array] = {"null": pa.nulls(rows)}
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"):
        made[name] = pa.array(_nulled(numbers), name)
    made["float16"] = pa.array(np.array(numbers, np.float16))
    made["bool"] = pa.array(_nulled([value % 3 == 0 for value in numbers]))
    made["bool, no nulls"] = pa.array([value % 3 == 0 for value in numbers], pa.bool_())
    for name in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view"):
        made[name] = pa.array(_nulled(words if "string" in name else [word.encode() for word in words]), name)
    made["fixed binary"] = pa.array(_nulled([rng.bytes(5) for _ in range(rows)]), pa.binary(5))
    for digits, kind in ((9, pa.decimal32), (18, pa.decimal64), (38, pa.decimal128), (76, pa.decimal256)):
        made[str(kind(digits, 2))] = pa.array(
            _nulled([decimal.Decimal(value) / 4 for value in numbers]), kind(digits, 2)
        )
    days = [dt.date(2020, 1, 1) + dt.timedelta(value) for value in numbers]
    made["date32"], made["date64"] = pa.array(_nulled(days), pa.date32()), pa.array(_nulled(days), pa.date64())
    made["time32"] = made["int32"].cast(pa.time32("s"))
    made["time64"] = made["int64"].cast(pa.time64("ns"))
    made["timestamp"] = made["int64"].cast(pa.timestamp("us"))
    made["timestamp, zone"] = made["int64"].cast(pa.timestamp("ns", "Europe/Lisbon"))
    made["duration"] = made["int64"].cast(pa.duration("ms"))
    made["interval"] = pa.array(_nulled([(1, value, 3) for value in numbers]), pa.month_day_nano_interval())
    lists = _nulled([list(range(value % 5)) for value in numbers])
    for kind in (pa.list_, pa.large_list, pa.list_view, pa.large_list_view):
        made[str(kind(pa.int32()))] = pa.array(lists, kind(pa.int32()))
    made["list_view, shuffled"] = made[str(pa.list_view(pa.int32()))].take(pa.array(rng.permutation(rows)))
    made["list of list of string"] = pa.array(
        _nulled([[words[: value % 3]] * (value % 3) for value in numbers]), pa.list_(pa.list_(pa.string()))
    )
    made["list of string_view"] = pa.array(_nulled([[word] * 2 for word in words]), pa.list_(pa.string_view()))
    made["list_view of string_view"] = pa.array(_nulled([[word] for word in words]), pa.list_view(pa.string_view()))
    made["fixed list"] = pa.array(_nulled([[value, None, 1] for value in numbers]), pa.list_(pa.int16(), 3))
    made["fixed list of bool"] = pa.array(_nulled([[True, None, False]] * rows), pa.list_(pa.bool_(), 3))
    made["struct"] = pa.array(
        _nulled([{"a": value, "b": word, "c": [1] * (value % 3)} for value, word in zip(numbers, words, strict=True)]),
        pa.struct([("a", pa.int64()), ("b", pa.string()), ("c", pa.list_(pa.int8()))]),
    )
    made["struct without fields"] = pa.array([{}] * rows, pa.struct([]))
    made["map"] = pa.array(_nulled([[(word, 1)] for word in words]), pa.map_(pa.string(), pa.int32()))
    made["dictionary"] = pa.array(_nulled([word[:3] for word in words])).dictionary_encode()
    picks = pa.array(_nulled([value % 3 for value in numbers]), pa.int8())
    made["dictionary with a null"] = pa.DictionaryArray.from_arrays(picks, pa.array(["x", "y", None]))
    made["dictionary of lists"] = pa.DictionaryArray.from_arrays(picks, pa.array([["x"], ["y", "z"], None]))
    inner = pa.StructArray.from_arrays([pa.array(["p", "q", "p"]).dictionary_encode()], ["k"])
    made["dictionary in a dictionary"] = pa.DictionaryArray.from_arrays(picks, inner)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32))
    made["list of dictionary"] = pa.ListArray.from_arrays(offsets, made["dictionary"])
    made["struct of dictionaries"] = pa.StructArray.from_arrays(
        [made["dictionary"], made["dictionary with a null"]], ["d", "e"]
    )
    codes = np.array([value % 2 for value in numbers], np.int8)
    places = np.zeros(rows, np.int32)
    for code in (0, 1):
        places[codes == code] = np.arange((codes == code).sum())
    halves = [pa.array(numbers).filter(pa.array(codes == 0)), pa.array(words).filter(pa.array(codes == 1))]
    made["sparse union"] = pa.UnionArray.from_sparse(pa.array(codes), [pa.array(numbers), pa.array(words)])
    made["dense union"] = pa.UnionArray.from_dense(pa.array(codes), pa.array(places), halves)
    made["dense union, codes"] = pa.UnionArray.from_dense(
        pa.array(np.where(codes == 0, 5, 9).astype(np.int8)), pa.array(places), halves, ["a", "b"], [5, 9]
    )
    made["struct of unions"] = pa.StructArray.from_arrays([made["dense union"], made["sparse union"]], ["a", "b"])
    ends = pa.array([*range(10, rows, 10), rows], pa.int32())
    made["run-end encoded"] = pa.RunEndEncodedArray.from_arrays(ends, made["int64"].slice(0, len(ends)))
    made["run-end encoded strings"] = pa.RunEndEncodedArray.from_arrays(ends, made["string"].slice(0, len(ends)))
    made["list of run-end encoded"] = pa.ListArray.from_arrays(offsets, made["run-end encoded"])
    made["uuid"] = pa.array(_nulled([uuid.UUID(int=value).bytes for value in numbers]), pa.uuid())
    made["json"] = pa.array(_nulled(['{"a": 1}'] * rows), pa.json_(pa.string()))
    made["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([value % 2 for value in numbers], pa.int8()))
    made["tensor"] = pa.FixedShapeTensorArray.from_numpy_ndarray(rng.random((rows, 2, 3)))
    made["opaque"] = pa.ExtensionArray.from_storage(pa.opaque(pa.int32(), "t", "v"), made["int32"])
    return made


NAMES = sorted(columns(20))
