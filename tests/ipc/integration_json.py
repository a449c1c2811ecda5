"""Arrow's integration JSON, read into arrays: an oracle for the golden files that shares no code with any IPC reader.

The form is that of the Arrow project's "Integration testing": each column holds its buffers as lists (VALIDITY, OFFSET,
DATA, TYPE_ID) and its children, 64-bit integers are strings, binary is hexadecimal. Here each list becomes the buffer
it stands for, and `pyarrow.Array.from_buffers` puts the array together.
"""

import gzip
import itertools
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nanoarrow
import numpy as np
import pyarrow as pa

type_of_unit = {"SECOND": "s", "MILLISECOND": "ms", "MICROSECOND": "us", "NANOSECOND": "ns"}


def read(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """The schema and the record batches that a `.json.gz` describes."""
    with gzip.open(path, "rt", encoding="utf-8") as text:
        document = json.load(text)
    fields = document["schema"]["fields"]
    schema = pa.schema(map(field, fields), metadata=metadata(document["schema"]))
    dictionaries = Dictionaries(fields, document.get("dictionaries", ()))
    return schema, [
        record_batch(schema, [array(f, c, dictionaries) for f, c in zip(fields, batch["columns"], strict=True)])
        for batch in document["batches"]
    ]


def record_batch(schema: pa.Schema, columns: list[Any]) -> pa.RecordBatch:
    """A batch of arrays of pyarrow and nanoarrow: some of the types exist in pyarrow's tables, but not as arrays."""
    children = [nanoarrow.c_array(column) for column in columns]
    rows = children[0].length
    struct = nanoarrow.c_array_from_buffers(pa.struct(list(schema)), rows, [None], children=children)
    return pa.record_batch(struct).replace_schema_metadata(schema.metadata)


class Dictionaries:
    """The values of each dictionary id, made when a column asks for them: one dictionary may use another."""

    def __init__(self, fields: list[dict[str, Any]], batches: Iterable[dict[str, Any]]) -> None:
        self.columns = {batch["id"]: batch["data"]["columns"][0] for batch in batches}

    def __getitem__(self, described: dict[str, Any]) -> pa.Array:
        values = {key: value for key, value in described.items() if key not in ("dictionary", "metadata")}
        return array(values, self.columns[described["dictionary"]["id"]], self)


def metadata(described: dict[str, Any]) -> dict[str, str] | None:
    """The custom metadata of a field or schema."""
    return {pair["key"]: pair["value"] for pair in described.get("metadata", ())} or None


def field(described: dict[str, Any]) -> pa.Field:
    """A field, with the type of its indices and values where it is a dictionary."""
    type_ = data_type(described)
    if "dictionary" in described:
        index = data_type({"type": described["dictionary"]["indexType"]})
        type_ = pa.dictionary(index, type_, ordered=described["dictionary"]["isOrdered"])
    return pa.field(described["name"], type_, described["nullable"], metadata(described))


def data_type(described: dict[str, Any]) -> pa.DataType:
    """The type of a field, or of the values of its dictionary."""
    form = described["type"]
    name, unit = form["name"], type_of_unit.get(form.get("unit", ""))
    children = [field(child) for child in described.get("children", ())]
    match name:
        case "null":
            return pa.null()
        case "bool":
            return pa.bool_()
        case "int":
            return getattr(pa, f"{'' if form['isSigned'] else 'u'}int{form['bitWidth']}")()
        case "floatingpoint":
            return {"HALF": pa.float16(), "SINGLE": pa.float32(), "DOUBLE": pa.float64()}[form["precision"]]
        case "utf8" | "binary" | "largeutf8" | "largebinary":
            return {"utf8": pa.utf8, "binary": pa.binary, "largeutf8": pa.large_utf8, "largebinary": pa.large_binary}[
                name
            ]()
        case "fixedsizebinary":
            return pa.binary(form["byteWidth"])
        case "decimal":
            make = {128: pa.decimal128, 256: pa.decimal256}[form.get("bitWidth", 128)]
            return make(form["precision"], form["scale"])
        case "date":
            return pa.date32() if form["unit"] == "DAY" else pa.date64()
        case "time":
            return {32: pa.time32, 64: pa.time64}[form["bitWidth"]](unit)
        case "timestamp":
            return pa.timestamp(unit, form.get("timezone"))
        case "duration":
            return pa.duration(unit)
        case "interval":
            # pyarrow has these two types, but neither functions that make them nor classes for their arrays.
            made = {"YEAR_MONTH": nanoarrow.interval_months, "DAY_TIME": nanoarrow.interval_day_time}[form["unit"]]()
            return pa.field(nanoarrow.c_schema(made)).type
        case "list":
            return pa.list_(children[0])
        case "largelist":
            return pa.large_list(children[0])
        case "fixedsizelist":
            return pa.list_(children[0], form["listSize"])
        case "map":
            # Whatever the children of a map are called in a file, Arrow's readers call them key and value.
            key, value = (children[0].type.field(i).with_name(name) for i, name in enumerate(("key", "value")))
            return pa.map_(key, value, keys_sorted=form["keysSorted"])
        case "struct":
            return pa.struct(children)
        case "union":
            return pa.union(children, form["mode"].lower(), form["typeIds"])
    raise NotImplementedError(name)


def array(described: dict[str, Any], column: dict[str, Any], dictionaries: Dictionaries) -> Any:
    """The column as an array of the described type, of pyarrow or (where pyarrow has no such class) of nanoarrow."""
    if "dictionary" in described:
        indices = array({"type": described["dictionary"]["indexType"]}, column, dictionaries)
        return pa.DictionaryArray.from_arrays(
            indices, dictionaries[described], ordered=described["dictionary"]["isOrdered"]
        )
    type_ = data_type(described)
    if described["type"]["name"] == "interval":
        return nanoarrow.c_array_from_buffers(type_, column["count"], buffers(type_, column))
    children = [
        array(child, values, dictionaries)
        for child, values in zip(described.get("children", ()), column.get("children", ()), strict=True)
    ]
    return pa.Array.from_buffers(type_, column["count"], buffers(type_, column), children=children)


def buffers(type_: pa.DataType, column: dict[str, Any]) -> list[pa.Buffer | None]:
    """The buffers of an array of the type, in the order of the Arrow columnar format."""
    if pa.types.is_null(type_):
        return [None]
    if pa.types.is_union(type_):
        found = [None, packed("int8", column["TYPE_ID"])]
        return found if type_.mode == "sparse" else [*found, packed("int32", column["OFFSET"])]
    found = [bits(column["VALIDITY"])]
    if "OFFSET" in column:
        wide = any(test(type_) for test in (pa.types.is_large_list, pa.types.is_large_string, pa.types.is_large_binary))
        found.append(packed("int64" if wide else "int32", column["OFFSET"]))
    if "DATA" in column:
        found.append(data(type_, column["DATA"]))
    return found


def data(type_: pa.DataType, values: list[Any]) -> pa.Buffer:
    """The DATA of a column as one buffer."""
    if pa.types.is_boolean(type_):
        return bits(values)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return pa.py_buffer("".join(values).encode())
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_fixed_size_binary(type_):
        return pa.py_buffer(bytes.fromhex("".join(values)))
    if pa.types.is_decimal(type_):
        wide = [int(value).to_bytes(type_.byte_width, "little", signed=True) for value in values]
        return pa.py_buffer(b"".join(wide))
    if str(type_) == "day_time_interval":
        pairs = ((value["days"], value["milliseconds"]) for value in values)
        return pa.py_buffer(struct.pack(f"<{2 * len(values)}i", *itertools.chain.from_iterable(pairs)))
    if pa.types.is_floating(type_):
        return packed(str(np.dtype(type_.to_pandas_dtype())), values)
    unsigned = "u" if pa.types.is_unsigned_integer(type_) else ""
    return packed(f"{unsigned}int{type_.bit_width}", values)


def packed(dtype: str, values: list[Any]) -> pa.Buffer:
    """Numbers, some of which JSON holds as strings, as a little-endian buffer."""
    numbers = values if dtype.startswith("float") else [int(value) for value in values]
    return pa.py_buffer(np.array(numbers, dtype).tobytes())


def bits(values: list[int]) -> pa.Buffer:
    """Zeros and ones as a bitmap, the least significant bit first."""
    return pa.py_buffer(np.packbits(np.array(values, np.uint8), bitorder="little").tobytes())
