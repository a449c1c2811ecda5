"""What a shell offers on Tab: objects in shared memory, columns, codecs. File names are the shell's own business."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import typer


def shared(word: str) -> Iterator[str]:
    """The addresses in shared memory that begin with a word; stores end with a slash."""
    from aljava.store import Store, stores

    if not (word.startswith("shm://") or (word and "shm://".startswith(word))):
        return
    for name in stores():
        if word.startswith(f"shm://{name}/"):
            yield from (f"shm://{name}/{key}" for key in Store(name) if f"shm://{name}/{key}".startswith(word))
        elif f"shm://{name}/".startswith(word):
            yield f"shm://{name}/"


def address(incomplete: str) -> list[str]:
    """An address that begins so. Nothing where there is none in shared memory: then the shell offers files."""
    # A shell puts a space behind what it completes, so stores come with their objects.
    return [it for each in shared(incomplete) for it in (shared(each) if each.endswith("/") else [each])]


@contextmanager
def whole_words() -> Iterator[None]:
    """Undoes what bash does to an address: it splits words at colons, and replaces what stands behind the last one."""
    words = os.environ.get("COMP_WORDS", "").split("\n")
    if os.environ.get("_ALJAVA_COMPLETE") != "complete_bash" or ":" not in words:
        yield
        return
    cursor = int(os.environ["COMP_CWORD"])
    joined: list[str] = []
    for number, word in enumerate(words[: cursor + 1]):
        if number and (word.startswith(":") or words[number - 1].endswith(":")):
            joined[-1] += word
        else:
            joined.append(word)
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(len(joined) - 1))
    there = joined[-1].rfind(":") + 1
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            yield
    finally:
        print("\n".join(line[there:] for line in offered.getvalue().splitlines()))


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """A column of the table that the command line names, the last of those with commas between them."""
    from aljava.api import open
    from aljava.errors import AljavaError

    # An option without its value is no whole command line: what stands before it is left over then.
    given = [*(context.params.get(name) for name in ("address", "source", "sources")), *context.args]
    named = next((each[0] if isinstance(each, list | tuple) else each for each in given if each), None)
    if named is None:
        return []
    before, comma, begun = incomplete.rpartition(",")
    try:
        found = open(os.path.expanduser(named)).schema.names
    except AljavaError:
        return []
    return [before + comma + name for name in found if name.startswith(begun)]


def codec(incomplete: str) -> list[str]:
    """A codec that `--compression` takes."""
    return [name for name in ("auto", "none", "lz4", "zstd") if name.startswith(incomplete)]


def goal(incomplete: str) -> list[str]:
    """What `aljava compare --goal` takes."""
    return [name for name in ("balanced", "speed", "size") if name.startswith(incomplete)]


def format(incomplete: str) -> list[str]:
    """A format that `--from` and `--to` take."""
    from aljava.foreign import KINDS

    return [name for name in KINDS if name.startswith(incomplete)]


def engine(incomplete: str) -> list[str]:
    """What `--on` takes."""
    return [
        name for name in ("threads", "processes", "dask", "dask://", "ray", "ray://") if name.startswith(incomplete)
    ]


COLUMNS = typer.Option(
    None,
    "-c",
    "--columns",
    help="Names, separated by commas; one with a comma in double quotes.",
    autocompletion=columns,
)
