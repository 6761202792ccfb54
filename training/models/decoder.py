"""A decoder that is taught texts of records: what is said of a product, after what is known of it.

Of a record's tokens followed by its text's, only the text's are learnt: each from all that stand before it. The
decoder begins with drawn weights, or with given ones that are tuned whole or by LoRA (training/models/low_rank.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from training.batch import Batch, Ragged
from training.configs import ModelConfig
from training.decoder_config import DecoderConfig
from training.errors import SchemaError, SettingsError
from training.models.base import Model
from training.models.decoder_network import Decoder
from training.models.low_rank import adapt
from training.schema import Schema
from training.tables.sharded import Tables

PIECE = 512  # tokens whose logits over the vocabulary are held at a time: 100 MB of 49,152
BUDGET = 4_096  # tokens of one pass where nothing is learnt


class TextDecoder(Model):
    """Reads `record` and `text`, the numbers of a text's tokens, the one that ends it included.

    Attributes:
        network: given weights by `start_with`, or drawn.

    Raises:
        SchemaError: the schema's tokens are of another vocabulary than the decoder's.
        SettingsError: adapters are asked for, and there are no weights that they could adapt.
    """

    Config: ClassVar[type[ModelConfig]] = DecoderConfig
    COMPILED: ClassVar[tuple[str, ...]] = ()

    config: DecoderConfig

    def __init__(self, config: ModelConfig, schema: Schema, tables: Tables | None = None) -> None:
        super().__init__(config, schema, tables)
        size = schema["text"].size or 0
        shape = self.config.shape(size)
        if shape.vocab_size != size:
            raise SchemaError(
                f"text must be of the decoder's vocabulary, of {shape.vocab_size} numbers; the examples' has {size}: "
                "build them with the weights that tuning starts from"
            )
        if self.config.tuned == "lora" and self.config.decoder is None:
            raise SettingsError(
                "model.tuned=lora needs weights that adapters lie beside; there are none: set options.weights, or "
                "model.tuned=whole"
            )
        self.network = Decoder(shape)
        self.network.draw()
        if self.config.tuned == "lora":
            adapt(self.network, self.config.rank, self.config.alpha)

    @torch.no_grad()
    def start_with(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the decoder the weights that tuning starts from; adapters keep theirs."""
        self.network.load_state_dict({**self.network.state_dict(), **tensors})

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """The sum over the texts' tokens of their negative log likelihoods, and how many these are."""
        joined, row_N, at_N, target_N = _joined(batch)
        x_ND = self.network(joined.values, joined.offsets)[at_N]
        total = x_ND.float().sum() * 0  # so that a batch of no tokens has gradients too
        for x, target in zip(torch.split(x_ND, PIECE), torch.split(target_N, PIECE), strict=True):
            total = total + checkpoint(self._piece, x, target, use_reentrant=False).sum()
        return total, total.new_tensor(float(len(row_N)))

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`nll`, the sum of a text's negative log likelihoods, and `tokens`, how many it has; (batch,) each."""
        joined, row_N, at_N, target_N = _joined(batch)
        found = torch.zeros(len(at_N), device=at_N.device)
        for first, last in _passes(joined.offsets):
            start, end = (int(joined.offsets[place]) for place in (first, last))
            mine = (at_N >= start) & (at_N < end)
            x_TD = self.network(joined.values[start:end], joined.offsets[first : last + 1] - start)
            asked = torch.split(x_TD[at_N[mine] - start], PIECE), torch.split(target_N[mine], PIECE)
            found[mine] = torch.cat([found[:0], *(self._piece(x, target) for x, target in zip(*asked, strict=True))])
        rows = joined.offsets.numel() - 1
        return {
            "nll": found.new_zeros(rows).index_add(0, row_N, found),
            "tokens": found.new_zeros(rows).index_add(0, row_N, torch.ones_like(found)),
        }

    def _piece(self, x_ND: Tensor, target_N: Tensor) -> Tensor:
        return F.cross_entropy(self.network.logits(x_ND).float(), target_N, reduction="none")


def _joined(batch: Batch) -> tuple[Ragged, Tensor, Tensor, Tensor]:
    """Records with their texts behind them; of each of the texts' tokens its row, the place of the token before it,
    and the token."""
    record, text = cast("Ragged", batch["record"]), cast("Ragged", batch["text"])
    of_record, of_text = record.offsets.diff(), text.offsets.diff()
    offsets = record.offsets + text.offsets
    row_N = torch.repeat_interleave(of_text)
    at_N = torch.arange(len(text.values), device=offsets.device) + record.offsets[1:][row_N]
    values = record.values.new_empty(len(record.values) + len(text.values))
    before = torch.repeat_interleave(text.offsets[:-1], of_record)
    values[torch.arange(len(record.values), device=offsets.device) + before] = record.values
    values[at_N] = text.values
    return Ragged(values, offsets), row_N, at_N - 1, text.values


def _passes(offsets: Tensor) -> list[tuple[int, int]]:
    """First and last row of passes of about BUDGET tokens."""
    by_pass = offsets[:-1] // BUDGET
    counts = torch.unique_consecutive(by_pass, return_counts=True)[1].cumsum(0).tolist()
    return list(zip([0, *counts], counts, strict=False))
