"""Lines to examples, and to what is asked at both cuts; of all lines, or of the build before and what came since."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from jobs.ground import Before, Ground
from jobs.settings_lists import asks_questions, examples_of, in_sequences
from jobs.tasks.recommend_items import LISTED
from jobs.tasks.recommend_on_spark import knowledge
from jobs.tasks.recommend_on_spark.asked import questions
from jobs.tasks.recommend_on_spark.content import with_attributes
from jobs.tasks.recommend_on_spark.known import (
    AS_OF,
    cap_beside,
    cap_of,
    cut_of,
    drawn,
    ids_of,
    indexed,
    kept_of,
    stock,
    without_held,
)
from spark_udfs import features
from spark_udfs.catalogue import advanced as sold_later
from spark_udfs.catalogue import catalogue
from spark_udfs.histories import Stock, first_lines, histories, queries
from spark_udfs.newest import Cap

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from spark_udfs.features import Cuts

UNLISTED = "_unlisted"  # after the name of a split: of items without an index


def examples(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    """Histories as of the validation cut, catalogue and queries of both cuts, and the examples."""
    read, asked, since = ground.read, examples_of(ground.settings), cuts.validation
    known, ids, kept = indexed(ground), ids_of(read["vocabulary_users"]), kept_of(ground)
    cap = cap_of(ground, known, cuts.test)
    held = ground.keep("histories", lambda: histories(known, ids, since, kept, cap))
    new = without_held(ground, known.where(features.known_since(since)), held, since)
    both = stock(ground, held, new, since, ids, cap, lambda users: known.join(users, on="user", how="left_semi"))
    sold = {
        split: with_attributes(
            ground, catalogue(read["lines"], read["vocabulary_items"], read["items"], cut, asked.recent_days), cut
        )
        for split, (cut, _) in _asked(cuts).items()
    }
    met = {
        split: known.where(features.known_before(cut)).select("item").distinct()
        for split, (cut, _) in _asked(cuts).items()
    }
    made = _Made(ground, cuts, sold, met, drawn(ground))
    return {
        **_graph(ground, cuts),
        "catalogue": made.catalogue(),
        "histories": _dated(held, since),
        "queries": made.held_out() if asks_questions(ground.settings) else made.queries(both, known, cap),
        "examples": (features.sequences if in_sequences(ground.settings) else features.examples)(
            known, cuts, asked.max_history, cap
        ),
    }


def go_on(ground: Ground, cuts: Cuts, before: Before) -> dict[str, DataFrame]:
    """The side tables as `examples` makes them, and the examples that were not known before the last test cut: of that
    build's histories and catalogue, and of lines that were known since the cut of the histories.

    The histories stay as they are until so much time lies between them and the validation that lines would be read for
    them alone.
    """
    read, asked = ground.read, examples_of(ground.settings)
    since = cut_of(before.read["histories"])
    window = cuts.validation - timedelta(days=asked.recent_days)
    is_old = since < window
    # Files without such a line are passed over.
    recent = ground.keep("recent", lambda: read["lines"].where(features.known_since(min(since, window))))
    lately = recent.where(features.known_since(since))
    known = ground.keep("known", lambda: features.indexed(lately, read["vocabulary_users"], read["vocabulary_items"]))
    ends = {features.VALIDATION: before.cuts.validation, features.TEST: before.cuts.test}
    in_between = {
        split: features.known_since(ends[split]) & features.known_before(cut)
        for split, (cut, _) in _asked(cuts).items()
    }
    touched = {
        split: ground.keep(f"touched {split}", partial(_users_of, known.where(come)))
        for split, come in in_between.items()
    }
    is_drawn = drawn(ground)

    def needed(rows: DataFrame) -> DataFrame:
        if is_old or is_drawn is None:
            return rows
        of_touched = touched[features.VALIDATION].union(touched[features.TEST]).distinct()
        marked = rows.join(of_touched.withColumn("is_touched", F.lit(True)), on="user", how="left")
        return marked.where(F.col("is_touched") | is_drawn).drop("is_touched")

    held = ground.keep("histories", lambda: needed(before.read["histories"].drop(AS_OF)))
    theirs = ground.keep("lines", lambda: needed(known))
    cap = cap_beside(ground, theirs)
    new = without_held(ground, theirs, held, since)
    strangers = ground.keep("strangers", lambda: _users_of(new).join(held, on="user", how="left_anti"))
    ids = ground.keep("ids", lambda: ids_of(read["vocabulary_users"]).join(strangers, on="user", how="left_semi"))
    both = stock(ground, held, new, since, ids, cap, partial(_lines_of, ground, cuts.test))
    pairs = {
        split: first_lines(held, new.where(features.known_before(ends[split])), new.where(come))
        for split, come in in_between.items()
    }
    sold = _sold_later(ground, cuts, before, recent, in_between, pairs)
    earlier = new.where(features.known_before(before.cuts.test)).select("user")
    come_since = touched[features.TEST].join(strangers, on="user", how="left_semi")
    joined = come_since.join(earlier, on="user", how="left_anti").count()
    ground.counts["training_users"] = before.counts["training_users"] + joined
    ground.counts["training_items"] = sold[features.TEST].where("user_count > 0").count()
    made = _Made(ground, cuts, sold, {split: rows.where("user_count > 0") for split, rows in sold.items()}, is_drawn)
    of_test = both.of(lambda rows: rows.join(touched[features.TEST], on="user", how="left_semi"))
    later = {"histories": _dated(both.as_of(cuts.validation), cuts.validation)} if is_old else {}
    return {
        **_graph(ground, cuts),
        "catalogue": made.catalogue(),
        **later,
        "queries": made.queries(both, theirs, cap),
        "examples": of_test.examples(cuts, before.cuts.test, asked.max_history),
    }


def _sold_later(
    ground: Ground,
    cuts: Cuts,
    before: Before,
    recent: DataFrame,
    in_between: Mapping[str, Column],
    firsts: Mapping[str, DataFrame],
) -> dict[str, DataFrame]:
    """Of each split the catalogue of the build before, with the lines in between and whose first ones they are."""
    read, days = ground.read, examples_of(ground.settings).recent_days

    def later(split: str, cut: datetime) -> DataFrame:
        held = before.read["catalogue"].where(F.col("split").isin(split, split + UNLISTED))
        come, items = recent.where(in_between[split]), read["vocabulary_items"]
        return sold_later(held, come, firsts[split], recent, items, read["items"], cut, days)

    return {
        split: with_attributes(ground, ground.keep(f"catalogue {split}", partial(later, split, cut)), cut)
        for split, (cut, _) in _asked(cuts).items()
    }


def _graph(ground: Ground, cuts: Cuts) -> dict[str, DataFrame]:
    knowledge.count(ground, cuts.test)
    return knowledge.tables_of(ground, {split: cut for split, (cut, _) in _asked(cuts).items()})


def _asked(cuts: Cuts) -> dict[str, tuple[datetime, datetime | None]]:
    """Of each split, the cut that its queries are as of, and where the time that they ask for ends."""
    return {features.VALIDATION: (cuts.validation, cuts.test), features.TEST: (cuts.test, None)}


@dataclass(frozen=True)
class _Made:
    """What both splits have.

    Attributes:
        sold: of each split, the catalogue, with attributes where they are asked for.
        met: of each split, the items that known customers had bought before its cut.
        drawn: whether a `user` is asked; None: all are.
    """

    ground: Ground
    cuts: Cuts
    sold: Mapping[str, DataFrame]
    met: Mapping[str, DataFrame]
    drawn: Column | None

    def catalogue(self) -> DataFrame:
        """Both splits' catalogue; items without an index lie apart, for a later build alone."""
        apart = F.col("item").isNull()
        return _together(
            rows.withColumn("split", F.when(apart, F.lit(split + UNLISTED)).otherwise(F.lit(split)))
            for split, rows in self.sold.items()
        )

    def queries(self, both: Stock, lines: DataFrame, cap: Cap | None) -> DataFrame:
        """Both splits' queries, of lines from the validation cut on."""
        length, ask = examples_of(self.ground.settings).max_history, self._of_drawn
        return _together(
            queries(
                both.of(ask).as_of(cut),
                ask(lines),
                self._to_find(split),
                cut,
                until,
                length,
                cap,
                by_arrival=in_sequences(self.ground.settings),
            ).withColumn("split", F.lit(split))
            for split, (cut, until) in _asked(self.cuts).items()
        )

    def held_out(self) -> DataFrame:
        """Both splits' queries, of customers from whom nothing is learnt."""
        return questions(self.ground, _asked(self.cuts), self._to_find)

    def _to_find(self, split: str) -> DataFrame:
        """`item`: what known customers had bought before a split's cut; what was listed then, where it is known."""
        sold = self.sold[split]
        return (sold.where(LISTED) if LISTED in sold.columns else self.met[split]).select("item")

    def _of_drawn(self, rows: DataFrame) -> DataFrame:
        return rows if self.drawn is None else rows.where(self.drawn)


def _together(parts: Iterable[DataFrame]) -> DataFrame:
    one, other = parts
    return one.unionByName(other)


def _dated(held: DataFrame, cut: datetime) -> DataFrame:
    return held.withColumn(AS_OF, F.lit(cut))


def _users_of(lines: DataFrame) -> DataFrame:
    return lines.select("user").distinct()


def _lines_of(ground: Ground, cut: datetime, users: DataFrame) -> DataFrame:
    """All lines of some users that were known before a cut; of every file, since nothing says where they lie."""
    read = ground.read
    theirs = read["vocabulary_users"].join(users, F.col("index") == F.col("user"), "left_semi")
    return features.indexed(read["lines"].where(features.known_before(cut)), theirs, read["vocabulary_items"])
