"""Bytes in this process: read where they stand; a writable buffer is filled from its start."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from aljava.errors import AccessDenied, InvalidData, TransferError
from aljava.places.place import Place


class MemoryBuffer(Place):
    """A `bytes`, `bytearray`, `memoryview`, `pyarrow.Buffer` or other object with the buffer protocol.

    A buffer is not cut to what is written into it, so payloads go there as IPC streams, which say where they end.

    Example:
        >>> MemoryBuffer(b"abc").source().read()
        b'abc'
    """

    seekable = False

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer if isinstance(buffer, pa.Buffer) else pa.py_buffer(buffer)
        self.address = f"a buffer of {self.buffer.size:,} bytes"

    def source(self) -> pa.NativeFile:
        if not self.buffer.size:
            raise InvalidData(f"{self.address} holds no payload")
        return pa.BufferReader(self.buffer)

    @contextmanager
    def sink(self, *, create: bool = False, durable: bool = False) -> Iterator[Any]:
        if not self.buffer.is_mutable:
            raise AccessDenied(f"{self.address} cannot be written: it is read-only. Use a bytearray, or a file object")
        try:
            yield pa.FixedSizeBufferWriter(self.buffer)
        except OSError as error:
            raise TransferError(f"{self.address} is too small for the payload") from error
