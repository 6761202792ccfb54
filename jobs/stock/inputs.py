"""The tables that orders are made from, with their columns and types, and the forecasts that were published."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs import answers
from jobs.given import Wanted
from jobs.tasks import TASKS
from jobs.trained import latest_bundle
from spark_udfs import features
from spark_udfs.stocking.terms import COLUMNS
from training.errors import DataError, SettingsError, TableError
from training.state.described import read_content

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from jobs.tables import Tables

COUNTS = "negative_binomial"
LEVELS, ON_ORDER = "levels", "on_order"
ALWAYS = ("on_hand", "lead")
FORECAST = ("series_id", "step", "period", "quantiles", "mean")


class Forecasts(NamedTuple):
    """What was forecast as of a moment.

    Attributes:
        rows: FORECAST, a row a series and step.
        table: where they lie.
        bundle: whose they are.
        moment: as of which.
        levels: of the quantiles, ascending.
        starts: of each step, ascending.
        inputs: what decides them.
    """

    rows: DataFrame
    table: str
    bundle: str
    moment: datetime
    levels: tuple[float, ...]
    starts: tuple[datetime, ...]
    inputs: dict[str, Any]


def tables_of(settings: Settings) -> dict[str, Wanted]:
    """The tables: where nobody names a place for the stock, the simulated shop's with what is on its way there."""
    is_simulated = settings.stock.levels.name is None
    levels = {"series_id": "string", **dict.fromkeys(ALWAYS, "double")}
    if_any = dict.fromkeys((name for name in COLUMNS if name not in ALWAYS), "double?")
    arrivals = {"series_id": "string", "arrives": "timestamp", "quantity": "double"}
    return {
        LEVELS: Wanted(levels, if_any, "product_stock" if is_simulated else None),
        ON_ORDER: Wanted(arrivals, {}, "product_arrivals" if is_simulated else None),
    }


def forecasts(settings: Settings, tables: Tables) -> Forecasts:
    """The newest forecasts of the bundle that answers, or those as of `stock.moment`, at the table's newest version.

    Raises:
        SettingsError: the task does not forecast.
        BundleError: there is no bundle.
        TableError: nothing was scored yet.
        DataError: the bundle has forecast nothing, or nothing as of the moment, or it forecasts no mean.
    """
    task = TASKS[settings.task]
    if lacking := [name for name in FORECAST if name not in task.answer]:
        raise SettingsError(
            f"orders need a task that answers with {', '.join(FORECAST)}; '{task.name}' answers without "
            f"{', '.join(lacking)}: set task to one that forecasts (`millrace tasks` lists them)"
        )
    bundle = latest_bundle(settings.run_dir)
    if not tables.exists(task.table):
        raise TableError(f"there are no forecasts at {tables.path(task.table)}; run `millrace score` first")
    pin = tables.pin(task.table)
    every = tables.read(task.table, pin.version)
    moment = _moment(every.where(F.col("bundle") == bundle.name), settings, bundle.name)
    rows = every.where(answers.mine(bundle.name, moment)).select(*FORECAST)
    starts = tuple(row["period"] for row in rows.select("period").distinct().orderBy("period").collect())
    config = read_content(bundle).config
    if (head := config.get("head")) != COUNTS:
        raise DataError(
            f"orders need the mean of each step, which a bundle with model.head '{COUNTS}' forecasts; "
            f"'{bundle.name}' has '{head}', whose mean is no more than the average of its quantiles: train one with "
            "that head"
        )
    inputs = {"content": pin.content, "id": tables.id(task.table), "bundle": bundle.name, "moment": moment.isoformat()}
    levels = tuple(float(level) for level in config["levels"])
    return Forecasts(rows, task.table, bundle.name, moment, levels, starts, inputs)


def _moment(rows: DataFrame, settings: Settings, bundle: str) -> datetime:
    """The moment that is asked for, or the newest one."""
    there = [row["moment"] for row in rows.select("moment").distinct().orderBy(F.desc("moment")).collect()]
    if not there:
        raise DataError(
            f"'{bundle}' must have forecast before orders are made of it, and has not; run `millrace score`"
        )
    asked = settings.stock.moment
    if asked is None:
        return features.utc(there[0])
    if features.utc(asked) not in {features.utc(one) for one in there}:
        raise DataError(
            f"stock.moment is {features.utc(asked).isoformat()}, and '{bundle}' has forecast as of "
            f"{', '.join(features.utc(one).isoformat() for one in there[:3])}: name one of these, or score as of it"
        )
    return features.utc(asked)
