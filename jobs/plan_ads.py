"""Plan ads: what each campaign bids in each step of a day, so that its budget lasts and brings most.

    python -m jobs.plan_ads --settings ads.yaml ads.price_rule=first

Reads scored opportunities of past days, budgets, and what was spent of the day so far; writes the tables `ads_plan`
(a row for each campaign and step that is left) and `ads_outlook` (a row for each campaign). A second run on the same
tables changes nothing; with newer feedback the steps that are left are planned anew, and those that are over stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs import ingest_rules, sources
from jobs.ads import checks, shown
from jobs.ads.inputs import BUDGETS, FEEDBACK, OPPORTUNITIES, TABLES
from jobs.artefacts import ADS, read_json, write_json
from jobs.command import main_of
from jobs.console import say, step, warn
from jobs.given import Given, given
from jobs.page.ads import write_page
from jobs.sessions import in_utc, open_session, persisted, session_settings
from jobs.settings import Settings
from jobs.tables import Tables
from spark_udfs import features
from spark_udfs.pacing.cells import cells
from spark_udfs.pacing.plan import shrunk
from spark_udfs.pacing.planned import planned
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JOB, PLAN, OUTLOOK = "plan_ads", "ads_plan", "ads_outlook"
MONEY = ("campaigns", "budget", "spend", "value")


class _SoFar(NamedTuple):
    """What came of the day.

    Attributes:
        campaigns: terms, and what each has spent and won.
        first: the first step that is left.
        overall: actions for each expected one, over all campaigns.
    """

    campaigns: DataFrame
    first: int
    overall: float


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Plan a day, or what is left of it.

    Returns:
        day, first_step, days (that were looked at), opportunities, campaigns, bound_by (campaigns by what holds their
        bids), reasons (campaigns by why they have no plan as others), calibration (actions for each expected one),
        money (by currency: campaigns, budget, and of what is left spend and value), versions of the tables, page,
        inputs, up_to_date.

    Raises:
        SettingsError: the settings name a column that is none of ours.
        DataError: budgets, opportunities or feedback cannot be planned with: the rule, the campaign and the value are
            named.
        SchemaError: a column is missing.
        TableError: a table is missing, or another writer changed the plan meanwhile.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    with session_settings(spark, ingest_rules.CORRECT_TIMES | sources.AS_TEXTS):
        with step("plan_ads: opening the tables"):
            held = given(settings, spark, "ads", TABLES)
        inputs = {name: one.inputs for name, one in held.items()} | {"ads": _asked(settings)}
        before: dict[str, Any] | None = read_json(settings.run_dir, ADS)
        known = all(tables.up_to_date(name, JOB, inputs) for name in (PLAN, OUTLOOK))
        if known and before is not None and before.get("inputs") == inputs:
            say(f"the plan of {before['day']} is up to date")
            return before | {"up_to_date": True}
        with sources.readable(*(one.source for one in held.values())):
            return _planned(settings, tables, held, inputs)


def _asked(settings: Settings) -> dict[str, Any]:
    """The settings that decide the plan."""
    return settings.ads.model_dump(mode="json", include={"day", "price_rule", "step_minutes"})


def _planned(settings: Settings, tables: Tables, held: dict[str, Given], inputs: dict[str, Any]) -> dict[str, Any]:
    ads = settings.ads
    with step("plan_ads: looking at budgets and opportunities"):
        checks.budgets(held[BUDGETS])
        terms = held[BUDGETS].rows.select("campaign_id", "budget", "target", "currency")
        stepped = _before(held[OPPORTUNITIES].rows, ads.day).withColumn(
            "step", checks.step_of(F.col("time"), ads.step_minutes)
        )
        seen = checks.opportunities(held[OPPORTUNITIES]._replace(rows=stepped), terms, ads.steps, ads.price_rule)
        day = seen.days[-1] + timedelta(days=1) if ads.day is None else features.utc(ads.day).date()
        so_far = _so_far(settings, held.get(FEEDBACK), terms, day)
    if seen.strangers:
        warn(f"{seen.strangers:,} opportunities are of campaigns without a budget: nobody bids for them")
    rows = planned(
        so_far.campaigns,
        cells(_numbered(stepped, seen.days, terms), ads.price_rule),
        steps=ads.steps,
        first=so_far.first,
        rule=ads.price_rule,
        days=len(seen.days),
        overall=so_far.overall,
    )
    with step(f"plan_ads: {ads.steps - so_far.first} steps of {day}"), persisted(rows) as made:
        versions = _written(settings, tables, made, terms, day, so_far.first, inputs)
    outlook = tables.read(OUTLOOK, versions[OUTLOOK]).where(F.col("day") == F.lit(day))
    summary = {"day": str(day), "first_step": so_far.first, "days": len(seen.days), "opportunities": seen.rows}
    summary |= {"calibration": so_far.overall, "versions": versions} | _counted(outlook)
    listed = shown.largest(outlook)
    plan = tables.read(PLAN, versions[PLAN])
    drawn = shown.drawn(plan, held.get(FEEDBACK), listed, day, ads.step_minutes)
    summary["page"] = write_page(settings.run_dir, str(day), ads.price_rule, drawn)
    write_json(settings.run_dir, ADS, summary | {"inputs": inputs})
    shown.show(summary, listed)
    return summary | {"inputs": inputs, "up_to_date": False}


def _before(rows: DataFrame, day: datetime | None) -> DataFrame:
    """Those of days that are over when the day begins that is planned; a row without a time is told later."""
    if day is None:
        return rows
    return rows.where(F.col("time").isNull() | (F.to_date("time") < F.lit(features.utc(day).date())))


def _numbered(stepped: DataFrame, days: Sequence[date], terms: DataFrame) -> DataFrame:
    """The campaigns' opportunities with the number of their day, from 0."""
    numbers = F.array(*(F.lit(one) for one in days))
    ours = stepped.join(F.broadcast(terms.select("campaign_id")), on="campaign_id", how="left_semi")
    return ours.withColumn("day", (F.array_position(numbers, F.to_date("time")) - 1).cast("int"))


def _so_far(settings: Settings, feedback: Given | None, terms: DataFrame, day: date) -> _SoFar:
    """What came of the day, by campaign.

    Raises:
        DataError: the feedback is not of this day and these campaigns, or reaches to the day's end.
    """
    if feedback is None:
        nothing = {"spent": F.lit(0.0), "expected": F.lit(0.0)}
        nothing |= dict.fromkeys(("actions_so_far", "opportunities_so_far"), F.lit(None).cast("double"))
        return _SoFar(terms.withColumns(nothing), 0, 1.0)
    checks.feedback(feedback, terms, day)
    rows = feedback.rows.withColumn("step", checks.step_of(F.col("time"), settings.ads.step_minutes))
    told = F.col("actions").isNotNull()
    last, actions, expected = rows.agg(
        F.max("step"), F.sum(F.when(told, F.col("actions"))), F.sum(F.when(told, F.col("expected")))
    ).collect()[0]
    first = 0 if last is None else int(last) + 1
    if first == settings.ads.steps:
        raise DataError(
            f"feedback must leave a part of the day to plan; ads.feedback '{feedback.source.name}' reaches to the last "
            f"step of {day}: name the next day in ads.day. Nothing was written"
        )

    def whole(name: str) -> Any:
        """A sum, if each row has its part."""
        return F.when(F.count(name) == F.count(F.lit(1)), F.sum(name)).alias(f"{name}_so_far")

    of_campaign = rows.groupBy("campaign_id").agg(
        F.sum("spend").alias("spent"), F.sum("expected").alias("expected"), whole("actions"), whole("opportunities")
    )
    campaigns = terms.join(of_campaign, on="campaign_id", how="left").fillna(0.0, ["spent", "expected"])
    return _SoFar(campaigns, first, shrunk(actions, expected) if expected else 1.0)


def _written(
    settings: Settings, tables: Tables, made: DataFrame, terms: DataFrame, day: date, first: int, inputs: dict[str, Any]
) -> dict[str, int]:
    """Write the steps that are left, and the outlook of the day; their versions."""
    midnight = int(datetime.combine(day, time(), UTC).timestamp())
    starts = F.timestamp_seconds(F.lit(midnight) + F.col("step") * settings.ads.step_minutes * 60)
    of_day = made.join(F.broadcast(terms.drop("target")), on="campaign_id", how="inner").withColumns(
        {"day": F.lit(day), "price_rule": F.lit(settings.ads.price_rule), "from_step": F.lit(first)}
    )
    whole = of_day.where("step IS NULL").drop("step", "price_log_mean")
    steps = of_day.where("step IS NOT NULL").withColumn("starts", starts)
    today = f"day = DATE '{day}'"
    return {
        name: tables.write(name, rows, mode="overwrite", job=JOB, inputs=inputs, where=where)
        for name, rows, where in ((PLAN, steps, f"{today} AND step >= {first}"), (OUTLOOK, whole, today))
    }


def _counted(outlook: DataFrame) -> dict[str, Any]:
    """How many campaigns there are, by what holds them, and what is expected of all."""
    found = outlook.groupBy("binds", "reason", "currency").agg(
        F.count(F.lit(1)).alias("campaigns"), *(F.sum(name).alias(name) for name in ("budget", "spend", "value"))
    )
    summary: dict[str, Any] = {"campaigns": 0, "bound_by": {}, "reasons": {}, "money": {}}
    for row in found.orderBy("binds", "reason", "currency").collect():
        summary["campaigns"] += row["campaigns"]
        for name, key in (("bound_by", row["binds"]), ("reasons", row["reason"])):
            if key is not None:
                summary[name][key] = summary[name].get(key, 0) + row["campaigns"]
        money = summary["money"].setdefault(row["currency"], dict.fromkeys(MONEY, 0))
        for name in MONEY:
            money[name] += row[name]
    return summary


if __name__ == "__main__":
    main_of(run)
