"""The page of the API names everything that is public."""

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import aljava
from aljava.errors import MissingDependency

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "reference.md").read_text()
#: Each entry, and the members that it is confined to.
ENTRIES = re.findall(r"^::: (\S+)\n(?:    .*\n)*?(?:      members: \[(.*)\]\n)?(?!    )", PAGE, re.M)
#: Modules that are imported by name; each name in them is public.
MODULES = ["aljava"] + [
    f"aljava.{name}"
    for name in ("aio", "errors", "feather", "ipc", "jobs", "multiprocessing", "store", "torch")
    if (Path(aljava.__file__).parent / f"{name}.py").exists() or (Path(aljava.__file__).parent / name).is_dir()
]
#: Of the store's module, what others of ours use.
INTERNAL = {"aljava.store.opened"}


def documented() -> set[int]:
    """The objects that the page has entries for."""
    found = set()
    for name, confined in ENTRIES:
        try:
            thing = resolve(name)
        except MissingDependency:
            continue  # its module is checked where its library is installed
        found.add(id(thing))
        if isinstance(thing, ModuleType):
            members = confined.split(", ") if confined else public(thing)
            found |= {id(getattr(thing, member)) for member in members}
    return found


def resolve(name: str) -> object:
    path = name.split(".")
    for length in range(len(path), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(path[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in path[length:]:
            thing = getattr(thing, attribute)
        return thing
    raise AssertionError(f"docs/reference.md has {name}, which does not exist")


def public(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None)
    if names is None:
        own = {
            name: thing for name, thing in vars(module).items() if inspect.isclass(thing) or inspect.isfunction(thing)
        }
        names = [n for n, thing in own.items() if not n.startswith("_") and thing.__module__ == module.__name__]
    return sorted(names)


def is_ours(thing: object) -> bool:
    return isinstance(thing, ModuleType) or str(getattr(thing, "__module__", "")).startswith("aljava")


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    pytest.importorskip(name, reason="needs a library that is not installed", exc_type=ImportError)
    module = importlib.import_module(name)
    there = documented()
    missing = [
        f"{name}.{member}"
        for member in public(module)
        if is_ours(thing := getattr(module, member)) and id(thing) not in there and f"{name}.{member}" not in INTERNAL
    ]
    assert missing == []
