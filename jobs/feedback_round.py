"""Close the loop once, in the simulated shop: show, see what happens, learn from it, show again.

    show the first bundle's lists at the test cut -> the shop's true tastes answer -> ingest_feedback
    a week later: build_examples and train again, in a shop that had shown nothing and in the one that did
    which bundle's next list is worth most, by the true tastes that only a simulated shop knows?

The two differ by what the lists sold. The simulated shop's events never hold those sales, so feedback brings them; a
shop whose events hold them trains on the same lines without it.

All three bundles are asked the same question: the users as of the later cut, and only items that a user has neither
bought nor been shown, so no bundle gains by repeating what is known already. What the loop writes goes to a root of its
own, whose events are a shallow clone of the shop's: the shop's tables stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import build_examples, builds, ingest_feedback, score, train
from jobs.artefacts import FEEDBACK, ITEM_FILES, LATEST, read_json, write_json
from jobs.console import say, show_table, step
from jobs.sessions import in_utc, open_session
from jobs.settings import Settings
from jobs.settings_lists import scoring_of
from jobs.tables import Tables
from jobs.trained import latest_bundle
from jobs.tuned import with_best
from spark_udfs import features
from spark_udfs.item_files import save_items
from spark_udfs.scoring import recommend
from spark_udfs.simulated import shop
from training.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

READ = ("events", "items", "users")
JOB = "feedback_round"
DAYS_BETWEEN = 7  # what a shown item leads to comes within three days


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Show, learn, compare. Needs a trained bundle and a simulated shop.

    Returns:
        shown, viewed and purchased of the first showing; `rounds`: for each bundle its name and, of its next lists,
        what was shown, viewed and purchased, and `true_value`, the expected purchases per user.

    Raises:
        SettingsError: examples.test_from is not set, or the events are not the simulated shop's.
    """
    if settings.examples.test_from is None or settings.ingest.events():
        raise SettingsError(
            f"closing the loop needs a simulated shop and a fixed cut; ingest names {[*settings.ingest.events()]}, "
            f"examples.test_from {settings.examples.test_from}; use jobs/pipelines/shop.yaml"
        )
    spark = open_session(settings, spark, beside=TO_SCORE)
    cut, bundle = settings.examples.test_from, latest_bundle(settings.run_dir)
    source = Tables(spark, settings.tables.root)
    inputs: dict[str, Any] = {"bundle": bundle.name, "shop": settings.shop.model_dump(mode="json"), "cut": str(cut)}
    built = builds.published(source)
    inputs["versions"] = {name: source.pin(name).content for name in READ} | built["versions"]
    before: dict[str, Any] | None = read_json(settings.run_dir, FEEDBACK)
    if before is not None and before.get("inputs") == inputs:
        say("feedback: up to date; the loop was closed with this bundle")
        return before
    settings, _ = with_best(settings)  # the later bundles are trained as the first one was
    run_dir, settings = settings.run_dir, _apart(settings, source, built, inputs)
    say(f"showing what {bundle.name} recommends as of {cut:%Y-%m-%d}")
    first = _with(settings, scoring={"moment": cut}, feedback={"moment": cut})
    score.run(first, spark)
    tables = Tables(spark, settings.tables.root)
    shown = _shown_at(tables, cut)
    bundles = {"trained before": bundle}
    later = _with(settings, examples={"test_from": cut + timedelta(days=DAYS_BETWEEN)})
    # A loop that was killed after this point has the bundle, and tables that hold the feedback by now.
    nothing_shown = latest_bundle if tables.exists("feedback") else partial(_trained, later, spark)
    bundles["trained a week later, had nothing been shown"] = nothing_shown(f"{settings.run_dir}/nothing_shown")
    answered = ingest_feedback.run(first, spark, shop.respond(shown, settings.shop))
    bundles["trained a week later, with what the lists sold"] = _trained(
        later, spark, f"{settings.run_dir}/lists_shown"
    )
    with step("asking each bundle for its next lists"):
        rounds = [
            {
                "name": name,
                "bundle": bundle.name,
                **_worth(later, cut + timedelta(days=DAYS_BETWEEN), tables, shown, bundle),
            }
            for name, bundle in bundles.items()
        ]
    summary = {name: answered[name] for name in ("moment", "shown", "ignored", "viewed", "purchased")}
    summary |= {"rounds": rounds, "inputs": inputs}
    write_json(run_dir, FEEDBACK, summary)
    _show(summary)
    return summary


def _apart(settings: Settings, source: Tables, built: builds.Manifest, inputs: Mapping[str, Any]) -> Settings:
    """The settings with places of their own for these inputs: a root made from clones, a run folder with the bundle."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    root = f"{settings.tables.root}-loop-{digest}"
    apart = Tables(source.spark, root)
    for name in READ:
        source.clone(name, root)
    for name, version in built["versions"].items():
        source.clone(name, root, version)
    if not apart.exists(builds.TABLE):
        versions = {name: apart.version(name) for name in built["versions"]}
        ids = built.get("ids", {}) | apart.ids(versions)
        builds.publish(apart, built | {"versions": versions, "ids": ids}, job=JOB, since=-1)
    run_dir = Path(settings.run_dir) / "loop" / digest
    bundle = latest_bundle(settings.run_dir)
    shutil.copytree(bundle, run_dir / "bundles" / bundle.name, dirs_exist_ok=True)
    shutil.copyfile(Path(settings.run_dir) / LATEST, run_dir / LATEST)
    return _with(settings, tables={"root": root, "catalogue": None}).model_copy(update={"run_dir": str(run_dir)})


def _with(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    """The settings with some values of some sections replaced."""
    replaced = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return settings.model_copy(update=replaced)


def _trained(settings: Settings, spark: SparkSession, run_dir: str) -> Path:
    """Build the examples of the later cut and train on them in a run folder of their own."""
    own = settings.model_copy(update={"run_dir": run_dir})
    build_examples.run(own, spark)
    train.run(own, spark)
    return latest_bundle(own.run_dir)


def _shown_at(tables: Tables, cut: datetime) -> DataFrame:
    """What was recommended at a moment, fallbacks too: they were shown."""
    return tables.read("recommendations").where(F.col("moment") == F.lit(features.utc(cut)))


def _worth(settings: Settings, cut: datetime, tables: Tables, shown: DataFrame, bundle: Path) -> dict[str, Any]:
    """What a bundle's next lists lead to: items neither bought nor shown before, as of the later cut."""
    versions = builds.published(tables)["versions"]
    ids = tables.read("vocabulary_items", versions["vocabulary_items"]).select(
        F.col("index").alias("item"), F.col("id").alias("item_id")
    )
    was_shown = shown.join(ids.withColumnRenamed("item", "index"), on="item_id", how="inner")
    per_user = was_shown.groupBy("user_id").agg(F.collect_set("index").alias("shown"))
    none = F.array().cast("array<bigint>")
    queries = (
        tables.read("queries", versions["queries"])
        .where(F.col("split") == "test")
        .join(per_user, on="user_id", how="left")
        .withColumn("seen", F.array_union("seen", F.coalesce("shown", none)))
    )
    sold = (
        tables.read("catalogue", versions["catalogue"])
        .where((F.col("split") == "test") & (F.col("count") > 0))
        .select("item")
    )
    allowed = save_items(sold, Path(settings.run_dir) / ITEM_FILES, "sold")
    ranked = recommend(queries, str(bundle), k=scoring_of(settings).k, allowed=allowed)
    named = ranked.join(ids, on="item").join(queries.select("user", "user_id"), on="user")
    moment = F.lit(features.utc(cut))
    rows = named.select("user_id", "item_id", F.col("rank").cast("int").alias("rank"), moment.alias("moment"))
    answered = shop.true_value(shop.respond(rows, settings.shop), settings.shop)
    per = answered.agg(
        F.count_if(F.col("outcome") != "ignored").alias("viewed"),
        F.count_if(F.col("outcome") == "purchased").alias("purchased"),
        F.count("*").alias("shown"),
        (F.sum("true_value") / F.countDistinct("user_id")).alias("true_value"),
    )
    return dict(per.collect()[0].asDict())


def _show(summary: Mapping[str, Any]) -> None:
    say(f"of {summary['shown']:,} shown, {summary['viewed']:,} were looked at and {summary['purchased']:,} bought")
    columns = ("bundle", "shown", "purchased", "expected purchases per user")
    rows = [(row["name"], row["shown"], row["purchased"], row["true_value"]) for row in summary["rounds"]]
    show_table("The next lists, by the shop's true tastes", columns, rows)
