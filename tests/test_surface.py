"""The public names."""

import aljava


def test_public_names() -> None:
    assert sorted(aljava.__all__) == sorted(name for name in vars(aljava) if name in aljava.__all__)
