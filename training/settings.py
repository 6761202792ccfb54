"""How to train: the settings of `fit`, and what follows from them by arithmetic alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from training.errors import SettingsError
from training.identity import identity_of, without_later

Compression = Literal["none", "fp16", "bf16"]
MatmulPrecision = Literal["highest", "high", "medium"]
DeviceChoice = Literal["auto", "cpu", "cuda"]

# Settings that say how long or how safely to train, not what is computed: they may change between stop and resume.
FREE = {
    "epochs",
    "checkpoint_every_steps",
    "checkpoint_every_s",
    "keep_checkpoints",
    "max_nonfinite_share",
    "early_stopping_patience",
    "report_every_s",
}
# The settings that every identity holds; none that comes later (training/identity.py).
_FIRST = {
    "batch_size",
    "accumulate",
    "learning_rate",
    "embedding_learning_rate",
    "embedding_optimizer",
    "dense_optimizer",
    "weight_decay",
    "warmup_steps",
    "scaling_rule",
    "base_batch_size",
    "clip_norm",
    "compression",
    "precision",
    "compile",
    "shard_tables_above_mb",
    "seed",
    "metric",
    "metric_mode",
}


class FitSettings(BaseModel):
    """How to train. The values that change what is computed are part of a checkpoint's identity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=1, ge=1, le=1_000_000, description="times that all rows are learned from")
    batch_size: int = Field(default=1024, ge=1, le=2**31 - 1, description="rows per optimizer step, over all ranks")
    accumulate: int = Field(
        default=1, ge=1, le=1_000_000, description="batches whose gradients are added up for one optimizer step"
    )
    learning_rate: float = Field(
        default=1e-3,
        gt=0,
        description="of the dense parameters' optimizer; LARS wants one of the order of 1",
        json_schema_extra={"search": {"low": 3e-4, "high": 1e-2, "log": True}},
    )
    embedding_learning_rate: float = Field(
        default=0.05,
        gt=0,
        description="of the embedding tables' optimizer",
        json_schema_extra={"search": {"low": 0.01, "high": 0.3, "log": True}},
    )
    embedding_optimizer: Literal["rowwise_adagrad", "sparse_adam"] = Field(
        default="rowwise_adagrad", description="of the embedding tables; it touches the rows that a step used"
    )
    dense_optimizer: Literal["adamw", "lamb", "lars"] = Field(
        default="adamw", description="LAMB and LARS step each matrix by its own norm: for large batches"
    )
    weight_decay: float = Field(default=0.0, ge=0, description="of dense matrices, a share of the learning rate a step")
    warmup_steps: int = Field(
        default=0, ge=0, le=2**31 - 1, description="steps in which the learning rates rise linearly from 0"
    )
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="constant",
        description="how the learning rates go after the warm-up: they stay, or fall towards 0 at the last step",
    )
    scaling_rule: Literal["none", "linear", "sqrt"] = Field(
        default="none", description="how the learning rates grow with batch_size / base_batch_size"
    )
    base_batch_size: int = Field(
        default=1024, ge=1, le=2**31 - 1, description="rows at which the scaling rule leaves the rates as given"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="limit of the gradient's norm, over all parameters")
    compression: Compression = Field(default="none", description="type in which gradients travel between ranks")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="bf16: products in bfloat16; weights, sums and what travels stay float32"
    )
    matmul_precision: MatmulPrecision = Field(
        default="highest",
        description="of float32 products: high and medium may round factors to TF32 or bfloat16, where that is faster",
    )
    compile: bool = Field(default=False, description="torch.compile; goes on without where it fails, and says so")
    shard_tables_above_mb: float | None = Field(
        default=None, ge=0, description="tables larger than this, MB of float32, are dealt out over the ranks by row"
    )
    seed: int = Field(default=0, ge=-(2**63), lt=2**63, description="decides the order of rows and all random draws")
    checkpoint_every_steps: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="steps between checkpoints, besides every epoch's end"
    )
    checkpoint_every_s: float | None = Field(
        default=600.0, gt=0, description="seconds between checkpoints, besides every epoch's end"
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, le=1_000, description="newest checkpoints that are kept; the best is kept besides"
    )
    max_nonfinite_share: float = Field(
        default=0.01, ge=0, le=1, description="share of all steps that may be skipped for what is not finite"
    )
    metric: str = Field(default="loss", description="decides the best epoch: the name of a validation metric, or loss")
    metric_mode: Literal["min", "max"] = Field(default="min", description="whether less or more of it is better")
    early_stopping_patience: int | None = Field(
        default=None, ge=1, le=1_000_000, description="epochs without a better metric after which it stops"
    )
    report_every_s: float = Field(default=5.0, ge=0, description="seconds between progress lines")

    def rows_per_batch(self, world_size: int) -> int:
        """Rows of a batch of one rank, so that an optimizer step sees `batch_size` rows.

        Raises:
            SettingsError: the batch size cannot be dealt out evenly.
        """
        parts = world_size * self.accumulate
        if self.batch_size % parts:
            raise SettingsError(
                f"training.batch_size must be a multiple of ranks x accumulate = {world_size} x {self.accumulate}; "
                f"got {self.batch_size}; use {-(-self.batch_size // parts) * parts}"
            )
        return self.batch_size // parts

    def rate(self, step: int, steps: int) -> float:
        """Share of the learning rates that applies in a step: the scaling rule, times warm-up and schedule.

        Linear scaling and warm-up as in Goyal et al. 2017; the square root suits adaptive optimizers (Malladi et al.
        2022). Cosine as in Loshchilov and Hutter 2017, without restarts. A function of the step alone, so that a
        training that goes on has the rates of an unbroken one.

        Args:
            step: from 0.
            steps: of the whole training, all epochs: what a falling schedule falls over.
        """
        ratio = self.batch_size / self.base_batch_size
        scale = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.scaling_rule]
        return scale * min(1.0, (step + 1) / (self.warmup_steps + 1)) * self._fall(step, steps)

    def _fall(self, step: int, steps: int) -> float:
        done = max(0, step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        if self.schedule == "constant":
            return 1.0
        return 1.0 - done if self.schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2

    def identity(self) -> dict[str, Any]:
        """The settings that a checkpoint must share with the training that goes on from it.

        The epochs are among them where the learning rates fall over them.
        """
        return identity_of(self, _FIRST, FREE if self.schedule == "constant" else FREE - {"epochs"})

    @classmethod
    def carried(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings as a bundle carries them: of those that came later, what is not the default."""
        return without_later(values, cls, _FIRST | FREE)


def step_seed(seed: int, *position: int) -> int:
    """A seed that is a function of the run's seed and a position (epoch, step, rank), well mixed, below 2**63."""
    text = "/".join(str(part) for part in (seed, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
