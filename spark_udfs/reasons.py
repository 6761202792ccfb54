"""Why items stand in lists: of each, the items of the customer's history that add most to its score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from spark_udfs.answers import Best, Ranking, rows_of
from spark_udfs.top_k import Floats, Ints, Mask
from training.configs import CONFIGS
from training.errors import BundleError, SettingsError
from training.state.items import Items, open_items
from training.state.json_files import read_json
from training.state.names import ATTACHMENTS, ITEMS

if TYPE_CHECKING:
    from training.batch import Batch, Ragged

REASONS = "reasons"
REASONS_SQL = "array<struct<item_id: string, share: float>>"
AT_ONCE = 1 << 20  # shares at once: with what sorts them some 30 MB
REASON = pa.struct([("item_id", pa.string()), ("share", pa.float32())])


def check_reasons(bundle_path: str) -> None:
    """See, before lists are made, that a bundle can give reasons.

    Raises:
        BundleError: it does not carry its items' ids.
        SettingsError: its model's scores cannot be split.
    """
    described = read_json(Path(bundle_path) / "bundle.json", dict[str, Any])
    name, able = described["model"], [name for name, config in CONFIGS.items() if config.SPLITS_SCORES]
    if name not in able:
        raise SettingsError(
            f"only a model that pools a history can give reasons; '{name}' cannot: set reasons to 0, or train a bundle "
            f"of {', '.join(able)}"
        )
    if ITEMS not in described.get("attachments", {}):
        raise BundleError(
            f"bundle '{bundle_path}' must carry its items' ids to give reasons, and has no attachment '{ITEMS}'; run "
            "`millrace train` with its settings: from its checkpoint it trains no step again"
        )


def items_of(bundle: Path) -> Items:
    """The items that a bundle's numbers mean.

    Raises:
        BundleError: the file is none of items.
    """
    return open_items(bundle / ATTACHMENTS / ITEMS)


def _parts(order: Ints, lengths: Ints, k: int) -> Iterator[Ints]:
    """Rows that go at once, ascending: as many as have few numbers for each line and item of a list."""
    at = 0
    while at < len(order):
        step = max(1, AT_ONCE // (max(1, int(lengths[order[at]])) * k))
        yield np.sort(order[at : at + step])
        at += step


class _OfHistory(NamedTuple):
    """Items of histories, each once a row, rows one after the other.

    Attributes:
        rows, items: (U,).
        shares: (U, K) what each adds to the row's list.
    """

    rows: Ints
    items: Ints
    shares: Floats


@dataclass(frozen=True)
class Reasons:
    """What is asked, of a bundle's lists.

    Attributes:
        items: the bundle's.
        most: reasons of an item of a list, at most.
    """

    items: Items
    most: int

    def of(self, ranking: Ranking, batch: Batch, best: Best) -> pa.Array:
        """Of each place that holds an item, row after row: item_id and share of what speaks most for it, most first.

        What adds nothing, or speaks against it, is no reason; a list of the fallback has none.

        Raises:
            SettingsError: the model's scores cannot be split.
        """
        is_ours, history = (best.items >= 0) & ~best.cold[:, None], cast("Ragged", batch["history"])
        lengths = np.diff(history.offsets.numpy())
        # Longest histories first: one of a thousand lines would be a thousand places for each of the others.
        order = np.argsort(-lengths, kind="stable")
        order = order[is_ours.any(axis=1)[order]]
        items = np.zeros((*best.items.shape, self.most), np.int64)
        shares = np.full(items.shape, -np.inf, np.float32)
        for rows in _parts(order, lengths, best.items.shape[1]):
            items[rows], shares[rows] = self._of_rows(ranking, batch, best.items[rows], rows)
        is_reason = (shares > 0) & is_ours[:, :, None]
        return self._lists(items[is_reason], shares[is_reason], is_reason.sum(axis=2)[best.items >= 0])

    def _of_rows(self, ranking: Ranking, batch: Batch, found: Ints, rows: Ints) -> tuple[Ints, Floats]:
        """Of some rows, ascending."""
        some = rows_of(batch, rows)
        history = cast("Ragged", some["history"])
        shares = ranking.shares(some, np.where(found >= 0, found, found[:, :1]))
        held = _by_item(history.values.numpy(), history.offsets.numpy(), shares)
        return _strongest(held, self.most, found.shape)

    def _lists(self, items: Ints, shares: Floats, lengths: Ints) -> pa.Array:
        ids = self.items.rows["id"].take(pa.array(np.searchsorted(self.items.numbers, items))).cast(pa.string())
        reasons = pa.StructArray.from_arrays([ids, pa.array(shares, pa.float32())], fields=list(REASON))
        return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), reasons)


def _by_item(lines: Ints, offsets: Ints, shares_nk: Floats) -> _OfHistory:
    """What an item adds that was bought more than once is what all of its lines add."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    known: Mask = lines > 0
    order = np.lexsort((lines[known], rows[known]))
    rows, items, shares = rows[known][order], lines[known][order], shares_nk[known][order]
    first = np.flatnonzero(np.r_[True, (rows[1:] != rows[:-1]) | (items[1:] != items[:-1])][: len(rows)])
    added = np.add.reduceat(shares, first, axis=0) if len(first) else shares
    return _OfHistory(rows[first], items[first], added)


def _strongest(held: _OfHistory, most: int, shape: tuple[int, ...]) -> tuple[Ints, Floats]:
    """(rows, K, most) The items that add most, by number where they add the same, and what they add: -inf of none."""
    starts = np.searchsorted(held.rows, np.arange(shape[0]))
    place = np.arange(len(held.rows)) - starts[held.rows]
    longest = max(most, int(np.max(place)) + 1 if len(place) else 0)
    shares_rlk = np.full((shape[0], longest, shape[1]), -np.inf, np.float32)
    shares_rlk[held.rows, place] = held.shares
    items_rl = np.zeros((shape[0], longest), np.int64)
    items_rl[held.rows, place] = held.items
    order = np.argsort(-shares_rlk, axis=1, kind="stable")[:, :most]
    strongest = np.take_along_axis(shares_rlk, order, axis=1).transpose(0, 2, 1)
    return np.take_along_axis(items_rl[:, :, None], order, axis=1).transpose(0, 2, 1), strongest
