"""Which format the bytes at a place are in, told by the bytes and never by the name."""

import enum

import pyarrow as pa

from aljava.errors import InvalidData, TruncatedFile


class Format(enum.Enum):
    """What `read` and `open` understand."""

    IPC_FILE = "Arrow IPC file"
    IPC_STREAM = "Arrow IPC stream"
    FEATHER_V1 = "Feather V1"
    PARQUET = "Parquet"


# Where a text or an archive is met in place of a table, the way out is worth a word.
_FOREIGN = (
    (b"\x1f\x8b", "gzip-compressed data: unpack it first"),
    (b"PK\x03\x04", "a ZIP archive: unpack it first"),
    (b"BZh", "bzip2-compressed data: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data: unpack it first"),
    (b"\x89HDF", "an HDF5 file: read it with pandas.read_hdf"),
    (b"SQLite format 3", "an SQLite database"),
    (b"ORC", "an ORC file: read it with pyarrow.orc"),
)


def recognise(source: pa.NativeFile, address: str) -> Format:
    """The format of the payload.

    Args:
        source: the bytes, seekable; it is left at its start.
        address: where they are, for the message.

    Raises:
        TruncatedFile: it begins as a format that needs an end, and has none.
        InvalidData: no format that Aljava reads; says what it looks like.

    Example:
        >>> table = pa.table({"id": [1]})
        >>> sink = pa.BufferOutputStream()
        >>> with pa.ipc.new_stream(sink, table.schema) as writer:
        ...     writer.write_table(table)
        >>> recognise(pa.BufferReader(sink.getvalue()), "example").value
        'Arrow IPC stream'
    """
    size = source.size()
    source.seek(0)
    head = source.read(min(size, 64))
    source.seek(max(0, size - 8))
    tail = source.read(min(size, 8))
    source.seek(0)
    if head.startswith(b"ARROW1") or (head and b"ARROW1".startswith(head)):
        if not tail.endswith(b"ARROW1") or size < 20:
            raise TruncatedFile(
                f"{address} has no footer: it begins as an Arrow IPC file and ends, after {size:,} bytes, without its "
                "end. Its writer died or the copy was cut short"
            )
        return Format.IPC_FILE
    if head.startswith(b"PAR1"):
        if not tail.endswith(b"PAR1") or size < 12:
            raise TruncatedFile(
                f"{address} has no footer: it begins as a Parquet file and ends, after {size:,} bytes, without its "
                "end. Its writer died or the copy was cut short; copy or write it again"
            )
        return Format.PARQUET
    if head.startswith(b"FEA1"):
        return Format.FEATHER_V1
    if _begins_stream(head):
        return Format.IPC_STREAM
    raise InvalidData(f"{address} is not a table that Aljava reads (Arrow IPC, Feather, Parquet): it {_looks(head)}")


def _begins_stream(head: bytes) -> bool:
    """An encapsulated message: a continuation marker and a length; before Arrow 0.15 the length alone."""
    if head.startswith(b"\xff\xff\xff\xff"):
        return len(head) >= 8 and int.from_bytes(head[4:8], "little", signed=True) > 0
    length = int.from_bytes(head[:4], "little")
    # A schema message begins with the offset of its root table: a small multiple of 4.
    root = int.from_bytes(head[4:8], "little")
    return len(head) >= 16 and 0 < length < 1 << 28 and length % 8 == 4 and 4 <= root <= 64 and root % 4 == 0


def _looks(head: bytes) -> str:
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            return f"looks like {what}"
    try:
        text = head[: max(1, len(head) - 3)].decode()
    except UnicodeDecodeError:
        return f"begins with the bytes {head[:8].hex(' ')}"
    if text.isprintable() or set(text) & set("\n\t,;"):
        kind, name = ("JSON", "json") if text.lstrip()[:1] in ("{", "[") else ("text, perhaps CSV", "csv")
        return (
            f"looks like {kind} (it begins with {text[:20]!r}): make a table of it first, "
            f"`aljava copy … OUT.arrow --from {name}`, or aljava.copy(…, 'OUT.arrow', source_format={name!r}) in Python"
        )
    return f"begins with the bytes {head[:8].hex(' ')}"
