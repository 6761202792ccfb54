"""Small bundles for the tests of what scores with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from jobs.tasks import TASKS
from training.models import MODELS
from training.schema import Schema
from training.state.bundle import Bundle
from training.state.publish import write_bundle


def example_schema(users: int, items: int) -> Schema:
    """The columns of the recommendation task's examples."""
    return TASKS["recommend"].schema({"users": users, "items": items})


def two_tower_bundle(folder: Path, *, users: int, items: int, provenance: dict[str, Any] | None = None) -> Bundle:
    """An untrained two-tower model of these vocabularies' sizes (index 0 included), the same each time."""
    schema = example_schema(users, items)
    kind = MODELS["two_tower"]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        counts = {name: torch.arange(items).float() for name in ("count", "user_count", "recent_count")}
        model = kind(kind.Config.parse({"dim": 8}), schema, counts)  # type: ignore[call-arg]
        torch.nn.init.normal_(model.users.weight, std=0.1)  # type: ignore[union-attr,arg-type]
    return write_bundle(
        folder,
        model_name="two_tower",
        config={"dim": 8},
        schema=schema,
        tensors=model.state_dict(),
        provenance=provenance or {},
        settings={},
        metrics={},
    )
