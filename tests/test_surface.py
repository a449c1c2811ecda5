"""The public names."""

import aljava

PUBLIC = [
    "AljavaError",
    "Comparison",
    "Dataset",
    "Written",
    "compare",
    "dumps",
    "ipc",
    "loads",
    "open",
    "read",
    "write",
]


def test_public_names() -> None:
    assert sorted(aljava.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(aljava, name) is not None
