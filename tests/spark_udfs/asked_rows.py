"""A bundle that answers rows, and a Delta table of such rows with all that Delta may hide from who reads its files."""

from __future__ import annotations

from pathlib import Path

import torch
from pyspark.sql import SparkSession

from training.models import MODELS
from training.schema import Column, Kind, Schema
from training.state.publish import write_bundle

SCHEMA = Schema(
    (
        Column("shop", Kind.ID, vocabulary="shops", size=7),
        Column("tags", Kind.IDS, vocabulary="tags", size=5),
        Column("x", Kind.DENSE, fill=0.5),
        Column("place", Kind.POSITION, size=4),
        Column("label", Kind.LABEL),
    )
)
ROWS = 5_000


def bundle_of(folder: Path, seed: int = 5) -> Path:
    """An untrained logistic regression of SCHEMA."""
    kind = MODELS["logistic_regression"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind(kind.Config.parse({}), SCHEMA)
        for weights in model.parameters():
            torch.nn.init.normal_(weights)
    made = write_bundle(
        folder, model_name="logistic_regression", config={}, schema=SCHEMA, tensors=model.state_dict(), provenance={},
        settings={}, metrics={},
    )  # fmt: skip
    return made.path


def awkward_table(spark: SparkSession, path: str) -> None:
    """Two commits and a deletion vector; by partition, with nulls, unknown ids and names mapped; keys are texts."""
    rows = spark.range(ROWS, numPartitions=2).selectExpr(
        "concat('k', id) AS key",
        "id % 9 AS shop",  # two are past the vocabulary
        "transform(sequence(1, 1 + id % 3), one -> (id + one) % 6) AS tags",
        "CAST(IF(id % 11 = 0, NULL, id / 1000) AS float) AS x",
        "id % 5 AS place",
        "CAST(id % 2 AS string) AS half",
    )
    told = {"delta.enableDeletionVectors": "true", "delta.columnMapping.mode": "name"}
    told |= {"delta.minReaderVersion": "3", "delta.minWriterVersion": "7"}
    writer = rows.write.format("delta").partitionBy("half").option("parquet.block.size", "1024")
    for name, value in told.items():
        writer = writer.option(name, value)
    writer.save(path)
    spark.sql(f"DELETE FROM delta.`{path}` WHERE key LIKE '%7'")
