"""What no order can be made of: each row of the stock table that is so, with the rule, the value and the row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs.stock.inputs import LEVELS, ON_ORDER
from training.errors import DataError, TooManyBadRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark.sql import Column, DataFrame

    from jobs.given import Given
    from jobs.settings import Settings
    from jobs.stock.inputs import Forecasts

NO_FORECAST = "there is no forecast of the series"  # no fault of the row: it counts for no limit
AT_LEAST = {
    "pack": 1,
    "min_order": 0,
    "shelf": 0,
    "unit_cost": 0,
    "price": 0,
    "salvage": 0,
    "order_cost": 0,
    "holding_cost": 0,
}
BELOW = 1e12  # each number of a stock table: sums and products of greater ones are no numbers any more
ROUNDED = 1.001  # means and quantiles are floats
EXACT = "decimal(38,6)"  # sums of doubles depend on their order
LONGEST = 300  # characters of a row that an error shows


class Problem(NamedTuple):
    """What a row must keep.

    Attributes:
        name: what is wrong, for counting.
        broken: whether it is.
        value: what the row has.
    """

    name: str
    broken: Column
    value: Column


def joined(held: Mapping[str, Given], found: Forecasts, settings: Settings) -> DataFrame:
    """Each row of the stock table with its series' forecast and what is on its way, and its first problem.

    Returns:
        What `spark_udfs.stocking.planned.needed` reads, `row`, `problem` (null: none) and `problem_value`.
    """
    stock = held[LEVELS].rows
    twice = stock.groupBy("series_id").agg(F.count(F.lit(1)).alias("rows_of_series"))
    rows = stock.join(twice, on="series_id", how="left").join(_by_series(found), on="series_id", how="left")
    rows = rows.join(_coming(held.get(ON_ORDER), found), on="series_id", how="left")
    nothing = F.array_repeat(F.lit(0.0), len(found.starts))
    rows = rows.withColumns({"arrivals": F.coalesce("arrivals", nothing), "later": F.coalesce("later", F.lit(0.0))})
    problem, value = F.lit(None).cast("string"), F.lit(None).cast("string")
    for rule in reversed(_rules(found, settings)):
        problem = F.when(rule.broken, F.lit(rule.name)).otherwise(problem)
        value = F.when(rule.broken, rule.value).otherwise(value)
    return rows.withColumns({"problem": problem, "problem_value": value})


def _by_series(found: Forecasts) -> DataFrame:
    """A row a series: quantiles (step after step), means, and steps, how many there are."""
    step = F.struct("step", "quantiles", "mean")
    steps = found.rows.groupBy("series_id").agg(F.sort_array(F.collect_list(step)).alias("held"))
    return steps.select(
        "series_id",
        F.flatten("held.quantiles").alias("quantiles"),
        F.col("held.mean").alias("means"),
        F.size("held").alias("steps"),
        F.exists("held", lambda one: _is_none(one, len(found.levels))).alias("is_no_forecast"),
        F.exists("held", lambda one: _is_too_high(one, found.levels)).alias("is_too_high"),
    )


def _is_none(step: Column, levels: int) -> Column:
    """Whether a step's quantiles are none: too few, null, NaN, infinite, below 0 or falling, or its mean is."""

    def no_number(value: Column) -> Column:
        return value.isNull() | F.isnan(value) | (value < 0) | (value == float("inf"))

    quantiles = step["quantiles"]
    falls = F.exists(
        F.sequence(F.lit(1), F.lit(levels - 1)), lambda at: F.get(quantiles, at) < F.get(quantiles, at - 1)
    )
    few = F.coalesce(F.size(quantiles) != levels, F.lit(True))
    return few | F.exists(quantiles, no_number) | no_number(step["mean"]) | (falls if levels > 1 else F.lit(False))


def _is_too_high(step: Column, levels: Sequence[float]) -> Column:
    """Whether a quantile lies where no demand of this mean has it: 1 - level of all would lie there (Markov)."""
    quantiles, mean = step["quantiles"], step["mean"]
    found = F.lit(False)
    for place, level in enumerate(levels):
        found |= F.get(quantiles, F.lit(place)) * (1 - level) > mean * ROUNDED + 1e-6
    return F.coalesce(found, F.lit(False))


def _coming(on_order: Given | None, found: Forecasts) -> DataFrame:
    """A row a series: arrivals (array<double>, pieces that are there when each step begins), later (beyond the steps),
    and coming_reason, what is wrong with a row of it.

    What comes within a period is counted from the next one on; what is overdue, from the first.
    """
    if on_order is None:
        none = "series_id string, arrivals array<double>, later double, coming_reason string"
        return found.rows.sparkSession.createDataFrame([], none)
    steps = len(found.starts)
    begun = F.filter(F.array(*(F.lit(start) for start in found.starts)), lambda start: start < F.col("arrives"))
    step = F.size(begun)  # from 0
    reason = F.coalesce(
        "reason", F.when(~F.col("quantity").between(0, BELOW), F.concat(F.lit("quantity "), _text("quantity")))
    )
    quantity = F.sum(F.col("quantity").cast(EXACT)).cast("double").alias("quantity")
    rows = on_order.rows.withColumns({"at": step, "wrong": reason}).groupBy("series_id", "at")
    sums = rows.agg(quantity, F.min("wrong").alias("wrong")).groupBy("series_id")
    of_series = sums.agg(
        F.map_from_entries(F.collect_list(F.struct("at", "quantity"))).alias("by_step"),
        F.min("wrong").alias("coming_reason"),
    )

    def there(at: Column) -> Column:
        return F.coalesce(F.element_at("by_step", at), F.lit(0.0))

    arrivals = F.transform(F.sequence(F.lit(0), F.lit(steps - 1)), there)
    return of_series.select(
        "series_id", arrivals.alias("arrivals"), there(F.lit(steps)).alias("later"), "coming_reason"
    )


def _rules(found: Forecasts, settings: Settings) -> list[Problem]:
    """In the order in which they are told."""
    review, steps = settings.stock.review, len(found.starts)
    earned = F.coalesce("margin", F.col("price") - F.col("unit_cost"))
    over = F.coalesce(F.col("unit_cost") - F.col("salvage"), "holding_cost", F.col("unit_cost"))
    lead = F.col("lead")
    listed = [
        Problem("a value is missing or of another type", F.col("reason").isNotNull(), F.col("reason")),
        Problem("the series has several rows", F.col("rows_of_series") > 1, _text("rows_of_series")),
        Problem("lead must be 0 or more whole periods", (lead < 0) | (lead != F.floor(lead)), _text("lead")),
        *(
            Problem(f"{name} must be {least} or more", _not_at_least(name, least), _text(name))
            for name, least in AT_LEAST.items()
        ),
        *(
            Problem(f"{name} must be below {BELOW:g}", F.abs(name) >= BELOW, _text(name))
            for name in (*AT_LEAST, "on_hand", "margin")
        ),
        Problem("pack must be a whole number", F.col("pack") != F.floor("pack"), _text("pack")),
        Problem(
            "service must lie between 0 and 1", (F.col("service") <= 0) | (F.col("service") >= 1), _text("service")
        ),
        Problem(
            "what is on its way must have its values, and a quantity of 0 or more",
            F.col("coming_reason").isNotNull(),
            F.col("coming_reason"),
        ),
        Problem(
            "price and salvage need a unit_cost",
            F.col("unit_cost").isNull()
            & ((F.col("price").isNotNull() & F.col("margin").isNull()) | F.col("salvage").isNotNull()),
            F.concat(F.lit("price "), _text("price"), F.lit(", salvage "), _text("salvage")),
        ),
        Problem("a piece too many must cost something: holding_cost, or unit_cost (less salvage)",
                F.coalesce(over, F.lit(0.0)) <= 0, over.cast("string")),
        Problem("what a piece earns must be above 0", F.col("service").isNull() & (earned <= 0), earned.cast("string")),
        Problem(NO_FORECAST, F.col("steps").isNull(), F.lit("")),
        Problem(
            "quantiles and mean of each step must be there, finite, not below 0 and not fall",
            F.col("is_no_forecast") | (F.col("steps") != steps), F.concat(_text("steps"), F.lit(" steps")),
        ),
        Problem("a quantile must be one that demand of the step's mean can have, mean / (1 - level) at most",
                F.col("is_too_high"), F.col("means").cast("string")),
        Problem(
            f"lead and review must lie within the {steps} periods that are forecast",
            lead + review > steps,
            F.concat(F.lit("lead "), lead.cast("int").cast("string"), F.lit(f", review {review}")),
        ),
    ]  # fmt: skip
    if settings.stock.unmet == "lost":
        listed.append(Problem("on_hand must be 0 or more", _not_at_least("on_hand", 0), _text("on_hand")))
    if settings.stock.budget is not None:
        listed.append(Problem("a budget needs a unit_cost", F.col("unit_cost").isNull(), F.lit("none")))
    return listed


def _not_at_least(name: str, least: int) -> Column:
    return F.col(name) < least


def _text(name: str) -> Column:
    return F.coalesce(F.col(name).cast("string"), F.lit("none"))


def counted(rows: DataFrame, held: Given, limit: float) -> dict[str, int]:
    """How many rows have each problem.

    Raises:
        DataError: there are no rows, or no order can be made of any.
        TooManyBadRows: the share of rows with another problem passes the limit.
    """
    found = rows.groupBy("problem").agg(
        F.count(F.lit(1)).alias("rows"), F.min(F.struct("series_id", "problem_value", "row")).alias("one")
    )
    by_problem: dict[str | None, Any] = {row["problem"]: row for row in found.collect()}
    every = sum(row["rows"] for row in by_problem.values())
    if not every:
        raise DataError(f"'{held.source.name}' holds no rows; name the series' stock in stock.levels.path")
    counts = {name: int(row["rows"]) for name, row in sorted(by_problem.items(), key=str) if name is not None}
    bad = {name: count for name, count in counts.items() if name != NO_FORECAST}
    if sum(bad.values()) > limit * every:
        _refuse(bad, by_problem, every, held, limit)
    if counts.get(NO_FORECAST) == every:
        raise DataError(
            f"none of the {every:,} series of stock.levels '{held.source.name}' has a forecast, e.g. "
            f"'{by_problem[NO_FORECAST]['one']['series_id']}'; correct stock.levels.columns, or score these series"
        )
    if None not in by_problem:
        raise DataError(
            f"an order can be made of none of the {every:,} rows of stock.levels '{held.source.name}': "
            f"{'; '.join(f'{name} ({count:,})' for name, count in counts.items())}. Correct them; nothing was written"
        )
    return counts


def _refuse(
    bad: Mapping[str, int], by_problem: Mapping[str | None, Any], every: int, held: Given, limit: float
) -> None:
    listed: Sequence[str] = [
        f"{name} ({count:,}, e.g. series '{by_problem[name]['one']['series_id']}' has "
        f"{by_problem[name]['one']['problem_value']} in {by_problem[name]['one']['row'][:LONGEST]})"
        for name, count in bad.items()
    ]
    raise TooManyBadRows(
        f"no order can be made of {sum(bad.values()):,} of {every:,} rows of stock.levels '{held.source.name}', over "
        f"tables.quarantine_limit {limit:g}: {'; '.join(listed)}. Correct them, or raise the limit; nothing was written"
    )
