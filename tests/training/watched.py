"""What runs on ranks for the tests of observers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from training.errors import DataError, PreemptedError
from training.watch.observers import Observers
from training.world import World


class _Slow:
    """One whose server takes its time at the end."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec

    def __call__(self, event: object) -> None:
        """Events are taken at once."""

    def close(self, outcome: str, tags: object) -> None:
        time.sleep(self._spec["close_s"])
        Path(self._spec["closed"]).write_text(outcome)


def watched(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target that ends well, with an error on all ranks together, or on rank 0 alone."""
    with Observers([_Slow(spec)] if world.rank == 0 else [], print, world):
        world.barrier()
        if spec["end"] == "together":
            raise PreemptedError("asked to end")
        if spec["end"] == "alone" and world.rank == 0:
            raise DataError("the real error")
        world.barrier()
    return {}
