"""What a filter says: a `pyarrow.compute.Expression` taken apart.

pyarrow offers no way to look into an expression, but pickles one as an Arrow IPC file: its tree, in prefix order,
stands in the custom metadata of the schema, its constants and options are the columns of a batch of one row::

    (a > 3) & b.isin([1])    call: and_kleene
                               call: greater
                                 field_ref: a
                                 literal: 0              <- column 0: 3
                               end: greater
                               call: is_in
                                 field_ref: b
                                 options: 1              <- column 1: {value_set: [1], …}
                               end: is_in
                             end: and_kleene

The printed form would be easier to get, but does not quote the names of columns, and so can be made to say anything.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from aljava.errors import InvalidData
from aljava.ipc.message import FILE_START
from aljava.ipc.metadata import decode_schema

if TYPE_CHECKING:
    import pyarrow.compute as pc  # a fifth of the time to import pyarrow

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Field:
    """A reference to a column, or to a field within one."""

    # The column's name, then that of the field within it, and so on.
    path: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Literal:
    """A constant."""

    value: pa.Scalar


@dataclass(frozen=True, eq=False)
class Call:
    """A function, applied."""

    function: str
    arguments: tuple["Node", ...]
    # The function's options by name, or None.
    options: pa.StructScalar | None


Node = Field | Literal | Call

# A filter is asked about by whoever checks it, plans with it and runs it. Those that are pickled in so many bytes are
# remembered, so many of them.
REMEMBERED_BYTES, REMEMBERED = 1 << 14, 64


def parse(filter: "pc.Expression") -> Node | None:
    """Take an expression apart.

    Args:
        filter: the expression.

    Returns:
        The root of its tree, or None if it is of a kind that cannot be pickled, or is pickled in a form unknown here.

    Example:
        >>> import pyarrow.compute as pc
        >>> parse(pc.field("a") > pc.field("b", "c"))
        Call(function='greater', arguments=(Field(path=('a',)), Field(path=('b', 'c'))), options=None)
    """
    # To pickle one takes 20 µs, and the same object is asked about several times for one query.
    for known, tree in tuple(_LAST):
        if known is filter:
            return tree
    try:
        _, (pickled,) = filter.__reduce__()
    except pa.ArrowException:
        return None
    content = pickled.to_pybytes()
    if len(content) > REMEMBERED_BYTES:
        return _taken_apart(content)
    tree = _remembered(content)
    _LAST.append((filter, tree))
    return tree


_LAST: "deque[tuple[pc.Expression, Node | None]]" = deque(maxlen=1)


def _taken_apart(pickled: bytes) -> Node | None:
    try:
        with pa.ipc.open_file(pickled) as file:
            constants = file.get_batch(0)
        # The schema message follows the magic: marker, length, metadata. pyarrow's own `Schema.metadata` drops
        # repeated keys.
        start = len(FILE_START) + 8
        length = int.from_bytes(pickled[start - 4 : start], "little")
        entries = decode_schema(memoryview(pickled)[start : start + length]).metadata
        return _tree([(key.decode(), value.decode()) for key, value in entries], constants)
    except (pa.ArrowException, InvalidData, UnicodeDecodeError, _UnknownForm):
        return None


_remembered = lru_cache(REMEMBERED)(_taken_apart)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a filter can select, zone by zone."""

    #: Whether the zone can hold a row that the filter selects.
    kept: Mask
    #: Whether the filter selects every row of the zone.
    sure: Mask


class _UnknownForm(Exception):
    """The pickled form is not the one that this module knows."""


def _tree(entries: list[tuple[str, str]], constants: pa.RecordBatch) -> Node:
    # Open calls, outermost first, each with its arguments and options so far; the whole stands in a call of its own.
    calls: list[tuple[str, list[Node], list[pa.StructScalar]]] = [("", [], [])]
    names = iter(entries)
    for kind, value in names:
        function, arguments, options = calls[-1]
        if kind == "call":
            calls.append((value, [], []))
        elif kind == "end" and value == function:
            calls.pop()
            calls[-1][1].append(Call(function, tuple(arguments), options[0] if options else None))
        elif kind == "field_ref":
            arguments.append(Field((value,)))
        elif kind == "nested_field_ref" and value.isdecimal():
            path = list(islice(names, int(value)))
            if not path or any(key != "field_ref" for key, _ in path):
                raise _UnknownForm
            arguments.append(Field(tuple(name for _, name in path)))
        elif kind in ("literal", "options") and value.isdecimal() and int(value) < constants.num_columns:
            scalar = constants.column(int(value))[0]
            if kind == "literal":
                arguments.append(Literal(scalar))
            else:
                options.append(scalar)
        else:
            raise _UnknownForm
    _, roots, options = calls[0]
    if len(calls) != 1 or len(roots) != 1 or options:
        raise _UnknownForm
    return roots[0]


def walk(node: Node) -> Iterator[Node]:
    """Return a node and all below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, Call):
            waiting.extend(node.arguments)
