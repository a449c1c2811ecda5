"""Checksums of messages, in the footer of a file.

Under the key `aljava.checksums` stands the text `xxh3-64:` and the base64 of 8 bytes for each message that the
footer lists, dictionary batches and record batches together, in the order in which they stand in the file: the
XXH3-64 (seed 0, little endian) of the message from its continuation marker to the end of its body. Every reader
passes over it; `aljava verify` finds the bit that flipped.
"""

import base64
import binascii
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xxhash

from aljava.errors import InvalidData
from aljava.ipc.metadata import Footer

KEY = b"aljava.checksums"
_PREFIX = b"xxh3-64:"


SUPERSEDED_KEY = b"aljava.superseded"
"""Holds `OFFSET:CHECKSUM`, separated by spaces, of dictionaries that a later one has taken the place of."""
FOOTER_KEY = b"aljava.footer"
"""Stands last, and holds the same of the footer's other entries: keys and values, one behind the other."""


def digest(pieces: Iterable[Any]) -> int:
    """The XXH3-64 of some pieces of bytes, one behind the other."""
    state = xxhash.xxh3_64()
    for piece in pieces:
        state.update(piece)
    return state.intdigest()


def encode_checksums(digests: Mapping[int, int]) -> bytes:
    """The text for the footer, from the digest of each message by the message's offset."""
    return encode_digests([digests[offset] for offset in sorted(digests)])


def encode_digests(ordered: Sequence[int]) -> bytes:
    """The text for the footer, from the digests in the order in which the messages stand."""
    return _PREFIX + base64.b64encode(struct.pack(f"<{len(ordered)}Q", *ordered))


def footer_digest(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The text for the footer that protects its other entries, the checksums of messages among them."""
    return _PREFIX + struct.pack("<Q", digest(part for entry in entries for part in entry)).hex().encode()


def encode_superseded(digests: Mapping[int, int]) -> bytes:
    """The text for the footer, from the digest of each message that it does not list, by the message's offset."""
    return " ".join(f"{offset}:{digests[offset]:016x}" for offset in sorted(digests)).encode()


def read_superseded(footer: Footer) -> dict[int, int]:
    """The checksums of messages that the footer does not list, by their offsets.

    Raises:
        InvalidData: the text is damaged.
    """
    text = footer.value(SUPERSEDED_KEY) or b""
    try:
        pairs = [entry.split(b":") for entry in text.split()]
        return {int(offset): int(checksum, 16) for offset, checksum in pairs}
    except ValueError:
        raise InvalidData(f"the checksums of superseded dictionaries are damaged: {text[:40]!r}.") from None


def read_checksums(footer: Footer) -> dict[int, int]:
    """The checksums of a file's messages.

    Args:
        footer: of the file.

    Returns:
        For the offset of each message that the footer lists (bytes from the start of the file), its XXH3-64; empty
        where the file carries no checksums.

    Raises:
        InvalidData: the text is damaged, or holds more or fewer digests than there are messages.
    """
    text = footer.value(KEY)
    if text is None:
        return {}
    offsets = sorted({block.offset for block in (*footer.dictionaries, *footer.batches)})
    try:
        raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raw = b""
    if not text.startswith(_PREFIX) or len(raw) != 8 * len(offsets):
        raise InvalidData(
            f"the checksums of the file should be {_PREFIX.decode()!r} and the base64 of {8 * len(offsets)} bytes; "
            f"found {text[:40]!r}. The footer is damaged: `aljava repair` writes a new one."
        )
    return dict(zip(offsets, struct.unpack(f"<{len(offsets)}Q", raw), strict=True))
