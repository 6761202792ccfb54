"""Plan stock: what to order of each series now, from its forecast, what there is and what is on its way.

    python -m jobs.plan_stock --settings demand.yaml stock.service=.98 stock.budget=20000

Reads the published forecasts of the bundle that answers, the stock table and what is on its way; writes the tables
`orders` (a row a series) and `order_problems` (a row for each series that no order can be made of). A second run on the
same tables changes nothing; with other stock the orders of the forecasts' moment are replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import ingest_rules, sources
from jobs.artefacts import STOCK, read_json, write_json
from jobs.command import main_of
from jobs.console import say, step, warn
from jobs.given import Given, given
from jobs.page.stock import write_page
from jobs.sessions import in_utc, open_session, persisted, session_settings
from jobs.settings import Settings
from jobs.stock import checks, on_its_way, shown
from jobs.stock.inputs import LEVELS, ON_ORDER, Forecasts, forecasts, tables_of
from jobs.tables import Tables
from spark_udfs import features
from spark_udfs.stocking.budgets import FREE, Price
from spark_udfs.stocking.planned import needed, ordered, price_of_money
from spark_udfs.stocking.terms import Habits

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JOB, ORDERS, PROBLEMS = "plan_stock", "orders", "order_problems"


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Plan the orders of one review.

    Returns:
        bundle, moment, first_period (its start), series, ordered (series of which something is), pieces, money,
        expected_cost, expected_service (the mean over series), policies and cut_by (series by policy, and by what cut
        their orders), price_of_money (0: the budget does not bind), problems (rows by what is wrong with them),
        versions of the tables, page, inputs, up_to_date.

    Raises:
        SettingsError: the task does not forecast, or the settings name a column that is none of ours.
        BundleError: there is no bundle.
        DataError: there are no forecasts, no rows, or nothing that is forecast; or too many rows are bad.
        SchemaError: a column is missing.
        TableError: a table is missing, or another writer changed the orders meanwhile.
    """
    spark = open_session(settings, spark)
    tables = Tables(spark, settings.tables.root, settings.tables.catalogue)
    with session_settings(spark, ingest_rules.CORRECT_TIMES | sources.AS_TEXTS):
        with step("plan_stock: opening the tables"):
            found = forecasts(settings, tables)
            held = given(settings, spark, "stock", tables_of(settings))
            since = {name: tables.version(name) if tables.exists(name) else -1 for name in (ORDERS, PROBLEMS)}
        inputs = {name: one.inputs for name, one in held.items()}
        inputs |= {"forecasts": found.inputs, "stock": _asked(settings)}
        before: dict[str, Any] | None = read_json(settings.run_dir, STOCK)
        known = all(tables.up_to_date(name, JOB, inputs) for name in (ORDERS, PROBLEMS))
        if known and before is not None and before.get("inputs") == inputs:
            say(f"the orders as of {before['moment']} are up to date")
            return before | {"up_to_date": True}
        with sources.readable(*(one.source for one in held.values())):
            return _planned(settings, tables, held, found, inputs, since)


def _asked(settings: Settings) -> dict[str, Any]:
    """The settings that decide the orders."""
    return settings.stock.model_dump(mode="json", exclude={LEVELS, ON_ORDER, "moment"})


def _habits(settings: Settings, found: Forecasts) -> Habits:
    stock = settings.stock
    is_lost = stock.unmet == "lost"
    return Habits(stock.review, stock.service, stock.holding_rate, is_lost, stock.correlation, found.levels)


def _planned(
    settings: Settings,
    tables: Tables,
    held: dict[str, Given],
    found: Forecasts,
    inputs: dict[str, Any],
    since: dict[str, int],
) -> dict[str, Any]:
    _tell_start(found)
    if ON_ORDER in held:
        on_its_way.refuse_nobodys(held[ON_ORDER])
    with persisted(checks.joined(held, found, settings)) as rows:
        with step("plan_stock: looking at stock and forecasts"):
            problems = checks.counted(rows, held[LEVELS], settings.tables.quarantine_limit)
        for name, count in problems.items():
            warn(f"no order is made of {count:,} rows: {name}; see the table {PROBLEMS}")
        for said in on_its_way.strangers(rows, held.get(ON_ORDER), found):
            warn(said)
        good = rows.where("problem IS NULL")
        habits = _habits(settings, found)
        with persisted(needed(good, habits)) as needs:
            price = _price(settings, needs, habits)
            with step("plan_stock: orders"):
                versions = _written(tables, found, ordered(needs, habits, price), rows, inputs, since)
        orders = tables.read(ORDERS, versions[ORDERS]).where(_mine(found))
        summary = shown.counted(orders) | {"bundle": found.bundle, "moment": found.moment.isoformat()}
        summary["first_period"] = features.utc(found.starts[0]).isoformat()
        summary |= {"price_of_money": price.at, "problems": problems, "versions": versions}
        listed = shown.largest(orders)
        drawn = shown.drawn(listed, good, lost=habits.lost)
    summary["page"] = write_page(settings.run_dir, summary, drawn)
    write_json(settings.run_dir, STOCK, summary | {"inputs": inputs})
    shown.show(summary, listed, settings.stock.budget)
    return summary | {"inputs": inputs, "up_to_date": False}


def _tell_start(found: Forecasts) -> None:
    """From when on demand is forecast: stock of a later time lacks what was sold since, which is forecast too."""
    start = features.utc(found.starts[0])
    say(f"demand is forecast from {start.isoformat()} on: stock must be that of then")
    if found.moment > start:
        warn(
            f"the forecasts are as of {found.moment.isoformat()}, inside their first period, which began at "
            f"{start.isoformat()}: with stock as of the later time what was sold in between is ordered twice; give "
            "stock as of the period's start, or set scoring.moment to it"
        )


def _price(settings: Settings, needs: DataFrame, habits: Habits) -> Price:
    if settings.stock.budget is None:
        return FREE
    with step("plan_stock: the price of money at which all orders keep the budget"):
        return price_of_money(needs, habits, settings.stock.budget)


def _mine(found: Forecasts) -> Any:
    return F.col("moment") == F.lit(found.moment)


def _written(
    tables: Tables,
    found: Forecasts,
    orders: DataFrame,
    rows: DataFrame,
    inputs: dict[str, Any],
    since: dict[str, int],
) -> dict[str, int]:
    """Replace the moment's orders, and what no order could be made of; their versions."""
    starts = F.array(*(F.lit(start) for start in found.starts))
    named = {"bundle": F.lit(found.bundle), "moment": F.lit(found.moment)}
    arrives = F.when(F.col("quantity") > 0, F.get(starts, F.col("lead")))
    made = orders.withColumns({"arrives": arrives, **named}).drop("lead")
    wrong = rows.where("problem IS NOT NULL").select(
        "series_id", "problem", F.col("problem_value").alias("value"), "row"
    )
    where = f"moment = TIMESTAMP '{found.moment:%Y-%m-%d %H:%M:%S.%f}'"
    return {
        name: tables.write(name, frame, mode="overwrite", job=JOB, inputs=inputs, where=where, since=since[name])
        for name, frame in ((ORDERS, made), (PROBLEMS, wrong.withColumns(named)))
    }


if __name__ == "__main__":
    main_of(run)
