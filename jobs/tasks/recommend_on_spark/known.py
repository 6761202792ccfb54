"""Events to lines, lines to those of known customers, and what is known of these since a cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.console import warn
from jobs.ground import Ground
from jobs.settings_lists import examples_of
from jobs.tasks.recommend_items import LISTED
from spark_udfs import features
from spark_udfs.histories import Stock, not_held, out_of_reach
from spark_udfs.newest import Cap, cap_at, over
from spark_udfs.scoring import bundle_schema

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import Column, DataFrame

AS_OF = "as_of"  # a column of the table `histories`: the cut that all of them are as of
_EVER = datetime(1900, 1, 1, tzinfo=UTC)


def lines(read: Mapping[str, DataFrame]) -> DataFrame:
    """Events of the kinds that have a weight, purchases alone unless the settings say otherwise; feedback's too."""
    return features.purchases(read["events"], read.get("feedback"))


def indexed(ground: Ground) -> DataFrame:
    """All lines of known customers, by the indices of the vocabularies."""
    read = ground.read
    return ground.keep(
        "known", lambda: features.indexed(read["lines"], read["vocabulary_users"], read["vocabulary_items"])
    )


def catalogue_of_test(ground: Ground) -> DataFrame:
    """A row per item sold before the cut, and, where attributes of items are asked for, per item listed then."""
    held = ground.read["catalogue"].where("split = 'test'").drop("split")
    is_known = F.col(LISTED) if LISTED in held.columns else F.col("count") > 0
    return ground.keep("catalogue", lambda: held.where(is_known))


def sold_before(catalogue: DataFrame) -> DataFrame:
    """The items of a catalogue that were sold before its cut."""
    return catalogue.where("count > 0")


def ranks_unsold(bundle: Path) -> bool:
    """Whether a bundle ranks items that were never sold, by their attributes."""
    return bool(bundle_schema(str(bundle)).of_items)


def cap_of(ground: Ground, known: DataFrame, cut: datetime, of: str = "customers") -> Cap | None:
    """How many lines of a customer count, if any has more before a cut: one who stands for many, as a guest account or
    a bot does, would be one array of all their lines. `of` tells lines from others of which it is asked at that cut."""
    most = examples_of(ground.settings).max_lines
    users = ground.keep(f"{of} over the cap at {cut}", lambda: over(known, most, features.known_before(cut)))
    cap, beyond = cap_at(users, most)
    if not beyond:
        return None
    ground.counts["lines_over_cap"] = ground.counts.get("lines_over_cap", 0) + beyond
    warn(f"{beyond:,} lines of customers with more than {most:,} are left out, the oldest ones: examples.max_lines")
    return cap


def cap_beside(ground: Ground, lines: DataFrame) -> Cap:
    """How many lines of a customer count, where histories go on with such lines: with what these keep, one of many
    lines may have too many."""
    most, kept = examples_of(ground.settings).max_lines, kept_of(ground)
    users = ground.keep("over the cap beside histories", lambda: over(lines, max(most - kept, 0)))
    return cap_at(users, most)[0]


def kept_of(ground: Ground) -> int:
    """How many of a customer's lines histories keep."""
    return features.LOOKED_AT * examples_of(ground.settings).max_history


def ids_of(vocabulary: DataFrame) -> DataFrame:
    """The customers' `user` and `user_id`."""
    return vocabulary.select(F.col("index").alias("user"), F.col("id").alias("user_id"))


def drawn(ground: Ground, key: str = "user") -> Column | None:
    """Whether a `user`, or another key of one, is of about `examples.max_queries`, drawn by a hash; None: there are no
    more users."""
    most, users, parts = examples_of(ground.settings).max_queries, ground.read["vocabulary_users"].count(), 1_000_000
    if users <= most:
        return None
    return F.pmod(F.xxhash64(key, F.lit("asked")), F.lit(parts)) < round(most / users * parts)


def cut_of(histories: DataFrame) -> datetime:
    """What the table's histories are as of. If there are none, there was no customer as of any time."""
    row = histories.select(F.unix_micros(AS_OF)).head()
    return _EVER if row is None else datetime.fromtimestamp(row[0] / 1e6, tz=UTC)


def without_held(ground: Ground, lines: DataFrame, held: DataFrame, since: datetime) -> DataFrame:
    """Lines that were known since a cut, without those that histories as of it hold."""
    if lines.where(F.col("time") < F.lit(since)).isEmpty():
        return lines
    return ground.keep("new lines", lambda: not_held(lines, held, since))


def stock(
    ground: Ground,
    held: DataFrame,
    new: DataFrame,
    since: datetime,
    ids: DataFrame,
    cap: Cap | None,
    all_lines: Callable[[DataFrame], DataFrame],
) -> Stock:
    """Histories as of a cut with what came since.

    Args:
        ground: the job's.
        held: the histories.
        new: from `without_held`.
        since: the cut.
        ids: `user` and `user_id` of the users of both.
        cap: as in `Stock`.
        all_lines: `user` -> all lines of these users, asked for if there are users of whom histories and new lines do
            not say all.
    """
    kept = kept_of(ground)
    if new.where(F.col("time") < F.lit(since)).isEmpty():
        return Stock(held, new, ids, kept, cap)
    beyond = ground.keep("out of reach", lambda: out_of_reach(held, new, since))
    if beyond.isEmpty():
        return Stock(held, new, ids, kept, cap)
    return Stock(held, new, ids, kept, cap, ground.keep("all lines", lambda: all_lines(beyond)))
