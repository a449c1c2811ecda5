"""`python -m bench`: runs scenarios, prints the table, and keeps it as JSON and Markdown in `bench/results/`."""

import argparse
import fnmatch
import importlib
import json
import pkgutil
import sys
from pathlib import Path

import bench
from bench.harness import Result, machine, report, run, table

RESULTS = Path(__file__).parent / "results"
MACHINERY = {"harness", "data", "__main__", "peak_of_sql", "peak_of_writing"}


def main() -> int:
    """Runs what was asked for; the exit status is 1 where a scenario could not run."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", metavar="PATTERN", help="scenarios whose MODULE or MODULE/NAME matches, e.g. 'store*'"
    )
    parser.add_argument("--quick", action="store_true", help="small data and few rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, help="counted rounds of each scenario (5, or 2 with --quick)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and stop")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    results: list[Result] = []
    failed = False
    for module in sorted(found.name for found in pkgutil.iter_modules(bench.__path__) if found.name not in MACHINERY):
        for name, prepare in importlib.import_module(f"bench.{module}").scenarios(arguments.quick).items():
            full = f"{module}/{name}"
            if arguments.only and not any(fnmatch.fnmatch(it, arguments.only) for it in (module, full)):
                continue
            if arguments.list:
                print(full)
                continue
            print(f"{full} …", file=sys.stderr, flush=True)
            try:
                results += run(prepare(), rounds)
            except (ImportError, FileNotFoundError) as error:
                failed = True
                print(f"{full} did not run: {error}", file=sys.stderr)
    if arguments.list:
        return 0
    if not results:
        print(f"no scenario matches {arguments.only!r}: see --list", file=sys.stderr)
        return 2
    here = machine()
    versions = ", ".join(f"{package} {version}" for package, version in here["versions"].items())
    text = f"{here['cpu']}, {here['cores']} cores, {here['system']}, Python {here['python']}; {versions}\n\n"
    text += table(results) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    label = "quick" if arguments.quick else "full"
    (RESULTS / f"{label}.md").write_text(text)
    (RESULTS / f"{label}.json").write_text(json.dumps(report(results), indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
