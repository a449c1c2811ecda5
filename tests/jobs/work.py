"""Tasks that the tests hand to workers, which import this module."""

import os
import signal
import time

from aljava.jobs import Done, Job, Source, Task


def touch(task: Task) -> Done:
    """As little as a task can do."""
    return Done(1, task.source.size, "0" * 16)


def looked_at(sources):
    return (Task(touch, (source,)) for source in sources)


def slowly(task: Task) -> Done:
    time.sleep(float(task.source.root.place("seconds").source().read()))
    return Done(1, 0)


def dies(task: Task) -> Done:
    """Kills its worker, where the source says so."""
    with open(task.source.place().path) as file:
        text = file.read()
    if text == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "once":
        mark = task.source.place().path + ".died"
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    return Done(1, len(text))


def job(work, kind="test", **options) -> Job:
    def plan(sources):
        for source in sources:
            if not source.name.endswith((".died", "seconds")):
                yield Task(work, (source,))

    return Job(kind, plan, **options)


def many(count: int, folders: int = 100):
    """A listing of files that are not there."""
    from aljava.jobs import Root

    root = Root("/nowhere/at/all")
    return (Source(root, f"{number % folders:04d}/part-{number:07d}.parquet", 1000, number) for number in range(count))
