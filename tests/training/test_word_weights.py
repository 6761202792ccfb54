"""Texts: what neighbours do to words is learnt, and what each word says adds up to the answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.learning import training_losses
from training.batch import Batch, Ragged
from training.errors import DataError
from training.models import Model
from training.models.word_weights import WordWeights
from training.row_configs import WordWeightsConfig
from training.schema import Column, Kind, Schema

WORDS, GOOD, BAD, NOT = 60, (1, 2, 3), (4, 5, 6), 7
SCHEMA = Schema(
    (
        Column("words", Kind.IDS, "words", WORDS),
        Column("pairs", Kind.IDS, "pairs", WORDS * WORDS),
        Column("label", Kind.LABEL),
    )
)


def texts(seed: int, count: int = 256, *, pairs: bool = True) -> Batch:
    """Of three to twelve words, one is good or bad; a `NOT` before it, or one place further away, turns it round."""
    draws = torch.Generator().manual_seed(seed)

    def below(high: int, low: int = 0) -> int:
        return int(torch.randint(low, high, (1,), generator=draws))

    words, labels = [], []
    for _ in range(count):
        text = [below(WORDS, 8) for _ in range(below(12, 3))]
        place, is_bad, turned = below(len(text), 2), bool(below(2)), below(3)
        text[place] = (BAD if is_bad else GOOD)[below(3)]
        if turned:
            text[place - turned] = NOT
        words.append(text)
        labels.append(is_bad != bool(turned))
    flat = torch.tensor([word for text in words for word in text])
    offsets = torch.tensor([0, *(len(text) for text in words)]).cumsum(0)
    following = [(a * WORDS + b) * pairs for text in words for a, b in zip(text, [*text[1:], 0], strict=True)]
    held = torch.tensor([number if number % WORDS else 0 for number in following])
    return {"words": Ragged(flat, offsets), "pairs": Ragged(held, offsets), "label": torch.tensor(labels).float()}


def build(**config: Any) -> Model:
    torch.manual_seed(0)
    return WordWeights(
        WordWeightsConfig.parse({"dim": 8, "hidden": 16, "dropout": 0.1, "start_logit": 0} | config), SCHEMA
    )


@pytest.fixture(scope="module")
def trained() -> WordWeights:
    model = build().train()
    batches = [texts(seed) for seed in range(20)]
    list(training_losses(model, lambda step: batches[step % 20], 200, sparse_rate=0.02))
    assert isinstance(model, WordWeights)
    return model.eval()


def right(model: Model, batch: Batch) -> float:
    label = batch["label"]
    assert isinstance(label, Tensor)
    with torch.no_grad():
        return float(((model.predict(batch)["p"] > 0.5) == (label > 0.5)).float().mean())


def test_a_neighbour_turns_a_word_round_also_where_the_two_are_no_known_pair(trained: WordWeights) -> None:
    assert right(trained, texts(100, 512)) > 0.95
    assert right(trained, texts(101, 512, pairs=False)) > 0.85
    alone = build(reach=0).train()
    list(training_losses(alone, lambda step: texts(step % 20, pairs=False), 100, sparse_rate=0.02))
    assert right(alone.eval(), texts(101, 512, pairs=False)) < 0.75


def test_shares_of_words_add_up_to_the_answer(trained: WordWeights) -> None:
    batch = texts(7, 30)
    words = batch["words"]
    assert isinstance(words, Ragged)
    with torch.no_grad():
        shares, p = trained.shares(batch), trained.predict(batch)["p"]
    sums = torch.stack([part.sum() for part in torch.split(shares, words.offsets.diff().tolist())])
    torch.testing.assert_close(torch.sigmoid(sums + trained.start.detach()), p)
    decisive = torch.isin(words.values, torch.tensor([*GOOD, *BAD, NOT]))
    assert shares[decisive].abs().mean() > 5 * shares[~decisive].abs().mean()


def test_other_texts_change_no_answer_and_an_empty_one_is_answered(trained: WordWeights) -> None:
    batch = texts(3, 12)
    words, pairs = batch["words"], batch["pairs"]
    assert isinstance(words, Ragged)
    assert isinstance(pairs, Ragged)
    offsets = torch.cat([words.offsets[:6], words.offsets[5:6]])  # five texts, and one without a word
    part = {
        name: Ragged(held.values[: int(offsets[-1])], offsets) for name, held in (("words", words), ("pairs", pairs))
    }
    with torch.no_grad():
        found = trained.predict(part)["p"]
        torch.testing.assert_close(found[:5], trained.predict(batch)["p"][:5])
    torch.testing.assert_close(found[5], torch.sigmoid(trained.start.detach())[0])
    none = Ragged(words.values[:0], offsets[:1])
    total, weight = trained.loss({"words": none, "pairs": none, "label": torch.zeros(0)})
    total.backward()
    assert (float(total.detach()), float(weight)) == (0.0, 0.0)


def test_lists_of_different_lengths_are_refused(trained: WordWeights) -> None:
    batch = texts(3, 2)
    pairs = batch["pairs"]
    assert isinstance(pairs, Ragged)
    held = int(pairs.offsets[1])
    shorter = Ragged(pairs.values[1:], torch.cat([pairs.offsets[:1], pairs.offsets[1:] - 1]))
    with pytest.raises(DataError, match=rf"of one length, .*row 0 of a batch has {held} words and {held - 1} pairs"):
        trained.predict(batch | {"pairs": shorter})
