"""A bundle's weights in fewer bytes: what each tensor becomes (training/tables/quantised.py).

    embedding tables                     int8 or int4, as the method says; rows of zeros are left out where that is less
    weights of linear layers             int8
    other whole numbers                  of the narrowest type
    other numbers, narrow tables too     half
    fewer than LEAST numbers             as they are

Tables are read, packed and written in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from training.errors import BundleError
from training.state.bundle import Bundle, tables_of
from training.state.files import Streamed
from training.tables.quantised import BITS, WHOLE_TYPES, Form, Kind, part_name, quantised

Method = Literal["int8", "int4"]
METHODS: tuple[Method, ...] = get_args(Method)
LEAST = 1_024  # numbers of a tensor, below which it is not worth the while
NARROW = 8  # numbers of a row, below which a scale for each would be much of it
LARGEST_SHIFT = 2**62  # what is left of it and of a code is an int64
LARGEST_HALF = 2.0**126  # the scale of larger numbers would be none
PIECE = 65_536  # rows that are packed at a time

Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Compressed:
    """A bundle's tensors as they are to be written.

    Attributes:
        tensors: by name, or in parts.
        stored: how those are stored that come in parts.
    """

    tensors: Mapping[str, Tensor | Streamed]
    stored: Mapping[str, Form]


def compress(bundle: Bundle, method: Method) -> Compressed:
    """A bundle's weights by a method.

    Raises:
        BundleError: it is compressed already, has nothing that the method packs, or numbers that are not finite.
    """
    if bundle.stored:
        raise BundleError(
            f"bundle '{bundle.name}' is compressed already; name the one that it was made from, "
            f"'{bundle.provenance.get('compressed', {}).get('from', 'not recorded')}'"
        )
    kinds = _kinds(bundle, method)
    if method not in kinds.values():
        raise BundleError(
            f"compress.method {method} packs {_packs(method)} of {NARROW} numbers a row and {LEAST:,} in all, or more; "
            f"model '{bundle.model_name}' of bundle '{bundle.name}' has none: leave it as it is"
            + (", or set int8, which packs layers too" if "int8" in kinds.values() else "")
        )
    tables, held = tables_of(bundle.bare_model()), {name: bundle.tensor(name) for name in bundle.tensor_names()}
    tensors: dict[str, Tensor | Streamed] = {name: tensor for name, tensor in held.items() if name not in kinds}
    for name, kind in kinds.items():
        parts = _packed(held[name], kind, is_table=name in tables)
        tensors |= {part_name(name, part): own for part, own in parts.items()}
    return Compressed(tensors, {name: _form(held[name], kind) for name, kind in kinds.items()})


def _form(tensor: Tensor, kind: Kind) -> Form:
    return Form(kind, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _packs(method: Method) -> str:
    return "embedding tables" if method == "int4" else "embedding tables and linear layers"


def _kinds(bundle: Bundle, method: Method) -> dict[str, Kind]:
    """How each tensor is stored that does not stay as it is."""
    model = bundle.bare_model()
    tables = tables_of(model)
    layers = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, Kind] = {}
    for name in bundle.tensor_names():
        tensor = bundle.tensor(name)
        _refuse_what_is_not_finite(name, tensor, bundle)
        if tensor.numel() < LEAST:
            continue
        is_wide = tensor.dim() == 2 and tensor.shape[1] >= NARROW
        if tensor.dtype is torch.float32 and is_wide and name in tables | layers:
            found[name] = method if name in tables else "int8"
        elif _narrowest(tensor) is not None:
            found[name] = "whole"
        elif tensor.dtype is torch.float32 and _largest(tensor) <= LARGEST_HALF:
            found[name] = "half"
    return found


def _refuse_what_is_not_finite(name: str, tensor: Tensor, bundle: Bundle) -> None:
    if tensor.is_floating_point() and not all(bool(torch.isfinite(piece).all()) for piece in _pieces(tensor)):
        raise BundleError(f"bundle '{bundle.name}' must have finite weights; those of '{name}' are not: train it again")


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    return torch.split(tensor, PIECE) if tensor.dim() else (tensor,)


def _packed(tensor: Tensor, kind: Kind, *, is_table: bool) -> dict[str, Tensor | Streamed]:
    """A tensor in parts: codes, scale, and the numbers of a table's rows where only those are stored."""
    encode, of_all = _encoder(tensor, kind)
    probe = encode(tensor[:0])
    rows = _of_use(tensor, sum(part.shape[1:].numel() * part.itemsize for part in probe.values())) if is_table else None
    count = len(tensor) if rows is None else len(rows)

    def pieces(part: str) -> Iterator[Tensor]:
        for start in range(0, count, PIECE):
            own = slice(start, start + PIECE)
            yield encode(tensor[own] if rows is None else tensor[rows[own].long()])[part]

    def streamed(part: str) -> Streamed:
        held = probe[part]
        return Streamed(torch.Size([count, *held.shape[1:]]), held.dtype, lambda: pieces(part))

    return {part: streamed(part) for part in probe} | of_all | ({} if rows is None else {"rows": rows})


def _encoder(tensor: Tensor, kind: Kind) -> tuple[Callable[[Tensor], Parts], Parts]:
    """What makes parts of some rows, and the parts that are of all of them."""
    if kind in BITS:
        return lambda rows: quantised(rows, kind), {}
    if kind == "half":
        largest = _largest(tensor)
        scale = torch.tensor([2.0 ** torch.tensor(largest).log2().ceil().item() if largest else 1.0])
        return lambda rows: {"half": (rows / scale).half()}, {"scale": scale}
    held = _narrowest(tensor)
    assert held is not None
    narrow, shift = held
    return lambda rows: {"whole": (rows.long() - shift).to(narrow)}, {"scale": torch.tensor([shift])}


def _largest(tensor: Tensor) -> float:
    return max(float(piece.abs().max()) for piece in _pieces(tensor))


def _narrowest(tensor: Tensor) -> tuple[torch.dtype, int] | None:
    """The type that whole numbers take fewest bytes in, less what; None where they are none, or it spares nothing."""
    pieces = _pieces(tensor)
    if tensor.dtype not in (torch.float32, torch.int64, torch.int32):
        return None
    if tensor.is_floating_point() and not all(bool((piece == piece.round()).all()) for piece in pieces):
        return None
    low, high = min(int(piece.min()) for piece in pieces), max(int(piece.max()) for piece in pieces)
    shift = (low + high + 1) // 2
    if abs(shift) > LARGEST_SHIFT:
        return None
    for narrow in WHOLE_TYPES:
        limits = torch.iinfo(narrow)
        if limits.min <= low - shift and high - shift <= limits.max:
            return (narrow, shift) if narrow.itemsize < tensor.itemsize else None
    return None


def _of_use(tensor: Tensor, width: int) -> Tensor | None:
    """The numbers of the rows that are not all zeros, where they and these rows of so many bytes are less than all."""
    used = torch.cat([piece.any(dim=1) for piece in _pieces(tensor)])
    wide = torch.int32 if len(tensor) <= torch.iinfo(torch.int32).max else torch.int64
    return used.nonzero()[:, 0].to(wide) if int(used.sum()) * (width + wide.itemsize) < len(tensor) * width else None
