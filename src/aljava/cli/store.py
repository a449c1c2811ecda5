"""`aljava store`: look at the stores of this machine's shared memory, and put, get and remove tables."""

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import typer

import aljava
from aljava.charts import size
from aljava.cli.output import console, count, printable
from aljava.errors import AddressError

if TYPE_CHECKING:
    from aljava.store import ObjectInfo, Store, StoreStats

app = typer.Typer(name="store", no_args_is_help=True, help="Tables in this machine's shared memory.")

_NAME = typer.Argument(metavar="STORE", help="The store.")
_ADDRESS = typer.Argument(metavar="STORE/KEY", help="The object; shm:// in front is taken as well.")
_JSON = typer.Option(False, "--json", help="Print JSON, for programs.")


@app.command("ls")
def list_(
    name: str | None = typer.Argument(None, metavar="STORE", help="The store; without it, all stores."),
    *,
    as_json: bool = _JSON,
) -> None:
    """List the objects of a store with rows, size, readers and age; or all stores.

    Example: aljava store ls desk
    """
    if name is None:
        from aljava.store import stores

        found = {each: aljava.Store(each).stats() for each in stores()}
        if as_json:
            _print_json([{"store": each, **_totals(stats)} for each, stats in found.items()])
            return
        if not found:
            console().print("no stores: `aljava store put STORE/KEY FILE` makes one", markup=False)
            return
        rows = [
            (each, f"{stats.objects:,}", size(stats.bytes_used), size(stats.bytes_pooled))
            for each, stats in found.items()
        ]
        console().print(_table(("store", "objects", "size", "pool"), rows))
        return
    infos = _existing(name).infos()
    if as_json:
        _print_json([_as_json(info) for info in infos])
    else:
        console().print(_listing(infos))


@app.command("put")
def put(
    address: str = _ADDRESS,
    source: str = typer.Argument(metavar="SOURCE", help="What to put: the address of a table, such as a file."),
    *,
    as_json: bool = _JSON,
) -> None:
    """Put a table into a store, batch by batch.

    Example: aljava store put desk/trades trades.parquet
    """
    store, key = _split(address)
    with aljava.Store(store) as target:
        target.put(aljava.open(source), key)
        info = target.info(key)
    if as_json:
        _print_json(_as_json(info))
        return
    console().print(f"shm://{store}/{key}: {count(info.rows, 'row')}, {size(info.bytes)}", markup=False)


@app.command("get")
def get(
    address: str = _ADDRESS,
    target: str = typer.Argument(metavar="TARGET", help="Where to write it: the address of a file."),
    *,
    as_json: bool = _JSON,
) -> None:
    """Write an object to a file.

    Example: aljava store get desk/trades trades.arrow
    """
    store, key = _split(address)
    table = _existing(store)[key]
    written = aljava.write(table, target)
    if as_json:
        _print_json({"target": target, "rows": table.num_rows, "bytes": written.bytes})
        return
    console().print(f"{printable(target)}: {count(table.num_rows, 'row')}", markup=False)


@app.command("info")
def info(address: str = _ADDRESS, *, as_json: bool = _JSON) -> None:
    """Show an object's rows, size, readers, age and schema.

    Example: aljava store info desk/trades
    """
    store, key = _split(address)
    found = _existing(store).info(key)
    if as_json:
        _print_json(_as_json(found))
        return
    out = console()
    out.print(_listing([found]))
    out.print(_table(("column", "type"), [(field.name, str(field.type)) for field in found.schema]))


@app.command("rm")
def remove(address: str = _ADDRESS) -> None:
    """Remove an object; whoever reads it keeps it.

    Example: aljava store rm desk/trades
    """
    store, key = _split(address)
    del _existing(store)[key]


@app.command("stat")
def stat(name: str = _NAME, *, as_json: bool = _JSON) -> None:
    """Show how much memory a store takes.

    Example: aljava store stat desk
    """
    stats = _existing(name).stats()
    if as_json:
        _print_json(_totals(stats))
        return
    rows = [
        ("objects", f"{stats.objects:,}"),
        ("size", size(stats.bytes_used)),
        ("waiting to be used again", size(stats.bytes_pooled)),
    ]
    console().print(_table(("store", name), rows))


@app.command("trim")
def trim(name: str = _NAME, *, as_json: bool = _JSON) -> None:
    """Give memory that waits to be used again back to the machine.

    Example: aljava store trim desk
    """
    with _existing(name) as store:
        freed = store.trim()
    if as_json:
        _print_json({"bytes_given_back": freed})
        return
    console().print(f"{size(freed)} given back")


@app.command("destroy")
def destroy(name: str = _NAME) -> None:
    """Remove a store with all its objects; whoever reads one keeps it.

    Example: aljava store destroy desk
    """
    _existing(name).destroy()


@app.command("watch")
def watch(
    name: str = _NAME,
    *,
    every: float = typer.Option(1.0, help="Seconds between two looks.", min=0.05),
    times: int = typer.Option(0, help="How often to look; 0 until interrupted.", min=0),
) -> None:
    """Show the objects of a store as they come and go, until control-C.

    Example: aljava store watch desk --every 0.5
    """
    from rich.live import Live

    store = _existing(name)
    looks = 0
    with Live(_view(store), console=console(), auto_refresh=False) as live:
        while True:
            looks += 1
            if times and looks >= times:
                break
            time.sleep(every)
            live.update(_view(store), refresh=True)


def _split(address: str) -> tuple[str, str]:
    store, _, key = address.removeprefix("shm://").partition("/")
    if not store or not key:
        raise AddressError(f"{address} names no object: write STORE/KEY")
    return store, unquote(key) if address.startswith("shm://") else key


def _existing(name: str) -> "Store":
    """A store, if it is there: a mistyped name is no empty store."""
    from aljava.store import stores

    store = aljava.Store(name)
    if name not in stores():
        there = ", ".join(stores()) or "none"
        raise AddressError(f"there is no store {name!r}; there are: {there}")
    return store


def _view(store: "Store") -> Any:
    from rich.console import Group

    stats = store.stats()
    line = f"{store.name}: {stats.objects:,} objects, {size(stats.bytes_used)}; pool {size(stats.bytes_pooled)}"
    return Group(line, _listing(store.infos()))


def _listing(infos: list["ObjectInfo"]) -> Any:
    rows = [
        (
            info.key,
            f"{info.rows:,}" if info.damage is None else "damaged",
            size(info.bytes),
            "?" if info.readers is None else f"{info.readers:,}",
            _age(info),
        )
        for info in infos
    ]
    return _table(("key", "rows", "size", "readers", "age"), rows)


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Any:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for number, title in enumerate(titles):
        table.add_column(escape(title), justify="right" if number and len(titles) > 2 else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _age(info: "ObjectInfo") -> str:
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if info.age >= seconds:
            return f"{info.age / seconds:.0f} {unit}"
    return f"{info.age:.0f} s"


def _as_json(info: "ObjectInfo") -> dict[str, Any]:
    return {
        "key": info.key,
        "rows": info.rows,
        "bytes": info.bytes,
        "readers": info.readers,
        "age": info.age,
        "schema": {field.name: str(field.type) for field in info.schema},
        "damage": info.damage,
    }


def _totals(stats: "StoreStats") -> dict[str, int]:
    return {"objects": stats.objects, "bytes_used": stats.bytes_used, "bytes_pooled": stats.bytes_pooled}


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
