"""Removes data files of `make coverage` that cannot be combined: tests kill processes, some while they write theirs.

`coverage combine` passes over a file that is no database, and is stopped by one that is damaged further in.
"""

import glob
import os
import sqlite3

from coverage import CoverageData
from coverage.exceptions import CoverageException


def remove_damaged() -> int:
    """Looks at the data files in the current folder; returns how many were removed."""
    damaged = 0
    for path in glob.glob(".coverage.*"):
        try:
            if not path.endswith("-journal"):
                CoverageData(no_disk=True).update(CoverageData(path, read_only=True))
        except (CoverageException, sqlite3.Error):
            os.unlink(path)
            damaged += 1
    for path in glob.glob(".coverage.*-journal"):
        os.unlink(path)
    return damaged


if __name__ == "__main__":
    print(f"{remove_damaged()} damaged data files of killed processes left out")
