"""What the models of pictures in classes share: the label, the loss, the answer; each has a network of its own.

    vector = W network(pixels)         logit_c = b_c + class_c . vector         p = softmax over the classes 1, 2, ...

An answer is the mean of both sides: of the picture, and of it seen left for right, as it was learnt from.

Class 0 is that of a label that the vocabulary does not know: nothing is learnt of it, and none is ever said.

Shape suffixes: B pictures, C classes without class 0, D dim, K channels, H x W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.batch import Batch
from training.configs import ModelConfig
from training.errors import SchemaError
from training.models.base import Model
from training.picture_configs import PictureConfig
from training.pixels import on_device
from training.schema import Column, Kind, Schema
from training.tables.sharded import Tables


class PictureModel(Model):
    """A model of pictures. Reads one picture of a fixed shape, as pixels or as their bytes, and one label, the number
    of a class.

    Raises:
        SchemaError: the schema has not one picture with a shape, or not one label with a vocabulary of at least one
            class.
    """

    COMPILED: ClassVar[tuple[str, ...]] = ()

    config: PictureConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        self.picture, label = _picture(schema), _label(schema)
        self.label, self.count = label.name, cast("int", label.size)
        width = self.make_network(cast("tuple[int, int, int]", self.picture.shape))
        self.to_vector = nn.Linear(width, self.config.dim)
        self.classes = nn.Linear(self.config.dim, self.count - 1)

    @abstractmethod
    def make_network(self, shape: tuple[int, int, int]) -> int:
        """Make the network's layers, for pictures of (height, width, channels); returns the width of what it gives."""

    @abstractmethod
    def network(self, pixels_BKHW: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, width) of pixels from -1 to 1; what is dropped is drawn from the generator, nothing without."""

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        drawn = generator if self.training else None
        logits_BC = self.classes(self.to_vector(self.network(self._pixels(batch), drawn))).float()
        label_B = cast("Tensor", batch[self.label]).long()
        known_B = (label_B > 0) & (label_B < self.count)
        target_B = torch.where(known_B, label_B - 1, -100)
        loss = F.cross_entropy(
            logits_BC, target_B, reduction="sum", ignore_index=-100, label_smoothing=self.config.smoothing
        )
        return loss, known_B.sum().to(loss.dtype)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`class`, the number of the likeliest one, and `p`, its probability: (B,) each; `probabilities` of all,
        (B, C); and `vector`, (B, D) of length 1."""
        pixels_BKHW = self._pixels(batch)
        sides = [pixels_BKHW, pixels_BKHW.flip(3)] if self.config.mirrored else [pixels_BKHW]
        vectors = [self.to_vector(self.network(side, None)) for side in sides]
        p_BC = torch.stack([torch.softmax(self.classes(vector).float(), dim=1) for vector in vectors]).mean(dim=0)
        vector_BD = torch.stack(vectors).mean(dim=0)
        p_B, best_B = p_BC.max(dim=1)
        return {
            "class": (best_B + 1).float(),
            "p": p_B,
            "probabilities": p_BC,
            "vector": F.normalize(vector_BD.float(), dim=1),
        }

    def _pixels(self, batch: Batch) -> Tensor:
        """(B, K, H, W)"""
        pictures = cast("Tensor | list[bytes]", batch[self.picture.name])
        return on_device(pictures, self.picture, self.classes.weight.device)


def _picture(schema: Schema) -> Column:
    pictures = [column for column in schema if column.kind is Kind.IMAGE]
    if len(pictures) != 1 or pictures[0].shape is None:
        found = [f"{picture.name} of shape {picture.shape}" for picture in pictures]
        raise SchemaError(
            f"a model of pictures needs one picture of a fixed shape; the schema has {found}; take another model, or "
            "build examples with pictures"
        )
    return pictures[0]


def _label(schema: Schema) -> Column:
    labels = [column for column in schema if column.kind is Kind.LABEL]
    if len(labels) != 1 or labels[0].length is not None or (labels[0].size or 0) < 2:
        found = [f"{label.name} of {label.size or 0} numbers" for label in labels]
        raise SchemaError(
            "a model of pictures needs one label, a number of a vocabulary of two at least, that of what is not known "
            f"included; the schema has the labels {found}; take another model, or examples of at least one class"
        )
    return labels[0]
