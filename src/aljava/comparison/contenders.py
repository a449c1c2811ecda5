"""The ways to write a table that are compared: codecs of Arrow IPC and, beside them, Parquet and pickle."""

import pickle
import time
from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa

from aljava import api
from aljava.ipc.compression import Compression

CODECS = ("none", "lz4", "zstd:1", "zstd:3", "zstd:9", "auto")
FORMATS = ("parquet", "pickle")


def contender(name: str) -> "Contender":
    """The contender of a name.

    Raises:
        InvalidOption: no codec and no format of that name.

    Example:
        >>> contender("zstd:9").compression, contender("parquet").words
        ('zstd:9', 'as Parquet with zstd')
    """
    if name == "parquet":
        return Parquet()
    if name == "pickle":
        return Pickle()
    Compression.parse(name)
    return Arrow(name)


class Contender(ABC):
    """A way to write a table to a file, and to read it from a map of that file."""

    #: How it is told apart.
    name: str
    #: How it is said in a sentence: "write this data …".
    words: str
    #: Whether advice may name it.
    advisable = True
    #: Whether it can be read in part.
    by_column = True

    @abstractmethod
    def write(self, table: pa.Table, path: str) -> float:
        """Writes the table; returns the seconds that it took."""

    @abstractmethod
    def read(self, content: pa.Buffer, columns: list[str] | None = None) -> pa.Table:
        """The table, or some of its columns, from the bytes of the file."""

    @abstractmethod
    def sizes(self, content: pa.Buffer) -> dict[str, int]:
        """Bytes that each column takes in the file, where the format tells."""


class Arrow(Contender):
    """Arrow IPC, as `aljava.write` writes it."""

    def __init__(self, compression: str) -> None:
        self.name = self.compression = compression
        self.words = f'with compression="{compression}"'

    def write(self, table: pa.Table, path: str) -> float:
        return api.write(table, path, compression=self.compression).seconds

    def read(self, content: pa.Buffer, columns: list[str] | None = None) -> pa.Table:
        return api.read(content, columns=columns)

    def sizes(self, content: pa.Buffer) -> dict[str, int]:
        from aljava.layout import layout

        return layout(content).by_column()


class Parquet(Contender):
    """Parquet with zstd, by pyarrow."""

    name = "parquet"
    words = "as Parquet with zstd"

    def write(self, table: pa.Table, path: str) -> float:
        from pyarrow import parquet

        start = time.perf_counter()
        parquet.write_table(table, path, compression="zstd")
        return time.perf_counter() - start

    def read(self, content: pa.Buffer, columns: list[str] | None = None) -> pa.Table:
        from pyarrow import parquet

        return parquet.read_table(pa.BufferReader(content), columns=columns)

    def sizes(self, content: pa.Buffer) -> dict[str, int]:
        from pyarrow import parquet

        found: dict[str, int] = {}
        metadata = parquet.ParquetFile(pa.BufferReader(content)).metadata
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                name = column.path_in_schema.split(".")[0]
                found[name] = found.get(name, 0) + column.total_compressed_size
        return found


class Pickle(Contender):
    """pickle: what tables often travel by between processes. Never advised: it is for one Python, and runs code."""

    name = "pickle"
    words = "with pickle"
    advisable = False
    by_column = False

    def write(self, table: pa.Table, path: str) -> float:
        start = time.perf_counter()
        with open(path, "wb") as file:
            pickle.dump(table, file, protocol=5)
        return time.perf_counter() - start

    def read(self, content: pa.Buffer, columns: list[str] | None = None) -> pa.Table:
        table: Any = pickle.loads(content)
        return table if columns is None else table.select(columns)

    def sizes(self, content: pa.Buffer) -> dict[str, int]:
        return {}
