import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import pytest

import aljava
from tests.streams.peers import numbers, table

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOKEN = "token-of-the-test"


@dataclass
class Served:
    """A server in a process of its own."""

    http: str
    flight: str
    folder: str
    process: psutil.Process

    def with_token(self, address: str, token: str = TOKEN) -> str:
        return address.replace("://", f"://:{token}@")

    def memory(self) -> int:
        return self.process.memory_info().rss


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """Serves a folder `data` (with the table `t`), a file `n`, a store (with `quotes`), SQL and uploads."""
    folder = tempfile.mkdtemp(prefix="alj-served-")
    os.mkdir(f"{folder}/data")
    aljava.write(table(5000), f"{folder}/data/t.arrow")
    aljava.write(numbers(100_000), f"{folder}/n.arrow", compression="none")
    with open(f"{folder}/secret.arrow", "wb") as secret:
        secret.write(aljava.dumps(table(3)))
    os.symlink(f"{folder}/secret.arrow", f"{folder}/data/link.arrow")
    with open(f"{folder}/token", "w") as file:
        file.write(TOKEN + "\n")
    aljava.write(table(10), "shm://desk-served/quotes")
    command = [sys.executable, "-m", "aljava", "serve", f"{folder}/data", f"{folder}/n.arrow", "shm://desk-served"]
    options = ["--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--token-file", f"{folder}/token"]
    with subprocess.Popen(
        [*command, *options, "--allow-sql", "--allow-upload"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        http = process.stdout.readline().strip().removeprefix("HTTP: ")
        flight = process.stdout.readline().strip().removeprefix("Arrow Flight: ")
        yield Served(http, flight, folder, psutil.Process(process.pid))
        process.terminate()
        rest = process.communicate(timeout=30)
    assert (process.returncode, rest) == (0, ("", "")), "the server ends quietly when it is told to"
    aljava.Store("desk-served").destroy()
    shutil.rmtree(folder)
