"""Objects in shared memory, by their address: `shm://STORE/KEY`."""

from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from aljava.errors import AddressError, InvalidOption, KeyNotFound, NotFound
from aljava.places.place import Identity, Place
from aljava.store import opened
from aljava.store.kernel import Mapping


class SharedObject(Place):
    """A table in a store of this machine's shared memory, raw, so that whoever reads it copies nothing.

    Args:
        address: `shm://STORE/KEY`; special characters of the key may be percent-encoded, as in every address.

    Raises:
        AddressError: no store or no key in the address.
    """

    takes_tables = True

    def __init__(self, address: str) -> None:
        store, _, key = address.removeprefix("shm://").partition("/")
        if not store or not key:
            raise AddressError(f"{address} names no table: write shm://STORE/KEY")
        self.address = address
        self.store, self.key = unquote(store), unquote(key)

    def source(self) -> pa.NativeFile:
        try:
            return pa.BufferReader(opened(self.store).buffer(self.key))
        except KeyNotFound as error:
            raise NotFound(f"{self.address} does not exist") from error

    def private_map(self) -> tuple[Mapping, Identity] | None:
        try:
            return opened(self.store).private_map(self.key)
        except KeyNotFound as error:
            raise NotFound(f"{self.address} does not exist") from error

    def write(self, rows: Any, options: Any, *, create: bool = False, durable: bool = False) -> int:
        if durable:
            raise InvalidOption(
                f"{self.address}: shared memory does not outlive the machine's next start; durable=True is for files"
            )
        store = opened(self.store)
        store.put(rows, self.key, create=create)
        return int(store.buffer(self.key).size)

    def sink(self, *, create: bool = False, durable: bool = False) -> AbstractContextManager[Any]:
        raise InvalidOption(f"{self.address} takes tables, not bytes")
