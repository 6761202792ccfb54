"""A rank's work beside the ranks' meetings, and how the others hear of its end (`World.on_each`)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from training import errors
from training.errors import MillraceError, PeerLostError


class Apart:
    """Work in a thread of its own, and what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.error: BaseException | None = None
        self.outcome: dict[str, Any] = {}
        self.thread = threading.Thread(target=self._run, name="apart", daemon=True)  # a lost peer ends the rank at once
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = {"value": json.loads(json.dumps(self._work()))}
        except BaseException as error:  # raised again by the rank's own thread
            self.error = error
            self.outcome = {"kind": type(error).__name__, "message": str(error)}


def same_error(rank: int, what: str, outcome: dict[str, Any]) -> MillraceError:
    """Another rank's error on this one: ours as they are, others as the loss of that rank."""
    kind = getattr(errors, outcome["kind"], None)
    if isinstance(kind, type) and issubclass(kind, MillraceError):
        error = kind(outcome["message"])
        error.lost_peer = True
        return error
    return PeerLostError(f"rank {rank} failed in '{what}': {outcome['kind']}: {outcome['message']}; look there")
