"""Several labels of a row: each found, by its own rows alone; the mixture of experts is the papers'."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.training.learning import training_losses
from tests.training.test_ranking import published
from tests.training.test_row_models import auc
from training.batch import Batch
from training.errors import SchemaError
from training.models.multi_task import Extraction, MultiTask
from training.row_configs import MultiTaskConfig
from training.schema import Column, Kind, Schema

ITEMS = 12
COLUMNS = (Column("item", Kind.ID, "items", ITEMS + 1), Column("price", Kind.DENSE))
CLICKED, PAID = Column("clicked", Kind.LABEL), Column("paid", Kind.LABEL)
WEIGHT = Column("paid_weight", Kind.WEIGHT)
SCHEMA = Schema((*COLUMNS, CLICKED, PAID, WEIGHT))
KINDS = {
    "shared bottom": {"shared_experts": 1},
    "MMoE": {"shared_experts": 3},
    "PLE": {"shared_experts": 2, "own_experts": 1, "levels": 2},
}


def rows(seed: int, count: int = 256) -> Batch:
    """Every third item is clicked, what is cheap is paid; of what was not clicked nobody knows whether it would be."""
    draws = torch.Generator().manual_seed(seed)
    item = torch.randint(1, ITEMS + 1, (count,), generator=draws)
    price = torch.randn(count, generator=draws)
    clicked = (item % 3 == 0).float()
    paid = torch.where(clicked > 0, (price < 0).float(), 1.0)
    return {"item": item, "price": price, "clicked": clicked, "paid": paid, "paid_weight": clicked}


def build(**config: object) -> MultiTask:
    torch.manual_seed(0)
    return MultiTask(MultiTaskConfig.parse(config), SCHEMA)


class Joined(MultiTask):
    """The parts' means added up, as the training does it."""

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        parts = super().loss(batch, generator).values()
        return cast("Tensor", sum(part.loss / part.weight for part in parts)), torch.tensor(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_label_is_found_by_its_own_rows(kind: str) -> None:
    torch.manual_seed(0)
    model = Joined(MultiTaskConfig.parse(KINDS[kind]), SCHEMA).train()
    list(training_losses(model, rows, 100, sparse_rate=0.03))
    unseen = rows(10_000, 2048)
    with torch.no_grad():
        found = model.eval().predict(unseen)
    assert auc(found["p_clicked"], unseen["clicked"]) > 0.97  # type: ignore[arg-type]
    assert auc(found["p_paid"], (unseen["price"] < 0).float()) > 0.97  # type: ignore[operator]


def test_a_row_without_weight_says_nothing_of_its_label() -> None:
    model, batch = build().eval(), rows(1)
    other = {**batch, "paid": torch.where(batch["clicked"] > 0, batch["paid"], 0.0)}  # type: ignore[arg-type, operator]
    mine, theirs = model.loss(batch), model.loss(other)
    assert float(mine["paid"].weight) == float(batch["clicked"].sum())  # type: ignore[union-attr]
    torch.testing.assert_close(mine["paid"], theirs["paid"], rtol=0, atol=0)
    assert float(mine["clicked"].weight) == 256


def test_a_batch_of_no_rows_gives_parts_of_nothing() -> None:
    parts = build(**KINDS["PLE"]).loss(rows(1, 0))
    found = {name: [float(part.loss.detach()), float(part.weight), part.share] for name, part in parts.items()}
    assert found == {"clicked": [0, 0, 1], "paid": [0, 0, 1]}


def test_a_bundle_answers_as_the_model(tmp_path: Path) -> None:
    model, batch = build(**KINDS["PLE"]).eval(), rows(3)
    with torch.no_grad():
        answered = published(tmp_path, "multi_task", model).model().predict(batch)
        assert {*answered} == {"p_clicked", "p_paid"}
        torch.testing.assert_close(answered, model.predict(batch), rtol=0, atol=0)


@pytest.mark.parametrize("is_last", [False, True])
def test_experts_are_mixed_as_in_the_papers(is_last: bool) -> None:
    torch.manual_seed(0)
    config = MultiTaskConfig.parse({"shared_experts": 2, "own_experts": 1, "hidden": [3]})
    level = Extraction(4, 2, config, is_last=is_last)
    given = [torch.randn(5, 4) for _ in range(3)]
    first, second, *shared = [
        level.experts[owner][number](given[owner], None) for owner, number in ((0, 0), (1, 0), (2, 0), (2, 1))
    ]
    mixtures = [[first, *shared], [second, *shared], [first, second, *shared]]
    found = level(given, None)
    assert len(found) == (2 if is_last else 3)
    for gate, rows_, mixed, every in zip(level.gates, given, found, mixtures, strict=False):
        shares = torch.softmax(rows_ @ gate.weight.T, dim=1)
        plain = sum(shares[:, [place]] * one for place, one in enumerate(every))
        torch.testing.assert_close(mixed, plain, rtol=1e-5, atol=1e-6)


def test_one_expert_is_a_shared_bottom() -> None:
    model, batch = build(**KINDS["shared bottom"]).eval(), rows(2)
    bottom = model.levels[0].experts[-1][0](model.fields(batch).flatten(1), None)
    for tower, p in zip(model.towers, model.predict(batch).values(), strict=True):
        torch.testing.assert_close(torch.sigmoid(tower(bottom, None).squeeze(1)), p)


@pytest.mark.parametrize("times", [1.0, 0.5])
def test_each_logit_is_adjusted_by_its_labels_prior(times: float) -> None:
    """Menon et al. 2021, written out. Before anything is learnt the answers are the labels' own shares."""
    model, batch = build(logit_adjustment=times, positive_weight=4.0).eval(), rows(1)
    assert not torch.isfinite(model.loss(batch)["clicked"].loss)  # nobody has said how frequent labels are
    ones, zeros = torch.tensor([85.0, 3.0]), torch.tensor([171.0, 297.0])
    model.set_priors(ones, zeros)
    if times == 1:
        for p, share in zip(model.predict(batch).values(), ones / (ones + zeros), strict=True):
            torch.testing.assert_close(p, share.expand(256))
    with torch.no_grad():
        for tower in model.towers:
            tower[-1].weight.normal_(generator=torch.Generator().manual_seed(2))
    parts, found = model.loss(batch), model.predict(batch)
    for name, own, prior in zip(model.labels, model.own_logits(batch, None), 4 * ones / zeros, strict=True):
        label = cast("Tensor", batch[name])
        adjusted = own + times * torch.log(prior)
        each = F.binary_cross_entropy_with_logits(adjusted, label, reduction="none")
        counts = torch.where(label > 0, 4.0, 1.0) * model.weight(batch, name)
        torch.testing.assert_close(parts[name].loss, (each * counts).sum(), rtol=1e-5, atol=1e-5)
        odds = found[f"p_{name}"] / (1 - found[f"p_{name}"])
        torch.testing.assert_close(odds, torch.exp(adjusted) / 4, rtol=1e-4, atol=1e-6)


def test_a_weight_of_all_labels_counts_where_a_label_has_none_of_its_own() -> None:
    torch.manual_seed(0)
    shared = Column("weight", Kind.WEIGHT)
    model = MultiTask(MultiTaskConfig(), Schema((*COLUMNS, CLICKED, PAID, WEIGHT, shared))).eval()
    batch = rows(1) | {"weight": torch.full((256,), 0.5)}
    parts = model.loss(batch)
    assert float(parts["clicked"].weight) == 128
    assert float(parts["paid"].weight) == float(batch["clicked"].sum())  # type: ignore[union-attr]


def test_a_number_that_is_called_weight_is_no_weight() -> None:
    """As a parcel's is."""
    torch.manual_seed(0)
    model = MultiTask(MultiTaskConfig(), Schema((*COLUMNS, Column("weight", Kind.DENSE), CLICKED, PAID))).eval()
    assert float(model.loss(rows(1) | {"weight": torch.full((256,), 0.5)})["clicked"].weight) == 256


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([CLICKED], r"needs two labels or more; the schema has the labels \['clicked'\]"),
        ([CLICKED, Column("steps", Kind.LABEL, length=3)], "label 'steps' .* one number a row; .* a list of 3"),
        ([CLICKED, Column("steps", Kind.LABEL, ragged=True)], "label 'steps' .* one number a row; .* of any length"),
        ([CLICKED, PAID, Column("weight", Kind.WEIGHT, length=2)], "weight 'weight' .* one number a row; .* of 2"),
        ([CLICKED, PAID, Column("paidweight", Kind.WEIGHT)], r"called 'weight', or .* weights \['paidweight'\]"),
    ],
)
def test_a_schema_without_several_labels_of_one_number_is_refused(columns: list[Column], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        MultiTask(MultiTaskConfig(), Schema((*COLUMNS, *columns)))
