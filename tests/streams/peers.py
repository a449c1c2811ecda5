"""Processes at the other end, and tables to send."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import numpy as np
import pyarrow as pa
import pytest


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


def make_certificate(path: str, name: str = "localhost", days: int = 2) -> dict[str, str]:
    """A certificate that signs itself, and its key, as files; with fewer than 0 days it has expired."""
    pytest.importorskip("cryptography", reason="cryptography makes the certificates")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    end = datetime.now(UTC) + timedelta(days=days)
    names = x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(end - timedelta(days=10))
        .not_valid_after(end)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    os.makedirs(path, exist_ok=True)
    files = {"cert": f"{path}/cert.pem", "key": f"{path}/key.pem"}
    with open(files["cert"], "wb") as file:
        file.write(made.public_bytes(serialization.Encoding.PEM))
    with open(files["key"], "wb") as file:
        form = serialization.PrivateFormat.PKCS8
        file.write(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return files


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
