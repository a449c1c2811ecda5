"""Arrow tables in shared memory, without a server: see `docs/store.md`.

From the bottom up: `kernel` holds the system calls, `names` the file names, `folder` the protocol that lets many
processes write and read at once and die at any moment, `payload` a table as the bytes of an Arrow IPC file, `filling`
the copy into memory, and `store` the mapping that users meet.
"""

from aljava.store.store import Store, StoreStats, stores

__all__ = ["Store", "StoreStats", "stores"]
