"""Tensors of a published model by its network's own names: a safetensors file that holds them all, and no others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import WeightsError
from training.state.text_weights import CONFIG

DTYPES = {"F64", "F32", "F16", "BF16"}  # a number of another kind is the real one by a scale that is not known here


def read_tensors(
    file: Path, opened: BinaryIO, wanted: Mapping[str, tuple[str, list[int]]], unused: Collection[str]
) -> dict[str, Tensor]:
    """A network's tensors, from the file that is open: by its path another may lie there by now.

    Args:
        file: where it was opened.
        opened: the same.
        wanted: by the network's own names: the one that it was published under, and its shape.
        unused: published names of tensors that may be there.

    Returns:
        float32, memory-mapped where the file has them so.

    Raises:
        WeightsError: the file is torn, lacks a tensor, or has another one, another shape or numbers by a scale.
    """
    try:
        with safe_open(f"/dev/fd/{opened.fileno()}", framework="pt") as tensors:
            found = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            shapes = {name: list(one.get_shape()) for name, one in found.items()}
            dtypes = {name: one.get_dtype() for name, one in found.items()}
            refuse_misfits(file, dict(wanted.values()), {n: s for n, s in shapes.items() if n not in unused}, dtypes)
            return {own: tensors.get_tensor(name).float() for own, (name, _) in wanted.items()}
    except SafetensorError as error:
        raise WeightsError(f"'{file}' must be a whole safetensors file; {error}; copy it again") from error


def refuse_misfits(
    file: Path, wanted: Mapping[str, list[int]], found: Mapping[str, list[int]], dtypes: Mapping[str, str]
) -> None:
    """See that a file's tensors are a network's.

    Args:
        file: named in errors.
        wanted: shapes by name.
        found: the same.
        dtypes: of those that were found, by safetensors' names; those that are not named are as they must be.

    Raises:
        WeightsError: they are not.
    """
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is not known" for name in found.keys() - wanted.keys()]
    both = wanted.keys() & found.keys()
    problems += [f"{name} is {found[name]}, not {wanted[name]}" for name in both if found[name] != wanted[name]]
    known = ", ".join(sorted(DTYPES))
    odd = [name for name in both if dtypes.get(name, "F32") not in DTYPES]
    problems += [f"{name} is {dtypes[name]}, not one of {known}" for name in odd]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"'{file}' must hold the {len(wanted)} tensors that its {CONFIG} asks for, and no others; "
            f"{', '.join(sorted(problems)[:3])}{more}; take the two from one model, saved without a head"
        )
