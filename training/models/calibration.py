"""Log-odds put right after training: a line of pieces that rises everywhere, so that a model's ranking stays.

What the line is comes from rows that the model did not learn from (training/metrics/calibration.py).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KNOTS = {"platt": 2, "isotonic": 202}  # of each way's line


class Calibration(nn.Module):
    """A line through knots, which goes on beyond the outer ones as between them and their neighbours.

    As it is made it changes nothing.

    Args:
        knots: how many.

    Attributes:
        knots: (2, knots) float64: ascending log-odds that the model gives, and what they are in truth. Kept with the
            weights.
    """

    knots: Tensor

    def __init__(self, knots: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.arange(knots, dtype=torch.float64).repeat(2, 1))

    def forward(self, log_odds: Tensor) -> Tensor:
        """(batch,) float64 of (batch,): in float32 what lies close together would change places."""
        given, true = self.knots
        exact = log_odds.double()
        right = torch.searchsorted(given, exact).clamp(1, len(given) - 1)
        slope = (true[right] - true[right - 1]) / (given[right] - given[right - 1])
        found: Tensor = true[right - 1] + slope * (exact - given[right - 1])
        return found
