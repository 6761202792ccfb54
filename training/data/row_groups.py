"""Every row group of a table version with its row counts: what a plan is made of.

A footer is small, but a table may have thousands, each a store's answer away. So ranks count together: each reads its
share of the footers and of the deletion vectors, and tells the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.delta_log import DataFile
from training.data.parquet import Source
from training.errors import SnapshotError

if TYPE_CHECKING:
    from training.world import World

_THREADS = 16


@dataclass(frozen=True, eq=False)
class RowGroups:
    """Every row group of a snapshot; arrays of shape (groups,).

    Attributes:
        file: index into `Snapshot.files`.
        number: the row group's number in its file.
        first: physical row number, in the file, of its first row.
        rows: physical rows.
        live: rows that no deletion vector deletes.
    """

    file: NDArray[np.int32]
    number: NDArray[np.int32]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    live: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)


class Counts(NamedTuple):
    """Physical and live rows of each row group of one file."""

    rows: list[int]
    live: list[int]


def count_rows(source: Source, files: Sequence[DataFile]) -> RowGroups:
    """Read all footers and deletion vectors, many at a time.

    Raises:
        SnapshotError: a file is gone, is not Parquet, or holds another number of rows than the log says, or its
            deletion vector is gone, damaged or another file's.
    """
    return _row_groups(_counted(source, files))


def count_together(source: Source, files: Sequence[DataFile], fingerprint: str, world: World) -> RowGroups:
    """As `count_rows`, each footer read by one rank; all ranks call it, and all raise where one of them must.

    Raises:
        SnapshotError: as `count_rows`; or ranks see other files under the same name.
    """
    share = files[world.rank :: world.size]
    ranks = world.on_each("reading footers", lambda: {"fingerprint": fingerprint, "counts": _counted(source, share)})
    _refuse(source, [rank["fingerprint"] for rank in ranks], fingerprint)
    shares = [iter(rank["counts"]) for rank in ranks]
    return _row_groups([Counts(*next(shares[number % world.size])) for number in range(len(files))])


def _refuse(source: Source, fingerprints: Sequence[str], mine: str) -> None:
    for rank, found in enumerate(fingerprints):
        if found != mine:
            raise SnapshotError(
                f"all ranks must read the same files of version {source.version} of table '{source.uri}'; here they "
                f"have fingerprint {mine}, on rank {rank} {found}. Name a folder that all hosts share, or a URL"
            )


def _counted(source: Source, files: Iterable[DataFile]) -> list[Counts]:
    def one(file: DataFile) -> Counts:
        metadata = source.metadata(file)
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if file.vector is None:
            return Counts(rows, rows)
        deleted, starts = source.deleted(file), np.cumsum([0, *rows]).tolist()
        gone = [deleted.range_cardinality(start, start + count) for start, count in zip(starts, rows, strict=False)]
        if sum(gone) != len(deleted):
            raise SnapshotError(
                f"the deletion vector of {source.place(file)} must delete rows below {starts[-1]}, the file's rows; it "
                f"deletes row {deleted.max()}: it is another file's. Restore the log, or pin another version"
            )
        return Counts(rows, [count - less for count, less in zip(rows, gone, strict=True)])

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, files))


def _row_groups(counts: Sequence[Counts]) -> RowGroups:
    rows = np.fromiter(chain.from_iterable(found.rows for found in counts), np.int64)
    live = np.fromiter(chain.from_iterable(found.live for found in counts), np.int64)
    per_file = np.array([len(found.rows) for found in counts], np.int64)
    file = np.repeat(np.arange(len(counts), dtype=np.int32), per_file)
    # Rows before a group, less the rows before its file.
    before = np.cumsum(rows) - rows
    starts = np.concatenate([[0], np.cumsum(per_file)])[file]
    first = before - before[starts] if len(rows) else before
    return RowGroups(file, (np.arange(len(rows)) - starts).astype(np.int32), first, rows, live)
