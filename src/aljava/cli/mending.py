"""Commands that check and save: verify, repair."""

import json
from dataclasses import asdict

import typer

from aljava.cli.output import console, status


def verify(
    address: str = typer.Argument(help="A file, or another address of one payload."),
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
        print(json.dumps({"ok": found.ok, **asdict(found)}))
    else:
        out = console()
        for finding in found.findings:
            out.print(f"[red]{finding.kind}[/] {escape(str(finding).partition(finding.kind)[2].lstrip(': '))}")
        checked = "checksums match" if found.checksums else "it carries no checksums"
        verdict = f"sound; {checked}" if found.ok else f"{len(found.findings):,} findings"
        out.print(
            f"{escape(found.address)}: {found.rows:,} rows in {found.batches:,} batches, {verdict}", soft_wrap=True
        )
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
        print(json.dumps(asdict(saved)))
        return
    out = console()
    for lost in saved.lost:
        out.print(f"[yellow]lost[/] {escape(lost)}")
    out.print(f"{escape(saved.address)}: saved {saved.rows:,} rows in {saved.batches:,} batches", soft_wrap=True)
