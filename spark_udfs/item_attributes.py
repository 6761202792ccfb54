"""Attributes of items as numbers, as of a cut: what a model takes in of an item that was never sold.

items, item_history --as_of_cut--> values --listed--> the items that a shop listed then
values, vocabularies --numbered--> a column an attribute: ids of its values, of hashed words, a standardised number, a
text's vector, or the vector that the table has (a picture's, a sound's)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import reduce
from operator import or_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from spark_udfs.attributes import TIME, as_of
from spark_udfs.features import utc
from spark_udfs.given_vectors import fit
from spark_udfs.text_vectors import text_vectors

ID, IDS, NUMBER, TEXT, VECTOR = "id", "ids", "number", "text", "vector"  # how an attribute is taken
GIVEN = "vector(N)"  # a vector as the column holds it
TYPES = {
    ID: {"string", "boolean", "tinyint", "smallint", "int", "bigint"},
    IDS: {"array<string>", "array<int>", "array<bigint>"},
    NUMBER: {"tinyint", "smallint", "int", "bigint", "float", "double"},
    TEXT: {"string"},
    VECTOR: {"string"},
    GIVEN: {"array<float>", "array<double>", "array<int>", "array<bigint>"},
}
PREFIX = "attribute_"  # of columns and vocabularies: an attribute may have any name
RAW = "_raw_"  # of an attribute's own values beside other columns
PLACES = {IDS: 16, TEXT: 32}  # of a list; what stands beyond them is left out
BUCKETS = 65_536  # of words
FEWEST = 2  # items that must have a value for it to get an index: what one item has, its own vector says
FARTHEST = 10.0  # standard deviations from the mean
TEXTS_A_TASK = 2_000  # whose vectors one task computes: some ten seconds for names, a minute for reviews


def as_of_cut(items: DataFrame, history: DataFrame | None, names: Mapping[str, str], cut: datetime) -> DataFrame:
    """item_id and attributes, as they held at a cut where their source has a history; else as they are now.

    Args:
        items: a row an id.
        history: item_id, TIME from which on a row's attributes hold, and these.
        names: how each attribute is taken.
        cut: as of when.
    """
    timed = [] if history is None else [name for name in names if name in history.columns]
    now = items.select("item_id", *(name for name in names if name not in timed))
    if history is None or not timed:
        return now
    asked = items.select("item_id", F.lit(utc(cut)).alias(TIME))
    return now.join(as_of(asked, history, "item_id", timed).drop(TIME), on="item_id", how="inner")


def told(values: DataFrame) -> DataFrame:
    """`item_id` of items with one attribute or more.

    Args:
        values: from `as_of_cut`.
    """
    is_told = reduce(or_, (F.col(name).isNotNull() for name in values.columns if name != "item_id"))
    return values.where(is_told).select("item_id")


def listed(told: DataFrame, of_sources: DataFrame, history: DataFrame | None, cut: datetime) -> DataFrame:
    """`item_id`: the items of which a source said something by a cut.

    An item whose history begins later was not there yet; one that has none counts as always listed.

    Args:
        told: item_id, of those of which something is known.
        of_sources: item_id, of those that sources of attributes have.
        history: item_id, TIME; None: no source has one.
        cut: as of when.
    """
    there = told.join(of_sources, on="item_id", how="left_semi")
    if history is None:
        return there
    first = history.groupBy("item_id").agg(F.min(TIME).alias("first"))
    return there.join(first.where(F.col("first") > F.lit(utc(cut))), on="item_id", how="left_anti")


def frequent(values: DataFrame, name: str, taken: str) -> DataFrame:
    """`id`: the values of an attribute that FEWEST items have at least."""
    each = values.select((F.explode(F.array_distinct(name)) if taken == IDS else F.col(name)).alias("value"))
    counts = each.groupBy(F.col("value").cast("string").alias("id")).agg(F.count("value").alias("items"))
    return counts.where(F.col("items") >= FEWEST).select("id")


def texts_of(tables: Sequence[DataFrame], name: str) -> DataFrame:
    """`text`: all that some tables say in an attribute, each once."""
    said = (rows.select(F.col(name).alias("text")) for rows in tables if name in rows.columns)
    return reduce(DataFrame.union, said).where("text IS NOT NULL").distinct()


def vectors_of(texts: DataFrame, weights: str | None) -> DataFrame:
    """`text` and its `vector` (array<float>), TEXTS_A_TASK to a task.

    Args:
        texts: `text`, each once.
        weights: as of `spark_udfs.text_vectors.text_vectors`.
    """
    tasks = max(1, -(-texts.count() // TEXTS_A_TASK))
    # In one order, as a text's neighbours may decide how its vector is rounded.
    dealt = texts.repartition(tasks, "text").sortWithinPartitions("text")
    return text_vectors(dealt, "text", "vector", weights)


def numbered(
    rows: DataFrame,
    values: DataFrame,
    names: Mapping[str, str],
    vocabularies: Mapping[str, DataFrame],
    vectors: Mapping[str, DataFrame],
    widths: Mapping[str, int],
) -> DataFrame:
    """Rows with a column of each attribute: an id (int, 0 unknown), a list of PLACES of ids, a number (float), or a
    vector (array<float>; zeros where there is none).

    Args:
        rows: `item_id`, each once, and `is_known`, whether its numbers count for what is usual.
        values: from `as_of_cut`.
        names: how each attribute is taken.
        vocabularies: `index` and `id` of the values, by attribute; of those taken as ids.
        vectors: from `vectors_of`, by attribute; of those whose texts are taken as vectors.
        widths: of vectors, by attribute.
    """
    found = rows.join(values.select("item_id", *(F.col(name).alias(RAW + name) for name in names)), "item_id", "left")
    for name, held in vocabularies.items():
        of_value = held.where("id IS NOT NULL").select("index", "id")
        found = (_of_lists if names[name] == IDS else _of_values)(found, of_value, name)
    for name, taken in names.items():
        if taken == TEXT:
            found = found.withColumn(PREFIX + name, padded(_buckets(F.col(RAW + name)), PLACES[TEXT]))
        elif taken == GIVEN:
            found = found.withColumn(PREFIX + name, _or_zeros(fit(F.col(RAW + name), widths[name]), widths[name]))
    for name, held in vectors.items():
        found = _of_texts(found, held, name, widths[name])
    numbers = [name for name, taken in names.items() if taken == NUMBER]
    if numbers:
        found = _standardised(found, numbers)
    return found.drop(*(RAW + name for name in names))


def _of_values(rows: DataFrame, vocabulary: DataFrame, name: str) -> DataFrame:
    index = vocabulary.select(F.col("index").cast("int").alias("_index"), F.col("id").alias("_id"))
    found = rows.join(index, on=F.col(RAW + name).cast("string") == F.col("_id"), how="left").drop("_id")
    return found.withColumn(PREFIX + name, F.coalesce("_index", F.lit(0))).drop("_index")


def _of_lists(rows: DataFrame, vocabulary: DataFrame, name: str) -> DataFrame:
    each = rows.select("item_id", F.explode(F.array_distinct(RAW + name)).alias("value"))
    known = each.join(vocabulary, on=F.col("value").cast("string") == F.col("id"), how="inner").groupBy("item_id")
    lists = known.agg(F.sort_array(F.collect_list(F.col("index").cast("int"))).alias("_indices"))
    found = rows.join(lists, on="item_id", how="left")
    return found.withColumn(PREFIX + name, padded(F.col("_indices"), PLACES[IDS])).drop("_indices")


def _of_texts(rows: DataFrame, vectors: DataFrame, name: str, width: int) -> DataFrame:
    of_text = vectors.select(F.col("text").alias("_text"), F.col("vector").alias("_vector"))
    of_text = of_text.hint("merge")  # Spark counts an array as one number: it would broadcast these, a gigabyte or so
    found = rows.join(of_text, on=F.col(RAW + name) == F.col("_text"), how="left").drop("_text")
    return found.withColumn(PREFIX + name, _or_zeros(F.col("_vector"), width)).drop("_vector")


def _or_zeros(vector: Column, width: int) -> Column:
    return F.coalesce(vector, F.array_repeat(F.lit(0.0).cast("float"), width))


def words_of(text: Column) -> Column:
    """A text's distinct words, in lower case."""
    return F.array_distinct(F.filter(F.split(F.lower(text), r"[^\p{L}\p{N}]+"), lambda word: word != ""))


def _buckets(text: Column) -> Column:
    """The buckets, from 1, of a text's words."""
    return F.transform(words_of(text), lambda word: (F.pmod(F.xxhash64(word), F.lit(BUCKETS)) + 1).cast("int"))


def padded(numbers: Column, places: int) -> Column:
    """A list of so many numbers; zeros where there are fewer."""
    held = F.coalesce(numbers, F.array().cast("array<int>"))
    return F.slice(F.concat(held, F.array_repeat(F.lit(0), places)), 1, places)


def _standardised(rows: DataFrame, names: list[str]) -> DataFrame:
    """Numbers in standard deviations from the mean of what is known; 0, the mean, where there is none."""
    largest = 1e150  # beyond which a square is infinite; NaN is greater than any number
    values = {name: F.col(RAW + name).cast("double") for name in names}
    finite = {name: F.when(F.abs(value) < largest, value) for name, value in values.items()}
    usual = rows.where("is_known").agg(
        *(F.avg(value).alias(f"_mean_{name}") for name, value in finite.items()),
        *(F.stddev_pop(value).alias(f"_deviation_{name}") for name, value in finite.items()),
    )
    found = rows.crossJoin(F.broadcast(usual))
    for name, value in finite.items():
        deviation = F.col(f"_deviation_{name}")
        far = F.when(deviation > 0, (value - F.col(f"_mean_{name}")) / deviation)
        within = F.greatest(F.least(F.coalesce(far, F.lit(0.0)), F.lit(FARTHEST)), F.lit(-FARTHEST))
        found = found.withColumn(PREFIX + name, within.cast("float"))
    return found.drop(*usual.columns)
