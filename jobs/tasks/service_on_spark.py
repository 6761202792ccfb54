"""Service on Spark: messages to terms, intents judged on later messages, and answers to those not learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F

from jobs import simulate
from jobs.console import step
from jobs.ground import Answer, Ground, Scored, Slice
from jobs.held_out_classes import CELLS, threshold_cell
from jobs.task import OURS, TRUTH
from jobs.tasks import decided_on_spark as decided
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.service_options import options_of
from jobs.tasks.service_replies import with_replies
from jobs.tasks.service_texts import lines, numbered
from spark_udfs import classes, features
from spark_udfs.baselines import nearest_text
from spark_udfs.dialogue import ANSWER, ASK, HAND_OVER
from spark_udfs.scoring import predicted
from spark_udfs.simulated.messages import MESSAGES
from spark_udfs.slots import in_line, plain
from training.errors import DataError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts

NEAREST, MAJORITY = "nearest_tf_idf", "majority"
__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]

KEPT = 0.95  # share of the validation days' messages with an intent, at least, that are to be in scope by the nearest
EXAMPLES, SHOWN = 10, 160  # messages that are shown, and letters of each


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The messages after each cut, and as examples those of before one whose intent is known.

    Raises:
        DataError: a message stands twice, or fewer than two intents are known before the cut.
    """
    read = ground.read
    probabilities.refuse_repeated(read["lines"], "message_id", "messages", "message")
    messages = ground.keep("messages with numbers", lambda: numbered(ground, read["lines"]))
    learnt = messages.where(features.known_before(cuts.test) & F.col("label").isNotNull())
    intents, outside = learnt.agg(
        F.countDistinct(F.when(F.col("label") > 0, F.col("label"))), F.count_if(F.col("label") == 0)
    ).collect()[0]
    if intents < 2:
        raise DataError(
            f"examples must have messages of two intents at least; before the cut there are {intents:,}; map the "
            "column that holds them by sources.messages.columns, or move examples.test_from"
        )
    ground.counts.update({"intents": intents, "out_of_scope_examples": outside})
    held_out = [
        learnt.where(F.col("time") >= F.lit(cuts.validation)).withColumn("split", F.lit(features.VALIDATION)),
        messages.where(F.col("time") >= F.lit(cuts.test)).withColumn("split", F.lit(features.TEST)),
    ]
    return {
        "queries": held_out[0].unionByName(held_out[1]),
        "examples": learnt.withColumn("known_at", features.known_at()),
    }


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The messages after the cut whose intent is known; one that nobody had before it is out of scope."""
    asked = ground.read["queries"].where("split = 'test' AND label IS NOT NULL").drop("split")
    return {"after": Slice("messages after the cut", asked.withColumnRenamed("message_id", "key"))}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """The bundles; the intent of the nearest message by TF-IDF; the most frequent intent; of a simulated shop what its
    intents were drawn with."""
    learnt = decided.learnt(ground, cut, bundles[OURS], "message")
    answers: dict[str, Answer] = {name: partial(_by_bundle, path=str(path)) for name, path in bundles.items()}
    options, with_intent = options_of(ground.settings), learnt.where("label > 0")
    with step(f"evaluate: fit {NEAREST}"):
        fit = partial(nearest_text.fit, key="message_id", sample=options.compared_with, terms=options.terms)
        texts = fit(learnt)
        is_all = decided.has_learnt_all(bundles[OURS])  # then the validation days' messages are among the texts
        limit = _limit(ground, fit(decided.before_validation(ground, cut, "message")) if is_all else texts)
    answers[NEAREST] = partial(_by_nearest, texts=texts, limit=limit)
    counted = with_intent.groupBy("label").count().orderBy(F.desc("count"), "label").limit(1).collect()[0]
    answers[MAJORITY] = partial(
        _by_majority, intent=int(counted["label"]), share=counted["count"] / with_intent.count()
    )
    return answers | _truth(ground)


def _by_bundle(asked: DataFrame, _: str, *, path: str) -> DataFrame:
    found = predicted(asked, path, key="key", names=["intent", "p", "scope", "in_scope"])
    return found.select(
        "key",
        F.col("intent")[0].cast("bigint").alias("intent"),
        F.col("p")[0].cast("double").alias("p"),
        F.col("scope")[0].cast("double").alias("scope"),
        (F.col("in_scope")[0] > 0).alias("in_scope"),
    )


def _limit(ground: Ground, texts: nearest_text.Texts) -> float:
    """From which scope on the nearest message is taken for one in scope: chosen on the validation days as the model's
    threshold is."""
    asked = ground.read["queries"].where((F.col("split") == features.VALIDATION) & F.col("label").isNotNull())
    asked = asked.withColumnRenamed("message_id", "key")
    told = nearest_text.answer(asked, texts).join(asked.select("key", "label"), on="key", how="inner")
    cell = F.floor((F.col("scope") + 1) * (CELLS / 2)).cast("int")
    counted = told.groupBy(
        F.least(F.greatest(cell, F.lit(0)), F.lit(CELLS - 1)).alias("cell"), (F.col("label") > 0).alias("has")
    ).count()
    sums = np.zeros((2, CELLS))
    for row in counted.collect():
        sums[int(row["has"]), row["cell"]] = row["count"]
    return -1 + threshold_cell(sums[1], sums[0], KEPT) * (2 / CELLS) if sums[1].any() else -1.0


def _by_nearest(asked: DataFrame, _: str, *, texts: nearest_text.Texts, limit: float) -> DataFrame:
    """Its cosine says how sure it is, and that less the one to messages out of scope whether a message is in scope."""
    return nearest_text.answer(asked, texts).withColumn("in_scope", F.col("scope") >= limit)


def _by_majority(asked: DataFrame, _: str, *, intent: int, share: float) -> DataFrame:
    p = F.lit(float(share))
    return asked.select(
        "key",
        F.lit(intent).cast("bigint").alias("intent"),
        p.alias("p"),
        p.alias("scope"),
        F.lit(True).alias("in_scope"),
    )


def _truth(ground: Ground) -> dict[str, Answer]:
    """Who answers with the likeliest intent of a message's wording; nobody where messages are no simulated shop's."""
    spark = ground.read["lines"].sparkSession
    made = simulate.truth_of_source(ground.settings, spark, "messages", {"message_id": "message_id"}, MESSAGES)
    if made is None:
        return {}
    numbers = ground.read["vocabulary_intents"].select(F.col("id").alias("best_intent"), F.col("index").alias("intent"))
    known = made.select("message_id", "best_intent", "best_probability", "in_scope_probability")
    told = known.join(F.broadcast(numbers), on="best_intent", how="left").select(
        F.col("message_id").alias("key"),
        F.coalesce("intent", F.lit(1)).cast("bigint").alias("intent"),
        F.col("best_probability").alias("p"),
        F.col("in_scope_probability").alias("scope"),
        (F.col("in_scope_probability") >= 0.5).alias("in_scope"),
    )
    return {TRUTH: lambda asked, _: asked.select("key").join(told, on="key", how="inner")}


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How right intents are, how sure one may be of them, and how well what is out of scope is told apart."""
    found = classes.judge(answers, asked, names, resamples=ground.settings.evaluation.bootstrap)
    models = {name: found[name].intervals() for name in names}
    if NEAREST in models:
        del models[NEAREST]["calibration_error"]  # a cosine is no probability
    differences = {name: found[OURS].minus(found[name]) for name in names[1:] if name != TRUTH}
    # A resample is further off in each group by chance alone, so its interval lies too high, and often above the value.
    for of in (of for of in models.values() if "calibration_error" in of):
        of["calibration_error"] = {"value": of["calibration_error"]["value"]}
    for gains in differences.values():
        del gains["calibration_error"]
    return {"users": found[OURS].users, "models": models, "differences": differences}


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """What is wrong of what is answered, by how much is; ten messages, drawn by hash, masked, with what is said of
    them."""
    asked, answers = held["after"]
    names = [row[0] for row in answers.select("model").distinct().orderBy("model").collect()]
    return {
        "curves": [
            {
                "title": "Errors over what is answered",
                "x": "share of the messages with an intent that is answered, the surest first",
                "y": "share of these whose intent is wrong",
                "lines": classes.risk_over_coverage(answers, asked, names),
                "note": "Messages that are left to people are those that the model is least sure of; a line below "
                "another answers as many with fewer errors.",
            }
        ],
        "drawn": {
            "title": "Ten messages",
            "columns": ["message", "intent", "said", "confidence", "in scope"],
            "rows": _drawn(ground, asked, answers),
        },
    }


def _drawn(ground: Ground, asked: DataFrame, answers: DataFrame) -> list[list[str]]:
    drawn = asked.orderBy(F.xxhash64("key"), "key").limit(EXAMPLES).select("key")
    texts = ground.read["lines"].select(F.col("message_id").alias("key"), "text", F.col("intent").alias("own"))
    numbers = ground.read["vocabulary_intents"].select(F.col("index").alias("intent"), F.col("id").alias("said"))
    ours = answers.where(F.col("model") == OURS).drop("model")
    told = (
        drawn.join(texts, on="key", how="inner")
        .join(ours, on="key", how="inner")
        .join(numbers, on="intent", how="left")
    )
    return [
        [
            plain(row["text"], SHOWN),
            in_line(row["own"], SHOWN),
            in_line(row["said"] or "", SHOWN),
            f"{row['p']:.2f}",
            "yes" if row["in_scope"] else "no",
        ]
        for row in told.orderBy(F.desc("p"), "key").collect()
    ]


def score(ground: Ground, moment: datetime) -> Scored:
    """Every message that was there by the moment and that the build in force did not learn from: those whose intent was
    not known, and those after its cut.

    Raises:
        SettingsError: people are to answer an intent that no message had.
    """
    refuse_unknown_people(ground)
    not_learnt = F.col("intent").isNull() | features.known_since(ground.cut or moment)
    asked = ground.keep(
        "asked", lambda: numbered(ground, ground.read["lines"].where(features.known_before(moment) & not_learnt))
    )
    return Scored(asked, partial(answered, ground), _counts, finish=partial(with_replies, ground=ground))


def refuse_unknown_people(ground: Ground) -> None:
    """See that people's intents are known ones.

    Raises:
        SettingsError: people are to answer an intent that no message had.
    """
    people, numbers = options_of(ground.settings).people, ground.read["vocabulary_intents"]
    known = {row["id"] for row in numbers.where(F.col("id").isin(*people)).select("id").collect()} if people else set()
    if unknown := sorted({*people} - known):
        raise SettingsError(
            f"options.people must name intents that messages had before the cut; {unknown} are none of table "
            "'vocabulary_intents', so their messages would be answered by the model: correct them, or leave them out"
        )


def answered(ground: Ground, messages: DataFrame) -> DataFrame:
    """What is said of messages: the intent by its name, whether in scope or not; who answers looks at both."""
    numbers = ground.read["vocabulary_intents"].select(F.col("index").alias("intent"), F.col("id").alias("name"))
    found = _by_bundle(messages.withColumnRenamed("message_id", "key"), OURS, path=str(ground.bundle))
    told = found.join(F.broadcast(numbers), on="intent", how="left").withColumnRenamed("key", "message_id")
    return (
        messages.select("message_id", "time", "conversation")
        .join(told, on="message_id", how="inner")
        .select(
            "message_id",
            "time",
            "conversation",
            F.col("name").alias("intent"),
            F.col("p").alias("confidence"),
            "in_scope",
            "scope",
        )
    )


def _counts(written: DataFrame) -> dict[str, int]:
    """messages; those of them that are out of scope; and the replies by their kind, where the shop has answers."""
    kinds = {"answered": ANSWER, "asked_back": ASK, "handed_over": HAND_OVER}
    made = written.agg(
        F.count(F.lit(1)).alias("messages"),
        F.count_if(~F.col("in_scope")).alias("out_of_scope"),
        *(F.count_if(F.col("reply") == kind).alias(name) for name, kind in kinds.items()),
    )
    counts = dict(made.collect()[0].asDict())
    has_answers = any(counts[name] for name in kinds)  # each message gets one of them where the shop has answers
    return counts if has_answers else {name: count for name, count in counts.items() if name not in kinds}
