"""Columns as PyTorch tensors, over the memory that they stand in; and batches that cross processes as mere addresses.

A tensor can be written to, and PyTorch knows none that cannot. Tensors over a mapped payload stand in a *private* map
of it: whoever writes to one gets a copy of that page, and neither the file nor any other process sees it.
"""

import ctypes
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from aljava.errors import InvalidData, InvalidOption, NotFound, UnsupportedType
from aljava.fragments import FeatherV1, Fragment
from aljava.places.place import Identity, Place

#: Private maps that an iteration keeps, of those used last: a folder can have thousands of files.
MAPS = 256

_FLOATS = {pa.float16(): torch.float16, pa.float32(): torch.float32, pa.float64(): torch.float64}
_NUMBERS = {
    **_FLOATS,
    pa.int8(): torch.int8,
    pa.int16(): torch.int16,
    pa.int32(): torch.int32,
    pa.int64(): torch.int64,
    pa.uint8(): torch.uint8,
    pa.uint16(): torch.uint16,
    pa.uint32(): torch.uint32,
    pa.uint64(): torch.uint64,
}


class Kind(NamedTuple):
    """What a column becomes."""

    dtype: Any
    #: Of one row: () for a number.
    shape: tuple[int, ...]
    #: Bits of a value as Arrow has it: 1 for booleans.
    bits: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, as a tensor has it."""
        return int(self.dtype.itemsize) * prod(self.shape)


class Where(NamedTuple):
    """Where rows of a column stand."""

    #: Number of the payload in its dataset.
    payload: int
    #: Bytes from its start to the first row.
    offset: int
    rows: int


class Column(NamedTuple):
    """Some rows of a column."""

    tensor: Any
    #: Where they stand, if they are not copied.
    where: Where | None


def kinds(schema: pa.Schema, address: str) -> dict[str, Kind]:
    """What each column becomes.

    Raises:
        UnsupportedType: names the columns that no tensor can hold, and the others.
    """
    found = {field.name: kind for field in schema if (kind := _kind(field.type)) is not None}
    bad = [field for field in schema if field.name not in found]
    if bad:
        said = ", ".join(f"{field.name!r} ({field.type})" for field in bad)
        raise UnsupportedType(
            f"{address}: PyTorch has no tensor for the column{'s' * (len(bad) > 1)} {said}; choose others with "
            f"columns={list(found)}, or compute numbers: columns={{'NAME': EXPRESSION}}"
        )
    return found


def _kind(type: pa.DataType) -> Kind | None:
    shape: list[int] = []
    if isinstance(type, pa.FixedShapeTensorType):
        if type.permutation not in (None, list(range(len(type.shape)))):
            return None
        shape, type = list(type.shape), type.value_type
    while pa.types.is_fixed_size_list(type):
        shape.append(type.list_size)
        type = type.value_type
    if pa.types.is_boolean(type):
        return Kind(torch.bool, tuple(shape), 1)
    if pa.types.is_temporal(type) and not pa.types.is_interval(type):
        # PyTorch has no times: what they count, in the unit of the column.
        return Kind(torch.int32 if type.bit_width == 32 else torch.int64, tuple(shape), type.bit_width)
    return Kind(_NUMBERS[type], tuple(shape), type.bit_width) if type in _NUMBERS else None


def identities(places: Sequence[Place]) -> list[Identity | None]:
    """Which file stands at each place at this moment; None for what cannot be mapped."""
    return [None if mapped is None else mapped[1] for mapped in (place.private_map() for place in places)]


class Maps:
    """Private maps of the payloads of a dataset, for one iteration over it: what one changes the next does not see.

    Args:
        fragments: the payloads.
        identities: the file that each of them is; None for what is not mapped.
    """

    def __init__(self, fragments: Sequence[Fragment], identities: Sequence[Identity | None]) -> None:
        self._fragments, self._identities = fragments, identities
        self._open: OrderedDict[int, Any] = OrderedDict()

    def columns(self, payload: int, batch: pa.RecordBatch, kinds: dict[str, Kind], nulls: str) -> dict[str, Column]:
        """The columns of a batch that was read from a payload.

        Args:
            payload: its number.
            batch: some of its rows.
            kinds: of the columns.
            nulls: "error", or "nan" for a NaN in the place of each null of a column of floats.

        Raises:
            InvalidData: a null where there may be none.
        """
        return {
            name: self._column(payload, name, array, kinds[name], nulls)
            for name, array in zip(batch.schema.names, batch.columns, strict=True)
        }

    def tensor(self, where: Where, kind: Kind) -> Any:
        """Some rows of a column by where they stand."""
        memory = self._memory(where.payload)
        count = where.rows * prod(kind.shape)
        if memory is not None:
            flat = torch.frombuffer(memory, dtype=kind.dtype, count=count, offset=where.offset)
        else:
            # Another file has taken its place meanwhile: this process still has the old one, and others see it too.
            buffer = self._fragments[where.payload].whole()
            flat = torch.frombuffer(_writable(buffer), dtype=kind.dtype, count=count, offset=where.offset).clone()
        return flat.reshape(where.rows, *kind.shape)

    def _column(self, payload: int, name: str, array: pa.Array, kind: Kind, nulls: str) -> Column:
        rows = len(array)
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        while array.null_count == 0 and pa.types.is_fixed_size_list(array.type):
            array = array.flatten()
        if array.null_count:
            if nulls != "nan" or array.type not in _FLOATS or kind.shape:
                raise InvalidData(
                    f"column {name!r} of {self._fragments[payload].address} has nulls, and a tensor has none: leave "
                    "them out with filter=, put a value in their place with columns={'NAME': pc.coalesce(…)}, or, in a "
                    'column of floats, take NaN with nulls="nan"'
                )
            array = array.fill_null(float("nan"))
        if kind.bits == 1:
            return Column(torch.from_numpy(array.to_numpy(zero_copy_only=False)).reshape(rows, *kind.shape), None)
        buffer = array.buffers()[1]
        if buffer is None or not len(array):
            return Column(torch.empty((rows, *kind.shape), dtype=kind.dtype), None)
        address = buffer.address + array.offset * kind.bits // 8
        held = self._fragments[payload]._buffer
        if held is not None and held.address <= address < held.address + held.size:
            where = Where(payload, address - held.address, rows)
            return Column(self.tensor(where, kind), None if self._memory(payload) is None else where)
        start = address - buffer.address
        flat = torch.frombuffer(_writable(buffer), dtype=kind.dtype, count=len(array), offset=start)
        if isinstance(self._fragments[payload], FeatherV1):  # which keeps its table
            flat = flat.clone()
        return Column(flat.reshape(rows, *kind.shape), None)

    def _memory(self, payload: int) -> Any:
        """The bytes of a payload in a private map; None where there is none."""
        if payload in self._open:
            self._open.move_to_end(payload)
            return self._open[payload]
        memory = None
        if self._identities[payload] is not None:
            try:
                mapped = self._fragments[payload].place.private_map()
            except NotFound:
                mapped = None
            if mapped is not None and mapped[1] == self._identities[payload]:
                memory = _bytes_at(mapped[0].address, mapped[0].size, mapped[0])
        self._open[payload] = memory
        if len(self._open) > MAPS:
            self._open.popitem(last=False)
        return memory


class Batch(dict[str, Any]):
    """A batch in a loader's worker: to the loader's process it travels as the places of its columns.

    What stands in no payload, or was changed, travels in one piece of shared memory: to send each tensor in one of its
    own, as PyTorch does, costs as much as to copy some megabytes.
    """

    def __init__(self, columns: dict[str, Column], source: "Source") -> None:
        super().__init__((name, column.tensor) for name, column in columns.items())
        self._columns, self._source = columns, source

    def __copy__(self) -> "Batch":
        other = Batch(self._columns, self._source)
        other.clear()
        other.update(self)
        return other

    def __reduce__(self) -> Any:
        places: dict[str, Any] = {}
        packed: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in self.items():
            column = self._columns.get(name)
            # PyTorch counts the changes of a tensor and of all that share its memory.
            if column is not None and column.where and column.tensor is value and value._version == 0:
                places[name] = tuple(column.where)
            elif type(value) is torch.Tensor and value.device.type == "cpu" and value.layout == torch.strided:
                packed[name] = value
            else:
                others[name] = value
        return _arrived, (self._source, list(self), places, _pack(packed), others)


def _pack(columns: dict[str, Any]) -> Any:
    """Tensors in one piece of shared memory, and where in it they are; those that are in one already stay there."""
    if not columns:
        return None
    memory = {value.untyped_storage().data_ptr() for value in columns.values()}
    first = next(iter(columns.values()))
    if len(memory) > 1 or not first.is_shared() or not all(value.is_contiguous() for value in columns.values()):
        room = _shared_room({name: (value.dtype, tuple(value.shape)) for name, value in columns.items()})
        for name, value in columns.items():
            room[name].copy_(value.detach())
        columns = room
    places = {
        name: (value.storage_offset() * value.dtype.itemsize, value.dtype, tuple(value.shape))
        for name, value in columns.items()
    }
    storage = next(iter(columns.values())).untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),)), places


def _shared_room(wanted: dict[str, tuple[Any, tuple[int, ...]]]) -> dict[str, Any]:
    """Tensors to be filled, in one piece of memory that another process can map."""
    offsets, at = {}, 0
    for name, (dtype, shape) in wanted.items():
        offsets[name] = at
        at += -(-prod(shape) * dtype.itemsize // 64) * 64
    storage = torch.UntypedStorage._new_shared(max(at, 1))
    return {
        name: torch.empty(0, dtype=dtype).set_(storage, offsets[name] // dtype.itemsize, shape)
        for name, (dtype, shape) in wanted.items()
    }


class Source(NamedTuple):
    """Which iteration of which dataset a batch is of."""

    dataset: str
    worker: int
    #: Differs for each iteration of the worker.
    iteration: int


class Arrivals:
    """The loader's side: makes batches of the places of their columns, in maps of this process.

    Args:
        fragments: as in `Maps`.
        identities: as in `Maps`.
        kinds: of the columns.
    """

    def __init__(
        self, fragments: Sequence[Fragment], identities: Sequence[Identity | None], kinds: dict[str, Kind]
    ) -> None:
        self._fragments, self._identities, self._kinds = fragments, identities, kinds
        self._maps: dict[int, tuple[int, Maps]] = {}

    def batch(
        self, source: Source, names: Sequence[str], places: dict[str, Any], packed: Any, others: dict[str, Any]
    ) -> dict[str, Any]:
        """The columns by name, in the order of the worker's."""
        iteration, maps = self._maps.get(source.worker, (None, None))
        if maps is None or iteration != source.iteration:
            maps = Maps(self._fragments, self._identities)
            self._maps[source.worker] = (source.iteration, maps)
        found = {name: maps.tensor(Where(*place), self._kinds[name]) for name, place in places.items()}
        if packed is not None:
            memory, parts = packed
            for name, (offset, dtype, shape) in parts.items():
                found[name] = memory[offset : offset + prod(shape) * dtype.itemsize].view(dtype).view(shape)
        found.update(others)
        return {name: found[name] for name in names}


#: By the name of the dataset, for the time that it lives.
_LIVE: "weakref.WeakValueDictionary[str, Arrivals]" = weakref.WeakValueDictionary()


def arrivals(
    name: str, fragments: Sequence[Fragment], identities: Sequence[Identity | None], kinds: dict[str, Kind]
) -> Arrivals:
    """The loader's side for a dataset of this name: a copy of a dataset shares that of the first.

    Args:
        name: of the dataset.
        fragments: as in `Maps`.
        identities: as in `Maps`.
        kinds: of the columns.
    """
    made = _LIVE.get(name) or Arrivals(fragments, identities, kinds)
    _LIVE[name] = made
    return made


def _arrived(source: Any, names: Sequence[str], places: dict[str, Any], packed: Any, others: dict[str, Any]) -> Any:
    arrivals = _LIVE.get(source.dataset)
    if arrivals is None:
        raise InvalidOption(
            "a batch of a loader's worker came to a process without its dataset: batches go to the process of the "
            "DataLoader; to send one elsewhere, send dict(batch)"
        )
    return arrivals.batch(source, names, places, packed, others)


def part(columns: dict[str, Column], kinds: dict[str, Kind], start: int, rows: int) -> dict[str, Column]:
    """Some rows of all columns, without a copy."""
    found = {}
    for name, (tensor, all_rows) in columns.items():
        where = None
        if all_rows is not None:
            where = Where(all_rows.payload, all_rows.offset + start * kinds[name].row_bytes, rows)
        found[name] = Column(tensor[start : start + rows], where)
    return found


def joined(parts: Sequence[dict[str, Column]]) -> dict[str, Column]:
    """Rows behind each other, put together."""
    if len(parts) == 1:
        return parts[0]
    return {name: Column(torch.cat([each[name].tensor for each in parts]), None) for name in parts[0]}


def picked(columns: dict[str, Column], numbers: Any, shared: bool) -> dict[str, Column]:
    """The rows with these numbers, in this order; with `shared`, in memory that another process can map."""
    if not shared:
        return {name: Column(column.tensor.index_select(0, numbers), None) for name, column in columns.items()}
    wanted = {name: (column.tensor.dtype, (len(numbers), *column.tensor.shape[1:])) for name, column in columns.items()}
    room = _shared_room(wanted)
    for name, column in columns.items():
        torch.index_select(column.tensor, 0, numbers, out=room[name])
    return {name: Column(tensor, None) for name, tensor in room.items()}


def batches_between(batches: Sequence[pa.RecordBatch], first: int, rows: int) -> Iterator[pa.RecordBatch]:
    """Some rows of batches that follow each other."""
    at = 0
    for batch in batches:
        low, high = max(first - at, 0), min(first + rows - at, batch.num_rows)
        if low < high:
            yield batch if high - low == batch.num_rows else batch.slice(low, high - low)
        at += batch.num_rows


def _writable(buffer: pa.Buffer) -> Any:
    return _bytes_at(buffer.address, buffer.size, buffer)


def _bytes_at(address: int, size: int, owner: Any) -> Any:
    """Bytes of this process as an object that PyTorch takes as writable memory, and that keeps `owner`."""
    memory = (ctypes.c_ubyte * size).from_address(address)
    memory.owner = owner  # type: ignore[attr-defined]
    return memory
