"""Sentiment on a planted world: a few words say that a customer is unhappy, and "not" turns them round."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from jobs import build_examples, evaluate, ingest, score, train
from jobs.ground import Ground
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import decided_on_spark, sentiment_on_spark, sentiment_scored, sentiment_texts
from jobs.tasks.sentiment_options import SentimentOptions, options_of
from spark_udfs.features import Cuts
from training.errors import DataError

START = datetime(2025, 1, 1, tzinfo=UTC)
CUT, VALIDATION = START + timedelta(days=90), START + timedelta(days=70)
REVIEWS = (
    "review_id string, time timestamp, arrival_time timestamp, product string, text string, label boolean, "
    "user_id string"
)
GOOD, BAD = ("lovely", "perfect", "comfy"), ("torn", "itchy", "dreadful")
PLAIN = [f"plain{number}" for number in range(40)]
WORST = "product 3"  # its customers are unhappy in the end, whatever there was before


def text_of(rng: random.Random, unhappy: bool) -> str:
    """A word that says so among others; of three, one is its opposite with "not" before it."""
    said = [*rng.choices(PLAIN, k=rng.randint(3, 9)), "the", "a"]
    turned = rng.random() < 1 / 3
    word = rng.choice(BAD if unhappy != turned else GOOD)
    at = rng.randrange(len(said))
    return " ".join([*said[:at], *(["not"] if turned else []), word, *said[at:]])


def planted() -> list[tuple[Any, ...]]:
    """1,500 reviews in 120 days, a quarter unhappy; of one in twenty nobody knows, as many say something else."""
    rng, reviews = random.Random(5), []
    for number in range(1_500):
        time, product = START + timedelta(days=120 * rng.random()), f"product {rng.randrange(12)}"
        unhappy = rng.random() < (0.9 if product == WORST and time > CUT else 0.25)
        text = text_of(rng, unhappy)
        label = None if rng.random() < 0.05 else unhappy != (rng.random() < 0.05)
        reviews.append((f"review {number}", time, None, product, text, label, f"user {number % 50}"))
    return reviews


def settings_in(folder: Path, **sections: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "sentiment",
        "tables": {"root": str(folder / "tables")},
        "run_dir": str(folder / "run"),
        "options": {
            "has": ["review_id", "product", "arrival_time"],
            "aspects": {"cloth": ["itchy", "Torn"], "none": ["never"]},
        },
        "examples": {"test_from": CUT, "validation_days": 20, "rows_per_group": 100},
        "model": {"name": "word_weights", "dim": 8, "hidden": 8, "start_logit": -1.0, "calibration": "platt"},
        "training": {
            "ranks": 1,
            "epochs": 8,
            "batch_size": 64,
            "learning_rate": 0.005,
            "embedding_learning_rate": 0.02,
            "embedding_optimizer": "sparse_adam",
        },
        "evaluation": {"bootstrap": 100},
    }
    return Settings(**(values | sections))


def write(spark: SparkSession, settings: Settings, reviews: Sequence[tuple[Any, ...]]) -> None:
    rows = spark.createDataFrame(list(reviews), REVIEWS).repartition(3)
    Tables(spark, settings.tables.root).write("reviews", rows, mode="overwrite", job="ingest", inputs={})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Settings:
    settings = settings_in(tmp_path_factory.mktemp("sentiment"))
    wordless = ("silent", START, None, "product 1", " ... -- ", True, "user 1")
    write(spark, settings, [*planted(), wordless])
    return settings


@pytest.fixture(scope="module")
def built(settings: Settings, spark: SparkSession) -> dict[str, Any]:
    return build_examples.run(settings, spark)


@pytest.fixture(scope="module")
def trained(settings: Settings, built: dict[str, Any], spark: SparkSession) -> Settings:
    assert built["versions"]
    train.run(settings, spark)
    return settings


@pytest.fixture(scope="module")
def result(trained: Settings, spark: SparkSession) -> dict[str, Any]:
    return evaluate.run(trained, spark)


def held(settings: Settings, spark: SparkSession, name: str, where: str = "true") -> dict[str, Row]:
    return {row["review_id"]: row for row in Tables(spark, settings.tables.root).read(name).where(where).collect()}


def test_examples_are_known_reviews_and_words_those_of_before_the_cut(
    settings: Settings, built: dict[str, Any], spark: SparkSession
) -> None:
    examples = held(settings, spark, "examples")
    assert {*examples} == {review[0] for review in planted() if review[5] is not None and review[1] < CUT}
    assert built["counts"]["reviews_without_words"] == 1
    after = held(settings, spark, "queries", "split = 'test'")
    assert {*after} == {review[0] for review in planted() if review[1] >= CUT}
    tables = Tables(spark, settings.tables.root)
    known = {row["id"]: row["index"] for row in tables.read("vocabulary_words").collect()}
    assert {*known} == {*GOOD, *BAD, *PLAIN, "not", "the", "a"}
    texts = {review[0]: review[4] for review in planted()}
    assert all(row["words"] == [known[word] for word in texts[name].split()] for name, row in examples.items())
    assert all(len(row["pairs"]) == len(row["words"]) and row["pairs"][-1] == 0 for row in examples.values())
    assert {column["name"]: column["size"] for column in built["schema"]}["words"] == len(known) + 1


def test_the_words_that_decide_are_found(result: dict[str, Any]) -> None:
    judged = result["protocols"]["after"]
    assert judged["users"] == sum(review[1] >= CUT and review[5] is not None for review in planted())
    assert list(judged["models"]) == [OURS, "tf_idf", "tf_idf_pairs", "product_share"]
    ours = {name: metric["value"] for name, metric in judged["models"][OURS].items()}
    assert ours["auc"] > 0.88
    assert ours["weighted_f1"] > 0.88
    assert 0.5 < ours["predicted_to_actual"] < 1.6
    for name in ("tf_idf", "product_share"):  # bags of words misread "not"
        assert judged["differences"][name]["auc"]["low"] > 0
    assert judged["models"]["tf_idf"]["auc"]["value"] > 0.55
    assert all(low["low"] <= low["value"] <= low["high"] for low in judged["models"]["tf_idf_pairs"].values())


def test_what_people_look_at_names_words_of_the_review(result: dict[str, Any]) -> None:
    rows = result["drawn"]["rows"]
    assert len(rows) == 10
    for text, _, _, said in rows:
        assert {part.split()[0] for part in said.split(", ")} <= {*text.split()}
    assert len(result["curves"]) == 2


def test_reviews_that_nobody_has_learnt_from_are_scored_with_their_reasons(
    trained: Settings, spark: SparkSession
) -> None:
    summary = score.run(trained, spark)
    rows = held(trained, spark, "review_scores")
    assert {*rows} == {review[0] for review in planted() if review[1] >= CUT or review[5] is None}
    texts = {review[0]: review[4].split() for review in planted()}
    decisive = {*GOOD, *BAD, "not"}
    first = [row["words"][0]["word"] in decisive for row in rows.values()]
    assert sum(first) > 0.9 * len(first)
    for name, row in rows.items():
        assert [abs(said["share"]) for said in row["words"]] == sorted(
            (abs(said["share"]) for said in row["words"]), reverse=True
        )
        assert {said["word"] for said in row["words"]} <= {*texts[name]}
        assert set(row["aspects"]) == {"cloth", "none"}
        assert (row["aspects"]["cloth"] != 0) == bool({"torn", "itchy"} & {*texts[name]})
        assert row["aspects"]["none"] == 0
    limit = min(row["p"] for row in rows.values() if row["alarm"])
    assert limit > max(row["p"] for row in rows.values() if not row["alarm"])
    assert summary["alarms"] == sum(row["alarm"] for row in rows.values())
    last = {row["product"]: row for row in sorted(rows.values(), key=lambda row: row["time"])}
    assert {product for product, row in last.items() if row["product_alarm"]} == {WORST}
    assert summary["products_with_alarm"] == 1
    since = last[WORST]["time"] - timedelta(days=90)
    of_worst = [row for row in rows.values() if row["product"] == WORST and row["time"] >= since]
    assert last[WORST]["product_reviews"] == len(of_worst)
    assert last[WORST]["product_unhappy"] == pytest.approx(sum(row["p"] for row in of_worst) / len(of_worst))
    assert score.run(trained, spark)["up_to_date"]


def test_what_is_said_of_products_is_the_same_in_any_partitions(spark: SparkSession) -> None:
    day = "timestamp_micros(1700000000000000 + id * 43200000000)"  # twelve hours apart
    columns = ["'r' || id AS review_id", f"{day} AS time", "0.1 * (id % 7) + 1e-9 AS p"]
    made = spark.range(60).selectExpr(*columns, "IF(id % 3 = 0, NULL, 'p' || id % 3) AS product")
    found = [
        {row["review_id"]: row for row in sentiment_scored._finished(rows, threshold=0.5, product_days=5).collect()}
        for rows in (made.coalesce(1), made.repartition(5))
    ]
    assert found[0] == found[1]
    for number in range(60):
        row, ids = found[0][f"r{number}"], range(max(0, number - 10), number + 1)
        of_late = [0.1 * (other % 7) + 1e-9 for other in ids if other % 3 == number % 3]
        if number % 3 == 0:
            assert (row["product_reviews"], row["product_unhappy"], row["product_alarm"]) == (None, None, None)
        else:
            assert row["product_reviews"] == len(of_late)
            assert row["product_unhappy"] == pytest.approx(sum(of_late) / len(of_late))


def test_aspects_are_single_words() -> None:
    with pytest.raises(ValidationError, match="'true to size' of 'fit' must be a single word"):
        SentimentOptions(aspects={"fit": ("true to size",)})
    with pytest.raises(ValidationError, match="'fit' has no words"):
        SentimentOptions(aspects={"fit": ()})


def test_reviews_that_cannot_teach_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    reviews = planted()[:200]
    twice = reviews[7]
    for wrong, problem in (
        ([*reviews, twice], "a review_id must stand once in table 'reviews'; 1 stand more often, such as 'review 7'"),
        ([(*r[:5], False, r[6]) for r in reviews], "before the cut there are 0 of label 1 and [0-9]+ of label 0"),
    ):
        rows = spark.createDataFrame(wrong, REVIEWS)
        lines = sentiment_on_spark.lines({"reviews": rows})
        empty = spark.createDataFrame([], "index bigint, id string")
        read = {"reviews": rows, "lines": lines, "vocabulary_words": empty, "vocabulary_pairs": empty}
        with pytest.raises(DataError, match=problem):
            sentiment_on_spark.examples(Ground(read, settings_in(tmp_path), tmp_path), Cuts(VALIDATION, CUT))


def test_a_threshold_needs_both_labels(spark: SparkSession, tmp_path: Path) -> None:
    queries = spark.createDataFrame([("a", "validation", 1.0)], "review_id string, split string, label float")
    with pytest.raises(DataError, match=r"which have 1 of label 1 and 0 of label 0; raise examples.validation_days"):
        decided_on_spark.thresholds(
            Ground({"queries": queries}, settings_in(tmp_path), tmp_path), {}, key=F.col("review_id"), row="review"
        )


def test_what_is_no_review_is_set_aside_and_counted(spark: SparkSession, tmp_path: Path) -> None:
    """Without a text, or with a label that is none; one in signs alone, in another script or very long is a review."""
    long = "endless " * 20_000
    texts = ["", "   ", "ok", "好看 很好", "\U0001f600\U0001f600", "...", long, *["fine"] * 60]
    lines = [f'{n},P1,"{text}",{"maybe" if n == 2 else n % 2}' for n, text in enumerate(texts)]
    data = tmp_path / "reviews.csv"
    data.write_text("review_id,product,text,label\n" + "\n".join(lines), encoding="utf-8")
    source = {"path": str(data), "words": {"label": {"0": 0, "1": 1}}, "order_by_hash_of": ["review_id"]}
    settings = settings_in(
        tmp_path, options={"has": ["review_id", "product"], "words_kept": 50}, sources={"reviews": source}
    )
    made = ingest.run(settings, spark)["tables"]["reviews"]
    assert made["bad"] == {"text is missing": 2, "label is no boolean": 1}
    tables = Tables(spark, settings.tables.root)
    rows = tables.read("reviews")
    told = sentiment_texts.said(sentiment_texts.lines({"reviews": rows}), options_of(settings))
    found = {row["review_id"]: row["words"] for row in told.where(F.length("review_id") == 1).collect()}
    assert found["3"] == ["好", "看", "很", "好"]
    assert found["4"] == ["\U0001f600", "\U0001f600"]
    assert found["6"] == ["endless"] * 50
    assert {*found} == {"3", "4", "6", "7", "8", "9"}
