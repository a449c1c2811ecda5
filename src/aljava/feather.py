"""Feather files under the names of `pyarrow.feather`, on Aljava's engine.

Feather version 2 *is* the Arrow IPC file format, so these calls write what `aljava.ipc` writes, compressed with LZ4
unless told otherwise, and read it back. Version 1, an older format, is pyarrow's to read and write.

Examples:
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/trades.feather"
    >>> write_feather(pa.table({"id": [1, 2], "price": [0.5, 1.5]}), path, compression="zstd")
    >>> read_table(path, columns=["price"]).to_pydict()
    {'price': [0.5, 1.5]}
"""

import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyarrow as pa
from pyarrow import _feather
from pyarrow._feather import FeatherError
from pyarrow.feather import check_chunked_overflow

from aljava.errors import InvalidData, InvalidOption, NotFound, require
from aljava.ipc import feather_v1
from aljava.ipc.message import kind_of
from aljava.ipc.reader import ReadOptions, RecordBatchFileReader
from aljava.ipc.writer import RecordBatchFileWriter, WriteOptions
from aljava.places.local import LocalFile

__all__ = ["FeatherDataset", "FeatherError", "check_chunked_overflow", "read_feather", "read_table", "write_feather"]

CHUNK_ROWS = 65_536
"""Rows of a record batch where the caller names no other number, as in pyarrow."""
_CODECS = ("lz4", "zstd", "uncompressed")


def write_feather(  # noqa: PLR0917  the signature is pyarrow's
    df: Any,
    dest: Any,
    compression: str | None = None,
    compression_level: int | None = None,
    chunksize: int | None = None,
    version: int = 2,
) -> None:
    """Write a pandas DataFrame or a `pyarrow.Table` as a Feather file.

    Args:
        df: the data.
        dest: a path, or an object with `write`.
        compression: `"lz4"` (also meant by None), `"zstd"` or `"uncompressed"`.
        compression_level: the codec's level; None is its default.
        chunksize: most rows of a record batch; None is 65,536.
        version: 2, or 1 for the older format, which pyarrow has deprecated.

    Raises:
        ValueError: an unknown codec, a level that the codec does not have, a chunk size below 1, duplicate names in
            a DataFrame.
        TransferError: the destination took no more. A file that was there stays as it was: a new one takes its place in
            one step, and who has the old one mapped keeps its bytes.

    Example:
        >>> import io, pyarrow as pa
        >>> file = io.BytesIO()
        >>> write_feather(pa.table({"a": [1, 2, 3]}), file)
        >>> read_table(file).num_rows
        3
    """
    if version not in (1, 2):
        raise InvalidOption(f"Version value should either be 1 or 2; got {version!r}.")
    if version == 1:
        _write_version_1(df, dest, compression, chunksize)
        return
    if compression is not None and compression not in _CODECS:
        raise InvalidOption(f'compression="{compression}" not supported, must be one of {_CODECS}')
    name = {None: "lz4", "uncompressed": "none"}.get(compression, compression)
    if compression_level is not None and name != "none":
        name = f"{name}:{compression_level}"
    table = df if isinstance(df, pa.Table) else pa.Table.from_pandas(df, preserve_index=None)
    options = WriteOptions(compression=str(name), statistics=False, checksums=False, batch_rows=chunksize or CHUNK_ROWS)
    with _sink(dest) as sink, RecordBatchFileWriter(sink, table.schema, options=options) as writer:
        writer.write_table(table)


def read_feather(
    source: Any,
    columns: Sequence[str | int] | None = None,
    use_threads: bool = True,
    memory_map: bool = False,
    **kwargs: Any,
) -> Any:
    """Read a Feather file as a pandas DataFrame.

    Args:
        source: a path, a buffer, or a seekable object with `read`.
        columns: names or numbers of the columns to read, in the order in which they shall come; None is all.
        use_threads: whether several threads read and convert.
        memory_map: whether a path is mapped rather than read.
        **kwargs: handed on to `pyarrow.Table.to_pandas`.

    Raises:
        MissingDependency: pandas is not installed (`pip install 'aljava[pandas]'`).

    Examples:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/trades.feather"
        >>> write_feather(pa.table({"id": [1, 2]}), path)
        >>> read_feather(path)["id"].tolist()
        [1, 2]
    """
    require("pandas")
    table = _read(source, columns, memory_map, use_threads)
    return table.to_pandas(use_threads=use_threads, **kwargs)


def read_table(
    source: Any, columns: Sequence[str | int] | None = None, memory_map: bool = False, use_threads: bool = True
) -> Any:
    """Read a Feather file as a `pyarrow.Table`.

    Args:
        source: a path, a buffer, or a seekable object with `read`.
        columns: names or numbers of the columns to read, in the order in which they shall come; None is all.
        memory_map: whether a path is mapped rather than read.
        use_threads: whether several threads read.

    Raises:
        InvalidData: the source is no Feather file, or damaged.
        TypeError: columns are neither all names nor all numbers.
        ValueError: there is no such column, or a name stands for more than one.
    """
    return _read(source, columns, memory_map, use_threads)


class FeatherDataset:
    """Several Feather files of one schema, read as one table.

    Args:
        path_or_paths: the files.
        validate_schema: whether to check that all schemas are equal.
    """

    def __init__(self, path_or_paths: Sequence[Any], validate_schema: bool = True):
        self.paths = path_or_paths
        self.validate_schema = validate_schema

    def read_table(self, columns: Sequence[str | int] | None = None) -> Any:
        """Read all files as one `pyarrow.Table`.

        Raises:
            ValueError: a file has another schema.
        """
        tables = [_read(path, columns, False, True) for path in self.paths]
        self.schema = tables[0].schema
        if self.validate_schema:
            for path, table in zip(self.paths, tables, strict=True):
                self.validate_schemas(path, table)
        return pa.concat_tables(tables)

    def validate_schemas(self, piece: Any, table: Any) -> None:
        """Check that a table has the schema of the first.

        Raises:
            ValueError: it has another one.
        """
        if not self.schema.equals(table.schema):
            raise ValueError(f"Schema in {piece} was different. \n{self.schema}\n\nvs\n\n{table.schema}")

    def read_pandas(self, columns: Sequence[str | int] | None = None, use_threads: bool = True) -> Any:
        """Read all files as one pandas DataFrame."""
        return self.read_table(columns).to_pandas(use_threads=use_threads)


def _write_version_1(df: Any, dest: Any, compression: str | None, chunksize: int | None) -> None:
    _warn_of_version_1(3)
    table = df
    if not isinstance(df, pa.Table):
        table = pa.Table.from_pandas(df, preserve_index=False)
        for name, column in zip(table.column_names, table.columns, strict=True):
            check_chunked_overflow(name, column)
    if len(set(table.column_names)) < table.num_columns:
        raise InvalidOption("cannot serialize duplicate column names")
    for option, value in (("compression", compression), ("chunksize", chunksize)):
        if value is not None:
            raise InvalidOption(f"Feather V1 files do not support {option} option")
    with _sink(dest) as sink:
        _feather.write_feather(table, sink, version=1)


def _sink(dest: Any) -> AbstractContextManager[Any]:
    """What to write to for a destination: for a file one that takes its place when all is written."""
    if isinstance(dest, str | os.PathLike) and (os.path.isfile(dest) or not os.path.exists(dest)):
        return LocalFile(dest).sink()
    return nullcontext(dest)


def _read(source: Any, columns: Sequence[str | int] | None, memory_map: bool, use_threads: bool) -> Any:
    if columns is not None:
        if not isinstance(columns, Sequence):
            raise TypeError(f"Columns must be a sequence but, got {type(columns).__name__}")
        types = {type(column) for column in columns}
        if types not in ({int}, {str}, set()):
            raise TypeError(f"Columns must be indices or names. Got columns {columns} of types {types}")
    opened = None
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        try:
            source = opened = pa.memory_map(path) if memory_map else pa.OSFile(path)
        except FileNotFoundError:
            raise NotFound(f"{path}: there is no such file.") from None
    try:
        file = source
        if not isinstance(source, pa.NativeFile):
            file = pa.PythonFile(source, "r") if hasattr(source, "read") else pa.BufferReader(source)
        if kind_of(bytes(file.read_at(min(8, file.size()), 0))) == "feather":
            return _read_version_1(file, columns, use_threads)
        return _read_version_2(file, columns, use_threads)
    finally:
        if opened is not None:
            opened.close()


def _read_version_2(file: Any, columns: Sequence[str | int] | None, use_threads: bool) -> Any:
    chosen = tuple(columns) if columns else None
    if chosen:
        schema = RecordBatchFileReader(file).schema
        for name in chosen:
            if isinstance(name, str) and len(schema.get_all_field_indices(name)) > 1:
                raise InvalidOption(f"more than one column is called {name!r}; choose by number.")
    table = RecordBatchFileReader(file, options=ReadOptions(columns=chosen, use_threads=use_threads)).read_all()
    if not chosen:
        return table if columns is None else table.select([])
    if isinstance(chosen[0], str):
        return table if list(chosen) == table.column_names else table.select(chosen)
    read = sorted(set(chosen))
    return table if list(chosen) == read else table.select([read.index(number) for number in chosen])


def _read_version_1(file: Any, columns: Sequence[str | int] | None, use_threads: bool) -> Any:
    _warn_of_version_1(5)
    feather_v1.check(file)
    try:
        reader = _feather.FeatherReader(file, use_memory_map=False, use_threads=use_threads)
        if columns is None:
            table = reader.read()
        elif all(isinstance(column, int) for column in columns):
            table = reader.read_indices(list(columns))
        else:
            table = reader.read_names(list(columns))
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InvalidData(f"the Feather file (version 1) cannot be read: {error}") from error
    return table


def _warn_of_version_1(level: int) -> None:
    warnings.warn(
        "Feather V1 files are deprecated as of pyarrow 25: write Arrow IPC files (version 2) instead.",
        DeprecationWarning,
        stacklevel=level,
    )
