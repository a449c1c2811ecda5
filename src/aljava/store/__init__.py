"""Arrow tables in shared memory, without a server: see `docs/store.md`.

From the bottom up: `kernel` holds the system calls, `names` the file names, `folder` the protocol that lets many
processes write and read at once and die at any moment, `filling` the copy into memory, `payload` a table as the bytes
of an Arrow IPC file, `inspection` what an object is, and `store` the mapping that users meet.
"""

import sys

from aljava.errors import UnsupportedPlatform

if sys.platform not in ("linux", "darwin"):
    raise UnsupportedPlatform(
        f"Aljava needs the file locks of Linux or macOS, and this is {sys.platform}: use it there, or in WSL"
    )

# isort: split
from aljava.store.inspection import ObjectInfo
from aljava.store.store import Store, StoreStats, opened, stores

__all__ = ["ObjectInfo", "Store", "StoreStats", "opened", "stores"]
