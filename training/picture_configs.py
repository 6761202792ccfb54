"""Configs of the models of pictures in classes."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from training.model_config import ModelConfig, choices, search

_FIRST = frozenset({"dim", "smoothing", "flipped", "shifted", "erased", "mirrored"})


class PictureConfig(ModelConfig):
    """What the models of pictures share."""

    FIRST: ClassVar[frozenset[str]] = _FIRST
    READS = ("picture", "label")

    dim: int = Field(64, ge=1, le=65_536, description="width of a picture's vector", json_schema_extra=choices(32, 64))
    smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of a label that is dealt out to all classes",
        json_schema_extra=search(0.0, 0.2),
    )
    flipped: float = Field(
        0.5, ge=0, le=1, description="share of a step's pictures that are seen left for right; never upside down"
    )
    shifted: int = Field(
        1, ge=0, le=1_000, description="pixels by which a picture is moved at most while it is learnt from, each way"
    )
    erased: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of a step's pictures of which a rectangle is covered: for long trainings",
        json_schema_extra=search(0.0, 0.5),
    )
    mirrored: bool = Field(
        True, description="an answer is the mean of a picture's and of the one that is seen left for right: takes twice"
    )


class ConvNetConfig(PictureConfig):
    """Hyper-parameters of the convolutional network, training/models/conv_net.py."""

    FIRST: ClassVar[frozenset[str]] = _FIRST | {"widths", "halved", "grid"}

    widths: tuple[Annotated[int, Field(ge=1, le=4_096)], ...] = Field(
        (32, 64, 64),
        min_length=1,
        max_length=16,
        description="channels of the first convolution and of each block after it",
    )
    halved: int = Field(
        2,
        ge=1,
        le=16,
        description="how often a picture's sides are halved: by the first convolution, and by the blocks after it",
    )
    grid: int = Field(
        7,
        ge=1,
        le=64,
        description="parts of a side over which the last means are taken, for where something stands tells in pictures "
        "that are taken alike; 1: one mean of all",
        json_schema_extra=choices(1, 2, 4, 7),
    )

    @model_validator(mode="after")
    def _halved_by_what_is_there(self) -> Self:
        if self.halved > len(self.widths):
            raise ValueError(f"halved must be {len(self.widths)} at most, a time for each of widths; got {self.halved}")
        return self


class VisionTransformerConfig(PictureConfig):
    """Hyper-parameters of the vision transformer, training/models/vision_transformer.py."""

    FIRST: ClassVar[frozenset[str]] = _FIRST | {"patch", "width", "layers", "heads", "dropout"}

    patch: int = Field(4, ge=1, le=256, description="pixels of a patch's side; a picture's sides are multiples of it")
    width: int = Field(64, ge=2, le=8_192, description="of a patch's vector", json_schema_extra=choices(64, 96, 128))
    layers: int = Field(3, ge=1, le=100, description="blocks, one after the other", json_schema_extra=choices(2, 4, 6))
    heads: int = Field(4, ge=1, le=256, description="of the attention; each is width / heads wide")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what blocks add", json_schema_extra=search(0.0, 0.3))

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads = {self.heads}; got {self.width}")
        return self
