import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.streams.peers import make_certificate


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
    path = tempfile.mkdtemp(prefix="alj-tls-")
    yield make_certificate(path)
    shutil.rmtree(path)
