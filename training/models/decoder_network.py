"""Tokens to what may come next: a causal transformer in Llama's layout (Touvron et al. 2023), over packed texts.

    y     = x_i + out(attention(norm(x_i)))              queries and keys turned by their places (RoFormer)
    x_i+1 = y + narrow(silu(gate(norm(y))) * widen(norm(y)))                     (SwiGLU, Shazeer 2020)
    logits = words . norm(x_last)                                                the words' vectors, read twice

Heads share keys and values in groups (Ainslie et al. 2023). Weights and names are those of Hugging Face's
LlamaForCausalLM, by training/state/decoder_weights.py.

Shape suffixes: B rows, T tokens of all of them, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.decoder_config import DecoderShape
from training.models.blocks import Turns, turned
from training.models.packed import Packed, attention, packed


class Held(NamedTuple):
    """The keys and values of a layer by row and place, (B, groups, places, width of a head) each."""

    key: Tensor
    value: Tensor


class Decoder(nn.Module):
    """Token numbers to vectors from which the next token follows.

    Args:
        shape: what it is made of.
    """

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.Embedding(
            shape.vocab_size, shape.hidden_size, _weight=torch.empty(shape.vocab_size, shape.hidden_size)
        )
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)

    @torch.no_grad()
    def draw(self) -> None:
        """Draw all weights, as GPT-2 does: what adds to the stream starts small. On `meta` there are none."""
        if self.words.weight.is_meta:
            return
        nn.init.normal_(self.words.weight, std=0.02)
        for layer in self.layers:
            for name, part in layer.named_children():
                if isinstance(part, nn.Linear):
                    small = math.sqrt(2 * len(self.layers)) if name in ("out", "narrow") else 1.0
                    nn.init.normal_(part.weight, std=0.02 / small)

    def forward(self, token_T: Tensor, offsets: Tensor) -> Tensor:
        """(T, D): of each token the vector that the next one follows from.

        Args:
            token_T: int64 numbers of the vocabulary, text after text.
            offsets: (B + 1,) int64.
        """
        layout = packed(offsets, causal=True)
        x_TD, turns = self.words(token_T[layout.order]), self._turns(layout.position)
        for layer in self.layers:
            x_TD, _, _ = layer(x_TD, layout, turns)
        normed: Tensor = self.norm(x_TD)[layout.place]
        return normed

    def logits(self, x_TD: Tensor) -> Tensor:
        """(T, V) of vectors from `forward`."""
        return F.linear(x_TD, self.words.weight)

    def begin(self, token_T: Tensor, offsets: Tensor, places: int) -> tuple[Tensor, list[Held]]:
        """The vectors (B, D) of the last tokens of some texts, and what going on from them needs.

        Args:
            token_T: as for `forward`; no text is empty.
            offsets: (B + 1,) int64.
            places: that a text may come to have.
        """
        layout, rows = packed(offsets, causal=True), len(offsets) - 1
        x_TD, turns = self.words(token_T[layout.order]), self._turns(layout.position)
        row_T = torch.repeat_interleave(offsets.diff())[layout.order]
        held = []
        for layer in self.layers:
            x_TD, key, value = layer(x_TD, layout, turns)
            wide = [one.new_zeros(rows, one.shape[1], places, one.shape[2]) for one in (key, value)]
            for into, one in zip(wide, (key, value), strict=True):
                into[row_T, :, layout.position] = one
            held.append(Held(*wide))
        last: Tensor = self.norm(x_TD)[layout.place[offsets[1:] - 1]]
        return last, held

    def go_on(self, token_B: Tensor, place_B: Tensor, held: list[Held]) -> Tensor:
        """The vectors (B, D) after one more token a text, which `held` then holds too.

        Args:
            token_B: the tokens.
            place_B: the place of each in its text, from 0.
            held: of these texts.
        """
        x_BD, turns = self.words(token_B), self._turns(place_B)
        seen = torch.arange(held[0].key.shape[2], device=place_B.device) <= place_B[:, None]
        for layer, of_layer in zip(self.layers, held, strict=True):
            x_BD = cast("_Layer", layer).go_on(x_BD, turns, of_layer, place_B, seen)
        normed: Tensor = self.norm(x_BD)
        return normed

    def _turns(self, place: Tensor) -> Turns:
        half = self.shape.hidden_size // self.shape.num_attention_heads // 2
        share = torch.arange(half, device=place.device) / half
        angles = place[:, None, None].float() * torch.exp(-share * math.log(self.shape.rope_theta))
        return Turns(angles.cos(), angles.sin())


class _Layer(nn.Module):
    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        width, inner = shape.hidden_size, shape.intermediate_size
        self.heads, self.groups = shape.num_attention_heads, shape.num_key_value_heads
        shared = width // self.heads * self.groups
        self.mixed_norm, self.norm = (nn.RMSNorm(width, shape.rms_norm_eps) for _ in range(2))
        self.query, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.key, self.value = (nn.Linear(width, shared, bias=False) for _ in range(2))
        self.gate, self.widen = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.narrow = nn.Linear(inner, width, bias=False)

    def forward(self, x_TD: Tensor, layout: Packed, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        """What follows from tokens; their keys and values, (T, groups, width of a head)."""
        query, key, value = self._parts(x_TD, turns)
        each = self.heads // self.groups
        mixed = attention(query, key.repeat_interleave(each, dim=1), value.repeat_interleave(each, dim=1), layout)
        return self._added(x_TD, mixed), key, value

    def go_on(self, x_BD: Tensor, turns: Turns, held: Held, place_B: Tensor, seen: Tensor) -> Tensor:
        query, *parts = self._parts(x_BD, turns)
        for into, one in zip(held, parts, strict=True):
            into[torch.arange(len(one), device=one.device), :, place_B] = one
        mixed = F.scaled_dot_product_attention(
            query[:, :, None], *held, attn_mask=seen[:, None, None], enable_gqa=self.heads > self.groups
        )
        return self._added(x_BD, mixed[:, :, 0])

    def _parts(self, x: Tensor, turns: Turns) -> tuple[Tensor, Tensor, Tensor]:
        normed, width = self.mixed_norm(x), x.shape[1] // self.heads
        query, key, value = (part(normed).unflatten(1, (-1, width)) for part in (self.query, self.key, self.value))
        return turned(query, turns), turned(key, turns), value

    def _added(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed.flatten(1))
        normed = self.norm(x)
        added: Tensor = self.narrow(F.silu(self.gate(normed)) * self.widen(normed))
        return x + added
