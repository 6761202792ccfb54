"""The items that a bundle's numbers mean: ids, names, and which may be recommended; a file that goes with the bundle.

    items.arrow    an Arrow file, a row an item of the vocabulary, ascending by number; nothing is compressed, so that
                   it is mapped: processes on a host share its pages

It has a person's id in no place. Arrow and numpy alone: neither torch nor Spark.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from training.errors import BundleError, DataError

Ints = npt.NDArray[np.int64]

UNKNOWN = 0
SHOWN = 5  # ids that an error names

COLUMNS = pa.schema(
    [
        ("item", pa.int64()),
        ("id", pa.large_string()),
        ("name", pa.large_string()),
        ("is_offered", pa.bool_()),
        ("is_sold", pa.bool_()),
        ("recent_customers", pa.int64()),
        ("by_id", pa.int64()),
    ]
)


def write_items(path: Path, rows: pa.Table) -> None:
    """Write the file.

    Args:
        path: where to.
        rows: item (from 1, each once), id (each once), name, is_offered (whether it may be recommended), is_sold
            (whether it was sold before the cut) and recent_customers (how many bought it of late).

    Raises:
        DataError: two items have one id.
    """
    ordered = rows.sort_by("item").combine_chunks()
    by_id = pc.sort_indices(ordered["id"])
    ids = ordered["id"].take(by_id)
    twice = pc.index(pc.equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0))), True).as_py()
    if twice >= 0:
        raise DataError(
            f"an item's id must stand once among the items of a bundle; '{ids[twice]}' stands twice: build the "
            "examples anew"
        )
    held = ordered.append_column("by_id", by_id).select(COLUMNS.names).cast(COLUMNS).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, COLUMNS) as writer:
        writer.write_table(held)


@dataclass(frozen=True)
class Items:
    """A file of items, mapped by `open_items`.

    Attributes:
        rows: COLUMNS, ascending by number.
        numbers: (items,) of the rows.
    """

    rows: pa.RecordBatch
    numbers: Ints

    def numbers_of(self, ids: Iterable[str | None]) -> Ints:
        """The numbers of ids; UNKNOWN of what the bundle does not know."""
        return np.fromiter((self._number(one) for one in ids), np.int64)

    def named(self, numbers: Ints) -> list[tuple[str, str]]:
        """Id and name of each of known numbers."""
        rows = pa.array(np.searchsorted(self.numbers, numbers))
        ids, names = (self.rows[column].take(rows).to_pylist() for column in ("id", "name"))
        return list(zip(ids, names, strict=True))

    def offered(self) -> Ints:
        """Numbers of the items that may be recommended, ascending."""
        return self.numbers[self._is("is_offered")]

    def popular(self) -> Ints:
        """Numbers of the items that were sold, most customers of late first, ties by number."""
        is_sold = self._is("is_sold")
        counts = self.recent_customers()[is_sold]
        return self.numbers[is_sold][np.argsort(-counts, kind="stable")]

    def recent_customers(self) -> Ints:
        """(items,) how many customers bought each of late."""
        return np.asarray(self.rows["recent_customers"].to_numpy())

    def _is(self, column: str) -> npt.NDArray[np.bool_]:
        return np.asarray(self.rows[column].to_numpy(zero_copy_only=False), np.bool_)

    def _number(self, wanted: str | None) -> int:
        if wanted is None:
            return UNKNOWN
        by_id, ids = self.rows["by_id"], self.rows["id"]

        def id_at(place: int) -> str:
            return str(ids[by_id[place].as_py()])

        place = bisect_left(range(len(ids)), wanted, key=id_at)
        is_it = place < len(ids) and id_at(place) == wanted
        return int(self.numbers[by_id[place].as_py()]) if is_it else UNKNOWN


def open_items(path: Path) -> Items:
    """Map a file of items.

    Raises:
        BundleError: it is none.
    """
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
    except pa.ArrowInvalid as error:
        raise BundleError(f"'{path}' must be a file of items; it is none: {error}; train the bundle again") from error
    if file.schema != COLUMNS:
        raise BundleError(
            f"'{path}' must have the columns {', '.join(COLUMNS.names)}; it has {', '.join(file.schema.names)}; open "
            "the bundle with the version of Millrace that wrote it"
        )
    rows = file.get_batch(0) if file.num_record_batches else pa.RecordBatch.from_pylist([], COLUMNS)
    return Items(rows, rows["item"].to_numpy())


def shown(ids: Sequence[str]) -> str:
    """Some ids, for an error."""
    return ", ".join(f"'{one}'" for one in ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
