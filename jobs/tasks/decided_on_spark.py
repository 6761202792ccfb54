"""What tasks share that say yes or no to a row beside its probability.

A decision is a probability over a threshold. It is chosen on the validation days, for each contender by its own answers
there; so contenders that are fitted for a judgement learn from no more than the bundle has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import step
from jobs.ground import Answer, Ground
from jobs.task import OURS
from jobs.tasks import probabilities_on_spark as probabilities
from spark_udfs import decisions, features, rows
from training.errors import DataError
from training.state.bundle import provenance_of

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame


def learnt(ground: Ground, cut: datetime, bundle: Path, row: str) -> DataFrame:
    """The examples that a bundle has learnt from: one that is calibrated by the validation days leaves them out.

    Args:
        ground: the job's.
        cut: of the test.
        bundle: its folder.
        row: what an example is called.

    Raises:
        DataError: it has learnt from none.
    """
    return ground.read["examples"] if has_learnt_all(bundle) else before_validation(ground, cut, row)


def has_learnt_all(bundle: Path) -> bool:
    """Whether a bundle has learnt from the validation days too."""
    made = provenance_of(bundle) or {}
    return features.VALIDATION in made.get("tables", {}).get("examples", {}).get("splits", [])


def before_validation(ground: Ground, cut: datetime, row: str) -> DataFrame:
    """The examples that were known before the validation days; arguments and what it raises as for `learnt`."""
    begins = features.utc(cut) - timedelta(days=ground.settings.examples.validation_days)
    found = ground.read["examples"].where(F.col("known_at") < F.lit(begins))
    if found.isEmpty():
        raise DataError(f"no {row} was known before the validation days, which begin at {begins}; make them fewer")
    return found


def thresholds(
    ground: Ground, answers: Mapping[str, Answer], *, key: Column, row: str, best: str = decisions.WEIGHTED
) -> dict[str, float]:
    """By contender the threshold that is best on the validation days.

    Args:
        ground: the job's.
        answers: the contenders.
        key: of the queries: what tells rows apart.
        row: what a row is called.
        best: the metric of `decisions.NAMES` that is to be as high as it can be.

    Raises:
        DataError: these days have no rows of both labels.
    """
    asked = ground.read["queries"].where((F.col("split") == features.VALIDATION) & F.col("label").isNotNull())
    asked = asked.withColumn("key", key)
    ones, others = asked.agg(F.count_if(F.col("label") == 1), F.count_if(F.col("label") == 0)).collect()[0]
    if not ones or not others:
        raise DataError(
            f"a threshold is chosen on {row}s of both labels of the validation days, which have "
            f"{ones:,} of label 1 and {others:,} of label 0; raise examples.validation_days and build the examples "
            "again"
        )
    given = [
        answer(asked, features.VALIDATION).select(F.lit(name).alias("model"), "key", "p")
        for name, answer in answers.items()
    ]
    told = reduce(lambda one, other: one.unionByName(other), given)
    return decisions.thresholds(rows.cells(told, asked.select("key", "label"), list(answers)), best)


def deciding(
    ground: Ground, answers: Mapping[str, Answer], *, key: Column, row: str, best: str = decisions.WEIGHTED
) -> dict[str, Answer]:
    """Contenders that say `alarm` too; arguments as for `thresholds`."""
    with step("evaluate: choosing thresholds on the validation days"):
        found = thresholds(ground, answers, key=key, row=row, best=best)
    return {name: partial(_decided, answer=answer, threshold=found[name]) for name, answer in answers.items()}


def _decided(asked: DataFrame, name: str, *, answer: Answer, threshold: float) -> DataFrame:
    return answer(asked, name).withColumn("alarm", F.col("p") >= F.lit(threshold))


def judged(
    asked: DataFrame, answers: DataFrame, names: Sequence[str], *, budget: float, resamples: int
) -> dict[str, Any]:
    """How well probabilities rank, how true they are, and how right the decisions are; as `OnSpark.judge` gives it."""
    found = probabilities.judged(asked, answers, names, budget=budget, resamples=resamples)
    right = decisions.judge(answers, asked, names, resamples=resamples)
    for name in names:
        found["models"][name] |= right[name].intervals()
    for name in found["differences"]:
        found["differences"][name] |= right[OURS].minus(right[name])
    return found
