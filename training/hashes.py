"""Random numbers that are a function of what they belong to, whoever draws them and in which order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hashed(counters: NDArray[np.uint64], start: np.uint64) -> NDArray[np.uint64]:
    """64 random bits of each counter, from a start: SplitMix64 (Steele et al. 2014)."""
    bits = counters * np.uint64(0x9E3779B97F4A7C15)
    bits += start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits ^= bits >> np.uint64(shift)
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def uniform(rows: NDArray[np.int64], seed: int, draws: int = 1) -> NDArray[np.float64]:
    """(rows, draws) numbers in [0, 1), each a function of (seed, row, draw) alone.

    Args:
        rows: (rows,) row numbers, 0 and above.
        seed: any integer.
        draws: of each row; a row's first draws stay what they are where more are asked for.
    """
    of_row = hashed(rows.astype(np.uint64), np.uint64(seed % 2**64))
    bits = hashed(np.arange(draws, dtype=np.uint64), np.uint64(0)) ^ of_row[:, None]
    # hashed once more, as a difference of two draws would otherwise be the same in all rows
    return (hashed(bits, np.uint64(0)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
