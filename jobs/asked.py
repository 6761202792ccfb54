"""What is asked of a recommender: customers of the tables, or histories as somebody gives them. Imports no Spark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from reprlib import repr as in_short
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.answers import named
from spark_udfs.arrow import lists
from spark_udfs.top_k import Ints, Lists
from training.data.delta_log import open_log
from training.data.snapshot import open_snapshot, read_rows
from training.errors import BundleError, DataError, SettingsError
from training.state.items import Items, shown

if TYPE_CHECKING:
    from training.state.bundle import Bundle

TABLE = "queries"  # customers' histories as of the test cut
AGES, WEIGHTS = "history_age", "history_weight"


def refuse_other_ids(bundle: Bundle, tables: str) -> None:
    """See that the tables' vocabularies are those that the bundle was trained with: they only grow.

    Raises:
        BundleError: one is another.
        NoTableError: there are no such tables.
    """
    for kind, told in bundle.provenance.get("vocabularies", {}).items():
        held = open_log(f"{tables.rstrip('/')}/vocabulary_{kind}").table_id
        if held != told:
            raise BundleError(
                f"bundle '{bundle.path}' must mean the same {kind} by its numbers as the tables at '{tables}'; their "
                f"vocabulary is {held}, and the bundle's was {told}: name the tables that it was trained on, or train "
                "it on these"
            )


def count_of(k: int, most: int) -> int:
    """K, or as many as there are: what is asked for beyond that would be memory alone.

    Raises:
        DataError: it is no whole number, or below 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise DataError(f"k must be a whole number; got {k!r}: say how many items a list is to have, e.g. 10")
    if k < 1:
        raise DataError(f"k must be at least 1; got {k}")
    return min(int(k), max(most, 1))


def texts(what: str, ids: Iterable[str | None], *, some_unknown: bool = False) -> list[Any]:
    """Ids as a list: one text is none, though Python would take it for a list of letters.

    Args:
        what: they are, for the error.
        ids: of items or customers.
        some_unknown: whether None may stand for one that nobody knows.

    Raises:
        DataError: it is no list, or has something else than texts.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise DataError(f"{what} must be a list of ids; got {in_short(ids)}: put it into a list, as ['85123A']")
    held = list(ids)
    if other := [one for one in held if not (isinstance(one, str) or (one is None and some_unknown))]:
        raise DataError(
            f"{what} must hold ids as texts; got {in_short(other[0])}, a {type(other[0]).__name__}: give ids as the "
            "tables have them, as '17850'"
        )
    return held


def of_categories(items: Items, categories: Mapping[str, str | None]) -> tuple[Ints, Ints]:
    """The known items of a mapping, ascending, and a number of each one's category; without those that have none.

    Args:
        items: of the bundle.
        categories: by the items' ids.

    Raises:
        DataError: an id or a category is no text.
    """
    numbers = items.numbers_of(texts("categories", categories))
    held = np.array(texts("categories", categories.values(), some_unknown=True), np.object_)
    has_one = (numbers > 0) & (held != None)  # noqa: E711  of each
    _, codes = np.unique(held[has_one].astype(np.str_), return_inverse=True)
    order = np.argsort(numbers[has_one])
    return numbers[has_one][order], codes[order].astype(np.int64)


class Asked(NamedTuple):
    """Rows of queries.

    Attributes:
        rows: a row each, with the columns that a bundle's schema has of queries.
        seen: what each has bought.
    """

    rows: pa.RecordBatch
    seen: Lists


def of_users(root: str, user_ids: Sequence[str], columns: Sequence[str]) -> Asked:
    """Customers of the tables, in the order of their ids, as of the newest test cut.

    The table's ids are read once for all of them, a row group at a time.

    Args:
        root: of the tables.
        user_ids: as ingest keeps them.
        columns: of the queries.

    Raises:
        DataError: the table has not all of them, or they are no texts.
    """
    user_ids = texts("user_ids", user_ids)
    wanted = ["user_id", *columns, "seen"]
    queries = open_snapshot(f"{root.rstrip('/')}/{TABLE}", columns=wanted, partitions={"split": ["test"]})
    found = read_rows(queries, "user_id", set(user_ids), wanted)
    row_of = {user_id: row for row, user_id in enumerate(found["user_id"].to_pylist())}
    if unknown := [user_id for user_id in user_ids if user_id not in row_of]:
        raise DataError(
            f"user ids must stand in table '{queries.uri}', which has customers known before its test cut, about "
            f"examples.max_queries of them; it has no {shown(unknown)}: correct them, or give their history"
        )
    table = found.take(pa.array([row_of[user_id] for user_id in user_ids], pa.int64())).combine_chunks()
    rows = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
    return Asked(rows, lists(named(rows, "seen")))


def of_histories(
    bundle: Bundle,
    items: Items,
    history: Sequence[Sequence[str]],
    ages: Sequence[Sequence[float]] | None,
    weights: Sequence[Sequence[float]] | None,
) -> Asked:
    """Somebody whom no vocabulary knows, with what they have bought.

    Args:
        bundle: of each history as many lines count as it was trained to look at, the last ones. Seen is all of it.
        items: of the bundle.
        history: ids of items, the oldest first.
        ages: of each line in days; None: 0.
        weights: what each line is worth; None: 1.

    Raises:
        SettingsError: ages or weights that do not fit the histories, or weights for a bundle that knows none.
        DataError: a history is no list of texts; an age or weight is no number, not finite or below 0.
    """
    if isinstance(history, str | bytes) or not isinstance(history, Iterable):
        raise DataError(
            f"history must be a list of a list of ids for each customer; got {in_short(history)}: give [['85123A']]"
        )
    if weights is not None and WEIGHTS not in bundle.schema:
        raise SettingsError(
            f"weights are for bundles that learnt from lines of different worth, and '{bundle.name}' took all alike; "
            "leave them out"
        )
    told = [texts("the history of a customer", row, some_unknown=True) for row in history]
    lengths = np.array([len(one) for one in told], np.int64)
    numbers = items.numbers_of(one for row in told for one in row)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    longest = bundle.provenance.get("settings", {}).get("examples", {}).get("max_history")  # None: it does not say
    most = len(numbers) if longest is None else int(longest)
    is_kept = np.repeat(offsets[1:], lengths) - np.arange(len(numbers)) <= most
    kept = pa.array(np.concatenate([[0], np.cumsum(np.minimum(lengths, most))]), pa.int32())

    def column(values: npt.NDArray[Any]) -> pa.Array:
        return pa.ListArray.from_arrays(kept, pa.array(values[is_kept]))

    rows = {
        "user": pa.array(np.zeros(len(lengths), np.int64)),
        "history": column(numbers),
        AGES: column(_flat("ages", ages, lengths.tolist(), 0.0)),
        WEIGHTS: column(_flat("weights", weights, lengths.tolist(), 1.0)),
    }
    return Asked(pa.record_batch(list(rows.values()), list(rows)), Lists(numbers, offsets))


def _flat(
    name: str, values: Sequence[Sequence[float]] | None, lengths: Sequence[int], default: float
) -> npt.NDArray[np.float32]:
    """A number for each line of all histories."""
    if values is None:
        return np.full(sum(lengths), default, np.float32)
    try:
        given = [len(one) for one in values]
        with np.errstate(over="ignore"):  # what is too large is not finite, which is looked for
            numbers = np.array([float(one) for row in values for one in row], np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} must be a list of numbers for each history; got {in_short(values)}: {error}; leave them out where "
            "they are unknown"
        ) from error
    if given != list(lengths):
        raise SettingsError(
            f"{name} must have a number for each line of history; got lists of {in_short(given)} for histories of "
            f"{in_short(list(lengths))}: give as many, or leave them out"
        )
    if (wrong := numbers[~((numbers >= 0) & np.isfinite(numbers))]).size:
        raise DataError(f"{name} must be finite and at least 0; got {wrong[0]:g}: correct it, or leave them out")
    return numbers
