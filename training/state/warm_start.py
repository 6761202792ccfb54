"""A training that begins with a bundle's weights instead of drawn ones, also where vocabularies have grown since."""

from __future__ import annotations

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.errors import BundleError
from training.models.inputs import Inputs, Standard, taken_in
from training.schema import Column, Schema
from training.state.bundle import Bundle
from training.tables.sharded import ShardedEmbedding, sharded_tables


@torch.no_grad()
def warm_start(model: nn.Module, bundle: Bundle) -> None:
    """Give a model the parameters of a bundle, and the running statistics of its layers.

    Vocabularies are append-only: a table with more rows than the bundle's gets those, and its further rows keep their
    initial values. All other buffers stay as the model was made with them, for they are of its own catalogue. Each rank
    reads the rows that it holds.

    Raises:
        BundleError: the bundle lacks a parameter, or has it of another shape, a vocabulary has shrunk, or the model
            takes in other columns, or in another order, adjusts its logits otherwise, or tunes another part of itself.
            Then nothing is changed.
    """
    _check_vocabularies(getattr(model, "schema", None), bundle)
    _check_columns(model, bundle)
    _check_adjustment(model, bundle)
    _check_adapters(model, bundle)
    held = {name: bundle.tensor(name) for name in bundle.tensor_names()}
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    sharded = sharded_tables(model)
    wanted = {**dict(model.named_parameters()), **_statistics(model)}
    for name, tensor in wanted.items():
        shape = [sharded[name].num_embeddings, sharded[name].embedding_dim] if name in sharded else list(tensor.shape)
        _check(name, shape, held.get(name), bundle, may_grow=name in tables or name in sharded)
    for name, tensor in wanted.items():
        found = _own_rows(held[name], sharded[name]) if name in sharded else held[name]
        (tensor[: len(found)] if tensor.dim() else tensor).copy_(found)


def _own_rows(whole: Tensor, table: ShardedEmbedding) -> Tensor:
    return whole[table.world.rank :: table.world.size]


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    layers = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm | Standard)]
    buffers = dict(model.named_buffers())
    return {name: buffers[name] for name in buffers if name.rpartition(".")[0] in layers}


def _check(name: str, shape: list[int], found: Tensor | None, bundle: Bundle, *, may_grow: bool) -> None:
    there = None if found is None else list(found.shape)
    if there == shape or (may_grow and there and there[1:] == shape[1:] and there[0] <= shape[0]):
        return
    raise BundleError(
        "a bundle to start from must hold the model's weights, with tables that have grown at most; "
        f"'{name}' is {shape} here and {there or 'not there'} in '{bundle.path}'; start from a bundle of this model "
        "and of its widths, or from none"
    )


def _check_vocabularies(schema: Schema | None, bundle: Bundle) -> None:
    mine = {} if schema is None else schema.vocabularies()
    for name, size in bundle.schema.vocabularies().items():
        if mine.get(name, size) < size:
            raise BundleError(
                f"vocabulary '{name}' must have grown at most since the bundle to start from; it has {mine[name]} "
                f"indices here and {size} in '{bundle.path}'; build the examples with the vocabulary that the bundle "
                "was trained with, or start from none"
            )


def _check_columns(model: nn.Module, bundle: Bundle) -> None:
    """Weights of inputs are told apart by their place alone: one shape holds other columns' weights as well."""
    for inputs in (module for module in model.modules() if isinstance(module, Inputs)):
        here = [_place(column) for column in inputs.columns]
        there = [_place(column) for column in taken_in(bundle.schema)]
        if here != [place for place in there if place in here]:
            raise BundleError(
                "a bundle to start from must have learnt from the model's columns, in their order; here they are "
                f"{', '.join(here)}, in '{bundle.path}' {', '.join(there)}; name them in the settings in that order, "
                "or start from none"
            )


def _check_adjustment(model: nn.Module, bundle: Bundle) -> None:
    """What is added to logits was left out of what the bundle learnt: other weights would begin far off all labels."""
    here = getattr(getattr(model, "config", None), "logit_adjustment", None)
    if here is not None and here != (there := bundle.config.get("logit_adjustment", 0.0)):
        raise BundleError(
            "a bundle to start from must have learnt with the model's logit_adjustment, which is part of every logit; "
            f"it is {here:g} here and {there:g} in '{bundle.path}'; set model.logit_adjustment to {there:g}, or start "
            "from none"
        )


def _check_adapters(model: nn.Module, bundle: Bundle) -> None:
    """Weights beside which a bundle has adapters are not those that it answers with, and mean nothing to an encoder of
    other heads."""
    config = getattr(model, "config", None)
    named = {name: getattr(config, name, None) for name in ("tuned", "alpha", "encoder")}
    if named["tuned"] == "whole":
        del named["alpha"]
    for name, held in named.items():
        here = held.model_dump() if isinstance(held, BaseModel) else held
        if here is not None and here != (there := bundle.config.get(name)):
            raise BundleError(
                f"a bundle to start from must have learnt with the model's {name}; it is {here} here and {there} in "
                f"'{bundle.path}'; set model.{name} to {there}, or start from none"
            )


def _place(column: Column) -> str:
    of = f" of {column.vocabulary}" if column.vocabulary else f" of {column.length}" if column.length else ""
    return f"{column.name}{of}"
