"""A result as a table that fits the terminal: as many rows and columns as one can look at, and how many there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from aljava.cli.output import count, printable
from aljava.queries import sql

#: Rows shown; of more, the first half and the last half of these.
SHOWN_ROWS = 40
#: Rows fetched to learn how many there are. A result that is longer is cut at the first SHOWN_ROWS.
COUNTED_ROWS = 10_000
#: The widest a cell gets, in characters; a table of one column may fill the line.
CELL_WIDTH = 40
# What stands between two columns, and at both ends of a line.
_BETWEEN = 3
_AROUND = 4


@dataclass(frozen=True)
class Grid:
    """What is shown of a result."""

    #: Names of the columns.
    names: list[str]
    #: Their types.
    types: list[pa.DataType]
    #: The cells as text, row by row.
    rows: list[list[str]]
    #: How many rows are left out behind the first half of `rows`; 0 where all are shown.
    left_out: int
    #: One line on how much there is.
    summary: str


def grid(
    opened: Callable[[], pa.RecordBatchReader], connection: Any, room: int | None = None, most: int = SHOWN_ROWS
) -> Grid:
    """What to show of a result; reads no further than it needs.

    Args:
        opened: gives the rows.
        connection: a DuckDB connection that is free as soon as the rows are gone: it turns values into text.
        room: characters of a line; of columns that cannot fit into it only those at both ends are made text.
        most: rows to show.

    Example:
        >>> import duckdb
        >>> grid(pa.table({"id": [1, 2], "tags": [["a"], None]}).to_reader, duckdb.connect()).rows
        [['1', '[a]'], ['2', 'NULL']]
    """
    table = _first_rows(opened(), max(COUNTED_ROWS, most))
    found = table.num_rows
    columns = count(table.num_columns, "column")
    if found > max(COUNTED_ROWS, most):
        shown, left_out = table.slice(0, most), 0
        summary = f"the first {most} of more than {COUNTED_ROWS:,} rows, {columns}; all of them: -o ADDRESS"
    elif found > most:
        half = most // 2
        shown = pa.concat_tables([table.slice(0, half), table.slice(found - half)])
        left_out = found - most
        summary = f"{found:,} rows ({most} shown), {columns}"
    else:
        shown, left_out = table, 0
        summary = f"{count(found, 'row')}, {columns}"
    if room is not None and len(shown.schema) > 2 * room:
        numbers = range(len(shown.schema))
        shown = shown.select([*numbers[:room], *numbers[-room:]])
    if not shown.num_columns:
        return Grid([], [], [[] for _ in range(shown.num_rows)], left_out, summary)
    texts = sql("select columns(*)::varchar from shown", connection=connection, shown=shown)
    rows = [["NULL" if text is None else printable(text) for text in row] for row in texts.fetchall()]
    return Grid(shown.schema.names, shown.schema.types, rows, left_out, summary)


def _first_rows(reader: pa.RecordBatchReader, most: int) -> pa.Table:
    """Rows from the beginning: all, or more than so many. Nothing holds on to the rest then, as DuckDB asks."""
    batches: list[pa.RecordBatch] = []
    found = 0
    for batch in reader:
        batches.append(batch)
        found += batch.num_rows
        if found > most:
            break
    return pa.Table.from_batches(batches, reader.schema)


def shown_columns(widths: Sequence[int], room: int) -> list[int | None]:
    """Which columns fit into a line: from both ends inwards, None standing for those left out.

    Example:
        >>> shown_columns([10, 10, 10, 10], room=40), shown_columns([10, 10, 10, 10], room=80)
        ([0, None, 3], [0, 1, 2, 3])
    """
    if sum(widths) + _BETWEEN * (len(widths) - 1) + _AROUND <= room:
        return list(range(len(widths)))
    left: list[int | None] = []
    right: list[int | None] = []
    free = room - _AROUND - 1
    first, last = 0, len(widths) - 1
    while first <= last:
        at = first if len(left) <= len(right) else last
        free -= widths[at] + _BETWEEN
        if free < 0:
            break
        if at == first:
            left.append(at)
            first += 1
        else:
            right.insert(0, at)
            last -= 1
    return [*left, None, *right] if left else [0]


def rendered(grid: Grid, width: int) -> Any:
    """The grid as a Rich table that is no wider than `width` characters."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    limit = CELL_WIDTH if len(grid.names) > 1 else max(width - _AROUND, 1)
    heads = [(_cut(printable(name), limit), _cut(str(kind), limit)) for name, kind in _columns(grid)]
    cells = [[_cut(cell, limit) for cell in row] for row in grid.rows]
    widths = [max(len(text) for text in (*heads[at], *(row[at] for row in cells))) for at in range(len(heads))]
    chosen = shown_columns(widths, width)
    table = Table(box=box.ROUNDED, header_style="bold")
    for at in chosen:
        if at is None:
            table.add_column("…", justify="center")
            continue
        head = Text(heads[at][0])
        head.append(f"\n{heads[at][1]}", style="dim not bold")
        table.add_column(head, justify="right" if _is_number(grid.types[at]) else "left", no_wrap=True)
    for number, row in enumerate(cells):
        if grid.left_out and number == len(cells) // 2:
            table.add_row(*["⋮" for _ in chosen])
        table.add_row(*["…" if at is None else _cell(grid.rows[number][at], row[at]) for at in chosen])
    return table


def _columns(grid: Grid) -> Any:
    return zip(grid.names, grid.types, strict=True)


def _cell(whole: str, cut: str) -> Any:
    from rich.text import Text

    return Text(cut, style="dim" if whole == "NULL" else "")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
