"""Fraud on Spark: cases to examples with as-of features; probabilities, judged on the labels of later cases; alarms.

A case's features are as of its own moment: earlier cases of the same entities that had arrived, and those of their
labels that had come by then. So a case after the cut may use labels that came after the cut and before it, as a running
system would, and a case of the training never uses one that came later than itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.ground import Answer, Ground, Scored, Slice
from jobs.task import OURS
from jobs.tasks import planted_on_spark as planted
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.fraud import CALENDAR, COUNTS, known_of_entities, options_of
from spark_udfs import features, windows
from spark_udfs.moments import DAY_US
from spark_udfs.scoring import predict
from spark_udfs.simulated.fraud import PAYMENTS
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

    from jobs.tasks.fraud import FraudOptions
    from spark_udfs.features import Cuts

RATE, NEWNESS = "past_fraud_rate", "rows_so_far"
EXAMPLES = 10
NEVER = 3_650.0  # days since an entity's last known fraud, where there was none


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Cases with an id and a time. One that does not say when it arrived was there at once; cases without ids that are
    equal in all but their label are one."""
    cases = probabilities.with_ids(read["cases"].where("time IS NOT NULL"), "case_id")
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in cases.columns else F.col("time")
    return cases.where("case_id IS NOT NULL").withColumn("arrival_time", arrival)


def _cases(ground: Ground) -> DataFrame:
    """Each case with its features: case_id, time, arrival_time, label (double; null: not known), label_time, weight, an
    index of each id (0: unknown), COUNTS of each entity, and the numbers."""
    return ground.keep("cases with features", lambda: _with_features(ground))


def _with_features(ground: Ground) -> DataFrame:
    options, read = options_of(ground.settings), ground.read
    if "case_id" in options.has:
        probabilities.refuse_repeated(read["lines"], "case_id", "cases", "case")
    cases = given(read["lines"], options)
    return with_known(windows.as_of(cases, "case_id", options.entities, options.means), read, options)


def given(lines: DataFrame, options: FraudOptions) -> DataFrame:
    """Cases as `windows.as_of` takes them: case_id, time, arrival_time, fraud, label_time, the entities, ids and
    numbers."""
    delayed = _delayed(options)
    label_time = F.coalesce("label_time", delayed) if "label_time" in lines.columns else delayed
    return lines.select(
        "case_id", "time", "arrival_time", F.col("label").cast("double").alias("fraud"), label_time.alias("label_time"),
        *dict.fromkeys((*options.entities, *options.ids)), *options.numbers,
    )  # fmt: skip


def with_known(found: DataFrame, read: Mapping[str, DataFrame], options: FraudOptions) -> DataFrame:
    """Cases with their features, of cases with what was known of their entities; `read` has the vocabularies."""
    for name in options.ids:
        held = read[f"vocabulary_{name}"].where("id IS NOT NULL")
        numbered = held.select(F.col("id").alias(name), F.col("index").alias(f"{name}_index"))
        found = found.join(numbered, on=name, how="left")
    return found.select(
        "case_id",
        "time",
        "arrival_time",
        F.col("fraud").cast("float").alias("label"),
        "label_time",
        F.lit(1.0).cast("float").alias("weight"),
        *(F.coalesce(f"{name}_index", F.lit(0)).alias(name) for name in options.ids),
        *(
            _feature(entity, name, options.prior).cast("float").alias(f"{entity}_{name}")
            for entity in options.entities
            for name in (*COUNTS, *windows.means_of(options.means))
        ),
        *(F.col(name).cast("float").alias(name) for name in options.numbers),
        *(value.cast("float").alias(name) for name, value in (_calendar().items() if options.calendar else ())),
    )


def _calendar() -> dict[str, Column]:
    angle = F.pmod(F.unix_micros("time"), F.lit(DAY_US)) * (2 * math.pi / DAY_US)
    values = (F.sin(angle), F.cos(angle), F.dayofweek("time").isin(1, 7))
    return dict(zip(CALENDAR, values, strict=True))


def _feature(entity: str, name: str, prior: float) -> Column:
    if name == "rate":
        return windows.rate(entity, prior)
    if name == "unseen":
        return F.col(f"{entity}_rows") == 0
    if name == "days_since_fraud":
        return F.coalesce(f"{entity}_{name}", F.lit(NEVER))
    return F.coalesce(f"{entity}_{name}", F.lit(0))


def _labelled_before(cut: datetime) -> Column:
    """Whether a case and its label were known before a cut."""
    return features.known_before(cut) & F.col("label").isNotNull() & (F.col("label_time") <= F.lit(features.utc(cut)))


def _delayed(options: FraudOptions) -> Column:
    """When any label of a case is known."""
    delay_us = round(options.label_delay_days * DAY_US)
    return F.timestamp_micros(F.unix_micros("time") + delay_us)


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The cases after each cut, and as examples those old enough before one that their label was known whatever it is.

    A fraud is often reported soon, and that there was none shows only when no report can come any more: of young cases
    with a label most are frauds, which says nothing about young cases.

    Raises:
        DataError: all examples have one label.
    """
    cases = _cases(ground)

    def taught(cut: datetime) -> Column:
        return _labelled_before(cut) & (_delayed(options_of(ground.settings)) <= F.lit(cut))

    after = F.col("time") >= F.lit(cuts.validation)
    held_out = [
        cases.where(after & taught(cuts.test)).withColumn("split", F.lit(features.VALIDATION)),
        cases.where(F.col("time") >= F.lit(cuts.test)).withColumn("split", F.lit(features.TEST)),
    ]
    taught_then = cases.where(taught(cuts.test)).withColumn("delayed", _delayed(options_of(ground.settings)))
    frauds, others = taught_then.agg(F.count_if(F.col("label") == 1), F.count_if(F.col("label") == 0)).collect()[0]
    if not frauds or not others:
        raise DataError(
            f"examples must have cases of both labels; before the cut there are {frauds:,} frauds and {others:,} "
            "others; see that sources.cases.words names all words of the label, or move examples.test_from"
        )
    known_at = features.last_of("time", "arrival_time", "label_time", "delayed")
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": taught_then.withColumn("known_at", known_at).drop("delayed"),
    }


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The cases after the cut whose label is known by now, and that are as old as a label takes: of younger ones nearly
    all that have one are frauds."""
    labelled = ground.read["queries"].where("split = 'test' AND label IS NOT NULL").drop("split")
    now = labelled.agg(F.max("label_time")).collect()[0][0]
    asked = labelled.where(_delayed(options_of(ground.settings)) <= F.lit(now))
    return {"after": Slice("cases after the cut", asked.withColumnRenamed("case_id", "key"))}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:  # noqa: ARG001
    """The bundles; the main entity's past fraud rate; how new that entity is; boosted trees on the same features; of a
    simulated shop the probabilities that its labels were drawn with."""
    main = options_of(ground.settings).entities[0]
    answers: dict[str, Answer] = {
        **probabilities.bundled(bundles),
        RATE: lambda asked, _: asked.select("key", F.col(f"{main}_rate").cast("double").alias("p")),
        NEWNESS: lambda asked, _: asked.select("key", (1 / (1 + F.col(f"{main}_rows"))).cast("double").alias("p")),
    }
    sample = options_of(ground.settings).tree_rows
    answers |= probabilities.boosted_trees(ground.read["examples"], "case_id", _inputs(ground), sample)
    return answers | planted.truth(ground, PAYMENTS, "cases", {"case_id": "order_id"}, "fraud_probability")


def _inputs(ground: Ground) -> list[str]:
    options = options_of(ground.settings)
    return [*known_of_entities(options), *options.numbers, *(CALENDAR if options.calendar else ())]


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How well probabilities rank and how true they are."""
    budget, resamples = options_of(ground.settings).alarm_share, ground.settings.evaluation.bootstrap
    return probabilities.judged(asked.select("key", "label"), answers, names, budget=budget, resamples=resamples)


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """Curves of precision over recall and of what is predicted against what is; the ten highest answers; who was left
    out, and why."""
    asked, answers = held["after"]
    what = {"found": "frauds", "rows": "cases"}
    highest = _highest(ground, asked, answers.where(F.col("model") == OURS))
    table = [[case["case_id"], f"{case['p']:.3f}", case["fraud"], "; ".join(case["reasons"])] for case in highest]
    return {
        "curves": probabilities.curves(asked, answers, what, no_probabilities=(NEWNESS,)),
        "drawn": {
            "title": "Ten cases that come first",
            "columns": ["case", "p", "fraud", "what was known of it"],
            "rows": table,
        },
        "left_out": probabilities.left_out(),
    }


def _highest(ground: Ground, asked: DataFrame, ours: DataFrame) -> list[dict[str, Any]]:
    """The ten cases that an investigator would look at first, with what was known of them."""
    held = asked.join(ours.select("key", "p"), on="key", how="inner")
    found = held.select("key", "p", "label", reasons(options_of(ground.settings)).alias("reasons")).orderBy(
        F.desc("p"), "key"
    )
    return [
        {"case_id": row["key"], "p": row["p"], "fraud": "yes" if row["label"] else "no", "reasons": row["reasons"]}
        for row in found.limit(EXAMPLES).collect()
    ]


def reasons(options: FraudOptions) -> Column:
    """What was known of each entity, in words, and the case's amounts beside what its entities' were before."""
    amounts = (_amount(name, options.entities) for name in options.means)
    return F.array_compact(F.array(*(_known_of(entity) for entity in options.entities), *amounts))


def _known_of(entity: str) -> Column:
    def count(name: str) -> Column:
        return F.col(f"{entity}_{name}").cast("bigint")

    seen = F.format_string(
        f"{entity}: %d earlier, %d in 7 days; %d of %d known labels fraud, %d reported in 30 days",
        count("rows"), count("rows_7d"), count("frauds"), count("labels"), count("frauds_30d"),
    )  # fmt: skip
    return F.when(count("unseen") == 1, f"{entity}: not seen before").otherwise(seen)


def _amount(name: str, entities: Sequence[str]) -> Column:
    """A case's amount and its entities' means, of those who had one (features have 0 of the others); null without."""
    means = {entity: F.col(f"{entity}_{name}_mean_30d") for entity in entities}
    known = [F.when(mean != 0, F.format_string(f"{entity} %.2f", mean)) for entity, mean in means.items()]
    own = F.format_string(f"{name}: %.2f", F.col(name).cast("double"))
    beside = F.concat(own, F.lit("; mean of 30 days: "), F.concat_ws(", ", *known))
    return F.when(F.col(name).isNotNull(), F.when(F.coalesce(*known).isNotNull(), beside).otherwise(own))


def score(ground: Ground, moment: datetime) -> Scored:
    """Every case that was there by the moment and whose label was not: the share that can be looked at has an alarm.

    A case is answered as of its own moment, as the model has learnt it. Of equal answers at the limit all get an alarm.
    """
    open_cases = _cases(ground).where(features.known_before(moment) & ~_labelled_before(moment))
    share = options_of(ground.settings).alarm_share
    return Scored(open_cases, partial(_answered, ground), _counts, finish=partial(_with_alarms, share=share))


def _answered(ground: Ground, cases: DataFrame) -> DataFrame:
    answered = predict(cases, str(ground.bundle), key="case_id")
    named = cases.select("case_id", "time", reasons(options_of(ground.settings)).alias("reasons"))
    return named.join(answered, on="case_id", how="inner")


def _with_alarms(answered: DataFrame, share: float) -> DataFrame:
    return answered.withColumn("alarm", F.col("p") >= F.lit(limit_of(answered, share)).cast("double"))


def limit_of(answered: DataFrame, share: float) -> float | None:
    """The probability from which on answers belong to the highest share; None: there is no answer."""
    limit = answered.agg(F.percentile_approx(-F.col("p"), share, 100_000)).collect()[0][0]
    return None if limit is None else -float(limit)


def _counts(written: DataFrame) -> dict[str, int]:
    made = written.agg(F.count(F.lit(1)).alias("cases"), F.count_if("alarm").alias("alarms"))
    return dict(made.collect()[0].asDict())
