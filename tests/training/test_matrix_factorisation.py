"""Matrix factorisation against what its formulas give row by row, and on ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cluster.launch import launch
from tests.training import factors
from tests.training.factors import COUNTS, CUSTOMERS, ITEMS, LOSSES, batch_of, model_of
from training.batch import Batch, Ragged
from training.errors import SettingsError
from training.models.matrix_factorisation import MatrixFactorisation
from training.schema import Column, Kind, Schema
from training.world import World

PRIOR = F.pad((COUNTS[1:] + 1) / (COUNTS[1:] + 1).sum(), (1, 0), value=1.0).log()  # no item is thought impossible
ROWS = [(3, [1, 2], 5), (4, [], 6), (9, [7, 0, 7, 8], 9), (3, [5], 1), (2, [4], 0)]


def with_customers(**config: Any) -> MatrixFactorisation:
    """A model whose customers have vectors, but for the last one."""
    model = model_of(**config).eval()
    with torch.no_grad():
        model.users.weight[1:CUSTOMERS].normal_(generator=torch.Generator().manual_seed(1))
    return model


def written_out(model: MatrixFactorisation, name: str) -> Tensor:
    """Of each row with a known target its loss against every other item, by the tables alone."""
    config, total = model.config, torch.zeros(())
    for weight, (user, history, target) in enumerate(ROWS, 1):
        if not target:
            continue
        query, items = model.users.weight[user], model.items.weight
        if name == "simplex":
            known = [item for item in history if item]
            mean = items[known].mean(0) if known else torch.zeros(config.dim)
            query = 0.5 * query + 0.5 * (model.mix.weight @ mean)
        length = query.square().sum() + items[target].square().sum()
        if name != "bpr":
            query, items = F.normalize(query, dim=0), F.normalize(items, dim=1)
        scores = items @ query / (1.0 if name == "simplex" else config.temperature)
        scores = scores + config.popularity * PRIOR
        others = [item for item in range(1, ITEMS + 1) if item != target]
        if config.loss == "softmax":
            loss = scores[1:].logsumexp(0) - scores[target]
        elif name == "bpr":
            loss = -F.logsigmoid(scores[target] - scores[others]).mean() + 0.01 / 2 * length
        else:
            loss = 1 - scores[target] + 10 * (scores[others] - 0.3).clamp(min=0).mean()
        total = total + weight * loss
    return total


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_loss_and_its_gradients_are_those_of_the_formula(name: str) -> None:
    model = with_customers(**LOSSES[name])
    found, weight = model.loss(batch_of(ROWS), torch.Generator())
    expected = written_out(model, name)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(weight) == 1 + 2 + 3 + 4
    parameters = list(model.parameters())
    for ours, plain in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours.to_dense(), plain.to_dense(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(LOSSES))
def test_queries_and_items_give_the_scores(name: str) -> None:
    model = with_customers(**LOSSES[name])
    with torch.no_grad():
        scores = model.queries(batch_of(ROWS)) @ model.item_matrix().T
        user, items = model.users.weight[4], model.items.weight
        cosines = F.normalize(items, dim=1) @ F.normalize(user, dim=0)
    popular = cosines / 0.1 + 0.5 * PRIOR
    expected = {"softmax": cosines / 0.1, "popular": popular, "bpr": items @ user / 0.5, "simplex": cosines}[name]
    torch.testing.assert_close(scores[1, 1:], expected[1:], rtol=1e-5, atol=1e-5)  # this row has no history
    assert bool((scores[:, 0] < -1e3).all())


def test_who_has_no_vector_is_answered_by_the_history() -> None:
    """A customer whom the vocabulary lacks, and one whom nothing was learnt of; others by their vector alone."""
    model = with_customers()
    stranger, fresh, known, alone = model.queries(
        batch_of([(0, [4, 7], 1), (CUSTOMERS, [4, 7], 1), (3, [4, 7], 1), (3, [], 1)])
    )
    mean = model.items.weight[[4, 7]].mean(0)
    torch.testing.assert_close(stranger[:-1], F.normalize(mean, dim=0) / 0.1)
    assert torch.equal(stranger, fresh)
    assert torch.equal(known, alone)


@pytest.mark.parametrize("name", list(LOSSES))
def test_fewer_negatives_than_items_estimate_the_same(name: str) -> None:
    config = LOSSES[name]
    whole = with_customers(**config)
    few = with_customers(**{**config, "negatives": 8})
    exact = float(whole.loss(batch_of(ROWS), torch.Generator())[0].detach())
    draws = [float(few.loss(batch_of(ROWS), torch.Generator().manual_seed(seed))[0].detach()) for seed in range(200)]
    assert sum(draws) / len(draws) == pytest.approx(exact, rel=0.08)


STRETCHES = [(3, [1, 2, 5], [0, 1, 2]), (4, [], []), (9, [7, 0, 9, 8], [-1, -1, 2, 2]), (2, [4, 4], [-1, -1])]


def of_stretches(**config: Any) -> tuple[MatrixFactorisation, Batch]:
    """A model of stretches, and those of STRETCHES, each line worth its number."""
    lengths = [len(items) for _, items, _ in STRETCHES]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    items, before = (torch.tensor([line for row in STRETCHES for line in row[of]]) for of in (1, 2))
    batch: Batch = {
        "user": torch.tensor([user for user, _, _ in STRETCHES]),
        "history": Ragged(items, offsets),
        "history_weight": Ragged(torch.arange(1.0, sum(lengths) + 1), offsets),
        "history_before": Ragged(before.float(), offsets),
    }
    lines = (Column(name, Kind.DENSE, ragged=True) for name in ("history_weight", "history_before"))
    torch.manual_seed(0)
    parsed = MatrixFactorisation.Config.parse({"dim": 8, "popularity": 0.5, "own_share": 0.25, **config})
    model = MatrixFactorisation(parsed, Schema((*factors.SCHEMA.columns[:2], *lines)), {"user_count": COUNTS})
    with torch.no_grad():
        model.users.weight[1:].normal_(generator=torch.Generator().manual_seed(1))
    return model.eval(), batch


def test_every_line_of_a_stretch_is_a_target_of_its_one_query() -> None:
    model, batch = of_stretches(negatives=ITEMS)
    found, weight = model.loss(batch, torch.Generator())
    expected, number, items = torch.zeros(()), 0, model.items.weight
    for user, lines, before in STRETCHES:
        worth = torch.arange(number + 1.0, number + len(lines) + 1)
        number += len(lines)
        known = torch.tensor([item > 0 for item in lines], dtype=torch.bool)
        if not known.any():
            continue
        mean = (worth[known] @ items[torch.tensor(lines)[known]]) / worth[known].sum()
        query = F.normalize(0.25 * model.users.weight[user] + 0.75 * (model.mix.weight @ mean), dim=0)
        scores = F.normalize(items, dim=1) @ query / 0.1 + 0.5 * PRIOR
        losses = scores[1:].logsumexp(0) - scores[lines]
        expected = expected + sum(losses[at] * worth[at] for at in range(len(lines)) if before[at] >= 0 and known[at])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(weight) == 1 + 2 + 3 + 6 + 7
    parameters = list(model.parameters())
    for ours, plain in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours.to_dense(), plain.to_dense(), rtol=1e-4, atol=1e-5)
    few, _ = of_stretches(negatives=16)
    draws = [float(few.loss(batch, torch.Generator().manual_seed(seed))[0].detach()) for seed in range(200)]
    assert sum(draws) / len(draws) == pytest.approx(float(found.detach()), rel=0.08)


def test_stretches_are_for_the_softmax() -> None:
    with pytest.raises(SettingsError, match=r"must be softmax where examples are sequences; got 'bpr'; build with"):
        of_stretches(loss="bpr")
    with pytest.raises(SettingsError, match=r"popularity must be 0 where loss is ials; got 1; leave it out"):
        MatrixFactorisation.Config.parse({**factors.SOLVED, "popularity": 1})


def test_ranks_train_what_one_trains_whole_tables_and_sharded() -> None:
    alone = factors.trained({"shard": False}, World())
    for name, found in launch("tests.training.factors:trained", {"shard": True}, ranks=2, timeout_s=200).items():
        expected = alone[f"{name.split()[0]} None"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        torch.testing.assert_close(
            torch.tensor(found["queries"]), torch.tensor(expected["queries"]), rtol=1e-3, atol=1e-4
        )
