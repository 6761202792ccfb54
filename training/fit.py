"""The training loop, read top to bottom.

    result = fit(model, loader, FitSettings(epochs=3), world=World.current(), checkpoint_dir="out/checkpoints")
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from training.batch import Batch
from training.record import Event, Pruned
from training.world import World

__all__ = ["Event", "FitResult", "FitSettings", "Pruned", "fit"]


class FitSettings(BaseModel):
    """How to train. The values that change what is computed are part of a checkpoint's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1024, ge=1, description="rows per optimizer step, over all ranks")
    learning_rate: float = Field(default=1e-3, gt=0)
    embedding_learning_rate: float = Field(default=0.05, gt=0)
    embedding_optimizer: Literal["rowwise_adagrad", "sparse_adam"] = "rowwise_adagrad"
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    seed: int = 0
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    checkpoint_every_s: float | None = Field(default=600.0, gt=0)
    keep_checkpoints: int = Field(default=2, ge=1)
    max_nonfinite_share: float = Field(default=0.01, ge=0, le=1)
    metric: str = Field(default="loss", description="what decides the best epoch: a validation metric's name, or 'loss'")
    metric_mode: Literal["min", "max"] = "min"
    early_stopping_patience: int | None = Field(default=None, ge=1, description="epochs without a better metric")
    report_every_s: float = Field(default=5.0, ge=0)


class Loader(Protocol):
    """What `fit` needs of a loader; `training.reader.Loader` is the one that streams."""

    @property
    def steps_per_epoch(self) -> int: ...
    def epoch(self, epoch: int) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Trainable(Protocol):
    """What `fit` needs of a model besides being an `nn.Module`."""

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class FitResult:
    """How a training went.

    Attributes:
        steps: optimizer steps done, those before a resume included.
        epochs: epochs done.
        final_loss: mean loss over the rows of the last epoch, over all ranks.
        history: one dict an epoch: epoch, step, loss and the validation's metrics.
        best: the entry of `history` that the metric names best.
    """

    steps: int
    epochs: int
    final_loss: float
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)


def step_seed(seed: int, *position: int) -> int:
    """A seed that is a function of the run's seed and a position (epoch, step, rank), well mixed, below 2**63."""
    text = "/".join(str(part) for part in (seed, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def fit(
    model: nn.Module,
    loader: Loader,
    settings: FitSettings,
    *,
    world: World,
    checkpoint_dir: str | None = None,
    validate: Callable[[Any], Mapping[str, float]] | None = None,
    report: Callable[[Event], None] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train `model` in place."""
    generator = torch.Generator()
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    history: list[dict[str, float]] = []
    step = 0
    for epoch in range(settings.epochs):
        total, weights = 0.0, 0.0
        for batch in loader.epoch(epoch):
            generator.manual_seed(step_seed(settings.seed, epoch, step, world.rank))
            loss, weight = model.loss(batch, generator)  # type: ignore[operator]
            optimizer.zero_grad()
            (loss / weight.clamp(min=1e-12)).backward()
            optimizer.step()
            step += 1
            total, weights = total + float(loss), weights + float(weight)
        history.append({"epoch": epoch, "step": step, "loss": total / max(weights, 1e-12), **(validate(model) if validate else {})})
    return FitResult(step, settings.epochs, history[-1]["loss"], history, history[-1])
