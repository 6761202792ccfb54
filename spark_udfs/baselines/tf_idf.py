"""TF-IDF and logistic regression, by Spark ML: what a model of texts must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.classification import LogisticRegression
from pyspark.ml.feature import IDF, CountVectorizer, Normalizer
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TERMS = 1 << 18  # at most, the most frequent ones
PENALTY = 0.3  # times half the squared length of the weights, of which texts of length 1 have one each
ITERATIONS = 50


def fit(rows: DataFrame) -> PipelineModel:
    """Fit to texts whose labels are not all the same.

    Args:
        rows: terms (array<string>), label (0 or 1).
    """
    held = rows.select("terms", F.col("label").cast("double").alias("label")).persist()
    stages: list[Any] = [
        CountVectorizer(inputCol="terms", outputCol="counts", vocabSize=TERMS, minDF=2),
        IDF(inputCol="counts", outputCol="weighed"),
        Normalizer(inputCol="weighed", outputCol="features"),
        LogisticRegression(regParam=PENALTY / held.count(), maxIter=ITERATIONS, standardization=False),
    ]
    try:
        return Pipeline(stages=stages).fit(held)
    finally:
        held.unpersist()


def answer(asked: DataFrame, model: PipelineModel) -> DataFrame:
    """`key` and `p` of each text: `asked` has key and terms."""
    found = model.transform(asked.select("key", "terms"))
    return found.select("key", vector_to_array(F.col("probability"))[1].alias("p"))
