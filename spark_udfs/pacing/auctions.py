"""A step of auctions played with the bids of a plan: who wins, what is paid, and where the budget is gone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from spark_udfs.pacing.cells import Rule
from spark_udfs.pacing.curve import shaded

BIDS = (
    "campaign_id string, of_value double, of_action double, left double, log_mean double, slope double, spread double"
)
ROUNDED = 1e-12  # of a budget: sums of money in another order differ by as much


def played(opportunities: DataFrame, bids: DataFrame, rule: Rule) -> DataFrame:
    """Bid for each opportunity, in the order of time, as long as there is money.

    A campaign's opportunities are sorted by Spark and summed as they pass: none is held in memory. Once its next win
    would cost more than what is left, a campaign bids no more in this step.

    Args:
        opportunities: of one step: opportunity_id, campaign_id, time, probability, value, price (the highest bid of
            the others), and any other columns; `bid`, `won` and `paid` are replaced.
        bids: BIDS, a row a campaign; `left` of its budget; the last three are of first-price auctions alone, null
            where a campaign has no curve.
        rule: of the auctions.

    Returns:
        The opportunities with `bid`, `won` and `paid`.
    """
    rows = opportunities.join(F.broadcast(bids), on="campaign_id", how="inner")
    worth = F.col("probability") * (F.col("value") * F.col("of_value") + F.col("of_action"))
    rows = rows.withColumn("bid", worth if rule == "second" else _shaded(worth))
    best, price = F.col("bid") > F.col("price"), F.col("price" if rule == "second" else "bid")
    in_time = Window.partitionBy("campaign_id").orderBy("time", "opportunity_id").rowsBetween(
        Window.unboundedPreceding, Window.currentRow
    )  # fmt: skip
    spent = F.sum(F.when(best, price).otherwise(0.0)).over(in_time)
    won = best & (spent <= F.col("left") * (1 - ROUNDED))
    held = rows.withColumn("won", won).withColumn("paid", F.when(F.col("won"), price).otherwise(0.0))
    return held.select(*dict.fromkeys((*opportunities.columns, "bid", "won", "paid")))


def _shaded(worth: Column) -> Column:
    """First-price bids, by each campaign's curve; the worth where it has none."""

    def bids(worths: pd.Series, log_means: pd.Series, spreads: pd.Series) -> pd.Series:
        held = spreads.to_numpy()
        made = np.where(np.isnan(held), worths.to_numpy(), 0.0)
        for spread in np.unique(held[~np.isnan(held)]):
            at = held == spread
            made[at] = shaded(worths.to_numpy()[at], log_means.to_numpy()[at], float(spread))
        return pd.Series(made)

    log_mean = F.col("log_mean") + F.col("slope") * F.log("probability")
    made: Column = pandas_udf(bids, "double")(worth, log_mean, F.col("spread"))  # type: ignore[call-overload]
    return made
