"""What all tests of training have."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tensors this small are slower on several threads, most of all where the machine is shared."""
    torch.set_num_threads(1)
