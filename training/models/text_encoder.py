"""Texts to vectors: a transformer encoder as BERT's (Devlin et al. 2019), over packed texts: nothing is filled up.

    x_0   = norm(word + place + kind)
    x_i+1 = norm(y + narrow(gelu(widen(y))))     where  y = norm(x_i + out(attention(x_i)))
    text  = the mean of its tokens' last x, at length 1 (Sentence-BERT, Reimers and Gurevych 2019)

Shape suffixes: B texts, T tokens of all of them, D width.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.packed import Packed, attention, packed

_Size = Annotated[int, Field(ge=1, le=2**24)]  # a larger one is no model's; torch would say so in its own words


class TextEncoderConfig(BaseModel):
    """What of a Hugging Face config.json makes the encoder, by its names there; its other keys change no vector."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    model_type: Literal["bert"]
    vocab_size: _Size
    hidden_size: _Size
    num_hidden_layers: Annotated[int, Field(ge=1, le=1000)]  # as many are made before the tensors are looked at
    num_attention_heads: _Size
    intermediate_size: _Size
    max_position_embeddings: _Size
    type_vocab_size: _Size
    hidden_act: Literal["gelu"]
    layer_norm_eps: PositiveFloat = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False


class TextEncoder(nn.Module):
    """Token numbers to a vector a text.

    Args:
        config: `hidden_size` is a multiple of `num_attention_heads`.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.words = _table(config.vocab_size, width)
        self.places = _table(config.max_position_embeddings, width)
        self.kinds = _table(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, token_T: Tensor, offsets: Tensor) -> Tensor:
        """(B, D) vectors of length 1; 0 for a text without tokens.

        Args:
            token_T: int64 numbers of the vocabulary, text after text, with the signs of begin and end.
            offsets: (B + 1,) int64; a text has no more tokens than the encoder has places.
        """
        layout = packed(offsets, causal=False)
        x_TD = self.words(token_T[layout.order]) + self.places(layout.position) + self.kinds.weight[0]
        x_TD = self.norm(x_TD)
        for layer in self.layers:
            x_TD = layer(x_TD, layout)
        lengths = offsets.diff()
        text_T = torch.repeat_interleave(lengths)[layout.order]
        sum_BD = x_TD.new_zeros(len(lengths), x_TD.shape[1]).index_add(0, text_T, x_TD)
        return F.normalize(sum_BD / lengths.clamp(min=1)[:, None], dim=1)


def _table(rows: int, width: int) -> nn.Embedding:
    """Of no values yet: to draw them on the device `meta`, torch would load its compiler, 90 MB in a second."""
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class _Layer(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.widen = nn.Linear(width, config.intermediate_size)
        self.narrow = nn.Linear(config.intermediate_size, width)
        self.mixed_norm, self.norm = (nn.LayerNorm(width, config.layer_norm_eps) for _ in range(2))

    def forward(self, x_TD: Tensor, layout: Packed) -> Tensor:
        apart = (len(x_TD), self.heads, -1)
        query, key, value = (part(x_TD).view(apart) for part in (self.query, self.key, self.value))
        x_TD = self.mixed_norm(x_TD + self.out(attention(query, key, value, layout).flatten(1)))
        normed: Tensor = self.norm(x_TD + self.narrow(F.gelu(self.widen(x_TD))))
        return normed
