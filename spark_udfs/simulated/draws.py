"""What scenes draw beside uniform numbers (tastes.py) and counts (counts.py)."""

from __future__ import annotations

import math

import numpy as np

from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, uniform


def normal(shop: ShopSize, purpose: str, *ids: Ints) -> Floats:
    """Standard normal draws (Box and Muller, 1958)."""
    radius = np.sqrt(-2 * np.log(uniform(shop, f"{purpose} radius", *ids)))
    return np.asarray(radius * np.cos(2 * math.pi * uniform(shop, f"{purpose} angle", *ids)))


def sigmoid(log_odds: Floats) -> Floats:
    """The probability of log odds."""
    return np.asarray(1 / (1 + np.exp(-log_odds)))
