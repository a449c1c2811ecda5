"""Commands that look into files: info, head, tail, zones, layout."""

import json
import sys
from typing import Any

import pyarrow as pa
import typer

from aljava.cli.output import console, must_take_a_file, write_page

_ADDRESS = "A path, a glob, a folder, shm://STORE/KEY, https://…, s3://BUCKET/KEY."


def info(
    address: str = typer.Argument(help=_ADDRESS),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Say what a table is: format, rows, batches, bytes, columns. The data is not read.

    Example: aljava info trades.arrow
    """
    from rich.markup import escape

    from aljava import charts
    from aljava.api import open

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
    out = console()
    out.print(f"[bold]{escape(str(facts['address']))}[/]  [dim]{facts['format']}[/]")
    out.print(
        f"{facts['rows']:,} rows in {facts['batches']:,} batches, {facts['files']:,} files, "
        f"{charts.size(dataset.nbytes)}, {facts['zones']:,} zones\n"
    )
    table = _table("column", "type", "null")
    for field in dataset.schema:
        table.add_row(escape(field.name), escape(str(field.type)), "" if field.nullable else "never")
    out.print(table)
    for key in facts["metadata"]:
        out.print(f"[dim]metadata: {escape(key)}, {len(facts['metadata'][key]):,} characters[/]")


def head(
    address: str = typer.Argument(help=_ADDRESS),
    rows: int = typer.Option(10, "-n", "--rows", min=0, help="How many."),
    columns: str | None = typer.Option(None, "-c", "--columns", help="Names, separated by commas."),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each row."),
) -> None:
    """Show the first rows.

    Example: aljava head trades.arrow -n 5 -c day,price
    """
    from aljava.api import open

    _show(open(address).head(rows, names(columns)), as_json)


def tail(
    address: str = typer.Argument(help=_ADDRESS),
    rows: int = typer.Option(10, "-n", "--rows", min=0, help="How many."),
    columns: str | None = typer.Option(None, "-c", "--columns", help="Names, separated by commas."),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each row."),
) -> None:
    """Show the last rows; of a file only the batches that hold them are read.

    Example: aljava tail trades.arrow
    """
    from aljava.api import open

    _show(open(address).tail(rows, names(columns)), as_json)


def zones(
    address: str = typer.Argument(help=_ADDRESS),
    columns: str | None = typer.Option(None, "-c", "--columns", help="Names, separated by commas."),
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
            raise QueryError(f"{address} has no statistics of {name!r}; it has them of {', '.join(known) or 'nothing'}")
    shown = {key: table[key] for key in table.column_names if key != "columns"}
    for name in wanted:
        column = pc.struct_field(table["columns"], [name])
        for part in column.type.names:
            shown[f"{name} {part}"] = pc.struct_field(column, [part])
    _show(pa.table(shown), as_json)


def layout(
    address: str = typer.Argument(help="An Arrow IPC file."),
    *,
    html: str | None = typer.Option(None, metavar="FILE", help="Draw it on a page too."),
    as_json: bool = typer.Option(False, "--json", help="Print a JSON object for each part."),
) -> None:
    """Show where the bytes of a file are: by column, and by what they are for.

    Example: aljava layout trades.arrow --html layout.html
    """
    from html import escape as html_escape

    from rich.markup import escape

    from aljava import charts
    from aljava.layout import FRAME
    from aljava.layout import layout as look

    if html:
        must_take_a_file(html)
    found = look(address)
    if html:
        rows = [
            [
                html_escape(name or "·"),
                html_escape(kind),
                f"{size:,}",
                f'<div style="background:#4c78a8;height:1em;width:{100 * size / found.size:.2f}%"></div>',
            ]
            for name, kind, size in found.parts
        ]
        body = f"<h1>{html_escape(found.address)}</h1>" + charts.paragraph(f"{found.size:,} bytes")
        body += charts.table(["column", "kind", "bytes", "share"], rows, numeric=[2], widths=[25, 20, 15, 40])
        write_page(html, charts.page(f"Layout of {found.address}", body))
    if as_json:
        for name, kind, size in found.parts:
            _print_json({"column": name or None, "kind": kind, "bytes": size, "share": size / found.size})
        return
    out = console()
    out.print(f"[bold]{escape(found.address)}[/]  [dim]{found.size:,} bytes[/]")
    table = _table("column", "kind", "bytes", "share", "")
    for name, kind, size in found.parts:
        share = size / found.size
        bar = "█" * round(30 * share) or "▏"
        table.add_row(escape(name) if name != FRAME else "·", escape(kind), f"{size:,}", f"{share:.1%}", bar)
    out.print(table)


def names(columns: str | None) -> list[str] | None:
    """Column names from a list with commas."""
    return None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]


def _show(table: pa.Table, as_json: bool) -> None:
    if as_json:
        from aljava.copying import JsonLines

        lines = JsonLines(sys.stdout.buffer)
        for batch in table.to_batches():
            lines.write(batch)
        return
    from aljava.cli.sql import connected, show
    from aljava.queries import sql

    with connected() as connection:
        show(sql("from shown_rows", connection=connection, shown_rows=table), connection)


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, ensure_ascii=False))


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.ROUNDED, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in ("bytes", "share") else "left", overflow="fold")
    return table
