"""Orders of all series, each made where Spark has its forecast: nothing of a series comes to the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from spark_udfs.stocking.budgets import FREE, Price, found_price, shared
from spark_udfs.stocking.costs import Costs, cost, expected, ratio
from spark_udfs.stocking.lots import Lots, Order, order
from spark_udfs.stocking.needs import Shelf, needs
from spark_udfs.stocking.paths import demand_paths, places
from spark_udfs.stocking.reasons import reasons
from spark_udfs.stocking.terms import COLUMNS, Habits, costs_of, lots_of, policies

Floats = npt.NDArray[np.float64]

ROWS = 256  # series whose paths are held at once: 256 x 8 steps x 1,021 paths are 16 MB
SAID = {"series_id": "string", **dict.fromkeys(COLUMNS, "double"), "later": "double", "arrivals": "array<double>"}
NEEDED = {
    **SAID,
    "rate": "double",
    "demand": "double",
    "demand_at": "double",
    "position": "double",
    "need": "array<float>",
}
ORDERED = {
    "series_id": "string",
    "policy": "string",
    "quantity": "bigint",
    "lead": "int",
    "position": "double",
    "reorder_at": "double",
    "order_up_to": "double",
    "level": "double",
    "demand": "double",
    "demand_at_level": "double",
    "wanted": "double",
    "cut_by": "array<string>",
    "expected_service": "double",
    "expected_short": "double",
    "expected_left": "double",
    "expected_cost": "double",
    "money": "double",
    "reason": "string",
}
EXACT = "decimal(38,6)"  # sums of doubles depend on their order


def needed(series: DataFrame, habits: Habits) -> DataFrame:
    """What each series needs, path by path.

    Args:
        series: SAID, with `quantiles` (array<float>, step after step) and `means` (array<float>) of the forecast, whose
            steps reach to lead + review.
        habits: of all series.

    Returns:
        NEEDED: what was said, the mean demand of a review (`rate`) and up to the end of the window (`demand`), the
        position, and the needs, ascending.
    """

    given = series.select(*SAID, "quantiles", "means")
    return given.mapInPandas(_in_blocks(partial(_needed, habits=habits)), _ddl(NEEDED))


def _in_blocks(
    make: Callable[[pd.DataFrame], pd.DataFrame],
) -> Callable[[Iterable[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """ROWS at once."""

    def of_all(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            for start in range(0, len(frame), ROWS):
                yield make(frame.iloc[start : start + ROWS])

    return of_all


def _needed(frame: pd.DataFrame, habits: Habits) -> pd.DataFrame:
    """Of a series nothing depends on which others are in the frame: its width is that of all its steps."""
    lead = frame["lead"].to_numpy(np.int64)
    end = lead + habits.review
    steps, rows = int(end.max()), np.arange(len(frame))
    means = np.stack(frame["means"].to_list()).astype(np.float64)
    quantiles = np.stack(frame["quantiles"].to_list()).astype(np.float64)
    quantiles = quantiles.reshape(*means.shape, len(habits.levels))
    arrivals = np.stack(frame["arrivals"].to_list())[:, :steps].astype(np.float64)
    paths = demand_paths(quantiles, means, habits.levels, places(steps, habits.correlation))
    on_hand = frame["on_hand"].to_numpy(np.float64)
    need = np.sort(needs(paths, Shelf(on_hand, arrivals, lead), habits.review, lost=habits.lost), axis=1)
    up_to = np.cumsum(means, axis=1)
    before = np.where(lead > 0, up_to[rows, np.maximum(lead - 1, 0)], 0.0)
    demand = up_to[rows, end - 1]
    within = np.arange(steps) < end[:, None]
    costs = costs_of(frame, habits, demand - before)
    sums = np.sort(np.where(within[..., None], paths, 0.0).sum(axis=1), axis=1)
    at = np.minimum((ratio(costs) * sums.shape[1]).astype(np.int64), sums.shape[1] - 1)
    position = on_hand + np.cumsum(arrivals, axis=1)[rows, end - 1]
    return frame[list(SAID)].assign(
        rate=demand - before,
        demand=demand,
        demand_at=sums[rows, at],
        position=position,
        need=list(need.astype(np.float32)),
    )


def ordered(found: DataFrame, habits: Habits, price: Price) -> DataFrame:
    """The order of each series.

    Args:
        found: from `needed`.
        habits: of all series.
        price: of money that is short (`price_of_money`); FREE: there is enough.

    Returns:
        ORDERED, a row a series.
    """

    return found.mapInPandas(_in_blocks(partial(_ordered, habits=habits, price=price)), _ddl(ORDERED))


def _read(frame: pd.DataFrame, habits: Habits) -> tuple[Floats, Costs, Lots]:
    need = np.stack(frame["need"].to_list()).astype(np.float64)
    all_there = frame["on_hand"] + frame["arrivals"].map(np.sum) + frame["later"]
    return need, costs_of(frame, habits, frame["rate"].to_numpy()), lots_of(frame, all_there.to_numpy(np.float64))


def _money(frame: pd.DataFrame) -> Floats:
    return frame["unit_cost"].fillna(0.0).to_numpy(np.float64)


def _ordered(frame: pd.DataFrame, habits: Habits, price: Price) -> pd.DataFrame:
    need, costs, _ = _read(frame, habits)
    money = _money(frame)
    at = _orders(frame, habits)
    free, made = at(FREE), at(price)
    by_price = made.quantity != free.quantity
    service, short, left = expected(need, made.quantity)
    position = frame["position"].to_numpy(np.float64)
    columns = pd.DataFrame(
        {
            "series_id": frame["series_id"].to_numpy(),
            "policy": policies(frame),
            "quantity": made.quantity.astype(np.int64),
            "lead": frame["lead"].to_numpy(np.int32),
            "position": position,
            "reorder_at": position + free.wanted.at,
            "order_up_to": position + free.wanted.upto,
            "level": ratio(costs),
            "demand": frame["demand"].to_numpy(np.float64),
            "demand_at_level": frame["demand_at"].to_numpy(np.float64),
            "wanted": free.wanted.quantity,
            "cut_by": _cuts(made, by_price),
            "expected_service": service,
            "expected_short": short,
            "expected_left": left,
            "expected_cost": cost(need, made.quantity, costs),
            "money": made.quantity * money,
        }
    )
    return columns.assign(reason=reasons(columns, frame))[list(ORDERED)]


def _cuts(made: Order, by_price: npt.NDArray[np.bool_]) -> list[list[str]]:
    """What made each order another than what was wanted."""
    named = {"pack": made.by_pack, "min_order": made.by_least, "shelf": made.by_room, "budget": by_price}
    return [[name for name, cut in named.items() if cut[row]] for row in range(len(by_price))]


def price_of_money(found: DataFrame, habits: Habits, budget: float) -> Price:
    """By how much money must be dearer than it is for all orders to keep the budget; FREE where they do anyway.

    It is the Lagrange multiplier of the budget (`budgets.found_price`). Each pass asks of all series at once what they
    would spend at some prices: to the driver come their sums.

    Args:
        found: from `needed`, kept: it is read again and again.
        habits: of all series.
        budget: money for all orders together; above 0.
    """
    return found_price(partial(_spent, found, habits), _dearest(found, habits), budget)


def _dearest(found: DataFrame, habits: Habits) -> float:
    """A price at which nothing that costs money is ordered."""

    def of_block(frame: pd.DataFrame) -> pd.DataFrame:
        money, under = _money(frame), costs_of(frame, habits, frame["rate"].to_numpy()).under
        return pd.DataFrame({"price": [np.max(under[money > 0] / money[money > 0], initial=0.0)]})

    return float(found.mapInPandas(_in_blocks(of_block), "price double").agg(F.max("price")).collect()[0][0])


def _spent(found: DataFrame, habits: Habits, prices: list[Price]) -> list[float]:
    """What all orders cost together at each of the prices."""
    parts = found.mapInPandas(_in_blocks(partial(_spent_of, habits=habits, prices=prices)), "place int, spent double")
    sums = parts.groupBy("place").agg(F.sum(F.col("spent").cast(EXACT)).cast("double").alias("spent")).collect()
    by_place = {row["place"]: row["spent"] for row in sums}
    return [by_place[place] for place in range(len(prices))]


def _spent_of(frame: pd.DataFrame, habits: Habits, prices: list[Price]) -> pd.DataFrame:
    """A row a series and price: Spark adds them up exactly, in whichever order."""
    at, money = _orders(frame, habits), _money(frame)
    spent = [at(price).quantity * money for price in prices]
    return pd.DataFrame({"place": np.repeat(np.arange(len(prices)), len(frame)), "spent": np.concatenate(spent)})


def _orders(frame: pd.DataFrame, habits: Habits) -> Callable[[Price], Order]:
    """From a price to the orders; prices that share an end share the work."""
    (need, costs, lots), money = _read(frame, habits), _money(frame)

    @cache
    def alone(price: float) -> Order:
        return order(need, costs.at_price(price * money), lots)

    def at(price: Price) -> Order:
        dear = alone(price.at)
        if price.share == 0:
            return dear
        cheap = alone(price.below).quantity
        return dear._replace(quantity=shared(frame["series_id"], dear.quantity, cheap, lots, price.share))

    return at


def _ddl(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())
