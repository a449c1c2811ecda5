"""The bounds of a column, zone by zone: what `aljava.ipc.zones` keeps of the data that it describes.

A collector takes the arrays of one column in order, each with the rows at which its zones begin, and hands back one
struct array: a row a zone, with `min`, `max` and `nulls`. Writing must stay as fast as memory, so the reading here is
NumPy's `reduceat` straight over Arrow's buffers, 0.1 ns a value for integers, where `pyarrow.compute.min_max` takes
ten times that and has no kernel for durations, narrow decimals, views or dictionaries.

A bound is true, not tight: every value lies between `min` and `max`, but need not reach them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# A longer value is cut to this many bytes: enough for keys, paths and timestamps, and a footer stays a footer.
LONGEST = 64
# Strings cost a hundred times what integers cost, so they are given up once so many zones in a row share a value.
PATIENCE = 8
# So many texts are compared in Python in less time than it takes to import pyarrow.compute.
FEW = 4096
# Dictionaries are sorted, each once, to compare indices: so many entries in all, and one more for 16 rows.
SORTABLE, ROWS_PER_SORTED = 4096, 16
# Below this many rows a zone, calls for each zone would cost more than the writing: strings share one bound then.
TOO_SMALL = 1024

_DTYPES = {
    "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8",
    "halffloat": "f2", "float": "f4", "double": "f8",
    "date32[day]": "i4", "date64[ms]": "i8",
}  # fmt: skip


# The types of varying length, and the same without the promise of UTF-8.
_BYTES = {
    pa.string(): pa.binary(), pa.large_string(): pa.large_binary(),
    pa.binary(): pa.binary(), pa.large_binary(): pa.large_binary(),
}  # fmt: skip


@lru_cache(1024)
def bounds_type(type: pa.DataType) -> pa.DataType | None:
    """Return the type that the bounds of a column have, or None if its values have no order.

    Args:
        type: the column's type.

    Returns:
        The column's own type; for dictionaries that of their values; for views the type with offsets.

    Example:
        >>> bounds_type(pa.dictionary(pa.int8(), pa.string()))
        DataType(string)
        >>> bounds_type(pa.list_(pa.int8())) is None
        True
    """
    if pa.types.is_dictionary(type):
        return None if pa.types.is_dictionary(type.value_type) else bounds_type(type.value_type)
    if type == pa.string_view():
        return pa.string()
    if type == pa.binary_view():
        return pa.binary()
    if pa.types.is_fixed_size_binary(type):
        return type if 0 < type.byte_width <= LONGEST else None
    if _dtype(type) is not None or pa.types.is_boolean(type) or pa.types.is_decimal(type):
        return type
    return type if _has_offsets(type) else None


@lru_cache(1024)
def zone_type(type: pa.DataType) -> pa.StructType:
    """Return the type of what is kept of a column for each zone: `struct<min, max, nulls>`, or only `nulls`.

    Example:
        >>> zone_type(pa.int8())
        StructType(struct<min: int8, max: int8, nulls: int64>)
    """
    bound = bounds_type(type)
    ends = [] if bound is None else [("min", bound), ("max", bound)]
    return pa.struct([*ends, ("nulls", pa.int64())])


def comparable(array: pa.Array) -> pa.Array:
    """Return an array of a `bounds_type` as one of the same order that pyarrow has all kernels for."""
    if pa.types.is_duration(array.type):
        return array.view(pa.int64())
    if pa.types.is_float16(array.type):
        return array.cast(pa.float32())
    if pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type):
        return array.cast(pa.decimal128(array.type.precision, array.type.scale))
    return array


def sort_order(array: pa.Array) -> Rows:
    """Return the indices that put an array of a `bounds_type` in ascending order, nulls last."""
    import pyarrow.compute as pc

    return np.asarray(pc.sort_indices(comparable(array))).astype(np.int64)


def are_in_order(minima: pa.Array, maxima: pa.Array) -> bool:
    """Return whether no minimum lies above its maximum, and none is NaN; both arrays of one `bounds_type`."""
    if _dtype(minima.type) is not None and not minima.null_count and not maxima.null_count:
        dtype = np.dtype(_dtype(minima.type))
        return bool((_fixed_width(minima, dtype) <= _fixed_width(maxima, dtype)).all())
    if _has_offsets(minima.type) and len(minima) <= FEW:
        # Python orders texts as their UTF-8 is ordered.
        pairs = zip(minima.to_pylist(), maxima.to_pylist(), strict=True)
        return all(low <= high for low, high in pairs if low is not None and high is not None)
    import pyarrow.compute as pc

    return bool(pc.all(pc.less_equal(comparable(minima), comparable(maxima)), min_count=0).as_py())


class Cuts:
    """How a stretch of rows is cut into zones: made once for all columns.

    Args:
        starts: the row at which each zone begins, ascending from 0; no zone is empty.
        rows: the rows of the stretch.
    """

    def __init__(self, starts: Rows, rows: int) -> None:
        self.starts = starts
        self.lengths = np.diff(starts, append=rows)
        self.none = np.zeros(len(starts), np.int64)
        self.all = np.ones(len(starts), np.bool_)

    def __len__(self) -> int:
        return len(self.starts)


class Collector(ABC):
    """Gathers what is known of one column, zone by zone. One thread at a time."""

    def __init__(self, type: pa.DataType) -> None:
        self._zone_type = zone_type(type)
        self._nulls: list[Rows] = []
        # Where nulls are not in a bitmap of the column, nobody counts them.
        self._counts_nulls = not (pa.types.is_union(type) or pa.types.is_run_end_encoded(type))
        self._is_null_type = pa.types.is_null(type)

    @abstractmethod
    def add(self, array: pa.Array, cuts: Cuts) -> None:
        """Take the next array of the column, at least one value, and how it is cut into zones."""

    def _count_nulls(self, array: pa.Array, validity: Mask | None, cuts: Cuts) -> Rows:
        """Count nulls zone by zone; -1 where they are not in the bitmap of the column."""
        if not self._counts_nulls or (isinstance(array, pa.DictionaryArray) and array.dictionary.null_count):
            return _unknown(len(cuts))
        if self._is_null_type:
            return cuts.lengths
        return cuts.none if validity is None else cuts.lengths - np.add.reduceat(validity, cuts.starts, dtype=np.int64)

    @abstractmethod
    def skip(self, zones: int) -> None:
        """Take note of so many zones of which nothing is known."""

    @abstractmethod
    def _ends(self) -> list[pa.Array]:
        """Return the arrays of minima and of maxima."""

    def finish(self) -> pa.StructArray:
        """Return what was gathered, one row for each of at least one zone, as `zone_type` of the column's type."""
        nulls = _joined(self._nulls)
        arrays = [*self._ends(), _from_values(pa.int64(), nulls, nulls >= 0)]
        return pa.StructArray.from_arrays(arrays, fields=list(self._zone_type))


def collector(type: pa.DataType) -> Collector:
    """Return the collector for a column of a type."""
    bound = bounds_type(type)
    if bound is None:
        return _OnlyNulls(type)
    if pa.types.is_dictionary(type):
        return _Dictionary(type)
    if pa.types.is_decimal128(type):
        return _Decimal(type)
    if _dtype(bound) is not None or pa.types.is_boolean(bound):
        return _FixedWidth(type)
    return _ByKernel(type)


class _OnlyNulls(Collector):
    """Nested columns, and whatever else has no order."""

    def add(self, array: pa.Array, cuts: Cuts) -> None:
        self._nulls.append(self._count_nulls(array, _validity(array), cuts))

    def skip(self, zones: int) -> None:
        self._nulls.append(_unknown(zones))

    def _ends(self) -> list[pa.Array]:
        return []


class _FixedWidth(Collector):
    """Numbers that NumPy can compare where they lie: integers, floats, booleans, and times as integers."""

    def __init__(self, type: pa.DataType) -> None:
        super().__init__(type)
        self._bound = self._zone_type.field("min").type
        self._minima: list[npt.NDArray[Any]] = []
        self._maxima: list[npt.NDArray[Any]] = []
        self._known: list[Mask] = []
        # What stands for a zone of which nothing is known.
        self._blank = np.zeros((1, 2), np.int64) if pa.types.is_decimal128(type) else np.zeros(1, _dtype(type) or "u1")

    def add(self, array: pa.Array, cuts: Cuts) -> None:
        validity = _validity(array)
        nulls = self._count_nulls(array, validity, cuts)
        known = cuts.all if validity is None else nulls < cuts.lengths
        if validity is not None and not known.any():
            self._append(self._nothing(len(cuts)), self._nothing(len(cuts)), known, nulls)
            return
        minima, maxima = self._measure(array, validity, cuts)
        if minima.dtype.kind == "f":
            known = known & ~(np.isnan(minima) | np.isnan(maxima))
        self._append(minima, maxima, known, nulls)

    def skip(self, zones: int) -> None:
        self._append(self._nothing(zones), self._nothing(zones), np.zeros(zones, np.bool_), _unknown(zones))

    def _nothing(self, zones: int) -> npt.NDArray[Any]:
        return np.repeat(self._blank, zones, axis=0)

    def _append(self, minima: npt.NDArray[Any], maxima: npt.NDArray[Any], known: Mask, nulls: Rows) -> None:
        self._minima.append(minima)
        self._maxima.append(maxima)
        self._known.append(known)
        self._nulls.append(nulls)

    def _measure(self, array: pa.Array, validity: Mask | None, cuts: Cuts) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        if pa.types.is_boolean(array.type):
            return _reduce(_bits(array.buffers()[1], array.offset, len(array)), validity, cuts.starts)
        values = _fixed_width(array, self._blank.dtype)
        # NumPy compares half floats one by one, thirty times slower than the floats that they become.
        return _reduce(values.astype(np.float32) if values.dtype == np.float16 else values, validity, cuts.starts)

    def _ends(self) -> list[pa.Array]:
        known = _joined(self._known)
        return [self._array(_joined(chunks), known) for chunks in (self._minima, self._maxima)]

    def _array(self, values: npt.NDArray[Any], known: Mask) -> pa.Array:
        if pa.types.is_boolean(self._bound):
            values = np.packbits(values, bitorder="little")
        return _from_values(self._bound, values.astype(self._blank.dtype, copy=False), known)


class _Decimal(_FixedWidth):
    """Decimals of 128 bits: two machine words, of which the high one is nearly always 0, so the low one decides."""

    def _measure(self, array: pa.Array, validity: Mask | None, cuts: Cuts) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        words = np.frombuffer(array.buffers()[1], np.int64, 2 * len(array), 16 * array.offset).reshape(-1, 2)
        low, high = words[:, 0].view(np.uint64), words[:, 1]
        if validity is not None:
            high = np.where(validity, high, 0)
        if not np.maximum.reduce(high.view(np.uint64)):
            least_low, most_low = _reduce(low, validity, cuts.starts)
            least_high = most_high = cuts.none
        else:
            least_high, most_high = _reduce(high, validity, cuts.starts)
            valid = np.True_ if validity is None else validity
            least_low, _ = _reduce(low, valid & (high == np.repeat(least_high, cuts.lengths)), cuts.starts)
            _, most_low = _reduce(low, valid & (high == np.repeat(most_high, cuts.lengths)), cuts.starts)
        return (
            np.column_stack([least_low.view(np.int64), least_high]),
            np.column_stack([most_low.view(np.int64), most_high]),
        )


class _ByKernel(Collector):
    """Strings, binary and the widest decimals, through pyarrow: dear, so only for as long as zones separate."""

    def __init__(self, type: pa.DataType) -> None:
        super().__init__(type)
        self._minima: list[object] = []
        self._maxima: list[object] = []
        self._separation = _Separation()
        self._text = is_text(self._zone_type.field("min").type)

    def add(self, array: pa.Array, cuts: Cuts) -> None:
        nulls = self._count_nulls(array, _validity(array), cuts)
        self._nulls.append(nulls)
        if self._separation.hopeless or len(array) < TOO_SMALL * len(cuts):
            self._repeat(array, len(cuts))
            return
        for start, length, missing in zip(cuts.starts, cuts.lengths, nulls, strict=True):
            self._repeat(array.slice(start, length) if missing < length else None, 1)

    def skip(self, zones: int) -> None:
        self._nulls.append(_unknown(zones))
        self._repeat(None, zones)

    def _repeat(self, values: pa.Array | None, zones: int) -> None:
        least, most = (None, None) if values is None or self._separation.hopeless else self._measure(values)
        self._minima += [least] * zones
        self._maxima += [most] * zones

    def _measure(self, values: pa.Array) -> tuple[object, object]:
        if values.type in (pa.string_view(), pa.binary_view()):
            # Views have no kernel; offsets of 32 bits would overflow, without a word, in a zone over 2 GiB.
            values = values.cast(pa.large_binary())
        elif values.type in _BYTES:
            values = values.view(_BYTES[values.type])
        import pyarrow.compute as pc

        ends = pc.min_max(values)
        least, most = ends["min"].as_py(), ends["max"].as_py()
        if least is None:
            return None, None
        self._separation.see(least, most)
        return _cut(least, most, self._text) if isinstance(least, bytes) else (least, most)

    def _ends(self) -> list[pa.Array]:
        type = self._zone_type.field("min").type
        return [pa.array(ends, type) for ends in (self._minima, self._maxima)]


class _Dictionary(Collector):
    """Dictionaries of values that have an order: the dictionary is sorted once, then indices are compared by rank."""

    def __init__(self, type: pa.DataType) -> None:
        super().__init__(type)
        self._bound = self._zone_type.field("min").type
        self._dtype = np.dtype(_DTYPES[str(type.index_type)])
        self._minima: list[pa.Array] = []
        self._maxima: list[pa.Array] = []
        self._budget = SORTABLE
        self._last: pa.Array | None = None
        self._sorted: _SortedDictionary | None = None

    def add(self, array: pa.Array, cuts: Cuts) -> None:
        indices, dictionary = array.indices, array.dictionary
        self._budget += len(array) // ROWS_PER_SORTED
        validity = _validity(indices)
        nulls = self._count_nulls(array, validity, cuts)
        codes = _fixed_width(indices, self._dtype)
        if validity is not None:
            codes = np.where(validity, codes, self._dtype.type(0))
        entries = self._sort(dictionary)
        if entries is None or nulls[0] < 0 or int(codes.min()) < 0 or int(codes.max()) >= len(dictionary):
            self._append_nothing(len(cuts))
        else:
            known = nulls < cuts.lengths
            least, most = _reduce(entries.rank[codes], validity, cuts.starts)
            self._minima.append(entries.take(entries.floor, least, known))
            self._maxima.append(entries.take(entries.ceiling, most, known))
        self._nulls.append(nulls)

    def skip(self, zones: int) -> None:
        self._append_nothing(zones)
        self._nulls.append(_unknown(zones))

    def _append_nothing(self, zones: int) -> None:
        self._minima.append(pa.nulls(zones, self._bound))
        self._maxima.append(pa.nulls(zones, self._bound))

    def _sort(self, dictionary: pa.Array) -> "_SortedDictionary | None":
        if self._last is None or not _same_memory(self._last, dictionary):
            self._last, self._sorted = dictionary, None
            if len(dictionary) <= self._budget:
                self._budget -= len(dictionary)
                self._sorted = _SortedDictionary.of(dictionary, self._bound)
        return self._sorted

    def _ends(self) -> list[pa.Array]:
        return [pa.concat_arrays([pa.nulls(0, self._bound), *ends]) for ends in (self._minima, self._maxima)]


@dataclass(frozen=True, eq=False)
class _SortedDictionary:
    """A dictionary in order."""

    # For each rank, the entry that has it.
    order: Rows
    # For each entry, its rank.
    rank: Rows
    # For each entry, a value not above it and one not below it, short enough to keep.
    floor: pa.Array
    ceiling: pa.Array

    @classmethod
    def of(cls, dictionary: pa.Array, bound: pa.DataType) -> "_SortedDictionary | None":
        """Sort a dictionary without nulls; None where it has no order: it is empty, holds a NaN or damaged text."""
        if len(dictionary) == 0:
            return None
        if pa.types.is_floating(bound) and np.isnan(dictionary.to_numpy(zero_copy_only=False)).any():
            return None
        if dictionary.type in (pa.string_view(), pa.binary_view()):
            dictionary = dictionary.cast(pa.large_string() if bound == pa.string() else pa.large_binary())
        floor = ceiling = dictionary
        if _has_offsets(dictionary.type):
            try:
                dictionary.validate(full=True)
            except pa.ArrowInvalid:
                return None
            import pyarrow.compute as pc

            if pc.max(pc.binary_length(dictionary)).as_py() > LONGEST:
                cut = [
                    _cut(entry, entry, is_text(bound)) for entry in dictionary.cast(_BYTES[dictionary.type]).to_pylist()
                ]
                floor, ceiling = (pa.array(ends, bound) for ends in zip(*cut, strict=True))
            floor, ceiling = floor.cast(bound), ceiling.cast(bound)
        order = sort_order(dictionary)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        return cls(order, rank, floor, ceiling)

    def take(self, ends: pa.Array, ranks: Rows, known: Mask) -> pa.Array:
        return ends.take(pa.array(self.order[np.where(known, ranks, 0)], mask=~known))


class _Separation:
    """Watches whether zones lie apart: bounds that all overlap can never rule a zone out."""

    def __init__(self) -> None:
        self._floor: Any = None
        self._ceiling: Any = None
        self._overlapping = 0
        self.hopeless = False

    def see(self, least: Any, most: Any) -> None:
        """Take note of the next zone's bounds."""
        if least == most:
            # One value throughout is as narrow as a zone gets, however many follow with the same.
            self._overlapping = 0
            return
        if self._overlapping:
            self._floor, self._ceiling = max(self._floor, least), min(self._ceiling, most)
        if not self._overlapping or self._floor > self._ceiling:
            self._floor, self._ceiling, self._overlapping = least, most, 0
        self._overlapping += 1
        self.hopeless |= self._overlapping >= PATIENCE


def _cut(least: bytes, most: bytes, text: bool) -> tuple[bytes | None, bytes | None]:
    """Shorten two ends so that the one stays at or below, the other at or above, what lies between."""
    if text:
        try:
            least.decode(), most.decode()
        except UnicodeDecodeError:
            return None, None
    return least[: _boundary(least, text)], _raise(most, text)


def _boundary(value: bytes, text: bool) -> int:
    """Return where to cut: never inside a character of UTF-8."""
    end = min(len(value), LONGEST)
    while text and end < len(value) and value[end] & 0xC0 == 0x80:
        end -= 1
    return end


def _raise(value: bytes, text: bool) -> bytes | None:
    """Return the shortest value at or above all that begin as this one does, or None where there is none."""
    if len(value) <= LONGEST:
        return value
    cut = value[: _boundary(value, text)]
    if not text:
        cut = cut.rstrip(b"\xff")
        return cut[:-1] + bytes([cut[-1] + 1]) if cut else None
    characters = cut.decode().rstrip("\U0010ffff")
    if not characters:
        return None
    following = ord(characters[-1]) + 1
    # U+D800 to U+DFFF are surrogates, which UTF-8 has no bytes for.
    return (characters[:-1] + chr(0xE000 if following == 0xD800 else following)).encode()


def _reduce(values: npt.NDArray[Any], validity: Mask | None, starts: Rows) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the least and the greatest valid value from each start to the next; a zone of nulls has any."""
    lowest = highest = values
    if validity is not None:
        least, most = (-np.inf, np.inf) if values.dtype.kind == "f" else _range(values.dtype)
        lowest = np.where(validity, values, values.dtype.type(most))
        highest = np.where(validity, values, values.dtype.type(least))
    return np.minimum.reduceat(lowest, starts), np.maximum.reduceat(highest, starts)


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _unknown(zones: int) -> Rows:
    return np.full(zones, -1, np.int64)


def _validity(array: pa.Array) -> Mask | None:
    """Return which rows are valid, or None if all are as far as a bitmap tells."""
    bitmap = array.buffers()[0] if array.null_count else None
    return None if bitmap is None else _bits(bitmap, array.offset, len(array)).view(np.bool_)


def _bits(bitmap: pa.Buffer, offset: int, length: int) -> npt.NDArray[np.uint8]:
    """Unpack bits, the least significant of each byte first, to bytes of 0 and 1."""
    first, last = offset // 8, (offset + length + 7) // 8
    unpacked = np.unpackbits(np.frombuffer(bitmap, np.uint8, last - first, first), bitorder="little")
    return unpacked[offset % 8 :][:length]


def _same_memory(one: pa.Array, other: pa.Array) -> bool:
    def places(array: pa.Array) -> list[tuple[int, int] | None]:
        return [None if buffer is None else (buffer.address, buffer.size) for buffer in array.buffers()]

    return len(one) == len(other) and one.offset == other.offset and places(one) == places(other)


def _joined(chunks: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def _from_values(type: pa.DataType, values: npt.NDArray[Any], known: Mask) -> pa.Array:
    """Return an array over values that lie as Arrow lays them out, null where not known."""
    validity = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(type, len(known), [validity, pa.py_buffer(values)])


def _fixed_width(array: pa.Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


@lru_cache(1024)
def _dtype(type: pa.DataType) -> str | None:
    """Return the NumPy type that has a type's bytes and its order, or None."""
    if pa.types.is_decimal32(type):
        return "i4"
    if pa.types.is_decimal64(type) or pa.types.is_timestamp(type) or pa.types.is_duration(type):
        return "i8"
    if pa.types.is_time(type):
        return "i4" if pa.types.is_time32(type) else "i8"
    return _DTYPES.get(str(type))


def is_text(type: pa.DataType) -> bool:
    """Return whether a bound of this type is UTF-8."""
    return type in (pa.string(), pa.large_string())


def _has_offsets(type: pa.DataType) -> bool:
    return type in _BYTES
