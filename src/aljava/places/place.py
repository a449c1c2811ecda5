"""The interface of a place: bytes out by random access, bytes in whole or not at all."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa

from aljava import ipc
from aljava.errors import TransferError
from aljava.store.kernel import Mapping

#: Which file something is: its device and its number there.
Identity = tuple[int, int]


class Place(ABC):
    """Where a payload can stand.

    A place knows how bytes get there and back; it knows nothing of what they mean.
    """

    #: What a user would call this place, for messages: never with credentials in it.
    address: str
    #: Whether what is written can be found again by its end. Where not (a pipe), payloads are IPC streams.
    seekable: bool = True
    #: Whether each read is a request to another machine.
    remote: bool = False

    #: Whether `write` wants a table as it is, where there is one: shared memory copies it in one go.
    takes_tables: bool = False
    #: Whether payloads pass through here, batch by batch, and nothing can be sought: see `stream.StreamPlace`.
    streams: bool = False

    @abstractmethod
    def source(self) -> pa.NativeFile:
        """The bytes, for random access, without copying them where the place allows.

        Raises:
            NotFound: nothing stands here.
            AccessDenied: the system does not let us.
            InvalidData: what stands here is no payload (a folder, an empty file).
        """

    @contextmanager
    def reading(self) -> Iterator[pa.NativeFile]:
        """The bytes, while nothing is appended to them: what is read within is one state of the payload.

        What is kept of the source afterwards stays valid, except for the bytes behind the last batch.

        Raises:
            NotFound, AccessDenied, InvalidData: as `source`.
        """
        yield self.source()

    def private_map(self) -> tuple[Mapping, Identity] | None:
        """The bytes in a map of this process's own, which it may write to without anyone seeing it.

        Returns:
            the map, and which file it is of; None where the bytes cannot be mapped.

        Raises:
            NotFound, AccessDenied: as `source`.
        """
        return None

    def write(self, rows: Any, options: Any, *, create: bool = False, durable: bool = False) -> int:
        """Puts a payload here, whole or not at all.

        Args:
            rows: the record batches, taken one by one; a `pyarrow.Table` where the place takes those.
            options: how they are written.
            create: fail if something stands here already.
            durable: do not return before the bytes would survive a loss of power.

        Returns:
            the bytes written.

        Raises:
            AlreadyExists, AccessDenied, TransferError: as `sink`.
        """
        new_writer = ipc.new_file if self.seekable else ipc.new_stream
        with self.sink(create=create, durable=durable) as sink:
            counting = Counting(sink)
            try:
                with new_writer(counting, rows.schema, options=options) as writer:
                    writer.write_batches(rows)
            except TransferError:
                # The writer knows only that its sink failed; what that means is for the place to say.
                if counting.failure is not None:
                    raise counting.failure from None
                raise
            return counting.bytes

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


class Counting:
    """A sink that counts what goes through it."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.bytes = 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._sink.write(data)
        except OSError as error:
            self.failure = error
            raise
        size = memoryview(data).nbytes
        self.bytes += size
        return size

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """The place flushes at its end."""

    def close(self) -> None:
        self.closed = True
