"""Lists judged: who answers beside the bundle, means over users with 95 % intervals, and what people look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.artefacts import ITEM_FILES
from jobs.console import say, step
from jobs.ground import Answer, Ground
from jobs.headlines import main_k
from jobs.settings_lists import asks_questions, evaluation_of
from jobs.task import OURS
from jobs.tasks.recommend_on_spark.asked import of_test
from jobs.tasks.recommend_on_spark.known import catalogue_of_test, indexed, ranks_unsold, sold_before
from spark_udfs import features
from spark_udfs.baselines.classic import fit_als, interactions, popularity_order
from spark_udfs.baselines.ease import by_ease, fit_ease, see_that_it_fits
from spark_udfs.baselines.item_item import item_item
from spark_udfs.baselines.neighbours import save_neighbours
from spark_udfs.evaluation import diversity, popularity_deciles, spread
from spark_udfs.evaluation import judge as judged
from spark_udfs.item_files import save_items
from spark_udfs.lists import by_order, longest
from spark_udfs.scoring import recommend

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

EXAMPLES = 10


def contenders(ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> dict[str, Answer]:
    """The bundles, and the baselines that the settings name."""
    wanted, folder = evaluation_of(ground.settings), ground.folder / ITEM_FILES
    known = sold_before(catalogue_of_test(ground))
    k = max(wanted.ks)
    with step("evaluate: order what was sold"):
        allowed = save_items(known.select("item"), folder, "allowed")
        if "ease" in wanted.baselines:
            see_that_it_fits(allowed.rows, wanted.ease_items)
        listed = allowed
        if any(map(ranks_unsold, bundles.values())):
            listed = save_items(catalogue_of_test(ground).select("item"), folder, "listed")
        depth = k + longest(of_test(ground))
        of_all_time, of_late = (popularity_order(known, by, depth) for by in ("customers", "recent_customers"))
    counts = ground.keep("counts", lambda: interactions(indexed(ground).where(features.known_before(cut))))
    rankers: dict[str, Callable[..., DataFrame]] = {
        **{
            name: partial(
                recommend, bundle_path=str(path), allowed=listed if ranks_unsold(path) else allowed, fallback=of_late
            )
            for name, path in bundles.items()
        },
        "popularity": partial(by_order, order=of_all_time),
        "recent_popularity": partial(by_order, order=of_late),
    }
    if "item_item" in wanted.baselines:
        with step("evaluate: find each item's nearest"):
            near = save_neighbours(counts, folder)
        rankers["item_item"] = partial(item_item, near=near)
    if "als" in wanted.baselines:
        with step("evaluate: fit ALS"):
            als = fit_als(
                counts,
                folder,
                rank=wanted.als_rank,
                iterations=wanted.als_iterations,
                alpha=wanted.als_alpha,
                regularisation=wanted.als_regularisation,
            )
        rankers["als"] = als.recommend_to_others if asks_questions(ground.settings) else als.recommend
    if "ease" in wanted.baselines:
        with step("evaluate: fit EASE"):
            weights = fit_ease(counts, allowed, folder, l2=wanted.ease_l2)
        rankers["ease"] = partial(by_ease, weights=weights)

    def answer(asked: DataFrame, protocol: str, *, ranker: Callable[..., DataFrame]) -> DataFrame:
        return ranker(asked, k=k, exclude_seen=protocol != "any")

    return {name: partial(answer, ranker=rankers[name]) for name in rankers if name in (*bundles, *wanted.baselines)}


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Means over users, how much of the catalogue is shown, and how mixed a list is where items have a category."""
    ks = evaluation_of(ground.settings).ks
    values = judged(answers, asked, ks=ks, resamples=ground.settings.evaluation.bootstrap)
    spreads = spread(answers, catalogue_of_test(ground), ks=ks)
    groups = _categories(ground)
    mixed = {} if groups is None else diversity(answers, groups, ks=ks)
    shown = [name for name in names if name in values]
    if silent := [name for name in names if name not in values]:
        say(f"no list of these customers by {', '.join(silent)}: they have nothing to answer from; left out")
    return {
        "users": values[OURS].users,
        "pairs": _pairs(ground, asked),
        "models": {name: values[name].intervals() | spreads[name] | mixed.get(name, {}) for name in shown},
        "differences": {name: values[OURS].minus(values[name]) for name in shown[1:]},
    }


def _categories(ground: Ground) -> DataFrame | None:
    """item, group: the items of the catalogue that have a category; None: the table `items` knows none."""
    items = ground.read["items"]
    if "category" not in items.columns:
        return None
    named = items.where("category IS NOT NULL").select("item_id", F.col("category").alias("group"))
    return catalogue_of_test(ground).select("item", "item_id").join(named, on="item_id", how="inner").drop("item_id")


def _pairs(ground: Ground, asked: DataFrame) -> dict[str, Any]:
    """How many pairs of a customer and an item are to be found, and a hash of these pairs: who compares values from two
    places sees by it whether they are of the same ones."""
    found = asked.select("user_id", F.explode("truth").alias("item"))
    named = found.join(catalogue_of_test(ground).select("item", "item_id"), on="item", how="inner")
    row = named.agg(F.count(F.lit(1)).alias("pairs"), F.bit_xor(F.xxhash64("user_id", "item_id")).alias("hash"))
    pairs, digest = row.collect()[0]
    return {"count": pairs, "hash": f"{digest & (1 << 64) - 1:016x}"}


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """How popular the recommended items are, and ten customers by product name."""
    asked, ranked = held["new"]
    ks = evaluation_of(ground.settings).ks
    top = ranked.where(F.col("rank") <= main_k(ks))
    bought = asked.select(F.lit("bought").alias("source"), F.explode("truth").alias("item"))
    rows = bought.unionByName(top.select(F.concat(F.lit("model "), "model").alias("source"), "item"))
    deciles = popularity_deciles(rows, catalogue_of_test(ground))
    customers = _ten_customers(ground, asked, top.where(F.col("model") == OURS))
    return {
        "ks": list(ks),
        "drawn": {
            "title": "Ten customers",
            "columns": ["customer", "had last", "recommended"],
            "rows": [
                [row["user_id"], "; ".join(row["bought"][-3:]), "; ".join(row["recommended"][:5])] for row in customers
            ],
        },
        "popularity_of_recommended": {
            "bought": deciles.pop("bought"),
            "recommended": {source.removeprefix("model "): counts for source, counts in deciles.items()},
        },
        "examples": customers,
    }


def _ten_customers(ground: Ground, asked: DataFrame, ours: DataFrame) -> list[dict[str, Any]]:
    """Ten users, drawn by hash, with the names of what they bought, got shown and then bought."""
    drawn = (
        asked.where(F.size("history") > 0)
        .orderBy(F.xxhash64("user_id"))
        .limit(EXAMPLES)
        .select("user", "user_id", "history", "truth")
        .collect()
    )
    shown: dict[int, list[int]] = {row["user"]: [] for row in drawn}
    for row in ours.where(F.col("user").isin(list(shown))).orderBy("user", "rank").collect():
        shown[row["user"]].append(row["item"])
    items = {item for row in drawn for item in (*row["history"], *row["truth"], *shown[row["user"]])}
    named = (
        catalogue_of_test(ground).where(F.col("item").isin(sorted(items))).select("item", F.coalesce("name", "item_id"))
    )
    names = {row[0]: row[1] for row in named.collect()}
    return [
        {
            "user_id": row["user_id"],
            "bought": [names[item] for item in dict.fromkeys(row["history"]) if item in names][-10:],
            "recommended": [names[item] for item in shown[row["user"]]][:10],
            "then_bought": [names[item] for item in row["truth"] if item in names],
        }
        for row in drawn
    ]
