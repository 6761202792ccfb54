"""Small bundles, and items as executors leave them, for the tests of what answers with them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jobs.settings import Settings
from jobs.tasks import TASKS
from spark_udfs.item_files import ItemFile
from training.models import MODELS
from training.schema import Column, Kind, Schema
from training.state.bundle import Bundle
from training.state.publish import write_bundle


def example_schema(users: int, items: int, weights: Mapping[str, float] | None = None) -> Schema:
    """The columns of the recommendation task's examples, where kinds of events are worth so much."""
    settings = None if weights is None else Settings(**{"examples": {"weights": weights}})
    return TASKS["recommend"].schema({"users": users, "items": items}, settings)


def two_tower_bundle(
    folder: Path,
    *,
    users: int,
    items: int,
    provenance: dict[str, Any] | None = None,
    weights: Mapping[str, float] | None = None,
    attachments: Mapping[str, Path] | None = None,
    dim: int = 8,
) -> Bundle:
    """An untrained two-tower model of these vocabularies' sizes (index 0 included), the same each time."""
    schema = example_schema(users, items, weights)
    kind = MODELS["two_tower"]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        counts = {name: torch.arange(items).float() for name in ("count", "user_count", "recent_count")}
        model = kind(kind.Config.parse({"dim": dim}), schema, counts)  # type: ignore[call-arg]
        torch.nn.init.normal_(model.users.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    return write_bundle(
        folder,
        model_name="two_tower",
        config={"dim": dim},
        schema=schema,
        tensors=model.state_dict(),
        provenance=provenance or {},
        settings={},
        metrics={},
        attachments=attachments,
    )


def quantile_bundle(folder: Path, levels: Sequence[float], steps: int) -> Bundle:
    """An untrained model of a panel's quantiles."""
    target = Column("target", Kind.LABEL, length=steps)
    schema = Schema((Column("scale", Kind.DENSE, length=steps), Column("lags", Kind.DENSE, length=2), target))
    kind = MODELS["quantile_mlp"]
    config = {"levels": list(levels), "head": "negative_binomial"}
    model = kind(kind.Config.parse(config), schema)
    return write_bundle(
        folder,
        model_name="quantile_mlp",
        config=config,
        schema=schema,
        tensors=model.state_dict(),
        provenance={},
        settings={},
        metrics={},
    )


def items_in(folder: Path, items: Sequence[int] | np.ndarray, **columns: np.ndarray) -> ItemFile:
    """Items, and a row of each column for each, written here: `spark_udfs.item_files.save_items` without Spark."""
    ids = np.asarray(items, np.int64)
    of = {"item": ids, **columns}
    place = folder / hashlib.sha256(b"".join(values.tobytes() for values in of.values())).hexdigest()[:16]
    place.mkdir()
    for name, values in of.items():
        values.tofile(place / name)
    kinds = {name: (str(values.dtype), values.shape[1] if values.ndim > 1 else 0) for name, values in of.items()}
    return ItemFile(str(place), len(ids), kinds)
