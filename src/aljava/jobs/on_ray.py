"""Ray behind the interface of `concurrent.futures`: a task of Ray's for each call."""

import importlib.metadata
import logging
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from aljava.errors import JobError, MissingDependency


def _call(fn: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


class RayExecutor(Executor):
    """Calls that Ray does, each in one of its worker processes; one that was killed is done again by another.

    Args:
        owned: whether Ray was started for this executor, and stops with it.
    """

    def __init__(self, *, owned: bool = False) -> None:
        import ray

        self._ray, self._owned = ray, owned
        self._remote = ray.remote(max_retries=3)(_call)
        #: Processors of the cluster.
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    @classmethod
    def start(cls, address: str | None, workers: int | None) -> "RayExecutor":
        """Connects to a cluster, or starts a Ray on this machine.

        Args:
            address: `ray://HOST:PORT`; None starts one.
            workers: processors that it counts, where it is started.

        Raises:
            JobError: it cannot be reached, or does not fit.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingDependency(
                f"{address or 'ray'} needs Ray, which is not installed: pip install 'aljava[cluster]'"
            ) from error
        if ray.is_initialized():
            return cls()
        try:
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            if address is None:
                ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
            else:
                ray.init(address, **quiet)
        except (RuntimeError, ConnectionError, TimeoutError) as error:
            # Ray itself says no more than that it waited in vain where a token is missing.
            hint = "; one that asks for a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set here too"
            raise JobError(
                f"Ray cannot be used at {address or 'this machine'}: {error}{hint if address else ''}"
            ) from error
        return cls(owned=True)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        reference = self._remote.remote(fn, args, kwargs)
        future: Future[Any] = reference.future()

        def drop(future: Future[Any]) -> None:
            if future.cancelled():
                self._ray.cancel(reference)

        future.add_done_callback(drop)
        return future

    def versions(self, names: Sequence[str]) -> dict[str, list[Any]]:
        """The versions of packages, and of Python, on each node; an exception where there is none."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        found = {}
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ask = self._remote.options(scheduling_strategy=on_node, num_cpus=0)
            calls = [(importlib.metadata.version, (name,)) for name in names] + [(platform.python_version, ())]
            answers = [ask.remote(fn, args, {}).future() for fn, args in calls]
            found[f"the Ray node {node['NodeManagerAddress']}"] = [
                getattr(answer.exception(), "cause", answer.exception()) or answer.result() for answer in answers
            ]
        return found

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._owned:
            self._ray.shutdown()
