"""`compare`: each contender writes the data to a file and reads it back until every page of it is in memory.

So a memory map gains nothing by putting its work off. What comes back is compared with what went in before a figure
counts.
"""

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import pyarrow as pa

from aljava import api
from aljava.comparison.contenders import CODECS, FORMATS, Contender, contender
from aljava.comparison.peak import peaks
from aljava.comparison.result import GOALS, ColumnMeasured, Comparison, Measured
from aljava.comparison.sampling import sample_of
from aljava.errors import InvalidData, InvalidOption, TransferError
from aljava.placement import placement, span, touch
from aljava.sameness import difference

#: Columns that are looked at one by one, and those of them whose reading is timed: the largest.
COLUMNS, TIMED_COLUMNS = 64, 8


def compare(
    data: Any,
    *,
    codecs: Sequence[str] | None = None,
    repeat: int = 3,
    sample: int | None = None,
    goal: str = "balanced",
    formats: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Measures codecs on this data, on this machine.

    Args:
        data: anything table-like, as `aljava.write` takes it, or an address, as `aljava.copy` takes it. Of a large
            file only the batches are read that are measured; the result says so.
        codecs: what to compare, one or several, as `aljava.write` takes it; by default none, lz4, zstd 1, 3 and 9, and
            auto.
        repeat: runs of each codec; the median counts.
        sample: rows to measure, taken in pieces from all over the data; by default all rows up to 128 MiB, and as many
            as that holds of more.
        goal: what the advice is for: "speed", "size" or "balanced" (a byte costs what a plain SSD takes to move it).
        formats: whether Parquet with zstd and pickle are measured too.
        progress: called with what is being done, in words.

    Returns:
        a `Comparison`: `table` and `columns` with the figures (bytes, seconds), `advice`, `to_html()`, `plot()`.

    Raises:
        InvalidOption: an unknown codec or goal, no run, no row.
        UnsupportedType: `data` is not table-like.
        NotFound, InvalidData: there is nothing at the address, or no table.
        InvalidData: what was read back differs from what was written.
        TransferError: there is no room for the files in the temporary folder.

    Examples:
        >>> comparison = compare({"id": range(1000)}, codecs=["none", "zstd"], repeat=1)
        >>> comparison.table.column("codec").to_pylist()
        ['none', 'zstd']
    """
    chosen = CODECS if codecs is None else [codecs] if isinstance(codecs, str) else codecs
    names = dict.fromkeys([*chosen, *(FORMATS if formats else ())])
    if goal not in GOALS:
        raise InvalidOption(f"goal {goal!r} is none of {', '.join(GOALS)}")
    if not names:
        raise InvalidOption("no codec to compare: name at least one")
    if repeat < 1:
        raise InvalidOption(f"repeat is {repeat}: it must be at least 1")
    if sample is not None and sample < 1:
        raise InvalidOption(f"sample is {sample}: it must be at least 1 row")
    contenders = [contender(name) for name in names]
    say = progress or (lambda text: None)
    say("Reading")
    rows = sample_of(data, sample)
    notes = [f"Measured on a sample: {rows.table.num_rows:,} of {rows.total_rows:,} rows, {rows.how}."] * bool(rows.how)
    with _folder() as folder:
        path = os.path.join(folder, "data")
        runs: dict[str, list[Measured]] = {}
        for each in contenders:
            try:  # once with little: a first call imports what it needs and starts threads
                _measured(rows.table.slice(0, 1000), each, path, check=False)
                runs[each.name] = []
            except pa.ArrowException as error:
                if each.name not in FORMATS:
                    raise
                notes.append(f"{each.name} is left out: it cannot hold this table ({error}).")
        # The contenders take turns, so that a machine that slows down does so for all of them.
        for run in range(repeat):
            for each in contenders:
                if each.name in runs:
                    say(f"Measuring {each.name}, run {run + 1} of {repeat}")
                    runs[each.name].append(_measured(rows.table, each, path, check=run == 0))
        say("Measuring memory")
        api.write(rows.table, path, compression="none")
        memory = peaks(list(runs), path, folder)
    return Comparison(
        tuple(replace(_median(of_one), peaks=memory.get(name)) for name, of_one in runs.items()),
        rows.table.num_rows,
        rows.total_rows,
        rows.table.nbytes,
        goal,
        tuple(notes),
    )


def measure(table: pa.Table, codec: str, path: str) -> Measured:
    """Writes the table to a file with a codec, and reads it back.

    Args:
        table: the data.
        codec: as `aljava.write` takes it, "parquet" or "pickle".
        path: the file to write; it is left there.

    Raises:
        InvalidOption: an unknown codec.
        InvalidData: what came back differs.
    """
    return _measured(table, contender(codec), path, columns=0)


def _measured(table: pa.Table, it: Contender, path: str, *, check: bool = True, columns: int = COLUMNS) -> Measured:
    write_seconds = it.write(table, path)
    start = time.perf_counter()
    content = pa.memory_map(path).read_buffer()
    found = it.read(content)
    touch(found)
    read_seconds = time.perf_counter() - start
    if check:
        same = found if found.schema.equals(table.schema, check_metadata=True) else _as_before(found, table.schema)
        if wrong := difference(table, same):
            raise InvalidData(f"what was written {it.words} came back changed: {wrong}")
    place = placement(found, [span(content)])
    return Measured(
        it.name,
        content.size,
        write_seconds,
        read_seconds,
        place.columns_inside,
        found.num_columns,
        _by_column(table, it, path, place.columns_inside, columns),
    )


def _as_before(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """With the types that went in: Parquet has fewer, and keeps text as text whatever its layout."""
    return found.cast(schema) if found.schema.names == schema.names else found


def _by_column(table: pa.Table, it: Contender, path: str, raw: Sequence[str], most: int) -> tuple[ColumnMeasured, ...]:
    """The largest columns one by one; those whose name is another's too cannot be told apart."""
    twice = {name for name, count in Counter(table.column_names).items() if count > 1}
    memory = {
        name: column.nbytes for name, column in zip(table.column_names, table.columns, strict=True) if name not in twice
    }
    largest = sorted(memory, key=lambda name: -memory[name])[:most]
    sizes = it.sizes(pa.memory_map(path).read_buffer()) if largest else {}
    left_raw = set(raw)
    timed: list[float] = []
    for name in largest[: TIMED_COLUMNS if it.by_column else 1]:
        start = time.perf_counter()
        touch(it.read(pa.memory_map(path).read_buffer(), [name]))
        timed.append(time.perf_counter() - start)
    return tuple(
        ColumnMeasured(
            name,
            str(table.schema.field(name).type),
            memory[name],
            sizes.get(name, 0) if sizes else None,
            seconds,
            name in left_raw,
        )
        for name, seconds in zip_longest(largest, timed)
    )


def _median(runs: list[Measured]) -> Measured:
    return replace(
        runs[0],
        write_seconds=statistics.median(run.write_seconds for run in runs),
        read_seconds=statistics.median(run.read_seconds for run in runs),
        by_column=tuple(
            replace(same[0], read_seconds=statistics.median(seconds)) if (seconds := _seconds(same)) else same[0]
            for same in zip(*(run.by_column for run in runs), strict=True)
        ),
    )


def _seconds(same: Sequence[ColumnMeasured]) -> list[float]:
    return [it.read_seconds for it in same if it.read_seconds is not None]


def _folder() -> Any:
    try:
        return tempfile.TemporaryDirectory(prefix="aljava-compare-")
    except OSError as error:
        raise TransferError(
            f"no temporary folder can be made: {error.strerror or error}. Set TMPDIR to another folder"
        ) from error
