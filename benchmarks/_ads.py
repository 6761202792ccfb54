"""What pacing is held against: the hindsight programme's bounds, the best shaded bids, one fixed bid a campaign."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from spark_udfs.pacing.cells import Cells, Rule, cells, cells_of, market_of
from spark_udfs.pacing.curve import Curve
from spark_udfs.pacing.dual import Limits, Solved, solve
from spark_udfs.pacing.plan import Terms
from spark_udfs.simulated import ad_days

SPREAD = 0.2  # by how much probabilities are off


def off(wrong: str) -> Any:
    """The probabilities as the planner knows them."""
    p = F.col("true_p")
    drawn = [
        (F.pmod(F.xxhash64("opportunity_id", F.lit(part)), F.lit(1 << 40)) + 0.5) / float(1 << 40) for part in "ab"
    ]
    chance = F.sqrt(-2 * F.log(drawn[0])) * F.cos(2 * math.pi * drawn[1])
    by = {"right": F.lit(1.0), "too_high": F.lit(1 + SPREAD), "too_low": F.lit(1 - SPREAD)}
    return F.least(p * by.get(wrong, F.exp(SPREAD * chance)), F.lit(1.0))


def by_campaign(found: DataFrame) -> dict[str, Cells]:
    """Each campaign's cells: bins, not rows."""
    columns = found.toPandas()
    return {
        str(name): cells_of({column: part[column].to_numpy() for column in part}, 1)
        for name, part in columns.groupby("campaign_id")
    }


def with_prices(rows: DataFrame, came: dict[str, Any]) -> DataFrame:
    """Prices after a step in which a campaign won so large a share (of the first step: the usual one)."""
    told = [(name, step + 1, float(share)) for name, one in came.items() for step, share in one["share"]]
    if not told:
        return rows
    shares = rows.sparkSession.createDataFrame(told, "campaign_id string, step int, share double")
    factor = F.exp(ad_days.REACTION * (F.coalesce("share", F.lit(ad_days.USUAL_SHARE)) - ad_days.USUAL_SHARE))
    joined = rows.join(F.broadcast(shares), on=["campaign_id", "step"], how="left")
    return joined.withColumn("price", F.col("price") * factor).drop("share")


def hindsight(day: DataFrame, terms: dict[str, Terms]) -> dict[str, dict[str, float]]:
    """Of each campaign the programme's bounds, what it spends, and its value, all by the true probabilities."""
    day = day.withColumn("probability", F.col("true_p"))
    solved = {name: of_cells(held, terms[name]) for name, held in by_campaign(cells(day, "second")).items()}
    listed = [(name, terms[name].budget, terms[name].cost, one.budget, one.target) for name, one in solved.items()]
    schema = "campaign_id string, budget double, cost double, of_budget double, of_target double"
    rows = day.join(F.broadcast(day.sparkSession.createDataFrame(listed, schema)), on="campaign_id")
    p, value, price, cost = (F.col(name) for name in ("true_p", "value", "price", "cost"))
    cost_or_0 = F.coalesce(cost, F.lit(0.0))
    worth = p * (value + F.col("of_target") * cost_or_0) - price * (1 + F.col("of_budget") + F.col("of_target"))
    dual = rows.groupBy("campaign_id", "budget", "of_budget").agg(F.sum(F.greatest(worth, F.lit(0.0))).alias("over"))
    cheapest = Window.partitionBy("campaign_id").orderBy(price / p, "opportunity_id").rowsBetween(
        Window.unboundedPreceding, Window.currentRow
    )  # fmt: skip
    bought = rows.where(price <= p * value).withColumns(
        {"paid": F.sum(price).over(cheapest), "got": F.sum(p).over(cheapest)}
    )
    kept = bought.where((F.col("paid") <= F.col("budget")) & (cost.isNull() | (F.col("paid") <= cost * F.col("got"))))
    whole = kept.groupBy("campaign_id").agg(F.sum(price).alias("spend"), F.sum(p * value).alias("value"))
    best = {row["campaign_id"]: {"upper": row["over"] + row["budget"] * row["of_budget"]} for row in dual.collect()}
    for row in whole.collect():
        best[row["campaign_id"]] |= {"spend": row["spend"], "value": row["value"], "lower": row["value"] - row["spend"]}
    return {name: {"of_target": solved[name].target} | one for name, one in best.items()}


def of_cells(held: Cells, terms: Terms, curve: Curve | None = None) -> Solved:
    rule: Rule = "second" if curve is None else "first"
    return solve(market_of(held, rule, curve), Limits(terms.budget, terms.cost), 1.0)


def with_curve(day: DataFrame, terms: dict[str, Terms], steps: int) -> dict[str, dict[str, float]]:
    """Of each campaign what the best shaded bids are expected to bring that know the planted distribution of prices."""
    day = day.withColumn("probability", F.col("true_p"))
    means = day.groupBy("campaign_id", "step").agg(
        F.avg(F.col("price_log_mean") - ad_days.P_SLOPE * F.log("true_p")).alias("mean")
    )
    of_steps: dict[str, Any] = {name: np.zeros(steps) for name in terms}
    for row in means.collect():
        of_steps[row["campaign_id"]][row["step"]] = row["mean"]
    spread, best = math.hypot(ad_days.CUSTOMER, ad_days.OTHERS), {}
    for name, held in by_campaign(cells(day, "first")).items():
        solved = of_cells(held, terms[name], Curve(of_steps[name], ad_days.P_SLOPE, spread))
        got, of_target = solved.brought, solved.target
        profit = got.value - got.spend
        best[name] = {"upper": profit, "lower": profit, "spend": got.spend, "value": got.value, "of_target": of_target}
    return best


def fixed(rows: DataFrame, terms: dict[str, Terms]) -> dict[str, Any]:
    """What came of one bid a campaign: the one that would have spent its budget the day before, within its target."""
    p, price, value = F.col("true_p"), F.col("price"), F.col("value")
    listed = rows.sparkSession.createDataFrame(
        [(n, *t) for n, t in terms.items()], "campaign_id string, budget double, cost double"
    )
    binned = rows.where("day = 0").withColumn("bin", F.floor(F.log2(price) * 32)).groupBy("campaign_id", "bin")
    sums = binned.agg(F.sum(price).alias("spend"), F.sum(p).alias("got"), F.sum(p * value).alias("value"))
    upto = Window.partitionBy("campaign_id").orderBy("bin").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    grown = sums.withColumns({name: F.sum(name).over(upto) for name in ("spend", "got", "value")}).join(
        listed, "campaign_id"
    )
    fits = (F.col("spend") <= F.col("budget")) & (
        F.col("cost").isNull() | (F.col("spend") <= F.col("cost") * F.col("got"))
    )
    profit = F.col("value") - F.col("spend")
    bids = grown.where(fits).groupBy("campaign_id", "budget").agg(F.max_by("bin", profit).alias("bin"))
    in_time = Window.partitionBy("campaign_id").orderBy("time", "opportunity_id").rowsBetween(
        Window.unboundedPreceding, Window.currentRow
    )  # fmt: skip
    day = (
        rows.where("day = 1")
        .join(F.broadcast(bids), "campaign_id")
        .where(price < F.pow(F.lit(2.0), (F.col("bin") + 1) / 32))
    )
    won = (
        day.withColumn("paid", F.sum(price).over(in_time))
        .where(F.col("paid") <= F.col("budget"))
        .groupBy("campaign_id")
    )
    came = {name: {"spend": 0.0, "value": 0.0, "true": 1e-12} for name in terms}
    for row in won.agg(F.sum(price).alias("spend"), F.sum(p * value).alias("value"), F.sum(p).alias("true")).collect():
        came[row["campaign_id"]] = row.asDict()
    return came
