"""What is said first of an evaluation, in the terminal and on the report: list length and hardest comparison.

A lead is said in the metric that it stands beside, with its interval, against the baseline that comes closest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREFERRED_K = 20
JUDGED = ("recall", "ndcg")


def main_k(ks: Sequence[int]) -> int:
    """The list length that is shown first: 20, else the longest below it, else the shortest."""
    return max((k for k in ks if k <= PREFERRED_K), default=min(ks))


def gained(now: float, was: float) -> float:
    """What a metric has gained, as a share of what it was; above 0 where it is more, whatever the sign of what it was.

    0 where it was 0, of which there is no share.
    """
    return (now - was) / abs(was) if was else 0.0


@dataclass(frozen=True)
class Lead:
    """Ours less a baseline's, user by user, with its 95 % interval.

    Attributes:
        metric: "recall_at_20" and the like.
        baseline: the model that comes closest, or leads most.
        value: positive where ours is more.
        low: lower bound.
        high: upper bound.
        lower: whether less is better.
    """

    metric: str
    baseline: str
    value: float
    low: float
    high: float
    lower: bool = False

    @property
    def gain(self) -> float:
        """Positive where ours is better."""
        return -self.value if self.lower else self.value

    def words(self, name: Callable[[str], str] = str) -> str:
        """The lead in one phrase; `name` gives a baseline's name."""
        said = f"{self.metric.replace('_at_', '@')} {self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        more, less = ("worse than", "better than") if self.lower else ("better than", "worse than")
        verdict = less if self.high < 0 else more if self.low > 0 else "not shown to differ from"
        return f"{said}: {verdict} {name(self.baseline)}"


def hardest(protocol: Mapping[str, Any], metric: str, lower: Collection[str] = ()) -> Lead | None:
    """The comparison in which ours fares worst by a metric; None where none was made.

    Args:
        protocol: of evaluation.json; `differences` holds ours less each baseline's.
        metric: "recall_at_20" and the like.
        lower: metrics of which less is better.
    """
    leads = [
        Lead(metric, baseline, held[metric]["value"], held[metric]["low"], held[metric]["high"], metric in lower)
        for baseline, held in protocol.get("differences", {}).items()
        if metric in held
    ]
    return min(leads, key=lambda lead: lead.gain, default=None)
