"""Score: the top K items of the whole catalogue for every user, as of a moment, into the table `recommendations`.

    python -m jobs.score --settings shop.yaml scoring.k=50

Every user of the shop gets rows: one that the bundle does not know is scored by the history alone, one without a known
item in the history gets what sold most lately, marked `fallback`. Rows name their bundle and moment; running it again
with the same bundle, tables and moment changes nothing, other tables replace that bundle's rows of that moment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import builds
from jobs.artefacts import SCORE, read_json, write_json
from jobs.build_examples import OPTIONAL
from jobs.command import main_of
from jobs.console import say, show_counts, step
from jobs.erasure.erased import Watch
from jobs.sessions import in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.train import latest_bundle
from spark_udfs import features, vocabularies
from spark_udfs.baselines.classic import popularity_order
from spark_udfs.scoring import bundle_schema, recommend, unknown_ids
from training.errors import TableError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JOB = "score"
READ, VOCABULARIES = ("events", "users", "items", "feedback"), ("vocabulary_users", "vocabulary_items")
COLUMNS = ("user_id", "user", "rank", "item_id", "item", "score", "fallback", "bundle", "moment", "as_of")
# A time as a folder's name has no zone, and a reader in another one takes it for another time: the folder has text.
FOLDERS = ["bundle", "as_of"]


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Score every user with the latest bundle.

    Returns:
        bundle, moment, users, cold_users (no known item in the history), unknown_users (the bundle has no vector of
        their own), unknown_ids (purchases of items that the bundle does not know), rows, fallback_rows, version,
        up_to_date.

    Raises:
        BundleError: no bundle, or one that cannot answer such queries, or was trained on other items.
        TableError: a table is missing, or no event lies before the moment.
        DataError: persons were erased meanwhile.
    """
    bundle = latest_bundle(settings.run_dir)
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root)
    watch = Watch(tables, JOB, "recommendations")
    pins = {name: tables.pin(name) for name in READ if name not in OPTIONAL or tables.exists(name)}
    built = builds.published(tables)["versions"]
    builds.refuse_other_items(tables, built["vocabulary_items"], bundle)
    vocabulary = {name: built[name] for name in VOCABULARIES}
    versions = {name: pin.version for name, pin in pins.items()} | vocabulary
    read = {name: tables.read(name, version) for name, version in versions.items()}
    lines = features.purchases(read["events"], read.get("feedback"))
    moment = _moment(settings, lines, tables.path("events"))
    inputs = {
        "bundle": bundle.name,
        "moment": moment.isoformat(),
        "tables": {name: pin.content for name, pin in pins.items()} | vocabulary,
        "scoring": settings.scoring.model_dump(mode="json", exclude={"moment"}),
        "max_history": settings.examples.max_history,
        "recent_days": settings.examples.recent_days,
        **watch.inputs,
    }
    before: dict[str, Any] | None = read_json(settings.run_dir, SCORE)
    if before is not None and before.get("inputs") == inputs and tables.up_to_date("recommendations", JOB, inputs):
        say(f"recommendations of {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S} are up to date")
        return before | {"up_to_date": True}
    queries = _queries(settings, read, lines, moment).persist()
    with step(f"scoring with {bundle.name} as of {moment:%Y-%m-%d %H:%M:%S}"):
        rows = _rows(settings, read, lines, queries, bundle, moment)
        watch.before_writing()
        version = _write(tables, rows, bundle.name, moment, inputs)
        watch.after_writing(["recommendations"])
    summary = {"bundle": bundle.name, "moment": moment.isoformat(), "version": version}
    summary |= _counts(tables, version, read, lines, queries, bundle, moment)
    queries.unpersist()
    write_json(settings.run_dir, SCORE, summary | {"inputs": inputs})
    names = ("users", "cold_users", "unknown_users", "unknown_ids", "rows", "fallback_rows")
    show_counts("Recommendations", {name: summary[name] for name in names})
    return summary | {"inputs": inputs, "up_to_date": False}


def _moment(settings: Settings, lines: DataFrame, path: str) -> datetime:
    """The moment asked for, or a second after the last event of a known user."""
    known = lines.where("user_id IS NOT NULL")
    first, last = known.agg(F.unix_micros(F.min("time")), F.unix_micros(F.max("time"))).collect()[0]
    if first is None:
        raise TableError(f"table 'events' at {path} has no purchase of a known user; run `millrace ingest`")
    asked = settings.scoring.moment
    if asked is None:
        return datetime.fromtimestamp(last // 1_000_000 + 1, tz=UTC)
    moment, begins = features.utc(asked), datetime.fromtimestamp(first / 1e6, tz=UTC)
    if moment <= begins:
        raise TableError(
            f"table 'events' at {path} has no purchase of a known user before scoring.moment {moment.isoformat()}; "
            f"the first is of {begins.isoformat()}"
        )
    return moment


def _queries(settings: Settings, read: dict[str, DataFrame], lines: DataFrame, moment: datetime) -> DataFrame:
    """A row per user of the shop: user, user_id, history, history_age, seen, in_vocabulary.

    A user who came after the vocabulary was built gets a number past its end, which every bundle takes as unknown: past
    the indices of erased users too.
    """
    held = read["vocabulary_users"]
    everybody = read["users"].select(F.col("user_id").alias("id"))
    joined_since = vocabularies.new_entries(everybody, held)
    numbered = (
        held.where("id IS NOT NULL")
        .select("index", "id", F.lit(True).alias("in_vocabulary"))
        .unionByName(joined_since.select("index", "id", F.lit(False).alias("in_vocabulary")))
    )
    known = features.indexed(lines, numbered, read["vocabulary_items"])
    asked = features.queries(known, numbered, moment, None, settings.examples.max_history, JOB)
    empty_ids, empty_ages = F.array().cast("array<bigint>"), F.array().cast("array<float>")
    return (
        numbered.withColumnRenamed("index", "user")
        .join(asked.drop("user_id"), on="user", how="left")
        .select(
            "user",
            F.col("id").alias("user_id"),
            F.coalesce("history", empty_ids).alias("history"),
            F.coalesce("history_age", empty_ages).alias("history_age"),
            F.coalesce("seen", empty_ids).alias("seen"),
            "in_vocabulary",
        )
    )


def _rows(
    settings: Settings,
    read: dict[str, DataFrame],
    lines: DataFrame,
    queries: DataFrame,
    bundle: Path,
    moment: datetime,
) -> DataFrame:
    """The rows of `recommendations`."""
    scoring, items = settings.scoring, read["vocabulary_items"]
    recent_days = settings.examples.recent_days
    sold = features.catalogue(lines, items, read["items"], moment, recent_days, JOB).where("count > 0")
    order = popularity_order(sold, "recent_customers")
    ranked = recommend(
        queries,
        str(bundle),
        k=scoring.k,
        allowed=np.sort(order),
        exclude_seen=scoring.exclude_seen,
        fallback=order if scoring.cold_users == "recent_popularity" else None,
    )
    item_ids = items.select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    named = ranked.join(queries.select("user", "user_id", "in_vocabulary"), on="user", how="inner")
    return named.join(F.broadcast(item_ids), on="item", how="inner").select(
        "user_id",
        F.when(F.col("in_vocabulary"), F.col("user")).otherwise(F.lit(0)).alias("user"),
        "rank",
        "item_id",
        "item",
        "score",
        "fallback",
        F.lit(bundle.name).alias("bundle"),
        F.lit(moment).alias("moment"),
        F.lit(_as_of(moment)).alias("as_of"),
    )


def _as_of(moment: datetime) -> str:
    """A moment in UTC, as the name of a folder."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"


def _write(tables: Tables, rows: DataFrame, bundle: str, moment: datetime, inputs: dict[str, Any]) -> int:
    """Replace this bundle's rows of this moment; other rows stay.

    Raises:
        TableError: the table has other folders: an earlier version of Millrace made it.
    """
    name = "recommendations"
    held = tables.folders(name) if tables.exists(name) else FOLDERS
    if held != FOLDERS:
        raise TableError(
            f"table '{name}' at {tables.path(name)} has folders by {', '.join(held)}, not by {', '.join(FOLDERS)}: an "
            "earlier version of Millrace made it; rename its folder and score again ('feedback' stays as it is)"
        )
    return tables.write(
        name,
        rows.select(*COLUMNS),
        mode="overwrite",
        job=JOB,
        inputs=inputs,
        where=f"bundle = '{bundle}' AND as_of = '{_as_of(moment)}'",
        partition_by=FOLDERS,
    )


def _counts(
    tables: Tables,
    version: int,
    read: dict[str, DataFrame],
    lines: DataFrame,
    queries: DataFrame,
    bundle: Path,
    moment: datetime,
) -> dict[str, int]:
    schema = bundle_schema(str(bundle))
    users = schema["user"].size or 0
    unknown = F.expr(unknown_ids(schema))
    asked = queries.agg(
        F.count(F.lit(1)).alias("users"),
        F.count_if(F.size("history") == unknown).alias("cold_users"),
        F.count_if(F.col("user") >= users).alias("unknown_users"),
        F.coalesce(F.sum(unknown), F.lit(0)).alias("unknown_ids"),
    ).collect()[0]
    past = lines.where(features.known_before(moment) & F.col("user_id").isNotNull())
    unheard = past.join(read["vocabulary_items"].select(F.col("id").alias("item_id")), on="item_id", how="left_anti")
    mine = (F.col("bundle") == bundle.name) & (F.col("as_of") == _as_of(moment))
    rows = tables.read("recommendations", version).where(mine)
    written = rows.agg(F.count(F.lit(1)).alias("rows"), F.count_if("fallback").alias("fallback_rows")).collect()[0]
    counts = asked.asDict() | written.asDict()
    return counts | {"unknown_ids": counts["unknown_ids"] + unheard.count()}


if __name__ == "__main__":
    main_of(run)
