"""Aljava keeps Arrow tables, shares them between processes and ships them.

One payload, many places: `write(table, place)` and `read(place)`.
"""

from aljava import ipc
from aljava.errors import AljavaError

__all__ = ["AljavaError", "ipc"]
__version__ = "0.1.0"
