"""How lists are made of what is asked: by comparing all items, or by an index whose recall was measured before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs.artefacts import ITEM_FILES
from jobs.console import say, step, warn
from spark_udfs.indexed import save_index, users_searched_whole
from spark_udfs.item_index import IndexFile
from spark_udfs.rules import NO_RULES, Rules
from spark_udfs.scoring import bundle_schema, recommend, unknown_ids
from training.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.ground import Ground
    from jobs.settings_lists import IndexSettings
    from spark_udfs.answers import Order
    from spark_udfs.item_files import ItemFile


class Shown(NamedTuple):
    """What lists are made of.

    Attributes:
        allowed: what may be in them.
        order: what users get without one known item in their history; None: nothing.
    """

    allowed: ItemFile
    order: Order | ItemFile | None


@dataclass(frozen=True)
class Lists:
    """How the lists of some users are made; see `recommend`.

    Attributes:
        queries: a row a user.
        bundle: the folder of the one that is asked.
        k: items of a list.
        allowed: what may be in it.
        exclude_seen: whether each row's `seen` is left out.
        fallback: for users without one known item in their history.
        rules: what is ruled of lists.
        reasons: how many of an item's are given.
    """

    queries: DataFrame
    bundle: str
    k: int
    allowed: ItemFile
    exclude_seen: bool = True
    fallback: Order | ItemFile | None = None
    rules: Rules = NO_RULES
    reasons: int = 0

    def ranked(self, index: IndexFile | None, queries: DataFrame | None = None) -> DataFrame:
        """user, rank, item, score, fallback: of all or of some of the users, by an index or by comparing all items."""
        return recommend(
            self.queries if queries is None else queries,
            self.bundle,
            k=self.k,
            allowed=self.allowed,
            exclude_seen=self.exclude_seen,
            fallback=self.fallback,
            rules=self.rules,
            index=index,
            reasons=self.reasons,
        )

    def drawn(self, users: int) -> DataFrame:
        """So many of the users who have a known item in their history, by a hash."""
        known = F.size("history") - F.expr(unknown_ids(bundle_schema(self.bundle)))
        return self.queries.where(known > 0).orderBy(F.xxhash64("user"), "user").limit(users)


@dataclass(frozen=True)
class Searched:
    """An index that was good enough.

    Attributes:
        index: where it lies.
        users: by how many it was measured.
        recall: the share of their exact lists' items that it finds; None: they have no list.
    """

    index: IndexFile
    users: int
    recall: float | None

    def compared(self, items: int) -> int:
        """With how many items a user is compared, on average over lists, of so many; the lists' means count too."""
        return self.index.lists + items * self.index.probes // self.index.lists

    def counts(self, lists: Lists) -> dict[str, Any]:
        """index_recall, index_sample (users), index_lists, index_probes; and users_searched_whole, for whom all items
        were compared, as the lists that were searched had fewer than K that they have not seen."""
        whole = _searched_whole(lists, self.index, lists.queries)
        return {
            "index_recall": self.recall,
            "index_sample": self.users,
            "index_lists": self.index.lists,
            "index_probes": self.index.probes,
            "users_searched_whole": whole,
        }


def searched(lists: Lists, ground: Ground, asked: IndexSettings) -> Searched | None:
    """The index by which lists are made, once its recall was measured by a sample of the users.

    Args:
        lists: everybody's.
        ground: of the job.
        asked: which index, and what must be found.

    Returns:
        None where the bundle knows no item that may be in a list.

    Raises:
        SettingsError: less is found than the settings ask for.
    """
    with step("score: making the index of items, and measuring what it finds"):
        index = save_index(
            lists.queries.sparkSession,
            lists.bundle,
            lists.allowed,
            ground.folder / ITEM_FILES,
            lists=asked.lists,
            probes=asked.probes,
        )
        if index is None:
            return None
        sample = ground.keep("sample", lambda: lists.drawn(asked.sample))
        users, wanted, found = _compared(replace(lists, reasons=0), index, sample)
    recall = found / wanted if wanted else None
    what = f"{index.probes:,} of {index.lists:,} lists searched, for {users:,} users drawn"
    if recall is not None and recall < asked.least_recall:
        raise SettingsError(
            f"scoring.index.least_recall is {asked.least_recall:g}, and the index finds {recall:.4f} of the {wanted:,} "
            f"items that their exact lists have, with {what}; nothing was scored. Raise scoring.index.probes, or set "
            "fewer scoring.index.lists, which are longer then, or leave scoring.index out to compare all items"
        )
    say(f"score: the index finds {'nothing to find' if recall is None else f'{recall:.4f}'}, with {what}")
    if 2 * (whole := _searched_whole(lists, index, sample)) > users:
        warn(
            f"scoring.index: for {whole:,} of these {users:,} users all items were compared, as the lists that are "
            f"searched hold fewer than scoring.k={lists.k} not yet seen: it saves nothing, and its recall says "
            "little. Set fewer scoring.index.lists, more probes, or leave scoring.index out"
        )
    return Searched(index, users, recall)


def _searched_whole(lists: Lists, index: IndexFile, queries: DataFrame) -> int:
    return users_searched_whole(
        queries, lists.bundle, k=lists.k, allowed=lists.allowed, index=index, exclude_seen=lists.exclude_seen
    )


def _compared(lists: Lists, index: IndexFile, sample: DataFrame) -> tuple[int, int, int]:
    """How many users have exact lists, of how many items, and how many of these the index finds."""
    exact, by_index = lists.ranked(None, sample), lists.ranked(index, sample)
    found = by_index.select("user", "item", F.lit(True).alias("is_found"))
    both = exact.select("user", "item").join(found, on=["user", "item"], how="left")
    return tuple(both.agg(F.count_distinct("user"), F.count(F.lit(1)), F.count("is_found")).collect()[0])
