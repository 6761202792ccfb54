"""What a shop rules of lists: by the score job against lists that are asked for one by one; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs import answers, score
from jobs.ground import Ground
from jobs.recommender import Recommender
from jobs.settings import Settings, load_settings
from jobs.tables import Tables
from jobs.tasks.recommend_on_spark import ruled
from jobs.tasks.recommend_on_spark.ruled import Ruled
from spark_udfs.rules import Rules
from tests.jobs.small_shop import ITEMS, LOOKER, NEWCOMER, TEST_FROM, USERS, small_shop
from training.errors import DataError, SchemaError, SettingsError

ALL, NORTH, SOUTH = range(10), range(10, 20), range(20, ITEMS)
SEGMENTS = {0: "north", 1: "north", 2: "south", 3: "south", 4: "west"}
HIDDEN = {0: [2, 11, 13], 3: [21]}
RULES = {"per_category": 1, "least_score": -0.5}


def category(item: int) -> str | None:
    return None if item % 7 == 0 else f"of {item % 4}"


def ids(items: Any) -> list[str]:
    return [f"item {item}" for item in items]


def written(spark: SparkSession, folder: Path, columns: str, rows: list[tuple[Any, ...]]) -> dict[str, str]:
    spark.createDataFrame(rows, columns).write.format("delta").save(str(folder))
    return {"path": str(folder)}


@pytest.mark.slow
def test_the_job_gives_what_is_left_of_each_list_asked_for_alone(spark: SparkSession, tmp_path: Path) -> None:
    settings = small_shop(spark, tmp_path)
    tables = Tables(spark, settings.tables.root)
    of_items = spark.createDataFrame(
        [(f"item {item}", category(item)) for item in range(ITEMS)], "item_id string, category string"
    )
    described = tables.read("items").join(of_items, on="item_id", how="left")
    tables.write("items", described, mode="overwrite", job="ingest", inputs={"category": 1})
    shown = [(one, name) for some, name in ((ALL, None), (NORTH, "north"), (SOUTH, "south")) for one in ids(some)]
    more = [*shown, *shown[5:25], ("nowhere", None), ("nowhere", "north"), (None, "north")]
    users = [(f"user {user}", name) for user, name in SEGMENTS.items()]
    pairs = [(f"user {user}", item) for user, held in HIDDEN.items() for item in ids(held)]
    lost = [("stranger", "item 1"), ("user 0", "nowhere"), ("user 0", None)]
    rules = {
        "allowed": written(spark, tmp_path / "stock", "item_id string, segment string", more),
        "segments": written(spark, tmp_path / "of_users", "user_id string, segment string", [*users, *users[:2]]),
        "hidden": written(spark, tmp_path / "hidden", "user_id string, item_id string", [*pairs, *pairs, *lost]),
    }
    asked = Settings(**(settings.model_dump() | {"scoring": {"k": 4, "moment": TEST_FROM, "rules": rules | RULES}}))
    made = score.run(asked, spark)

    recommender = Recommender.load(Path(settings.run_dir, "bundles", made["bundle"]), settings.tables.root)
    categories = {f"item {item}": name for item in range(ITEMS) if (name := category(item)) is not None}
    expected, least = dict[str, list[str]](), Rules(**RULES)
    alike = dict[frozenset[str], list[str]]()
    for user in range(USERS):
        segment = {"north": NORTH, "south": SOUTH}.get(SEGMENTS.get(user, ""), ())
        mask = frozenset({*ids(ALL), *ids(segment)} - set(ids(HIDDEN.get(user, ()))))
        alike.setdefault(mask, []).append(f"user {user}")
    for mask, some in alike.items():
        found = recommender.recommend(some, k=4, mask=mask, rules=least, categories=categories)
        expected |= {user: [one.item_id for one in row] for user, row in zip(some, found, strict=True)}
    (cold,) = recommender.recommend(history=[[]], k=4, mask=ids(ALL), rules=least, categories=categories)
    expected |= {user: [one.item_id for one in cold] for user in (LOOKER, NEWCOMER)}
    lists = dict[str, list[str]]()
    held = tables.read("recommendations").where(answers.mine(made["bundle"], TEST_FROM)).orderBy("user_id", "rank")
    for row in held.collect():
        assert row["rank"] == len(lists.setdefault(row["user_id"], [])) + 1
        lists[row["user_id"]].append(row["item_id"])
    assert lists == {user: items for user, items in expected.items() if items}
    assert {len(items) for items in expected.values()} > {4}  # the cap or the floor makes some lists shorter

    counted = {name: made[name] for name in ("short_lists", "users_without_list", "rules_without_ids")}
    assert counted == {
        "short_lists": sum(0 < len(items) < 4 for items in expected.values()),
        "users_without_list": sum(not items for items in expected.values()),
        "rules_without_ids": 2,
    }
    assert (made["allowed_unknown_items"], made["hidden_unknown_users"], made["hidden_unknown_items"]) == (1, 1, 1)
    assert (made["users_without_segment"], made["users_of_unknown_segment"]) == (USERS + 2 - len(SEGMENTS), 1)
    assert [made["inputs"]["tables"][f"scoring.rules.{name}"][0] for name in ("allowed", "segments", "hidden")] == [
        0
    ] * 3
    assert score.run(asked, spark)["up_to_date"]


@pytest.fixture
def ground(spark: SparkSession, tmp_path: Path) -> Ground:
    items = spark.createDataFrame([("a", ["x"], "lamps")], "item_id string, tags array<string>, category string")
    return Ground({"items": items}, Settings(), tmp_path, Path("nowhere"))


def with_rules(ground: Ground, rules: dict[str, Any], **tables: DataFrame) -> Ground:
    named = {name: {"table": f"shop.{name}"} for name in tables}
    settings = Settings(**{"scoring": {"rules": rules | named}})
    return replace(
        ground, read={**ground.read, **{f"scoring.rules.{name}": of for name, of in tables.items()}}, settings=settings
    )


def test_tables_that_do_not_say_what_they_must_are_refused(
    spark: SparkSession, ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock, of_users = "item_id string, segment string", "user_id string, segment string"
    rows = [("a", "north"), ("a", "south"), ("a", None)]
    allowed, segments = spark.createDataFrame(rows, stock), spark.createDataFrame(rows, of_users)
    for tables, message in (
        ({"allowed": spark.range(1)}, r"scoring.rules.allowed: column 'item_id' must be string, it is missing"),
        (
            {"hidden": spark.range(1).selectExpr("id AS item_id", "'u' AS user_id")},
            "'item_id' must be string, it is big",
        ),
        ({"allowed": allowed}, r"has a column 'segment', and scoring.rules.segments does not say who is of which"),
        ({"allowed": allowed.drop("segment"), "segments": segments}, r"allowed: column 'segment' must be string"),
    ):
        with pytest.raises(SchemaError, match=message):
            Ruled(with_rules(ground, {}, **tables))
    with pytest.raises(DataError, match=r"one segment a user; 1 users have more, as one has 'north' and 'south'"):
        Ruled(with_rules(ground, {}, allowed=allowed, segments=segments))
    one = segments.where("segment = 'north'")
    monkeypatch.setattr(ruled, "MOST_SEGMENTS", 1)
    with pytest.raises(DataError, match=r"allowed must have 1 segments at most, and has 2: make one of those"):
        Ruled(with_rules(ground, {}, allowed=allowed, segments=one))
    can_be = spark.createDataFrame([(1, "b")], "item bigint, item_id string")
    with pytest.raises(DataError, match=r"allowed must name an item that can be recommended; none of its 1 ids is one"):
        Ruled(with_rules(ground, {}, allowed=allowed.drop("segment"))).shown(can_be, can_be)
    ground.release()
    for column, told in (("colour", "missing"), ("tags", "array<string>")):
        with pytest.raises(
            SchemaError, match=rf"category must name a column .*; '{column}' is {told}, and it has item_id"
        ):
            Ruled(with_rules(ground, {"per_category": 1, "category": column})).shown(can_be, can_be)
    ground.release()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("allowed={}", r"scoring.rules.allowed: must have a path or a table, and has path None and table None"),
        ("segments={table: shop.of_users}", "scoring.rules: segments say nothing without allowed"),
        ("per_category=0", r"scoring.rules.per_category: .* greater than or equal to 1"),
        ("least_score=.nan", r"scoring.rules.least_score: .* finite number"),
        ("diversity={relevance: 2}", r"scoring.rules.diversity.relevance: .* less than or equal to 1"),
        ("diversity={candidates: 10}", r"scoring: rules.diversity.candidates is 10, .* set it to 20"),
        ("diversity={lambda: .5}", r"scoring.rules.diversity.lambda: unknown key .*; known keys: candidates, of, rel"),
        ("alowed={table: a.b}", r"scoring.rules.alowed: unknown key .*; did you mean 'allowed'"),
    ],
)
def test_rules_that_are_none_are_refused(flag: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(None, [f"scoring.rules.{flag}"])
