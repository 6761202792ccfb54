"""Texts in classes by their terms and a text encoder that is tuned with them, whole or by LoRA.

    text = sum of the vectors of its terms / sqrt(terms) + W encoder(its tokens)

All else is as in `text_classes` with vectors: there they are taken as they are, here they are learnt. With adapters
(training/models/low_rank.py) the first step computes what it would with the vectors of the weights that tuning starts
from. The encoder's own numbers are part of the model's state, frozen or not: a bundle needs no other file to answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor

from training.batch import Batch, Ragged
from training.class_configs import TunedTextClassesConfig
from training.configs import ModelConfig
from training.errors import SchemaError, SettingsError
from training.models.low_rank import adapt
from training.models.text_classes import TextClasses
from training.models.text_encoder import TextEncoder
from training.schema import Schema
from training.tables.sharded import Tables


class TunedTextClasses(TextClasses):
    """`TextClasses` that reads `tokens`, the numbers of a text's tokens, begin and end included, and no vectors.

    Attributes:
        encoder: of the tokens, to be given weights by `start_with`.

    Raises:
        SchemaError: the schema's tokens are of another vocabulary than the encoder's.
        SettingsError: the config does not say what the encoder is.
    """

    Config: ClassVar[type[ModelConfig]] = TunedTextClassesConfig

    config: TunedTextClassesConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        shape = self.config.encoder
        assert shape is not None  # `_own_width` has looked
        self.encoder = TextEncoder(shape)
        if self.config.tuned == "lora":
            adapt(self.encoder, self.config.rank, self.config.alpha)
        if self.first_new:
            self._keep_all_but_classes()

    @torch.no_grad()
    def start_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the encoder the weights that tuning starts from; adapters keep theirs."""
        own = self.encoder.state_dict()
        self.encoder.load_state_dict({**own, **tensors})

    def _own_width(self, schema: Schema) -> int:
        if self.config.encoder is None:
            raise SettingsError(
                "model.encoder must say what the encoder is, as config.json of its weights does; it is null: a "
                "training fills it in by options.weights"
            )
        if (size := schema["tokens"].size) != self.config.encoder.vocab_size:
            raise SchemaError(
                f"tokens must be of the encoder's vocabulary, of {self.config.encoder.vocab_size} numbers; the "
                f"examples' have {size}: build them with the weights that tuning starts from"
            )
        return self.config.encoder.hidden_size

    def _own(self, batch: Batch) -> Tensor:
        tokens = cast("Ragged", batch["tokens"])
        if torch.is_grad_enabled():
            return cast("Tensor", self.encoder(tokens.values, tokens.offsets))
        return self.encoder.in_passes(tokens.values, tokens.offsets)
