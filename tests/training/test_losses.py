"""The sampled softmax against a dense reference in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from training.losses import Candidates, draw_candidates, sampled_softmax

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


def loss_of(all_scores: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
    own = all_scores.gather(1, targets[:, None]).squeeze(1)
    return sampled_softmax(all_scores[:, candidates.items], own, targets, candidates)


def test_enough_negatives_are_the_full_softmax() -> None:
    s, targets = scores(6), torch.tensor([1, 1, 7, 40, 3, 2])
    candidates = draw_candidates(targets, zipf(), ITEMS, torch.Generator())
    assert candidates.items.tolist() == list(range(1, ITEMS + 1))
    np.testing.assert_allclose(loss_of(s, targets, candidates).numpy(), dense_loss(s, targets), rtol=1e-6)


def test_written_out_with_its_correction_and_an_accidental_hit() -> None:
    s, targets = scores(2), torch.tensor([3, 8])
    candidates = Candidates(torch.tensor([3, 5, 8]), torch.log(torch.tensor([0.5, 0.25, 0.8])))
    a, b = s[0].exp().numpy(), s[1].exp().numpy()
    expected = [np.log((a[3] + a[5] / 0.25 + a[8] / 0.8) / a[3]), np.log((b[8] + b[3] / 0.5 + b[5] / 0.25) / b[8])]
    np.testing.assert_allclose(loss_of(s, targets, candidates).numpy(), expected, rtol=1e-6)


def test_chance_of_being_drawn_is_as_stated() -> None:
    shares, generator, draws = zipf(), torch.Generator().manual_seed(5), 1_500
    drawn = torch.zeros(ITEMS + 1)
    stated = torch.zeros(ITEMS + 1)
    for _ in range(draws):
        targets = torch.multinomial(shares, 6, replacement=True, generator=generator)
        candidates = draw_candidates(targets, shares, 10, generator)
        drawn[candidates.items] += 1
        stated[candidates.items] = candidates.log_inclusion.exp()
    torch.testing.assert_close(drawn[1:] / draws, stated[1:], atol=0.05, rtol=0)


def test_the_partition_is_estimated_without_bias() -> None:
    s, shares, generator = scores(1), zipf(), torch.Generator().manual_seed(6)
    others = torch.multinomial(shares, 6 * 2000, replacement=True, generator=generator).view(-1, 6)
    estimates = []
    for targets in others:
        candidates = draw_candidates(targets, shares, 10, generator)
        own = torch.tensor([4])
        loss = sampled_softmax(s[:, candidates.items], s[:, 4], own, candidates)
        estimates.append(float((loss + s[0, 4]).exp()))
    assert np.mean(estimates) == pytest.approx(float(s[0, 1:].exp().sum()), rel=0.04)


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
    targets = torch.zeros(0, dtype=torch.int64)
    candidates = draw_candidates(targets, zipf(), negatives, torch.Generator())
    assert loss_of(scores(0), targets, candidates).shape == (0,)


def test_the_unknown_item_is_no_candidate() -> None:
    candidates = draw_candidates(torch.tensor([0, 2]), zipf(), 5, torch.Generator())
    assert 0 not in candidates.items
