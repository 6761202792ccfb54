"""A model and a loader small enough to check by hand, and the functions that tests run on ranks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.fit import Event, FitSettings, Pruned, fit
from training.parts import Part
from training.world import World

ITEMS, USERS = 40, 30


class TinyModel(nn.Module):
    """Score of a user and an item: inner product of embedding rows, through one dense layer."""

    def __init__(self, seed: int = 0, dropout: float = 0.0, noise: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.noise = noise
        torch.manual_seed(seed)
        self.users = nn.Embedding(USERS, 8, sparse=True)
        self.items = nn.Embedding(ITEMS, 8, sparse=True)
        self.layer = nn.Linear(8, 8)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.BatchNorm1d(8) if norm else nn.Identity()
        self.unused = nn.Linear(2, 2)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        users, items, labels, weights = (batch[name] for name in ("user", "item", "label", "weight"))
        noise = torch.randn(1, generator=generator) * self.noise
        hidden = self.dropout(torch.tanh(self.norm(self.layer(self.users(users)))))
        scores = (hidden * self.items(items)).sum(1) + noise
        return (weights * (scores - labels).square()).sum(), weights.sum()


class Poisoned(TinyModel):
    """Its loss is not a number in the calls that are named, from 1."""

    def __init__(self, calls: set[int]) -> None:
        super().__init__()
        self._calls, self._count = calls, 0

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        loss, weight = super().loss(batch, generator)
        self._count += 1
        return (loss * float("nan") if self._count in self._calls else loss), weight


class Heads(TinyModel):
    """A part over all rows and one over those of positive label alone, whose mean counts three times."""

    def loss(self, batch: Batch, generator: torch.Generator) -> dict[str, Part]:  # type: ignore[override]
        users, items, labels, weights = (batch[name] for name in ("user", "item", "label", "weight"))
        scores = (torch.tanh(self.layer(self.users(users))) * self.items(items)).sum(1)
        kept = weights * (labels > 0)
        return {
            "all": Part((weights * (scores - labels).square()).sum(), weights.sum()),
            "bought": Part((kept * (scores - 2 * labels).abs()).sum(), kept.sum(), 3.0),
        }


def rows(count: int, seed: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "user": torch.randint(USERS, (count,), generator=generator),
        "item": torch.randint(ITEMS, (count,), generator=generator),
        "label": torch.randn(count, generator=generator),
        "weight": torch.rand(count, generator=generator) + 0.5,
    }


class TinyLoader:
    """Rows in an order that the seed and the epoch decide; step k holds the same rows at every world size."""

    def __init__(self, data: dict[str, Tensor], batch_size: int, world: World, seed: int = 3) -> None:
        self._data, self._batch_size, self._world, self._seed = data, batch_size, world, seed
        self._rows = len(data["user"])
        self._epoch, self._step = 0, 0

    @property
    def steps_per_epoch(self) -> int:
        return -(-self._rows // (self._batch_size * self._world.size))

    def epoch(self, epoch: int) -> Iterator[Batch]:
        if epoch != self._epoch:
            self._epoch, self._step = epoch, 0
        order = torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed * 1000 + epoch))
        while self._step < self.steps_per_epoch:
            start = (self._step * self._world.size + self._world.rank) * self._batch_size
            chosen = order[start : start + self._batch_size]
            self._step += 1
            yield {name: column[chosen] for name, column in self._data.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._epoch, self._step = state["epoch"], state["step"]


def train_each(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: `train` for each of the named specs, one after the other."""
    return {name: train(one, world) for name, one in spec.items()}


def train(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: fit the tiny model; `kill` = {"rank", "step", "mark"} kills that rank once, in that step.

    Or, with "asked", asks it to end ("rank") or its launcher ("launcher"); "after" names what must be there before.
    """
    settings = FitSettings(**spec["settings"])
    data = rows(spec.get("rows", 200))
    loader = TinyLoader(data, settings.rows_per_batch(world.size), world)
    given = {name: spec[name] for name in ("dropout", "noise", "norm") if name in spec}
    model = (Heads if spec.get("heads") else TinyModel)(seed=world.rank, **given)
    if kill := spec.get("kill"):
        _kill_once(model, kill, world)

    def report(event: Event) -> None:
        if event.kind == spec.get("prune"):
            raise Pruned("planted")

    def validate(model: TinyModel) -> dict[str, float]:
        assert not model.training
        loss, weight = model.loss(data, torch.Generator().manual_seed(1))
        return {"validation_loss": float(loss / weight)}

    try:
        result = fit(
            model,
            loader,
            settings,
            world=world,
            checkpoint_dir=spec.get("folder"),
            validate=validate if spec.get("validate") else None,
            report=report,
        )
    except Pruned as pruned:
        return {"pruned": world.all_gather_object(str(pruned))}
    weights = [float(tensor.double().sum()) for tensor in model.state_dict().values()]
    assert len({tuple(weights) for weights in world.all_gather_object(weights)}) == 1, "ranks differ"
    return {"loss": result.final_loss, "steps": result.steps, "history": result.history, "weights": weights}


def _kill_once(model: TinyModel, kill: dict[str, Any], world: World) -> None:
    """Signal this process, or its launcher, in its n-th loss, unless the mark says that this has happened."""
    if world.rank != kill["rank"] or Path(kill["mark"]).exists():
        return
    calls, loss = 0, model.loss

    def deadly(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == kill["step"]:
            while not Path(kill.get("after", "/")).exists():
                time.sleep(0.01)
            Path(kill["mark"]).touch()
            process = os.getppid() if kill.get("asked") == "launcher" else os.getpid()
            os.kill(process, signal.SIGTERM if "asked" in kill else signal.SIGKILL)
            if process != os.getpid():
                time.sleep(1.0)  # until it has passed that on
        return loss(batch, generator)

    model.loss = deadly  # type: ignore[method-assign]


def compile_on_ranks(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target: fit with a compiler that fails on rank 1 alone."""
    calls, warnings = 0, list[str]()

    def planted(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if world.rank == 1:
                raise RuntimeError("planted on rank 1")
            return function(*arguments)

        return call

    def report(event: Event) -> None:
        if event.kind == "warning":
            warnings.append(event.message)

    torch.compile = planted  # type: ignore[assignment]
    settings = FitSettings(**spec["settings"], compile=True)
    loader = TinyLoader(rows(100), settings.rows_per_batch(world.size), world)
    fit(TinyModel(), loader, settings, world=world, report=report)
    return {"warnings": warnings, "compiled_calls": world.all_gather_object(calls)}
