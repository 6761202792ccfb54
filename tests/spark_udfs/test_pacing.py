"""Bids and budgets, by arrays alone: the dual against the programme, days played, curves, feedback and intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spark_udfs.pacing import plan as plans
from spark_udfs.pacing.cells import Rule, market_of
from spark_udfs.pacing.curve import ABOVE, BELOW, Curve, Seen, below, fitted, shaded, tells
from spark_udfs.pacing.dual import Limits, solve
from spark_udfs.pacing.plan import SoFar, Terms, plan, shrunk
from spark_udfs.simulated import ads
from spark_udfs.simulated.shop import Shop
from tests.spark_udfs.played_days import Day, Floats, cells_of_day, play, without_prices

STEPS, ROWS = 24, 8_000
MONEY = 60.0  # a budget that binds: about a third of what all that is worth its price costs


def a_day(seed: int, rows: int = ROWS, values: tuple[float, ...] = (4.0,), wrong: float = 1.0) -> Day:
    """Opportunities of which 40 % are worth their price at the most, whose prices follow the odds and the hour."""
    random = np.random.default_rng(seed)
    step = np.sort(random.integers(0, STEPS, rows))
    p = np.minimum(np.exp(np.log(0.02) + 0.8 * random.normal(size=rows)), 0.9)
    value = random.choice(values, rows)
    log_price = np.log(0.05 * np.sqrt(p / 0.02)) + 0.3 * (step > 17) + 0.6 * random.normal(size=rows)
    return Day(step, p * wrong, p, value, np.exp(log_price), random.random(rows) < p)


def best_of(day: Day, terms: Terms) -> float:
    """The programme's value less spend, of one value: the cheapest actions first, in whole wins."""
    order = np.argsort(day.price / day.true_p)
    price, p, value = (of[order] for of in (day.price, day.true_p, day.value))
    spend, actions = np.cumsum(price), np.cumsum(p)
    kept = (price <= p * value) & (spend <= terms.budget)
    kept &= spend <= (terms.cost or np.inf) * actions
    return float((p * value - price)[np.cumprod(kept).astype(bool)].sum())


@pytest.mark.parametrize(
    ("terms", "binds"),
    [
        (Terms(MONEY), "budget"),
        (Terms(9_999.0, 1.3), "target"),
        (Terms(MONEY, 9.0), "budget"),
        (Terms(9_999.0), "neither"),
    ],
    ids=lambda value: str(value),
)
def test_a_plan_makes_what_the_programme_makes(terms: Terms, binds: str) -> None:
    day = a_day(0)
    made = plan(cells_of_day(day, "second"), STEPS, "second", terms)
    assert made.binds == binds
    assert made.gap < 1e-4
    best = best_of(day, terms)
    assert made.total["value"] - made.total["spend"] == pytest.approx(best, rel=0.01)
    assert made.total["spend"] <= terms.budget * (1 + 1e-6)


def test_budget_and_target_bind_together_where_values_differ() -> None:
    """The dual of all rows, at the multipliers of the cells, lies above any bids: the plan's lie close below it."""
    day, budget, cost = a_day(1, values=(2.0, 8.0)), 130.0, 1.45
    market = market_of(cells_of_day(day, "second"), "second", None)
    found = solve(market, Limits(budget, cost), 1.0)
    assert found.budget > 0
    assert found.target > 0
    worth = day.p * (day.value + found.target * cost) - day.price * (1 + found.budget + found.target)
    dual = budget * found.budget + np.maximum(worth, 0).sum()
    bid = day.p * (found.weights.of_value * day.value + found.weights.of_action)
    won = bid > day.price
    spend, actions, value = (float(of[won].sum()) for of in (day.price, day.p, day.p * day.value))
    assert spend == pytest.approx(budget, rel=0.02)
    assert spend / actions == pytest.approx(cost, rel=0.02)
    assert value - spend == pytest.approx(dual, rel=0.01)
    assert found.brought.spend == pytest.approx(spend, rel=0.02)


def test_a_target_that_nothing_meets_is_said() -> None:
    made = plan(cells_of_day(a_day(2), "second"), STEPS, "second", Terms(9_999.0, 1.0), SoFar(12, 50.0, 10.0))
    assert made.reason == plans.TOO_DEAR
    assert np.isnan(made.gap)
    assert made.weights.of_action == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("wrong", [1.0, 1.2, 0.8], ids=["right", "too high", "too low"])
def test_a_day_is_played_within_its_budget_and_worth_it(wrong: float) -> None:
    terms, today = Terms(MONEY), a_day(4, wrong=wrong)
    played = play(today, cells_of_day(a_day(3, wrong=wrong), "second"), STEPS, "second", terms)
    assert 0.99 * terms.budget <= played.spend <= terms.budget
    assert (played.value - played.spend) / best_of(today, terms) > 0.95


def test_a_target_is_held() -> None:
    terms, today = Terms(9_999.0, 1.3), a_day(6)
    played = play(today, cells_of_day(a_day(5), "second"), STEPS, "second", terms)
    assert played.spend / played.actions == pytest.approx(1.3, rel=0.02)
    assert (played.value - played.spend) / best_of(today, terms) > 0.95


def test_feedback_mends_odds_that_are_too_high() -> None:
    """Many actions have come, a sixth too few: the bids fall by as much, and the target holds for what truly comes."""
    terms, today = Terms(9_999.0, 1.3), a_day(7, rows=80_000, wrong=1.2)
    played = play(today, cells_of_day(a_day(8, rows=80_000, wrong=1.2), "second"), STEPS, "second", terms)
    assert played.spend / played.actions == pytest.approx(1.3, rel=0.06)
    assert plans.calibration_of(SoFar(1, 9.0, 6_000.0, 5_000.0)) == pytest.approx(5 / 6, rel=0.01)


def test_what_is_chance_moves_nothing() -> None:
    assert shrunk(129, 100) == shrunk(140, 100, days=1) == 1.0
    assert shrunk(140, 100) > 1.0
    assert shrunk(0, 0) == 1.0
    assert shrunk(12_000, 10_000) == pytest.approx(1.2, abs=0.01)
    assert 0.5 < shrunk(50, 100) < 0.7


def test_a_fuller_day_is_seen_in_its_opportunities() -> None:
    """Twice as many come: half of the morning's bids are enough, which the count tells after some steps."""
    terms = Terms(MONEY)
    played = play(a_day(10, rows=2 * ROWS), cells_of_day(a_day(9), "second"), STEPS, "second", terms)
    assert 0.99 * terms.budget <= played.spend <= terms.budget
    assert played.plans[4].budget > 1.3 * played.plans[0].budget
    assert played.by_step[18:].sum() > 0.1 * terms.budget


def test_spend_lies_in_its_interval() -> None:
    held, inside = cells_of_day(a_day(11), "second"), []
    for seed in range(12, 16):
        played = play(a_day(seed), held, STEPS, "second", Terms(MONEY))
        bounds = [(made.columns["spend_low"][0], made.columns["spend_high"][0]) for made in played.plans]
        inside += [low <= spend <= high for (low, high), spend in zip(bounds, played.by_step, strict=True)]
    assert 0.88 <= np.mean(inside) <= 1.0


def test_a_last_step_is_planned_to_win_what_it_can_pay() -> None:
    """It aims at more than there is, and what it wins ends with the money."""
    made = plan(cells_of_day(a_day(0), "second"), STEPS, "second", Terms(MONEY), SoFar(STEPS - 1, MONEY - 1, 40.0))
    assert made.total["spend"] == pytest.approx(1.0)
    assert made.total["value"] / made.total["spend"] - 1 == pytest.approx(made.total["roi"])
    assert made.total["wins"] < made.total["opportunities"]


def test_roi_lies_in_its_interval() -> None:
    """Of days on which the planned bids simply stand."""
    made = plan(cells_of_day(a_day(20), "second"), STEPS, "second", Terms(9_999.0))
    found = []
    for seed in range(100, 160):
        day = a_day(seed)
        won = day.p * made.weights.of_value * day.value > day.price
        roi = (day.acts[won] * day.value[won]).sum() / day.price[won].sum() - 1
        found.append(made.total["roi_low"] <= roi <= made.total["roi_high"])
    assert 0.85 <= np.mean(found) <= 1.0
    assert made.total["roi_high"] - made.total["roi_low"] < 1.0


def test_without_money_nothing_is_bid_and_without_cells_the_value() -> None:
    held, terms = cells_of_day(a_day(0), "second"), Terms(MONEY)
    for cells in (held, None):
        gone = plan(cells, STEPS, "second", terms, SoFar(3, MONEY))
        assert gone.reason == plans.GONE
        assert gone.weights == (0.0, 0.0)
        assert len(gone.columns["spend"]) == STEPS - 3
    unseen = plan(None, STEPS, "second", terms)
    assert unseen.reason == plans.NOTHING_SEEN
    assert unseen.weights == (1.0, 0.0)
    assert plan(None, STEPS, "second", Terms(MONEY, 1.3)).weights == (0.0, 1.3)  # then no action costs more
    assert play(a_day(1), None, STEPS, "second", Terms(5.0)).spend <= 5.0


def test_a_campaign_whose_opportunities_are_over_expects_nothing_more() -> None:
    day = a_day(0)
    morning = Day(*(of[day.step < 6] for of in day))
    made = plan(cells_of_day(morning, "second"), STEPS, "second", Terms(MONEY), SoFar(6, 10.0))
    assert made.total["spend"] == 0.0
    assert np.isnan(made.total["roi"])


def test_shading_is_the_best_of_all_bids() -> None:
    worth, mean, spread = np.array([0.2, 1.0, 3.0]), np.array([0.0, 0.3, -0.5]), 0.6
    bids = np.linspace(1e-3, 4, 40_000)
    chance = below((np.log(bids)[None, :] - mean[:, None]) / spread)
    best = bids[np.argmax(chance * (worth[:, None] - bids[None, :]), axis=1)]
    assert shaded(worth, mean, spread) == pytest.approx(best, rel=2e-3)
    assert shaded(np.array([0.0, 0.01]), np.array([np.nan, 0.0]), 0.05) == pytest.approx([0.0, 0.01])


def test_first_prices_are_shaded_to_more_than_the_worth_brings() -> None:
    """By the true curve the best bids' expectation is `fluid`; a bid of the whole worth leaves nothing."""
    terms, today, steps = Terms(25.0), a_day(21), np.arange(STEPS)
    played = play(today, cells_of_day(a_day(22), "first"), STEPS, "first", terms)
    assert played.spend <= terms.budget
    curve = played.plans[0].curve
    assert curve is not None
    assert (curve.slope, curve.spread) == pytest.approx((0.5, 0.6), abs=0.03)
    truth = Curve(np.log(0.05) - 0.5 * np.log(0.02) + 0.3 * (steps > 17), 0.5, 0.6)
    fluid = solve(market_of(cells_of_day(today, "first"), "first", truth), Limits(*terms), 1.0).brought
    assert (played.value - played.spend) / (fluid.value - fluid.spend) > 0.9


def test_a_curve_is_found_from_bids_that_won_and_lost() -> None:
    """The simulated shop's log, in which prices are never told: their mean by hour, and their spread."""
    shop = Shop(users=3_000, items=60, days=120, orders_per_user=8.0, tastes=4, seed=3)
    rows: Any = ads.auctions_of(np.arange(shop.users), shop)
    hour, log_p, log_bid = (
        rows["auction_time"] % 86_400 // 3_600,
        np.log(rows["click_probability"]),
        np.log(rows["bid"]),
    )
    one = np.ones(len(hour))
    kind = np.where(rows["won"], BELOW, ABOVE)
    curve = fitted(Seen(hour, kind, one, log_p, log_p**2, log_bid, log_bid**2, log_p * log_bid), 24)
    mean = curve.steps + curve.slope * log_p.mean()
    assert curve.spread == pytest.approx(np.hypot(ads.MARKET_SPREAD, ads.MARKET_CUSTOMER), rel=0.03)
    assert mean[:18].mean() == pytest.approx(ads.MARKET, abs=0.03)
    assert mean[18:].mean() == pytest.approx(ads.MARKET + ads.EVENING, abs=0.05)


def test_unknown_prices_are_planned_with_by_their_curve() -> None:
    day = a_day(30)
    held = [cells_of_day(day, "second"), without_prices(day, drawn_bids(day))]
    made, other = (plan(cells, STEPS, "second", Terms(MONEY)) for cells in held)
    assert other.total["spend"] == pytest.approx(MONEY, rel=0.01)
    assert other.weights.of_value == pytest.approx(made.weights.of_value, rel=0.05)
    assert other.total["value"] == pytest.approx(made.total["value"], rel=0.05)


def drawn_bids(day: Day, shift: float = 0.0, spread: float = 0.8) -> Floats:
    return np.log(0.05) + shift + spread * np.random.default_rng(1).normal(size=len(day.p))


def test_a_curve_of_few_wins_is_found() -> None:
    """Two bids of a hundred won: the price's mean is far above what won, where plain steps are slow."""
    day = a_day(30)
    curve = fitted(without_prices(day, drawn_bids(day, -1.5, 0.3)).seen(), STEPS)
    mean = curve.steps.mean() + curve.slope * np.log(day.p).mean()
    assert mean == pytest.approx(np.log(day.price).mean(), abs=0.15)
    assert curve.spread == pytest.approx(0.6, abs=0.1)


@pytest.mark.parametrize("rule", ["second", "first"])
@pytest.mark.parametrize(("shift", "spread"), [(8.0, 0.3), (-8.0, 0.3), (0.0, 0.0)], ids=["won", "lost", "alike"])
def test_bids_that_tell_no_prices_are_said(rule: Rule, shift: float, spread: float) -> None:
    day = a_day(30)
    log_bid = drawn_bids(day, shift, spread) + (np.log(day.p) if spread == 0 else 0.0)
    held = without_prices(day, log_bid)
    assert not tells(held.seen(), STEPS)
    made = plan(held, STEPS, rule, Terms(MONEY))
    assert made.reason == plans.UNTOLD
    assert made.weights == (1.0, 0.0)


def test_free_opportunities_do_not_bend_the_curve_of_the_others() -> None:
    day = a_day(31)
    free = np.arange(len(day.p)) % 10 == 0
    seen = cells_of_day(day._replace(price=np.where(free, 0.0, day.price)), "second").seen()
    assert fitted(seen, STEPS).spread == pytest.approx(0.6, abs=0.03)
