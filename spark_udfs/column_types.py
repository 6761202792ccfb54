"""What is wrong with a DataFrame's columns, for those who name the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def type_problems(df: DataFrame, columns: Mapping[str, str]) -> list[str]:
    """The columns that are missing or of another type, a text each.

    Args:
        df: the rows.
        columns: Spark's name of each column's type ("bigint", "array<float>"), by column.
    """
    held = {field.name: field.dataType.simpleString() for field in df.schema.fields}
    return [
        f"column '{name}' must be {wanted}, it is {held.get(name, 'missing')}"
        for name, wanted in columns.items()
        if held.get(name) != wanted
    ]
