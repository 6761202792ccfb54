"""Configs of the models of texts in classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from training.encoder_config import TextEncoderConfig
from training.model_config import ModelConfig, choices, search


class TextClassesConfig(ModelConfig):
    """Hyper-parameters of the model of texts in classes, training/models/text_classes.py."""

    FIRST: ClassVar[frozenset[str]] = frozenset(
        {"dim", "dropout", "terms_dropped", "smoothing", "mixed", "calibration", "kept"}
    )
    READS: ClassVar[tuple[str, ...]] = ("terms",)

    dim: int = Field(128, ge=1, le=65_536, description="width of a text's vector", json_schema_extra=choices(64, 128))
    dropout: float = Field(
        0.2, ge=0, lt=1, description="of the components of a text's vector", json_schema_extra=search(0.0, 0.5)
    )
    terms_dropped: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="share of a step's texts that are learnt by their own vectors alone, where they have such",
        json_schema_extra=search(0.0, 0.6),
    )
    smoothing: float = Field(0.0, ge=0, lt=1, description="share of a label that is dealt out to all classes")
    mixed: float = Field(
        0.5,
        ge=0,
        le=10,
        description="weight of a mixture of two texts of different classes, which is of none of them; 0: without",
    )
    calibration: Literal["none", "temperature"] = Field(
        "temperature",
        description="of confidence, and of what is in scope, by the validation days, left out of the training",
    )
    kept: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="share of the validation days' messages with an intent that stays in scope; where these days have "
        "messages without one too, as many as then tell both apart best",
    )
    learn: Literal["all", "new"] = Field(
        "all",
        description="new: those classes alone that the bundle of training.start_from has not; all that it has learnt "
        "stays as it is",
    )
    new_weight: float = Field(
        4.0,
        gt=0,
        le=1e6,
        description="learn=new: weight of a text of a new class, of which there are few beside the others",
    )
    learnt: int | None = Field(
        None,
        ge=2,
        description="learn=new: classes of the bundle, the one of none included; a training reads it from the bundle",
    )


class TunedTextClassesConfig(TextClassesConfig):
    """Hyper-parameters of the model that tunes a text encoder, training/models/tuned_text_classes.py."""

    FIRST: ClassVar[frozenset[str]] = TextClassesConfig.FIRST | {"tuned", "rank", "alpha", "encoder"}
    READS = ("terms", "tokens")
    READS_BY = "options.tokens_kept"

    tuned: Literal["lora", "whole"] = Field(
        "lora", description="lora: adapters on the attention's queries and values; whole: all numbers of the encoder"
    )
    rank: int = Field(8, ge=1, le=1_024, description="lora: width of an adapter", json_schema_extra=choices(4, 8, 16))
    alpha: float = Field(16.0, gt=0, le=1e6, description="lora: over `rank` the weight of what an adapter adds")
    encoder: TextEncoderConfig | None = Field(
        None, description="what the encoder is; a training reads it from the config.json of options.weights"
    )
