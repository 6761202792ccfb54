"""What a shop rules of lists, as its tables say it: who may be shown what, what each is not to see, and categories."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING

from pyspark.sql import Window
from pyspark.sql import functions as F

from jobs.artefacts import ITEM_FILES
from jobs.console import warn
from jobs.settings_lists import ListRules, scoring_of
from jobs.tasks.recommend_on_spark.searched import Lists, Shown
from spark_udfs.column_types import type_problems
from spark_udfs.diversity import Diversity
from spark_udfs.item_files import save_items
from spark_udfs.rules import BITS, Rules
from spark_udfs.scoring import CATEGORY, FIRST, SEGMENT, SEGMENTS
from training.errors import DataError, SchemaError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.ground import Ground

COLUMNS = {
    "allowed": {"item_id": "string"},
    "segments": {"user_id": "string", "segment": "string"},
    "hidden": {"user_id": "string", "item_id": "string"},
}
KEYS = {"allowed": ("item_id",), "segments": ("user_id",), "hidden": ("user_id", "item_id")}  # none may be null
OF_CATEGORIES = ("string", "bigint", "int", "boolean")  # types that a category may have
MOST_SEGMENTS = 1_023  # beside that of who has none: 128 bytes an item
EVERY_SEGMENT = -1  # all bits


def rules_of(asked: ListRules) -> Rules:
    """What the settings rule of every list."""
    diversity = None if asked.diversity is None else Diversity(**asked.diversity.model_dump())
    return Rules(asked.per_category, asked.least_score, diversity)


class Ruled:
    """The tables that the rules of a ground's settings name, and what follows from them.

    Args:
        ground: of the job.

    Raises:
        SchemaError: a table lacks a column, or has one of another type.
        DataError: users have two segments, or there are more segments than can be told apart.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground, self.asked = ground, scoring_of(ground.settings).rules
        self.rules = rules_of(self.asked)
        self._of = {name: self._rows(name) for name in self.asked.tables}
        if "segments" in self._of:
            self._refuse_two_segments()
            self._refuse_many_segments()

    @property
    def is_any(self) -> bool:
        """Whether anything is ruled."""
        return self.asked != ListRules()

    @property
    def takes_away(self) -> bool:
        """Whether they may leave a user without a list."""
        return bool(self._of) or self.asked.least_score is not None

    def lists(self, queries: DataFrame, shown: Shown) -> Lists:
        """How lists are made under the rules.

        Args:
            queries: a row a user, as the bundle takes them, with user_id and seen.
            shown: as `shown` gives it.
        """
        scoring = scoring_of(self.ground.settings)
        asked, path = self._asked_of(queries, scoring.exclude_seen), str(self.ground.bundle)
        return Lists(
            asked, path, scoring.k, shown.allowed, fallback=shown.order, rules=self.rules, reasons=scoring.reasons
        )

    def shown(self, items: DataFrame, sold: DataFrame) -> Shown:
        """What lists are made of.

        Args:
            items: item, item_id of what can be recommended.
            sold: item, recent_customers.

        Raises:
            DataError: none of the items may be shown to anybody.
            SchemaError: the table `items` has no such category.
        """
        folder, order = self.ground.folder / ITEM_FILES, None
        offered = self.ground.keep("offered", lambda: self._offered(items))
        allowed = save_items(offered, folder, "offered")
        if not allowed.rows and "allowed" in self._of:
            raise DataError(
                f"{self._place('allowed')} must name an item that can be recommended; none of its "
                f"{self._of['allowed'].select('item_id').distinct().count():,} ids is one: they must be ids as ingest "
                "keeps them, of what was sold before the moment; correct the table, or leave it out"
            )
        if scoring_of(self.ground.settings).cold_users == "recent_popularity":
            order = save_items(self._in_order(offered, sold), folder, "order")
        return Shown(allowed, order)

    def _offered(self, items: DataFrame) -> DataFrame:
        """`item` of those that somebody may be shown, and what rules look at: `segments`, bits, and `category`, the
        least item of it."""
        if "allowed" in self._of:
            items = items.join(self._bits(), on="item_id", how="inner")
        if self.rules.look_at_categories:
            items = self._with_category(items)
        return items.drop("item_id")

    def _in_order(self, offered: DataFrame, sold: DataFrame) -> DataFrame:
        """Those that were sold, most customers of late first: `item` is the place, `first` the item."""
        place = F.row_number().over(Window.orderBy(F.desc("recent_customers"), "item")).cast("bigint")
        numbered = offered.join(sold, on="item", how="inner").withColumn(FIRST, F.col("item"))
        return numbered.withColumn("item", place).drop("recent_customers")

    def _asked_of(self, queries: DataFrame, exclude_seen: bool) -> DataFrame:
        """Queries with all that each user is not to see in `seen`, and the number of each one's segment."""
        if not exclude_seen:
            queries = queries.withColumn("seen", F.array().cast("array<bigint>"))
        if "hidden" in self._of:
            items = self.ground.read["vocabulary_items"].select("index", F.col("id").alias("item_id"))
            hidden = self._of["hidden"].join(items, on="item_id", how="inner")
            of_user = hidden.groupBy("user_id").agg(F.collect_set("index").alias("_hidden"))
            both = F.concat("seen", F.coalesce("_hidden", F.array().cast("array<bigint>")))
            queries = queries.join(of_user, on="user_id", how="left").withColumn("seen", both).drop("_hidden")
        if "segments" not in self._of:
            return queries
        known = self._of["segments"].groupBy("user_id").agg(F.min("segment").alias("_named"))
        numbered = known.join(self._numbers().withColumnRenamed("segment", "_named"), on="_named", how="inner")
        with_one = queries.join(numbered.drop("_named"), on="user_id", how="left")
        number = F.coalesce("number", F.lit(0).cast("bigint")).alias(SEGMENT)
        return with_one.select(*queries.columns, number).sortWithinPartitions(SEGMENT)

    def counts(self, queries: DataFrame, offered: DataFrame, written: DataFrame) -> dict[str, int]:
        """What of the rules' tables is of no use, and whose lists are short.

        Args:
            queries: user_id of all who are asked.
            offered: item_id of the items that can be recommended.
            written: user_id of all rows of lists.

        Returns:
            short_lists: of fewer than K items; users_without_list; of tables that are named: rules_without_ids, rows
            that lack an id; allowed_unknown_items; users_without_segment, whose segment is not said;
            users_of_unknown_segment, which no item names; hidden_unknown_users, hidden_unknown_items.
        """
        lists = written.groupBy("user_id").count()
        is_short = F.count_if(F.col("count") < scoring_of(self.ground.settings).k).alias("short_lists")
        made = lists.agg(is_short, F.count(F.lit(1)).alias("lists")).collect()[0]
        found = {"short_lists": made["short_lists"], "users_without_list": queries.count() - made["lists"]}
        if self._of:
            found["rules_without_ids"] = sum(self._without_ids(name) for name in self._of)
        if "allowed" in self._of:
            found["allowed_unknown_items"] = _unknown(self._of["allowed"], offered, "item_id")
        if "segments" in self._of:
            said = self._of["segments"].where("segment IS NOT NULL")
            found["users_without_segment"] = _unknown(queries, said, "user_id")
            theirs = said.join(queries.select("user_id"), on="user_id", how="left_semi")
            unnamed = theirs.join(self._numbers(), on="segment", how="left_anti")
            found["users_of_unknown_segment"] = unnamed.select("user_id").distinct().count()
        if "hidden" in self._of:
            items = self.ground.read["vocabulary_items"].select(F.col("id").alias("item_id"))
            found["hidden_unknown_users"] = _unknown(self._of["hidden"], self.ground.read["users"], "user_id")
            found["hidden_unknown_items"] = _unknown(self._of["hidden"], items, "item_id")
        _tell(found)
        return found

    def _place(self, name: str) -> str:
        return f"scoring.rules.{name}"

    def _rows(self, name: str) -> DataFrame:
        """A table's rows that have ids, with the columns that are asked for."""
        rows, columns = self._held(name), COLUMNS[name]
        with_segments = {"segment": "string"} if name == "allowed" and "segments" in self.asked.tables else {}
        if problems := type_problems(rows, columns | with_segments):
            raise SchemaError(f"{self._place(name)}: {'; '.join(problems)}; name a table or view that has it so")
        if name == "allowed" and "segment" in rows.columns and not with_segments:
            raise SchemaError(
                f"{self._place(name)} has a column 'segment', and scoring.rules.segments does not say who is of which: "
                "set it, or name a view without that column"
            )
        return rows.where(_has_ids(name)).select(*columns, *with_segments)

    def _held(self, name: str) -> DataFrame:
        return self.ground.read[self._place(name)]

    def _without_ids(self, name: str) -> int:
        return self._held(name).where(~_has_ids(name)).count()

    def _numbers(self) -> DataFrame:
        """segment, number: from 1, of the segments that items name."""
        named = self._of["allowed"].select("segment").where("segment IS NOT NULL").distinct()
        number = F.row_number().over(Window.orderBy("segment")).cast("bigint")
        return self.ground.keep("segments", lambda: named.withColumn("number", number))

    def _bits(self) -> DataFrame:
        """item_id, and, where there are segments, `segments`: the bit of each one that may be shown it."""
        rows = self._of["allowed"]
        if "segments" not in self._of:
            return rows.distinct()
        words = self._numbers().count() // BITS + 1
        numbered = rows.join(self._numbers(), on="segment", how="left")
        of_words = F.array(*(F.bit_or(_bit_of(word)) for word in range(words)))
        return numbered.groupBy("item_id").agg(of_words.alias(SEGMENTS))

    def _with_category(self, items: DataFrame) -> DataFrame:
        column, held = self.asked.category, self.ground.read["items"]
        kinds = {field.name: field.dataType.simpleString() for field in held.schema.fields}
        if kinds.get(column) not in OF_CATEGORIES:
            raise SchemaError(
                f"scoring.rules.category must name a column of table 'items' that is {' or '.join(OF_CATEGORIES)}; "
                f"'{column}' is {kinds.get(column, 'missing')}, and it has {', '.join(kinds)}: bring it in by "
                "ingest.items, or name another one"
            )
        known = held.select("item_id", F.col(f"`{column}`").alias("_named")).where("_named IS NOT NULL")
        named = items.join(known, on="item_id", how="left")
        least = named.groupBy("_named").agg(F.min("item").alias(CATEGORY)).where("_named IS NOT NULL")
        numbered = named.join(least, on="_named", how="left").drop("_named")
        return numbered.withColumn(CATEGORY, F.coalesce(CATEGORY, F.lit(-1).cast("bigint")))

    def _refuse_two_segments(self) -> None:
        named = (
            self._of["segments"].groupBy("user_id").agg(F.min("segment").alias("one"), F.max("segment").alias("other"))
        )
        torn = named.where("one != other")
        users, one = torn.agg(F.count(F.lit(1)), F.min(F.struct("one", "other"))).collect()[0]
        if users:
            raise DataError(
                f"{self._place('segments')} must have one segment a user; {users:,} users have more, as one has "
                f"'{one['one']}' and '{one['other']}': correct the table, or make one segment of the two"
            )

    def _refuse_many_segments(self) -> None:
        if (many := self._numbers().count()) > MOST_SEGMENTS:
            raise DataError(
                f"{self._place('allowed')} must have {MOST_SEGMENTS:,} segments at most, and has {many:,}: make one of "
                "those that may be shown the same"
            )


def _has_ids(name: str) -> Column:
    return reduce(lambda one, other: one & other, (F.col(column).isNotNull() for column in KEYS[name]))


def _bit_of(word: int) -> Column:
    """A row's segment as a bit of a word; a row without one is of all segments."""
    number = F.col("number")
    bit = F.when(F.floor(number / BITS) == word, F.expr(f"shiftleft(1L, CAST(number % {BITS} AS int))"))
    return F.when(F.col("segment").isNull(), F.lit(EVERY_SEGMENT).cast("bigint")).otherwise(F.coalesce(bit, F.lit(0)))


def _unknown(rows: DataFrame, known: DataFrame, column: str) -> int:
    """How many ids of a column others do not have."""
    return rows.select(column).distinct().join(known.select(column), on=column, how="left_anti").count()


def _tell(counts: Mapping[str, int]) -> None:
    told = {name: count for name, count in counts.items() if count and name != "short_lists"}
    if told:
        warn("scoring.rules: " + ", ".join(f"{name} {count:,}" for name, count in told.items()))
