"""A knowledge graph of items: triples, and what lies within two steps of each item.

triples (head, relation, tail) --cleaned--> each once --neighbours--> of an item: path, entity, the triples on the way
neighbours --numbered--> ids of (path, entity) pairs and of paths; --joining--> the triples from one item to another

A step goes along a relation (`>brand`) or against it (`<brand`). Ids are texts: an item's is the shop's, any other is
an entity's, and equal texts are one thing. An entity with more than so many others at one end of a relation is a hub
there: no step goes that way, since what a million items share says little of any of them. So no list is longer than
that, and no task holds a hub's triples.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from spark_udfs.item_attributes import FEWEST, padded, words_of

TRIPLE = ("head", "relation", "tail")
GRAPH, GRAPH_PATH = "graph", "graph_path"  # an item's columns: (path, entity) pairs, and the path of each
OF_PATH = 8  # neighbours that an item keeps by one path
PATHS = 4_096  # numbers that paths are hashed to: each has a weight
LATELY = 20  # items of a history, the newest, to which paths are looked for


def of_attribute(values: DataFrame, name: str) -> DataFrame:
    """Triples of items and an attribute's values, its name the relation.

    Args:
        values: item_id, and by the name a text, whole number, flag, or a list of such.
        name: of the attribute.
    """
    return _triples(values, name, F.col(name))


def of_words(values: DataFrame, relation: str, name: str, words: Sequence[str]) -> DataFrame:
    """Triples of items and those of these words that an attribute's text has, upper and lower case as one."""
    listed = F.array(*(F.lit(word.lower()) for word in words))
    return _triples(values, relation, F.array_intersect(words_of(F.col(name)), listed))


def _triples(values: DataFrame, relation: str, tails: Column) -> DataFrame:
    held = values.select(F.col("item_id").alias("head"), tails.alias("tails"))
    is_list = held.schema["tails"].dataType.simpleString().startswith("array")
    each = (
        F.explode(F.array_distinct(F.col("tails").cast("array<string>"))) if is_list else F.col("tails").cast("string")
    )
    rows = held.select("head", F.lit(relation).alias("relation"), each.alias("tail"))
    return rows.where(F.trim("tail") != "")


def cleaned(parts: Sequence[DataFrame]) -> DataFrame:
    """TRIPLE, each once, none of a thing with itself."""
    return reduce(DataFrame.union, (part.select(*TRIPLE) for part in parts)).where("head != tail").distinct()


def useless(triples: DataFrame) -> DataFrame:
    """`relation` of those whose tails stand in no other triple: nothing meets there."""
    tails = triples.join(_degrees(triples), on=F.col("tail") == F.col("entity"), how="inner")
    of_relation = tails.groupBy("relation").agg(F.max("degree").alias("most"), F.count(F.lit(1)).alias("triples"))
    return of_relation.where("most = 1 AND triples > 1").select("relation")


def hubs(triples: DataFrame, most: int) -> DataFrame:
    """`from` and `step`: where more than so many others stand at the end of one relation."""
    return _steps(triples).groupBy("from", "step").count().where(F.col("count") > most).select("from", "step")


def neighbours(triples: DataFrame, items: DataFrame, hubs: DataFrame, places: int) -> DataFrame:
    """What lies within two steps of items, at most OF_PATH by one path and `places` in all.

    Of one path the rarest come first; places are dealt out path by path. What stands in one triple alone leads to
    nothing else, and is left out.

    Args:
        triples: from `cleaned`.
        items: item_id, each once.
        hubs: from `hubs`.
        places: at most.

    Returns:
        item_id, path (array of steps), entity, degree (triples in which it stands), triples (array of TRIPLE, from the
        item on), place (from 1).
    """
    walked = _steps(triples).join(hubs, on=["from", "step"], how="left_anti")
    first = items.join(walked, on=F.col("item_id") == F.col("from"), how="inner").select(
        "item_id", F.array("step").alias("path"), F.col("to").alias("entity"), F.array("triple").alias("triples")
    )
    further = first.join(walked, on=F.col("entity") == F.col("from"), how="inner").where("to != item_id")
    path, on_the_way = F.array_append("path", F.col("step")), F.array_append("triples", F.col("triple"))
    second = further.groupBy("item_id", path.alias("path"), F.col("to").alias("entity"))
    both = first.unionByName(second.agg(F.min(on_the_way).alias("triples")))
    known = both.join(_degrees(triples), on="entity", how="inner").where("degree > 1")
    rarest = Window.partitionBy("item_id", "path").orderBy("degree", F.xxhash64("entity"), "entity")
    of_path = known.withColumn("nth", F.row_number().over(rarest)).where(F.col("nth") <= OF_PATH)
    order = Window.partitionBy("item_id").orderBy("nth", F.size("path"), "path")
    placed = of_path.withColumn("place", F.row_number().over(order)).where(F.col("place") <= places)
    return placed.select("item_id", "path", "entity", "degree", "triples", "place")


def frequent(neighbours: DataFrame) -> DataFrame:
    """`id` of the pairs that FEWEST items have at least: what one item has, its own vector says."""
    counts = neighbours.groupBy(_pair().alias("id")).agg(F.count(F.lit(1)).alias("items"))
    return counts.where(F.col("items") >= FEWEST).select("id")


def numbered(rows: DataFrame, neighbours: DataFrame, vocabulary: DataFrame, places: int) -> DataFrame:
    """Rows with GRAPH and GRAPH_PATH, lists of `places` ids (int); 0 where there are fewer.

    Args:
        rows: item_id.
        neighbours: from `neighbours`.
        vocabulary: `index` and `id` of pairs.
        places: of a list.
    """
    path = (F.pmod(F.xxhash64("path"), F.lit(PATHS)) + 1).cast("int").alias("by")
    pairs = neighbours.select("item_id", "place", _pair().alias("id"), path)
    known = pairs.join(vocabulary.where("id IS NOT NULL"), on="id", how="inner")
    held = F.sort_array(F.collect_list(F.struct("place", F.col("index").cast("int").alias("pair"), "by")))
    lists = known.groupBy("item_id").agg(held.alias("_held"))
    found = rows.join(lists, on="item_id", how="left")
    named = {GRAPH: "pair", GRAPH_PATH: "by"}
    return found.select(
        *rows.columns, *(padded(F.col(f"_held.{part}"), places).alias(name) for name, part in named.items())
    )


def joining(asked: DataFrame, had: DataFrame, neighbours: DataFrame) -> DataFrame:
    """Of users' items the triples that join each to one of those that they had: the fewest, by the rarest entity.

    Args:
        asked: user, item_id.
        had: user, item_id.
        neighbours: from `neighbours`.

    Returns:
        user, item_id, path (array of TRIPLE, from the item asked on), of those that are joined.
    """
    far = neighbours.select("item_id", "entity", "degree", "triples")
    own = far.select("item_id").distinct().union(had.select("item_id").distinct()).distinct()
    nothing = F.array().cast("array<struct<head:string,relation:string,tail:string>>")
    itself = own.select("item_id", F.col("item_id").alias("entity"), F.lit(0).cast("bigint").alias("degree"),
                        nothing.alias("triples"))  # fmt: skip
    reach = far.unionByName(itself)
    theirs = had.join(reach, on="item_id", how="inner").groupBy("user", "entity")
    nearest = theirs.agg(F.min(F.struct(F.size("triples").alias("steps"), F.col("triples"))).alias("back"))
    met = asked.join(reach, on="item_id", how="inner").join(nearest, on=["user", "entity"], how="inner")
    steps = (F.size("triples") + F.col("back.steps")).alias("steps")
    whole = F.concat("triples", F.reverse("back.triples")).alias("path")
    best = F.min(F.struct(steps, F.col("degree"), F.col("entity"), whole))
    met = met.where(F.size("triples") + F.col("back.steps") > 0)
    return met.groupBy("user", "item_id").agg(best.alias("best")).select("user", "item_id", F.col("best.path"))


def _steps(triples: DataFrame) -> DataFrame:
    """Both ways of each triple: from, step, to, triple."""
    triple = F.struct(*TRIPLE).alias("triple")

    def way(mark: str, start: str, end: str) -> DataFrame:
        step = F.concat(F.lit(mark), "relation").alias("step")
        return triples.select(F.col(start).alias("from"), step, F.col(end).alias("to"), triple)

    return way(">", "head", "tail").union(way("<", "tail", "head"))


def _degrees(triples: DataFrame) -> DataFrame:
    """entity, degree: in how many triples it stands."""
    ends = triples.select(F.col("head").alias("entity")).union(triples.select("tail"))
    return ends.groupBy("entity").agg(F.count(F.lit(1)).alias("degree"))


def _pair() -> Column:
    """A path and an entity as one text, JSON, so that no name is taken for part of another."""
    return F.to_json(F.array_append("path", F.col("entity")))
