"""The sampled softmax against a dense reference in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.models.losses import Candidates, Piece, PieceSums, draw_candidates, sampled_softmax, softmax_piece

ITEMS = 40


def scores(rows: int) -> Tensor:
    """(rows, ITEMS + 1) float64 scores of all items; column 0 is the unknown item."""
    return torch.randn(rows, ITEMS + 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def zipf() -> Tensor:
    """(ITEMS + 1,) float32 shares of the targets."""
    weights = torch.cat([torch.zeros(1), 1 / torch.arange(1, ITEMS + 1).float()])
    return weights / weights.sum()


def dense_loss(all_scores: Tensor, targets: Tensor) -> np.ndarray:
    """-log softmax over the real items, written out."""
    s = all_scores[:, 1:].numpy()
    return np.log(np.exp(s).sum(1)) - s[np.arange(len(s)), targets.numpy() - 1]


def losses_of(all_scores: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
    """(rows,): a query is a row of scores, and each candidate's vector picks its own."""
    vectors = torch.eye(ITEMS + 1, dtype=all_scores.dtype)[candidates.items]
    own, one = all_scores.gather(1, targets[:, None])[:, 0], torch.ones(1)
    rows = [slice(row, row + 1) for row in range(len(targets))]
    return torch.stack([sampled_softmax(all_scores[r], vectors, own[r], targets[r], candidates, one) for r in rows])


class Case:
    """Queries, candidates and weights; 37 rows, so that no piece of the batch divides it."""

    def __init__(self, rows: int = 37, dimension: int = 5, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.targets = torch.randint(0, ITEMS + 1, (rows,), generator=generator)  # some unknown
        self.candidates = draw_candidates(self.targets, zipf(), 12, generator)
        shapes = [(rows, dimension), (len(self.candidates.items), dimension), (rows,)]
        self.inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
        self.weight = torch.rand(rows, generator=generator)

    def whole(self, query: Tensor, items: Tensor, target_logits: Tensor) -> Tensor:
        """The definition, with all scores at once and torch's own gradients."""
        others = query @ items.T - self.candidates.log_inclusion
        others = others.masked_fill(self.targets[:, None] == self.candidates.items, -torch.inf)
        partition = torch.logsumexp(torch.cat([target_logits[:, None], others], dim=1), dim=1)
        return ((partition - target_logits) * self.weight).sum()

    def ours(self, query: Tensor, items: Tensor, target_logits: Tensor, piece: Piece | None = None) -> Tensor:
        return sampled_softmax(query, items, target_logits, self.targets, self.candidates, self.weight, piece)

    def with_gradients(self, loss: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in self.inputs]
        value = loss(*leaves)
        (3 * value).backward()
        return [value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def test_enough_negatives_are_the_full_softmax() -> None:
    s, targets = scores(6), torch.tensor([1, 1, 7, 40, 3, 2])
    candidates = draw_candidates(targets, zipf(), ITEMS, torch.Generator())
    assert candidates.items.tolist() == list(range(1, ITEMS + 1))
    np.testing.assert_allclose(losses_of(s, targets, candidates).numpy(), dense_loss(s, targets), rtol=1e-6)


def test_written_out_with_its_correction_and_an_accidental_hit() -> None:
    s, targets = scores(2), torch.tensor([3, 8])
    candidates = Candidates(torch.tensor([3, 5, 8]), torch.log(torch.tensor([0.5, 0.25, 0.8])))
    a, b = s[0].exp().numpy(), s[1].exp().numpy()
    expected = [np.log((a[3] + a[5] / 0.25 + a[8] / 0.8) / a[3]), np.log((b[8] + b[3] / 0.5 + b[5] / 0.25) / b[8])]
    np.testing.assert_allclose(losses_of(s, targets, candidates).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("most", [None, 3, 6])
def test_chance_of_being_drawn_is_as_stated(most: int | None) -> None:
    shares, generator, draws = zipf(), torch.Generator().manual_seed(5), 1_500
    drawn = torch.zeros(ITEMS + 1)
    stated = torch.zeros(ITEMS + 1)
    for _ in range(draws):
        targets = torch.multinomial(shares, 6, replacement=True, generator=generator)
        candidates = draw_candidates(targets, shares, 10, generator, most)
        drawn[candidates.items] += 1
        stated[candidates.items] = candidates.log_inclusion.exp()
    torch.testing.assert_close(drawn[1:] / draws, stated[1:], atol=0.05, rtol=0)


def test_the_partition_is_estimated_without_bias() -> None:
    s, shares, generator = scores(1), zipf(), torch.Generator().manual_seed(6)
    others = torch.multinomial(shares, 6 * 2000, replacement=True, generator=generator).view(-1, 6)
    estimates = []
    for targets in others:
        candidates = draw_candidates(targets, shares, 10, generator)
        loss = losses_of(s, torch.tensor([4]), candidates)
        estimates.append(float((loss + s[0, 4]).exp()))
    assert np.mean(estimates) == pytest.approx(float(s[0, 1:].exp().sum()), rel=0.04)


def test_no_more_targets_than_asked_for() -> None:
    targets = torch.arange(1, ITEMS + 1)
    few, none = (draw_candidates(targets, zipf(), 0, torch.Generator(), most).items for most in (3, 0))
    assert 1 <= len(few) <= 3
    assert len(none) == 0


def test_same_generator_same_candidates() -> None:
    targets = torch.tensor([2, 3])
    first, again, other = (
        draw_candidates(targets, zipf(), 12, torch.Generator().manual_seed(seed)) for seed in (9, 9, 10)
    )
    assert torch.equal(first.items, again.items)
    assert not torch.equal(first.items, other.items)
    assert first.items.tolist() == sorted(set(first.items.tolist()))


@pytest.mark.parametrize("negatives", [0, 5, ITEMS])
def test_no_rows(negatives: int) -> None:
    case = Case(rows=0)
    case.candidates = draw_candidates(case.targets, zipf(), negatives, torch.Generator())
    case.inputs[1] = torch.ones(len(case.candidates.items), 5, dtype=torch.float64)
    loss, *gradients = case.with_gradients(case.ours)
    assert loss == 0
    assert [gradient.count_nonzero().item() for gradient in gradients] == [0, 0, 0]


def test_no_candidates_cost_nothing() -> None:
    case = Case(rows=3)
    case.targets = torch.zeros(3, dtype=torch.int64)
    case.candidates = draw_candidates(case.targets, zipf(), 0, torch.Generator())
    case.inputs[1] = case.inputs[1][:0]
    assert case.with_gradients(case.ours)[0] == 0


@pytest.mark.parametrize("rows", [1, 10, 64])
def test_pieces_give_the_loss_and_gradients_of_the_whole(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case, seen = Case(), []

    def piece(query: Tensor, *rest: Any) -> PieceSums:
        seen.append(len(query))
        return softmax_piece(query, *rest)

    monkeypatch.setattr("training.models.losses._LEAST_ROWS", rows)
    monkeypatch.setattr("training.models.losses._PIECE_SCORES", {"cpu": 1})
    expected = case.with_gradients(case.whole)
    for ours, reference in zip(case.with_gradients(partial(case.ours, piece=piece)), expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
    assert (max(seen), sum(seen)) == (min(rows, 37), 37)


def test_scores_far_apart_neither_overflow_nor_vanish() -> None:
    case = Case()
    case.inputs[0] *= 1e4
    case.inputs[2] *= 1e4
    for ours, reference in zip(case.with_gradients(case.ours), case.with_gradients(case.whole), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)


def test_under_autocast_only_the_products_are_rounded() -> None:
    case = Case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = case.with_gradients(case.ours)
    for ours, reference in zip(found, case.with_gradients(case.whole), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, reference, rtol=0.02, atol=0.02 * float(reference.abs().max()))
    assert not torch.equal(found[1], case.with_gradients(case.ours)[1])  # they were rounded indeed


def test_biases_are_not_rounded_under_autocast() -> None:
    """One item's probability against one other, whose bias lies between two numbers that bfloat16 knows."""
    query = torch.tensor([[0.5, 1.0]])
    items = torch.tensor([[0.25, -9.97]])
    own = torch.tensor([-9.97 + 0.125])
    drawn = Candidates(torch.tensor([2]), torch.zeros(1))
    given = (query, items, own, torch.tensor([1]), drawn, torch.ones(1))
    expected = math.log(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert float(sampled_softmax(*given, exact=1)) == pytest.approx(expected, abs=1e-5)
        assert abs(float(sampled_softmax(*given)) - expected) > 5e-3


def test_it_has_no_second_derivative() -> None:
    case = Case()
    query, scale = case.inputs[0].requires_grad_(), torch.ones((), requires_grad=True)
    (gradient,) = torch.autograd.grad(scale * case.ours(query, *case.inputs[1:]), query, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


def test_the_unknown_item_is_no_candidate() -> None:
    candidates = draw_candidates(torch.tensor([0, 2]), zipf(), 5, torch.Generator())
    assert 0 not in candidates.items
