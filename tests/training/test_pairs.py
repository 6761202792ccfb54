"""Losses of pairs against their formulas written out, by values and gradients; drawn candidates against all items."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.models.losses import Candidates, Piece, draw_candidates, sampled_loss
from training.models.pairs import bpr, cosine_contrastive

ITEMS, ROWS, DIM = 40, 37, 5
MARGIN, WEIGHT = 0.3, 7.0
PIECES = {"bpr": bpr(ITEMS), "cosine_contrastive": cosine_contrastive(ITEMS, MARGIN, WEIGHT)}
GENERATOR = torch.Generator().manual_seed(3)
TARGETS = torch.randint(1, ITEMS + 1, (ROWS,), generator=GENERATOR)
WEIGHTS = torch.rand(ROWS, generator=GENERATOR)
SHAPES = [(ROWS, DIM), (ITEMS + 1, DIM)]
INPUTS = [F.normalize(torch.randn(shape, generator=GENERATOR, dtype=torch.float64), dim=1) for shape in SHAPES]


@pytest.fixture(params=list(PIECES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def drawn(negatives: int, seed: int = 0) -> Candidates:
    shares = torch.full((ITEMS + 1,), 1 / ITEMS)
    return draw_candidates(TARGETS[:0], shares, negatives, torch.Generator().manual_seed(seed))


def ours(queries: Tensor, items: Tensor, piece: Piece, candidates: Candidates) -> Tensor:
    own = (queries * items[TARGETS]).sum(1)
    return sampled_loss(queries, items[candidates.items], own, TARGETS, candidates, WEIGHTS, piece)


def written_out(queries: Tensor, items: Tensor, name: str, candidates: Candidates) -> Tensor:
    """A pair at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for query, target, weight in zip(queries, TARGETS.tolist(), WEIGHTS, strict=True):
        own, parts = query @ items[target], torch.zeros((), dtype=torch.float64)
        for other, chance in zip(candidates.items.tolist(), candidates.log_inclusion.exp(), strict=True):
            if other != target:
                score = query @ items[other]
                part = -F.logsigmoid(own - score) if name == "bpr" else (score - MARGIN).clamp(min=0)
                parts = parts + part / chance / (ITEMS - 1)
        total = total + weight * (parts if name == "bpr" else 1 - own + WEIGHT * parts)
    return total


def with_gradients(loss: Callable[..., Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in INPUTS]
    value = loss(*leaves)
    (3 * value).backward()
    return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("negatives", [12, ITEMS])
def test_the_loss_and_its_gradients_are_those_of_the_formula(
    name: str, negatives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.models.losses._LEAST_ROWS", 10)  # pieces that do not divide the batch
    monkeypatch.setattr("training.models.losses._PIECE_SCORES", {"cpu": 1})
    candidates = drawn(negatives)
    found = with_gradients(partial(ours, piece=PIECES[name], candidates=candidates))
    expected = with_gradients(partial(written_out, name=name, candidates=candidates))
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-6, atol=1e-6)


def test_drawn_items_estimate_the_loss_and_gradients_of_all(name: str) -> None:
    every = with_gradients(partial(ours, piece=PIECES[name], candidates=drawn(ITEMS)))
    draws = [with_gradients(partial(ours, piece=PIECES[name], candidates=drawn(20, seed))) for seed in range(400)]
    for estimates, whole in zip(zip(*draws, strict=True), every, strict=True):
        mean = torch.stack(estimates).mean(0)
        torch.testing.assert_close(mean, whole, rtol=0, atol=0.1 * float(whole.abs().max()))


def test_under_autocast_only_the_products_are_rounded() -> None:
    """Of a loss without a kink, on whose other side a score may be rounded."""
    loss = partial(ours, piece=PIECES["bpr"], candidates=drawn(ITEMS))
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(loss)
    for rounded, exact in zip(found, with_gradients(loss), strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02 * float(exact.abs().max()))
    assert not torch.equal(found[1], with_gradients(loss)[1])


def test_scores_far_apart_do_not_overflow() -> None:
    far = [1e4 * INPUTS[0], INPUTS[1]]
    candidates = drawn(ITEMS)
    found = ours(*far, piece=PIECES["bpr"], candidates=candidates)
    torch.testing.assert_close(found, written_out(*far, name="bpr", candidates=candidates))
