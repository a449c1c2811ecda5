"""Tables as a data set of PyTorch: `IterableDataset`, for training loops over files, folders, buckets and the store.

::

    record batches ──(those that filter, partitions and zones leave)──> in order, or shuffled by seed and epoch
        ──> cut into steps of batch_size rows ──> a run of steps for each rank ──> a part of it for each loader worker

Every row comes once, over all ranks and workers. Raw numeric columns of a mapped payload are not copied: a tensor
stands over the map, also on the loader's side, to which a worker sends the place of the rows in place of the rows.
"""

import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

import aljava
from aljava.errors import InvalidData, InvalidOption, QueryError, require
from aljava.fragments import IpcFile, Task, Wanted
from aljava.listing import Part
from aljava.places.fileobject import FileObject
from aljava.received import ReceivedDataset
from aljava.scanning import Selection, ahead

require("torch", name="PyTorch")

import torch  # noqa: E402
import torch.distributed  # noqa: E402
import torch.utils.data  # noqa: E402

from aljava.engines import tensors  # noqa: E402

__all__ = ["IterableDataset"]

#: Rows within which rows are shuffled by default, and of which raw record batches are cut to be shuffled.
WINDOW = 65_536


class _Consumer(NamedTuple):
    """One of those that the rows are divided among."""

    rank: int
    world_size: int
    worker: int
    workers: int


class _Position(NamedTuple):
    """How far a consumer has come."""

    #: Number of its record batch in which the window begins, and the matching rows of that batch that come before.
    batch: int = 0
    skip: int = 0
    #: Number of the window.
    window: int = 0
    #: Rows of the window that were given out.
    given: int = 0


class IterableDataset(torch.utils.data.IterableDataset[dict[str, Any]]):
    """The rows of a table as dicts of tensors, `batch_size` rows each. For `torch.utils.data.DataLoader`.

    Give it to a loader with `batch_size=None`: batches are made here. Rows are divided in steps of `batch_size` rows:
    first among the ranks, then among the loader's workers, each of which gets a run of steps. Without a filter every
    rank gets the same number of steps but for one, and with `drop_last=True` exactly the same.

    **Types.** Numbers and booleans become tensors of the same type, of shape (rows,). Fixed-size lists of numbers, also
    nested, and Arrow's fixed-shape tensors become tensors of shape (rows, …). Dates, times and durations become the
    integers that they are, in the unit of their column. Text, lists of varying length, structs, decimals and
    dictionaries have no tensor: choose other columns, or compute numbers with `columns={name: expression}`.

    **What is copied.** Raw numeric columns of a mapped file or a table in the store are not, in whichever process.
    Copied or made anew are booleans (bits in Arrow), what is compressed, computed or filtered, what comes over a
    network, rows shuffled within a window, and a batch that spans two record batches.

    **Writing to a tensor** is allowed, and seen by nobody else: neither the file, nor another process, nor the next
    epoch. (A worker's change in place is sent on if PyTorch made it; a change through `tensor.numpy()` is not noticed.)

    **Resuming.** `state_dict()` is the position behind the last batch that this process was given, `load_state_dict`
    goes on from there, in the middle of an epoch too. torchdata's `StatefulDataLoader` does so for every worker. A
    state fits the same data, options, ranks and workers.

    Args:
        source: an address, as `aljava.open` takes it, or an `aljava.Dataset`.
        batch_size: rows of a batch; the last one of each worker can have fewer.
        columns: names, in the order that is wanted; or name -> expression; all by default.
        filter: a `pyarrow.compute.Expression` that a row must fulfil. How many batches come is then not known, and
            ranks and workers can differ in it.
        drop_last: leave out batches of fewer rows, and steps that not all ranks would get.
        shuffle: bring the record batches into an order that depends on `seed` and the epoch, and shuffle rows within
            windows. Raw record batches are cut into stretches for it, compressed ones stay whole.
        window: rows within which rows are shuffled, rounded up to whole batches; 65,536 by default. 0 leaves rows in
            their order within record batches, and copies nothing.
        seed: of the order; the same on all ranks.
        nulls: "error", or "nan" for a NaN in the place of a null in a column of floats.
        rank: which of the `world_size` parts this process gets; by default that of `torch.distributed` where it has
            been initialised, else all.
        world_size: how many parts there are.

    Raises:
        MissingDependency: PyTorch is not installed (when this module is imported).
        NotFound, TruncatedFile, InvalidData: as `aljava.open`.
        QueryError: a column that does not exist, a filter that cannot be evaluated.
        UnsupportedType: a column that has no tensor.
        InvalidOption: an option that cannot be meant, or a stream, which can be read only once.

    Examples:
        >>> import tempfile, aljava, pyarrow.compute as pc
        >>> address = tempfile.mkdtemp() + "/points.arrow"
        >>> _ = aljava.write({"x": [0.5, 1.5, 2.5, 3.5], "label": [0, 1, 0, 1]}, address)
        >>> dataset = IterableDataset(address, batch_size=3)
        >>> for batch in torch.utils.data.DataLoader(dataset, batch_size=None):
        ...     print(batch["x"], batch["label"])
        tensor([0.5000, 1.5000, 2.5000], dtype=torch.float64) tensor([0, 1, 0])
        tensor([3.5000], dtype=torch.float64) tensor([1])
        >>> half = {"half": pc.field("x").cast("float32") / 2}
        >>> next(iter(IterableDataset(address, batch_size=3, columns=half, filter=pc.field("label") == 1)))
        {'half': tensor([0.7500, 1.7500])}
    """

    def __init__(
        self,
        source: Any,
        batch_size: int,
        *,
        columns: Sequence[str] | Mapping[str, Any] | None = None,
        filter: Any = None,
        drop_last: bool = False,
        shuffle: bool = False,
        window: int | None = None,
        seed: int = 0,
        nulls: str = "error",
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise InvalidOption(f"batch_size is {batch_size}: it must be at least 1")
        if window is not None and (window < 0 or not shuffle):
            raise InvalidOption(f"window is {window}: it is a number of rows from 0, with shuffle=True")
        if nulls not in ("error", "nan"):
            raise InvalidOption(f'nulls is {nulls!r}: it can be "error" or "nan"')
        if (rank is None) != (world_size is None):
            raise InvalidOption(f"rank is {rank} and world_size {world_size}: give both or neither")
        if rank is not None and not 0 <= rank < (world_size or 0):
            raise InvalidOption(f"rank is {rank}: with world_size={world_size} it must be from 0 to one less")
        self._batch_size, self._drop_last, self._nulls = batch_size, drop_last, nulls
        self._shuffle, self._seed = shuffle, seed
        self._columns, self._filter = columns, filter
        self._mixed = WINDOW if window is None and shuffle else window or 0
        self._rank = None if rank is None or world_size is None else (rank, world_size)
        self._window = max(1, -(-self._mixed // batch_size)) * batch_size
        # In shared memory, so that workers that live on from epoch to epoch learn of it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._resume: dict[str, Any] | None = None
        self._position: tuple[_Consumer, _Position] | None = None
        self._name = secrets.token_hex(8)
        dataset = source if isinstance(source, aljava.Dataset) else aljava.open(source)
        if isinstance(dataset, ReceivedDataset):
            raise InvalidOption(f"{dataset.address} is a stream: its rows come once, and to this process alone")
        self._open(*dataset._opened_from, dataset._filter)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is, also in workers that are running: another order with `shuffle=True`."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the last iteration in this process stands: behind the last batch that it gave.

        Returns:
            a dict of numbers and texts, for `load_state_dict`.
        """
        if self._resume is not None:
            return self._resume
        consumer, position = self._position or (self._consumer(), _Position())
        return {"epoch": int(self._epoch), **self._terms(consumer), **position._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration go on from where another one stood; the one after it starts anew.

        That iteration raises `InvalidOption` if the state is of other data, options, ranks or workers.
        """
        self._resume = dict(state)
        self.set_epoch(self._resume["epoch"])

    def __len__(self) -> int:
        """The batches of this rank.

        Raises:
            TypeError: there is a filter, and how many rows match is not known.
        """
        if self._selection.filter is not None:
            raise TypeError("how many batches there are is not known with a filter")
        low, high = self._steps(self._consumer()._replace(worker=0, workers=1))
        return high - low

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches of this rank, or of this worker of its loader."""
        consumer = self._consumer()
        if os.getpid() != self._process:
            self._must_survive_fork()
        position = _Position()
        if self._resume is not None:
            state, self._resume = self._resume, None
            position = self._position_of(state, consumer)
        self._position = consumer, position
        return self._batches(consumer, int(self._epoch), position)

    def __getstate__(self) -> dict[str, Any]:
        self._dataset.must_travel()
        state = {key: value for key, value in self.__dict__.items() if key not in _MADE_ANEW}
        return {**state, "_rank": self._ranks(), "_source": (*self._dataset._opened_from, self._dataset._filter)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        source, before = state.pop("_source"), state.pop("_payloads")
        self.__dict__.update(state, _position=None)
        self._open(*source)
        if self._payloads != before:
            raise InvalidData(f"{self._dataset.address} was changed since this dataset was made of it: make it anew")

    # ------------------------------------------------------------------------------------------------ below

    def _open(self, parts: Sequence[Part], options: dict[str, Any], filter: Any) -> None:
        """Opens the payloads, and keeps them as they are for as long as this lives."""
        while True:
            before = _identities(parts, options)
            dataset = aljava.Dataset(parts, **options)
            if _identities(parts, options) == before:
                break
        self._process = os.getpid()
        self._dataset = dataset if filter is None else dataset.filter(filter)
        self._selection = Selection(dataset.schema, self._columns, self._dataset._and(self._filter), dataset.address)
        self._kinds = tensors.kinds(self._selection.schema, dataset.address)
        if not self._kinds:
            raise QueryError(f"columns names no column of {dataset.address}")
        self._stretches = _stretches(self._dataset, self._selection.filter, self._window if self._shuffle else None)
        fragments = self._dataset._fragments
        #: Which files they are, and their bytes: the same for all who divide the rows.
        self._payloads = [(who, fragment.nbytes) for who, fragment in zip(before, fragments, strict=True)]
        self._arrivals = tensors.arrivals(self._name, fragments, before, self._kinds)

    def _consumer(self) -> _Consumer:
        info = torch.utils.data.get_worker_info()
        return _Consumer(*self._ranks(), *((0, 1) if info is None else (info.id, info.num_workers)))

    def _ranks(self) -> tuple[int, int]:
        if self._rank is not None:
            return self._rank
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _must_survive_fork(self) -> None:
        for fragment in self._dataset._fragments:
            if fragment.place.remote or isinstance(fragment.place, FileObject):
                raise InvalidOption(
                    f"{fragment.address} cannot be read by a worker that was forked off: give the DataLoader "
                    'multiprocessing_context="spawn"'
                )

    def _terms(self, consumer: _Consumer) -> dict[str, Any]:
        """What has to be the same for a position to mean the same."""
        return {
            **consumer._asdict(),
            "rows": int(self._stretches.rows.sum()),
            "stretches": len(self._stretches.rows),
            "batch_size": self._batch_size,
            "drop_last": self._drop_last,
            "shuffle": self._shuffle,
            "shuffled_within": self._mixed,
            "seed": self._seed,
        }

    def _position_of(self, state: dict[str, Any], consumer: _Consumer) -> _Position:
        for key, value in self._terms(consumer).items():
            if state.get(key) != value:
                raise InvalidOption(f"the saved position is one with {key}={state.get(key)}, and here it is {value}")
        return _Position(*(int(state[key]) for key in _Position._fields))

    def _steps(self, consumer: _Consumer) -> tuple[int, int]:
        """The steps of `batch_size` rows that a consumer gets: the first, and the last + 1."""
        rank, world_size, worker, workers = consumer
        rows = int(self._stretches.rows.sum())
        steps = rows // self._batch_size if self._drop_last else -(-rows // self._batch_size)
        if self._drop_last:
            steps -= steps % world_size
        low, high = steps * rank // world_size, steps * (rank + 1) // world_size
        return low + (high - low) * worker // workers, low + (high - low) * (worker + 1) // workers

    def _share(self, consumer: _Consumer) -> tuple[int, int]:
        """The rows that a consumer gets, of those that zones leave, in the order of the epoch."""
        rows = int(self._stretches.rows.sum())
        if self._selection.filter is None:
            low, high = self._steps(consumer)
            return low * self._batch_size, min(high * self._batch_size, rows)
        # How many of them match is not known: steps would not come out even.
        number, of = consumer.rank * consumer.workers + consumer.worker, consumer.world_size * consumer.workers
        return rows * number // of, rows * (number + 1) // of

    def _batches(self, consumer: _Consumer, epoch: int, position: _Position) -> Iterator[dict[str, Any]]:
        fragments = self._dataset._fragments
        maps = tensors.Maps(fragments, [who for who, _ in self._payloads])
        in_worker = torch.utils.data.get_worker_info() is not None
        source = tensors.Source(self._name, consumer.worker, secrets.randbits(63))
        stretches = self._stretches
        if self._shuffle:
            stretches = stretches.take(np.random.default_rng([self._seed, epoch]).permutation(len(stretches.rows)))
        stretches = stretches.between(*self._share(consumer))
        columns = self._columns_of(maps, stretches, position)
        number, of = consumer.rank * consumer.workers + consumer.worker, consumer.world_size * consumer.workers
        held: deque[_Held] = deque()
        ended = False
        while True:
            have = sum(each.rows for each in held)
            while have < self._window and not ended:
                following = next(columns, None)
                if following is None:
                    ended = True
                else:
                    held.append(following)
                    have += following.rows
            if not have:
                return
            count = min(have, self._window)
            position = position._replace(batch=held[0].batch, skip=held[0].skip)
            parts = self._first(held, count)
            order = None
            if self._mixed:
                seed = [self._seed, epoch, number, of, position.window]
                order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
            rows = tensors.joined(parts)
            for at in range(position.given, count, self._batch_size):
                size = min(self._batch_size, count - at)
                if self._drop_last and size < self._batch_size:
                    break
                batch = rows if order is None else tensors.picked(rows, order[at : at + size], in_worker)
                position = position._replace(given=at + size)
                self._position = consumer, position
                if in_worker:
                    yield tensors.Batch(batch, source)
                else:
                    yield {name: column.tensor for name, column in batch.items()}
            position = position._replace(window=position.window + 1, given=0)

    def _first(self, held: "deque[_Held]", count: int) -> list[dict[str, tensors.Column]]:
        """Takes so many rows off the front."""
        parts = []
        while count:
            batch, skip, rows, columns = held.popleft()
            taken = min(rows, count)
            parts.append(columns if taken == rows else tensors.part(columns, self._kinds, 0, taken))
            if taken < rows:
                left = tensors.part(columns, self._kinds, taken, rows - taken)
                held.appendleft(_Held(batch, skip + taken, rows - taken, left))
            count -= taken
        return parts

    def _columns_of(self, maps: tensors.Maps, stretches: "_Stretches", position: _Position) -> Iterator["_Held"]:
        """The rows of the stretches that match, from a position on."""
        dataset, selection = self._dataset, self._selection
        left = range(position.batch, len(stretches.rows))
        tasks = (self._task(stretches, number) for number in left)
        read = ahead(
            tasks,
            lambda batches, sure: [selection.apply(batches, sure)],
            threads=True,
            work=selection.works,
            remote=any(fragment.place.remote for fragment in dataset._fragments),
        )
        skip = position.skip
        for number, found in zip(left, read, strict=True):
            at = 0
            payload = int(stretches.payload[number])
            for batch in found:
                if at + batch.num_rows > skip:
                    low = max(0, skip - at)
                    rest = batch.slice(low) if low else batch
                    columns = maps.columns(payload, rest, self._kinds, self._nulls)
                    yield _Held(number, at + low, rest.num_rows, columns)
                at += batch.num_rows
            skip = 0

    def _task(self, stretches: "_Stretches", number: int) -> Task:
        payload, batch, first, rows = (int(column[number]) for column in stretches)
        columns, finish = self._dataset._fitting(payload, self._selection)
        task = self._dataset._fragments[payload].task([Wanted(batch, None, ())], columns)

        def read() -> list[pa.RecordBatch]:
            return list(tensors.batches_between(task.read(), first, rows))

        cut = Task(read, task.nbytes, task.free)
        return cut if finish is None else cut.then(finish)


class _Held(NamedTuple):
    """Rows that were read and not given out yet."""

    batch: int
    #: Matching rows of that batch before these.
    skip: int
    rows: int
    columns: dict[str, tensors.Column]


class _Stretches(NamedTuple):
    """Rows that are read together: one line each."""

    payload: Any
    batch: Any
    #: The first row of that batch, and how many.
    first: Any
    rows: Any

    def take(self, numbers: Any) -> "_Stretches":
        """These, in this order."""
        return _Stretches(*(column[numbers] for column in self))

    def between(self, low: int, high: int) -> "_Stretches":
        """Those of some rows, counted over all: the first, and the last + 1."""
        ends = np.cumsum(self.rows)
        starts = ends - self.rows
        chosen = np.flatnonzero((starts < high) & (ends > low))
        payload, batch, first, rows = self.take(chosen)
        before = np.maximum(low - starts[chosen], 0)
        after = np.maximum(ends[chosen] - high, 0)
        return _Stretches(payload, batch, first + before, rows - before - after)


def _stretches(dataset: aljava.Dataset, filter: Any, window: int | None) -> _Stretches:
    """What has to be read: record batches, or, to be shuffled, stretches of raw ones of at least `window` rows."""
    lines: list[tuple[int, int, int, int]] = []
    for number, (fragment, kept) in enumerate(zip(dataset._fragments, dataset._kept(filter), strict=True)):
        if not kept:
            continue
        every, _ = fragment.extents
        for wanted in fragment.wanted(filter, dataset.schema):
            spans = ((0, int(every[wanted.number])),) if wanted.spans is None else wanted.spans
            is_raw = isinstance(fragment, IpcFile) and fragment.is_raw(wanted.number)
            for first, rows in spans:
                step = rows if window is None or not is_raw else max(window, WINDOW)
                lines += [
                    (number, wanted.number, at, min(step, first + rows - at))
                    for at in range(first, first + rows, max(step, 1))
                ]
    table = np.array(lines, np.int64).reshape(-1, 4)
    return _Stretches(*table.T)


def _identities(parts: Sequence[Part], options: dict[str, Any]) -> list[Any]:
    return tensors.identities([part.place for part in parts]) if options["memory_map"] else [None] * len(parts)


#: What another process makes for itself.
_MADE_ANEW = ("_dataset", "_selection", "_kinds", "_stretches", "_arrivals", "_process", "_position")
