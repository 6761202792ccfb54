"""Negatives of which a share is learnt from: which ones, and that probabilities stay those of all rows."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch
from deltalake import WriterProperties, write_deltalake
from torch import Tensor

from training.batch import Batch, Ragged, batch_size, chosen
from training.data.loader import Loader
from training.data.snapshot import Snapshot, open_snapshot
from training.data.transform import one_after_the_other
from training.errors import SettingsError
from training.fit import fit
from training.metrics.probabilities import Binary
from training.models import MODELS
from training.models.negatives import INVERSE_CHANCE, thinned
from training.models.rows import LabelModel, thinning
from training.schema import Column, Kind, Schema
from training.settings import FitSettings
from training.world import World

ROWS, SHARE = 20_000, 0.1
SCHEMA = Schema((Column("id", Kind.ID, "ids", ROWS), Column("x", Kind.DENSE), Column("y", Kind.LABEL)))
LEARNT = Schema((Column("x", Kind.DENSE), Column("y", Kind.LABEL)))
KEPT = partial(thinned, labels=["y"], share=SHARE)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A label in 25, by x."""
    path, draws = tmp_path_factory.mktemp("negatives") / "t", np.random.default_rng(0)
    x = draws.normal(size=ROWS)
    y = (draws.random(ROWS) < 1 / (1 + np.exp(4 - 1.5 * x))).astype(np.float32)
    table = pa.table({"id": np.arange(ROWS), "x": x.astype(np.float32), "y": y})
    write_deltalake(path, table, writer_properties=WriterProperties(max_row_group_size=500))
    return open_snapshot(str(path))


def kept(snapshot: Snapshot, epoch: int = 0, ranks: int = 1, batch: int = 256, seed: int = 0) -> dict[int, float]:
    """The rows that ranks learn from, and what each counts for."""
    found: dict[int, float] = {}
    for rank in range(ranks):
        with Loader(
            snapshot, SCHEMA, batch_size=batch, seed=seed, rank=rank, world_size=ranks, transform=KEPT
        ) as loader:
            batches = list(loader.epoch(epoch))
        assert len(batches) == -(-ROWS // (batch * ranks))
        for one in batches:
            found |= dict(zip(one["id"].tolist(), one[INVERSE_CHANCE].tolist(), strict=True))  # type: ignore[union-attr]
    return found


def test_all_positives_and_a_share_of_the_others_are_learnt_from(snapshot: Snapshot) -> None:
    found = kept(snapshot)
    with Loader(snapshot, SCHEMA, batch_size=ROWS, seed=0) as loader:
        [every] = loader.epoch(0)
    positive = {int(i) for i, y in zip(every["id"], every["y"], strict=True) if y > 0.5}
    assert positive < found.keys()
    assert {i for i, counts in found.items() if counts == 1} == positive
    assert {counts for i, counts in found.items() if i not in positive} == {1 / SHARE}
    assert sum(found.values()) == pytest.approx(ROWS, rel=0.05)


def test_ranks_and_batches_keep_the_same_rows_and_epochs_other_ones(snapshot: Snapshot) -> None:
    first = kept(snapshot)
    assert kept(snapshot, ranks=4, batch=100) == first
    negatives = {i for i, counts in first.items() if counts > 1}
    for other in (kept(snapshot, epoch=1), kept(snapshot, seed=7)):
        both = {i for i, counts in other.items() if counts > 1} & negatives
        assert len(both) == pytest.approx(SHARE * len(negatives), rel=0.35)


TREATED = {
    "negatives": {"negatives_kept": SHARE},
    "weights": {"positive_weight": 20.0},
    "focal": {"focal": 2.0},
    "all at once": {"negatives_kept": SHARE, "positive_weight": 5.0, "focal": 1.0, "logit_adjustment": 1.0},
}


def learnt(snapshot: Snapshot, **config: float) -> tuple[float, float, dict[str, float]]:
    """Rows an epoch, the last loss, and what the answers to all rows are worth."""
    with Loader(snapshot, LEARNT, batch_size=ROWS, seed=0) as loader:
        [every] = loader.epoch(0)
    torch.manual_seed(0)
    kind, label = MODELS["row_mlp"], every["y"]
    model = kind(kind.Config.parse({"hidden": [16], "dropout": 0.0, **config}), LEARNT)
    assert isinstance(model, LabelModel)
    assert isinstance(label, Tensor)
    if model.config.logit_adjustment:
        model.set_priors(label.sum()[None], (1 - label).sum()[None])
    with Loader(snapshot, LEARNT, batch_size=500, seed=0, transform=thinning(model, 500)) as loader:
        settings = FitSettings(epochs=6, batch_size=500, learning_rate=0.02, schedule="linear")
        result = fit(model, loader, settings, world=World())
        rows = loader.stats.rows / settings.epochs
    metric = Binary()
    with torch.no_grad():
        sums = metric.sums(model.eval().predict(every)["p"], label)
    return rows, result.final_loss, metric.finish(sums)


@pytest.fixture(scope="module")
def untreated(snapshot: Snapshot) -> dict[str, float]:
    rows, _, found = learnt(snapshot)
    assert rows == ROWS
    return found


@pytest.mark.parametrize("way", TREATED)
def test_what_is_done_about_rare_labels_leaves_probabilities_and_order(
    snapshot: Snapshot, untreated: dict[str, float], way: str
) -> None:
    """Each way is taken out of the answers once, alone and beside the others."""
    rows, _, found = learnt(snapshot, **TREATED[way])
    assert rows == ROWS if "negatives_kept" not in TREATED[way] else rows < 0.16 * ROWS
    assert found["predicted_over_actual"] == pytest.approx(1, abs=0.1)  # 50 zeros of a step are few
    assert found["auc"] == pytest.approx(untreated["auc"], abs=0.005)
    assert found["average_precision"] == pytest.approx(untreated["average_precision"], abs=0.01)
    assert found["ece"] < 0.01


def test_a_row_of_several_labels_is_negative_where_all_are() -> None:
    draws, rows = torch.Generator().manual_seed(0), np.arange(4_000)
    batch: Batch = {name: (torch.rand(4_000, generator=draws) < 0.3).float() for name in ("clicked", "paid")}
    found = thinned({**batch, "row": torch.from_numpy(rows)}, rows, 3, labels=["clicked", "paid"], share=0.25)
    clicked, paid, counts = (found[name] for name in ("clicked", "paid", INVERSE_CHANCE))
    assert isinstance(clicked, Tensor)
    assert isinstance(paid, Tensor)
    assert torch.equal(counts, torch.where((clicked > 0.5) | (paid > 0.5), 1.0, 4.0))
    is_positive = (batch["clicked"] + batch["paid"]) > 0.5  # type: ignore[operator]
    assert set(torch.from_numpy(rows)[is_positive].tolist()) <= set(found["row"].tolist())  # type: ignore[union-attr]


def test_what_a_row_counts_for_is_multiplied_into_its_weight() -> None:
    torch.manual_seed(0)
    kind = MODELS["row_mlp"]
    model = kind(kind.Config.parse({}), Schema((*LEARNT, Column("w", Kind.WEIGHT)))).eval()
    batch: Batch = {"x": torch.randn(6), "y": torch.tensor([0.0, 1] * 3), "w": torch.tensor([1.0, 2, 0, 1, 3, 1])}
    total, weight = model.loss({**batch, INVERSE_CHANCE: torch.tensor([4.0, 1, 4, 1, 4, 1])})
    wanted = model.loss({**batch, "w": torch.tensor([4.0, 2, 0, 1, 12, 1])})
    torch.testing.assert_close((total, weight), wanted)


def test_chosen_rows_keep_their_lists_and_texts() -> None:
    lists = Ragged(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 2, 2, 4, 5]))
    batch: Batch = {"lists": lists, "text": ["a", "b", "c", "d"], "numbers": torch.arange(8).reshape(4, 2)}
    found = chosen(batch, torch.tensor([True, True, False, True]))
    assert isinstance(found["lists"], Ragged)
    assert found["lists"].values.tolist() == [1, 2, 5]
    assert found["lists"].offsets.tolist() == [0, 2, 2, 3]
    assert found["text"] == ["a", "b", "d"]
    assert found["numbers"].tolist() == [[0, 1], [2, 3], [6, 7]]  # type: ignore[union-attr]
    none = chosen(batch, torch.zeros(4, dtype=torch.bool))
    assert batch_size(none) == 0
    assert none["lists"].offsets.tolist() == [0]  # type: ignore[union-attr]


def test_a_tasks_own_transform_comes_first() -> None:
    def more(batch: Batch, rows: object, seed: int) -> Batch:
        return {**batch, "y": torch.ones(3)}

    both = one_after_the_other(more, KEPT)
    assert both is not None
    assert batch_size(both({"y": torch.zeros(3)}, np.arange(3), 0)) == 3
    assert one_after_the_other(None, KEPT) is KEPT
    assert one_after_the_other(more, None) is more


def test_a_share_that_leaves_a_step_without_negatives_is_refused() -> None:
    """Such a step has ones alone, and its mean says that all are."""
    kind = MODELS["row_mlp"]
    model = kind(kind.Config.parse({"negatives_kept": 0.01}), LEARNT)
    with pytest.raises(SettingsError, match=r"leave 30 negatives .* 0.01 of 256 rows leaves 2.56; set it to 0.12 or"):
        thinning(model, 256)
    assert thinning(model, 3_000) is not None
