"""Commands that check and save: verify, repair."""

import json
from dataclasses import asdict
from typing import Any

import typer

from aljava.cli import complete
from aljava.cli.output import console, count, printable, status


def verify(
    address: str = typer.Argument(help="A file, or another address of one payload.", autocompletion=complete.address),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Look at every byte: structure, checksums, values, statistics. Exit status 1 if anything is wrong.

    Example: aljava verify trades.arrow
    """
    from rich.markup import escape

    from aljava.mending import verify as look

    with status() as show:
        show(f"Reading {address}")
        found = look(address)
    if as_json:
        print(json.dumps({"ok": found.ok, **asdict(found)}, ensure_ascii=False))
    else:
        out = console()
        for finding in found.findings:
            said = printable(str(finding).partition(finding.kind)[2].lstrip(": "))
            out.print(f"[red]{finding.kind}[/] {escape(said)}", soft_wrap=True)
        checked = "checksums match" if found.checksums else "it carries no checksums"
        verdict = f"sound; {checked}" if found.ok else count(len(found.findings), "finding")
        out.print(f"{_sum(found)}, {verdict}", soft_wrap=True)
    if not found.ok:
        raise typer.Exit(1)


def repair(
    address: str = typer.Argument(help="The damaged file."),
    to: str | None = typer.Option(None, metavar="FILE", help="Where the repaired file goes; by default in its place."),
    *,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Save every complete batch of a truncated, half-appended or damaged file, and write it a new end.

    Example: aljava repair trades.arrow --to saved.arrow
    """
    from rich.markup import escape

    from aljava.mending import repair as save

    with status() as show:
        show(f"Reading {address}")
        saved = save(address, to)
    if as_json:
        print(json.dumps(asdict(saved), ensure_ascii=False))
        return
    out = console()
    for lost in saved.lost:
        out.print(f"[yellow]lost[/] {escape(printable(lost))}", soft_wrap=True)
    if saved.unchecked:
        out.print(f"[yellow]unchecked[/] {escape(saved.unchecked)}", soft_wrap=True)
    out.print(f"{_sum(saved)} saved", soft_wrap=True)


def _sum(found: Any) -> str:
    from rich.markup import escape

    rows, batches = count(found.rows, "row"), count(found.batches, "batch")
    return f"{escape(printable(found.address))}: {rows} in {batches}"
