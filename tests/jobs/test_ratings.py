"""A file of ratings, as MovieLens has it, from `millrace init` to answers: the settings are those that init writes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs import build_examples, evaluate, ingest, init, report, score, train
from jobs.settings import load_settings
from jobs.tables import Tables

USERS, ITEMS, TASTES, EACH = 60, 24, 3, 12
BEGIN_S, DAY_S = 1_260_759_144, 86_400
FLAGS = ["training.ranks=1", "training.epochs=2", "evaluation.als_rank=4", "evaluation.als_iterations=2",
         "evaluation.bootstrap=100", "evaluation.ks=[5]"]  # fmt: skip


def ratings() -> list[str]:
    """Each user rates in 100 days films of one taste alone."""
    rng = random.Random(0)
    rows = []
    for user in range(USERS):
        own = [item for item in range(ITEMS) if item % TASTES == user % TASTES]
        rows += [
            f"{user},{rng.choice(own)},{rng.choice((3, 4.5))},{BEGIN_S + rng.randrange(100 * DAY_S)}"
            for _ in range(EACH)
        ]
    return rows


@pytest.mark.slow
def test_a_file_of_ratings_goes_all_the_way_by_what_init_writes(spark: SparkSession, tmp_path: Path) -> None:
    data, yaml = tmp_path / "ratings.csv", tmp_path / "ratings.yaml"
    data.write_text("\n".join(["userId,movieId,rating,timestamp", *ratings(), ""]))
    yaml.write_text(init.text("recommend", str(data)))
    settings = load_settings(yaml, [f"tables.root={tmp_path}/tables", f"run_dir={tmp_path}/run", *FLAGS])
    tables = Tables(spark, settings.tables.root)
    assert ingest.run(settings, spark)["dispositions"] == {"rating": USERS * EACH}
    build_examples.run(settings, spark)
    examples = tables.read("examples")
    assert 0 < examples.count() < USERS * EACH
    assert {row["weight"] for row in examples.select("weight").distinct().collect()} == {1.0}
    train.run(settings, spark)
    assert evaluate.run(settings, spark)["protocols"]["any"]["users"] > 0
    score.run(settings, spark)
    assert tables.read("recommendations").select("user_id").distinct().count() == USERS
    page = report.run(settings, spark)
    assert {"metrics", "examples", "training", "score"} <= {*page["sections"]}
