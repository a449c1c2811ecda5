import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short name: the path of a Unix socket has at most 103 bytes."""
    path = tempfile.mkdtemp(prefix="alj-", dir="/tmp")
    yield path
    assert not [name for name in os.listdir(path) if name.startswith(".")], "temporary names are left"
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def certificates() -> Iterator[dict[str, str]]:
    """A certificate for localhost that signs itself, and its key."""
    import subprocess

    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    path = tempfile.mkdtemp(prefix="alj-tls-")
    names = {"cert": f"{path}/cert.pem", "key": f"{path}/key.pem"}
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", names["key"], "-out", names["cert"]], check=True, capture_output=True)
    yield names
    shutil.rmtree(path)
