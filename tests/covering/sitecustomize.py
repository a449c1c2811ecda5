"""For `make coverage`: has Python trace the threads in which gRPC calls the handlers of `aljava.server.flight`.

They are not Python's own, so nothing asks for tracing in them, and each call begins without it. Python imports this
file when it starts, for its folder is in PYTHONPATH then.
"""

import functools
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def traced(method: Callable[..., Any]) -> Callable[..., Any]:
    """`method`, with the tracing that Python's own threads have."""

    def begin() -> None:
        if sys.gettrace() is None:
            sys.settrace(threading.gettrace())

    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        begin()
        return method(*args, **options)

    @functools.wraps(method)
    def iterate(*args: Any, **options: Any) -> Iterator[Any]:
        items = method(*args, **options)
        while True:
            begin()
            try:
                item = next(items)
            except StopIteration:
                return
            yield item

    return iterate if inspect.isgeneratorfunction(method) else call


class _Finder:
    """Wraps the handlers once their module has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "aljava.server.flight":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            for kind in (module.FlightServer, module._Admission, module._Call):
                for handler, method in list(vars(kind).items()):
                    if inspect.isfunction(method) and not handler.startswith("__"):
                        setattr(kind, handler, traced(method))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if threading.gettrace() is not None:
    sys.meta_path.insert(0, _Finder())
