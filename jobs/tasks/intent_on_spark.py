"""Intent on Spark: sessions (intent_rows.py) to examples; probabilities and decisions, judged on how sessions ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.ground import Answer, Ground, Scored, Slice
from jobs.task import OURS
from jobs.tasks import decided_on_spark as decided
from jobs.tasks import planted_on_spark as planted
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.intent_options import ids_of, numbers_of, options_of
from jobs.tasks.intent_rows import lines, open_at, rows
from spark_udfs import decisions, features
from spark_udfs.scoring import predict
from spark_udfs.simulated.visits import STEPS
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts

__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]

EXAMPLES, NAMED = 10, 8  # sessions that are shown, and numbers of each


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The sessions after each cut, and as examples those of before one whose end was known.

    Raises:
        DataError: a session stands twice, or all examples have the same label.
    """
    held = rows(ground)

    is_told = F.col("label").isNotNull() & (F.col("label_time") <= F.lit(features.utc(cuts.test)))
    learnt = held.where(features.known_before(cuts.test) & is_told)
    _count(ground, learnt)
    held_out = [
        learnt.where(F.col("time") >= F.lit(cuts.validation)).withColumn("split", F.lit(features.VALIDATION)),
        held.where(F.col("time") >= F.lit(cuts.test)).withColumn("split", F.lit(features.TEST)),
    ]
    known_at = features.last_of("time", "arrival_time", "label_time")
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": learnt.withColumn("known_at", known_at),
    }


def _count(ground: Ground, learnt: DataFrame) -> None:
    """Count buyers, and see that examples are of both labels."""
    buy, others = learnt.agg(F.count_if(F.col("label") == 1), F.count_if(F.col("label") == 0)).collect()[0]
    if not buy or not others:
        raise DataError(
            f"examples must have sessions of both labels; before the cut there are {buy:,} that buy and {others:,} "
            "that do not; say which words are a purchase (options.orders of steps, sources.sessions.words of "
            "sessions), or move examples.test_from"
        )
    ground.counts["buying_examples"] = buy


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The sessions after the cut whose end is known by now."""
    now = ground.read["lines"].agg(F.max(F.greatest("time", "arrival_time"))).collect()[0][0]
    asked = ground.read["queries"].where("split = 'test' AND label IS NOT NULL").drop("split")
    known = asked.where(F.col("label_time") <= F.lit(now)).withColumn("key", F.col("row_id"))
    return {"after": Slice("sessions after the cut", known)}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """The bundles; the order of one number, where the settings name it; boosted trees of the same columns; of a
    simulated shop the probabilities behind its visits. Each with the threshold that is best on the validation days."""
    options = options_of(ground.settings)
    learnt = decided.learnt(ground, cut, bundles[OURS], "session")
    answers: dict[str, Answer] = {**probabilities.bundled(bundles)}
    if options.rule is not None:
        answers["rule"] = partial(_by_rule, name=options.rule)
    names = [*numbers_of(options), *ids_of(options)]
    answers |= probabilities.boosted_trees(learnt, "row_id", names, options.tree_rows)
    by = {"session_id": "session_id", "steps": "step"}
    answers |= planted.truth(ground, STEPS, "steps", {"session_id": "session_id"}, "buy_probability", by)
    return decided.deciding(ground, answers, key=F.col("row_id"), row="session", best=decisions.OF_ONES)


def _by_rule(asked: DataFrame, _: str, *, name: str) -> DataFrame:
    """More of a number is likelier: 1/2 at 0, towards 0 and 1; an order, and no probability."""
    value = F.coalesce(F.col(name).cast("double"), F.lit(0.0))
    return asked.select("key", (0.5 + value / (1 + F.abs(value)) / 2).alias("p"))


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How well probabilities rank, how true they are, and how right the decisions are."""
    budget, resamples = options_of(ground.settings).reach_share, ground.settings.evaluation.bootstrap
    return decided.judged(asked, answers, names, budget=budget, resamples=resamples)


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """Curves; ten sessions, drawn by hash, with what was known of them; who was left out, and why."""
    asked, answers = held["after"]
    names = numbers_of(options_of(ground.settings))[:NAMED]
    what = {"found": "sessions that buy", "rows": "sessions"}
    return {
        "curves": probabilities.curves(asked, answers, what, no_probabilities=["rule"]),
        "drawn": {
            "title": "Ten sessions",
            "columns": ["session", "p", "bought", *names],
            "rows": _drawn(asked, answers.where(F.col("model") == OURS), names),
        },
        "left_out": probabilities.left_out(),
    }


def _drawn(asked: DataFrame, ours: DataFrame, names: Sequence[str]) -> list[list[str]]:
    drawn = asked.orderBy(F.xxhash64("key"), "key").limit(EXAMPLES)
    held = drawn.join(ours.select("key", "p"), on="key", how="inner").orderBy(F.desc("p"), "key")
    return [
        [row["session_id"][:24], f"{row['p']:.2f}", "yes" if row["label"] else "no"]
        + ["-" if row[name] is None else f"{row[name]:,.4g}" for name in names]
        for row in held.collect()
    ]


def score(ground: Ground, moment: datetime) -> Scored:
    """Of a click stream every visit that is under way at the moment; of sessions those that the build in force did not
    learn from: those whose label was not known, and those after its cut."""
    if options_of(ground.settings).of == "steps":
        asked = ground.keep("asked", lambda: open_at(ground, moment))
    else:
        not_learnt = F.col("label").isNull() | features.known_since(ground.cut or moment)
        asked = ground.keep("asked", lambda: rows(ground).where(features.known_before(moment) & not_learnt))
    bundle: dict[str, Answer] = probabilities.bundled({OURS: ground.bundle}) if ground.bundle else {}
    found = decided.thresholds(ground, bundle, key=F.col("row_id"), row="session", best=decisions.OF_ONES)[OURS]
    return Scored(asked, partial(_answered, ground, found), _counts)


def _answered(ground: Ground, threshold: float, asked: DataFrame) -> DataFrame:
    answered = predict(asked, str(ground.bundle), key="session_id")
    found = asked.select("session_id", "time").join(answered, on="session_id", how="inner")
    return found.withColumn("buys", F.col("p") >= F.lit(threshold))


def _counts(written: DataFrame) -> dict[str, int]:
    made = written.agg(F.count(F.lit(1)).alias("sessions"), F.count_if("buys").alias("buyers"))
    return dict(made.collect()[0].asDict())
