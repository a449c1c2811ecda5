"""The public names."""

import aljava

PUBLIC = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Store",
    "Written",
    "aio",
    "append",
    "attach",
    "compare",
    "copy",
    "dumps",
    "feather",
    "ipc",
    "jobs",
    "listen",
    "loads",
    "open",
    "read",
    "repair",
    "sql",
    "verify",
    "write",
]


def test_public_names() -> None:
    assert sorted(aljava.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(aljava, name) is not None
