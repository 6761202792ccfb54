"""Demand on Spark: sales to a panel, forecasts judged on the periods after the cut, forecasts of every series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import simulate
from jobs.console import warn
from jobs.ground import Answer, Ground, Scored, Slice
from jobs.task import OURS, TRUTH
from jobs.tasks.demand import options_of
from spark_udfs import features, panel, panel_judge, vocabularies
from spark_udfs.baselines import exponential_smoothing, panel_classic
from spark_udfs.periods import Form
from spark_udfs.scoring import bundle_schema, predicted
from spark_udfs.simulated.demand import PRODUCT_DAYS
from spark_udfs.simulated.demand_truth import true_forecasts

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from spark_udfs.features import Cuts

ETS = "auto_ets"
EXAMPLES = 10


def _form(settings: Settings) -> Form:
    options = options_of(settings)
    return Form(options.period, options.horizon, options.lags, options.origins, options.yearly)


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Sales of a series at a time, known when they happened."""
    sales = read["sales"].where("series_id IS NOT NULL AND time IS NOT NULL AND quantity IS NOT NULL")
    return sales.select("series_id", "time", F.col("time").alias("arrival_time"), "quantity")


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """What is asked as of both cuts, and the examples of all origins before the test cut."""
    form, read = _form(ground.settings), ground.read
    end = panel.whole_before(read["lines"], form)
    sums = ground.keep("sums", lambda: panel.quantities(read["lines"], read["vocabulary_series"], form))
    asked = {
        features.VALIDATION: (form.number(cuts.validation), min(form.number(cuts.test), end)),
        features.TEST: (form.number(cuts.test), end),
    }
    ids = read["vocabulary_series"].select(F.col("index").alias("series"), F.col("id").alias("series_id"))
    queries = [
        panel.asked(sums, form, origin, until).join(ids, on="series", how="inner").withColumn("split", F.lit(split))
        for split, (origin, until) in asked.items()
    ]
    return {"queries": queries[0].unionByName(queries[1]), "examples": panel.examples(sums, form, cuts, end)}


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The next periods of every series that had begun before the cut."""
    options = options_of(ground.settings)
    asked = ground.read["queries"].where("split = 'test'").drop("split")
    told = asked.where(F.exists("known", lambda known: known > 0))
    return {"next": Slice(f"the next {options.horizon} {options.period}s of each series", told)}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:  # noqa: ARG001
    """The bundles, the mean and the median of late, the season before, and exponential smoothing where it is
    installed; of a simulated shop the demand that its sales were drawn from."""
    form, levels = _form(ground.settings), options_of(ground.settings).quantiles
    classics = {
        f"mean_of_{form.of.mean}": panel_classic.mean_of_late,
        "seasonal_naive": panel_classic.seasonal_naive,
        f"median_of_{form.of.median}": panel_classic.median_of_late,
    }
    if (missing := exponential_smoothing.missing()) is None:
        classics[ETS] = exponential_smoothing.auto_ets
    else:
        warn(f"evaluate: without {ETS}: {missing}")

    def by_bundle(asked: DataFrame, _: str, *, path: Path) -> DataFrame:
        return _forecast(ground, asked, path)

    answers: dict[str, Answer] = {name: partial(by_bundle, path=path) for name, path in bundles.items()}

    def by_classic(asked: DataFrame, _: str, *, of: Any) -> DataFrame:
        answered: DataFrame = of(asked, form, levels)
        return answered

    answers |= {name: partial(by_classic, of=function) for name, function in classics.items()}
    return answers | _truth(ground)


def _truth(ground: Ground) -> dict[str, Answer]:
    """Who answers with the planted demand; nobody where the series are not a simulated shop's products."""
    spark, ids = ground.read["lines"].sparkSession, {"series_id": "item_id"}
    days = simulate.truth_of_source(ground.settings, spark, "sales", ids, PRODUCT_DAYS)
    if days is None:
        return {}
    form, levels = _form(ground.settings), options_of(ground.settings).quantiles
    return {TRUTH: lambda asked, _: true_forecasts(asked, days, form, levels)}


def _forecast(ground: Ground, asked: DataFrame, bundle: Path | None) -> DataFrame:
    """A bundle's quantiles of rows of a panel, step after step, and its mean of each step, or theirs; none below 0, as
    nothing is sold less than not at all, whatever a network of quantiles says."""
    count, horizon = len(options_of(ground.settings).quantiles), options_of(ground.settings).horizon
    given = predicted(asked, str(bundle), key="series", names=["quantiles", "mean"])
    floor = F.lit(0.0).cast("float")
    given = given.withColumns(
        {name: F.transform(name, lambda one: F.greatest(one, floor)) for name in ("quantiles", "mean")}
    )

    def mean(step: Any) -> Any:
        one = F.slice("quantiles", step * count + 1, F.lit(count))
        return (F.aggregate(one, F.lit(0.0), lambda total, quantile: total + quantile) / count).cast("float")

    of_quantiles = F.transform(F.sequence(F.lit(0), F.lit(horizon - 1)), mean)
    return given.withColumn("mean", F.coalesce("mean", of_quantiles))


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How near the quantiles come, over all series and steps, and step by step."""
    levels, resamples = options_of(ground.settings).quantiles, ground.settings.evaluation.bootstrap
    found = panel_judge.judge(answers, asked, levels=levels, resamples=resamples)
    ours = found[OURS].judged
    return {
        "users": ours.users,
        "models": {name: found[name].judged.intervals() for name in names},
        "differences": {name: ours.minus(found[name].judged) for name in names[1:] if name != TRUTH},
        "by_step": {name: _points(found[name].by_step["wql"]) for name in names},
    }


def _points(steps: Sequence[float]) -> list[list[float]]:
    """[step, value] of the steps that something is known of."""
    return [[step + 1, value] for step, value in enumerate(steps) if not math.isnan(value)]


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """Ten series, drawn by hash: what they sold before the cut, what is forecast, and what they sold then."""
    asked, answers = held["next"]
    options, form = options_of(ground.settings), _form(ground.settings)
    ours = answers.where(F.col("model") == OURS).select("series", "quantiles")
    drawn = asked.orderBy(F.xxhash64("series_id")).limit(EXAMPLES).join(ours, on="series", how="inner")
    panels = [_panel(row.asDict(), options.quantiles, form) for row in drawn.orderBy("series_id").collect()]
    low, high = f"{options.quantiles[0]:g}", f"{options.quantiles[-1]:g}"
    rows = [
        [
            panel["name"],
            " ".join(f"{sold:g}" for _, sold in panel["history"][-8:]),
            " ".join(f"{round(value, 1):g}" for _, value in panel["quantiles"]["0.5"]),
            " ".join(
                f"{under[1]:.0f}-{over[1]:.0f}"
                for under, over in zip(panel["quantiles"][low], panel["quantiles"][high], strict=True)
            ),
            " ".join(f"{sold:g}" for _, sold in panel["truth"]),
        ]
        for panel in panels
    ]
    columns = ["series", "sold before", "forecast median", f"{low} to {high}", "then sold"]
    missing = exponential_smoothing.missing()
    return {
        "left_out": {} if missing is None else {ETS: missing},
        "panels": panels,
        "drawn": {"title": f"Ten series, by {options.period}", "columns": columns, "rows": rows},
    }


def _panel(row: Mapping[str, Any], levels: Sequence[float], form: Form) -> dict[str, Any]:
    """A series as points [day, value]."""

    def day(period: int) -> str:
        return f"{row['time'] + timedelta(days=form.of.days * period):%Y-%m-%d}"

    past = row["history"][-max(form.lags, 2 * form.horizon) :]
    steps = range(form.horizon)
    return {
        "name": row["series_id"],
        "history": [[day(at - len(past)), sold] for at, sold in enumerate(past)],
        "quantiles": {
            f"{level:g}": [[day(step), row["quantiles"][step * len(levels) + place]] for step in steps]
            for place, level in enumerate(levels)
        },
        "truth": [[day(step), row["target"][step]] for step in steps if row["known"][step]],
    }


def score(ground: Ground, moment: datetime) -> Scored:
    """The next periods of every series that had begun before the moment; those that the bundle does not know too."""
    form, read = _form(ground.settings), ground.read
    past = read["lines"].where(features.known_before(moment))
    origin = max(form.number(moment), panel.whole_before(past, form))
    held = read["vocabulary_series"]
    came_since = vocabularies.new_entries(past.select(F.col("series_id").alias("id")), held)
    schema = bundle_schema(str(ground.bundle))
    known = F.col("index") < (schema["series"].size or 0) if "series" in schema else F.lit(True)
    numbered = (
        held.where("id IS NOT NULL")
        .select("index", "id", known.alias("known"))
        .unionByName(came_since.select("index", "id", F.lit(False).alias("known")))
    )
    sums = ground.keep("sums", lambda: panel.quantities(past, numbered, form))
    ids = numbered.select(F.col("index").alias("series"), F.col("id").alias("series_id"), F.col("known").alias("held"))
    named = panel.asked(sums, form, origin, origin).join(ids, on="series", how="inner")
    asked = ground.keep("asked", lambda: named)
    return Scored(asked, partial(_steps, ground, form, origin), _counts, each=form.horizon)


def _steps(ground: Ground, form: Form, origin: int, asked: DataFrame) -> DataFrame:
    """A row for each period of each series; series that the bundle does not know (not `held`) are 0."""
    count = len(options_of(ground.settings).quantiles)
    steps = _forecast(ground, asked, ground.bundle).select(
        "series", "quantiles", "mean", F.explode(F.sequence(F.lit(1), F.lit(form.horizon))).alias("step")
    )
    return steps.join(asked.select("series", "series_id", "held"), on="series", how="inner").select(
        "series_id",
        F.when(F.col("held"), F.col("series")).otherwise(F.lit(0)).cast("bigint").alias("series"),
        "step",
        form.start(F.lit(origin) + F.col("step") - 1).alias("period"),
        F.slice("quantiles", (F.col("step") - 1) * count + 1, F.lit(count)).alias("quantiles"),
        F.get("mean", F.col("step") - 1).alias("mean"),
    )


def _counts(written: DataFrame) -> dict[str, int]:
    """series, unknown_series (they came after the vocabulary, or the bundle has no vector of theirs), rows."""
    first = F.col("step") == 1
    made = written.agg(
        F.count_if(first).alias("series"),
        F.count_if(first & (F.col("series") == 0)).alias("unknown_series"),
        F.count(F.lit(1)).alias("rows"),
    )
    return dict(made.collect()[0].asDict())
