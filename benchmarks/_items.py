"""Vectors of users and items as a trained model has them, made of a seed: tastes, of which some are frequent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

TASTES = 2_000
NOISE = 1.0  # what sets an item apart from its taste, by the taste's own length


def vectors(users: int, items: int, width: int, seed: int = 0) -> tuple[Floats, Floats]:
    """(users, width) and (items, width): directions fall off in strength as the singular values of factors do, an
    item lies about one taste, a user about the mean of two."""
    rng = np.random.default_rng(seed)
    strength = (1.0 / np.sqrt(1.0 + np.arange(width))).astype(np.float32)
    tastes = rng.standard_normal((TASTES, width), np.float32) * strength
    share = 1.0 / np.arange(1, TASTES + 1)
    share /= share.sum()

    def about(rows: int, each: int) -> Floats:
        made = np.empty((rows, width), np.float32)
        for start in range(0, rows, 100_000):
            part = made[start : start + 100_000]
            drawn = rng.choice(TASTES, (len(part), each), p=share)
            part[:] = tastes[drawn].mean(axis=1)
            part += NOISE * rng.standard_normal(part.shape, np.float32) * strength
        return made

    return about(users, 2), about(items, 1)
