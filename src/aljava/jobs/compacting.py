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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from aljava import ipc
from aljava.errors import AljavaError, InvalidData
from aljava.frames import BATCH_BYTES, regroup
from aljava.ipc.writer import BATCH_ROWS
from aljava.jobs.gathering import Broken, Gathering, check_schemas, head_of
from aljava.jobs.kinds import Hashed
from aljava.jobs.manifest import Manifest, fingerprint
from aljava.jobs.planning import distinct
from aljava.jobs.sorting import MEMORY, NARROW, carriers_of, in_order
from aljava.jobs.sources import Root, Source, shown
from aljava.jobs.tasks import Done, Job, Task, explained
from aljava.places.local import LocalFile
from aljava.places.place import Counting, Place
from aljava.places.remote import RemoteFile

#: Bytes and sources that are compacted for a try, to learn how large the outcome is.
SAMPLE_BYTES, SAMPLE_SOURCES = 4 << 20, 64
#: How much larger than wanted an output of a group may become before it is cut: else a sliver would be left over.
TOLERANCE = 1.25
#: Batches that are written at a time, most: they are compressed side by side.
ABREAST = 8
#: Bytes of sources that may well hold more rows than are numbered in 4 bytes.
MANY_BYTES = 8 << 30
#: What outputs are called.
_OUTPUT = re.compile(r"(?:.*/)?compacted-\d{5,}(?:-\d+)?\.arrow")


def compact(target: Root, options: Mapping[str, Any], memory: int = MEMORY) -> Job:
    """Many small files into few.

    Args:
        target: where the outputs go.
        options: `size` (bytes of an output), `sort_by` (names of columns, or None) and `compression`.
        memory: bytes of memory that DuckDB may sort in.
    """
    groups: list[_Group] = []

    def plan(sources: Iterator[Source]) -> Iterator[Task]:
        listing = _Listing(distinct(sources))
        if not listing.sources:
            return
        model = _model(listing)
        said = {**options, "memory": memory, "head": head_of(model), "model": model.address}
        schema = pa.ipc.read_schema(pa.py_buffer(said["head"]))
        carriers_of(schema, options["sort_by"] or ())
        check_schemas(listing, said["head"], said["model"])
        groups.extend(_grouped(listing, said))
        for group in groups:
            yield Task(compact_one, tuple(listing[group.start : group.stop]), target, group.output, said)

    def begin(manifest: Manifest) -> _Known:
        return _Known(target, groups, manifest)

    return Job("compact", plan, target, options, known=begin)


class _Listing:
    """All sources, in order: partition by partition, in each by their folders as these were given, and by name."""
