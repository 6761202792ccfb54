"""What is wrong with budgets, opportunities and feedback: the first fault, with its campaign, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.ads.inputs import BUDGETS, FEEDBACK, OPPORTUNITIES
from jobs.console import warn
from jobs.given import Given
from training.errors import DataError

CLOSE = 1e-9  # sums of money in another order differ by as much of it
OVERSHOT = 0.1  # of a budget, by bids that were under way when it was gone; more is a fault of the feedback
SHOWN, LONGEST = 3, 300  # steps that an error names, and characters of a row


class Rule(NamedTuple):
    """What rows must keep.

    Attributes:
        must: the rule, in words.
        broken: whether a row breaks it.
        value: what the row has, as a text.
        remedy: what to do then.
    """

    must: str
    broken: Column
    value: Column
    remedy: str


class Days(NamedTuple):
    """What past days there are.

    Attributes:
        days: in their order.
        rows: opportunities of campaigns with a budget.
        strangers: opportunities of campaigns without one.
    """

    days: tuple[date, ...]
    rows: int
    strangers: int


def step_of(time: Column, minutes: int) -> Column:
    """The step of the day, from 0, in which a time lies."""
    return F.floor((F.hour(time) * 60 + F.minute(time)) / minutes).cast("int")


def budgets(held: Given) -> None:
    """Refuse budgets of which a campaign's are none.

    Raises:
        DataError: a budget or target is 0 or less, a campaign stands twice, a value is missing or of another type.
    """
    rules = [
        _typed(),
        _above_0("budget", "leave the campaign out if it is to spend nothing"),
        _above_0("target", "leave it empty where an action may cost anything"),
    ]
    for row in held.rows.agg(*_broken(rules)).collect():
        _refuse(rules, row.asDict(), BUDGETS, held)
    twice = held.rows.groupBy("campaign_id").count().where("count > 1").orderBy("campaign_id").limit(1).collect()
    if twice:
        raise DataError(
            f"a campaign must have one row in ads.budgets '{held.source.name}'; '{twice[0][0]}' has {twice[0][1]}: "
            "keep one of them. Nothing was written"
        )
    if held.rows.isEmpty():
        raise DataError(f"'{held.source.name}' holds no rows; name the campaigns' budgets in ads.budgets.path")


def opportunities(held: Given, terms: DataFrame, steps: int, price_rule: str) -> Days:
    """Refuse opportunities from which no day can be planned; one pass over the rows.

    Args:
        held: the opportunities, with `step`.
        terms: of the campaigns: campaign_id, currency.
        steps: of a day.
        price_rule: of the auctions.

    Raises:
        DataError: a value is none, lies outside of its bounds or is of another currency, a price is not known and
            nothing else tells of it or is 0 in first-price auctions, or the days are not whole.
    """
    rules = [
        _typed(),
        Rule(
            "a probability must lie from 0 to 1",
            ~F.col("probability").between(0, 1),
            _text("probability"),
            "correct what scored it",
        ),
        _not_below_0("value"),
        _not_below_0("price"),
        Rule(
            "in first-price auctions a price must be above 0",
            F.lit(price_rule == "first") & (F.col("price") == 0),
            _text("price"),
            "where nobody else bid leave the price empty, and give bid and won",
        ),
        Rule(
            "where the price is not known there must be a bid above 0, and whether it won",
            F.col("price").isNull() & (F.col("bid").isNull() | (F.col("bid") <= 0) | F.col("won").isNull()),
            F.concat(F.lit("bid "), _text("bid"), F.lit(", won "), _text("won")),
            "give the price, or bid and won",
        ),
        Rule(
            "values and prices must be in the currency of the campaign's budget",
            F.col("currency") != F.col("of_budget"),
            F.concat(F.col("currency"), F.lit(" and a budget in "), F.col("of_budget")),
            "convert one of them",
        ),
    ]
    of_budget = F.broadcast(terms.select("campaign_id", F.col("currency").alias("of_budget")))
    rows = held.rows.join(of_budget, on="campaign_id", how="left").withColumn("day", F.to_date("time"))
    known = F.sum(F.col("of_budget").isNotNull().cast("long")).alias("known")
    sums = rows.groupBy("day", "step").agg(F.count(F.lit(1)).alias("rows"), known, *_broken(rules))
    found = sums.orderBy("day", "step").collect()
    if not found:
        raise DataError(
            f"'{held.source.name}' holds no rows of days before the one that is planned; name scored opportunities in "
            "ads.opportunities.path, or a later day in ads.day"
        )
    for row in found:
        _refuse(rules, row.asDict(), OPPORTUNITIES, held)
    there: dict[date, set[int]] = {}
    for row in found:
        there.setdefault(row["day"], set()).add(row["step"])
    _refuse_parts(there, steps, held)
    every, known_rows = (sum(row[name] for row in found) for name in ("rows", "known"))
    return Days(tuple(sorted(there)), known_rows, every - known_rows)


def feedback(held: Given, terms: DataFrame, day: date) -> None:
    """Refuse feedback that is not of these campaigns and this day, or says far more than they may spend.

    A campaign that spent a little more than its budget is named in a warning: its budget is gone.

    Raises:
        DataError: so it is, or a value is none or below 0.
    """
    rules = [
        _typed(),
        Rule(
            "feedback must be of campaigns that have a budget",
            F.col("budget").isNull(),
            F.lit("none"),
            "add its row to ads.budgets, or leave its feedback out",
        ),
        Rule(
            f"feedback must be of the day that is planned, {day}",
            ~F.to_date("time").eqNullSafe(F.lit(day)),
            _text("time"),
            "set ads.day, or leave other days out",
        ),
        *(_not_below_0(name) for name in ("spend", "expected", "actions", "opportunities")),
    ]
    rows = held.rows.join(F.broadcast(terms.select("campaign_id", "budget")), on="campaign_id", how="left")
    for row in rows.agg(*_broken(rules)).collect():
        _refuse(rules, row.asDict(), FEEDBACK, held)
    worst = F.max(F.struct(F.col("spend") / F.col("budget"), "campaign_id", "spend", "budget")).alias("worst")
    spent = rows.groupBy("campaign_id", "budget").agg(F.sum("spend").alias("spend"))
    over = spent.where(F.col("spend") > F.col("budget") * (1 + CLOSE)).agg(F.count(F.lit(1)).alias("count"), worst)
    found = over.collect()[0]
    if found["count"] and found["worst"]["spend"] > found["worst"]["budget"] * (1 + OVERSHOT) * (1 + CLOSE):
        raise DataError(
            f"a campaign may have spent {OVERSHOT:.0%} more than its budget at most; {_told(found['worst'])} by "
            f"ads.feedback '{held.source.name}': correct the feedback, or raise the budget. Nothing was written"
        )
    if found["count"]:
        warn(f"{found['count']:,} campaigns have spent more than their budget and bid no more; {_told(found['worst'])}")


def _told(spent: Mapping[str, Any]) -> str:
    return f"'{spent['campaign_id']}' has spent {spent['spend']:.10g} of {spent['budget']:.10g}"


def _refuse_parts(there: Mapping[date, set[int]], steps: int, held: Given) -> None:
    """Refuse days of which a part is missing."""
    for day in sorted(there):
        missing = sorted(set(range(steps)) - there[day])
        if missing:
            minutes = 24 * 60 // steps
            times = [f"{timedelta(minutes=step * minutes)}"[:-3] for step in missing[:SHOWN]]
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            raise DataError(
                f"opportunities must cover whole days in UTC; {day} in ads.opportunities '{held.source.name}' has none "
                f"in the {minutes} minutes from {', '.join(times)}{more}: give all of the day, leave the day out, or "
                "set longer steps (ads.step_minutes). Nothing was written"
            )


def _typed() -> Rule:
    value = F.concat(F.col("reason"), F.lit(" in "), F.substring("row", 1, LONGEST))
    return Rule("every row must have its values", F.col("reason").isNotNull(), value, "correct it, or leave it out")


def _above_0(name: str, remedy: str) -> Rule:
    return Rule(f"a {name} must be above 0", F.col(name) <= 0, _text(name), remedy)


def _not_below_0(name: str) -> Rule:
    return Rule(f"{name} must not lie below 0", F.col(name) < 0, _text(name), "correct it, or leave the row out")


def _text(name: str) -> Column:
    return F.coalesce(F.col(name).cast("string"), F.lit("none"))


def _broken(rules: Sequence[Rule]) -> list[Column]:
    """Of each rule how many rows break it, and one of them, the same in each run."""
    found = []
    for number, rule in enumerate(rules):
        of_campaign = F.concat(F.coalesce("campaign_id", F.lit("none")), F.lit("' has "), rule.value)
        found += [
            F.count(F.when(rule.broken, 1)).alias(f"broken_{number}"),
            F.min(F.when(rule.broken, of_campaign)).alias(f"example_{number}"),
        ]
    return found


def _refuse(rules: Sequence[Rule], row: Mapping[str, Any], name: str, held: Given) -> None:
    """Tell the first rule that is broken.

    Raises:
        DataError: one is.
    """
    for number, rule in enumerate(rules):
        if count := row[f"broken_{number}"]:
            raise DataError(
                f"{rule.must}; campaign '{row[f'example_{number}']} in ads.{name} '{held.source.name}' ({count:,} "
                f"such): {rule.remedy}. Nothing was written"
            )
