"""Reading ahead: tasks run side by side and come back in order, a few at a time; rows that do not match are dropped.

A dataset may be larger than memory, so what is decoded and not yet asked for is bounded, in tasks and in bytes.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from typing import Any, Self

import pyarrow as pa

from aljava.errors import AljavaError, QueryError
from aljava.fragments import Task
from aljava.frames import offsets_type, with_offsets
from aljava.ipc.filters import Call, Field, Node, parse, walk

#: Bytes of the tasks that are under way at a time.
AHEAD_BYTES = 128 << 20
#: So much is read before threads are started, which takes as long: a small answer needs none.
ALONE_BYTES = 2 << 20
#: Tasks under way that wait for a network: it is the round trips that are to overlap.
REMOTE_TASKS = 4

#: Functions that a filter can be run with outside of pyarrow's engine, where all that they are given has one type.
_COMPARING = frozenset(
    ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "and_kleene", "or_kleene", "invert"]
)

Step = Callable[[list[pa.RecordBatch], Sequence[bool]], list[pa.RecordBatch]]


def ahead(tasks: Iterable[Task], step: Step, *, threads: bool, work: bool, remote: bool) -> Iterator[pa.RecordBatch]:
    """The record batches of the tasks, in order.

    Args:
        tasks: what to read.
        step: what to do with the batches of each task, in the task's thread; it is told which are sure to match.
        threads: whether other threads may be used.
        work: whether `step` takes time; else tasks that only point at memory are read right here.
        remote: whether tasks wait for a network.
    """
    workers = max(REMOTE_TASKS if remote else 0, _cores())
    waiting: deque[tuple[Task, Future[list[pa.RecordBatch]]]] = deque()
    nbytes = begun = 0
    pool: ThreadPoolExecutor | None = None
    left = iter(tasks)
    task, following = next(left, None), next(left, None)
    try:
        while task is not None:
            begun += task.nbytes
            alone = pool is None and (following is None or (begun <= ALONE_BYTES and not remote))
            if not threads or alone or (task.free and not work):
                while waiting:
                    yield from waiting.popleft()[1].result()
                yield from step(task.read(), task.sure)
                task, following = following, next(left, None)
                continue
            if pool is None:
                pool = ThreadPoolExecutor(workers, thread_name_prefix="aljava")
            while waiting and (len(waiting) > workers or nbytes + task.nbytes > AHEAD_BYTES):
                done, future = waiting.popleft()
                nbytes -= done.nbytes
                yield from future.result()
            waiting.append((task, pool.submit(lambda task=task: step(task.read(), task.sure))))  # type: ignore[misc]
            nbytes += task.nbytes
            task, following = following, next(left, None)
        while waiting:
            yield from waiting.popleft()[1].result()
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class Selection:
    """A filter and a projection, checked against the columns that there are.

    Args:
        schema: the columns.
        columns: names in the order that is wanted; or name -> expression; None for all.
        filter: a `pyarrow.compute.Expression` that a row must fulfil, or None.
        address: for messages.

    Attributes:
        needed: names of the columns to read, or None for all.
        names: of the columns that come out as they are, or None for all, or where expressions come out.
        schema: of the rows that come out.

    Raises:
        QueryError: an unknown column, one that occurs twice, or an expression that cannot be evaluated.

    Example:
        >>> import pyarrow.compute as pc
        >>> schema = pa.schema([("day", pa.int32()), ("price", pa.float64())])
        >>> selection = Selection(schema, ["price"], pc.field("day") == 2, "example")
        >>> selection.needed
        ['day', 'price']
        >>> selection.apply([pa.record_batch({"day": pa.array([1, 2], "int32"), "price": [0.5, 1.5]})])[0].to_pydict()
        {'price': [1.5]}
    """

    def __init__(
        self, schema: pa.Schema, columns: Sequence[str] | Mapping[str, Any] | None, filter: Any, address: str
    ) -> None:
        if isinstance(columns, str):
            raise QueryError(f"columns is the text {columns!r}: give a list of names")
        self._address, self.filter = address, filter
        self.names = None if columns is None or isinstance(columns, Mapping) else list(columns)
        self._expressions = dict(columns) if isinstance(columns, Mapping) else None
        known = list(schema.names)
        tree = None if filter is None else self._tree(filter)
        is_runnable = tree is not None and _is_runnable(tree, schema)
        self._plain = tree if is_runnable else None
        named = [] if filter is None else [self._fields(tree, known)]
        if self._expressions is not None:
            named += [self._fields(self._tree(expression), known) for expression in self._expressions.values()]
        else:
            named.append(known if self.names is None else self.names)
        wanted = {name for names in named for name in names}
        there = set(known)
        for name in [name for names in named for name in names]:
            if name not in there:
                raise QueryError(f"{address} has no column {name!r}; it has {', '.join(known)}")
        times = {name: known.count(name) for name in wanted} if len(there) < len(known) else {}
        twice = [name for name, count in times.items() if count > 1]
        self.needed: list[str] | None = [name for name in known if name in wanted]
        if self.names is None and self._expressions is None:
            self.needed = None
            twice = [name for name in twice if filter is not None and name in named[0]]
        if twice:
            raise QueryError(f"{address} has more than one column {twice[0]!r}: a name that occurs once is needed")
        self._filtered = named[0] if filter is not None else []
        read = schema if self.needed is None else pa.schema([schema.field(name) for name in self.needed])
        empty = pa.Table.from_batches([], read)
        if filter is not None and not is_runnable:
            self._mask(empty)
        self.schema = self._projected(empty).schema if self._expressions is not None else read
        if self.names is not None:
            self.schema = pa.schema([schema.field(name) for name in self.names], schema.metadata)

    def without_columns(self) -> Self:
        """The same filter, of whose rows nothing is wanted but their number."""
        other = copy(self)
        other.names, other._expressions, other.needed = [], None, self._filtered
        return other

    @property
    def works(self) -> bool:
        """Whether `apply` does more than to choose columns."""
        return self.filter is not None or self._expressions is not None

    def apply(self, batches: list[pa.RecordBatch], sure: Sequence[bool] = ()) -> list[pa.RecordBatch]:
        """The rows that match, with the columns that are wanted; no batch without rows.

        Args:
            batches: the rows.
            sure: for each batch, whether all of its rows are known to match; empty where nothing is known.
        """
        if self.filter is not None and batches:
            batches = self._matching(batches, sure or [False] * len(batches))
        batches = [batch for batch in batches if batch.num_rows]
        if self._expressions is not None:
            table = pa.Table.from_batches(batches) if batches else None
            batches = [] if table is None else self._projected(table).to_batches()
        if self.names is not None:
            batches = [batch.select(self.names) for batch in batches]
        return batches

    def _matching(self, batches: list[pa.RecordBatch], sure: Sequence[bool]) -> list[pa.RecordBatch]:
        # Only the columns that the filter names go through the expression; the others are filtered by its answer.
        asked = [batch.select(self._filtered) for batch, known in zip(batches, sure, strict=True) if not known]
        mask = self._mask(pa.Table.from_batches(asked)) if asked else None
        found, at = [], 0
        for batch, known in zip(batches, sure, strict=True):
            if known or mask is None:
                found.append(batch)
                continue
            part = mask.slice(at, batch.num_rows)
            at += batch.num_rows
            count = part.true_count
            if count == batch.num_rows:
                found.append(batch)
            elif self.names == []:
                found.append(batch.select([]).slice(0, count))
            elif count:
                found.append(chosen(batch, lambda rows, part=part: rows.filter(part)))  # type: ignore[misc]
        return found

    def _mask(self, table: pa.Table) -> pa.BooleanArray:
        answers = None if self._plain is None else _compared(self._plain, table)
        if answers is None:
            if not table.num_columns:
                table = table.append_column("", pa.nulls(table.num_rows))
            answers = self._run(_with_offsets(table), [self.filter], ["matches"]).column(0)
        if not pa.types.is_boolean(answers.type):
            raise QueryError(f"the filter {self.filter} gives {answers.type} where it should give true or false")
        return pa.concat_arrays(answers.chunks) if answers.num_chunks else pa.array([], pa.bool_())

    def _projected(self, table: pa.Table) -> pa.Table:
        assert self._expressions is not None
        return self._run(table, list(self._expressions.values()), list(self._expressions))

    def _run(self, table: pa.Table, expressions: list[Any], names: list[str]) -> pa.Table:
        # Here, because it brings pyarrow.dataset and pandas with it.
        from pyarrow.acero import Declaration, ProjectNodeOptions, TableSourceNodeOptions

        try:
            # On one thread: rows keep their order, and the tasks are side by side already.
            return Declaration.from_sequence(
                [
                    Declaration("table_source", TableSourceNodeOptions(table)),
                    Declaration("project", ProjectNodeOptions(expressions, names)),
                ]
            ).to_table(use_threads=False)
        except AljavaError:
            raise
        except (pa.ArrowException, TypeError) as error:
            said = self.filter if self.filter is not None else self._expressions
            raise QueryError(f"{said} cannot be evaluated on {self._address}: {error}") from error

    def _tree(self, expression: Any) -> Node | None:
        import pyarrow.compute as pc

        if not isinstance(expression, pc.Expression):
            raise QueryError(
                f"a filter is a pyarrow.compute expression, such as pc.field('day') == 1, not a "
                f"{type(expression).__qualname__}"
            )
        return parse(expression)

    def _fields(self, tree: Node | None, known: list[str]) -> list[str]:
        if tree is None:
            return known
        return list(dict.fromkeys(node.path[0] for node in walk(tree) if isinstance(node, Field)))


def _is_runnable(tree: Node, schema: pa.Schema) -> bool:
    from aljava.ipc.outcomes import (
        is_runnable,  # brings pyarrow.compute, which a query without a filter need not import
    )

    return is_runnable(tree, schema)


def _compared(tree: Node, table: pa.Table) -> pa.ChunkedArray | None:
    """What a filter comes to that only compares columns with constants of their own type; None where it says more.

    These are the functions that pyarrow's engine would call, without the 100 µs (300 if it was not asked lately) that
    the engine takes to begin.
    """
    import pyarrow.compute as pc

    found: list[Any] = []
    # From the last to the first, each part follows those that it is made of.
    for node in reversed(list(walk(tree))):
        if isinstance(node, Field):
            found.append(table.column(node.path[0]))
        elif not isinstance(node, Call):
            found.append(node.value)
        else:
            first = len(found) - len(node.arguments)
            given = found[first:]
            if node.function not in _COMPARING or any(one.type != given[0].type for one in given):
                return None
            found[first:] = [pc.call_function(node.function, given)]
    return found[0] if isinstance(found[0], pa.ChunkedArray) else None


def chosen(batch: pa.RecordBatch, choose: Callable[[pa.RecordBatch], pa.RecordBatch]) -> pa.RecordBatch:
    """What `choose` (a `filter` or a `take`) makes of a batch; pyarrow has neither for columns of views."""
    views = (pa.string_view(), pa.binary_view())
    if not any(kind in views for kind in batch.schema.types):
        return choose(batch)
    columns = [with_offsets(column) if column.type in views else column for column in batch.columns]
    found = choose(pa.RecordBatch.from_arrays(columns, names=[str(number) for number in range(len(columns))]))
    back = [column.cast(kind) for column, kind in zip(found.columns, batch.schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(back, schema=batch.schema)


def _with_offsets(table: pa.Table) -> pa.Table:
    """The same over types that pyarrow can compare."""
    kinds = [offsets_type(kind) for kind in table.schema.types]
    if kinds == table.schema.types:
        return table
    columns = [
        pa.chunked_array(map(with_offsets, column.chunks), kind)
        for column, kind in zip(table.columns, kinds, strict=True)
    ]
    return pa.Table.from_arrays(columns, names=table.column_names)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
