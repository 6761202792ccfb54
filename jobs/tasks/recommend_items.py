"""What is read of the catalogue: columns by the items' indices, and what a bundle knows of items beside their vectors.

That is ids, names and which may be recommended. Imports no Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.pinned import place
from training.state.items import write_items
from training.state.names import ITEMS

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from training.schema import Schema

LISTED = "listed"  # a column of the catalogue: whether the item could be recommended at the cut, sold or not
HELD = ("item", "item_id", "name", "count", "recent_customers")


def attached(spec: Mapping[str, Any], columns: Schema, folder: Path) -> dict[str, Path]:
    """Write what goes with the bundle, from the catalogue as of the training cut: what `score` may recommend then.

    Args:
        spec: from `jobs.learn_spec.learn_spec`.
        columns: of the examples; where they say something of items, those that are listed may be recommended too.
        folder: where to.
    """
    from training.data.snapshot import open_snapshot, read_table

    catalogue = open_snapshot(**place(spec, "catalogue"))
    ranks_unsold = bool(columns.of_items) and LISTED in catalogue.schema.names
    write_items(folder / ITEMS, _items(read_table(catalogue, [*HELD, *([LISTED] if ranks_unsold else [])])))
    return {ITEMS: folder / ITEMS}


def _items(catalogue: pa.Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    is_sold = pc.greater(catalogue["count"], 0)
    offered = pc.or_(is_sold, catalogue[LISTED]) if LISTED in catalogue.column_names else is_sold
    return pa.table(
        {
            "item": catalogue["item"],
            "id": catalogue["item_id"],
            "name": catalogue["name"],
            "is_offered": offered,
            "is_sold": is_sold,
            "recent_customers": catalogue["recent_customers"],
        }
    )


def by_index(column: pa.ChunkedArray, items: Tensor, count: int, width: int | None) -> Tensor:
    """(count,) or (count, width): a column of the catalogue by the items' indices; 0 where it has no row.

    A chunk at a time: lists in one array have 2^31 numbers at most, and would be in memory twice.

    Args:
        column: numbers, or lists of `width` numbers.
        items: (rows,) their indices.
        count: of indices, the unknown item's included.
        width: of the lists; None: numbers.
    """
    import torch

    shape = () if width is None else (width,)
    number = column.type if width is None else column.type.value_type
    found = torch.zeros(count, *shape, dtype=getattr(torch, str(number.to_pandas_dtype().__name__)))
    for chunk, own in zip(column.chunks, torch.split(items, [len(chunk) for chunk in column.chunks]), strict=True):
        values = (chunk if width is None else chunk.flatten()).to_numpy(zero_copy_only=False)
        found.index_copy_(0, own, torch.tensor(values).reshape(-1, *shape))
    return found
