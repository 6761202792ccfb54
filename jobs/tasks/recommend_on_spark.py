"""Recommendation on Spark: purchases to examples, queries and a catalogue; full rankings, judged; lists for everybody.

Two protocols. `new`: what a user bought after the cut and had not bought before; what was bought before is masked.
`any`: all that a user bought after the cut; nothing is masked. Every item known before the cut is ranked, none is
sampled. A user is judged if there is something to find. Values are means over users, with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from jobs.console import step, warn
from jobs.headlines import main_k
from jobs.task import OURS, Answer, Before, Ground, Scored, Slice
from spark_udfs import features, vocabularies
from spark_udfs.baselines.classic import fit_als, interactions, popularity_order
from spark_udfs.baselines.item_item import item_item, neighbours, save_neighbours
from spark_udfs.catalogue import advanced as sold_later
from spark_udfs.catalogue import catalogue
from spark_udfs.evaluation import judge as judged
from spark_udfs.evaluation import popularity_deciles, spread
from spark_udfs.histories import (
    advanced,
    continued,
    first_lines,
    histories,
    later_examples,
    not_held,
    of_users,
    out_of_reach,
    queries,
    unsaid,
)
from spark_udfs.item_files import save_items
from spark_udfs.lists import by_order, longest
from spark_udfs.scoring import bundle_schema, recommend, unknown_ids

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts

PROTOCOLS = {
    "new": "items new to the customer; what was bought before is left out",
    "any": "any item bought after the cut; nothing is left out",
}
EXAMPLES = 10
ITEM_FILES = "baselines"  # in the run folder: what executors write of items
UNLISTED = "_unlisted"  # after the name of a split: of items without an index


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Events of the kinds that have a weight, purchases alone unless the settings say otherwise; feedback's too."""
    return features.purchases(read["events"], read.get("feedback"))


def _indexed(ground: Ground) -> DataFrame:
    read = ground.read
    return ground.keep(
        "known", lambda: features.indexed(read["lines"], read["vocabulary_users"], read["vocabulary_items"])
    )


def _cap(ground: Ground, known: DataFrame, cut: datetime) -> int | None:
    """How many lines of a customer count, if any has more: one who stands for many, as a guest account or a bot does,
    would be one array of all their lines."""
    cap = ground.settings.examples.max_lines
    over = features.lines_over(known.where(features.known_before(cut)), cap)
    if not over:
        return None
    ground.counts["lines_over_cap"] = over
    warn(f"{over:,} lines of customers with more than {cap:,} are left out, the oldest ones: examples.max_lines")
    return cap


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """catalogue and queries of both cuts, and the examples."""
    read, asked = ground.read, ground.settings.examples
    known, users, items = _indexed(ground), read["vocabulary_users"], read["vocabulary_items"]
    cap, kept = _cap(ground, known, cuts.test), features.LOOKED_AT * asked.max_history
    parts: list[dict[str, DataFrame]] = []
    for split, (cut, until) in _asked(cuts).items():
        sold = catalogue(read["lines"], items, read["items"], cut, asked.recent_days)
        held = ground.keep(f"histories {split}", partial(histories, known, users, cut, kept, cap))
        met = known.where(features.known_before(cut)).select("item").distinct()
        wanted = queries(held, known, met, cut, until, asked.max_history, cap)
        parts.append(_of_split(split, catalogue=sold, histories=held, queries=wanted))
    return _together(parts) | {"examples": features.examples(known, cuts, asked.max_history, cap)}


def _asked(cuts: Cuts) -> dict[str, tuple[datetime, datetime | None]]:
    """Of each split, the cut that its queries are as of, and where the time that they ask for ends."""
    return {features.VALIDATION: (cuts.validation, cuts.test), features.TEST: (cuts.test, None)}


def _of_split(split: str, *, catalogue: DataFrame, **tables: DataFrame) -> dict[str, DataFrame]:
    """Side tables with their split; items without an index lie apart, for a later build alone."""
    apart = F.when(F.col("item").isNull(), F.lit(split + UNLISTED)).otherwise(F.lit(split))
    rest = {name: rows.withColumn("split", F.lit(split)) for name, rows in tables.items()}
    return {"catalogue": catalogue.withColumn("split", apart)} | rest


def _together(parts: Sequence[Mapping[str, DataFrame]]) -> dict[str, DataFrame]:
    return {name: parts[0][name].unionByName(parts[1][name]) for name in parts[0]}


def go_on(ground: Ground, cuts: Cuts, before: Before) -> dict[str, DataFrame]:
    """The side tables as `examples` makes them, and the examples that were not known before the last test cut: of that
    build's histories and catalogue, and of lines that were known since its cuts."""
    read, asked = ground.read, ground.settings.examples
    users, items = read["vocabulary_users"], read["vocabulary_items"]
    cap = asked.max_lines
    first = min(before.cuts.validation, cuts.validation - timedelta(days=asked.recent_days))
    # Files without such a line are passed over.
    recent = ground.keep("recent", lambda: read["lines"].where(features.known_since(first)))
    known = ground.keep("known", lambda: features.indexed(recent, users, items))
    ends = {features.VALIDATION: before.cuts.validation, features.TEST: before.cuts.test}
    parts: list[dict[str, DataFrame]] = []
    for split, (cut, until) in _asked(cuts).items():
        in_between = features.known_since(ends[split]) & features.known_before(cut)
        held = before.read["histories"].where(F.col("split") == split).drop("split")
        come = known.where(in_between)
        theirs = ground.keep(f"theirs {split}", partial(of_users, held, come))
        new = ground.keep(f"new {split}", partial(not_held, come, theirs))
        near, far = new, None
        beyond = ground.keep(f"out of reach {split}", partial(out_of_reach, theirs, new, ends[split]))
        if not beyond.isEmpty():
            near = new.join(beyond, on="user", how="left_anti")
            far = ground.keep(f"all lines {split}", partial(_lines_of, ground, cuts.test, beyond))
        later = ground.keep(f"histories {split}", partial(_advanced, ground, held, near, far, cut))
        sold = ground.keep(
            f"catalogue {split}",
            partial(
                sold_later,
                before.read["catalogue"].where(F.col("split").isin(split, split + UNLISTED)),
                recent.where(in_between),
                first_lines(theirs, new),
                recent,
                items,
                read["items"],
                cut,
                asked.recent_days,
            ),
        )
        wanted = queries(later, known, sold.where("user_count > 0"), cut, until, asked.max_history, cap)
        parts.append(_of_split(split, catalogue=sold, histories=later, queries=wanted))
    ground.counts["training_users"] = parts[1]["histories"].count()
    ground.counts["training_items"] = parts[1]["catalogue"].where("user_count > 0").count()
    made = later_examples(theirs, near, cuts, before.cuts.test, asked.max_history, cap)
    if far is not None:
        made = made.unionByName(features.examples(far, cuts, asked.max_history, cap, before.cuts.test))
    return _together(parts) | {"examples": made}


def _advanced(ground: Ground, held: DataFrame, near: DataFrame, far: DataFrame | None, cut: datetime) -> DataFrame:
    """Histories as of a later cut: of new lines, and anew of the users all of whose lines are given."""
    asked, users = ground.settings.examples, ground.read["vocabulary_users"]
    kept = features.LOOKED_AT * asked.max_history
    if far is None:
        return advanced(held, near, users, kept, asked.max_lines)
    others = held.join(far.select("user").distinct(), on="user", how="left_anti")
    anew = histories(far, users, cut, kept, asked.max_lines)
    return advanced(others, near, users, kept, asked.max_lines).unionByName(anew)


def _lines_of(ground: Ground, cut: datetime, users: DataFrame) -> DataFrame:
    """All lines of some users that were known before a cut; of every file, since nothing says where they lie."""
    read = ground.read
    theirs = read["vocabulary_users"].join(users, F.col("index") == F.col("user"), "left_semi")
    return features.indexed(read["lines"].where(features.known_before(cut)), theirs, read["vocabulary_items"])


def _of_test(ground: Ground) -> DataFrame:
    """A row per user known before the cut."""
    return ground.keep("queries", lambda: ground.read["queries"].where("split = 'test'").drop("split"))


def slices(ground: Ground, cut: datetime) -> dict[str, Slice]:  # noqa: ARG001
    """`new` and `any`, of the users who have something to find. Every item known before the cut is ranked."""
    asked = _of_test(ground)
    truths = {"new": F.array_except("truth", "seen"), "any": F.array_distinct("truth")}
    return {
        name: Slice(PROTOCOLS[name], asked.withColumn("truth", truth).where(F.size("truth") > 0))
        for name, truth in truths.items()
    }


def _catalogue(ground: Ground) -> DataFrame:
    """A row per item known before the cut."""
    held = ground.read["catalogue"]
    return ground.keep("catalogue", lambda: held.where("split = 'test' AND count > 0").drop("split"))


def contenders(ground: Ground, cut: datetime) -> dict[str, Answer]:
    """The bundle, and the baselines that the settings name."""
    wanted, known, folder = ground.settings.evaluation, _catalogue(ground), ground.folder / ITEM_FILES
    k = max(wanted.ks)
    with step("evaluate: order what was sold"):
        allowed = save_items(known.select("item"), folder, "allowed")
        depth = k + longest(_of_test(ground))
        of_all_time, of_late = (popularity_order(known, by, depth) for by in ("customers", "recent_customers"))
    counts = ground.keep("counts", lambda: interactions(_indexed(ground).where(features.known_before(cut))))
    rankers: dict[str, Callable[..., DataFrame]] = {
        OURS: partial(recommend, bundle_path=str(ground.bundle), allowed=allowed, fallback=of_late),
        "popularity": partial(by_order, order=of_all_time),
        "recent_popularity": partial(by_order, order=of_late),
    }
    if "item_item" in wanted.baselines:
        with step("evaluate: count item-item neighbours"):
            near = save_neighbours(neighbours(counts), folder)
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
        rankers["als"] = als.recommend

    def answer(asked: DataFrame, protocol: str, *, ranker: Callable[..., DataFrame]) -> DataFrame:
        return ranker(asked, k=k, exclude_seen=protocol == "new")

    return {name: partial(answer, ranker=rankers[name]) for name in rankers if name in (OURS, *wanted.baselines)}


def judge(ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Means over users, and how much of the catalogue is shown."""
    ks = ground.settings.evaluation.ks
    values = judged(answers, asked, ks=ks, resamples=ground.settings.evaluation.bootstrap)
    spreads = spread(answers, _catalogue(ground), ks=ks)
    shown = [name for name in names if name in values]
    return {
        "users": values[OURS].users,
        "models": {name: values[name].intervals() | spreads[name] for name in shown},
        "differences": {name: values[OURS].minus(values[name]) for name in shown[1:]},
    }


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """How popular the recommended items are, and ten customers by product name."""
    asked, ranked = held["new"]
    top = ranked.where(F.col("rank") <= main_k(ground.settings.evaluation.ks))
    bought = asked.select(F.lit("bought").alias("source"), F.explode("truth").alias("item"))
    rows = bought.unionByName(top.select(F.concat(F.lit("model "), "model").alias("source"), "item"))
    deciles = popularity_deciles(rows, _catalogue(ground))
    customers = _ten_customers(ground, asked, top.where(F.col("model") == OURS))
    return {
        "drawn": {
            "title": "Ten customers",
            "columns": ["customer", "bought last", "recommended"],
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
    named = _catalogue(ground).where(F.col("item").isin(sorted(items))).select("item", F.coalesce("name", "item_id"))
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


def score(ground: Ground, moment: datetime) -> Scored:
    """The top K items of the whole catalogue for every user, or for those with a line since `scoring.since`.

    Every user of the shop gets rows: one that the bundle does not know is scored by the history alone, one without a
    known item in the history gets what sold most lately, marked `fallback`.
    """
    queries = ground.keep("queries", lambda: _queries(ground, moment))
    return Scored(_rows(ground, queries, moment), partial(_counts, ground, queries, moment))


def _touched(ground: Ground, moment: datetime) -> DataFrame | None:
    """The ids of the users with a line since `scoring.since`; None: everybody is asked."""
    since = ground.settings.scoring.since
    if since is None:
        return None
    lately = features.known_before(moment) & features.known_since(since) & F.col("user_id").isNotNull()
    return ground.keep("touched", lambda: ground.read["lines"].where(lately).select("user_id").distinct())


def _build_before(ground: Ground, moment: datetime) -> Before | None:
    """The build whose histories those of a moment go on from; None: they are made of all lines."""
    before, is_of_few = ground.before, ground.settings.scoring.since is not None
    return before if is_of_few and before is not None and before.cuts.test <= features.utc(moment) else None


def _lines_of_asked(ground: Ground, moment: datetime) -> DataFrame:
    """The lines of the users who are asked: all that histories are made of, beside those of the build before."""
    touched, before, lines = _touched(ground, moment), _build_before(ground, moment), ground.read["lines"]
    if touched is None:
        return lines
    if before is not None:
        lines = lines.where(features.known_since(before.cuts.test))  # files without such a line are passed over
    return ground.keep("lines of touched", lambda: lines.join(touched, on="user_id", how="left_semi"))


def _queries(ground: Ground, moment: datetime) -> DataFrame:
    """A row per user who is asked: user, user_id, history, history_age, history_weight, seen, in_vocabulary.

    A user who came after the vocabulary was built gets a number past its end, which every bundle takes as unknown: past
    the indices of erased users too.
    """
    read, touched = ground.read, _touched(ground, moment)
    held = read["vocabulary_users"]
    everybody = (read["users"] if touched is None else touched).select(F.col("user_id").alias("id"))
    joined_since = vocabularies.new_entries(everybody, held)
    numbered = (
        held.where("id IS NOT NULL")
        .select("index", "id", F.lit(True).alias("in_vocabulary"))
        .unionByName(joined_since.select("index", "id", F.lit(False).alias("in_vocabulary")))
    )
    if touched is not None:
        of_touched = numbered.join(everybody, on="id", how="left_semi").select(*numbered.columns)
        numbered = ground.keep("numbered", lambda: of_touched)
    known = features.indexed(_lines_of_asked(ground, moment), numbered, read["vocabulary_items"])
    before, length = _build_before(ground, moment), ground.settings.examples.max_history
    if before is None:
        held = histories(known, numbered, moment, features.LOOKED_AT * length, _cap(ground, known, moment))
    else:
        held = _continued(ground, before, known, numbered, moment)
    asked = queries(held, known, known.select("item").limit(0), moment, None, length)
    no_ids, nothing = F.array().cast("array<bigint>"), F.array().cast("array<float>")
    return (
        numbered.withColumnRenamed("index", "user")
        .join(asked.drop("user_id"), on="user", how="left")
        .select(
            "user",
            F.col("id").alias("user_id"),
            F.coalesce("history", no_ids).alias("history"),
            F.coalesce("history_age", nothing).alias("history_age"),
            F.coalesce("history_weight", nothing).alias("history_weight"),
            F.coalesce("seen", no_ids).alias("seen"),
            "in_vocabulary",
        )
    )


def _continued(ground: Ground, before: Before, known: DataFrame, numbered: DataFrame, moment: datetime) -> DataFrame:
    """What queries need of histories: those of the build before with the lines since its cut. All lines are read only
    for users of whom these do not say all."""
    cut, cap = before.cuts.test, ground.settings.examples.max_lines
    kept = features.LOOKED_AT * ground.settings.examples.max_history
    of_test = before.read["histories"].where(F.col("split") == features.TEST)
    users = numbered.select(F.col("index").alias("user"))
    held = ground.keep("histories", lambda: of_test.join(users, on="user", how="left_semi").drop("split"))
    new = ground.keep("new lines", lambda: known.where(features.known_before(moment)))
    beyond = ground.keep("beyond", partial(unsaid, held, new, cut, cap))
    held, new = (rows.join(beyond, on="user", how="left_anti") for rows in (held, new))
    found = continued(held, new, numbered, kept)
    if beyond.isEmpty():
        return found
    theirs = numbered.join(beyond, F.col("index") == F.col("user"), "left_semi")
    lines = ground.read["lines"].where(features.known_before(moment))
    every = ground.keep("all lines", lambda: features.indexed(lines, theirs, ground.read["vocabulary_items"]))
    anew = histories(every, numbered, moment, kept, _cap(ground, every, moment))
    return found.unionByName(anew.select(*found.columns))


def _sold(ground: Ground, moment: datetime) -> DataFrame:
    """Each item of the vocabulary that was sold before a moment: item, and recent_customers.

    What was sold before the cut of the build in force stands in its catalogue: only lines after that are looked at.
    """
    read, days = ground.read, ground.settings.examples.recent_days
    lines = read["lines"].where(features.known_before(moment))
    recent = F.col("time") >= F.lit(features.utc(moment)) - F.make_dt_interval(F.lit(days))
    customers = lines.where(recent).groupBy("item_id").agg(F.countDistinct("user_id").alias("recent_customers"))
    sold = lines.select("item_id")
    if ground.cut is not None and ground.cut <= features.utc(moment):
        later = lines.where(features.known_since(ground.cut)).select("item_id")
        sold = _catalogue(ground).select("item_id").unionByName(later)
    items = read["vocabulary_items"].select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    there = items.join(sold.distinct(), on="item_id", how="left_semi").join(customers, on="item_id", how="left")
    return there.select("item", F.coalesce("recent_customers", F.lit(0)).alias("recent_customers"))


def _rows(ground: Ground, queries: DataFrame, moment: datetime) -> DataFrame:
    """What is written, by names and by numbers."""
    scoring, items = ground.settings.scoring, ground.read["vocabulary_items"]
    sold = ground.keep("sold", lambda: _sold(ground, moment))
    order = None
    if scoring.cold_users == "recent_popularity":
        order = popularity_order(sold, "recent_customers", scoring.k + longest(queries))
    ranked = recommend(
        queries,
        str(ground.bundle),
        k=scoring.k,
        allowed=save_items(sold.select("item"), ground.folder / ITEM_FILES, "sold"),
        exclude_seen=scoring.exclude_seen,
        fallback=order,
    )
    item_ids = items.select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    named = ranked.join(queries.select("user", "user_id", "in_vocabulary"), on="user", how="inner")
    return named.join(item_ids, on="item", how="inner").select(
        "user_id",
        F.when(F.col("in_vocabulary"), F.col("user")).otherwise(F.lit(0)).alias("user"),
        "rank",
        "item_id",
        "item",
        "score",
        "fallback",
    )


def _counts(ground: Ground, queries: DataFrame, moment: datetime, written: DataFrame) -> dict[str, int]:
    """users, cold_users (no known item in the history), unknown_users (the bundle has no vector of their own),
    unknown_ids (purchases of items that the bundle does not know), rows, fallback_rows."""
    schema = bundle_schema(str(ground.bundle))
    users = schema["user"].size or 0
    unknown = F.expr(unknown_ids(schema))
    asked = queries.agg(
        F.count(F.lit(1)).alias("users"),
        F.count_if(F.size("history") == unknown).alias("cold_users"),
        F.count_if(F.col("user") >= users).alias("unknown_users"),
        F.coalesce(F.sum(unknown), F.lit(0)).alias("unknown_ids"),
    ).collect()[0]
    past = _lines_of_asked(ground, moment).where(features.known_before(moment) & F.col("user_id").isNotNull())
    known = ground.read["vocabulary_items"].select(F.col("id").alias("item_id"))
    unheard = past.join(known, on="item_id", how="left_anti")
    made = written.agg(F.count(F.lit(1)).alias("rows"), F.count_if("fallback").alias("fallback_rows")).collect()[0]
    counts = asked.asDict() | made.asDict()
    return counts | {"unknown_ids": counts["unknown_ids"] + unheard.count()}
