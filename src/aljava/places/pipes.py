"""Pipes and open descriptors: `-`, `fd:3`, and the path of a named pipe."""

import os
from abc import abstractmethod
from dataclasses import replace
from typing import Any, BinaryIO

from aljava.errors import AccessDenied, NotFound
from aljava.places.stream import Arrival, OnePass, StreamPlace
from aljava.streams.channels import DescriptorChannel
from aljava.streams.messages import TRUSTED
from aljava.streams.receiving import receive
from aljava.streams.sending import send


class _Pipe(StreamPlace):
    """What pipes have in common.

    Whatever stands at the other end of a pipe was put there by whoever started this process, so its data get the
    check that a file's get.
    """

    def arrive(self, *, untrusted: bool) -> Arrival:
        return OnePass(receive(self._channel(os.O_RDONLY), limits=replace(TRUSTED, full_check=untrusted)), self.address)

    def write(self, rows: Any, options: Any, *, create: bool = False, durable: bool = False) -> int:
        self.require_plain(create, durable)
        with self._channel(os.O_WRONLY) as channel:
            return send(channel, rows.schema, rows, options)

    @abstractmethod
    def _channel(self, mode: int) -> DescriptorChannel:
        """The pipe, open for reading (`os.O_RDONLY`) or writing (`os.O_WRONLY`)."""


class DescriptorPlace(_Pipe):
    """Standard input and output (`-`), or a descriptor that this process was given (`fd:3`).

    Whoever opened a descriptor closes it: it stays open.
    """

    def __init__(self, address: str) -> None:
        self._number = None if address == "-" else int(address.removeprefix("fd:"))
        self.address = "standard input or output" if address == "-" else address

    def _channel(self, mode: int) -> DescriptorChannel:
        if self._number is not None:
            return DescriptorChannel(self._number, self.address, owned=False)
        number, name = (0, "standard input") if mode == os.O_RDONLY else (1, "standard output")
        return DescriptorChannel(number, name, owned=False)


class NamedPipe(_Pipe):
    """A named pipe (`mkfifo`). Each end waits until the other is opened.

    Args:
        path: where it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self.address = os.fsencode(self._path).decode("utf-8", "backslashreplace")

    def opened(self) -> BinaryIO:
        """The bytes that come, for who reads no Arrow stream of them."""
        return open(self._descriptor(os.O_RDONLY), "rb")

    def _channel(self, mode: int) -> DescriptorChannel:
        return DescriptorChannel(self._descriptor(mode), self.address, owned=True)

    def _descriptor(self, mode: int) -> int:
        try:
            return os.open(self._path, mode | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"{self.address} does not exist") from error
        except OSError as error:
            raise AccessDenied(f"{self.address} cannot be opened: {error.strerror}") from error
