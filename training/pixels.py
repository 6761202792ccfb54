"""Bytes of pictures as pixels: what a table holds of a picture of a fixed shape, as models take it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.errors import SchemaError
from training.schema import Column

Pixels = NDArray[np.uint8]


def pixels_of(pictures: Sequence[bytes], column: Column) -> Pixels:
    """(rows, height, width, channels) of pictures as the schema says.

    Raises:
        SchemaError: the schema names no shape, or a picture has other bytes than that.
    """
    if column.shape is None:
        raise SchemaError(
            f"column '{column.name}' must have a shape in the schema, for its bytes to be pixels; it has none: "
            "give it one, and build the examples so"
        )
    held, wanted = b"".join(pictures), int(np.prod(column.shape))
    if any(len(picture) != wanted for picture in pictures):
        other = next(len(picture) for picture in pictures if len(picture) != wanted)
        raise SchemaError(
            f"column '{column.name}' must hold {wanted} bytes a picture, height x width x channels = "
            f"{' x '.join(map(str, column.shape))}; one has {other}: build the examples again"
        )
    return np.frombuffer(held, np.uint8).reshape(len(pictures), *column.shape)


def on_device(pictures: Tensor | Sequence[bytes], column: Column, device: torch.device) -> Tensor:
    """(rows, channels, height, width) float32 from -1 to 1, of pixels or of bytes."""
    if not isinstance(pictures, Tensor):
        pictures = torch.from_numpy(pixels_of(pictures, column).copy())
    return pictures.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
