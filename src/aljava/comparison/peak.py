"""How much memory writing and reading take at their peak, each in a process of its own.

A process that has worked before says little of this: its allocator holds what it will use again. So one process is
started that imports what is needed, and forks a child for each measurement. The child maps what it is to read, touches
every page of it, has the kernel forget its peak (`/proc/self/clear_refs`), does the work, and tells how far its peak
(`VmHWM`) rose since, without what it mapped (`RssFile`: code that it had not run before): memory of its own, that is.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pyarrow as pa

from aljava import api
from aljava.comparison.contenders import Contender, contender
from aljava.placement import touch


def peaks(names: Sequence[str], source: str, folder: str) -> dict[str, tuple[int, int]]:
    """Bytes of memory at the peak of writing, and of reading, for each contender.

    Args:
        names: of the contenders.
        source: a raw Arrow file with the table.
        folder: where they write.

    Returns:
        name -> (bytes to write, bytes to read); empty where the system does not tell.
    """
    if not sys.platform.startswith("linux"):
        return {}
    code = "import sys; from aljava.comparison.peak import main; main(*sys.argv[1:3], sys.argv[3:])"
    line = [sys.executable, "-c", code, source, folder, *names]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        return {}  # a system without /proc, or a Python that is not started by its name
    return {name: (written, read) for name, written, read in json.loads(done.stdout)}


def main(source: str, folder: str, names: Sequence[str]) -> None:
    """What the process does that forks."""
    for name in names:  # the first of each kind imports what it needs
        it, path = contender(name), os.path.join(folder, "written")
        it.write(pa.table({"id": [1]}), path)
        it.read(pa.memory_map(path).read_buffer())
        os.unlink(path)
    answers = []
    for name in names:
        it, path = contender(name), os.path.join(folder, "written")

        answers.append([name, _in_a_child(source, _writing(it, path)), _in_a_child(path, _reading(it))])
        os.unlink(path)
    sys.stdout.write(json.dumps(answers))


#: What is to be done with a file that is mapped: called once before the peak is forgotten, the result after that.
_Work = Callable[[pa.Buffer], Callable[[], object]]


def _writing(it: Contender, path: str) -> _Work:
    def prepare(content: pa.Buffer) -> Callable[[], object]:
        table = api.read(content)
        return lambda: it.write(table, path)

    return prepare


def _reading(it: Contender) -> _Work:
    def prepare(content: pa.Buffer) -> Callable[[], object]:
        def work() -> pa.Table:
            table = it.read(content)
            touch(table)
            return table

        return work

    return prepare


def _in_a_child(path: str, prepare: _Work) -> int:
    """How many bytes a child's memory grows at most when it does something with a file that it has mapped."""
    answer, say = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            content = pa.memory_map(path).read_buffer()
            work = prepare(content)
            sum(memoryview(content)[::4096])
            with open("/proc/self/clear_refs", "w") as refs:
                refs.write("5")
            peak, mapped = _memory("VmHWM"), _memory("RssFile")
            kept = work()
            grown = _memory("VmHWM") - peak - (_memory("RssFile") - mapped)
            os.write(say, str(max(0, grown)).encode())
            del kept
            status = 0
        finally:
            os._exit(status)
    os.close(say)
    with open(answer) as told:
        text = told.read()
    os.waitpid(child, 0)
    return int(text)


def _memory(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))
