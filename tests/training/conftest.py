"""Launches that several test files look at, run once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cluster.launch import launch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors this small are slower on several threads, most of all where the machine is shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def seen_by_ranks() -> dict[int, dict[str, Any]]:
    """What `collectives.both` returns on 2 and on 3 ranks; its own assertions have held there."""
    return {ranks: launch("tests.training.collectives:both", {}, ranks=ranks, timeout_s=120) for ranks in (2, 3)}
