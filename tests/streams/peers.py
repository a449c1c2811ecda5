"""Processes at the other end, and tables to send."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa


def table(rows: int = 1000) -> pa.Table:
    """Integers with nulls, floats, text, a dictionary and lists."""
    numbers = np.arange(rows)
    return pa.table(
        {
            "id": pa.array(numbers, mask=numbers % 7 == 3),
            "value": numbers * 0.5,
            "category": pa.array([f"category {number % 11}" for number in range(rows)]),
            "day": pa.array([("mon", "tue", "wed")[number % 3] for number in range(rows)]).dictionary_encode(),
            "parts": pa.array([list(range(number % 4)) for number in range(rows)], pa.list_(pa.int32())),
        },
        metadata={"origin": "test"},
    )


def numbers(rows: int) -> pa.Table:
    """Two columns of eight bytes a row: what is to be large."""
    return pa.table({"id": np.arange(rows), "value": np.arange(rows) * 0.5})


@contextmanager
def process(code: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that runs `code`, with `aljava`, `pa`, `sys`, `socket` and `os` imported."""
    text = "import os, socket, sys, time\nimport pyarrow as pa\nimport aljava\n" + textwrap.dedent(code)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    with subprocess.Popen([sys.executable, "-c", text, *arguments], **options) as child:
        try:
            yield child
        finally:
            child.kill()


def output(child: subprocess.Popen[bytes], timeout: float = 60) -> str:
    """What a process says, once it has ended well."""
    out, err = child.communicate(timeout=timeout)
    assert child.returncode == 0, err.decode()
    return out.decode().strip()
