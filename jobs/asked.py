"""What is asked of a recommender: customers of the tables, or histories as somebody gives them. Imports no Spark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from spark_udfs.answers import named
from spark_udfs.arrow import lists
from spark_udfs.top_k import Lists
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
        DataError: the table has not all of them.
    """
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
    items: Items,
    history: Sequence[Sequence[str]],
    ages: Sequence[Sequence[float]] | None,
    weights: Sequence[Sequence[float]] | None,
    *,
    longest: int | None,
) -> Asked:
    """Somebody whom no vocabulary knows, with what they have bought.

    Args:
        items: of the bundle.
        history: ids of items, the oldest first.
        ages: of each line in days; None: 0.
        weights: what each line is worth; None: 1.
        longest: of each history so many lines count, the last ones; None: all. What was seen is all of it.

    Raises:
        SettingsError: ages or weights that do not fit the histories.
    """
    lengths = np.array([len(one) for one in history], np.int64)
    numbers = items.numbers_of(one for row in history for one in row)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    most = len(numbers) if longest is None else longest
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
    given = [len(one) for one in values]
    if given != list(lengths):
        raise SettingsError(
            f"{name} must have a number for each line of history; got lists of {given} for histories of "
            f"{list(lengths)}: give as many, or leave them out"
        )
    return np.array([one for row in values for one in row], np.float32)
