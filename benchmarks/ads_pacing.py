"""Pacing: a simulated day of auctions planned and played, held against the hindsight linear programme.

    python benchmarks/ads_pacing.py [CUSTOMERS CAMPAIGNS STEP_MINUTES]

By the first of two simulated days (about ten opportunities a customer and day) the second is planned, and played step
by step: after each, what was spent and won goes back and the steps to come are planned anew. All of it goes by the rows
of Spark; to this process come sums by campaign, step and bin alone. It is played with the right probabilities; with all
of them 20 % too high, 20 % too low, and each off by 20 % by chance; against competitors that bid more after a step in
which we won much; in first-price auctions; and, for comparison, by the morning's plan alone, and with one fixed bid a
campaign.

The programme is that of the played day, by its dual: the dual's value at the multipliers of the day's own cells, summed
over all rows, lies above what any bids could have brought; what the cheapest of them bring, in whole wins, below it.
The ratio is value less spend over the dual's; what was paid beyond a target is charged at the target's multiplier, so
that nobody comes above 1 by breaking it, and overspending fails. In first-price auctions knowing every price is beyond
anybody: there it is held against what the best bids are expected to bring that know the planted distribution of prices.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "benchmarks"))

import numpy as np  # noqa: E402
from _ads import by_campaign, fixed, hindsight, off, with_curve, with_prices  # noqa: E402
from pyspark.sql import DataFrame, SparkSession  # noqa: E402
from pyspark.sql import functions as F  # noqa: E402

from cluster.session import build_session  # noqa: E402
from jobs.ads.checks import step_of  # noqa: E402
from spark_udfs.pacing.auctions import BIDS, played  # noqa: E402
from spark_udfs.pacing.cells import Cells, Rule, cells  # noqa: E402
from spark_udfs.pacing.plan import Plan, SoFar, Terms, plan, shrunk  # noqa: E402
from spark_udfs.simulated import ad_days  # noqa: E402
from spark_udfs.simulated.planted import planted  # noqa: E402
from spark_udfs.simulated.shop import Shop  # noqa: E402

GOAL = 0.95
MORNING = "morning_alone"  # no feedback
CASES: dict[str, tuple[Rule, str, bool]] = {  # the rule, what is wrong with the probabilities, whether others react
    "right": ("second", "right", False),
    MORNING: ("second", "right", False),
    "too_high": ("second", "too_high", False),
    "too_low": ("second", "too_low", False),
    "off_by_chance": ("second", "off_by_chance", False),
    "reacting": ("second", "right", True),
    "first_price": ("first", "right", False),
}


def main() -> None:
    customers, campaigns, minutes = (int(value) for value in [*sys.argv[1:], "50000", "48", "30"][:3])
    shop = Shop(users=customers, tastes=campaigns // ad_days.CAMPAIGNS_PER_TASTE)
    spark = build_session("bench-ads-pacing", master="local[2]", driver_memory="3g", shuffle_partitions=2)
    terms = {
        row["campaign_id"]: Terms(row["budget"], row["target"])
        for row in of_shop(spark, shop, ad_days.BUDGETS).collect()
    }
    rows = of_shop(spark, shop, ad_days.OPPORTUNITIES, truth=True).withColumn("step", step_of(F.col("time"), minutes))
    rows = rows.withColumnRenamed("probability", "true_p").withColumn(
        "day", F.substring("opportunity_id", 12, 1).cast("int")
    )
    rows = rows.withColumns({"bid": F.lit(None).cast("double"), "won": F.lit(None).cast("boolean")})
    rows = rows.repartitionByRange(8, "day", "step").persist()
    counted = rows.groupBy("day").count().orderBy("day").collect()
    told: dict[str, Any] = {"campaigns": campaigns, "opportunities": counted[1]["count"], "steps": 1_440 // minutes}
    for name, (rule, wrong, reacts) in CASES.items():
        known = rows.withColumn("probability", off(wrong))
        told[name] = case(known, terms, 1_440 // minutes, rule, reacts=reacts, again=name != MORNING)
        print(f"  {name:14} {told[name]}", flush=True)
    told["fixed_bid"] = judged(fixed(rows, terms), hindsight(rows.where("day = 1"), terms), terms)
    print(f"  {'fixed_bid':14} {told['fixed_bid']}", flush=True)
    spark.stop()
    if over := {name: one["overspend"] for name, one in told.items() if isinstance(one, dict) and one["overspend"] > 0}:
        raise SystemExit(f"no campaign may spend more than its budget; above it were spent {over}")
    ratio = told["right"]["profit_ratio"]
    result = {
        "name": "ads_pacing",
        "ratio": ratio,
        "goal": GOAL,
        "unit": "of the hindsight programme's value less spend",
    }
    print(json.dumps(result | {"detail": told}))


def of_shop(spark: SparkSession, shop: Shop, table: Any, *, truth: bool = False) -> DataFrame:
    return planted(table, spark.range(0, table.units(shop), 1, 4), shop, truth=truth)


def case(
    rows: DataFrame, terms: dict[str, Terms], steps: int, rule: Rule, *, reacts: bool, again: bool
) -> dict[str, Any]:
    """Plan and play a day, and hold it against what could have been."""
    begun = time.perf_counter()
    held = by_campaign(cells(rows.where("day = 0"), rule))
    day = rows.where("day = 1")
    came, covered = play(day, held, terms, steps, rule, reacts=reacts, again=again)
    seconds = time.perf_counter() - begun
    prices = day if not reacts else with_prices(day, came)
    best = hindsight(prices, terms) if rule == "second" else with_curve(prices, terms, steps)
    return judged(came, best, terms) | {"seconds": round(seconds, 1), "in_interval": round(float(np.mean(covered)), 3)}


def play(
    day: DataFrame,
    held: dict[str, Cells],
    terms: dict[str, Terms],
    steps: int,
    rule: Rule,
    *,
    reacts: bool,
    again: bool,
) -> tuple[dict[str, dict[str, Any]], list[bool]]:
    """Play a day step by step; what came of it by campaign, and whether spend lay in its intervals."""
    nothing = {
        "spend": 0.0,
        "expected": 0.0,
        "actions": 0.0,
        "opportunities": 0.0,
        "value": 0.0,
        "true": 0.0,
        "share": [],
    }
    came: dict[str, dict[str, Any]] = {name: dict(nothing, share=[]) for name in terms}
    plans: dict[str, Plan] = {}
    covered: list[bool] = []
    for step in range(steps):
        sums = {name: sum(one[name] for one in came.values()) for name in ("actions", "expected")}
        overall = shrunk(sums["actions"], sums["expected"])
        for name, one in came.items():
            so_far = SoFar(step, *(one[key] for key in ("spend", "expected", "actions", "opportunities")), overall)
            if again or step == 0:
                plans[name] = plan(held.get(name), steps, rule, terms[name], so_far)
        for row in a_step(day.where(F.col("step") == step), plans, came, terms, step, rule, reacts=reacts):
            one, columns = came[row["campaign_id"]], plans[row["campaign_id"]].columns
            at = 0 if again else step
            covered.append(columns["spend_low"][at] <= row["spend"] <= columns["spend_high"][at] + 1e-9)
            for key in ("spend", "expected", "actions", "opportunities", "value", "true"):
                one[key] += row[key]
            one["share"].append((step, row["share"]))
    return came, covered


def a_step(
    rows: DataFrame, plans: dict[str, Plan], came: dict[str, Any], terms: dict[str, Terms], step: int, rule: Rule,
    *, reacts: bool,
) -> list[Any]:  # fmt: skip
    """What comes of one step: sums by campaign."""

    def bids(name: str, made: Plan) -> tuple[Any, ...]:
        curve = made.curve
        of_curve = (None, None, None) if curve is None else (float(curve.steps[step]), curve.slope, curve.spread)
        return name, *made.weights, terms[name].budget - came[name]["spend"], *of_curve

    listed = rows.sparkSession.createDataFrame([bids(name, made) for name, made in plans.items()], BIDS)
    if reacts:
        rows = with_prices(rows, came)
    won = F.col("won").cast("double")
    return (
        played(rows, listed, rule)
        .groupBy("campaign_id")
        .agg(
            F.sum("paid").alias("spend"),
            F.sum(won * F.col("probability")).alias("expected"),
            F.sum(won * F.col("acts").cast("double")).alias("actions"),
            F.count(F.lit(1)).cast("double").alias("opportunities"),
            F.sum(won * F.col("true_p") * F.col("value")).alias("value"),
            F.sum(won * F.col("true_p")).alias("true"),
            F.avg(won).alias("share"),
        )
        .collect()
    )


def judged(came: dict[str, Any], best: dict[str, Any], terms: dict[str, Terms]) -> dict[str, Any]:
    """The figures of a day."""

    def total(of: str) -> float:
        return sum(one[of] for one in best.values())

    excess = {name: came[name]["spend"] - cost * came[name]["true"] for name, (_, cost) in terms.items() if cost}
    charged = sum(best[name]["of_target"] * max(0.0, beyond) for name, beyond in excess.items())
    full = [name for name, one in best.items() if one["spend"] >= 0.99 * terms[name].budget]
    left = {name: 1 - came[name]["spend"] / terms[name].budget for name in full}
    bound = [name for name, one in best.items() if terms[name].cost and name not in full]
    costs = {name: came[name]["spend"] / came[name]["true"] / (terms[name].cost or 1.0) - 1 for name in bound}
    spend, value = (sum(one[key] for one in came.values()) for key in ("spend", "value"))
    over = sum(max(0.0, came[name]["spend"] - terms[name].budget) for name in terms)
    return {
        "profit_ratio": round((value - spend - charged) / total("upper"), 4),
        "value_ratio": round(value / total("value"), 4),
        "gap": round(1 - total("lower") / total("upper"), 6),
        "overspend": round(over, 6),
        "budget_binds": len(full),
        "unspent": round(1 - sum(came[name]["spend"] for name in full) / sum(terms[name].budget for name in full), 5),
        "unspent_worst": round(max(left.values()), 5),
        "target_binds": len(bound),
        "cost_off_worst": round(max(map(abs, costs.values()), default=0.0), 4),
        "cost_off": round(float(np.mean([*costs.values()] or [0.0])), 4),
    }


if __name__ == "__main__":
    main()
