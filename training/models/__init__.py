"""The models by name. A new one is a file in this folder and a line here; the contract suite and tuning pick it up."""

from __future__ import annotations

from training.models.base import Model, ModelConfig, RetrievalModel
from training.models.two_tower import TwoTower

__all__ = ["MODELS", "Model", "ModelConfig", "RetrievalModel"]

MODELS: dict[str, type[RetrievalModel]] = {"two_tower": TwoTower}
