"""Opportunities as cells: sums by campaign, step and bins of price, probability and value; never rows.

However many opportunities a day has, a campaign has as many cells at most as there are bins in a step, times the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs.pacing.curve import ABOVE, BELOW, KNOWN, Curve, Seen, Shading, below, quantile
from spark_udfs.pacing.market import FirstPrice, Floats, Ints, Market, SecondPrice

Rule = Literal["second", "first"]
RATIO, COARSE = 16, 4  # bins to a doubling: of price over probability; of probability, bid and value
LEAST, MOST = 2.0**-40, 2.0**40  # what lies further out counts as lying there
KEYS = ("step", "kind", "ratio", "chance", "bid", "worth_bin")
SUMS = (
    "rows", "actions", "worth", "price", "price_squared", "log_p", "log_p_squared", "log_price", "log_price_squared",
    "log_p_price",
)  # fmt: skip
TYPES = {"campaign_id": "string", **dict.fromkeys((*KEYS, "begun"), "int"), **dict.fromkeys(SUMS, "double")}
QUANTILES = 8  # by which the price of an opportunity stands in that nobody was told


def cells(opportunities: DataFrame, rule: Rule) -> DataFrame:
    """The cells of opportunities that can be won: those of probability 0 are in none.

    Args:
        opportunities: campaign_id, day (int, in their order from 0), step (int), probability, value, price (null:
            unknown), and of those without a price bid and won.
        rule: of the auctions; in second-price ones a known price is binned by its ratio to the probability.

    Returns:
        TYPES; `begun` is the first day of a cell's opportunities.
    """
    p, value, price, bid = (F.col(name) for name in ("probability", "value", "price", "bid"))
    kind = F.when(price.isNotNull(), KNOWN).when(F.col("won"), BELOW).otherwise(ABOVE)
    by_ratio = price.isNotNull() if rule == "second" else F.lit(False)
    log_p, log_price = F.log(p), F.log(_within(F.coalesce(price, bid)))
    keyed = opportunities.where(p > 0).select(
        "campaign_id",
        "day",
        "step",
        kind.alias("kind"),
        F.when(by_ratio, _bin(price / p, RATIO)).otherwise(0).alias("ratio"),
        F.when(by_ratio, 0).otherwise(_bin(p, COARSE)).alias("chance"),
        F.when(price.isNotNull(), 0).otherwise(_bin(bid, COARSE)).alias("bid"),
        _bin(value, COARSE).alias("worth_bin"),
        p.alias("actions"),
        (p * value).alias("worth"),
        F.coalesce(price, F.lit(0.0)).alias("price"),
        log_p.alias("log_p"),
        log_price.alias("log_price"),
    )
    squares = {"price_squared": ("price", "price"), "log_p_squared": ("log_p", "log_p")}
    squares |= {"log_price_squared": ("log_price", "log_price"), "log_p_price": ("log_p", "log_price")}
    totals = [F.sum(F.col(one) * F.col(other)).alias(name) for name, (one, other) in squares.items()]
    totals += [F.sum(name).alias(name) for name in SUMS if name not in squares and name != "rows"]
    totals += [F.count(F.lit(1)).cast("double").alias("rows"), F.min("day").alias("begun")]
    return keyed.groupBy("campaign_id", *KEYS).agg(*totals).select(*(F.col(n).cast(k) for n, k in TYPES.items()))


def _within(value: Column) -> Column:
    return F.least(F.greatest(value, F.lit(LEAST)), F.lit(MOST))


def _bin(value: Column, to_a_doubling: int) -> Column:
    return F.floor(F.log2(_within(value)) * to_a_doubling).cast("int")


class Cells(NamedTuple):
    """One campaign's cells, in an order that depends on nothing but their keys.

    Attributes:
        keys: an array of numbers for each of KEYS.
        sums: an array of sums for each of SUMS.
        days: how many days they are of.
    """

    keys: Mapping[str, Ints]
    sums: Mapping[str, Floats]
    days: int

    def seen(self) -> Seen:
        """What they tell of prices; one of 0, where nobody else bid, has no logarithm and is left out."""
        free = (self.keys["kind"] == KNOWN) & (self.sums["price"] == 0)
        held = [*(self.keys[name] for name in ("step", "kind")), *(self.sums[name] for name in Seen._fields[2:])]
        return Seen(*(of_cells[~free] for of_cells in held))


def cells_of(columns: Mapping[str, NDArray[np.generic]], days: int) -> Cells:
    """Cells from their columns, in any order."""
    order = np.lexsort([columns[name] for name in KEYS])
    keys = {name: np.asarray(columns[name])[order].astype(np.int64) for name in KEYS}
    return Cells(keys, {name: np.asarray(columns[name])[order].astype(np.float64) for name in SUMS}, days)


def needs_curve(held: Cells, rule: Rule) -> bool:
    """Whether the distribution of prices has to be estimated."""
    return rule == "first" or bool((held.keys["kind"] != KNOWN).any())


def market_of(held: Cells, rule: Rule, curve: Curve | None) -> Market:
    """What a campaign's bids can win on an average day of its cells.

    Args:
        held: its cells, one at least.
        rule: of the auctions.
        curve: of prices; None where all of them are known, in second-price auctions.
    """
    day = {name: sums / held.days for name, sums in held.sums.items()}
    if rule == "first":
        assert curve is not None
        probability = np.exp(day["log_p"] / day["rows"])
        return FirstPrice(
            held.keys["step"], day["rows"], day["actions"], day["worth"], probability, curve, Shading(curve.spread)
        )
    known = held.keys["kind"] == KNOWN
    parts = [_known(held.keys, day, known)]
    if curve is not None and not known.all():
        parts.append(_told_by(curve, held.keys, day, ~known))
    sums = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return SecondPrice(step=sums.pop("step").astype(np.int64), width=1 / RATIO, **sums)


def _known(keys: Mapping[str, Ints], day: Mapping[str, Floats], at: NDArray[np.bool_]) -> dict[str, Floats]:
    sums = {name: day[name][at] for name in ("rows", "actions", "worth", "price", "price_squared")}
    return sums | {"step": keys["step"][at].astype(np.float64), "ratio": keys["ratio"][at] / RATIO}


def _told_by(
    curve: Curve, keys: Mapping[str, Ints], day: Mapping[str, Floats], at: NDArray[np.bool_]
) -> dict[str, Floats]:
    """Cells without a price, each as some cells at the quantiles that the curve leaves it: below a bid that won, above
    one that lost."""
    step, won, rows = keys["step"][at], keys["kind"][at] == BELOW, day["rows"][at]
    mean = curve.log_mean(step, np.exp(day["log_p"][at] / rows))
    chance = below((day["log_price"][at] / rows - mean) / curve.spread)[:, None]
    level = (np.arange(QUANTILES) + 0.5) / QUANTILES
    levels = np.where(won[:, None], chance * level, chance + (1 - chance) * level)
    price = np.exp(mean[:, None] + curve.spread * quantile(levels))
    ratio = np.log2(price / (day["actions"][at] / rows)[:, None]) - 0.5 / RATIO
    sums = {name: np.repeat(day[name][at] / QUANTILES, QUANTILES) for name in ("rows", "actions", "worth")}
    price = price.ravel()
    of_price = {"ratio": ratio.ravel(), "price": sums["rows"] * price, "price_squared": sums["rows"] * price**2}
    return sums | of_price | {"step": np.repeat(step, QUANTILES).astype(np.float64)}
