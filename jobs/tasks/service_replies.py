"""Replies to scored messages: by conversation, turn after turn, from the shop's answers and orders.

A reply depends on the messages of its conversation up to it, the last TURNS of them, as they are scored together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.tasks.service_answers import known_answers
from jobs.tasks.service_options import ORDERS, ServiceOptions, options_of
from spark_udfs.dialogue import TURNS, Reply, Rules, Said, Turn, last_reply
from spark_udfs.knowledge import Knowledge, Known, knowledge_of
from spark_udfs.slots import ORDER_NUMBER, slots_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.ground import Ground

TYPE = (
    "message_id string, reply string, text string, used array<struct<table: string, id: string>>, why string, "
    "summary string"
)


def with_replies(made: DataFrame, ground: Ground) -> DataFrame:
    """Scored messages with `reply` (answer, ask or hand_over), its text, the rows that it is made of, and of a
    hand-over why, and a summary; null all of them where the shop has no table `answers`.

    Args:
        made: message_id, time, conversation, intent, confidence, in_scope.
        ground: the job's.

    Raises:
        DataError: there are more answers than a worker may hold.
    """
    if "answers" not in ground.read:
        empty = made.sparkSession.createDataFrame([], TYPE)
        return made.join(empty, on="message_id", how="left")
    options = options_of(ground.settings)
    known = answers_of(ground.read["answers"], options)
    told = _with_orders(made.join(_texts(ground), on="message_id", how="inner"), ground)
    replying = _replying(known, options.rules, has_orders="orders" in ground.read)
    found = told.select("message_id", _turns().alias("turns")).mapInArrow(replying, TYPE)
    return made.join(found, on="message_id", how="inner")


def answers_of(answers: DataFrame, options: ServiceOptions) -> list[Known]:
    """The shop's answers, as `known_answers` has them."""
    name = F.col("answer_id") if "answer_id" in answers.columns else F.lit(None).cast("string")
    rows = answers.select(name.alias("answer_id"), "intent", "answer").distinct().limit(options.most_answers + 1)
    return known_answers((tuple(row) for row in rows.collect()), options.most_answers)


def _texts(ground: Ground) -> DataFrame:
    return ground.read["lines"].select("message_id", F.col("text").alias("message"))


def _with_orders(told: DataFrame, ground: Ground) -> DataFrame:
    """With `order`, the columns of the order that a message names; null where it names none that there is. Of a number
    that stands twice, in rows that differ, it holds the number alone: nobody knows whose it is."""
    orders = ground.read.get("orders")
    if orders is None:
        return told.withColumn("order", F.lit(None).cast("map<string,string>"))
    number = F.udf(lambda text: slots_of(text or "").get(ORDER_NUMBER), "string", useArrow=True)
    row = F.struct(*(F.nullif(F.col(name), F.lit("")).alias(name) for name in ORDERS))
    single = orders.groupBy("order_number").agg(F.min(row).alias("row"), F.min(row).eqNullSafe(F.max(row)).alias("one"))
    told_of = [
        part
        for name in ORDERS
        for part in (F.lit(name), F.when(F.col("one") | F.lit(name == ORDER_NUMBER), F.col(f"row.{name}")))
    ]
    held = single.select(F.col("order_number").alias("named"), F.create_map(*told_of).alias("order"))
    return told.withColumn("named", number("message")).join(held, on="named", how="left")


def _turns() -> Column:
    """The messages of a conversation up to each one, the last TURNS; one without a conversation stands alone."""
    own = F.struct("message", "intent", "confidence", "in_scope", "order")
    alone = F.when(F.col("conversation").isNull(), F.col("message_id"))
    in_order = Window.partitionBy("conversation", alone).orderBy("time", "message_id").rowsBetween(1 - TURNS, 0)
    return F.collect_list(own).over(in_order)


def _replying(known: Sequence[Known], rules: Rules, *, has_orders: bool) -> Any:
    def of(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        knowledge = knowledge_of(known)
        for batch in batches:
            keys, turns = (column.to_pylist() for column in batch.columns)
            replies = [_last_reply(one, knowledge, rules, has_orders) for one in turns]
            rows = [
                {
                    "message_id": key,
                    "reply": one.kind,
                    "text": one.text,
                    "used": [{"table": table, "id": of_row} for table, of_row in one.used],
                    "why": one.why or None,
                    "summary": one.summary or None,
                }
                for key, one in zip(keys, replies, strict=True)
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    return of


def _last_reply(turns: Sequence[Mapping[str, Any]], knowledge: Knowledge, rules: Rules, has_orders: bool) -> Reply:
    named = {order[ORDER_NUMBER]: order for one in turns if (order := dict(one["order"] or ()))}
    said = [Turn(one["message"], Said(one["intent"] or "", one["confidence"], one["in_scope"])) for one in turns]
    return last_reply(said, knowledge, named.get if has_orders else None, rules)


_SCHEMA = pa.schema(
    [
        ("message_id", pa.string()),
        ("reply", pa.string()),
        ("text", pa.string()),
        ("used", pa.list_(pa.struct([("table", pa.string()), ("id", pa.string())]))),
        ("why", pa.string()),
        ("summary", pa.string()),
    ]
)
