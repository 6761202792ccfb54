"""The knowledge graph of items: its triples as of a cut, what lies within two steps of items, and paths of lists."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.console import say, warn
from jobs.settings_graph import TRIPLES
from jobs.settings_lists import graph_of
from spark_udfs import graph, item_attributes
from spark_udfs.item_attributes import ID, IDS, TEXT, TYPES
from training.errors import SchemaError, SettingsError

if TYPE_CHECKING:
    from jobs.ground import Ground
    from jobs.settings import Settings
    from jobs.settings_graph import GraphSettings

NEIGHBOURS = "neighbours"
PATH = "path"
NAMED = 20  # relations that are named in a warning


def parts_of(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> list[DataFrame]:
    """Triples of the source, of attributes and of words as of a cut, as they come; none without a graph.

    Raises:
        SettingsError: nothing says which triples there are.
        SchemaError: table `items` lacks a column, or has it of a type that makes no triples.
    """
    asked = graph_of(settings)
    if asked is None:
        return []
    taken = _columns(read["items"], asked)
    if TRIPLES not in read and not taken:
        raise SettingsError(
            "examples.graph must say where triples come from; it names no attributes and no words, and sources.triples "
            "is not set: set one of them, or leave examples.graph out"
        )
    values = item_attributes.as_of_cut(read["items"], read.get("item_history"), dict.fromkeys(taken, ID), cut)
    of_items = [graph.of_attribute(values, name) for name in asked.attributes]
    of_items += [graph.of_words(values, relation, rule.attribute, rule.words) for relation, rule in asked.words.items()]
    return [*([read[TRIPLES]] if TRIPLES in read else []), *of_items]


def told(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> list[DataFrame]:
    """`item_id` of what stands in the triples of a cut, a part each; none without a graph."""
    return [
        part.select(F.col(end).alias("item_id")) for part in parts_of(read, settings, cut) for end in ("head", "tail")
    ]


def more_ids(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> dict[str, DataFrame]:
    """Pairs of path and entity, by vocabulary; none without a graph."""
    parts, asked = parts_of(read, settings, cut), graph_of(settings)
    if asked is None:
        return {}
    return {graph.GRAPH: graph.frequent(_near(read["items"], graph.cleaned(parts), asked))}


def tables_of(ground: Ground, cuts: Mapping[str, datetime]) -> dict[str, DataFrame]:
    """The tables `graph` (split, head, relation, tail) and NEIGHBOURS of all splits; none without a graph."""
    if graph_of(ground.settings) is None:
        return {}
    made = {split: _as_of(ground, cut) for split, cut in cuts.items()}
    return {
        name: reduce(
            DataFrame.unionByName, (rows[at].withColumn("split", F.lit(split)) for split, rows in made.items())
        )
        for at, name in enumerate((graph.GRAPH, NEIGHBOURS))
    }


def with_graph(ground: Ground, rows: DataFrame, cut: datetime) -> DataFrame:
    """A catalogue with the columns of a graph; as it is without one."""
    asked = graph_of(ground.settings)
    if asked is None:
        return rows
    _, near = _as_of(ground, cut)
    return graph.numbered(rows, near, ground.read[f"vocabulary_{graph.GRAPH}"], asked.places)


def count(ground: Ground, cut: datetime) -> None:
    """Count what the graph of a cut is, and tell which relations say nothing."""
    asked, items = graph_of(ground.settings), ground.read["items"].select("item_id")
    if asked is None:
        return
    triples, near = _as_of(ground, cut)
    rows = reduce(DataFrame.union, (part.select(*graph.TRIPLE) for part in parts_of(ground.read, ground.settings, cut)))
    held, loops = rows.agg(F.count(F.lit(1)), F.count_if(F.col("head") == F.col("tail"))).collect()[0]
    heads, tails = triples.select("head").distinct(), triples.select(F.col("tail").alias("head"))
    strangers = heads.join(tails, on="head", how="left_anti")
    strangers = strangers.join(items.withColumnRenamed("item_id", "head"), on="head", how="left_anti")
    kept = triples.count()
    counts = {
        "graph_triples": kept,
        "graph_duplicates": held - loops - kept,
        "graph_self_loops": loops,
        "graph_hubs": graph.hubs(triples, asked.most).count(),
        "graph_unknown_heads": strangers.count(),
        "graph_items": near.select("item_id").distinct().count(),
    }
    ground.counts.update(counts)
    useless = sorted(row["relation"] for row in graph.useless(triples).limit(NAMED).collect())
    if useless:
        warn(
            f"relations of the graph that have as many tails as triples, none of which stands in another triple, so "
            f"that nothing meets there: {', '.join(useless)}; leave them out"
        )
    if counts["graph_hubs"]:
        say(
            f"{counts['graph_hubs']:,} ends of relations have more than {asked.most:,} others (examples.graph."
            "most): no step goes there"
        )


def refuse_without(ground: Ground) -> None:
    """See that paths can be given, before lists are made.

    Raises:
        SettingsError: the build has no graph.
    """
    if NEIGHBOURS not in ground.read:
        raise SettingsError(
            "scoring.paths needs a build with a graph of items, and the build in force has none: set examples.graph, "
            "or sources.triples, and run `millrace build-examples` and `millrace train`; or leave scoring.paths out"
        )


def with_paths(ground: Ground, rows: DataFrame, queries: DataFrame) -> DataFrame:
    """Rows of lists with PATH: the triples that join the item to one of the newest that the customer had; null where
    two steps from each meet nowhere.

    Args:
        ground: of the job.
        rows: user, item_id, and others.
        queries: user, history (array of the items' numbers, the oldest first).
    """
    near = ground.read[NEIGHBOURS].where("split = 'test'")
    newest = F.slice(F.array_distinct(F.reverse("history")), 1, graph.LATELY)
    ids = ground.read["vocabulary_items"].select(F.col("index").alias("item"), F.col("id").alias("item_id"))
    had = queries.select(F.col("user").alias("_of"), F.explode(newest).alias("item"))
    had = had.join(ids, on="item", how="inner").select(F.col("_of").alias("user"), "item_id")
    found = graph.joining(rows.select("user", "item_id"), had, near)
    return rows.join(found, on=["user", "item_id"], how="left")


def _as_of(ground: Ground, cut: datetime) -> tuple[DataFrame, DataFrame]:
    """Triples and neighbours; the same ones of all cuts where no attribute has a history."""
    asked, read = graph_of(ground.settings), ground.read
    assert asked is not None
    at = f"as of {cut}" if "item_history" in read else "of all times"
    triples = ground.keep(f"triples {at}", lambda: graph.cleaned(parts_of(read, ground.settings, cut)))
    return triples, ground.keep(f"{NEIGHBOURS} {at}", lambda: _near(read["items"], triples, asked))


def _near(items: DataFrame, triples: DataFrame, asked: GraphSettings) -> DataFrame:
    return graph.neighbours(triples, items.select("item_id"), graph.hubs(triples, asked.most), asked.places)


def _columns(items: DataFrame, asked: GraphSettings) -> list[str]:
    """The columns of `items` that make triples."""
    wanted = dict.fromkeys(asked.attributes, TYPES[ID] | TYPES[IDS])
    wanted |= dict.fromkeys((rule.attribute for rule in asked.words.values()), TYPES[TEXT])
    held = {field.name: field.dataType.simpleString() for field in items.schema.fields}
    wrong = [
        f"'{name}' is {held.get(name, 'missing')}" for name, kinds in wanted.items() if held.get(name) not in kinds
    ]
    if wrong:
        raise SchemaError(
            "examples.graph takes as attributes columns of table 'items' that are texts, whole numbers, flags or lists "
            f"of such, and words of texts; {', '.join(wrong)}, and it has {', '.join(sorted(held))}. Bring them in by "
            "ingest.items (types) and run `millrace ingest`, or leave them out"
        )
    return sorted(wanted)
