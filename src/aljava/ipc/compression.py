"""What to compress: buffer by buffer, since one column of a table shrinks to a tenth and the next not at all.

The format compresses each buffer on its own, and lets single ones stay raw (an uncompressed length of -1 before the
data). A raw buffer can be mapped; a compressed one must be decoded into fresh memory. So a buffer is compressed
where that saves something, and stays raw where it does not: random numbers, hashes and embeddings stay as they are
and cost nothing to read, text and categories shrink.

    "none"                 nothing is compressed
    "lz4", "zstd"          whatever shrinks, with that codec
    "zstd:9", "lz4:12"     the same, at a level
    "auto"                 zstd, where it saves at least a tenth; samples tell before the whole buffer is tried

pyarrow never gets a codec: its own writer dereferences the null buffers of empty arrays.
"""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, TypeAlias

import pyarrow as pa

from aljava.errors import InvalidOption
from aljava.ipc.lowering import Part

SMALLEST = 64
"""Bytes under which a buffer is not tried: the 8 bytes before it and the frame of the codec eat the saving."""
SAMPLE, SAMPLES = 8192, 4
"""Bytes of a sample, and how many are taken of a buffer, spread over it."""
TASK = 1 << 17
"""Bytes of buffers at least in one task of a thread."""


@dataclass(frozen=True)
class Compression:
    """How buffers are compressed; made from its name by `Compression.parse`."""

    codec: str | None
    """`"lz4"`, `"zstd"`, or None for none."""
    level: int | None = None
    """The codec's level; None is its default."""
    saving: float = 0.0
    """The part of a buffer that compression must save, or the buffer stays raw."""

    @staticmethod
    def parse(name: str) -> "Compression":
        """The compression that a name stands for.

        Args:
            name: `"none"`, `"lz4"`, `"zstd"`, either with `":LEVEL"`, or `"auto"`.

        Raises:
            InvalidOption: no such codec, or no such level.

        Examples:
            >>> Compression.parse("zstd:9")
            Compression(codec='zstd', level=9, saving=0.0)
        """
        if name == "none":
            return Compression(None)
        if name == "auto":
            return Compression("zstd", saving=0.1)
        codec, _, text = name.partition(":") if isinstance(name, str) else ("", "", "")
        if codec not in _LEVELS or (":" in name and not text.lstrip("-").isdigit()):
            raise InvalidOption(
                f'compression is "none", "lz4", "zstd", "auto", or a codec with a level such as "zstd:9"; got {name!r}'
                f"{_meant(name)}"
            )
        if not text:
            return Compression(codec)
        low, high = _LEVELS[codec]
        if not low <= int(text) <= high:
            raise InvalidOption(f"{codec} has the levels {low} to {high}; got {text}.")
        return Compression(codec, int(text))


def _meant(name: Any) -> str:
    """Which codec somebody may have had in mind."""
    from difflib import get_close_matches

    close = get_close_matches(str(name).lower().partition(":")[0], ("none", "lz4", "zstd", "auto"), 1)
    return f": did you mean {close[0]!r}?" if close else ""


_LEVELS = {"lz4": (1, 12), "zstd": (-131072, 22)}


Packed: TypeAlias = tuple[Part, int]
"""A buffer as it goes into the body, and its bytes before compression; -1 where it stays raw."""


class Packing:
    """The buffers of one batch, on their way through the threads.

    Args:
        buffers: the batch's buffers.
        raw: numbers of those that stay raw whatever the compression.
        compression: which codec, and what it must save.
        threads: whether other threads help.
    """

    def __init__(self, buffers: Sequence[Part], raw: frozenset[int], compression: Compression, threads: bool):
        self._packed: list[Packed] = list(zip(buffers, repeat(-1)))
        self.size = 0
        """Bytes of the buffers before compression; 0 where nothing is compressed."""
        self._jobs: list[tuple[list[int], Future[list[Packed]] | None]] = []
        self._compression = compression
        if compression.codec is None:
            return
        self.size = sum(len(part or b"") for part in buffers)
        task: list[int] = []
        size = 0
        for number, part in enumerate(buffers):
            if part is not None and len(part) >= SMALLEST and number not in raw:
                task.append(number)
                size += len(part)
                if size >= TASK:
                    self._start(task, threads)
                    task, size = [], 0
        if task:
            self._start(task, threads and bool(self._jobs))

    def _start(self, task: list[int], threads: bool) -> None:
        parts = [self._packed[number][0] for number in task]
        self._jobs.append((task, pool().submit(_pack, parts, self._compression) if threads else None))

    def result(self) -> tuple[list[Packed], bool]:
        """(the buffers, whether any of them is compressed). Waits for the threads."""
        shrank = False
        for task, future in self._jobs:
            if future is None:
                results = _pack([self._packed[number][0] for number in task], self._compression)
            else:
                results = future.result()
            for number, packed in zip(task, results, strict=True):
                self._packed[number] = packed
                shrank |= packed[1] >= 0
        return self._packed, shrank


def _pack(parts: Sequence[Part], compression: Compression) -> list[Packed]:
    codec = pa.Codec(compression.codec, compression_level=compression.level)
    return [_pack_one(part, codec, compression.saving) for part in parts]


def _pack_one(part: Any, codec: Any, saving: float) -> Packed:
    size = len(part)
    most = min(size * (1 - saving), size - 1)
    if saving and size > 2 * SAMPLE * SAMPLES:
        step = (size - SAMPLE) // (SAMPLES - 1)
        sampled = sum(len(codec.compress(part[at : at + SAMPLE])) for at in range(0, size - SAMPLE + 1, step))
        if sampled > SAMPLE * SAMPLES * (1 - saving):
            return (part, -1)
    shrunk = codec.compress(part)
    return (shrunk, size) if len(shrunk) + 8 <= most else (part, -1)


_pool: ThreadPoolExecutor | None = None


def pool() -> ThreadPoolExecutor:
    """The threads of the engine, as many as pyarrow uses; made when first needed, and again in a forked child."""
    global _pool  # noqa: PLW0603  one pool for the process, like pyarrow's own
    if _pool is None:
        _pool = ThreadPoolExecutor(pa.cpu_count(), thread_name_prefix="aljava-ipc")
    return _pool


def _forget_pool() -> None:
    global _pool  # noqa: PLW0603  the threads did not come along
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)
