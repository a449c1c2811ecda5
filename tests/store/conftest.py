"""Every store test runs under the leak check and in a store of its own."""

import uuid
from collections.abc import Iterator

import pytest

from aljava.store import Store


@pytest.fixture(autouse=True)
def _no_leaks(no_leaks: None) -> None:
    """The leak check of the whole suite, around every test of this folder."""


@pytest.fixture
def store(no_leaks: None) -> Iterator[Store]:
    """A new store, destroyed at the end."""
    with Store(f"test-{uuid.uuid4().hex}") as made:
        yield made
        made.destroy()
