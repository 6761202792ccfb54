"""Item indices on their way to executors in a few bytes each, for they travel in the plan.

Spark Connect takes a plan of 128 MiB at most and sends it with every question; one that judges five rankings of all
items would hold 48 bytes an item.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from spark_udfs.top_k import Ints

_PLANES = 8  # bytes of an index: the high ones are equal, so each stands beside its like


class Packed(NamedTuple):
    """Indices as `pack` makes them: some 3 bytes each in any order, less than one in ascending order."""

    data: bytes

    def unpack(self) -> Ints:
        """The indices as they were."""
        planes = np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(_PLANES, -1)
        return np.ascontiguousarray(planes.T).view(np.int64).ravel()


def pack(indices: Ints) -> Packed:
    """Make indices small."""
    planes = np.ascontiguousarray(indices, np.int64).view(np.uint8).reshape(-1, _PLANES).T
    return Packed(zlib.compress(planes.tobytes(), level=1))
