"""Tensors in fewer bytes, and embedding tables that stay so in memory: a row becomes float32 when it is looked up.

    int8, int4   a row of numbers:  number = scale of the row x (code + 1/2)
                 codes of -128 to 127, or of -8 to 7 and two to a byte, the first in the low half
    half         any numbers:       number = scale x float16, one scale that is a power of two
    whole        whole numbers:     number = shift + code, of the narrowest type; nothing is lost

Levels lie evenly about 0, and the outermost is the row's largest number: an error is half a scale at most. A row of
zeros has the scale 0, and stays zeros. Scales of rows are bfloat16, rounded up, so that nothing is cut off. Of a table
with many rows of zeros (ids that never occurred) only the others are stored, with their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["int8", "int4", "half", "whole"]
BITS: dict[str, int] = {"int8": 8, "int4": 4}
WHOLE_TYPES = (torch.int8, torch.int16, torch.int32)


@dataclass(frozen=True)
class Form:
    """How a tensor is stored.

    Attributes:
        kind: see above.
        shape: of the tensor.
        dtype: of the tensor, as "float32".
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Packed:
    """A tensor as it is stored.

    Attributes:
        form: of which kind, shape and type.
        codes: (rows that are stored, ...) by kind.
        scale: (rows that are stored,) bfloat16 of int8 and int4; (1,) float32 of half; (1,) int64, the shift, of whole.
        rows: (rows that are stored,) their numbers, ascending; the others are zeros. None: all are stored.
    """

    form: Form
    codes: Tensor
    scale: Tensor
    rows: Tensor | None = None

    def whole(self) -> Tensor:
        """The tensor."""
        values = self._values(self.codes, self.scale)
        if self.rows is None:
            return values
        return values.new_zeros(self.form.shape).index_copy_(0, self.rows.long(), values)

    def take(self, ids: Tensor) -> Tensor:
        """(..., width) rows of ids of any shape, of a table: only these are made numbers."""
        if self.rows is None:
            return self._values(*self._rows_at(ids))
        if not len(self.rows):
            return torch.zeros(*ids.shape, self.form.shape[1], device=ids.device)
        wanted = ids.to(self.rows.dtype)
        place = torch.searchsorted(self.rows, wanted).clamp(max=len(self.rows) - 1)
        return self._values(*self._rows_at(place)) * (self.rows[place] == wanted)[..., None]

    def _rows_at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        return self.codes[places], self.scale[places] if self.form.kind in BITS else self.scale

    def _values(self, codes: Tensor, scale: Tensor) -> Tensor:
        kind, dtype = self.form.kind, getattr(torch, self.form.dtype)
        if kind == "whole":
            return (codes.long() + scale).to(dtype)
        if kind == "half":
            return (codes.float() * scale).to(dtype)
        levels = codes if kind == "int8" else unpaired(codes, self.form.shape[1])
        return ((levels.float() + 0.5) * scale.float()[..., None]).to(dtype)


class QuantisedTable(nn.Module):
    """Looks up as the embedding table that was packed; its codes stay mapped where they come from a file.

    Args:
        packed: a table.

    Attributes:
        num_embeddings: rows of the table.
        embedding_dim: width of a row.
    """

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        self._form = packed.form
        self.num_embeddings, self.embedding_dim = packed.form.shape
        for part in ("codes", "scale", "rows"):  # no part of the state: a bundle has them under names of their own
            self.register_buffer(part, getattr(packed, part), persistent=False)

    @property
    def packed(self) -> Packed:
        """The table, where the module is."""
        return Packed(self._form, *(getattr(self, part) for part in ("codes", "scale", "rows")))

    def forward(self, ids: Tensor) -> Tensor:
        """(..., embedding_dim) float32."""
        return self.packed.take(ids)


def quantised(rows: Tensor, kind: Kind) -> dict[str, Tensor]:
    """Codes (under the kind's name) and the scale of each row of (n, width) float32.

    With 4 bits, numbers beyond the outermost level may be cut off to it, where a row's squared error is less so.
    """
    top = 2 ** (BITS[kind] - 1) - 0.5
    largest = rows.abs().amax(dim=1) if rows.shape[1] else rows.new_zeros(len(rows))
    scale = rounded_up(largest / top)
    if kind == "int8":
        return {kind: _codes(rows, scale, top), "scale": scale}
    least = _error(rows, scale, top)
    for share in (0.95, 0.9, 0.85, 0.8):
        narrower = rounded_up(share * largest / top)
        error = _error(rows, narrower, top)
        scale, least = torch.where(error < least, narrower, scale), torch.minimum(error, least)
    return {kind: paired(_codes(rows, scale, top)), "scale": scale}


def _codes(rows: Tensor, scale: Tensor, top: float) -> Tensor:
    """(n, width) int8."""
    by = torch.where(scale > 0, scale.float(), 1.0)[:, None]
    return torch.floor(rows / by).clamp(-top - 0.5, top - 0.5).to(torch.int8)


def _error(rows: Tensor, scale: Tensor, top: float) -> Tensor:
    """(n,) squared."""
    levels = _codes(rows, scale, top).float() + 0.5
    return (levels * scale.float()[:, None] - rows).square().sum(dim=1)


def rounded_up(values: Tensor) -> Tensor:
    """Numbers of 0 and more as bfloat16, none of them smaller."""
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0xFFFF) & ~0xFFFF).view(torch.float32).to(torch.bfloat16)


def paired(codes: Tensor) -> Tensor:
    """(n, width) of -8 to 7 as (n, half of the width) bytes."""
    nibbles = torch.nn.functional.pad((codes + 8).to(torch.uint8), (0, codes.shape[1] % 2))
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


def unpaired(codes: Tensor, width: int) -> Tensor:
    """(..., width) of -8 to 7, of bytes."""
    both = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
    return both[..., :width].to(torch.int8) - 8


def packed_of(form: Form, name: str, held: Mapping[str, Tensor]) -> Packed:
    """A tensor of the parts that lie in a file under `part_name`."""
    parts = {part: held.get(part_name(name, part)) for part in (form.kind, "scale", "rows")}
    codes, scale = parts[form.kind], parts["scale"]
    assert codes is not None
    assert scale is not None
    return Packed(form, codes, scale, parts["rows"])


def part_name(name: str, part: str) -> str:
    """What a part of a stored tensor is called in a file: no module has a colon in its name."""
    return f"{name}:{part}"
