"""LAMB and LARS against their papers' formulas on planted numbers, and where their ratios are not defined."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from tests.training import tiny
from tests.training.tiny import TinyModel, rows
from training.fit import FitSettings
from training.step.large_batch import Lamb, Lars
from training.step.optimizers import build_optimizers
from training.world import World

WEIGHTS = [[3.0, 0.0], [0.0, 4.0]]  # norm 5
GRADIENTS = ([[0.6, 0.0], [0.0, -0.8]], [[1.0, 2.0], [2.0, 0.0]])  # norms 1 and 3


def _matrix(values: list[list[float]]) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_lars_is_the_papers_algorithm() -> None:
    """Two steps with another rate in the second: the velocity keeps what the first rate made of its gradient."""
    weights = _matrix(WEIGHTS)
    optimizer = Lars([weights], lr=2.0, momentum=0.9, trust=0.001, weight_decay=0.1)
    expected, velocity = torch.tensor(WEIGHTS).double(), torch.zeros(2, 2).double()
    for rate, gradient in zip((2.0, 4.0), GRADIENTS, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        weights.grad = torch.tensor(gradient)
        optimizer.step()
        g = torch.tensor(gradient).double()
        trust = 0.001 * expected.norm() / (g.norm() + 0.1 * expected.norm())
        velocity = 0.9 * velocity + rate * trust * (g + 0.1 * expected)
        expected = expected - velocity
        torch.testing.assert_close(weights.detach(), expected.float())
    # by hand, the first step: trust = .001 * 5 / (1 + .5), at [0, 0]: 3 - 2 * trust * (.6 + .3)
    first = _matrix(WEIGHTS)
    first.grad = torch.tensor(GRADIENTS[0])
    Lars([first], lr=2.0, weight_decay=0.1).step()
    assert first[0, 0].item() == pytest.approx(3 - 2 * 0.005 / 1.5 * 0.9)


def test_lamb_is_the_papers_algorithm() -> None:
    weights = _matrix(WEIGHTS)
    optimizer = Lamb([weights], lr=0.1, weight_decay=0.5)
    expected = torch.tensor(WEIGHTS).double()
    mean, square = torch.zeros(2, 2).double(), torch.zeros(2, 2).double()
    for step, gradient in enumerate(GRADIENTS, 1):
        weights.grad = torch.tensor(gradient)
        optimizer.step()
        g = torch.tensor(gradient).double()
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        update = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-6) + 0.5 * expected
        expected = expected - 0.1 * expected.norm() / update.norm() * update
        torch.testing.assert_close(weights.detach(), expected.float())
    # by hand, the first step without decay: Adam's update is the sign, of norm sqrt(2); 3 - .1 * 5 / sqrt(2)
    first = _matrix(WEIGHTS)
    first.grad = torch.tensor(GRADIENTS[0])
    Lamb([first], lr=0.1).step()
    assert first[0, 0].item() == pytest.approx(3 - 0.5 / math.sqrt(2), abs=1e-5)


@pytest.mark.parametrize("kind", [Lamb, Lars])
def test_a_step_is_a_share_of_the_weights_norm(kind: type[Lamb] | type[Lars]) -> None:
    """Whatever the gradient's size: that is what lets batches grow."""
    moved = []
    for scale in (1.0, 1000.0):
        weights = _matrix(WEIGHTS)
        weights.grad = scale * torch.tensor(GRADIENTS[1])
        kind([weights], lr=0.01).step()
        moved.append(float((weights.detach() - torch.tensor(WEIGHTS)).norm()))
    assert moved[0] == pytest.approx(moved[1], rel=1e-4)
    assert moved[0] == pytest.approx(0.01 * 5 * (0.001 if kind is Lars else 1), rel=1e-3)


@pytest.mark.parametrize("kind", [Lamb, Lars])
def test_ratios_that_are_not_defined_are_one(kind: type[Lamb] | type[Lars]) -> None:
    nothing, still, bias = nn.Parameter(torch.zeros(2, 2)), _matrix(WEIGHTS), nn.Parameter(torch.tensor([3.0, 4.0]))
    nothing.grad, still.grad, bias.grad = torch.ones(2, 2), torch.zeros(2, 2), torch.ones(2)
    kind([nothing, still, bias], lr=0.1).step()
    torch.testing.assert_close(nothing.detach(), torch.full((2, 2), -0.1), rtol=1e-4, atol=0)
    assert still.tolist() == WEIGHTS
    torch.testing.assert_close(bias.detach(), torch.tensor([2.9, 3.9]))  # one dimension: no ratio of 5 to its update
    kind([nn.Parameter(torch.ones(2, 2))], lr=0.1).step()  # no gradient, no step


@pytest.mark.parametrize("kind", ["lamb", "lars"])
def test_decay_is_for_matrices_and_state_survives_saving(kind: str) -> None:
    settings = FitSettings.model_validate({"dense_optimizer": kind, "weight_decay": 0.1, "learning_rate": 0.01})

    def step(model: TinyModel, seed: int) -> None:
        model.loss(rows(16, seed), torch.Generator())[0].backward()

    first = TinyModel()
    optimizers = build_optimizers(first, settings)
    assert [group["weight_decay"] for group in optimizers._optimizers[kind].param_groups] == [0.1, 0.0]
    for seed in (0, 1):
        step(first, seed)
        optimizers.step()
        optimizers.zero_grad()
    second = copy.deepcopy(first)
    restored = build_optimizers(second, settings)
    restored.load({name: tensor.clone() for name, tensor in optimizers.state().items()})
    for model, held in ((first, optimizers), (second, restored)):
        step(model, 2)
        held.step()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["lamb", "lars"])
def test_a_resumed_training_is_unbroken(kind: str, tmp_path: object) -> None:
    fit = {"batch_size": 24, "seed": 5, "dense_optimizer": kind, "warmup_steps": 12, "scaling_rule": "linear"}
    unbroken = tiny.train({"settings": {**fit, "epochs": 2}}, World())
    tiny.train({"settings": {**fit, "epochs": 1}, "folder": str(tmp_path)}, World())
    assert tiny.train({"settings": {**fit, "epochs": 2}, "folder": str(tmp_path)}, World()) == unbroken


@pytest.mark.parametrize("kind", ["adamw", "lamb", "lars"])
def test_scaling_and_warm_up_hold_for_every_optimizer(kind: str) -> None:
    """The first step of a warm-up of three, at four times the base batch: 4 x 1/4 of the rate is the rate itself."""
    plain = FitSettings.model_validate({"dense_optimizer": kind, "learning_rate": 0.1})
    scaled = plain.model_copy(update={"scaling_rule": "linear", "batch_size": 4096, "warmup_steps": 3})
    after: list[Tensor] = []
    for settings in (plain, scaled):
        model = TinyModel()
        optimizers = build_optimizers(model, settings)
        model.loss(rows(16), torch.Generator())[0].backward()
        optimizers.set_rate(settings.rate(0, 200))
        optimizers.step()
        after.append(torch.cat([tensor.flatten() for tensor in model.state_dict().values()]))
    assert torch.equal(*after)
    rates = [group["lr"] for group in optimizers._optimizers[kind].param_groups]
    optimizers.set_rate(scaled.rate(100, 200))
    assert [group["lr"] for group in optimizers._optimizers[kind].param_groups] == [4 * rate for rate in rates]
