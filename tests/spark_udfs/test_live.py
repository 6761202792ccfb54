"""A stream's clock."""

from __future__ import annotations

import pytest

from spark_udfs.live import Clock


@pytest.mark.parametrize(
    ("seen", "times", "after"),
    [(10, [], 10), (10, [4, None], 10), (10, [12, 4], 12), (None, [None], None), (None, [4], 4)],
)
def test_the_clock_goes_on_and_never_back(seen: int | None, times: list[int | None], after: int | None) -> None:
    assert Clock(seen, now=0, late=0, delay=0).after(times) == after
