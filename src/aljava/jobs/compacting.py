"""Compacting: many small files into few of a wanted size.

::

    a, b, c, d, e, f, …   ──>   compacted-00000.arrow (a b c d)   compacted-00001.arrow (e f …)       rows as they came
                          ──>   compacted-00000.arrow (the least)   compacted-00000-1.arrow …         rows by a column

Without an order, groups of sources are tasks that know nothing of each other. With one, all rows go through one task,
since any row may have to be anywhere. Where the folders of sources are Hive partitions (`day=2026-01-31`), these stay
what they are: each is compacted for itself.

A target belongs to its job. What is called `compacted-…` there and is not an output of the job as its sources now are
is removed before the work begins, so that no row is ever there twice.
"""

import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from aljava import ipc
from aljava.errors import AljavaError, NotFound
from aljava.frames import BATCH_BYTES, regroup
from aljava.ipc.writer import BATCH_ROWS
from aljava.jobs.gathering import Broken, Gathering, check_schemas, head_of
from aljava.jobs.kinds import Hashed
from aljava.jobs.manifest import Manifest, fingerprint
from aljava.jobs.planning import distinct
from aljava.jobs.sorting import carriers_of, in_order
from aljava.jobs.sources import Root, Source, shown
from aljava.jobs.tasks import Done, Job, Task, explained
from aljava.places.local import LocalFile
from aljava.places.place import Place

#: Bytes and sources that are compacted for a try, to learn how large the outcome is.
SAMPLE_BYTES, SAMPLE_SOURCES = 4 << 20, 64
#: How much larger than wanted an output of a group may become before it is cut: else a sliver would be left over.
TOLERANCE = 1.25
#: Batches that are written at a time, most: they are compressed side by side.
ABREAST = 8
_OURS = re.compile(r"(?:.*/)?compacted-\d{5,}(?:-\d+)?\.arrow")


def compact(target: Root, options: Mapping[str, Any], memory: int) -> Job:
    """Many small files into few.

    Args:
        target: where the outputs go.
        options: `size` (bytes of an output), `sort_by` (names of columns, or None) and `compression`.
        memory: bytes of memory that sorting may use.
    """
    planned: dict[str, int] = {}

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        listing = _Listing(distinct(sources))
        ...

    return Job("compact", plan, target, options)
