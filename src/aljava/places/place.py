"""The interface of a place: bytes out by random access, bytes in whole or not at all."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa


class Place(ABC):
    """Where a payload can stand.

    A place knows how bytes get there and back; it knows nothing of what they mean.
    """

    #: What a user would call this place, for messages: never with credentials in it.
    address: str
    #: Whether what is written can be found again by its end. Where not (a pipe), payloads are IPC streams.
    seekable: bool = True

    @abstractmethod
    def source(self) -> pa.NativeFile:
        """The bytes, for random access, without copying them where the place allows.

        Raises:
            NotFound: nothing stands here.
            AccessDenied: the system does not let us.
            InvalidData: what stands here is no payload (a folder, an empty file).
        """

    @abstractmethod
    def sink(self, *, create: bool = False, durable: bool = False) -> AbstractContextManager[Any]:
        """A binary file object; what is written to it appears here when the context ends, whole or not at all.

        Args:
            create: fail if something stands here already.
            durable: do not return before the bytes would survive a loss of power.

        Raises:
            AlreadyExists: `create`, and something stands here.
            AccessDenied: the system does not let us.
            TransferError: the bytes cannot be taken, as on a full disk.
        """
