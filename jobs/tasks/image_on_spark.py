"""Image on Spark: pictures to pixels, classes judged on later pictures, and answers to all of the shop's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs import simulate
from jobs.artefacts import ITEM_FILES
from jobs.console import step
from jobs.ground import Answer, Ground, Slice
from jobs.task import OURS, TRUTH
from jobs.tasks import decided_on_spark as decided
from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.image_looks import looks
from jobs.tasks.image_options import options_of
from jobs.tasks.image_pixels import class_of, lines, numbered
from jobs.tasks.image_scored import by_bundle, score, vectors
from spark_udfs import classes, features, nearest_vectors
from spark_udfs.baselines import pixels
from spark_udfs.simulated.catalogue import PICTURES, WRONG_SHAPE
from training.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts
    from spark_udfs.item_files import ItemFile

NEAREST, REGRESSION, MAJORITY = "nearest_vectors", "pixels_regression", "majority"
__all__ = ["contenders", "examples", "judge", "lines", "looks", "score", "slices"]


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """The pictures after each cut, and as examples those of before one whose category is known.

    Raises:
        DataError: an item stands twice, or fewer than two classes are known before the cut.
    """
    read = ground.read
    probabilities.refuse_repeated(read["lines"], "item_id", "pictures", "item")
    taught = features.known_before(cuts.test) & F.col("category").isNotNull()
    named = class_of(options_of(ground.settings).names)
    known = read["lines"].where(taught).agg(F.countDistinct(named)).collect()[0][0]
    if known < 2:
        raise DataError(
            f"examples must have pictures of two categories at least; before the cut there are {known:,}; map the "
            "column that holds them by sources.pictures.columns, or move examples.test_from"
        )
    ground.counts["classes"] = known
    learnt = numbered(ground, read["lines"].where(taught)).drop("category")
    late = F.col("time") >= F.lit(cuts.validation)
    after = read["lines"].where(F.col("time") >= F.lit(cuts.test))
    held_out = [
        numbered(ground, read["lines"].where(taught & late)).withColumn("split", F.lit(features.VALIDATION)),
        numbered(ground, after).withColumn("split", F.lit(features.TEST)),
    ]
    return {
        "queries": held_out[0].unionByName(held_out[1]).drop("category"),
        "examples": learnt.withColumn("known_at", features.known_at()),
    }


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """The pictures after the cut whose category is known; one that nobody had before it counts for wrong."""
    asked = ground.read["queries"].where("split = 'test' AND label IS NOT NULL").drop("split")
    return {"after": Slice("pictures after the cut", asked.withColumnRenamed("item_id", "key"))}


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """The bundles; the class that most of the nearest pictures have, by the bundle's own vectors; multinomial
    regression of the pixels; the most frequent class; of a simulated shop what is shown."""
    learnt = decided.learnt(ground, cut, bundles[OURS], "picture").where("label > 0")
    answers: dict[str, Answer] = {name: partial(_by_bundle, path=str(path)) for name, path in bundles.items()}
    options, ours = options_of(ground.settings), str(bundles[OURS])
    labelled = learnt.select(F.col("item_id").alias("key"), "picture", F.col("label").cast("bigint").alias("label"))
    with step(f"evaluate: {NEAREST}: vectors of what was learnt from"):
        drawn = pixels.drawn(labelled, options.compared_with)
        told = ground.keep("learnt_vectors", lambda: vectors(drawn, ours))  # read twice: checked, and written
        held = told.join(labelled.select("key", "label"), on="key", how="inner")
        file = nearest_vectors.save(held, ground.folder / ITEM_FILES, "learnt_vectors")
    answers[NEAREST] = partial(_by_nearest, path=ours, file=file, neighbours=options.neighbours)
    shape = (options.size, options.size, options.channels)
    with step(f"evaluate: fit {REGRESSION}"):
        answers[REGRESSION] = partial(_by_pixels, model=pixels.fit(labelled, shape), shape=shape)
    counted = learnt.groupBy("label").count().orderBy(F.desc("count"), "label").limit(1).collect()[0]
    answers[MAJORITY] = partial(_by_majority, label=int(counted["label"]), share=counted["count"] / learnt.count())
    return answers | _truth(ground)


def _by_bundle(asked: DataFrame, _: str, *, path: str) -> DataFrame:
    return by_bundle(asked, path).drop("vector")


def _by_nearest(asked: DataFrame, _: str, *, path: str, file: ItemFile, neighbours: int) -> DataFrame:
    return nearest_vectors.classes(vectors(asked, path), file, neighbours)


def _by_pixels(asked: DataFrame, _: str, *, model: Any, shape: tuple[int, int, int]) -> DataFrame:
    return pixels.answer(asked, model, shape)


def _by_majority(asked: DataFrame, _: str, *, label: int, share: float) -> DataFrame:
    return asked.select("key", F.lit(label).cast("bigint").alias("class"), F.lit(float(share)).alias("p"))


def _truth(ground: Ground) -> dict[str, Answer]:
    """Who answers with what is shown; nobody where pictures are no simulated shop's."""
    spark = ground.read["lines"].sparkSession
    made = simulate.truth_of_source(ground.settings, spark, "pictures", {"item_id": "item_id"}, PICTURES)
    if made is None:
        return {}
    numbers = ground.read["vocabulary_classes"].select(F.col("id").alias("true_shape"), F.col("index").alias("class"))
    told = made.join(F.broadcast(numbers), on="true_shape", how="left").select(
        F.col("item_id").alias("key"),
        F.coalesce("class", F.lit(1)).cast("bigint").alias("class"),
        F.lit(1 - WRONG_SHAPE).alias("p"),
    )
    return {TRUTH: lambda asked, _: asked.select("key").join(told, on="key", how="inner")}


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """How right classes are, and how sure one may be of them. Whose class nobody had before the cut is of one more,
    which no model says."""
    unseen = 1 + ground.read["vocabulary_classes"].agg(F.max("index")).collect()[0][0]
    asked = asked.withColumn("label", F.when(F.col("label") == 0, F.lit(unseen)).otherwise(F.col("label")))
    told = answers.select("model", "key", F.col("class").alias("intent"), "p", F.lit(True).alias("in_scope"))
    told = told.withColumn("scope", F.col("p"))
    found = classes.judge(told, asked, names, resamples=ground.settings.evaluation.bootstrap)
    models = {name: _of_classes(found[name].intervals()) for name in names}
    differences = {name: _of_classes(found[OURS].minus(found[name])) for name in names[1:] if name != TRUTH}
    # A resample is further off in each group by chance alone, so its interval lies too high, and often above the value.
    for of in models.values():
        of["calibration_error"] = {"value": of["calibration_error"]["value"]}
    for gains in differences.values():
        del gains["calibration_error"]
    return {"users": found[OURS].users, "models": models, "differences": differences}


def _of_classes(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of classes; a picture is always of one of them."""
    wanted = ("accuracy", "macro_f1", "error_at_90_percent", "calibration_error")
    return {name: found[name] for name in wanted}
