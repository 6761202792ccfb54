"""Evaluate: full ranking over the whole catalogue, ours against baselines, on the users of the test split.

    python -m jobs.evaluate --settings shop.yaml evaluation.ks=[10,20]

Two protocols. `new`: what a user bought after the cut and had not bought before; what was bought before is masked.
`any`: all that a user bought after the cut; nothing is masked. Every item known before the cut is ranked, none is
sampled. A user is judged if there is something to find. Values are means over users, with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import builds
from jobs.artefacts import EVALUATION, read_json, write_json
from jobs.command import main_of
from jobs.console import say, show_table, step
from jobs.headlines import JUDGED, hardest, main_k
from jobs.sessions import giving_back, in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.train import latest_bundle
from spark_udfs.baselines.classic import fit_als, interactions, popularity, popularity_order
from spark_udfs.baselines.item_item import item_item, neighbours, save_neighbours
from spark_udfs.evaluation import judge, popularity_deciles, spread
from spark_udfs.features import indexed, known_before, purchases
from spark_udfs.scoring import recommend
from training.errors import BundleError, TableError
from training.state.json_files import read_json as read_checked

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    Ranker = Callable[..., DataFrame]

OURS = "millrace"
PROTOCOLS = {
    "new": "items new to the customer; what was bought before is left out",
    "any": "any item bought after the cut; nothing is left out",
}
EXAMPLES = 10
SHOWN = ("mrr", "hit_rate", "map", "coverage", "novelty")


@dataclass(frozen=True)
class Ground:
    """What all models are judged on.

    Attributes:
        queries: a row per user of the test split.
        catalogue: a row per item known before the cut.
        counts: user, item, count before the cut.
        order: items by what sold in the last 30 days: the fallback of cold users.
        bundle: the folder of the bundle that is judged.
    """

    queries: DataFrame
    catalogue: DataFrame
    counts: DataFrame
    order: npt.NDArray[np.int64]
    bundle: Path


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Judge the latest bundle and the baselines; write evaluation.json into the run folder.

    Returns:
        What evaluation.json holds: protocols with users, models and differences, popularity_of_recommended, examples;
        and `up_to_date` where it was there.

    Raises:
        BundleError: no bundle, or one of another schema or trained on other items.
        TableError: a table is missing, or the test split has no user to judge.
    """
    bundle = latest_bundle(settings.run_dir)
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root)
    build = builds.published(tables)
    cut = datetime.fromisoformat(build["cuts"]["test"])
    _refuse_a_bundle_that_knows_the_answers(bundle, cut)
    versions = build["versions"]
    builds.refuse_other_items(tables, versions["vocabulary_items"], bundle)
    same = versions | {name: build["inputs"][name] for name in ("events", "feedback")}
    asked = settings.evaluation.model_dump(mode="json")
    inputs: dict[str, Any] = {"bundle": bundle.name, "tables": same, "evaluation": asked}
    before = read_json(settings.run_dir, EVALUATION)
    if before is not None and before.get("inputs") == inputs:
        say(f"evaluate: up to date; {bundle.name} was judged on these tables")
        return dict(before) | {"up_to_date": True}
    with _ground(tables, versions | builds.versions_read(tables, build), cut, bundle) as ground:
        result = _evaluated(settings, ground)
    result = {"table": tables.path("queries"), "version": versions["queries"], "bundle": bundle.name} | result
    result |= {"test_from": cut.isoformat(), "ks": list(settings.evaluation.ks), "inputs": inputs}
    write_json(settings.run_dir, EVALUATION, result)
    show(result)
    return result


def _refuse_a_bundle_that_knows_the_answers(bundle: Path, cut: datetime) -> None:
    """A bundle that was trained with a later cut has seen what it is asked for."""
    provenance = read_checked(bundle / "bundle.json", dict[str, Any]).get("provenance", {})
    trained_to = provenance.get("build", {}).get("cuts", {}).get("test")
    if trained_to is not None and datetime.fromisoformat(trained_to) > cut:
        raise BundleError(
            f"bundle '{bundle.name}' was trained on events up to {trained_to}, the test split begins at "
            f"{cut.isoformat()}: it has seen the answers. Run `millrace train` on these examples"
        )


@contextmanager
def _ground(tables: Tables, versions: Mapping[str, int], cut: datetime, bundle: Path) -> Iterator[Ground]:
    """Read the pinned versions; what several models need is kept while they are judged."""
    read = {name: tables.read(name, version) for name, version in versions.items()}
    queries = read["queries"].where("split = 'test'").drop("split").persist()
    catalogue = read["catalogue"].where("split = 'test' AND count > 0").drop("split").persist()
    lines = indexed(purchases(read["events"], read.get("feedback")), read["vocabulary_users"], read["vocabulary_items"])
    counts = interactions(lines.where(known_before(cut))).persist()
    with giving_back(tables.spark, lambda: [kept.unpersist() for kept in (queries, catalogue, counts)]):
        if queries.where(F.size("truth") > 0).isEmpty():
            raise TableError(
                f"table 'queries' at {tables.path('queries')} has no user who bought a known item after the cut "
                f"({cut.isoformat()}); set examples.test_from to an earlier moment and run `millrace build-examples`"
            )
        yield Ground(queries, catalogue, counts, popularity_order(catalogue, "recent_customers"), bundle)


def _evaluated(settings: Settings, ground: Ground) -> dict[str, Any]:
    rankers, protocols, looks = _rankers(settings, ground), {}, {}
    for protocol, what in PROTOCOLS.items():
        with _ranked(protocol, settings, ground, rankers) as (asked, ranked), step(f"evaluate: judge {protocol} items"):
            protocols[protocol] = {"what": what} | _judged(settings, ground, asked, ranked)
            if protocol == "new":
                looks = _looks(settings, ground, asked, ranked)
    return {"protocols": protocols} | looks


def _rankers(settings: Settings, ground: Ground) -> dict[str, Ranker]:
    """By name, ours first: (queries, k, exclude_seen) -> ranked rows. What has to be fitted is fitted here."""
    wanted, catalogue, folder = settings.evaluation, ground.catalogue, Path(settings.run_dir) / "baselines"
    allowed = np.sort(ground.order)
    rankers: dict[str, Ranker] = {
        OURS: partial(recommend, bundle_path=str(ground.bundle), allowed=allowed, fallback=ground.order),
        "popularity": partial(popularity, catalogue=catalogue, by="customers"),
        "recent_popularity": partial(popularity, catalogue=catalogue, by="recent_customers"),
    }
    if "item_item" in wanted.baselines:
        with step("evaluate: count item-item neighbours"):
            near = save_neighbours(neighbours(ground.counts), folder)
        rankers["item_item"] = partial(item_item, near=near, allowed=allowed)
    if "als" in wanted.baselines:
        with step("evaluate: fit ALS"):
            als = fit_als(
                ground.counts,
                folder,
                rank=wanted.als_rank,
                iterations=wanted.als_iterations,
                alpha=wanted.als_alpha,
                regularisation=wanted.als_regularisation,
            )
        rankers["als"] = als.recommend
    return {name: rankers[name] for name in rankers if name in (OURS, *wanted.baselines)}


@contextmanager
def _ranked(
    protocol: str, settings: Settings, ground: Ground, rankers: Mapping[str, Ranker]
) -> Iterator[tuple[DataFrame, DataFrame]]:
    """The users with something to find, and every model's rows for them."""
    new = protocol == "new"
    truth = F.array_except("truth", "seen") if new else F.array_distinct("truth")
    asked = ground.queries.withColumn("truth", truth).where(F.size("truth") > 0).persist()
    answers: list[DataFrame] = []
    with giving_back(asked.sparkSession, lambda: [kept.unpersist() for kept in (asked, *answers)]):
        for name, ranker in rankers.items():
            with step(f"evaluate: rank {protocol} items by {name}"):
                rows = ranker(asked, k=max(settings.evaluation.ks), exclude_seen=new)
                answers.append(rows.select(F.lit(name).alias("model"), "user", "rank", "item").persist())
                answers[-1].count()
        yield asked, reduce(lambda first, second: first.unionByName(second), answers)


def _judged(settings: Settings, ground: Ground, asked: DataFrame, ranked: DataFrame) -> dict[str, Any]:
    ks = settings.evaluation.ks
    judged = judge(ranked, asked, ks=ks, resamples=settings.evaluation.bootstrap)
    spreads = spread(ranked, ground.catalogue, ks=ks)
    names = [OURS, *(name for name in settings.evaluation.baselines if name in judged)]
    return {
        "users": judged[OURS].users,
        "models": {name: judged[name].intervals() | spreads[name] for name in names},
        "differences": {name: judged[OURS].minus(judged[name]) for name in names[1:]},
    }


def _looks(settings: Settings, ground: Ground, asked: DataFrame, ranked: DataFrame) -> dict[str, Any]:
    """What people look at: how popular the recommended items are, and ten customers by product name."""
    top = ranked.where(F.col("rank") <= main_k(settings.evaluation.ks))
    bought = asked.select(F.lit("bought").alias("source"), F.explode("truth").alias("item"))
    rows = bought.unionByName(top.select(F.concat(F.lit("model "), "model").alias("source"), "item"))
    deciles = popularity_deciles(rows, ground.catalogue)
    return {
        "popularity_of_recommended": {
            "bought": deciles.pop("bought"),
            "recommended": {source.removeprefix("model "): counts for source, counts in deciles.items()},
        },
        "examples": _examples(ground, asked, top.where(F.col("model") == OURS)),
    }


def _examples(ground: Ground, asked: DataFrame, ours: DataFrame) -> list[dict[str, Any]]:
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
    named = ground.catalogue.where(F.col("item").isin(sorted(items))).select("item", F.coalesce("name", "item_id"))
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


def show(result: Mapping[str, Any]) -> None:
    """A table per protocol, and the comparisons in which ours fares worst; a star: ours differs beyond chance.

    Args:
        result: what `run` returns.
    """
    k = main_k(result["ks"])
    for protocol in result["protocols"].values():
        rows = []
        for name, metrics in protocol["models"].items():
            differences = protocol["differences"].get(name, {})
            judged = [_cell(metrics[f"{metric}_at_{k}"], differences.get(f"{metric}_at_{k}")) for metric in JUDGED]
            rows.append((name, *judged, *(f"{metrics[f'{metric}_at_{k}']['value']:.3f}" for metric in SHOWN)))
        say(f"{protocol['what']}: {protocol['users']:,} customers, at {k}; 95 % intervals; * ours differs")
        show_table("", ("", *JUDGED, *(name.removesuffix("_rate") for name in SHOWN)), rows)
        leads = [lead for metric in JUDGED if (lead := hardest(protocol, f"{metric}_at_{k}"))]
        say("hardest comparisons: " + "; ".join(lead.words() for lead in leads))


def _cell(metric: Mapping[str, float], difference: Mapping[str, float] | None) -> str:
    star = "*" if difference and (difference["low"] > 0 or difference["high"] < 0) else ""
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]{star}"


if __name__ == "__main__":
    main_of(run)
