"""What a shell offers on Tab: objects in shared memory, columns, codecs. File names are the shell's own business."""

import os
from collections.abc import Iterator

import typer


def shared(word: str) -> Iterator[str]:
    """The addresses in shared memory that begin with a word; stores end with a slash."""
    from aljava.store import Store, stores

    if not (word.startswith("shm://") or (word and "shm://".startswith(word))):
        return
    for name in stores():
        if f"shm://{name}/".startswith(word):
            yield f"shm://{name}/"
        elif word.startswith(f"shm://{name}/"):
            yield from (f"shm://{name}/{key}" for key in Store(name) if f"shm://{name}/{key}".startswith(word))


def address(incomplete: str) -> list[str]:
    """An address that begins so. Nothing where there is none in shared memory: then the shell offers files."""
    return list(shared(incomplete))


def columns(context: typer.Context, incomplete: str) -> list[str]:
    """A column of the table that the command line names, the last of those with commas between them."""
    from aljava.api import open
    from aljava.errors import AljavaError

    named = next((context.params[key] for key in ("address", "source") if context.params.get(key)), None)
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


COLUMNS = typer.Option(
    None,
    "-c",
    "--columns",
    help="Names, separated by commas; one with a comma in double quotes.",
    autocompletion=columns,
)
