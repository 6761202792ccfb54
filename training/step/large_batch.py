"""Optimizers for large batches: each matrix steps in proportion to its own norm, so that none runs away.

Both take plain matrices; biases, norms and scalars (one dimension at most) step with a ratio of 1, as in the papers'
own code. A ratio that is not defined (weights or update all zero) is 1 as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class _ByParameter(torch.optim.Optimizer):
    """Steps one parameter after the other, each by its own norms."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter in place from its gradient, with its state and its group's settings."""
        raise NotImplementedError


class Lamb(_ByParameter):
    """Adam's direction, stepped by the norm of the weights (You et al. 2020, "Large Batch Optimization", algorithm 2).

    update = m / (sqrt(v) + eps) + weight_decay * w, with both moments corrected for their bias;
    w -= lr * ||w|| / ||update|| * update.

    Args:
        params: dense parameters or groups of them.
        lr: learning rate: the share of its norm that a matrix moves by in a step.
        betas: decay of the two moments.
        eps: keeps the division finite.
        weight_decay: decoupled, within the ratio.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean = state["exp_avg"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = mean / ((square / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"]))
        update.add_(parameter, alpha=group["weight_decay"])
        if parameter.dim() > 1:
            update.mul_(_ratio(parameter.norm(), update.norm()))
        parameter.add_(update, alpha=-group["lr"])


class Lars(_ByParameter):
    """Momentum SGD, stepped by the ratio of the norms (You et al. 2017, "Large Batch Training", algorithm 1).

    velocity = momentum * velocity + lr * trust * ||w|| / (||g|| + weight_decay ||w||) * (g + weight_decay w);
    w -= velocity. The rate is taken into the velocity, so that a warm-up acts on each gradient once.

    Args:
        params: dense parameters or groups of them.
        lr: learning rate; with the trust coefficient the share of its norm that a matrix moves by in a step, so that
            it is of the order of 1 and more.
        momentum: of the velocity.
        trust: the paper's trust coefficient (eta).
        weight_decay: added to the gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        trust: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": weight_decay})

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, decay = self.state[parameter], group["weight_decay"]
        if not state:
            state["velocity"] = torch.zeros_like(parameter)
        update = gradient.add(parameter, alpha=decay)
        if parameter.dim() > 1:
            norm = parameter.norm()
            update.mul_(_ratio(group["trust"] * norm, gradient.norm() + decay * norm))
        parameter.sub_(state["velocity"].mul_(group["momentum"]).add_(update, alpha=group["lr"]))


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """The quotient, or 1 where either is 0; on the device, so that nobody waits for it."""
    return torch.where((above > 0) & (below > 0), above / below, 1.0)
