"""The models' configs by name: frozen, and without torch, so that settings are checked where no model is run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from training.class_configs import TextClassesConfig, TunedTextClassesConfig
from training.decoder_config import DecoderConfig
from training.identity import without_later
from training.model_config import ModelConfig, choices, search
from training.picture_configs import ConvNetConfig, VisionTransformerConfig
from training.row_configs import (
    DcnV2Config,
    DeepFmConfig,
    DlrmConfig,
    FinalMlpConfig,
    FmConfig,
    LogisticRegressionConfig,
    MultiTaskConfig,
    RowMlpConfig,
    ValueMlpConfig,
    WordWeightsConfig,
)

__all__ = ["CONFIGS", "ModelConfig", "RowMlpConfig", "carried_config", "choices", "model_identity", "search"]


class TwoTowerConfig(ModelConfig):
    """Hyper-parameters of the two towers."""

    FIRST = frozenset(
        {
            "dim",
            "temperature",
            "negatives",
            "history_days",
            "history_dropout",
            "dropout",
            "half_life_days",
            "repeat_weight",
            "drift_days",
        }
    )
    READS = ("user", "history", "history_age", "target", "new", "weight")
    READS_ITEMS = True
    SPLITS_SCORES = True

    dim: int = Field(64, ge=1, le=65_536, description="embedding width", json_schema_extra=choices(32, 64, 96, 128))
    temperature: float = Field(
        0.18,
        ge=1e-6,
        le=1e6,
        description="lower fits closer and overfits sooner",
        json_schema_extra=search(0.1, 0.35, log=True),
    )
    negatives: int = Field(
        2048,
        ge=0,
        le=2**31 - 1,
        description="uniform draws a step, beside the batch's targets where loss is softmax; the catalogue's size or "
        "more: all items",
    )
    history_days: float = Field(
        60.0, ge=1e-6, le=1e6, description="the history's decay time at the start, days; it is learned"
    )
    history_dropout: float = Field(
        0.5, ge=0, lt=1, description="share of the history's items left out", json_schema_extra=search(0.0, 0.8)
    )
    dropout: float = Field(
        0.5, ge=0, lt=1, description="of the pooled history's components", json_schema_extra=search(0.0, 0.6)
    )
    half_life_days: float = Field(
        150.0,
        ge=1e-6,
        le=1e6,
        description="age at which a row weighs half, days",
        json_schema_extra=search(40.0, 400.0, log=True),
    )
    repeat_weight: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="weight of a target bought before, against a new one",
        json_schema_extra=search(0.2, 1.0),
    )
    drift_days: tuple[Annotated[float, Field(ge=1e-6, le=1e6)], ...] = Field(
        (30.0,), max_length=16, description="fading times of the biases that follow the seasons, days"
    )
    loss: Literal["softmax", "bpr"] = Field(
        "softmax", description="what is learnt from a purchase: see docs/training.md, Losses of lists"
    )
    id_dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="with examples.item_attributes: share of a step's items that are known by their attributes alone",
    )
    modality_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="with examples.item_attributes: share of a step's items from which an attribute is left out, each "
        "attribute for itself",
    )

    @model_validator(mode="after")
    def _others(self) -> Self:
        if self.loss == "bpr" and not self.negatives:
            raise ValueError("negatives must be 1 or more where loss is bpr, which compares with them alone")
        return self


class MatrixFactorisationConfig(ModelConfig):
    """Hyper-parameters of matrix factorisation, training/models/matrix_factorisation.py."""

    FIRST: ClassVar[frozenset[str]] = frozenset(
        {"dim", "loss", "negatives", "cosines", "temperature", "margin", "negative_weight", "own_share", "l2"}
    )
    READS = ("user", "history", "target", "weight")
    READS_OF_SEQUENCES = ("user", "history", "history_weight", "history_before")

    dim: int = Field(64, ge=1, le=65_536, description="embedding width", json_schema_extra=choices(32, 64, 96, 128))
    loss: Literal["softmax", "bpr", "cosine_contrastive", "ials"] = Field(
        "softmax", description="what is learnt from a purchase: see docs/training.md, Losses of lists; ials: solved"
    )
    negatives: int = Field(
        2048,
        ge=1,
        le=2**31 - 1,
        description="uniform draws a step, for all its rows; softmax has the batch's targets beside them, of sequences "
        "as many draws by popularity; the catalogue's size or more: all items",
    )
    cosines: bool = Field(True, description="softmax, bpr: whether a score is the vectors' cosine or their product")
    temperature: float = Field(
        0.1,
        ge=1e-6,
        le=1e6,
        description="softmax, bpr: what scores are divided by; lower fits closer and overfits sooner",
        json_schema_extra=search(0.05, 0.3, log=True),
    )
    margin: float = Field(
        0.9, ge=-1, le=1, description="cosine_contrastive: the cosine below which another item costs nothing"
    )
    negative_weight: float = Field(
        150.0, gt=0, le=1e6, description="cosine_contrastive: weight of all other items together"
    )
    popularity: float = Field(
        0.0,
        ge=0,
        le=10,
        description="softmax, bpr: times the log of an item's share of purchases is added to its score, before and "
        "after training; 1: vectors learn what popularity does not say",
    )
    own_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="of a customer's own vector; the rest is the mean of the history's items; 1: ids alone",
    )
    l2: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="times half the squared lengths of a row's customer and target is added to its loss: for products; "
        "ials: of the penalty, above 0",
    )
    unobserved_weight: float = Field(
        0.1, gt=0, le=1e6, description="ials: of every customer with every item, against the weight of a purchase"
    )
    frequency_exponent: float = Field(
        1.0, ge=0, le=2, description="ials: how a vector's penalty grows with the weight of its purchases; 0: all alike"
    )

    @model_validator(mode="after")
    def _solvable(self) -> Self:
        if self.loss == "ials" and not self.l2:
            raise ValueError("l2 must be above 0 where loss is ials, e.g. 0.003; got 0: nothing keeps vectors short")
        if self.popularity and self.loss not in ("softmax", "bpr"):
            raise ValueError(f"popularity must be 0 where loss is {self.loss}; got {self.popularity:g}; leave it out")
        if self.loss == "ials" and self.own_share != 1:
            raise ValueError(f"own_share must be 1 where loss is ials, which solves ids alone; got {self.own_share:g}")
        return self


class QuantileMlpConfig(ModelConfig):
    """Hyper-parameters of the model of quantiles, training/models/quantile_mlp.py."""

    FIRST: ClassVar[frozenset[str]] = frozenset({"dim", "hidden", "dropout", "levels", "head", "scale", "unit"})

    dim: int = Field(8, ge=1, le=65_536, description="embedding width", json_schema_extra=choices(4, 8, 16, 32))
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (64, 64), max_length=16, description="widths of the hidden layers; none: a linear model"
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="of the hidden layers' components", json_schema_extra=search(0.0, 0.5)
    )
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        min_length=1,
        max_length=99,
        description="of the quantiles, ascending",
    )
    head: Literal["quantile", "negative_binomial"] = Field(
        "quantile", description="quantiles as they are, or those of a distribution of counts"
    )
    scale: str = Field("scale", description="column, where the schema has it, that the label is in units of; above 0")
    unit: float = Field(1.0, gt=0, le=1e12, description="what the label is in units of where there is no such column")

    @field_validator("levels")
    @classmethod
    def _ascending(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(high <= low for low, high in pairwise(levels)):
            raise ValueError("levels must ascend, e.g. [0.1, 0.5, 0.9]")
        return levels


class SequenceConfig(ModelConfig):
    """Hyper-parameters of the model of sequences, training/models/sequence.py."""

    FIRST: ClassVar[frozenset[str]] = frozenset(
        {"dim", "layers", "heads", "blocks", "places", "dropout", "negatives", "batch_negatives"}
    )
    READS = ("history", "history_age", "history_before")
    READS_ITEMS = True

    dim: int = Field(
        64, ge=2, le=65_536, description="width of items and tokens", json_schema_extra=choices(64, 128, 256)
    )
    layers: int = Field(2, ge=1, le=100, description="blocks, one after the other", json_schema_extra=choices(1, 2, 3))
    heads: int = Field(2, ge=1, le=1_024, description="of the attention; each is dim / heads wide, an even number")
    blocks: Literal["gated", "sasrec"] = Field(
        "gated", description="gated: pre-norm, gates, rotary places and times; sasrec: as published, learned places"
    )
    places: int = Field(
        200, ge=1, le=100_000, description="sasrec: places that are learned, from the newest line back; older share one"
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="of item vectors and of what blocks add", json_schema_extra=search(0.0, 0.6)
    )
    negatives: int = Field(
        1024,
        ge=0,
        le=2**31 - 1,
        description="uniform draws a step, for all its targets; the catalogue's size or more: all items",
    )
    batch_negatives: int = Field(
        1024, ge=0, le=2**31 - 1, description="a batch's targets that are drawn beside them, for all its targets"
    )
    id_dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="with examples.item_attributes: share of a step's items that are known by their attributes alone",
    )
    modality_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="with examples.item_attributes: share of a step's items from which an attribute is left out, each "
        "attribute for itself",
    )

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim must be a multiple of 2 x heads = {2 * self.heads}; got {self.dim}")
        if self.blocks == "gated" and self.heads == 1:
            raise ValueError("heads must be 2 or more where blocks is gated: half of them go by places, half by times")
        return self

    @model_validator(mode="after")
    def _candidates(self) -> Self:
        if not self.negatives + self.batch_negatives:
            raise ValueError("negatives and batch_negatives are both 0: nothing tells a target from other items")
        return self


class Bert4RecConfig(SequenceConfig):
    """Hyper-parameters of the model of sequences that looks both ways, training/models/bert4rec.py."""

    FIRST: ClassVar[frozenset[str]] = SequenceConfig.FIRST | {"masked"}

    masked: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="share of the lines that are hidden and predicted; at least one a sequence",
        json_schema_extra=search(0.1, 0.6),
    )


CONFIGS: dict[str, type[ModelConfig]] = {
    "two_tower": TwoTowerConfig,
    "matrix_factorisation": MatrixFactorisationConfig,
    "row_mlp": RowMlpConfig,
    "quantile_mlp": QuantileMlpConfig,
    "sequence": SequenceConfig,
    "bert4rec": Bert4RecConfig,
    "logistic_regression": LogisticRegressionConfig,
    "fm": FmConfig,
    "deepfm": DeepFmConfig,
    "dlrm": DlrmConfig,
    "dcn_v2": DcnV2Config,
    "final_mlp": FinalMlpConfig,
    "multi_task": MultiTaskConfig,
    "value_mlp": ValueMlpConfig,
    "word_weights": WordWeightsConfig,
    "text_classes": TextClassesConfig,
    "tuned_text_classes": TunedTextClassesConfig,
    "conv_net": ConvNetConfig,
    "vision_transformer": VisionTransformerConfig,
    "decoder": DecoderConfig,
}


def model_identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a model as settings name it, {"name": ..., FIELD: value, ...}."""
    config = {key: value for key, value in model.items() if key != "name"}
    return {"name": model["name"], **CONFIGS[model["name"]].parse(config).identity()}


def carried_config(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config as a bundle carries it: of the fields that came later, what is not the default."""
    kind = CONFIGS.get(name)
    return dict(config) if kind is None else without_later(config, kind, kind.FIRST)
