"""Plans of all campaigns, each made where Spark has its cells: nothing of a campaign comes to the driver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame

from spark_udfs.pacing.cells import KEYS, SUMS, Rule, cells_of
from spark_udfs.pacing.plan import Plan, SoFar, Terms, plan

FORECAST = (
    "opportunities", "wins", "spend", "spend_low", "spend_high", "actions", "value", "roi", "roi_low", "roi_high",
)  # fmt: skip
PLANNED = {
    "campaign_id": "string",
    "step": "int",
    **dict.fromkeys(("budget_multiplier", "target_multiplier", "of_value", "of_action"), "double"),
    **dict.fromkeys(("price_log_mean", "price_slope", "price_spread"), "double"),
    **dict.fromkeys(FORECAST, "double"),
    "binds": "string",
    "gap": "double",
    "reason": "string",
}


def planned(
    campaigns: DataFrame, cells: DataFrame, *, steps: int, first: int, rule: Rule, days: int, overall: float
) -> DataFrame:
    """The plan of each campaign: a row for each step from `first` on, and one without a step for all of them together.

    Args:
        campaigns: campaign_id, budget, target (null: none), and what came of the day so far: spent, expected, and
            actions_so_far and opportunities_so_far (null: nobody knows).
        cells: of past days (`cells.cells`); campaigns may be without.
        steps: of a day.
        first: the first that is planned.
        rule: of the auctions.
        days: how many the cells are of; of a campaign those from its first opportunity on count.
        overall: actions for each expected one over all campaigns.

    Returns:
        Rows of PLANNED.
    """

    def of_campaign(rows: pd.DataFrame) -> pd.DataFrame:
        terms, so_far = _terms(rows.iloc[0]), _so_far(rows.iloc[0], first, overall)
        seen = rows[rows["step"].notna()]
        held = None
        if len(seen):
            own = days - int(seen["begun"].min())
            held = cells_of({name: seen[name].to_numpy() for name in (*KEYS, *SUMS)}, own)
        return frame(str(rows["campaign_id"].iloc[0]), plan(held, steps, rule, terms, so_far), first)

    schema = ", ".join(f"{name} {kind}" for name, kind in PLANNED.items())
    return campaigns.join(cells, on="campaign_id", how="left").groupBy("campaign_id").applyInPandas(of_campaign, schema)


def _terms(row: Any) -> Terms:
    return Terms(float(row["budget"]), _or_none(row["target"]))


def _so_far(row: Any, first: int, overall: float) -> SoFar:
    actions, opportunities = (_or_none(row[name]) for name in ("actions_so_far", "opportunities_so_far"))
    return SoFar(first, float(row["spent"]), float(row["expected"]), actions, opportunities, overall)


def _or_none(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def frame(campaign: str, made: Plan, first: int) -> pd.DataFrame:
    """A plan as rows of PLANNED: its steps, then all of them together."""
    steps = len(made.columns["spend"])
    values: dict[str, Any] = {name: [*made.columns[name], made.total[name]] for name in FORECAST}
    curve = made.curve
    means = np.full(steps, np.nan) if curve is None else curve.steps[first : first + steps]
    values |= {
        "campaign_id": campaign,
        "step": pd.array([*range(first, first + steps), None], dtype="Int32"),
        "budget_multiplier": made.budget,
        "target_multiplier": made.target,
        "of_value": made.weights.of_value,
        "of_action": made.weights.of_action,
        "price_log_mean": [*means, np.nan],
        "price_slope": np.nan if curve is None else curve.slope,
        "price_spread": np.nan if curve is None else curve.spread,
        "binds": made.binds,
        "gap": made.gap,
        "reason": made.reason,
    }
    return pd.DataFrame(values)[list(PLANNED)]
