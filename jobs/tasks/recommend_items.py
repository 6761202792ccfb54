"""What a bundle knows of its items, beside their vectors: ids, names and which may be recommended. Imports no Spark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.pinned import place
from training.state.items import write_items
from training.state.names import ITEMS

if TYPE_CHECKING:
    import pyarrow as pa

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
