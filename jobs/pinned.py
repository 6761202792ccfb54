"""The pinned tables of a spec, as a rank opens them. Imports no Spark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def place(spec: Mapping[str, Any], table: str) -> dict[str, Any]:
    """Arguments of `open_snapshot` for one of the spec's pinned tables."""
    return place_of(spec["tables"][table])


def place_of(pinned: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `open_snapshot` for a pinned table, as a spec and a bundle's provenance name it."""
    partitions = pinned.get("partitions", {"split": pinned["splits"]})  # bundles of earlier versions name splits alone
    return {"uri": pinned["uri"], "version": pinned["version"], "partitions": partitions}
