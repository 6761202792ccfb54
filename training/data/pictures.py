"""Pictures on their way to a model: bytes to pixels, and what is changed of them while they are learnt from.

Each change of a picture is a function of (seed, row number) alone, as of every transform (training/data/transform.py);
the seed is one of each epoch, so that a picture is seen otherwise in each.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from training.batch import Batch
from training.data.plan import IntArray
from training.data.transform import Transform
from training.hashes import uniform
from training.pixels import Pixels, pixels_of
from training.schema import Column

Doubles = NDArray[np.float64]

ERASED_SIDES = (0.15, 0.45)  # of the picture's own, between which a rectangle that is erased has its own


def changing(column: Column, *, flipped: float, shifted: int, erased: float) -> Transform:
    """What makes bytes of pictures pixels, (rows, height, width, channels) uint8, and changes them.

    Args:
        column: of the pictures.
        flipped: share that is seen from the other side, left for right.
        shifted: pixels by which one is moved at most, each way, up and down and across; its edge is drawn out.
        erased: share of which a rectangle is covered with the picture's mean (Zhong et al., "Random erasing data
            augmentation", 2017).
    """

    def change(batch: Batch, rows: IntArray, seed: int) -> Batch:
        pictures = batch[column.name]
        assert isinstance(pictures, list)
        pixels, drawn = pixels_of(pictures, column), uniform(rows, seed, 8)  # type: ignore[arg-type]
        pixels = _moved(pixels, drawn[:, 0] < flipped, drawn[:, 1:3], shifted)
        _erase(pixels, drawn[:, 3] < erased, drawn[:, 4:])
        return batch | {column.name: torch.from_numpy(pixels)}

    return change


def _moved(pixels: Pixels, is_flipped: NDArray[np.bool_], drawn: Doubles, most: int) -> Pixels:
    """A copy, flipped where that is said, then moved by up to `most` pixels as (rows, 2) numbers in [0, 1) say."""
    _, height, width, _ = pixels.shape
    by = np.floor(drawn * (2 * most + 1)).astype(np.int64) - most
    down = np.clip(np.arange(height) + by[:, :1], 0, height - 1)
    across = np.clip(np.arange(width) + by[:, 1:], 0, width - 1)
    across = np.where(is_flipped[:, None], width - 1 - across, across)
    moved: Pixels = pixels[np.arange(len(pixels))[:, None, None], down[:, :, None], across[:, None, :]]
    return moved


def _erase(pixels: Pixels, is_erased: NDArray[np.bool_], drawn: Doubles) -> None:
    """Cover a rectangle of some pictures, whose sides and place (rows, 4) numbers in [0, 1) say."""
    sides = np.asarray(pixels.shape[1:3])
    low, high = ERASED_SIDES
    own = np.maximum(1, np.round(sides * (low + (high - low) * drawn[:, :2]))).astype(np.int64)
    start = np.floor(drawn[:, 2:] * (sides + 1 - own)).astype(np.int64)
    for row in np.flatnonzero(is_erased):
        (top, left), (height, width) = start[row], own[row]
        pixels[row, top : top + height, left : left + width] = pixels[row].mean(axis=(0, 1)).round().astype(np.uint8)
