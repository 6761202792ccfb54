"""Sequences against what each of their prefixes gives alone, and an order that no bag of items tells."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cluster.launch import launch
from tests.training import planted_order
from tests.training.planted_order import ITEMS, model_of, sequence_batch
from training.batch import Batch, Ragged
from training.configs import SequenceConfig
from training.errors import SettingsError
from training.models.bert4rec import Bert4Rec
from training.models.packed import attention, packed
from training.models.sequence import Sequence
from training.world import World

ROWS = [[4, 5, 6], [], [7], [1, 0, 2, 3, 3, 8, 9], [9, 8], [0, 0, 5, 4], [2, 1]]
BLOCKS = pytest.mark.parametrize("blocks", ["gated", "sasrec"])


def lists(rows: list[list[int]]) -> Ragged:
    return cast(Ragged, sequence_batch(rows)["history"])


def test_packed_sequences_lie_by_length_and_come_back() -> None:
    history = lists(ROWS)
    layout = packed(history.offsets, causal=True)
    assert layout.blocks == ((1, 1), (2, 2), (1, 3), (1, 4), (1, 7))
    assert history.values[layout.order].tolist() == [7, 9, 8, 2, 1, 4, 5, 6, 0, 0, 5, 4, 1, 0, 2, 3, 3, 8, 9]
    assert torch.equal(history.values[layout.order][layout.place], history.values)
    assert layout.position.tolist() == [0, 0, 1, 0, 1, 0, 1, 2, 0, 1, 2, 3, *range(7)]
    assert layout.length.tolist() == [1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4, *[7] * 7]


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_each_sequence_by_itself(causal: bool) -> None:
    history, generator = lists(ROWS), torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(len(history.values), 2, 6, generator=generator).requires_grad_() for _ in range(3))
    layout = packed(history.offsets, causal)
    found = attention(query[layout.order], key[layout.order], value[layout.order], layout)[layout.place]
    parts = []
    for start, end in pairwise(history.offsets.tolist()):
        scores = torch.einsum("qhw,khw->hqk", query[start:end], key[start:end]) / 6**0.5
        later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1) & causal
        parts.append(torch.einsum("hqk,khw->qhw", scores.masked_fill(later, -torch.inf).softmax(2), value[start:end]))
    plain = torch.cat(parts)
    torch.testing.assert_close(found, plain)
    for ours, reference in zip(
        torch.autograd.grad(found.square().sum(), (query, key, value)),
        torch.autograd.grad(plain.square().sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_no_tokens() -> None:
    layout = packed(torch.zeros(3, dtype=torch.int64), causal=True)
    nothing = torch.zeros(0, 2, 6)
    assert attention(nothing, nothing, nothing, layout).shape == (0, 2, 6)


def of_prefixes(model: Sequence, rows: list[list[int]], before: list[list[int]], worth: list[list[float]]) -> Tensor:
    """The loss written out: of each target the full softmax by the query that its prefix alone gives."""
    total = torch.zeros(())
    for row, known, weights in zip(rows, before, worth, strict=True):
        for target, count, weight in zip(row, known, weights, strict=True):
            if target and any(row[: max(count, 0)]):
                age = [float(len(row) - 1 - place) for place in range(count)]
                prefix: Batch = {
                    "history": Ragged(torch.tensor(row[:count]), torch.tensor([0, count])),
                    "history_age": Ragged(torch.tensor(age), torch.tensor([0, count])),
                }
                scores = model.queries(prefix) @ model.item_matrix().T
                total = total + weight * F.cross_entropy(scores[:, 1:], torch.tensor([target - 1]), reduction="sum")
    return total


@BLOCKS
def test_the_loss_and_its_gradients_are_those_of_each_prefix(blocks: str) -> None:
    """Also where lines share a moment, came late, are no targets, or are of unknown items; each has its weight."""
    before = [[0, 1, 2], [], [0], [0, 1, 2, 2, 2, 5, 3], [0, -1], [0, 1, 2, 3], [-1, 1]]
    worth = [[1.0 + place for place, _ in enumerate(row)] for row in ROWS]
    model = model_of(blocks=blocks, places=1, weighed=True).eval()
    batch = sequence_batch(ROWS, before)
    batch["history_weight"] = Ragged(torch.tensor([w for row in worth for w in row]), lists(ROWS).offsets)
    found, weight = model.loss(batch, torch.Generator())
    expected = of_prefixes(model, ROWS, before, worth)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert float(weight) == 2 + 3 + 3 + 4 + 5 + 6 + 7 + 4 + 2
    parameters = list(model.parameters())
    for ours, plain in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours.to_dense(), plain.to_dense(), rtol=1e-5, atol=1e-5)


@BLOCKS
def test_lines_that_no_query_sees_cost_nothing(blocks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = model_of(blocks=blocks), []
    encoded = Sequence._encoded

    def counted(self: Sequence, items: Tensor, *rest: Any) -> Tensor:
        seen.append(len(items))
        return encoded(self, items, *rest)

    monkeypatch.setattr(Sequence, "_encoded", counted)
    model.loss(sequence_batch([[1, 2, 3], [4], [5, 6, 7, 8]], [[0, 1, 2], [0], [0, 1, 1, -1]]), torch.Generator())
    assert seen == [3]


def test_only_differences_of_time_and_place_count() -> None:
    model = model_of().eval()
    row = sequence_batch([[3, 1, 2]])
    age = cast(Ragged, row["history_age"])
    later = {**row, "history_age": Ragged(age.values + 40, age.offsets)}
    apart = {**row, "history_age": Ragged(age.values * 40, age.offsets)}
    torch.testing.assert_close(model.queries(later), model.queries(row), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(model.queries(apart), model.queries(row), atol=1e-2)


@pytest.mark.parametrize(("places", "alike"), [(3, False), (2, True)])
def test_places_are_counted_from_the_newest_line_and_old_ones_share_one(places: int, alike: bool) -> None:
    model = model_of(blocks="sasrec", places=places, layers=1).eval()
    assert model.places is not None
    with torch.no_grad():
        model.places.normal_(generator=torch.Generator().manual_seed(1))
    first, second = model.queries(sequence_batch([[3, 1, 2], [1, 3, 2]]))
    assert torch.allclose(first, second, atol=1e-4) == alike


@BLOCKS
def test_nothing_is_dropped_where_nothing_is_learnt(blocks: str) -> None:
    model = model_of(blocks=blocks, dropout=0.5)
    batch = sequence_batch(ROWS)
    losses = [float(model.eval().loss(batch, torch.Generator().manual_seed(seed))[0].detach()) for seed in (1, 2)]
    assert losses[0] == losses[1]
    assert float(model.train().loss(batch, torch.Generator().manual_seed(1))[0].detach()) != losses[0]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"heads": 3}, "dim must be a multiple of 2 x heads = 6; got 64"),
        ({"heads": 1}, "heads must be 2 or more where blocks is gated"),
        ({"negatives": 0, "batch_negatives": 0}, "nothing tells a target from other items"),
    ],
)
def test_settings_that_cannot_be(config: dict[str, int], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SequenceConfig.parse(config)
    assert SequenceConfig.parse({"heads": 1, "blocks": "sasrec", "negatives": 0}).negatives == 0


@pytest.mark.parametrize("kind", [Sequence, Bert4Rec])
def test_queries_in_pieces_are_those_at_once(kind: type[Sequence], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, batch = model_of(kind).eval(), sequence_batch(ROWS)
    with torch.no_grad():
        at_once = model.queries(batch)
        monkeypatch.setattr("training.models.sequence.TOKENS_PIECE", 3)
        torch.testing.assert_close(model.queries(batch), at_once)
        assert len(model.queries(sequence_batch([]))) == 0


@pytest.mark.parametrize(("blocks", "negatives"), [("gated", 1_000), ("gated", 10), ("sasrec", 1_000)])
def test_an_order_that_no_bag_of_items_tells_is_found(blocks: str, negatives: int) -> None:
    model = planted_order.trained({"model": {"blocks": blocks, "negatives": negatives}}, World())
    assert planted_order.found(model) > 0.85


def test_one_that_reads_both_ways_finds_it() -> None:
    spec = {"model": {"masked": 0.0, "dropout": 0.0}, "both_ways": True}
    assert planted_order.found(planted_order.trained(spec, World())) > 0.85


def test_a_hidden_last_line_is_what_a_query_asks() -> None:
    """Its loss and gradients are those of the history before it; a line that is no target is never hidden."""
    model = model_of(Bert4Rec, masked=0.0, weighed=True).eval()
    rows, before = [[4, 5, 0, 6], [2, 0], [5, 1]], [[0, 0, 0, 0], [0, 0], [-1, -1]]
    batch = sequence_batch(rows, before)
    weights = torch.tensor([1.0, 1.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0])
    batch["history_weight"] = Ragged(weights, cast(Ragged, batch["history"]).offsets)
    found, weight = model.loss(batch, torch.Generator())
    offsets = torch.tensor([0, 3, 3])
    asked: Batch = {
        "history": Ragged(torch.tensor([4, 5, 0]), offsets),
        "history_age": Ragged(torch.tensor([3.0, 2.0, 1.0]), offsets),
    }
    losses = F.cross_entropy(
        (model.queries(asked) @ model.item_matrix().T)[:, 1:], torch.tensor([5, 1]), reduction="none"
    )
    expected = (torch.tensor([3.0, 2.0]) * losses).sum()
    assert float(weight) == 3 + 2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    parameters = list(model.parameters())
    for ours, plain in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours.to_dense(), plain.to_dense(), rtol=1e-5, atol=1e-5)


def test_lines_are_hidden_by_chance_and_at_least_one_a_sequence() -> None:
    model = model_of(Bert4Rec, masked=0.4)
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] * 400
    history, before = (cast(Ragged, sequence_batch(rows)[name]) for name in ("history", "history_before"))
    learnt = model._learnt(history, before.values, torch.Generator().manual_seed(0))
    counts = torch.bincount(learnt.lines // 10, minlength=400)
    assert counts.min() >= 1
    assert float(counts.double().mean()) == pytest.approx(4, abs=0.2)
    assert torch.equal(learnt.targets, history.values[learnt.lines])
    seen = model._seen(torch.zeros(len(history.values), 32), learnt)
    assert torch.equal(seen.any(1).nonzero()[:, 0], learnt.lines)


def test_two_towers_do_not_find_it() -> None:
    assert planted_order.found_by_two_towers() < 0.2


def test_ranks_train_what_one_trains_whole_tables_and_sharded() -> None:
    spec = {"model": {"dropout": 0.0, "negatives": ITEMS}}
    specs = {"whole": spec, "sharded": {**spec, "shard": True}}
    alone = planted_order.weights(spec, World())
    for found in launch("tests.training.planted_order:weights_each", specs, ranks=2, timeout_s=200).values():
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        torch.testing.assert_close(torch.tensor(found["queries"]), torch.tensor(alone["queries"]), rtol=1e-3, atol=1e-4)
