"""Aljava keeps Arrow tables, shares them between processes and ships them.

One payload, many places: `write(table, place)` and `read(place)`.
"""

from aljava import ipc
from aljava.api import Written, open, read, write
from aljava.compare import Comparison, compare
from aljava.dataset import Dataset
from aljava.errors import AljavaError
from aljava.objects import dumps, loads

__all__ = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Written",
    "compare",
    "dumps",
    "ipc",
    "loads",
    "open",
    "read",
    "write",
]
__version__ = "0.1.0"
