"""How ranks fail, and which of their failures is the one to show."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.errors import LaunchError, RankLostError
from cluster.rank import resolve

if TYPE_CHECKING:
    from cluster.processes import Rank


@dataclass(frozen=True)
class Failure:
    """How a rank ended that should not have.

    Attributes:
        rank: its number.
        message: for people, with the rank in it.
        lost: it was killed, fell silent, or lost another: starting again may help.
        noticed_only: it did nothing wrong but notice that another rank was gone.
        silent: it was still running when another rank gave up waiting.
        kind: `module:Class` of an error that the only rank raised on purpose.
        busy: what the rank needed was another process's.
    """

    rank: int
    message: str
    lost: bool
    noticed_only: bool = False
    silent: bool = False
    kind: str = ""
    busy: bool = False

    @classmethod
    def of_error(cls, rank: int, size: int, error: Mapping[str, Any]) -> Failure:
        """From what `cluster.rank.run_rank` gives for an error."""
        text = "\n".join(part for part in (error["message"], error["traceback"].rstrip()) if part)
        busy = bool(error.get("busy"))
        if size == 1:
            return cls(rank, text, lost=False, kind=error["kind"], busy=busy)
        lost_peer = bool(error["lost_peer"])
        return cls(rank, f"rank {rank} of {size} failed: {text}", lost=lost_peer, noticed_only=lost_peer, busy=busy)

    def as_error(self) -> Exception:
        """What the caller of the launch gets: of one rank its own error, of several always a LaunchError."""
        if not self.kind:
            launch_error = (RankLostError if self.lost else LaunchError)(self.message)
            launch_error.busy = self.busy
            return launch_error
        with suppress(Exception):  # it is local, or made of more than a message, which it may refuse in any way
            error = resolve(self.kind)(self.message)
            if isinstance(error, Exception) and str(error) == self.message:  # some say more than they are given
                return error
        return LaunchError(f"{self.kind}: {self.message}")


def failure_of(rank: Rank) -> Failure | None:
    """How the rank failed; None while it runs and where it ended well."""
    code = rank.exit_code
    if code is None:
        return None
    ended = rank.ended or {}
    if "error" in ended:
        return Failure.of_error(rank.rank, rank.size, ended["error"])
    if code == 0 and "ok" in ended:
        return None
    if code == -signal.SIGTERM:  # its host is taken away, or a person ended it: not to be started again
        message = f"rank {rank.rank} of {rank.size} was asked to end (SIGTERM), and did"
        return Failure(rank.rank, f"{message}; the same command goes on from the last checkpoint", lost=False)
    rank.finish_log()
    how = _describe_exit(code, "after it had given its result" if ended else "before it could say why")
    last = "".join(f"\n    {line}" for line in rank.tail)
    return Failure(rank.rank, f"rank {rank.rank} of {rank.size} {how}; its last lines:{last or ' none'}", lost=True)


def silent_failure(rank: Rank) -> Failure:
    """A rank that still runs after another gave up waiting for it; asks for its stack, which goes to its log."""
    state = rank.state
    rank.signal(signal.SIGUSR1)
    time.sleep(0.3)
    if (ended := failure_of(rank)) is not None and rank.ended:
        return ended  # it noticed as well, just now
    where = "".join(f"\n    [{rank.rank}] {line}" for line in rank.tail)
    message = (
        f"rank {rank.rank} of {rank.size} did not answer; its process is {state}; where it stands:{where or ' unknown'}"
    )
    return Failure(rank.rank, message, lost=True, silent=True)


def verdict(failures: Sequence[Failure]) -> Exception:
    """The error to show: the rank that failed by itself, else the one that the others waited for."""
    told = [failure for failure in failures if not failure.noticed_only and not failure.silent]
    silent = [failure for failure in failures if failure.silent]
    noticed = [failure for failure in failures if failure.noticed_only]
    if told:
        return told[0].as_error()
    if silent:
        return RankLostError("\n".join(failure.message for failure in [*silent, *noticed[:1]]))
    head = "no rank failed by itself, each lost the others: the network between their hosts broke, or one came too late"
    return RankLostError("\n".join([head, *(failure.message for failure in noticed)]))


def _describe_exit(code: int, when: str) -> str:
    if code >= 0:
        return f"ended with exit code {code} {when}"
    name = signal.Signals(-code).name
    hint = " (often the system out of memory: give it more, or run fewer ranks)" if name == "SIGKILL" else ""
    return f"was killed by {name} {when}{hint}"
