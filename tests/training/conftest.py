"""Launches that several test files look at, run once."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.launch import launch


@pytest.fixture(scope="session")
def seen_by_ranks() -> dict[int, dict[str, Any]]:
    """What `collectives.both` returns on 2 and on 3 ranks; its own assertions have held there."""
    return {ranks: launch("tests.training.collectives:both", {}, ranks=ranks, timeout_s=120) for ranks in (2, 3)}
