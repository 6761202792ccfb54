"""Optimizers against plain references, and their state as named tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.training.tiny import TinyModel, rows
from training.errors import CheckpointError
from training.fit import FitSettings
from training.step.optimizers import RowwiseAdagrad, build_optimizers, sparse_parameters


def _backward(model: TinyModel, seed: int) -> None:
    loss, _ = model.loss(rows(16, seed), torch.Generator())
    loss.backward()


def test_rowwise_adagrad_is_adagrad_with_one_sum_a_row() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(20, 5, sparse=True)
    expected, sums = table.weight.detach().clone(), torch.zeros(20)
    optimizer = RowwiseAdagrad([table.weight], lr=0.3)
    for step in range(4):
        ids = torch.randint(20, (12,), generator=torch.Generator().manual_seed(step))  # with duplicates
        optimizer.zero_grad()
        (table(ids) * torch.arange(5.0)).pow(2).sum().backward()
        gradient = table.weight.grad.to_dense()
        sums += gradient.square().mean(1)
        expected -= 0.3 * gradient / (sums.sqrt() + 1e-8)[:, None]
        untouched = [row for row in range(20) if row not in ids]
        before = table.weight.detach()[untouched].clone()
        optimizer.step()
        torch.testing.assert_close(table.weight.detach(), expected)
        assert torch.equal(table.weight.detach()[untouched], before)
    torch.testing.assert_close(optimizer.state[table.weight]["sum"], sums)


def _reference(model: TinyModel) -> list[torch.optim.Optimizer]:
    dense = [*model.layer.parameters(), *model.unused.parameters()]
    sparse = torch.optim.SparseAdam([model.users.weight, model.items.weight], lr=0.02)
    decayed, plain = [p for p in dense if p.dim() > 1], [p for p in dense if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return [sparse, torch.optim.AdamW(groups, lr=0.01)]


def test_sparse_adam_and_adamw_are_torchs() -> None:
    ours = TinyModel()
    theirs = copy.deepcopy(ours)
    settings = FitSettings(
        embedding_optimizer="sparse_adam", embedding_learning_rate=0.02, learning_rate=0.01, weight_decay=0.1
    )
    optimizers, reference = build_optimizers(ours, settings), _reference(theirs)
    for step in range(5):
        _backward(ours, step)
        _backward(theirs, step)
        optimizers.step()
        for optimizer in reference:
            optimizer.step()
            optimizer.zero_grad()
        optimizers.zero_grad()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], msg=name)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "sparse_adam"])
def test_state_survives_saving(kind: str) -> None:
    settings = FitSettings.model_validate({"embedding_optimizer": kind})
    first = TinyModel()
    optimizers = build_optimizers(first, settings)
    _backward(first, 0)
    optimizers.step()
    optimizers.zero_grad()
    second = copy.deepcopy(first)
    restored = build_optimizers(second, settings)
    restored.load({name: tensor.clone() for name, tensor in optimizers.state().items()})
    for model, held in ((first, optimizers), (second, restored)):
        _backward(model, 1)
        held.step()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert f"{kind}/users.weight/" in " ".join(optimizers.state())


def test_state_of_another_model_is_refused() -> None:
    optimizers = build_optimizers(TinyModel(), FitSettings())
    with pytest.raises(CheckpointError, match=r"'adamw/other.weight/step' does not"):
        optimizers.load({"adamw/other.weight/step": torch.zeros(())})


def test_rates_are_shares_of_the_full_ones() -> None:
    model = nn.Linear(2, 1)
    optimizers = build_optimizers(model, FitSettings(learning_rate=0.5))
    weights: list[Tensor] = []
    for share in (0.0, 1.0):
        optimizers.set_rate(share)
        model(torch.ones(1, 2)).sum().backward()
        optimizers.step()
        weights.append(model.weight.detach().clone())
    assert not torch.equal(weights[0], weights[1])
    assert optimizers._optimizers["adamw"].param_groups[0]["lr"] == 0.5


def test_shared_and_frozen_tables_are_found_once() -> None:
    model = nn.ModuleList([nn.Embedding(3, 2, sparse=True), nn.Embedding(3, 2, sparse=True), nn.Embedding(3, 2)])
    model[1].weight = model[0].weight
    frozen = nn.Embedding(3, 2, sparse=True)
    frozen.weight.requires_grad_(False)
    model.append(frozen)
    assert [id(p) for p in sparse_parameters(model)] == [id(model[0].weight)]
