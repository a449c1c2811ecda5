"""Places that payloads pass through: batches arrive as they are sent, and nothing can be sought."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa

from aljava.errors import InvalidData, InvalidOption
from aljava.places.place import Place


class Arrival(ABC):
    """A table that arrives."""

    #: The columns and their types.
    schema: pa.Schema

    @abstractmethod
    def scan(self, columns: Sequence[str] | None) -> pa.RecordBatchReader:
        """The rows, batch by batch, with these columns at least: a sender that can chooses them before they travel."""


class StreamPlace(Place):
    """A place that a payload passes through."""

    seekable = False
    streams = True

    @abstractmethod
    def arrive(self, *, untrusted: bool) -> Arrival:
        """Waits for a table to begin; returns when its schema is known.

        Args:
            untrusted: check every value, also of a sender that is the same user.

        Raises:
            InvalidData: what comes is no table, or damaged.
            TransferError: the connection failed, or nobody called in time.
        """

    def source(self) -> pa.NativeFile:
        raise InvalidData(f"{self.address} is a stream: it is received with aljava.read or aljava.open, not mapped")

    def sink(self, *, create: bool = False, durable: bool = False) -> AbstractContextManager[Any]:
        raise InvalidOption(f"{self.address} takes tables, not bytes")

    def require_plain(self, create: bool, durable: bool) -> None:
        """Raises InvalidOption for what only places that keep things can promise."""
        if create or durable:
            raise InvalidOption(f"{self.address} is a stream: mode='create' and durable=True are for places that keep")


class OnePass(Arrival):
    """A stream that comes once, with all its columns.

    Args:
        reader: the batches.
        address: for messages.
    """

    def __init__(self, reader: pa.RecordBatchReader, address: str) -> None:
        self.schema = reader.schema
        self._reader: pa.RecordBatchReader | None = reader
        self._address = address

    def scan(self, columns: Sequence[str] | None) -> pa.RecordBatchReader:
        reader, self._reader = self._reader, None
        if reader is None:
            raise InvalidOption(
                f"{self._address} was received already, and a stream comes once: keep the table, or write it to a file"
            )
        return reader
