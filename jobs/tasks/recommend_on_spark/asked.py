"""Who is asked without being learnt from: customers held out whole, who have events of the kind question alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.ground import Ground
from jobs.settings_lists import asks_questions, examples_of, in_sequences
from jobs.tasks.recommend_on_spark.known import cap_of, ids_of, kept_of
from spark_udfs import features, vocabularies
from spark_udfs.event_names import QUESTION
from spark_udfs.histories import histories, queries
from training.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

UNKNOWN = 0  # the number that no model has learnt anything of


def questions(
    ground: Ground, asked: Mapping[str, tuple[datetime, datetime | None]], to_find: Callable[[str], DataFrame]
) -> DataFrame:
    """Of each split, a row per customer held out who has something to find: what they had before its cut, and then.

    Who has something to find from the test cut on is asked there alone.

    Args:
        ground: the job's; counts get `question_lines` and `question_lines_of_unknown_items`, which are left out.
        asked: of each split, its cut and where the time that it asks for ends.
        to_find: split -> `item`, what was known at its cut.

    Raises:
        DataError: there are no such events, or those who have them are learnt from too.
    """
    settings, read = examples_of(ground.settings), ground.read
    lines = features.purchases(features.weighed(read["events"], {QUESTION: 1.0})).where("user_id IS NOT NULL")
    numbers = ground.keep("askers", lambda: held_out(lines, read["vocabulary_users"]))
    known = ground.keep("questions", lambda: features.indexed(lines, numbers, read["vocabulary_items"]))
    items = read["vocabulary_items"].select(F.col("id").alias("item_id"))
    ground.counts["question_lines"] = lines.count()
    ground.counts["question_lines_of_unknown_items"] = lines.join(items, on="item_id", how="left_anti").count()

    def of(split: str) -> DataFrame:
        cut, until = asked[split]
        theirs = known
        if until is not None:
            later = known.where(F.col("time") >= F.lit(features.utc(until))).select("user").distinct()
            theirs = known.join(later, on="user", how="left_anti")
        cap = cap_of(ground, theirs, cut, of="askers")
        held = histories(theirs, ids_of(numbers), cut, kept_of(ground), cap)
        by_arrival = in_sequences(ground.settings)
        rows = queries(held, theirs, to_find(split), cut, until, settings.max_history, cap, by_arrival=by_arrival)
        named = {"user": F.lit(UNKNOWN).cast("bigint"), "split": F.lit(split)}
        return rows.where(F.size("truth") > 0).withColumns(named)

    one, other = map(of, asked)
    return one.unionByName(other)


def held_out(lines: DataFrame, learnt_from: DataFrame) -> DataFrame:
    """`index`, past the vocabulary's end, and `id` of those who have questions.

    Raises:
        DataError: nobody has, or one who is learnt from has.
    """
    ids = lines.select(F.col("user_id").alias("id")).distinct()
    if ids.isEmpty():
        raise DataError(
            "examples.asked=questions needs events of the kind question, and there is none; bring them in by "
            "`millrace ingest` (ingest.kinds), or set examples.asked=customers"
        )
    if both := ids.join(learnt_from, on="id", how="left_semi").count():
        raise DataError(
            f"customers with events of the kind question must have no others before the test cut, so that nothing is "
            f"learnt from them; {both:,} have; take one or the other out of the events"
        )
    return vocabularies.new_entries(ids, learnt_from)


def of_test(ground: Ground) -> DataFrame:
    """What is asked at the test cut, a row per `user`; those from whom nothing is learnt get numbers past the
    vocabulary's end, which every bundle takes as unknown."""

    def rows() -> DataFrame:
        held = ground.read["queries"].where("split = 'test'").drop("split")
        if not asks_questions(ground.settings):
            return held
        ids = held.select(F.col("user_id").alias("id"))
        numbers = ids_of(vocabularies.new_entries(ids, ground.read["vocabulary_users"]))
        return held.drop("user").join(numbers, on="user_id", how="inner")

    return ground.keep("queries", rows)
