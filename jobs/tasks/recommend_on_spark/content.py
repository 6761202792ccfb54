"""By what items are known that were never sold: attributes as of a cut (`examples.item_attributes`), and a graph."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.console import say
from jobs.settings_lists import examples_of, graph_of
from jobs.tasks.recommend_attributes import vector_widths
from jobs.tasks.recommend_items import LISTED
from jobs.tasks.recommend_on_spark import knowledge
from spark_udfs import given_vectors, item_attributes
from spark_udfs.item_attributes import GIVEN, ID, IDS, PREFIX, TYPES, VECTOR
from training.errors import SchemaError, TooManyBadRows

if TYPE_CHECKING:
    from jobs.ground import Ground
    from jobs.settings import Settings


def values_of(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> DataFrame:
    """item_id and the attributes as of a cut.

    Raises:
        SchemaError: table `items` lacks one, or has it of a type that cannot be taken so.
    """
    asked, items = _asked(settings), read["items"]
    held = {field.name: field.dataType.simpleString() for field in items.schema.fields}
    missing = [name for name in asked if name not in held]
    if missing:
        raise SchemaError(
            f"examples.item_attributes must name columns of table 'items'; it has no {', '.join(missing)}, but "
            f"{', '.join(sorted(held))}. Bring them in by ingest.items and run `millrace ingest`, or leave them out"
        )
    other = [f"'{name}' is {held[name]}" for name, taken in asked.items() if held[name] not in TYPES[taken]]
    if other:
        takes = "; ".join(f"{taken}: {', '.join(sorted(types))}" for taken, types in TYPES.items())
        raise SchemaError(
            f"examples.item_attributes takes columns of table 'items' of these types: {takes}; {', '.join(other)}. "
            "Take them as another one of these, or say their type in ingest.items (types)"
        )
    return item_attributes.as_of_cut(items, read.get("item_history"), asked, cut)


def listed(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> DataFrame | None:
    """`item_id` of the items that sources of attributes listed at a cut; None where neither attributes nor a graph are
    asked for, or there is no such source."""
    if not _is_asked(settings) or "item_attributes" not in read:
        return None
    told = knowledge.told(read, settings, cut)
    if examples_of(settings).item_attributes:
        told.append(item_attributes.told(values_of(read, settings, cut)))
    every = reduce(DataFrame.union, told).distinct()
    return item_attributes.listed(every, read["item_attributes"], read.get("item_history"), cut)


def more_ids(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> dict[str, DataFrame]:
    """Ids of listed items, of the values of attributes, and of a graph, by vocabulary.

    Raises:
        SchemaError: as of `values_of`; a column's vectors are not all of the length that is asked for, or it has none.
        TooManyBadRows: too many vectors have numbers that are none.
    """
    asked, there = _asked(settings), listed(read, settings, cut)
    found = {} if there is None else {"items": there.select(F.col("item_id").alias("id"))}
    found |= knowledge.more_ids(read, settings, cut)
    if not asked:
        return found
    values = values_of(read, settings, cut)
    _look_into(values, settings)
    of_ids = {name: taken for name, taken in asked.items() if taken in (ID, IDS)}
    return found | {PREFIX + name: item_attributes.frequent(values, name, taken) for name, taken in of_ids.items()}


def with_attributes(ground: Ground, rows: DataFrame, cut: datetime) -> DataFrame:
    """A catalogue with LISTED and a column of each attribute, and of a graph, as of its cut; as it is where neither is
    asked for."""
    asked, read = _asked(ground.settings), ground.read
    if not _is_asked(ground.settings):
        return rows
    there = listed(read, ground.settings, cut)
    marked = rows.withColumn("_is_told", F.lit(None).cast("boolean"))
    if there is not None:
        marked = rows.join(there.withColumn("_is_told", F.lit(True)), on="item_id", how="left")
    is_listed = (F.col("count") > 0) | F.coalesce("_is_told", F.lit(False))
    known = marked.withColumn(LISTED, is_listed).drop("_is_told")
    if not asked:
        return ground.keep(f"attributes as of {cut}", lambda: knowledge.with_graph(ground, known, cut))
    held = {name: read[f"vocabulary_{PREFIX}{name}"] for name, taken in asked.items() if taken in (ID, IDS)}
    vectors = {name: _vectors(ground, name) for name, taken in asked.items() if taken == VECTOR}
    values = values_of(read, ground.settings, cut)
    widths = vector_widths(ground.settings)
    counted = known.withColumn("is_known", F.col(LISTED))
    made = item_attributes.numbered(counted, values, asked, held, vectors, widths).drop("is_known")
    return ground.keep(f"attributes as of {cut}", lambda: knowledge.with_graph(ground, made, cut))


def _is_asked(settings: Settings) -> bool:
    """Whether items are known by more than who bought them."""
    return bool(examples_of(settings).item_attributes) or graph_of(settings) is not None


def _asked(settings: Settings) -> dict[str, str]:
    """How each attribute is taken; vectors that columns hold as GIVEN, however long."""
    examples = examples_of(settings)
    return examples.item_attributes | dict.fromkeys(examples.given_vectors, GIVEN)


def _look_into(values: DataFrame, settings: Settings) -> None:
    """Of vectors that columns hold: what cannot be right is refused, and what is left out is said."""
    widths, limit = examples_of(settings).given_vectors, settings.tables.quarantine_limit
    for name, told in (given_vectors.look_into(values, widths) if widths else {}).items():
        place, width = f"examples.item_attributes.{name}", widths[name]
        if not told.items:
            raise SchemaError(
                f"{place} takes vectors from column '{name}' of table 'items', and as of the test cut no item has one; "
                "see that ingest.items brings them (types: numbers, where they are texts), or leave it out"
            )
        if told.others:
            raise SchemaError(
                f"{place} is vector({width}), and {told.others:,} of {told.items:,} vectors have another length, from "
                f"{told.least} to {told.greatest}; name the length that they have, and bring vectors of one model alone"
            )
        if told.unfit > limit * told.items:
            raise TooManyBadRows(
                f"{told.unfit:,} of {told.items:,} vectors of {place} have a number that is null, NaN or infinite, "
                f"over tables.quarantine_limit {limit:g}; correct column '{name}' of table 'items', or raise the limit"
            )
        if told.unfit:
            say(f"{told.unfit:,} vectors of {place} have a number that is null, NaN or infinite: taken as missing")


def _vectors(ground: Ground, name: str) -> DataFrame:
    """Of an attribute's texts of all times, computed once for both cuts."""
    read, weights = ground.read, examples_of(ground.settings).text_weights
    tables = [read[table] for table in ("items", "item_history") if table in read]
    texts = ground.keep(f"texts of {name}", lambda: item_attributes.texts_of(tables, name))
    return ground.keep(f"vectors of {name}", lambda: item_attributes.vectors_of(texts, weights))
