"""Messages as the numbers of their terms and of their intents."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.tasks import probabilities_on_spark as probabilities
from jobs.tasks.service_options import TOKENS, VECTORS, options_of
from spark_udfs import features
from spark_udfs.terms import terms
from spark_udfs.text_tokens import text_tokens
from spark_udfs.text_vectors import text_vectors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.ground import Ground
    from jobs.settings import Settings


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Messages with an id and a time. One that does not say when it arrived was there at once; messages without ids
    that are equal in all but their intent are one."""
    dated = read["messages"].where("time IS NOT NULL").withColumnRenamed("intent", "label")
    messages = probabilities.with_ids(dated, "message_id").withColumnRenamed("label", "intent")
    arrival = F.coalesce("arrival_time", "time") if "arrival_time" in messages.columns else F.col("time")
    return messages.where(F.col("message_id").isNotNull()).withColumn("arrival_time", arrival)


def known_intents(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> dict[str, DataFrame]:
    """`id`: the intents of messages of before a cut, but for those that mean none of them."""
    said = lines(read).where(features.known_before(cut) & F.col("intent").isNotNull())
    return {
        "intents": said.where(~F.col("intent").isin(*options_of(settings).out_of_scope)).select(
            F.col("intent").alias("id")
        )
    }


def numbered(ground: Ground, messages: DataFrame) -> DataFrame:
    """message_id, conversation (null where messages have none), time, arrival_time, terms (numbers), label (float), and
    vectors and tokens (numbers) where these are asked for.

    A label is the intent's number: 0 of one that is out of scope, or that nobody had before the cut; null where the
    intent is not known.
    """
    options = options_of(ground.settings)
    known = ground.read["vocabulary_intents"].where("id IS NOT NULL")
    numbers = known.select(F.col("id").alias("intent"), F.col("index").cast("float").alias("number"))
    told = messages.join(F.broadcast(numbers), on="intent", how="left")
    if options.vectors:
        told = text_vectors(told, "text", VECTORS, options.weights)
    if options.tokens_kept:
        told = text_tokens(told, "text", TOKENS, options.tokens_kept, options.weights)
    conversation = F.col("conversation") if "conversation" in options.has else F.lit(None).cast("string")
    return told.select(
        "message_id",
        conversation.alias("conversation"),
        "time",
        "arrival_time",
        F.when(F.col("intent").isNotNull(), F.coalesce("number", F.lit(0.0).cast("float"))).alias("label"),
        terms(F.col("text"), options.words_kept, options.terms).alias("terms"),
        *((VECTORS,) if options.vectors else ()),
        *((TOKENS,) if options.tokens_kept else ()),
    )
