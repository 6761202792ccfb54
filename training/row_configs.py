"""Configs of the models that answer rows with probabilities: row_mlp, value_mlp, word_weights, ranking, multi_task."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from training.model_config import ModelConfig, choices, search

Widths = tuple[Annotated[int, Field(ge=1, le=65_536)], ...]
Names = tuple[Annotated[str, Field(min_length=1)], ...]


class RowConfig(ModelConfig):
    """What every model of rows with a label of 0 and 1 has."""

    FIRST: ClassVar[frozenset[str]] = frozenset({"positive_weight", "focal", "start_logit"})

    positive_weight: float = Field(
        1.0, ge=1e-3, le=1e6, description="weight of a row whose label is 1; taken out of the answers again"
    )
    focal: float = Field(
        0.0,
        ge=0,
        le=10,
        description="focal loss: rows that are right count less, by this power; taken out of the answers again; "
        "0: all count alike",
    )
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        le=10,
        description="times the log-odds of a label in the examples is added to its logit, in place of start_logit, "
        "and is part of the answers; 0: none",
    )
    start_logit: float = Field(-3.0, ge=-20, le=20, description="of all rows before training: -3 is 5 %")
    negatives_kept: float = Field(
        1.0,
        ge=1e-6,
        le=1,
        description="share of the rows whose labels are all 0 that an epoch learns from, each for 1 / share of them; "
        "1 / k with k times the epochs repeats all others k times",
    )
    calibration: Literal["none", "platt", "isotonic"] = Field(
        "none",
        description="of the answers, by the validation days, which the training then leaves out: see docs/training.md",
    )

    @property
    def rare_labels(self) -> dict[str, float | str]:
        """By setting what is done about labels of which one is rare, and to make answers probabilities again."""
        names = ("positive_weight", "focal", "logit_adjustment", "negatives_kept", "calibration")
        return {
            name: getattr(self, name) for name in names if getattr(self, name) != type(self).model_fields[name].default
        }

    @property
    def first_logit(self) -> float:
        """The network's own before training, of all rows: none where the log-odds of a label stand beside it."""
        return 0.0 if self.logit_adjustment else self.start_logit


class RowMlpConfig(RowConfig):
    """Hyper-parameters of the network for rows."""

    FIRST: ClassVar[frozenset[str]] = RowConfig.FIRST | {"dim", "hidden", "dropout"}

    dim: int = Field(8, ge=1, le=65_536, description="embedding width", json_schema_extra=choices(4, 8, 16, 32))
    hidden: Widths = Field((64, 32), max_length=16, description="widths of the hidden layers; none: a linear model")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="of the hidden layers' components", json_schema_extra=search(0.0, 0.5)
    )


class ValueMlpConfig(RowMlpConfig):
    """Hyper-parameters of the network for whether, how much and how often."""

    FIRST: ClassVar[frozenset[str]] = RowMlpConfig.FIRST | {"scale"}

    start_logit: float = Field(0.0, ge=-20, le=20, description="of all rows before training: 0 is 50 %")
    scale: str = Field(
        "value_mean", description="column, where the schema has it, that amounts are in units of; above 0"
    )


class WordWeightsConfig(RowConfig):
    """Hyper-parameters of the model of texts, training/models/word_weights.py."""

    FIRST: ClassVar[frozenset[str]] = RowConfig.FIRST | {"dim", "hidden", "reach", "dropout"}
    READS = ("words", "pairs")

    dim: int = Field(32, ge=1, le=65_536, description="width of a word's vector", json_schema_extra=choices(16, 32, 64))
    hidden: int = Field(64, ge=1, le=65_536, description="width of what a word and its neighbours give")
    reach: int = Field(2, ge=0, le=100, description="words on either side that shift a word's weight")
    dropout: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="of the vectors' components and of what they give",
        json_schema_extra=search(0.1, 0.7),
    )


class LogisticRegressionConfig(RowConfig):
    """Hyper-parameters of logistic regression: none beside the loss's."""


class FmConfig(RowConfig):
    """Hyper-parameters of the factorisation machine."""

    FIRST: ClassVar[frozenset[str]] = RowConfig.FIRST | {"dim"}

    dim: int = Field(16, ge=1, le=65_536, description="width of a field's vector", json_schema_extra=choices(8, 16, 32))


class DeepConfig(FmConfig):
    """What the models of fields with a network have."""

    FIRST: ClassVar[frozenset[str]] = FmConfig.FIRST | {"hidden", "dropout"}

    hidden: Widths = Field((128, 64), max_length=16, description="widths of the network's layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="of their components", json_schema_extra=search(0.0, 0.5))


class DeepFmConfig(DeepConfig):
    """Hyper-parameters of DeepFM."""


class DlrmConfig(DeepConfig):
    """Hyper-parameters of DLRM."""

    FIRST: ClassVar[frozenset[str]] = DeepConfig.FIRST | {"bottom"}

    bottom: Widths = Field((64,), max_length=16, description="widths of the layers that make one vector of all numbers")


class DcnV2Config(DeepConfig):
    """Hyper-parameters of DCN-V2."""

    FIRST: ClassVar[frozenset[str]] = DeepConfig.FIRST | {"crosses", "rank"}

    crosses: int = Field(2, ge=1, le=16, description="cross layers; n of them find crosses of n + 1 fields")
    rank: int = Field(
        32,
        ge=0,
        le=65_536,
        description="of a cross layer's matrix; 0, or half a row's width and more: a whole matrix",
        json_schema_extra=choices(0, 16, 32, 64),
    )


class FinalMlpConfig(DeepConfig):
    """Hyper-parameters of FinalMLP."""

    FIRST: ClassVar[frozenset[str]] = DeepConfig.FIRST | {"second_hidden", "first_gates", "second_gates", "heads"}

    second_hidden: Widths = Field(
        (64,), min_length=1, max_length=16, description="widths of the second stream's layers"
    )
    first_gates: Names = Field(
        (), max_length=500, description="columns that say how much each field counts in the first stream; none: all"
    )
    second_gates: Names = Field((), max_length=500, description="columns that say so in the second stream; none: all")
    heads: int = Field(2, ge=1, le=1_024, description="of the fusion; must divide the last widths of both streams")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        widths = [hidden[-1] if hidden else 0 for hidden in (self.hidden, self.second_hidden)]
        if not all(widths) or any(width % self.heads for width in widths):
            raise ValueError(
                f"the last widths of hidden and second_hidden must be multiples of heads = {self.heads}; got {widths}"
            )
        return self


class MultiTaskConfig(DeepConfig):
    """Hyper-parameters of the model of several labels."""

    FIRST: ClassVar[frozenset[str]] = DeepConfig.FIRST | {"shared_experts", "own_experts", "levels", "tower"}

    hidden: Widths = Field((64,), min_length=1, max_length=16, description="widths of an expert's layers")
    shared_experts: int = Field(
        4, ge=1, le=1_024, description="of all labels; 1 and none of their own: a shared bottom"
    )
    own_experts: int = Field(0, ge=0, le=1_024, description="of each label; 0: MMoE; more: PLE")
    levels: int = Field(1, ge=1, le=16, description="of experts and gates, one after the other")
    tower: Widths = Field((32,), max_length=16, description="widths of the layers that make a label's logit")
