"""Aljava keeps Arrow tables, shares them between processes and ships them.

One payload, many places: `write(table, place)` and `read(place)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aljava import aio, feather, ipc, jobs
    from aljava.api import Written, append, open, read, write
    from aljava.comparison import Comparison, compare
    from aljava.copying import copy
    from aljava.dataset import Dataset
    from aljava.errors import AljavaError
    from aljava.mending import repair, verify
    from aljava.objects import dumps, loads
    from aljava.queries import attach, sql
    from aljava.store import Store
    from aljava.streams.listening import listen

#: Where each public name lives. It is loaded when first used: pyarrow, pyarrow.dataset, pyarrow.compute and DuckDB take
#: a tenth of a second each.
_HOMES = {
    "AljavaError": "aljava.errors",
    "Comparison": "aljava.comparison",
    "Dataset": "aljava.dataset",
    "Store": "aljava.store",
    "Written": "aljava.api",
    "append": "aljava.api",
    "attach": "aljava.queries",
    "compare": "aljava.comparison",
    "copy": "aljava.copying",
    "dumps": "aljava.objects",
    "listen": "aljava.streams.listening",
    "loads": "aljava.objects",
    "open": "aljava.api",
    "read": "aljava.api",
    "repair": "aljava.mending",
    "sql": "aljava.queries",
    "verify": "aljava.mending",
    "write": "aljava.api",
}
_MODULES = ("aio", "feather", "ipc", "jobs")

__all__ = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Store",
    "Written",
    "aio",
    "append",
    "attach",
    "compare",
    "copy",
    "dumps",
    "feather",
    "ipc",
    "jobs",
    "listen",
    "loads",
    "open",
    "read",
    "repair",
    "sql",
    "verify",
    "write",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"aljava.{name}")
    if name in _HOMES:
        globals()[name] = getattr(import_module(_HOMES[name]), name)
        return globals()[name]
    raise AttributeError(f"module 'aljava' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
