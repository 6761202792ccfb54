"""The multipliers of a campaign's budget and target: the dual of the hindsight linear programme.

    most of  sum x (p v - price)   where  sum x price <= budget,  sum x price <= target sum x p + slack,  0 <= x <= 1

The dual is convex in the two multipliers, and its slopes are what is left of the budget and of the target: each is
brought to 0 by halving, one within the other where both bind. An opportunity has one campaign, so that campaigns are
programmes of their own. (Balseiro and Gur, 2019; Aggarwal, Badanidiyuru and Mehta, 2019.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from spark_udfs.pacing.market import Brought, Market, Weights, brought, weights

HALVINGS = 40
CLOSE = 1e-7  # of the budget
OUT_OF_REACH = 1e9  # no multiplier is larger: one that is as large does not bring about what it should


class Limits(NamedTuple):
    """What a campaign may spend.

    Attributes:
        budget: what is left of it; above 0.
        cost: of an action, at most; None: any.
        slack: what earlier actions allowed beyond what they cost (below 0: they cost more).
    """

    budget: float
    cost: float | None = None
    slack: float = 0.0


class Solved(NamedTuple):
    """The multipliers, and what they bring.

    Attributes:
        budget: the budget's multiplier.
        target: the target's; OUT_OF_REACH where no bids bring the cost down to it.
        weights: what a bidder multiplies.
        brought: spend, actions and value.
        gap: by how much the dual lies above value less spend, of it: 0 is the best that there is; NaN where a limit
            cannot be held.
    """

    budget: float
    target: float
    weights: Weights
    brought: Brought
    gap: float


def solve(market: Market, limits: Limits, calibration: float) -> Solved:
    """The multipliers under which a campaign makes most of its market.

    Args:
        market: its cells.
        limits: what it may spend.
        calibration: actions for each one that the probabilities foretell.
    """
    cost = limits.cost or 0.0

    def bring(budget: float, target: float) -> Brought:
        return brought(market, weights(budget, target, cost, calibration), calibration)

    def over_budget(budget: float, target: float) -> float:
        return bring(budget, target).spend - limits.budget

    def over_target(budget: float, target: float) -> float:
        got = bring(budget, target)
        return got.spend - cost * got.actions - limits.slack

    def budget_of(target: float) -> float:
        return _root(lambda budget: over_budget(budget, target), CLOSE * limits.budget)

    budget, target = budget_of(0.0), 0.0
    if limits.cost is not None and over_target(budget, 0.0) > CLOSE * limits.budget:
        budget, target = 0.0, _root(lambda held: over_target(0.0, held), CLOSE * limits.budget)
        if over_budget(0.0, target) > CLOSE * limits.budget:
            target = _root(lambda held: over_target(budget_of(held), held), CLOSE * limits.budget)
            budget = budget_of(target)
    got = bring(budget, target)
    return Solved(budget, target, weights(budget, target, cost, calibration), got, _gap(budget, target, got, limits))


def _root(over: Callable[[float], float], close: float) -> float:
    """The least multiplier at which `over`, which falls with it, is 0 at most; OUT_OF_REACH where none is there."""
    if over(0.0) <= close:
        return 0.0
    if over(OUT_OF_REACH) > close:
        return OUT_OF_REACH
    low, high = 0.0, OUT_OF_REACH / (1 + OUT_OF_REACH)  # of m / (1 + m), for a multiplier m
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        excess = over(middle / (1 - middle))
        low, high = (middle, high) if excess > 0 else (low, middle)
        if abs(excess) <= close:
            return middle / (1 - middle)
    return high / (1 - high)


def _gap(budget: float, target: float, got: Brought, limits: Limits) -> float:
    """What is left of budget and target, at their multipliers, over the value less the spend."""
    if max(budget, target) >= OUT_OF_REACH:
        return math.nan
    left = budget * (limits.budget - got.spend)
    if limits.cost is not None:
        left += target * (limits.slack + limits.cost * got.actions - got.spend)
    return abs(left) / max(got.value - got.spend, 1e-12)
