"""From quantiles to orders: what was planted comes back, and orders are those that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from spark_udfs.simulated.counts import quantile as count_quantile
from spark_udfs.stocking import budgets, levels, needs, paths, planned, terms
from spark_udfs.stocking.costs import Costs, cost, quantile
from spark_udfs.stocking.lots import Lots, order
from spark_udfs.stocking.needs import Shelf
from spark_udfs.stocking.play import Seen, play
from spark_udfs.stocking.reasons import reasons

LEVELS = tuple(np.arange(1, 10) / 10)


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, np.float64)


def costs_of(under: float, over: float, order: float, rate: float, *, once: bool = False, series: int = 1) -> Costs:
    return Costs(*(np.full(series, one) for one in (under, over, order, rate)), np.full(series, once))


def forecast(mean: float, spread: float, steps: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles and means of counts."""
    held = count_quantile(np.full(9, mean), np.full(9, spread), np.asarray(LEVELS)).astype(np.float64)
    return np.tile(held, (1, steps, 1)), np.full((1, steps), mean)


@pytest.mark.parametrize(("mean", "spread"), [(0.2, 0.0), (3.0, 0.0), (8.0, 0.3), (60.0, 1.5)])
def test_counts_are_quantiles_at_even_levels(mean: float, spread: float) -> None:
    found = paths.counts(floats(mean), floats(spread))[0]
    even = (np.arange(paths.PATHS) + 0.5) / paths.PATHS
    assert found.tolist() == count_quantile(floats(mean), floats(spread), even).tolist()


@pytest.mark.parametrize(("mean", "spread"), [(4_000.0, 0.0), (4_000.0, 0.2), (90_000.0, 0.9)])
def test_large_counts_keep_mean_and_variance(mean: float, spread: float) -> None:
    found = paths.counts(floats(mean), floats(spread))[0]
    assert found.mean() == pytest.approx(mean, rel=0.01)
    assert found.var() == pytest.approx(mean + spread * mean**2, rel=0.06)


@pytest.mark.parametrize("mean", [3.0, 12.0, 80.0])
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.6])
def test_a_planted_dispersion_comes_back(mean: float, spread: float) -> None:
    """Four steps of it, whose means differ."""
    many = [forecast(mean * by, spread) for by in (0.8, 1.0, 1.1, 1.3)]
    quantiles, means = (np.concatenate([one[place] for one in many], axis=1) for place in (0, 1))
    found = paths.dispersion(quantiles, means, LEVELS)[0]
    variance, planted = (mean + each * mean**2 for each in (found, spread))
    assert math.sqrt(variance) == pytest.approx(math.sqrt(planted), rel=0.06)


def test_sums_of_paths_are_those_of_independent_counts() -> None:
    """Three Poisson counts of mean 2 are one of mean 6; together they are wider."""
    quantiles, means = forecast(2.0, 0.0, steps=3)
    held = paths.demand_paths(quantiles, means, LEVELS, paths.places(3, 0.0))
    found = np.sort(held.sum(axis=1)[0])
    even = (np.arange(paths.PATHS) + 0.5) / paths.PATHS
    wanted = count_quantile(floats(6.0), floats(0.0), even)
    assert np.abs(found - wanted).mean() < 0.1
    for level in (0.5, 0.9, 0.95, 0.98):
        at = np.searchsorted(even, level)
        assert (found <= wanted[at]).mean() == pytest.approx((wanted <= wanted[at]).mean(), abs=0.01)
    together = paths.demand_paths(quantiles, means, LEVELS, paths.places(3, 0.5)).sum(axis=1)[0]
    assert together.mean() == pytest.approx(found.mean())
    assert together.var() == pytest.approx(6 + 6 * 0.5 * 2, rel=0.06)


@pytest.mark.parametrize("steps", [8, 28, 60])
def test_sums_of_many_steps_are_as_wide_as_those_of_independent_counts(steps: int) -> None:
    held = np.repeat(paths.counts(floats(3.0), floats(0.0)), steps, axis=0)
    sums = np.take_along_axis(held, paths.places(steps, 0.0), axis=1).sum(axis=0)
    assert sums.var() == pytest.approx(3 * steps, rel=0.08)


def test_what_is_lost_on_the_way_takes_nothing_from_the_order() -> None:
    """5 on hand, 4 come in the second step; of 8, 1 and 6 asked for, the order is there for the third."""
    demand = np.asarray([[[8.0], [1.0], [6.0]]])
    shelf = Shelf(floats(5), np.asarray([[0.0, 4.0, 0.0]]), np.asarray([2]))
    assert needs.needs(demand, shelf, 1, lost=True).tolist() == [[3.0]]  # 6 less the 3 that are left of the 4
    assert needs.needs(demand, shelf, 1, lost=False).tolist() == [[6.0]]  # 15 less 9
    late = shelf._replace(arrivals=np.asarray([[0.0, 0.0, 9.0]]), lead=np.asarray([0]))
    assert needs.needs(demand, late, 3, lost=True).tolist() == [[4.0]]  # 9 by the second step; what comes is too late


def test_a_newsvendors_order_is_the_needs_quantile() -> None:
    need = np.arange(1.0, 101.0)[None]
    costs = costs_of(9.0, 1.0, 0.0, 50.0)
    assert levels.levels(need, costs).quantity.tolist() == [90.0]
    expected = [cost(need, floats(one), costs)[0] for one in range(120)]
    assert int(np.argmin(expected)) in (89, 90)
    assert levels.levels(need - 95, costs).quantity.tolist() == [0.0]  # there is enough
    assert levels.levels(need, costs.at_price(floats(4.0))).quantity.tolist() == [50.0]
    assert levels.levels(need, costs.at_price(floats(9.0))).quantity.tolist() == [0.0]


def test_batches_are_those_of_the_square_root_formula() -> None:
    """Of a demand without chance: the economic order quantity with planned shortages."""
    under, over, each, rate = 8.0, 2.0, 1_000.0, 4.0
    need = np.full((2, paths.PATHS), [[30.0], [-500.0]])
    found = levels.levels(need, costs_of(under, over, each, rate, series=2))
    size = math.sqrt(2 * each * rate * (under + over) / (under * over))
    assert found.upto[0] - found.at[0] == pytest.approx(size, abs=2.5)
    assert found.upto[0] - 30 == pytest.approx(size * under / (under + over), abs=2)
    assert found.quantity.tolist() == [found.upto[0], 0.0]


@pytest.mark.parametrize(
    ("rate", "each", "best"), [(40.0, 0.1, 0.79), (40.0, 5.0, 4.32), (200.0, 20.0, 16.8), (4.0, 1.0, 0.713)]
)
def test_batches_cost_what_the_best_ones_do(rate: float, each: float, best: float) -> None:
    """Poisson demand that waits, no lead: s and S played for 4,000 reviews, against the best that a search found."""
    need = np.sort(paths.counts(floats(rate), floats(0.0)), axis=1)
    found = levels.levels(need, costs_of(0.95, 0.05, each, rate))
    reorder_at, upto = found.at[0], found.upto[0]
    stock, cost_of_all = upto, 0.0
    for asked in np.random.default_rng(0).poisson(rate, 4_000):
        if stock <= reorder_at:
            stock, cost_of_all = upto, cost_of_all + each
        stock -= asked
        cost_of_all += 0.05 * max(stock, 0) + 0.95 * max(-stock, 0)
    assert cost_of_all / 4_000 == pytest.approx(best, rel=0.03)


def test_a_large_pack_or_order_is_ordered_where_waiting_costs_more() -> None:
    """Demand of 40, an order costs 100: 440 are wanted; of packs of 1,000 one, at least 500 are 500."""
    need = np.sort(paths.counts(floats(40.0), floats(0.0)), axis=1)
    costs = costs_of(0.95, 0.05, 100.0, 40.0)
    assert order(need, costs, lots(pack=1_000)).quantity.tolist() == [1_000]
    assert order(need, costs, lots(least=500)).quantity.tolist() == [500]
    assert order(need, costs, lots(pack=100_000)).quantity.tolist() == [0]
    assert order(need, costs_of(0.95, 0.05, 0.1, 40.0), lots(pack=200)).quantity.tolist() == [200]


@pytest.mark.parametrize(("each", "pays"), [(0.0, True), (300.0, True), (500.0, False)])
def test_what_is_sold_off_is_ordered_for_one_review(each: float, pays: bool) -> None:
    """The newsvendor's quantile, where it saves more than an order costs: some 40 pieces that earn 10 each."""
    need = np.sort(paths.counts(floats(40.0), floats(0.0)), axis=1)
    found = levels.levels(need, costs_of(10.0, 2.0, each, 40.0, once=True))
    assert found.quantity.tolist() == [quantile(need, floats(10 / 12))[0] if pays else 0.0]


def stock(series: str, means: list[float], spreads: list[float], **said: float) -> dict[str, object]:
    row: dict[str, object] = {**dict.fromkeys(terms.COLUMNS, math.nan), "on_hand": 0.0, "lead": 0.0, "later": 0.0}
    held = [forecast(mean, spread)[0].ravel() for mean, spread in zip(means, spreads, strict=True)]
    arrivals = np.zeros(len(means))
    return row | {
        "series_id": series, "arrivals": arrivals, "quantiles": np.concatenate(held), "means": np.asarray(means), **said
    }  # fmt: skip


HABITS = terms.Habits(1, 0.95, 0.005, True, 0.07, LEVELS)


def test_an_order_does_not_depend_on_the_series_beside_it() -> None:
    """Steps that widen: what lies beyond a series' own lead says how wide it is, whoever else is looked at."""
    one = stock("one", [20.0] * 5, [0.0, 0.1, 0.2, 0.4, 0.5], unit_cost=10.0)
    far = stock("far", [20.0] * 5, [0.0] * 5, unit_cost=10.0, lead=4.0)

    def made(rows: list[dict[str, object]]) -> pd.DataFrame:
        return planned._ordered(planned._needed(pd.DataFrame(rows), HABITS), HABITS, budgets.FREE)

    assert made([one]).iloc[0].to_dict() == made([far, one]).iloc[1].to_dict()


@pytest.mark.parametrize(("each", "parts"), [(math.nan, (0.3, 0.5, 0.6, 0.9)), (60.0, (0.5,))])
def test_a_budget_is_spent_and_never_more(each: float, parts: tuple[float, ...]) -> None:
    """Series of one service fall to nothing at one price; orders with a cost of their own may rise with it."""
    rng = np.random.default_rng(2)
    means, costs = rng.uniform(4, 90, 12), np.round(rng.uniform(1, 20, 12), 2)
    rows = [
        stock(f"s{number}", [mean], [0.0], unit_cost=unit, order_cost=each)
        for number, (mean, unit) in enumerate(zip(means, costs, strict=True))
    ]
    rows.append(stock("cheap", [5.0], [0.0], unit_cost=1e-4, margin=5.0))  # at 50,000 times the price of the others
    need = planned._needed(pd.DataFrame(rows), HABITS)

    def spent(prices: list[budgets.Price]) -> list[float]:
        of_all = planned._spent_of(need, HABITS, prices).groupby("place")["spent"].sum()
        return [float(one) for one in of_all]

    free = spent([budgets.FREE])[0]
    for part in parts:
        price = budgets.found_price(spent, 50_000.0, part * free)
        made = planned._ordered(need, HABITS, price)
        assert 0.97 * part * free < made["money"].sum() <= part * free
    assert budgets.found_price(spent, 50_000.0, free) == budgets.FREE


def lots(pack: float = 1, least: float = 0, room: float = math.inf) -> Lots:
    return Lots(floats(pack), floats(least), floats(room))


@pytest.mark.parametrize(
    ("limits", "quantity", "cut"),
    [
        (lots(), 18, ""),
        (lots(pack=6), 18, ""),
        (lots(pack=12), 24, "pack"),
        (lots(pack=12, room=20), 12, "pack room"),
        (lots(pack=12, room=-3), 0, "pack room"),
        (lots(least=19), 19, "least"),
        (lots(least=500), 0, "least"),
        (lots(pack=5, least=21, room=24), 0, "pack least room"),
    ],
)
def test_packs_the_smallest_order_and_the_shelf_are_kept(limits: Lots, quantity: float, cut: str) -> None:
    need = np.arange(1.0, 21.0)[None]
    found = order(need, costs_of(9.0, 1.0, 0.0, 10.0), limits)
    assert found.quantity.tolist() == [quantity]
    said = [name for name in ("pack", "least", "room") if getattr(found, f"by_{name}")[0]]
    assert " ".join(said) == cut


def test_weeks_are_played() -> None:
    """10 on hand, 4 ordered each week, there a week later; 6 asked for each week."""
    demand = np.full((1, 5), 6.0)

    def four(seen: Seen) -> np.ndarray:
        return np.full(1, 4.0)

    lost = play(demand, floats(10), np.asarray([1]), 1, four, lost=True)
    assert lost.left.tolist() == [[4, 2, 0, 0, 0]]
    assert lost.short.tolist() == [[0, 0, 0, 2, 2]]
    assert lost.ordered.tolist() == [[4] * 5]
    waits = play(demand, floats(10), np.asarray([1]), 2, four, lost=False)
    assert waits.ordered.tolist() == [[4, 0, 4, 0, 4]]
    assert waits.short.tolist() == [[0, 0, 4, 6, 6]]
    seen = list[list[float]]()

    def watched(now: Seen) -> np.ndarray:
        seen.append([float(now.on_hand[0]), *now.arrivals[0, :2]])
        return np.full(1, 1.0)

    play(demand, floats(10), np.asarray([1]), 1, watched, lost=True)
    assert seen[:3] == [[10, 0, 0], [4, 1, 0], [0, 1, 0]]


def test_what_a_table_says_becomes_costs() -> None:
    said = pd.DataFrame(dict.fromkeys(terms.COLUMNS, [float("nan")] * 5))
    said["unit_cost"] = 10.0
    said.loc[0, "service"], said.loc[0, "holding_cost"] = 0.9, 2.0
    said.loc[1, "price"] = 16.0
    said.loc[2, ["margin", "salvage"]] = [5.0, 7.0]
    said.loc[4, ["service", "margin", "order_cost"]] = [0.5, 100.0, 3.0]
    habits = terms.Habits(2, 0.95, 0.01, True, 0.0, LEVELS)
    costs = terms.costs_of(said, habits, np.ones(5))
    assert costs.over == pytest.approx([4.0, 0.2, 3.0, 0.2, 0.2])
    assert costs.under == pytest.approx([36.0, 6.0, 5.0, 3.8, 0.2])
    assert terms.policies(said) == ["base stock", "base stock", "newsvendor", "base stock", "(s, S)"]
    assert terms.lots_of(said, np.full(5, 3.0)).room.tolist() == [math.inf] * 5


def test_an_order_is_told_in_words() -> None:
    row = {"demand": 13.1, "level": 0.95, "demand_at_level": 20.0, "position": 4.0, "wanted": 8.0, "order_up_to": 12.0}
    row |= {"reorder_at": 11.0, "policy": terms.BASE_STOCK, "cut_by": ["pack", "budget"]}  # type: ignore[dict-item]
    waits = row | {"reorder_at": 3.0, "policy": terms.BATCHES, "cut_by": []}
    full = waits | {"position": 12.0}
    limits = pd.DataFrame({"pack": [1_500_000.0, 1.0, 1.0], "min_order": [np.nan] * 3, "shelf": [np.nan] * 3})
    until = "demand until the next order's arrival is 13.1, at its 0.95 quantile 20"
    assert reasons(pd.DataFrame([row, waits, full]), limits) == [
        f"{until}, of which 8 would be lost before the order is there; there and coming by then 4: 8 more bring it to "
        "12; whole packs of 1,500,000; the budget goes to others first",
        f"{until}; there and coming by then 4: an order does not pay for itself until it is 3 or less",
        f"{until}; there and coming by then 12: nothing is needed until it is 3 or less",
    ]
