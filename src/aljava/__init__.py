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
    from aljava.dataset import Dataset
    from aljava.mending import repair, verify
    from aljava.queries import attach, sql
    from aljava.streams.listening import listen

__all__ = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Store",
    "Written",
    "append",
    "attach",
    "compare",
    "dumps",
    "ipc",
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


#: Public names that are loaded when first used, and the modules that have them: pyarrow.dataset and DuckDB take 0.1 s
#: each to import, as much as pyarrow itself, and sockets bring TLS along.
_LATER = {
    "Dataset": "aljava.dataset",
    "attach": "aljava.queries",
    "listen": "aljava.streams.listening",
    "repair": "aljava.mending",
    "sql": "aljava.queries",
    "verify": "aljava.mending",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        from importlib import import_module

        globals()[name] = getattr(import_module(_LATER[name]), name)
        return globals()[name]
    raise AttributeError(f"module 'aljava' has no attribute {name!r}")
