"""Eight writers and thirty-two readers on twenty keys, killed, stopped and forked: see `torture.py`."""

import pytest

from tests.store.torture import torture


@pytest.mark.long
@pytest.mark.parametrize("capacity", [None, 16 << 20], ids=["", "capacity"])
def test_no_wrong_byte_no_lost_put_no_hang_no_litter(capacity: int | None) -> None:
    counts = torture(6, capacity=capacity, kills=6)
    assert counts.puts > 20
    assert counts.checks > 20
    assert (counts.wrong, counts.lost, counts.errors, counts.hangs, counts.crashes) == (0, 0, 0, 0, 0)
