"""Service live: messages answered as they come, each by what was said before it in its conversation.

Intents and replies are those of the batch (service_on_spark.py, service_replies.py): what was answered before stands as
it was, with the intents that were found then. Orders and answers are the newest that were ingested.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.tasks import service_on_spark as batch
from jobs.tasks.service_options import options_of
from jobs.tasks.service_replies import with_replies
from jobs.tasks.service_texts import numbered
from training.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyspark.sql import DataFrame

    from jobs.ground import Ground
    from jobs.settings import Settings

KEY, THREAD = "message_id", "conversation"
SAID = ("intent", "confidence", "in_scope")
ANSWERS = (*SAID, "scope", "reply", "reply_text", "used", "why", "summary")


def refuse(settings: Settings) -> None:
    """See that messages can be told apart as they come.

    Raises:
        SettingsError: they have no ids, or no conversations.
    """
    has = options_of(settings).has
    if lacking := [name for name in (KEY, THREAD) if name not in has]:
        raise SettingsError(
            f"options.has must name {' and '.join(lacking)} where messages are answered as they come; it is "
            f"{list(has)}: give the source a column for it (that of conversations may be null), build and train with "
            "it, and stream then"
        )


def limit(ground: Ground, queries: DataFrame) -> None:
    """There are no alarms."""


def remembered() -> Sequence[str]:
    """What later messages of a conversation are answered by."""
    return ("text", *SAID)


def begin(ground: Ground) -> None:
    """See that people's intents are known ones."""
    batch.refuse_unknown_people(ground)


def answers(ground: Ground, rows: DataFrame, before: DataFrame) -> DataFrame:
    """KEY and ANSWERS of messages.

    Args:
        ground: with the bundle, the vocabularies, and the shop's answers and orders as they are now.
        rows: message_id, conversation, time, text.
        before: what is `remembered` of these conversations' earlier messages.
    """
    said = rows.withColumns({"intent": F.lit(None).cast("string"), "arrival_time": F.col("time")})
    made = batch.answered(ground, numbered(ground, said)).localCheckpoint()  # read twice, and predicted once
    names = [KEY, "time", THREAD, *SAID]
    both = made.select(names).unionByName(before.select(names))
    texts = rows.select(KEY, "text").unionByName(before.select(KEY, "text"))
    replied = with_replies(both, replace(ground, read={**ground.read, "lines": texts}))
    replies = replied.select(KEY, "reply", F.col("text").alias("reply_text"), "used", "why", "summary")
    return made.select(KEY, *SAID, "scope").join(replies, on=KEY, how="inner").select(KEY, *ANSWERS)
