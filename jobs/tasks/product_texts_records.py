"""Products as records: their fields, their tokens, and the tokenizer that both learning and writing go by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.tasks.decoder_start import TOKENS
from jobs.tasks.product_texts_options import ProductTextsOptions, options_of
from spark_udfs import features
from spark_udfs.record_tokens import AHEAD, record_tokens
from training.errors import BundleError, DataError
from training.state.text_pieces import made_of
from training.state.text_tokens import CHARACTERS
from training.state.text_weights import TOKENIZER

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

    from jobs.ground import Ground
    from spark_udfs.features import Cuts

ACCEPT, EDIT, REJECT = "accept", "edit", "reject"


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Products with an id and a time. One that does not say when it arrived was there at once."""
    dated = _arrived(read["products"].where("time IS NOT NULL AND item_id IS NOT NULL"))
    return dated.withColumn("description", F.nullif(_trimmed("description"), F.lit("")))


def _trimmed(column: str) -> Column:
    """Without blanks of any kind, line breaks among them, at both ends."""
    return F.regexp_replace(column, r"(?U)^\s+|\s+$", "")


def _arrived(rows: DataFrame) -> DataFrame:
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in rows.columns else F.col("time")
    return rows.withColumn("arrival_time", arrival)


def fields_of(options: ProductTextsOptions) -> list[str]:
    """The columns that make a record, in their order."""
    return ["name", *options.attributes, *(name for name in ("reviews",) if name in options.has)]


def taught(ground: Ground, cuts: Cuts) -> DataFrame:
    """Products known before the test cut that a text is known of: the one that people accepted or edited last, where
    they did so before the cut, or else their description. Both times are then those as of which all is known."""
    known = ground.read["lines"].where(features.known_before(cuts.test))
    said = _accepted(ground, cuts.test)
    both = known if said is None else known.join(said, on="item_id", how="left")
    if said is not None:
        both = both.withColumns(
            {
                "description": F.coalesce("said_text", "description"),
                "time": F.greatest("time", "said_time"),
                "arrival_time": F.greatest("arrival_time", "said_arrival"),
            }
        ).drop("said_text", "said_time", "said_arrival")
    return both.where(F.col("description").isNotNull())


def _accepted(ground: Ground, cut: datetime) -> DataFrame | None:
    """item_id, and of its last accepted or edited text that was known before a cut said_text, said_time, said_arrival;
    None where nobody said anything."""
    if "verdicts" not in ground.read:
        return None
    verdicts = _arrived(ground.read["verdicts"].where("time IS NOT NULL")).where(features.known_before(cut))
    held = {row["verdict"]: row["count"] for row in verdicts.groupBy("verdict").count().collect()}
    if odd := sorted({*held} - {ACCEPT, EDIT, REJECT}):
        raise DataError(
            f"verdict must be {ACCEPT}, {EDIT} or {REJECT} in table 'verdicts'; it is also {', '.join(odd[:3])}: "
            "correct the rows, or name the words by a view, and run `millrace ingest` again"
        )
    ground.counts.update({f"verdicts_{name}": held.get(name, 0) for name in (ACCEPT, EDIT, REJECT)})
    kept = verdicts.where(F.col("verdict").isin(ACCEPT, EDIT) & (F.length(_trimmed("text")) > 0))
    newest = Window.partitionBy("item_id").orderBy(F.desc("time"), F.desc("arrival_time"), "text")
    first = kept.withColumn("place", F.row_number().over(newest)).where("place = 1")
    return first.select(
        "item_id",
        _trimmed("text").alias("said_text"),
        F.col("time").alias("said_time"),
        F.col("arrival_time").alias("said_arrival"),
    )


def _said(options: ProductTextsOptions) -> Column:
    """A record written out, a field a line, without those that are null; a field's own line breaks, and other signs
    that steer, are blanks, so that none can be taken for another field."""
    in_line = {name: F.regexp_replace(name, r"(?U)[\s\p{Cntrl}\u2028\u2029]+", " ") for name in fields_of(options)}
    told = [F.concat(F.lit(f"{name}: "), value) for name, value in in_line.items()]
    return F.concat_ws("\n", *told)


def numbered(ground: Ground, products: DataFrame, tokenizer: bytes) -> DataFrame:
    """item_id, time, arrival_time, description, source (the fields of the record that are not null, by name), record
    and text (tokens)."""
    options = options_of(ground.settings)
    named = [part for name in fields_of(options) for part in (F.lit(name), F.col(name))]
    source = F.map_filter(F.create_map(*named), lambda _, value: value.isNotNull())
    told = products.select(
        "item_id", "time", "arrival_time", "description", source.alias("source"), _said(options).alias("said")
    )
    size, end = _size_and_end(options)
    return record_tokens(
        told,
        tokenizer,
        size=size,
        end=end,
        most_of_record=options.record_tokens,
        most_of_text=options.text_tokens,
    ).drop("said")


def _size_and_end(options: ProductTextsOptions) -> tuple[int, int]:
    if options.weights is None:
        return options.vocabulary, 0
    from training.state.decoder_weights import decoder_shape

    shape = decoder_shape(options.weights)
    return shape.vocab_size, shape.eos_token_id


def new_tokenizer(ground: Ground, learnt: DataFrame) -> bytes:
    """The weights' tokenizer, or one that is made of the records and texts of some products, by hash."""
    options = options_of(ground.settings)
    if options.weights is not None:
        from training.state.decoder_weights import read_decoder

        return read_decoder(options.weights).tokenizer
    parts = [F.substring(part, 1, CHARACTERS) for part in (_said(options), F.col("description"))]
    said = learnt.select("item_id", F.concat(parts[0], F.lit(f"{AHEAD} "), parts[1]).alias("said"))
    some = said.orderBy(F.xxhash64("item_id"), "item_id").limit(options.sample).collect()
    return made_of((row["said"] for row in some), options.vocabulary)


def tokenizer_of(bundle: Path) -> bytes:
    """The tokenizer that a bundle learnt by.

    Raises:
        BundleError: there is none, or it is torn.
    """
    from training.state.bundle import load_bundle

    return load_bundle(bundle).attachment(TOKENIZER).read_bytes()


def refuse_other_tokens(ground: Ground, bundles: Iterable[Path]) -> None:
    """See that bundles mean by their tokens what the build in force does.

    Raises:
        BundleError: one does not.
    """
    held = str(ground.read[TOKENS].collect()[0]["content"]).encode()
    for bundle in bundles:
        if tokenizer_of(bundle) != held:
            raise BundleError(
                f"bundle '{bundle.name}' must have learnt by the tokenizer of the build in force, whose texts it is "
                "asked for; it has another one: run `millrace train`"
            )


def values(ground: Ground, moment: datetime | None = None) -> list[str]:
    """All values that attributes have in the shop, of products that were known before a moment if one is given.

    Raises:
        DataError: there are more than the driver and each worker may hold.
    """
    options, every = options_of(ground.settings), ground.read["lines"]
    every = every if moment is None else every.where(features.known_before(moment))
    each = [every.select(F.trim(name).alias("value")) for name in options.attributes]
    all_of = each[0]
    for more in each[1:]:
        all_of = all_of.unionByName(more)
    found = all_of.where("value <> ''").distinct().limit(options.most_values + 1).collect()
    if len(found) > options.most_values:
        raise DataError(
            f"attributes must have options.most_values={options.most_values:,} different values at most, as each "
            "worker holds them all; there are more: leave out of options.attributes what is free text, or raise it"
        )
    return sorted(row["value"] for row in found)
