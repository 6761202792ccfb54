"""Days of auctions as arrays: their cells, and a day played step by step under a plan; what Spark does of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spark_udfs.pacing.cells import COARSE, KEYS, LEAST, MOST, RATIO, SUMS, Cells, Rule, cells_of
from spark_udfs.pacing.curve import ABOVE, BELOW, KNOWN, shaded
from spark_udfs.pacing.plan import Plan, SoFar, Terms, plan

Floats = Any


class Day(NamedTuple):
    """Opportunities of one campaign and day, in the order in which they come."""

    step: Floats
    p: Floats  # as the planner knows it
    true_p: Floats
    value: Floats
    price: Floats
    acts: Floats


def cells_of_day(day: Day, rule: Rule, days: int = 1) -> Cells:
    """What `cells` makes of rows whose prices are known."""

    def bins(values: Floats, each: int) -> Floats:
        return np.floor(np.log2(np.clip(values, LEAST, MOST)) * each).astype(np.int64)

    zero = np.zeros(len(day.p), np.int64)
    second = rule == "second"
    keys = [
        day.step,
        zero + KNOWN,
        bins(day.price / day.p, RATIO) if second else zero,
        zero if second else bins(day.p, COARSE),
        zero,
        bins(day.value, COARSE),
    ]
    log_p, log_price = np.log(day.p), np.log(np.clip(day.price, LEAST, MOST))
    sums = [
        np.ones(len(day.p)),
        day.p,
        day.p * day.value,
        day.price,
        day.price**2,
        log_p,
        log_p**2,
        log_price,
        log_price**2,
        log_p * log_price,
    ]
    unique, place = np.unique(np.column_stack(keys), axis=0, return_inverse=True)
    columns = dict(zip(KEYS, unique.T, strict=True))
    columns |= {name: np.bincount(place.ravel(), of_rows) for name, of_rows in zip(SUMS, sums, strict=True)}
    return cells_of(columns, days)


def without_prices(day: Day, log_bid: Floats) -> Cells:
    """The cells of a day of whose prices only bids tell."""
    won, log_p, zero = np.exp(log_bid) > day.price, np.log(day.p), np.zeros(len(day.p))
    columns: dict[str, Floats] = dict.fromkeys((*KEYS, *SUMS), zero)
    columns |= {"step": day.step, "kind": np.where(won, BELOW, ABOVE), "rows": zero + 1, "actions": day.p}
    columns |= {"worth": day.p * day.value, "log_p": log_p, "log_p_squared": log_p**2, "log_price": log_bid}
    columns |= {"log_price_squared": log_bid**2, "log_p_price": log_p * log_bid}
    return cells_of(columns, 1)


class Played(NamedTuple):
    spend: float
    actions: float  # by the true probabilities
    value: float
    by_step: Floats
    plans: list[Plan]


def play(
    day: Day, held: Cells | None, steps: int, rule: Rule, terms: Terms, told: Callable[[Floats], Floats] | None = None
) -> Played:
    """Play a day: plan, bid a step, look at what came of it, plan again."""
    so_far, spends, plans, value, actions = SoFar(0, 0.0, 0.0, 0.0, 0.0), [], [], 0.0, 0.0
    for step in range(steps):
        made = plan(held, steps, rule, terms, so_far)
        at = day.step == step
        won, paid = bid_a_step(day, at, made, rule, terms.budget - so_far.spend)
        true, p = day.true_p[at][won], day.p[at][won]
        spends.append(paid.sum()), plans.append(made)
        value, actions = value + (true * day.value[at][won]).sum(), actions + true.sum()
        so_far = SoFar(
            step + 1,
            so_far.spend + paid.sum(),
            so_far.expected + p.sum(),
            so_far.actions + day.acts[at][won].sum(),
            so_far.opportunities + at.sum(),
        )
    return Played(so_far.spend, actions, value, np.array(spends), plans)


def bid_a_step(day: Day, at: Floats, made: Plan, rule: Rule, left: float) -> tuple[Floats, Floats]:
    """Which opportunities of a step are won, and what the won ones cost."""
    worth = day.p[at] * (made.weights.of_value * day.value[at] + made.weights.of_action)
    bid = worth
    if rule == "first" and made.curve is not None:
        bid = shaded(worth, made.curve.log_mean(day.step[at], day.p[at]), made.curve.spread)
    best = bid > day.price[at]
    pays = np.where(best, day.price[at] if rule == "second" else bid, 0.0)
    won = best & (np.cumsum(pays) <= left)
    return won, pays[won]
