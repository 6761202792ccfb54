"""Factors that are solved by alternating least squares: against equations written out in full, and as a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.factors import CUSTOMERS, GROUPS, ITEMS, SOLVED, batch_of, bought, model_of
from training.batch import Batch
from training.configs import CONFIGS
from training.errors import NonFiniteError, SettingsError
from training.fit import FitResult, FitSettings, fit
from training.models import alternating
from training.models.matrix_factorisation import MatrixFactorisation
from training.world import World

ROWS = [*bought(1), (3, [], 0), (0, [], 5), (3, [], 5), (3, [], 5)]  # of no item, of nobody, and one bought again


class Purchases:
    """Three batches, the same every epoch."""

    steps_per_epoch = 3

    def __init__(self, rows: list[tuple[int, list[int], int]]) -> None:
        self._rows = rows

    def epoch(self, epoch: int) -> Iterator[Batch]:
        weights = batch_of(self._rows)["weight"]
        for places in torch.arange(len(self._rows)).chunk(3):
            chosen = batch_of([self._rows[place] for place in places.tolist()])
            yield chosen | {"weight": weights[places]}  # type: ignore[index]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def solved(
    epochs: int, folder: Path | None = None, rows: list[tuple[int, list[int], int]] = ROWS, **settings: Any
) -> tuple[MatrixFactorisation, FitResult]:
    model = model_of(**SOLVED, dim=4)
    given = FitSettings(epochs=epochs, batch_size=17, **settings)
    judge = {"validate": recall} if "metric" in settings else {}
    place = None if folder is None else str(folder)
    return model, fit(model, Purchases(rows), given, world=World(), checkpoint_dir=place, **judge)  # type: ignore[arg-type]


def recall(model: MatrixFactorisation) -> dict[str, float]:
    """The share of a group's five items among the five that its customers get."""
    users = torch.arange(1, CUSTOMERS + 1)
    scores = model.queries(batch_of([(user, [], 0) for user in users.tolist()])) @ model.item_matrix().T
    first = scores.topk(ITEMS // GROUPS).indices
    return {"recall": float(((first - 1) % GROUPS == (users % GROUPS)[:, None]).float().mean())}


def written_out(sweeps: int) -> tuple[Tensor, Tensor, float]:
    """Factors and mean loss by the dense matrix of weights, each vector by its own inverse."""
    start, weights = model_of(**SOLVED, dim=4), torch.zeros(CUSTOMERS + 1, ITEMS + 1, dtype=torch.float64)
    for number, (user, _, item) in enumerate(ROWS, 1):
        weights[user, item] += number
    weights[0], weights[:, 0] = 0, 0
    a, l2 = SOLVED["unobserved_weight"], SOLVED["l2"]
    items, users = start.items.weight.detach().double(), torch.zeros(CUSTOMERS + 1, 4, dtype=torch.float64)

    def solve(weights: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        penalties = l2 * (weights.sum(1) + a * (len(others) - 1))
        all_pairs = a * others[1:].T @ others[1:]
        rows = [
            torch.linalg.inv(all_pairs + (others.T * own) @ others + penalty * torch.eye(4)) @ (others.T @ own)
            for own, penalty in zip(weights, penalties, strict=True)
        ]
        return torch.stack(rows), penalties

    for _ in range(sweeps):
        users, of_users = solve(weights, items)
        items, of_items = solve(weights.T, users)
    scores = users @ items.T
    penalty = (of_users @ users.square().sum(1)) + (of_items @ items.square().sum(1))
    loss = (weights * (1 - scores).square()).sum() + a * scores.square().sum() + penalty
    return users, items, float(loss / weights.sum())


@pytest.mark.parametrize("numbers", [alternating.NUMBERS, 48])  # all at once; three rows a block, 12 pairs a piece
def test_factors_are_those_of_the_equations(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternating, "NUMBERS", numbers)
    monkeypatch.setattr(alternating, "BATCHES", 2)
    model, result = solved(3)
    users, items, loss = written_out(3)
    torch.testing.assert_close(model.users.weight.detach().double(), users, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.items.weight.detach().double(), items, rtol=1e-4, atol=1e-4)
    assert result.final_loss == pytest.approx(loss, rel=1e-5)
    assert (result.steps, result.epochs) == (3, 3)


def test_more_pairs_are_counted_than_float32_can_tell_apart() -> None:
    model, none = model_of(**SOLVED), torch.zeros(0, dtype=torch.int64)
    solver = alternating.Alternation(model.users, model.items, alternating.Weights(0.1, 0.1, 1.0), World())
    many = torch.zeros(1, dtype=torch.int64).expand(2**24 + 1)  # of one number in memory, and of no row
    sides = [alternating.Side(none, torch.zeros(1, dtype=torch.int64), pairs, torch.zeros(0)) for pairs in (many, none)]
    solver._sides = (sides[0], sides[1])
    assert solver.sweep()[2] == 2**24 + 1


def test_it_finds_what_customers_of_a_group_buy_and_popularity_does_not() -> None:
    """Every sweep is judged, the best is kept, and no more come where they bring nothing."""
    rows = [row for seed in range(4) for row in bought(seed)]
    model, result = solved(40, rows=rows, metric="recall", metric_mode="max", early_stopping_patience=2)
    assert len({(user, item) for user, _, item in rows}) < 0.85 * CUSTOMERS * ITEMS / GROUPS  # the others are guessed
    assert recall(model.eval())["recall"] == result.best["recall"] > 0.9  # popularity: the same five for all, 0.25
    assert result.epochs == result.best["epoch"] + 3 < 40


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path: Path) -> None:
    unbroken, _ = solved(4)
    solved(2, tmp_path)
    model, result = solved(4, tmp_path)
    assert (result.resumed_at, result.steps) == (2, 4)
    assert torch.equal(model.items.weight, unbroken.items.weight)
    assert torch.equal(model.users.weight, unbroken.users.weight)


def test_what_cannot_be_solved_is_refused() -> None:
    config = CONFIGS["matrix_factorisation"]
    with pytest.raises(SettingsError, match=r"l2 must be above 0 where loss is ials, e.g. 0.003; got 0"):
        config.parse({"loss": "ials"})
    with pytest.raises(SettingsError, match=r"own_share must be 1 where loss is ials.*got 0.5"):
        config.parse({"loss": "ials", "l2": 1, "own_share": 0.5})
    with pytest.raises(SettingsError, match="must be one of gradients for a step; got 'ials'"):
        model_of(**SOLVED).loss(batch_of(ROWS))
    with pytest.raises(SettingsError, match=r"got training.clip_norm = 1.0, training.precision = bf16; leave them out"):
        solved(1, clip_norm=1.0, precision="bf16")
    hopeless = model_of(loss="ials", l2=1e-30, unobserved_weight=1e-30)
    with pytest.raises(NonFiniteError, match=r"all customers must have.*2. of this rank's.*l2 1e-30.*raise model.l2"):
        fit(hopeless, Purchases(ROWS), FitSettings(), world=World())
