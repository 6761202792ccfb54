"""Texts to vectors: a transformer encoder as BERT's (Devlin et al. 2019), over packed texts: nothing is filled up.

    x_0   = norm(word + place + kind)
    x_i+1 = norm(y + narrow(gelu(widen(y))))     where  y = norm(x_i + out(attention(x_i)))
    text  = the mean of its tokens' last x, at length 1 (Sentence-BERT, Reimers and Gurevych 2019)

Shape suffixes: B texts, T tokens of all of them, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.encoder_config import TextEncoderConfig
from training.models.packed import Packed, attention, packed

BUDGET = 1024  # tokens of one pass, so that what it computes stays in a core's cache


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
        x_TD = self.words(token_T[layout.order]) + self.places(layout.position) + self.kinds(token_T.new_zeros(1))
        x_TD = self.norm(x_TD)
        for layer in self.layers:
            x_TD = layer(x_TD, layout)
        lengths = offsets.diff()
        text_T = torch.repeat_interleave(lengths)[layout.order]
        sum_BD = x_TD.new_zeros(len(lengths), x_TD.shape[1]).index_add(0, text_T, x_TD)
        return F.normalize(sum_BD / lengths.clamp(min=1)[:, None], dim=1)

    def in_passes(self, token_T: Tensor, offsets: Tensor) -> Tensor:
        """The same of any number of texts, about BUDGET tokens at a time: for answers, not for learning.

        The shortest texts come first, so that a pass has few lengths and attention few blocks.
        """
        lengths = offsets.diff()
        by_length = torch.argsort(lengths, stable=True)
        passes = torch.unique_consecutive(lengths[by_length].cumsum(0) // BUDGET, return_counts=True)[1].tolist()
        found_BD = torch.zeros(len(lengths), self.norm.normalized_shape[0], device=token_T.device)
        for rows in torch.split(by_length, passes):
            own = F.pad(lengths[rows].cumsum(0), (1, 0))
            places = torch.repeat_interleave(offsets[rows] - own[:-1], lengths[rows])
            if len(places):
                found_BD[rows] = self(token_T[places + torch.arange(len(places), device=places.device)], own)
        return found_BD


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
        apart = (len(x_TD), self.heads, x_TD.shape[1] // self.heads)
        query, key, value = (part(x_TD).view(apart) for part in (self.query, self.key, self.value))
        x_TD = self.mixed_norm(x_TD + self.out(attention(query, key, value, layout).flatten(1)))
        normed: Tensor = self.norm(x_TD + self.narrow(F.gelu(self.widen(x_TD))))
        return normed
