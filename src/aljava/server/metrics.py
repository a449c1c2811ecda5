"""What a server counts, as Prometheus reads it."""

import threading
import time

_COUNTED = {
    "requests": "Requests that were let in.",
    "requests_without_token": "Requests that showed no token, or a wrong one.",
    "connections_refused": "Connections beyond the limit.",
    "connections_too_slow": "Connections that did not say in time what they want.",
    "responses_cut": "Responses that came to no good end.",
    "bytes_sent": "Bytes of tables sent.",
    "bytes_received": "Bytes of tables received.",
}


class Metrics:
    """Counters; any thread may count.

    Example:
        >>> metrics = Metrics()
        >>> metrics.count("requests")
        >>> "aljava_requests_total 1" in metrics.page()
        True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = dict.fromkeys(_COUNTED, 0)
        self._start = time.time()

    def count(self, name: str, by: int = 1) -> None:
        """Adds to one of the counters."""
        with self._lock:
            self._values[name] += by

    def page(self) -> str:
        """All of them, in Prometheus' text format."""
        lines = []
        for name, what in _COUNTED.items():
            lines += [f"# HELP aljava_{name}_total {what}", f"# TYPE aljava_{name}_total counter"]
            lines.append(f"aljava_{name}_total {self._values[name]}")
        lines += ["# HELP aljava_start_time_seconds When the server began.", "# TYPE aljava_start_time_seconds gauge"]
        lines.append(f"aljava_start_time_seconds {self._start:.3f}")
        return "\n".join(lines) + "\n"
