"""What comes to the driver, and lies in a plan, is the same for ten times the items and users, and more partitions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import evaluate
from jobs.answer_checks import checked
from jobs.ground import Ground
from jobs.sessions import session_settings
from jobs.settings import Settings
from jobs.task import OURS
from jobs.tasks import TASKS, recommend_on_spark
from tests.spark_udfs.bundles import two_tower_bundle

CUT = datetime(2025, 3, 1, tzinfo=UTC)
TO_LOOK_AT = 1_500  # numbers and texts of ten customers and of tenths of the catalogue


def shop(spark: SparkSession, folder: Path, items: int) -> Ground:
    """A user for five items, ten items of each user, two users of each item, whatever the size."""
    users, item = items // 5, (F.col("id") + 1).alias("index")
    buyers = F.array(*(F.concat(F.lit("user "), (F.col("id") + turn) % users) for turn in (0, 1)))
    name = F.concat(F.lit("item "), F.col("id") + 1)
    when = F.lit("2025-02-20").cast("timestamp")
    sold = spark.range(items).select(name.alias("item_id"), F.explode(buyers).alias("user_id"))
    lines = sold.select(
        "user_id", "item_id", when.alias("time"), when.alias("arrival_time"),
        F.lit(1.0).alias("weight"), F.lit(True).alias("is_goal"),
    )  # fmt: skip
    everybody = spark.range(users).select(item, F.concat(F.lit("user "), F.col("id")).alias("id"))
    days = F.array(F.lit(3.0), F.lit(1.0)).cast("array<float>")
    bought, then = (F.array(*map(F.lit, held)).cast("array<bigint>") for held in ((1, 2), (5, 6)))
    queries = everybody.select(
        F.col("index").alias("user"), F.col("id").alias("user_id"), bought.alias("history"), days.alias("history_age"),
        bought.alias("seen"), then.alias("truth"), F.lit("test").alias("split"),
    )  # fmt: skip
    counts = [(F.col("id") % 7 + 1).alias(column) for column in ("count", "customers", "recent_customers")]
    catalogue = spark.range(items).select(
        item.alias("item"), name.alias("item_id"), name.alias("name"), *counts, F.lit("test").alias("split")
    )
    read = {
        "lines": lines, "users": everybody.select(F.col("id").alias("user_id")), "queries": queries,
        "catalogue": catalogue, "vocabulary_users": everybody,
        "vocabulary_items": spark.range(items).select(item, name.alias("id")),
        "items": spark.range(items).select(name.alias("item_id"), name.alias("name"), F.lit("one").alias("category")),
    }  # fmt: skip
    settings = Settings(
        evaluation={"ks": (3, 5), "bootstrap": 100, "als_rank": 2, "als_iterations": 1}, scoring={"k": 4}
    )
    bundle = two_tower_bundle(folder / "bundles", users=users + 1, items=items + 1)
    return Ground(read, settings, folder, bundle.path, cut=CUT)


class Driver:
    """What has come to the driver, in numbers and texts, and bytes of the functions in plans, call by call."""

    def __init__(self, frame: type[DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
        self.values: list[int] = []
        self.sent: list[int] = []
        collect, in_arrow = frame.collect, frame.mapInArrow

        def collected(rows: DataFrame) -> Any:
            found = collect(rows)
            self.values.append(leaves(found))
            return found

        def mapped(rows: DataFrame, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
            self.sent.append(len(cloudpickle.dumps(function)))
            return in_arrow(rows, function, *given, **named)

        def refused(*_: Any) -> Any:
            raise AssertionError("rows come to the driver uncounted")

        monkeypatch.setattr(frame, "collect", collected)
        monkeypatch.setattr(frame, "mapInArrow", mapped)
        for name in ("toPandas", "toLocalIterator", "toArrow"):
            monkeypatch.setattr(frame, name, refused, raising=False)

    def take(self) -> tuple[list[int], list[int]]:
        taken = self.values, self.sent
        self.values, self.sent = [], []
        return taken


def leaves(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(leaves, value))
    return 1


def answered(ground: Ground) -> dict[str, tuple[DataFrame, DataFrame]]:
    """Every contender's answers to a slice, judged."""
    assert ground.bundle is not None
    contenders = recommend_on_spark.contenders(ground, CUT, {OURS: ground.bundle})
    asked = recommend_on_spark.slices(ground, CUT)["new"].rows
    answers = evaluate._answers(TASKS["recommend"], ground, "new", asked, contenders)
    judged = recommend_on_spark.judge(ground, asked, answers, list(contenders))
    assert set(judged["models"]) == {"millrace", "popularity", "recent_popularity", "item_item", "als"}
    return {"new": (asked, answers)}


@pytest.mark.slow
def test_it_is_the_same_for_ten_times_the_items_and_users(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(type(spark.range(1)), monkeypatch)
    judged, looked_at, scored = [], [], []
    for items, partitions in ((300, 2), (3_000, 5)):
        ground = shop(spark, tmp_path / str(items), items)
        with session_settings(spark, {"spark.sql.shuffle.partitions": str(partitions)}):
            held = answered(ground)
            judged.append(driver.take())
            recommend_on_spark.looks(ground, held)
            looked_at.append(sum(driver.take()[0]))
            ground.release()
            asked = recommend_on_spark.score(ground, CUT)
            assert checked(TASKS["recommend"], asked, asked.answer(asked.asked))["keys_answered"] == items // 5
            scored.append(driver.take())
        ground.release()
    for (values, sent), (of_more, sent_of_more) in (judged, scored):
        assert values == of_more
        # A number or a folder's name may be a few bytes longer.
        assert all(abs(one - other) < 100 for one, other in zip(sent, sent_of_more, strict=True))
    assert sum(judged[0][0]) > 1_000  # the bootstrap's sums: it was counted
    assert max(looked_at) < TO_LOOK_AT


@pytest.mark.parametrize(("since", "times"), [(None, 5), (datetime(2025, 2, 20), 4)])
def test_lines_are_read_as_often_as_docs_say(
    spark: SparkSession, tmp_path: Path, since: datetime | None, times: int
) -> None:
    """Twice and, where users are touched, three times it is what Delta leaves of a range of times; the others whole."""
    ground, read = shop(spark, tmp_path, 100), spark.sparkContext.accumulator(0)
    lines = ground.read["lines"].persist()

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            read.add(batch.num_rows)
            yield batch

    counted = lines.mapInArrow(count, lines.schema)
    scoring = ground.settings.scoring.model_copy(update={"since": since})
    settings = ground.settings.model_copy(update={"scoring": scoring})
    asked = replace(ground, read={**ground.read, "lines": counted}, settings=settings)
    scored = recommend_on_spark.score(asked, CUT)
    assert scored.counts(scored.answer(scored.asked).persist())["users"] == 20
    assert read.value == times * lines.count()
    ground.release()
