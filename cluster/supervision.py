"""A launch's ranks on this host from their start to their end: find the one that failed first, leave none behind."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import LaunchError, RankLostError
from cluster.failures import failure_of, silent_failure, verdict
from cluster.processes import Rank, stop

START_S = 180.0  # until every rank has met the others: Python, torch and Horovod load from a cold disk
GRACE_S = 3.0  # for the rank that caused a failure to say so, after another rank noticed
END_S = 30.0  # for the other ranks to end, after the first has: all have met in the world's last barrier by then
POLL_S = 0.1  # a hundredth of a core where it is 0.02, on a host whose cores all compute


@dataclass(frozen=True)
class Limit:
    """How long a launch may take, restarts included; None is no limit."""

    timeout_s: float | None = None
    started: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        return math.inf if self.timeout_s is None else self.started + self.timeout_s - time.monotonic()

    def passed(self, what: str) -> str:
        """The message for a launch that did not end in time."""
        return f"the launch must end within timeout_s={self.timeout_s:g}; {what}; raise it, or see what it waits for"


def supervise(ranks: Sequence[Rank], limit: Limit) -> dict[str, Any]:
    """Wait for all ranks and return rank 0's result; whatever happens, none is left running.

    Raises:
        RankLostError: a rank was killed or fell silent.
        LaunchError: a rank failed, or the ranks did not join or finish in time.
    """
    started = time.monotonic()
    first_failure_at: float | None = None
    first_end_at: float | None = None
    try:
        while True:
            now = time.monotonic()
            failures = [failure for rank in ranks if (failure := failure_of(rank))]
            running = [rank for rank in ranks if rank.exit_code is None]
            if failures and first_failure_at is None:
                first_failure_at = now
            told = [failure for failure in failures if not failure.noticed_only]
            if told or (first_failure_at is not None and (not running or now - first_failure_at > GRACE_S)):
                silent = [] if told else [silent_failure(rank) for rank in running]
                raise verdict(failures + silent)
            if not running:
                return _result(ranks[0])
            if first_end_at is None and any(rank.has_result or rank not in running for rank in ranks):
                first_end_at = now
            if first_end_at is not None and now - first_end_at > END_S:
                return _result_of_those_left(ranks, running)
            _check_time(ranks, running, now - started, limit)
            time.sleep(POLL_S)
    finally:
        stop(ranks)


def _result_of_those_left(ranks: Sequence[Rank], running: Sequence[Rank]) -> dict[str, Any]:
    """Rank 0's result where all that still run have told theirs: a thread that they left behind holds them.

    Raises:
        RankLostError: one has told none.
    """
    late = [rank for rank in running if not rank.has_result]
    if late:
        raise verdict([silent_failure(rank) for rank in late])
    for rank in running:
        rank.say(f"has given its result and does not end within {END_S:g} s; it is ended")
    return _result(ranks[0])


def _check_time(ranks: Sequence[Rank], running: Sequence[Rank], passed_s: float, limit: Limit) -> None:
    absent = [str(rank.rank) for rank in ranks if not rank.joined] if passed_s > START_S else []
    if absent:
        raise RankLostError(
            f"all {len(ranks)} ranks must meet within {START_S:.0f} s; rank {', '.join(absent)} did not; "
            "see its lines above, and look whether this machine is overloaded"
        )
    if limit.left_s() <= 0:
        names = ", ".join(str(rank.rank) for rank in running)
        last = "".join(f"\n    [{rank.rank}] {line}" for rank in running for line in rank.tail)
        raise LaunchError(limit.passed(f"rank {names} of {len(ranks)} still ran; its last lines:{last or ' none'}\n"))


def _result(rank: Rank) -> dict[str, Any]:
    assert rank.ended is not None, "failure_of would have said so"
    result: dict[str, Any] = rank.ended["ok"]
    return result
