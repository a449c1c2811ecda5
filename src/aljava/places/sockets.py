"""Sockets: `unix:///PATH`, `tcp://HOST:PORT`, `tcp+tls://HOST:PORT`."""

from typing import Any

from aljava.errors import AddressError
from aljava.places.stream import Arrival, OnePass, StreamPlace
from aljava.streams.endpoints import Endpoint
from aljava.streams.listening import Listener
from aljava.streams.sending import send


class SocketPlace(StreamPlace):
    """A socket: who writes calls there, who reads waits there for one call.

    Args:
        address: as `aljava.streams.endpoints` has it.

    Raises:
        AddressError: malformed, or with an option that it cannot have.
    """

    def __init__(self, address: str) -> None:
        self._endpoint = Endpoint.parse(address)
        self.address = self._endpoint.address

    def arrive(self, *, untrusted: bool) -> Arrival:
        if not isinstance(self._endpoint.target, str) and self._endpoint.target[1] == 0:
            raise AddressError(f"{self.address}: nobody could know the port to call: name one, or use aljava.listen")
        with Listener(self._endpoint, untrusted=untrusted, timeout=self._endpoint.timeout, raises=True) as listener:
            return OnePass(next(listener), self.address)

    def write(self, rows: Any, options: Any, *, create: bool = False, durable: bool = False) -> int:
        self.require_plain(create, durable)
        with self._endpoint.connect() as channel:
            return send(channel, rows.schema, rows, options, shared_memory=self._endpoint.shared_memory)
