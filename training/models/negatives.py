"""Rows whose labels are all 0, where they are many: an epoch learns from a share of them, the next from other ones.

A row that is kept counts for one over its chance, so that loss and probabilities are those of all rows on the average,
and nothing needs to be taken out of the answers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batch import Batch, chosen
from training.hashes import uniform

INVERSE_CHANCE = "1 / chance"  # a batch's column: float32, one over the chance that the row was kept
_OWN = 0x4E45_4741_5449_5645  # so that other draws of the same rows and seed are no draws of this


def thinned(batch: Batch, rows: NDArray[np.int64], seed: int, *, labels: Collection[str], share: float) -> Batch:
    """The batch without most rows whose labels are all 0, and with INVERSE_CHANCE; for a loader's transform.

    Which rows are kept is a function of their numbers and the seed alone, so it is the same on any number of ranks.

    Args:
        batch: any batch with the labels.
        rows: (batch,) row numbers.
        seed: of the epoch.
        labels: names of the columns.
        share: chance that such a row is kept, in (0, 1].
    """
    is_negative = torch.stack([cast("Tensor", batch[name]) <= 0.5 for name in labels]).all(0)
    drawn = torch.from_numpy(uniform(rows, seed ^ _OWN)[:, 0] < share)
    inverse = torch.where(is_negative, 1 / share, 1.0)
    return chosen({**batch, INVERSE_CHANCE: inverse}, ~is_negative | drawn)
