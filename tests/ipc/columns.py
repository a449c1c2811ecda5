"""Kinds of columns, and how to draw values for them: few and awkward ones, so that filters meet them."""

import datetime as dt
import math
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

EXTREMES = (2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**62 + 1)
MIDNIGHT = dt.datetime(2020, 1, 1)


class Column:
    """A kind of column: its type, and how to draw a value. Values are few, so that filters meet them."""

    def __init__(self, type: pa.DataType, draw: Callable[[random.Random], Any]) -> None:
        self.type = type
        self.draw = draw

    @property
    def value_type(self) -> pa.DataType:
        return self.type.value_type if pa.types.is_dictionary(self.type) else self.type

    def array(self, values: list[Any]) -> pa.Array:
        array = pa.array(values, self.value_type)
        if array.type == self.type:
            return array
        encoded = array.dictionary_encode()
        return pa.DictionaryArray.from_arrays(encoded.indices.cast(self.type.index_type), encoded.dictionary)


def integers(low: int, high: int, *rare: int) -> Callable[[random.Random], int]:
    return lambda r: r.choice(rare) if r.random() < 0.3 else r.randint(max(low, -5), min(high, 20))


def floats(*rare: float) -> Callable[[random.Random], float]:
    return lambda r: r.choice([float(r.randint(-5, 20)), r.choice([0.0, -0.0, 0.1, math.inf, -math.inf, *rare])])


def decimals(scale: int) -> Callable[[random.Random], Decimal]:
    return lambda r: Decimal(r.randint(-5 * 10**scale, 20 * 10**scale)).scaleb(-scale)


def one_of(*values: Any) -> Callable[[random.Random], Any]:
    return lambda r: r.choice(values)


def days(r: random.Random) -> dt.date:
    return dt.date(2020, 1, r.randint(1, 28))


def moments(r: random.Random) -> dt.datetime:
    return MIDNIGHT + dt.timedelta(r.randint(0, 4), r.choice([0, 1800]), hours=r.randint(0, 23))


def zoned(r: random.Random) -> dt.datetime:
    return moments(r).replace(month=r.choice([1, 3, 7, 10]), tzinfo=dt.UTC)


LONG = "a" * 70
WORDS = one_of(
    "", "a", "b", "ab", "abc", "B", "é", "zz", "\U0001f600", LONG, LONG + "b", "\U0010ffff" * 20, "\ud7ff" * 30
)
BYTES = one_of(b"", b"a", b"b", b"\xff", b"ab", b"\xff" * 70, b"a" * 70)

COLUMNS = {
    "i8": Column(pa.int8(), integers(-128, 127, -128, 127)),
    "i16": Column(pa.int16(), integers(-(2**15), 2**15 - 1, 2**15 - 1)),
    "i32": Column(pa.int32(), integers(-(2**31), 2**31 - 1, 16777217, 2**31 - 1, -(2**31))),
    "i64": Column(pa.int64(), integers(-(2**63), 2**63 - 1, *EXTREMES)),
    "u8": Column(pa.uint8(), integers(0, 255, 255, 128)),
    "u16": Column(pa.uint16(), integers(0, 2**16 - 1, 2**16 - 1)),
    "u32": Column(pa.uint32(), integers(0, 2**32 - 1, 2**32 - 1, 2**31)),
    "u64": Column(pa.uint64(), integers(0, 2**64 - 1, 2**64 - 1, 2**63, 2**53 + 1)),
    "f16": Column(pa.float16(), lambda r: np.float16(floats(math.nan)(r))),
    "f32": Column(pa.float32(), floats(16777216.0)),
    "f64": Column(pa.float64(), floats(float(2**53))),
    "f64 with NaN": Column(pa.float64(), floats(math.nan)),
    "decimal32": Column(pa.decimal32(9, 2), decimals(2)),
    "decimal64": Column(pa.decimal64(9, 1), decimals(1)),
    "decimal128": Column(pa.decimal128(10, 2), decimals(2)),
    "decimal128 wide": Column(pa.decimal128(38, 0), lambda r: Decimal(integers(-5, 20, *EXTREMES, 10**37)(r))),
    "decimal256": Column(pa.decimal256(50, 3), decimals(3)),
    "string": Column(pa.string(), WORDS),
    "large_string": Column(pa.large_string(), WORDS),
    "string_view": Column(pa.string_view(), WORDS),
    "binary": Column(pa.binary(), BYTES),
    "large_binary": Column(pa.large_binary(), BYTES),
    "binary_view": Column(pa.binary_view(), BYTES),
    "fixed_size_binary": Column(pa.binary(2), one_of(b"aa", b"ab", b"\xff\x00")),
    "date32": Column(pa.date32(), days),
    "date64": Column(pa.date64(), days),
    "time32": Column(pa.time32("s"), lambda r: dt.time(r.randint(0, 23), r.choice([0, 30]))),
    "time64": Column(pa.time64("us"), lambda r: dt.time(r.randint(0, 23), r.choice([0, 30]))),
    "timestamp": Column(pa.timestamp("us"), moments),
    "timestamp with zone": Column(pa.timestamp("ms", "Europe/Lisbon"), zoned),
    "duration": Column(pa.duration("s"), lambda r: dt.timedelta(seconds=r.randint(-5, 20))),
    "bool": Column(pa.bool_(), one_of(True, False)),
    "dictionary": Column(pa.dictionary(pa.int8(), pa.string()), one_of("a", "b", "c", "dd", LONG)),
    "dictionary of int64": Column(pa.dictionary(pa.int16(), pa.int64()), integers(-(2**63), 2**63 - 1, *EXTREMES)),
    "dictionary of float64": Column(pa.dictionary(pa.int16(), pa.float64()), floats(math.nan)),
    "dictionary of timestamp": Column(pa.dictionary(pa.uint8(), pa.timestamp("us")), moments),
    "list": Column(pa.list_(pa.int8()), one_of([], [1], [1, 2])),
}  # fmt: skip
