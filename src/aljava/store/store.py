"""`Store`: a mapping from keys to Arrow tables in shared memory, for any process of this machine."""

import contextlib
import functools
import glob
import html
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pyarrow as pa

from aljava import charts
from aljava.errors import AccessDenied, AlreadyExists, InvalidData, InvalidOption, KeyNotFound, StoreBusy, StoreError
from aljava.frames import in_memory, to_reader, to_table
from aljava.store import payload
from aljava.store.filling import place, translated
from aljava.store.folder import SMALL, Content, Folder, Segment, close_all
from aljava.store.inspection import ObjectInfo, damaged, describe, readers_by_inode
from aljava.store.kernel import Mapping
from aljava.store.names import check_store_name, file_name, key_of, root_folder

# Bytes that a stream writes between two looks at the capacity.
_BYTES_BETWEEN_LOOKS = 64 << 20
# Objects that a notebook shows.
_ROWS_SHOWN = 50
# Characters of the columns of each.
_COLUMNS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds, and how this process's writes got their memory."""

    objects: int
    """How many keys there are."""
    bytes_used: int
    """Bytes of all objects."""
    bytes_pooled: int
    """Bytes that wait to be recycled, or are still read although their key is gone or replaced."""
    capacity: int | None
    """Bytes that objects and pool may take together; `None` for as much as the machine has."""
    recycled_writes: int
    """Writes of this `Store` that went into memory which was there."""
    fresh_writes: int
    """Writes of this `Store` that had to get new memory, which is several times slower."""


class Store(MutableMapping[str, pa.Table]):
    """Arrow tables in shared memory, under keys, for every process of this user on this machine.

    There is no server: the store is a folder in the machine's memory file system (`/dev/shm/aljava-UID/NAME`, or below
    `$ALJAVA_SHM`), and lasts until `destroy` or the machine's next start, whoever ends before. A key's object never
    changes; setting a key again replaces the object in one step, and whoever holds the old one keeps it unchanged.

    A table that is got is not copied: it lies on the shared memory itself, which is not reused until the last array,
    NumPy view or frame over it is gone, even if that process is killed. Any number of processes and threads may read
    and write at once; nobody waits for anybody.

    Not for tables that must survive the machine: write those to a file.

    Args:
        name: 1 to 100 letters, digits, `_`, `-` and `.`. The store comes into being with the first object.
        capacity: Bytes that objects and recycled memory may take together. Held to by this `Store` when it writes;
            `None` leaves it to the machine.
        evict: When the capacity is used up, drop the least recently used keys, instead of raising `StoreFull`.
        mode: Permissions of the folder. The default keeps other users out; with another, such as `0o770`, all who use
            the store name the same mode, and find it below the same `$ALJAVA_SHM`.
        recycle: Keep the memory of deleted and replaced objects for the next ones. New memory costs 3 to 5 times what
            copying into it does.

    Raises:
        InvalidKey: The name cannot name a store.
        AccessDenied: The folder belongs to another user.
        UnsupportedPlatform: This is neither Linux nor macOS.

    Examples:
        >>> import pyarrow as pa
        >>> with Store("doctest") as store:
        ...     store["trades"] = pa.table({"price": [1.5, 2.5]})
        ...     print(store["trades"].to_pydict(), list(store))
        ...     store.destroy()
        {'price': [1.5, 2.5]} ['trades']

        Anything table-like goes in. `wait` is for a key that another process puts; `prefault` gets memory ahead of
        time, and `trim` gives back what waits to be recycled.

        >>> store = Store("doctest")
        >>> store.prefault(1 << 20)
        >>> key = store.put({"id": [1, 2, 3]}, "ids")
        >>> store.wait(key, timeout=5).num_rows, store.stats().objects
        (3, 1)
        >>> store.clear()
        >>> store.trim() > 0, len(store)
        (True, 0)
        >>> store.destroy()
        >>> store.close()
    """

    def __init__(
        self,
        name: str,
        *,
        capacity: int | None = None,
        evict: bool = False,
        mode: int = 0o700,
        recycle: bool = True,
    ) -> None:
        if capacity is not None and capacity <= 0:
            raise InvalidOption(f"capacity is a number of bytes above 0, or None; not {capacity}")
        self.name = check_store_name(name)
        self.path = os.path.join(root_folder(), name)
        self._folder = Folder(self.path, capacity=capacity, evict=evict, mode=mode, recycle=recycle)
        self._close = weakref.finalize(self, self._folder.close)

    # ------------------------------------------------------------------------------------------------- the mapping

    def __getitem__(self, key: str) -> pa.Table:
        """The table of a key, on the shared memory itself. Raises `KeyNotFound`."""
        return payload.read_table(self._open(key), f"shm://{self.name}/{key}")

    def __setitem__(self, key: str, data: Any) -> None:
        self.put(data, key)

    def __delitem__(self, key: str) -> None:
        """Removes a key. Whoever holds its table keeps it. Raises `KeyNotFound`."""
        try:
            self._folder.withdraw(file_name(key))
        except FileNotFoundError:
            raise self._missing(key) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and os.path.exists(self._path(key))

    def __iter__(self) -> Iterator[str]:
        """The keys, sorted."""
        return iter(sorted(key for name, _ in self._folder.objects() if (key := key_of(name)) is not None))

    def __len__(self) -> int:
        return sum(key_of(name) is not None for name, _ in self._folder.objects())

    def clear(self) -> None:
        """Removes every key."""
        for key in self:
            with contextlib.suppress(KeyNotFound):  # another process was faster
                del self[key]

    # ------------------------------------------------------------------------------------------------- put, get, wait

    def put(self, data: Any, key: str | None = None, *, create: bool = False) -> str:
        """Stores anything table-like and returns its key.

        A table is copied once, into recycled memory where there is some. A reader, a dataset, a query or a lazy frame
        is written batch by batch as it is read, so that no more than one batch is held besides.

        Args:
            data: What `aljava.write` takes: Arrow tables, batches, readers and datasets, pandas and Polars frames,
                DuckDB relations, dicts of arrays, and what offers `__arrow_c_stream__`.
            key: The key to set; without one, a new random key.
            create: Replace nothing. Of two processes that put the same key at once, one succeeds.

        Raises:
            AlreadyExists: With `create`, and the key is there.
            InvalidKey: The key cannot be one.
            StoreFull: There is no room within the capacity, or in the machine's shared memory.
            UnsupportedType: `data` is no table.
        """
        key = uuid.uuid4().hex if key is None else key
        name = file_name(key)
        rows = to_table(data) if in_memory(data) else to_reader(data)
        try:
            with self._folder.writing():
                if isinstance(rows, pa.RecordBatchReader):
                    segment = self._stream(rows)
                else:
                    segment = place(self._folder, payload.lower(rows))
                self._folder.publish(segment, name, create=create)
        except FileExistsError:
            raise AlreadyExists(f"shm://{self.name}/{key} exists already, and create=True replaces nothing") from None
        except FileNotFoundError:
            raise StoreError(f"{self.path}: the store was destroyed while {key!r} was being put") from None
        return key

    def buffer(self, key: str) -> pa.Buffer:
        """The bytes of a key's object, a complete Arrow IPC file, on the shared memory itself.

        The memory is safe from being reused for as long as the buffer, or anything sliced from it, lives.

        Raises:
            KeyNotFound: The store has no such key.

        Examples:
            >>> import pyarrow as pa
            >>> with Store("doctest") as store:
            ...     store["n"] = pa.table({"n": [1, 2]})
            ...     print(pa.ipc.open_file(pa.BufferReader(store.buffer("n"))).read_all().num_rows)
            ...     store.destroy()
            2
        """
        return self._open(key).buffer

    def wait(self, key: str, timeout: float | None = None) -> pa.Table:
        """The table of a key, as soon as some process has put it.

        Args:
            key: The key to wait for.
            timeout: Seconds to wait at most; `None` for ever.

        Raises:
            StoreBusy: The time is over, and the key is not there.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause = 0.0005
        while True:
            with contextlib.suppress(KeyNotFound):
                return self[key]
            if end is not None and (left := end - time.monotonic()) <= 0:
                raise StoreBusy(f"{self.path}: nobody has put {key!r} within {timeout} seconds")
            time.sleep(pause if end is None else min(pause, left))
            pause = min(pause * 2, 0.02)

    # ------------------------------------------------------------------------------------------------- to look at

    def info(self, key: str) -> ObjectInfo:
        """Rows, bytes, schema, readers and age of an object, from its metadata alone.

        Raises:
            KeyNotFound: The store has no such key.

        Examples:
            >>> with Store("doctest") as store:
            ...     store["n"] = {"n": [1, 2, 3]}
            ...     info = store.info("n")
            ...     store.destroy()
            >>> info.rows, info.schema.names, info.readers
            (3, ['n'], 0)
        """
        return self._info(key, self._readers())

    def infos(self) -> list[ObjectInfo]:
        """What `info` says of each object, sorted by key; an object that goes meanwhile is left out.

        A file in the store's folder that is damaged, or was put there by something else, says so in `damage`.

        Examples:
            >>> with Store("doctest") as store:
            ...     store["n"] = {"n": [1, 2, 3]}
            ...     infos = store.infos()
            ...     store.destroy()
            >>> [(info.key, info.rows, info.damage) for info in infos]
            [('n', 3, None)]
        """
        readers = self._readers()
        found = []
        for key in self:
            with contextlib.suppress(KeyNotFound):
                found.append(self._info(key, readers, or_damaged=True))
        return found

    def stats(self) -> StoreStats:
        """What the store holds now, and how this `Store`'s own writes fared."""
        sizes = [status.st_size for name, status in self._folder.objects() if key_of(name) is not None]
        return StoreStats(
            objects=len(sizes),
            bytes_used=sum(sizes),
            bytes_pooled=sum(size for size, _ in self._folder.pool()),
            capacity=self._folder.capacity,
            recycled_writes=self._folder.recycled,
            fresh_writes=self._folder.fresh,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        objects = f"{stats.objects:,} object{'s' * (stats.objects != 1)}"
        return f"<Store {self.name!r}: {objects}, {charts.size(stats.bytes_used)}>"

    def _repr_html_(self) -> str:
        keys = list(self)
        rows = []
        for info in self.infos() if len(keys) <= _ROWS_SHOWN else map(self.info, keys[:_ROWS_SHOWN]):
            names = ", ".join(f"{field.name}: {field.type}" for field in info.schema)
            names = names if len(names) <= _COLUMNS_SHOWN else names[:_COLUMNS_SHOWN] + "…"
            cells = (info.key, f"{info.rows:,}", charts.size(info.bytes), info.readers, f"{info.age:.0f} s", names)
            rows.append([html.escape(str(cell)) for cell in cells])
        header = ("key", "rows", "size", "readers", "age", "columns")
        shown = charts.table(header, rows, numeric=(1, 2, 3, 4), widths=(16, 11, 11, 9, 8, 45))
        more = len(keys) - len(rows)
        rest = charts.paragraph(f"and {more:,} more" if more else "")
        return f'<div class="aljava">{charts.style()}<p>{html.escape(repr(self))}</p>{shown}{rest}</div>'

    # ------------------------------------------------------------------------------------------------- the memory

    def prefault(self, nbytes: int) -> None:
        """Gets memory for an object of `nbytes` bytes ahead of time, so that its `put` is a plain copy.

        Raises:
            InvalidOption: More than the pool may hold: a quarter of the machine's shared memory, or the capacity.
            StoreFull: There is no room.
        """
        try:
            with self._folder.writing():
                limit = self._folder.pool_limit()
                if not SMALL <= nbytes <= limit:
                    raise InvalidOption(
                        f"{self.path}: the pool takes segments of {SMALL} to {limit} bytes, not {nbytes}"
                    )
                self._folder.prefault(nbytes)
        except OSError as error:
            raise translated(self._folder, error, nbytes) from error

    def trim(self) -> int:
        """Gives memory that waits to be recycled back to the machine; returns the bytes."""
        return self._folder.trim() if os.path.exists(self.path) else 0

    def destroy(self) -> None:
        """Removes the store with all its objects. Whoever holds a table keeps it; a later `put` begins a new store."""
        self.clear()
        self.trim()
        close_all(self.path)
        grave = os.path.join(os.path.dirname(self.path), f".destroyed-{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, grave)
        for folder in glob.glob(os.path.join(glob.escape(os.path.dirname(self.path)), ".destroyed-*")):
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Gives back what this process keeps to write fast. The objects stay, and so does what is held of them."""
        self._folder.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------- below

    def _open(self, key: str) -> Content:
        try:
            return self._folder.open(file_name(key))
        except FileNotFoundError:
            raise self._missing(key) from None
        except PermissionError as error:
            raise AccessDenied(
                f"shm://{self.name}/{key}: another user put it with a narrower mode than the store's"
            ) from error

    def private_map(self, key: str) -> tuple[Mapping, tuple[int, int]] | None:
        """The bytes of a key's object in a map that this process may write to without anyone seeing it.

        Returns:
            the map, which keeps the memory from being reused, and (device, inode) of the object; None for a small one,
            which is never mapped.

        Raises:
            KeyNotFound: The store has no such key.
        """
        try:
            with self._folder.held(file_name(key)) as (descriptor, status):
                if status.st_size < SMALL:
                    return None
                return Mapping(descriptor, status.st_size, private=True), (status.st_dev, status.st_ino)
        except FileNotFoundError:
            raise self._missing(key) from None

    def _stream(self, reader: pa.RecordBatchReader) -> Segment:
        """A new segment with the rows of a reader, taken batch by batch."""
        segment = self._folder.begin_stream()
        looked = written = 0
        try:
            for written in payload.stream(reader, segment.descriptor, self._folder.make_room):
                if written - looked > _BYTES_BETWEEN_LOOKS:
                    self._folder.require_room()
                    looked = written
            self._folder.require_room()
        except OSError as error:
            failure = translated(self._folder, error, None)  # while what was written still takes its room
            self._folder.discard(segment)
            raise failure from error
        except BaseException:
            self._folder.discard(segment)
            raise
        return segment

    def _info(self, key: str, readers: dict[int, int] | None, *, or_damaged: bool = False) -> ObjectInfo:
        try:
            with self._folder.held(file_name(key)) as (descriptor, status):
                reading = None if readers is None else readers.get(status.st_ino, 0)
                try:
                    return describe(key, descriptor, status, reading)
                except InvalidData as error:
                    if or_damaged:
                        return damaged(key, status, reading, str(error))
                    raise
        except FileNotFoundError:
            raise self._missing(key) from None

    def _readers(self) -> dict[int, int] | None:
        return readers_by_inode(os.stat(self.path).st_dev) if os.path.exists(self.path) else None

    def _path(self, key: str) -> str:
        return f"{self.path}/{file_name(key)}"

    def _missing(self, key: str) -> KeyNotFound:
        return KeyNotFound(f"shm://{self.name}/{key}: the store has no such key")


def opened(name: str) -> Store:
    """This process's `Store` of a name with the usual settings, kept open: what an address such as `shm://desk` means.

    Keeping it keeps its maps, so that writing to an address again and again is as fast as to a `Store` in hand. When
    this process destroys the store, it gives all of that back, and begins anew with the next object.
    """
    return _opened(name, root_folder())


@functools.lru_cache(maxsize=8)
def _opened(name: str, root: str) -> Store:
    return Store(name)


def stores() -> list[str]:
    """The names of all stores of this user on this machine, sorted.

    Examples:
        >>> with Store("doctest") as store:
        ...     store["n"] = {"n": [1]}
        ...     print("doctest" in stores())
        ...     store.destroy()
        True
    """
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in os.scandir(root_folder()) if entry.is_dir() and entry.name[0] != ".")
    return []
