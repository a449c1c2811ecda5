"""Aljava keeps Arrow tables, shares them between processes and ships them.

One payload, many places: `write(table, place)` and `read(place)`.
"""

from typing import TYPE_CHECKING, Any

from aljava import ipc
from aljava.api import Written, append, open, read, write
from aljava.compare import Comparison, compare
from aljava.errors import AljavaError
from aljava.objects import dumps, loads
from aljava.store import Store

if TYPE_CHECKING:
    from aljava.copying import copy
    from aljava.dataset import Dataset
    from aljava.mending import repair, verify
    from aljava.queries import attach, sql

__all__ = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Store",
    "Written",
    "append",
    "attach",
    "compare",
    "copy",
    "dumps",
    "ipc",
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
    # pyarrow.dataset and DuckDB take 0.1 s each to import, as much as pyarrow itself.
    if name == "copy":
        from aljava.copying import copy

        return copy
    if name in ("repair", "verify"):
        from aljava import mending

        return getattr(mending, name)
    if name == "Dataset":
        from aljava.dataset import Dataset

        return Dataset
    if name in ("attach", "sql"):
        from importlib import import_module

        module = import_module("aljava.queries")
        globals().update(attach=module.attach, sql=module.sql)
        return globals()[name]
    raise AttributeError(f"module 'aljava' has no attribute {name!r}")
