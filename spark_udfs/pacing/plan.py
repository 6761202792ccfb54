"""A campaign's plan: multipliers for the steps that are left, and what they are expected to bring, with intervals.

The programme has one multiplier for the whole day, and one for the target: what changes from step to step is what is
left. So a plan has the same multipliers in all steps to come, and is made again after each step from what came of it
(`SoFar`): that is the controller. It stops when the budget is gone, as a bid may not be more than what is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from spark_udfs.pacing.cells import Cells, Rule, market_of, needs_curve
from spark_udfs.pacing.curve import Curve, fitted, tells
from spark_udfs.pacing.dual import OUT_OF_REACH, Limits, Solved, solve
from spark_udfs.pacing.market import Floats, Market, Weights, per_action

Z = 1.959964  # 95 %
NO_MORE = 1e-9  # of a budget that is gone
SURE = 9.0  # of a deviation's variance: what lies within three standard deviations is taken for chance
GONE, NOTHING_SEEN, TOO_DEAR = "the budget is spent", "no opportunities on the days given", "the target is out of reach"
UNTOLD = "bids of the days given do not tell the others' prices"


class Terms(NamedTuple):
    """What a campaign may spend in a day.

    Attributes:
        budget: of the day; above 0.
        cost: of an action, at most; None: any.
    """

    budget: float
    cost: float | None = None


class SoFar(NamedTuple):
    """What has come of a day by now.

    Attributes:
        step: the first that is to come.
        spend: what was paid.
        expected: the sum of the probabilities of what was won.
        actions: how many came; None: nobody knows yet.
        opportunities: how many there were; None: nobody counted.
        overall: actions for each expected one over all campaigns.
    """

    step: int = 0
    spend: float = 0.0
    expected: float = 0.0
    actions: float | None = None
    opportunities: float | None = None
    overall: float = 1.0


class Plan(NamedTuple):
    """The steps that are left.

    Attributes:
        budget: the budget's multiplier.
        target: the target's.
        weights: what a bidder multiplies; both 0: no bids.
        curve: of the others' highest bid, where it is needed to bid.
        reason: why it is no plan as others are; None: it is.
        binds: what holds the bids below the worth: budget, target, both or neither.
        gap: by how much the programme's dual lies above what the plan is expected to bring, of that; NaN where the
            target is out of reach.
        columns: by step: what `forecast` gives.
        total: the same of all steps together.
    """

    budget: float
    target: float
    weights: Weights
    curve: Curve | None
    reason: str | None
    binds: str
    gap: float
    columns: Mapping[str, Floats]
    total: Mapping[str, float]


def shrunk(observed: float, expected: float, days: float = math.inf) -> float:
    """How many came for each that was expected, as far as it is more than chance (James and Stein, positive part).

    Args:
        observed: a count.
        expected: its mean, if nothing is wrong.
        days: such counts whose mean `expected` is; none but for chance of their own if it is a sum of probabilities.
    """
    if expected <= 0:
        return 1.0
    moved = observed / expected - 1
    variance = (1 + 1 / days) * max(observed, 1.0) / expected**2
    return 1 + moved * max(0.0, 1 - SURE * variance / moved**2) if moved else 1.0


def plan(held: Cells | None, steps: int, rule: Rule, terms: Terms, so_far: SoFar = SoFar()) -> Plan:
    """Plan what is left of a day.

    Args:
        held: the campaign's cells of past days; None: there are none.
        steps: of a day.
        rule: of the auctions.
        terms: what it may spend.
        so_far: what has come of the day.
    """
    left = terms.budget - so_far.spend
    is_gone, calibration = left <= NO_MORE * terms.budget, calibration_of(so_far)
    if held is None:
        return _blind(steps - so_far.step, calibration, terms, GONE if is_gone else NOTHING_SEEN)
    curve = _curve_of(held, steps) if needs_curve(held, rule) else None
    if curve is None and needs_curve(held, rule):
        return _blind(steps - so_far.step, calibration, terms, GONE if is_gone else UNTOLD)
    market = market_of(held, rule, curve)
    rest = Rest(so_far.step, steps, volume_of(market, so_far, held.days), calibration, held.days, max(left, 0.0))
    if is_gone:
        none = Weights(0.0, 0.0)
        return Plan(0.0, 0.0, none, curve, GONE, "budget", 0.0, *forecast(market, none, rest))
    slack = 0.0 if terms.cost is None else terms.cost * calibration * so_far.expected - so_far.spend
    solved = _solved(market.rest(rest.first, rest.volume), Limits(left, terms.cost, slack), rest)
    reason = TOO_DEAR if solved.target >= OUT_OF_REACH else None
    expected = forecast(market, solved.weights, rest)
    return Plan(solved.budget, solved.target, solved.weights, curve, reason, _binds(solved), solved.gap, *expected)


def _curve_of(held: Cells, steps: int) -> Curve | None:
    seen = held.seen()
    return fitted(seen, steps) if tells(seen, steps) else None


def _solved(market: Market, limits: Limits, rest: Rest) -> Solved:
    """The multipliers; in the last step they aim at what would be spent by a lucky one.

    Nothing comes after it that could spend what chance leaves, and what is too much is stopped by the budget.
    """
    solved = solve(market, limits, rest.calibration)
    if rest.first < rest.steps - 1 or solved.budget == 0:
        return solved
    lucky = Z * np.sqrt(market.wins(per_action(market, solved.weights)).paid_squared.sum())
    return solve(market, limits._replace(budget=limits.budget + float(lucky)), rest.calibration)


def calibration_of(so_far: SoFar) -> float:
    """Actions for each one that the probabilities foretell: over all campaigns, and what is the campaign's own."""
    if so_far.actions is None:
        return so_far.overall
    return so_far.overall * shrunk(so_far.actions, so_far.overall * so_far.expected)


def volume_of(market: Market, so_far: SoFar, days: int) -> float:
    """How many opportunities there are for each that was expected by now."""
    if so_far.opportunities is None:
        return 1.0
    return shrunk(so_far.opportunities, float(market.rows[market.step < so_far.step].sum()), days)


class Rest(NamedTuple):
    """What is left of a day.

    Attributes:
        first: the first step.
        steps: of the whole day.
        volume: opportunities for each that past days had.
        calibration: actions for each that the probabilities foretell.
        days: how many past days there are.
        left: of the budget.
    """

    first: int
    steps: int
    volume: float
    calibration: float
    days: int
    left: float


def forecast(market: Market, held: Weights, rest: Rest) -> tuple[dict[str, Floats], dict[str, float]]:
    """What weights are expected to bring, by step from `first` on, and in all.

    Intervals are of chance alone: opportunities come one by one, and what is won becomes an action or not. The mean of
    some days is itself uncertain by as much as a day is, over their number. What differs from day to day beyond that is
    in none of them.

    Returns:
        By name, of each step and of all: opportunities, wins, spend, spend_low, spend_high, actions, value, roi (value
        over spend, less 1; NaN where nothing is spent), roi_low, roi_high.
    """
    won, kept = market.wins(per_action(market, held)), market.step >= rest.first
    place = market.step[kept] - rest.first
    value_each = market.worth / market.actions

    def total(of_cells: Floats, by: float = rest.volume) -> Floats:
        return by * np.bincount(place, of_cells[kept], minlength=rest.steps - rest.first)

    of_actions = rest.volume * rest.calibration
    sums = {
        "opportunities": total(market.rows),
        "wins": total(won.share * market.rows),
        "spend": total(won.paid),
        "actions": total(won.share * market.actions, of_actions),
        "value": total(won.share * market.worth, of_actions),
    }
    variances = (
        total(won.paid_squared),
        total(value_each * won.share * market.worth, of_actions),
        total(value_each * won.paid_times_p, of_actions),
    )
    spread = [(1 + 1 / rest.days) * variance for variance in variances]
    columns = _with_intervals(sums, spread, rest.left)
    whole = {name: np.atleast_1d(column.sum()) for name, column in sums.items()}
    together = _with_intervals(whole, [np.atleast_1d(held.sum()) for held in spread], rest.left)
    return columns, {name: float(column[0]) for name, column in together.items()}


def _with_intervals(sums: dict[str, Floats], spread: list[Floats], left: float) -> dict[str, Floats]:
    """Spend and ROI with 95 % intervals; nothing is spent beyond what is left, and nothing won then."""
    spend, value = sums["spend"], sums["value"]
    kept = np.minimum(1.0, left / np.maximum(spend, 1e-300))
    of_spend, of_value, of_both = spread
    far = Z * np.sqrt(of_spend)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = value / spend
        relative = of_value / value**2 + of_spend / spend**2 - 2 * of_both / (value * spend)
        wide = Z * ratio * np.sqrt(np.maximum(relative, 0.0))
    roi = np.where(spend > 0, ratio - 1, np.nan)
    stopped = {name: kept * sums[name] for name in ("wins", "spend", "actions", "value")}
    return (
        sums
        | stopped
        | {
            "spend_low": np.maximum(spend - far, 0.0),
            "spend_high": np.minimum(spend + far, left),
            "roi": roi,
            "roi_low": np.maximum(roi - wide, -1.0),
            "roi_high": roi + wide,
        }
    )


def _binds(solved: Solved) -> str:
    held = [name for name, multiplier in (("budget", solved.budget), ("target", solved.target)) if multiplier > 0]
    return {0: "neither", 1: (held or [""])[0], 2: "both"}[len(held)]


def _blind(steps: int, calibration: float, terms: Terms, reason: str) -> Plan:
    """Of a campaign of whose market nothing is known: it bids what an action is worth, or its target where it has one,
    for then none costs more, and stops when its budget is gone."""
    nothing = np.zeros(steps)
    names = ("opportunities", "wins", "spend", "actions", "value", "spend_low", "spend_high")
    columns = dict.fromkeys(names, nothing) | dict.fromkeys(("roi", "roi_low", "roi_high"), np.full(steps, np.nan))
    total = {name: float("nan") if name.startswith("roi") else 0.0 for name in columns}
    if reason == GONE:
        return Plan(0.0, 0.0, Weights(0.0, 0.0), None, reason, "budget", 0.0, columns, total)
    bids, binds = Weights(calibration, 0.0), "neither"
    if terms.cost is not None:
        bids, binds = Weights(0.0, calibration * terms.cost), "target"
    return Plan(0.0, 0.0, bids, None, reason, binds, math.nan, columns, total)
