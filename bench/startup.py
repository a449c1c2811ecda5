"""Starting: what a program pays before it does anything."""

import os
import subprocess
import sys
from collections.abc import Callable

from bench.harness import Scenario


def scenarios(quick: bool) -> dict[str, Callable[[], Scenario]]:
    """The table of starts; each round starts a Python of its own, with modules that are compiled already."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def start(*arguments: str) -> Callable[[], object]:
        line = [sys.executable, *arguments]
        return lambda: subprocess.run(line, env=environment, check=True, stdout=subprocess.DEVNULL)

    def imported() -> Scenario:
        return Scenario(
            "import aljava, in a new process",
            {
                "aljava": start("-c", "import aljava"),
                # What a program pays that uses it: `import aljava` alone loads nothing.
                "import aljava; aljava.read": start("-c", "import aljava; aljava.read"),
                "pyarrow": start("-c", "import pyarrow"),
            },
            targets={"pyarrow": 1 / 1.3},
            floors=("import aljava; aljava.read",),
        )

    def helped() -> Scenario:
        return Scenario(
            "aljava --help",
            {"aljava": start("-m", "aljava", "--help"), "import pyarrow": start("-c", "import pyarrow")},
            why="It is pyarrow, which names the errors, and Typer; what is set is 0.4 s.",
            floors=("import pyarrow",),
        )

    return {"import": imported, "help": helped}
