"""A client that is killed: python client.py SOURCES TARGET ENGINE."""

import sys

from aljava import jobs

if __name__ == "__main__":
    source, target, engine = sys.argv[1:]
    print("begins", flush=True)
    with jobs.executor_for(engine, 2) as executor:
        result = jobs.convert(source, target, executor=executor)
    print(result, flush=True)
    sys.exit(not result.ok)
