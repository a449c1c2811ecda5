"""Commands that check and save: verify, repair."""

import json
from dataclasses import asdict
from typing import Any

import typer

from aljava.cli import complete, jobs
from aljava.cli.output import console, count, printable, status


def verify(
    addresses: list[str] = typer.Argument(
        help="A file, or another address of one payload; or many: folders, globs, s3://BUCKET/FOLDER.",
        autocompletion=complete.address,
    ),
    *,
    manifest: str | None = jobs.MANIFEST,
    on: str = jobs.ON,
    workers: int | None = jobs.WORKERS,
    as_json: bool = jobs.JSON,
) -> None:
    """Look at every byte: structure, checksums, values, statistics. Exit status 1 if anything is wrong.

    Examples:
      aljava verify trades.arrow
      aljava verify 'lake/**/*.arrow' --workers 8 --manifest checked.arrow
    """
    from rich.markup import escape

    from aljava.mending import verify as look

    if not _is_one(addresses, manifest):
        from aljava.jobs import executor_for
        from aljava.jobs import verify as look_at_all

        with jobs.bar("verify") as progress, executor_for(on, workers) as executor:
            result = look_at_all(addresses, manifest=manifest, executor=executor, progress=progress)
        jobs.report(result, as_json)
        return
    (address,) = addresses
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
    addresses: list[str] = typer.Argument(help="The damaged file; or many, sound and damaged: folders, globs."),
    to: str | None = typer.Option(
        None, metavar="FILE", help="Where the repaired file goes, of many the folder; by default in its place."
    ),
    *,
    manifest: str | None = jobs.MANIFEST,
    on: str = jobs.ON,
    workers: int | None = jobs.WORKERS,
    as_json: bool = jobs.JSON,
) -> None:
    """Save every complete batch of a truncated, half-appended or damaged file, and write it a new end.

    Of many files those that are sound are left as they are.

    Examples:
      aljava repair trades.arrow --to saved.arrow
      aljava repair lake/ --to mended/
    """
    from rich.markup import escape

    from aljava.mending import repair as save

    if not _is_one(addresses, manifest):
        from aljava.jobs import executor_for
        from aljava.jobs import repair as save_all

        with jobs.bar("repair") as progress, executor_for(on, workers) as executor:
            result = save_all(addresses, to, manifest=manifest, executor=executor, progress=progress)
        _report_repairs(result, as_json)
        return
    (address,) = addresses
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


def _is_one(addresses: list[str], manifest: str | None) -> bool:
    """Whether the command is about one payload; a manifest makes a job of it all the same."""
    from aljava.jobs.sources import is_one

    return len(addresses) == 1 and manifest is None and is_one(addresses[0])


def _report_repairs(result: Any, as_json: bool) -> None:
    """What was mended, and what was lost of it; then what any job reports."""
    from rich.markup import escape

    if not as_json:
        out = console()
        for row in result.table.sort_by("source").to_pylist():
            said = json.loads(row["details"] or "{}")
            if said.get("sound") is False:
                lost = [escape(printable(one)) for one in said["lost"]]
                out.print(
                    f"[green]mended[/] {escape(printable(row['source']))}: {count(row['rows'], 'row')} saved",
                    soft_wrap=True,
                )
                for one in lost:
                    out.print(f"       [yellow]lost[/] {one}", soft_wrap=True)
    jobs.report(result, as_json)


def _sum(found: Any) -> str:
    from rich.markup import escape

    rows, batches = count(found.rows, "row"), count(found.batches, "batch")
    return f"{escape(printable(found.address))}: {rows} in {batches}"
