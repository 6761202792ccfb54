"""A training that is asked to end: schedulers send SIGTERM some seconds before they take a machine away."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, NoReturn

from training.errors import PreemptedError

if TYPE_CHECKING:
    from training.state.checkpoint import Checkpoints
    from training.state.progress import Progress
    from training.world import World


class Notice:
    """Takes note of SIGTERM, in place of the process' end by it, as long as this is entered.

    In another thread than the main one Python allows no handler, and the signal does what it did before. Where it came
    and nothing was raised for it, it is sent again at the end.

    Attributes:
        given: whether it came.
    """

    def __init__(self) -> None:
        self.given, self._listens = False, threading.current_thread() is threading.main_thread()

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.given = True

    def __enter__(self) -> Notice:
        if self._listens:
            self._before = signal.signal(signal.SIGTERM, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listens:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            if self.given and kind is None:
                signal.raise_signal(signal.SIGTERM)


def leave(progress: Progress, steps_in_all: int, saver: Checkpoints | None, world: World) -> NoReturn:
    """End a training that a rank was asked to end.

    The first rank that ends is the launcher's reason to stop the others, so all wait for what rank 0 still writes.

    Raises:
        PreemptedError: always.
    """
    kept = "nothing of it is kept, for it has no checkpoint folder"
    if saver:
        saver.wait()
        kept = f"its checkpoint is in '{saver.directory}': start it again, and it goes on from there"
    world.barrier()
    raise PreemptedError(
        f"the training was asked to end (SIGTERM) and ended after step {progress.step} of {steps_in_all}; {kept}"
    )
