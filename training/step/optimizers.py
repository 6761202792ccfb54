"""Optimizers that fit a recommender: embedding rows are updated only where a step used them, the rest as usual."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from training.errors import CheckpointError
from training.step.large_batch import Lamb, Lars
from training.tables.sharded import ShardedEmbedding


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row instead of one a value, for sparse gradients.

    The accumulator grows by the mean of the row gradient's squares; a row's step is lr / (sqrt(accumulator) + eps).
    A row without a gradient costs nothing. As in FBGEMM's EXACT_ROWWISE_ADAGRAD (Mudigere et al., 2021).

    Args:
        params: tables of shape (rows, dimension).
        lr: learning rate.
        eps: keeps the first steps of a row finite.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update the rows that the coalesced sparse gradients name."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.coalesce(), group["lr"], group["eps"])

    def _update(self, parameter: nn.Parameter, gradient: Tensor, lr: float, eps: float) -> None:
        state = self.state[parameter]
        if not state:
            state["sum"] = torch.zeros(parameter.shape[0], device=parameter.device)
        rows, values = gradient._indices()[0], gradient._values()
        state["sum"].index_add_(0, rows, values.square().mean(1))  # rows are unique: nothing adds up in a random order
        factor = state["sum"].index_select(0, rows).sqrt_().add_(eps).reciprocal_().mul_(-lr)
        parameter.index_add_(0, rows, values * factor.unsqueeze(1))


class OptimizerSettings(Protocol):
    """The part of `training.fit.FitSettings` that concerns optimizers."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def embedding_learning_rate(self) -> float: ...
    @property
    def embedding_optimizer(self) -> Literal["rowwise_adagrad", "sparse_adam"]: ...
    @property
    def dense_optimizer(self) -> Literal["adamw", "lamb", "lars"]: ...
    @property
    def weight_decay(self) -> float: ...


class Optimizers:
    """A model's optimizers, stepped together; their state has a name per parameter, so that it can be saved as data."""

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer], names: Mapping[nn.Parameter, str]) -> None:
        self._optimizers = dict(optimizers)
        self._names = dict(names)
        self._rates = {
            key: [group["lr"] for group in optimizer.param_groups] for key, optimizer in self._optimizers.items()
        }

    def set_rate(self, share: float) -> None:
        """Set every learning rate to `share` of its full value."""
        for key, optimizer in self._optimizers.items():
            for group, rate in zip(optimizer.param_groups, self._rates[key], strict=True):
                group["lr"] = rate * share

    def step(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """All state as tensors named `optimizer/parameter/key`; whole numbers become int64 scalars."""
        tensors = {}
        for key, optimizer in self._optimizers.items():
            for parameter, state in optimizer.state.items():
                for name, value in state.items():
                    held = value if isinstance(value, Tensor) else torch.tensor(int(value))
                    tensors[f"{key}/{self._names[cast(nn.Parameter, parameter)]}/{name}"] = held
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; the tensors themselves, not copies.

        Raises:
            CheckpointError: a tensor belongs to no parameter of this model, or to another optimizer.
        """
        parameters = {name: parameter for parameter, name in self._names.items()}
        for optimizer in self._optimizers.values():
            optimizer.state.clear()
        for full_name, tensor in tensors.items():
            key, name, field = full_name.split("/")
            if key not in self._optimizers or name not in parameters:
                raise CheckpointError(
                    f"optimizer state must belong to a parameter of the model; '{full_name}' does not; "
                    "train with the model and optimizers of the checkpoint, or into an empty checkpoint folder"
                )
            is_count = tensor.dtype == torch.int64 and tensor.dim() == 0
            parameter = parameters[name]
            value: Any = int(tensor) if is_count else tensor.to(parameter.device)
            self._optimizers[key].state[parameter][field] = value


def sparse_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Weights of the embedding tables that give sparse gradients (`sparse=True`), each once."""
    kinds = nn.Embedding | nn.EmbeddingBag | ShardedEmbedding
    embeddings = [module for module in model.modules() if isinstance(module, kinds)]
    weights = [cast(nn.Parameter, module.weight) for module in embeddings if module.sparse]
    return [weight for weight in dict.fromkeys(weights) if weight.requires_grad]


def build_optimizers(model: nn.Module, settings: OptimizerSettings) -> Optimizers:
    """Row-wise Adagrad or sparse Adam for sparse embedding tables; AdamW, LAMB or LARS for everything else.

    Weight decay applies to dense matrices alone: not to biases and norms (one dimension), nor to embedding rows.
    """
    sparse = sparse_parameters(model)
    are_sparse = set(sparse)
    dense = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter not in are_sparse]
    optimizers: dict[str, torch.optim.Optimizer] = {}
    if sparse and settings.embedding_optimizer == "rowwise_adagrad":
        optimizers["rowwise_adagrad"] = RowwiseAdagrad(sparse, settings.embedding_learning_rate)
    elif sparse:
        optimizers["sparse_adam"] = torch.optim.SparseAdam(sparse, settings.embedding_learning_rate)
    if dense:
        groups = [
            {"params": [p for p in dense if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in dense if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        kind = settings.dense_optimizer
        optimizers[kind] = _dense_optimizer(kind, groups, settings.learning_rate)
    return Optimizers(optimizers, {parameter: name for name, parameter in model.named_parameters()})


def _dense_optimizer(
    kind: Literal["adamw", "lamb", "lars"], groups: list[dict[str, Any]], rate: float
) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(groups, rate, fused=True)
    return Lamb(groups, rate) if kind == "lamb" else Lars(groups, rate)
