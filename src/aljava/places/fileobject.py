"""File objects of Python and of pyarrow: whatever has `read` or `write` for bytes."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from aljava.errors import InvalidData, InvalidOption, TransferError
from aljava.places.place import Place


class FileObject(Place):
    """An open file: the caller opened it, and the caller closes it.

    What cannot seek (a pipe, a socket's file) is written as an IPC stream, and read to its end.

    Example:
        >>> import io
        >>> FileObject(io.BytesIO(b"abc")).source().read()
        b'abc'
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        name = getattr(file, "name", None)
        self.address = f"the file object {name}" if isinstance(name, str) else f"a {type(file).__name__}"
        if isinstance(file, io.TextIOBase):
            raise InvalidOption(f"{self.address} is open for text: open it with 'rb' or 'wb'")
        seekable = getattr(file, "seekable", None)
        self.seekable = bool(seekable()) if callable(seekable) else False

    def source(self) -> pa.NativeFile:
        if isinstance(self.file, pa.NativeFile) and self.seekable:
            return self.file
        if self.seekable:
            if self.file.seek(0, io.SEEK_END) == 0:
                raise InvalidData(f"{self.address} is empty (0 bytes)")
            self.file.seek(0)
            return pa.PythonFile(self.file, mode="r")
        content = self.file.read()
        if not content:
            raise InvalidData(f"{self.address} ended before it gave anything")
        return pa.BufferReader(content)

    @contextmanager
    def sink(self, *, create: bool = False, durable: bool = False) -> Iterator[Any]:
        if create or durable:
            raise InvalidOption(f"{self.address}: mode='create' and durable=True are for addresses, not for open files")
        try:
            yield self.file
            self.file.flush()
        except OSError as error:
            raise TransferError(f"{self.address} cannot be written: {error.strerror or error}") from error
