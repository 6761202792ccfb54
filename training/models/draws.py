"""What is drawn while training: from the step's own generator, wherever it lives, so that nothing random is saved."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(shape: torch.Size, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Numbers in [0, 1) on a device."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source).to(device)


def dropped(values: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Dropout; without a generator, where nothing is learnt, nothing is dropped."""
    if generator is None or not share:
        return values
    return values * (uniform(values.shape, generator, values.device) >= share) / (1 - share)
