"""A client that is killed: python client.py KIND SOURCES TARGET ENGINE."""

import sys

from aljava import jobs

if __name__ == "__main__":
    kind, source, target, engine = sys.argv[1:]
    print("begins", flush=True)
    options = {"size": 1_000_000} if kind == "compact" else {}
    with jobs.executor_for(engine, None if ":" in engine else 2) as executor:
        result = getattr(jobs, kind)(source, target, executor=executor, **options)
    print(result, flush=True)
    sys.exit(not result.ok)
