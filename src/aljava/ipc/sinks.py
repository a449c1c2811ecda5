"""Where a writer's bytes go: a path, a file object, a pyarrow file, memory at hand, a socket.

The writer hands over pieces, small ones and large ones. What the system takes many of at once (a descriptor, a
socket) gets them in one vectored call; for the rest small pieces are joined and large ones go through untouched.
"""

import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from aljava.errors import TransferError, UnsupportedType

JOINED = 4096
"""Bytes up to which pieces are joined before they are written."""
HELD = 1 << 20
"""Bytes of pieces at which they are written."""
VECTOR = 512
"""Pieces in one vectored call; Linux takes 1,024."""


class Output:
    """Writes pieces to a sink, in order.

    Args:
        sink: a path, an object with `write`, a `pyarrow.NativeFile`, a writable buffer, a socket.

    Raises:
        UnsupportedType: nothing can be written to it.
    """

    def __init__(self, sink: Any):
        self._pieces: list[Any] = []
        self._held = 0
        self._owned: Any = None
        self._vector: Any = None
        self._file: Any = None
        if isinstance(sink, pa.NativeFile):
            self._file = sink
        elif isinstance(sink, str | os.PathLike):
            descriptor = os.open(sink, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            self._vector = partial(os.writev, descriptor)
            self._owned = partial(os.close, descriptor)
        elif isinstance(sink, socket.socket):
            self._vector = sink.sendmsg
        elif hasattr(sink, "write"):
            self._file = sink
        else:
            try:
                target = pa.py_buffer(sink)
            except TypeError:
                target = None
            if target is None or not target.is_mutable:  # pyarrow aborts the process on a read-only one
                raise UnsupportedType(
                    "a payload is written to a path, an object with `write`, a pyarrow file, a socket or a writable "
                    f"buffer; got {type(sink).__name__}."
                )
            self._file = pa.FixedSizeBufferWriter(target)
            self._owned = self._file.close

    def tell(self) -> int:
        """Bytes that stand before the next one in the sink; 0 where it does not know."""
        if self._file is None or not hasattr(self._file, "tell"):
            return 0
        try:
            return int(self._file.tell())
        except OSError:
            return 0

    def write(self, pieces: Sequence[Any], size: int) -> None:
        """Take pieces of `size` bytes in all; they may be held until `flush`."""
        self._pieces += pieces
        self._held += size
        if self._held >= HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held.

        Raises:
            TransferError: the sink failed; nothing more can be written.
        """
        pieces, held, self._pieces, self._held = self._pieces, self._held, [], 0
        if not pieces:
            return
        if held < JOINED:
            pieces = [b"".join(pieces)]
        try:
            if self._vector is not None:
                self._vectored(pieces)
            else:
                self._joined(pieces)
        except OSError as error:
            failure = TransferError(f"the sink took no more: {error}. What was complete before stays readable.")
            failure.errno = error.errno
            raise failure from error

    def close(self) -> None:
        """Close what was opened here; a sink that was handed in stays open."""
        self._pieces = []
        owned, self._owned = self._owned, None
        if owned is not None:
            owned()

    def _vectored(self, pieces: list[Any]) -> None:
        views = [memoryview(piece).cast("B") for piece in pieces]
        at = 0
        while at < len(views):
            sent = self._vector(views[at : at + VECTOR])
            while at < len(views) and sent >= len(views[at]):
                sent -= len(views[at])
                at += 1
            if sent:
                views[at] = views[at][sent:]

    def _joined(self, pieces: list[Any]) -> None:
        put = self._file.write if isinstance(self._file, pa.NativeFile) else self._put
        if len(pieces) == 1:
            put(pieces[0])
            return
        small: list[Any] = []
        for piece in pieces:
            if len(piece) < JOINED:
                small.append(piece)
                continue
            if small:
                put(b"".join(small))
                small = []
            put(piece)
        if small:
            put(b"".join(small))

    def _put(self, piece: Any) -> None:
        # An unbuffered file may take a part, and says how much; some objects say nothing.
        view = memoryview(piece).cast("B")
        while len(view):
            taken = self._file.write(view)
            if taken is None:
                return
            view = view[taken:]
