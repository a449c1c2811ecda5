"""`aljava send`, `receive` and `cat`: tables between processes and machines."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import typer

import aljava
from aljava.cli.output import printable
from aljava.errors import InvalidOption, SchemaMismatch

COLUMNS = typer.Option(None, "--columns", "-c", metavar="A,B", help="Only these columns, in this order.")
WHERE = typer.Option(
    None, "--where", "-w", metavar="CONDITION", help="Only rows such as \"price > 3 and day = 'mon'\"."
)
LIMIT = typer.Option(None, "--limit", "-n", min=0, help="At most this many rows.")
CODEC = typer.Option("auto", "--compression", help="none, lz4, zstd, zstd:LEVEL; streams are raw by default.")
QUIET = typer.Option(False, "--quiet", "-q", help="No progress on standard error.")


def send(
    source: str = typer.Argument(help="What to send: any address."),
    target: str = typer.Argument(help="Where a receiver waits: unix:///PATH, tcp://HOST:PORT, tcp+tls://HOST:PORT, …"),
    *,
    columns: str | None = COLUMNS,
    where: str | None = WHERE,
    limit: int | None = LIMIT,
    compression: str = CODEC,
    quiet: bool = QUIET,
) -> None:
    """Send a table to whoever receives at an address.

    Example: aljava send big.arrow tcp://host:9000 --columns id,price --where 'price > 3'
    """
    _copy([source], target, columns=columns, where=where, limit=limit, compression=compression, quiet=quiet)


def receive(
    source: str = typer.Argument(help="Where to wait: unix:///PATH, tcp://HOST:PORT, -, …"),
    target: str = typer.Argument(help="What to write: any address."),
    *,
    columns: str | None = COLUMNS,
    where: str | None = WHERE,
    limit: int | None = LIMIT,
    compression: str = CODEC,
    quiet: bool = QUIET,
) -> None:
    """Wait for one table, and write it where it is wanted, whole or not at all.

    Example: aljava receive tcp://0.0.0.0:9000 today.arrow
    """
    _copy([source], target, columns=columns, where=where, limit=limit, compression=compression, quiet=quiet)


def cat(
    sources: list[str] = typer.Argument(help="Tables of the same columns. A last - stands for standard output."),
    *,
    columns: str | None = COLUMNS,
    where: str | None = WHERE,
    limit: int | None = LIMIT,
    compression: str = CODEC,
    quiet: bool = QUIET,
) -> None:
    """Write tables, one behind the other, to standard output as an Arrow stream.

    Standard input is read where - is the only argument or not the last one.

    Example: aljava cat a.arrow b.arrow - | ssh host aljava receive - shm://desk/big
    """
    if len(sources) > 1 and sources[-1] == "-":
        sources = sources[:-1]
    _copy(sources, "-", columns=columns, where=where, limit=limit, compression=compression, quiet=quiet)


def _copy(
    sources: list[str],
    target: str,
    *,
    columns: str | None,
    where: str | None,
    limit: int | None,
    compression: str,
    quiet: bool,
) -> None:
    names = None if columns is None else [name.strip() for name in columns.split(",")]
    if names is not None and not all(names):
        raise InvalidOption(f"--columns {columns}: write names with commas between them")
    from aljava.conditions import condition
    from aljava.ipc.compression import Compression

    Compression.parse(compression)  # before anybody is waited for
    with _Meter(not quiet) as meter:
        if _is_socket(sources[0]):
            meter.say(f"waiting for a sender at {sources[0]}")
        first = aljava.open(sources[0])
        expression = None if where is None else condition(where, first.schema)

        def readers() -> Iterator[pa.RecordBatchReader]:
            for source in sources:
                dataset = first if source is sources[0] else aljava.open(source)
                yield dataset.to_reader(names, expression)

        if _is_socket(target):
            meter.say(f"calling {target}")
        meter.start()
        aljava.write(_joined(readers(), limit, meter), target, compression=compression)


def _is_socket(address: str) -> bool:
    return address.partition("://")[0].lower() in ("unix", "tcp", "tcp+tls")


def _joined(readers: Iterator[pa.RecordBatchReader], limit: int | None, meter: "_Meter") -> pa.RecordBatchReader:
    """The rows of several readers of the same columns, one behind the other."""
    first = next(readers)

    def batches() -> Iterator[pa.RecordBatch]:
        left = limit
        for reader in _chained(first, readers):
            if not reader.schema.equals(first.schema):
                raise SchemaMismatch(f"the tables have different columns: ({first.schema}) and ({reader.schema})")
            for batch in reader:
                wanted = batch if left is None else batch.slice(0, left)
                if left is not None:
                    left -= wanted.num_rows
                if wanted.num_rows:
                    yield wanted
                    meter.count(wanted)
                if left == 0:
                    return

    return pa.RecordBatchReader.from_batches(first.schema, batches())


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


class _Meter:
    """What is waited for, then bytes and rows a second, on standard error where it is a terminal."""

    def __init__(self, wanted: bool) -> None:
        self._shows = wanted and sys.stderr.isatty()
        self._bytes = self._rows = 0
        self.start()

    def start(self) -> None:
        """Time counts from now."""
        self._start = self._shown = time.monotonic()

    def say(self, text: str) -> None:
        """Shows a line until there is something else to show."""
        if self._shows:
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            sys.stderr.write(f"\r{f'{printable(text)} …'[:width]}\x1b[K")
            sys.stderr.flush()

    def count(self, batch: pa.RecordBatch) -> None:
        self._bytes += batch.nbytes
        self._rows += batch.num_rows
        now = time.monotonic()
        if self._shows and now - self._shown > 0.2:
            self._shown = now
            self._show(now, "")

    def __enter__(self) -> "_Meter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shows and self._rows:
            self._show(time.monotonic(), "\n")
        elif self._shows:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _show(self, now: float, end: str) -> None:
        seconds = max(now - self._start, 1e-6)
        text = f"{self._rows:,} rows, {self._bytes / 1e6:,.1f} MB; {self._rows / seconds:,.0f} rows/s, "
        sys.stderr.write(f"\r{text}{self._bytes / 1e6 / seconds:,.1f} MB/s\x1b[K{end}")
        sys.stderr.flush()
