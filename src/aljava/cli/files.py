"""Commands that look into files: info, head, tail, zones, layout."""

import json
import sys
from typing import Any

import pyarrow as pa
import typer

from aljava.cli import complete
from aljava.cli.output import console, count, must_take_a_file, names, pandas_is_not_needed, printable, write_page

#: Characters of metadata that `info` shows of each entry.
METADATA_WIDTH = 60
#: Parts that `layout` shows: of more, the largest.
LAYOUT_ROWS = 60
_ADDRESS = "A path, a glob, a folder, shm://STORE/KEY, https://…, s3://BUCKET/KEY."


def info(
    address: str = typer.Argument(help=_ADDRESS, autocompletion=complete.address),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say what a table is: format, rows, batches, bytes, columns. The data is not read.

    Example: aljava info trades.arrow
    """
    from rich.markup import escape

    from aljava import charts
    from aljava.api import open

    pandas_is_not_needed()
    dataset = open(address)
    facts = {
        "address": dataset.address,
        "format": dataset.format.value,
        "files": len(dataset.files),
        "rows": dataset.num_rows,
        "batches": dataset.num_batches,
        "bytes": dataset.nbytes,
        "zones": dataset.zones.num_rows,
        "columns": {field.name: str(field.type) for field in dataset.schema},
        "metadata": {
            key.decode("utf-8", "replace"): value.decode("utf-8", "replace")
            for key, value in (dataset.schema.metadata or {}).items()
        },
    }
    if as_json:
        _print_json(facts)
        return
    out = console(wide=True)
    out.print(f"[bold]{escape(printable(dataset.address))}[/]  [dim]{dataset.format.value}[/]")
    out.print(
        f"{count(facts['rows'], 'row')} in {count(facts['batches'], 'batch')}, {count(facts['files'], 'file')}, "
        f"{charts.size(dataset.nbytes)}, {count(facts['zones'], 'zone')}\n"
    )
    table = _table("column", "type", "null")
    for field in dataset.schema:
        table.add_row(
            escape(printable(field.name)), escape(printable(str(field.type))), "" if field.nullable else "never"
        )
    out.print(table)
    for key, value in facts["metadata"].items():
        text = value if len(value) <= METADATA_WIDTH else f"{value[:METADATA_WIDTH]}… ({len(value):,} characters)"
        out.print(f"[dim]{escape(printable(key))}: {escape(printable(text))}[/]", soft_wrap=True)


def head(
    address: str = typer.Argument(help=_ADDRESS, autocompletion=complete.address),
    rows: int = typer.Option(10, "-n", "--rows", min=0, help="How many."),
    columns: str | None = typer.Option(
        None, "-c", "--columns", help="Names, separated by commas.", autocompletion=complete.columns
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each row."),
) -> None:
    """Show the first rows.

    Example: aljava head trades.arrow -n 5 -c day,price
    """
    from aljava.api import open

    if not as_json:
        pandas_is_not_needed()
    _show(open(address).head(rows, names(columns)), as_json)


def tail(
    address: str = typer.Argument(help=_ADDRESS, autocompletion=complete.address),
    rows: int = typer.Option(10, "-n", "--rows", min=0, help="How many."),
    columns: str | None = typer.Option(
        None, "-c", "--columns", help="Names, separated by commas.", autocompletion=complete.columns
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each row."),
) -> None:
    """Show the last rows; of a file only the batches that hold them are read.

    Example: aljava tail trades.arrow
    """
    from aljava.api import open

    if not as_json:
        pandas_is_not_needed()
    _show(open(address).tail(rows, names(columns)), as_json)


def zones(
    address: str = typer.Argument(help=_ADDRESS, autocompletion=complete.address),
    columns: str | None = typer.Option(
        None, "-c", "--columns", help="Names, separated by commas.", autocompletion=complete.columns
    ),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each zone."),
) -> None:
    """Show the least and greatest values of each stretch of rows, by which filters skip what cannot match.

    Example: aljava zones trades.arrow -c day
    """
    import pyarrow.compute as pc

    from aljava.api import open
    from aljava.errors import QueryError

    table = open(address).zones
    known = table.schema.field("columns").type.names if "columns" in table.column_names else []
    wanted = names(columns) or known
    for name in wanted:
        if name not in known:
            others = f"; it has them of {', '.join(known)}" if known else ", nor of any other column"
            raise QueryError(f"{address} has no statistics of {name!r}{others}")
    if not table.num_rows and not as_json:
        print(
            f"{printable(address)} has no zones. A file of few rows needs none; "
            "that of another program gets them where `aljava copy` writes it anew"
        )
        return
    shown = {key: table[key] for key in table.column_names if key != "columns"}
    for name in wanted:
        column = pc.struct_field(table["columns"], [name])
        for part in column.type.names:
            shown[f"{name} {part}"] = pc.struct_field(column, [part])
    _show(pa.table(shown), as_json)


def layout(
    address: str = typer.Argument(help="An Arrow IPC file.", autocompletion=complete.address),
    *,
    html: str | None = typer.Option(None, metavar="FILE", help="Draw it on a page too."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each part."),
) -> None:
    """Show where the bytes of a file are: by column, and by what they are for.

    Example: aljava layout trades.arrow --html layout.html
    """
    from rich.markup import escape

    from aljava import charts
    from aljava.layout import FRAME
    from aljava.layout import layout as look

    if html:
        must_take_a_file(html)
    found = look(address)
    if html:
        write_page(html, found.to_html())
    if as_json:
        for name, kind, size in found.parts:
            _print_json({"column": name or None, "kind": kind, "bytes": size, "share": size / found.size})
        return
    out = console(wide=True)
    out.print(f"[bold]{escape(printable(found.address))}[/]  [dim]{found.size:,} bytes[/]")
    table = _table("column", "kind", "bytes", "share", "")
    largest = sorted(found.parts, key=lambda part: -part[2])[:LAYOUT_ROWS]
    most = max((size for _, _, size in largest), default=1) or 1
    for name, kind, size in found.parts if len(found.parts) <= LAYOUT_ROWS else largest:
        bar = charts.TerminalBar(size / most, "dim" if name == FRAME else "cyan", width=24)
        shown = "·" if name == FRAME else escape(printable(name))
        table.add_row(shown, escape(kind), f"{size:,}", f"{size / found.size:.1%}", bar)
    out.print(table)
    if len(found.parts) > LAYOUT_ROWS:
        rest = found.size - sum(size for _, _, size in largest)
        out.print(f"[dim]and {len(found.parts) - LAYOUT_ROWS:,} smaller parts, {rest:,} bytes; all of them: --json[/]")
    if html:
        out.print(f"The page: {escape(printable(html))}", soft_wrap=True)


def _show(table: pa.Table, as_json: bool) -> None:
    if as_json:
        from aljava.foreign import JsonLines

        lines = JsonLines(sys.stdout.buffer, table.schema)
        for batch in table.to_batches():
            lines.write(batch)
        return
    from aljava.cli.grid import grid, rendered
    from aljava.cli.sql import connected

    out = console(wide=True)
    with connected() as connection:
        shown = grid(table.to_reader, connection, out.width, max(len(table), 1))
    out.print(rendered(shown, out.width))
    out.print(shown.summary, style="dim")


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, ensure_ascii=False))


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.ROUNDED, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in ("bytes", "share") else "left", overflow="fold")
    return table
