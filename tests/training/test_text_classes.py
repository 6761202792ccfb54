"""Texts in classes: planted ones are found, what is of none is told apart, and no other text changes an answer."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs import held_out_classes
from jobs.held_out_classes import CELLS, ClassCalibrator, threshold_cell
from tests.training.learning import training_losses
from training.batch import Batch, Ragged
from training.class_configs import TextClassesConfig
from training.errors import SchemaError, SettingsError
from training.models.text_classes import TextClasses
from training.schema import Column, Kind, Schema
from training.world import World

TERMS, CLASSES, OWN = 200, 5, 10  # a class has OWN terms: 1..10 are those of class 1, and so on; 51..100 are anyone's
SCHEMA = Schema(
    (
        Column("terms", Kind.IDS, "terms", TERMS),
        Column("vectors", Kind.DENSE, length=3),
        Column("label", Kind.LABEL, "intents", CLASSES + 1),
    )
)


def texts(seed: int, count: int = 128, *, strange: bool = False) -> Batch:
    """Two terms of the class among four of anyone's; strange ones have terms that no class has, and label 0."""
    draws = np.random.default_rng(seed)
    label = draws.integers(1, CLASSES + 1, count) * (not strange)
    own = (
        draws.integers(101, TERMS, (count, 2))
        if strange
        else draws.integers(0, OWN, (count, 2)) + label[:, None] * OWN - 9
    )
    held = np.concatenate([own, draws.integers(51, 101, (count, 4))], axis=1)
    return {
        "terms": Ragged(torch.from_numpy(held.ravel()), torch.arange(count + 1) * 6),
        "vectors": torch.zeros(count, 3),
        "label": torch.from_numpy(label).float(),
    }


def build(**config: Any) -> TextClasses:
    torch.manual_seed(0)
    return TextClasses(TextClassesConfig.parse({"dim": 16, "dropout": 0.1} | config), SCHEMA)


@pytest.fixture(scope="module")
def trained() -> TextClasses:
    model = build().train()
    list(training_losses(model, texts, 120, sparse_rate=0.02))
    return model.eval()


def test_planted_classes_are_found_and_what_is_of_none_is_told_apart(trained: TextClasses) -> None:
    """Though no text of none was ever shown."""
    inside, outside = texts(1_000, 512), texts(1_001, 512, strange=True)
    with torch.no_grad():
        found, strange = trained.predict(inside), trained.predict(outside)
    assert float((found["intent"] == inside["label"]).float().mean()) > 0.97
    pairs = found["scope"][:, None] > strange["scope"][None]
    assert float(pairs.float().mean()) > 0.97
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == dict.fromkeys(
        ("intent", "p", "scope", "in_scope"), ((512,), torch.float32)
    )


def test_mixtures_are_of_two_classes_and_of_none(trained: TextClasses) -> None:
    batch = texts(5)
    model = build(mixed=2.0).train()
    loss, weight = model.loss(batch, torch.Generator().manual_seed(1))
    alone, rows = build(mixed=0.0).train().loss(batch, torch.Generator().manual_seed(1))
    assert float(rows) == 128
    assert 128 + 2 * 60 < float(weight) < 128 + 2 * 128
    assert float(loss.detach()) > float(alone.detach())
    one = batch | {"label": torch.ones(128)}
    assert float(model.loss(one, torch.Generator().manual_seed(1))[1]) == 128  # no two classes, no mixtures
    assert float(model.eval().loss(batch)[1]) == 128


def test_numbers_beside_the_terms_count() -> None:
    def numbered(seed: int) -> Batch:
        batch = texts(seed)
        label = batch["label"]
        assert isinstance(label, Tensor)
        is_high = torch.rand(128, generator=torch.Generator().manual_seed(seed)) < 0.5
        vectors = torch.zeros(128, 3)
        vectors[:, 1] = is_high.float() * 2 - 1
        return batch | {"label": 1.0 + is_high, "vectors": vectors}

    model = build().train()
    list(training_losses(model, numbered, 60, sparse_rate=0.02))
    batch = numbered(99)
    with torch.no_grad():
        assert float((model.eval().predict(batch)["intent"] == batch["label"]).float().mean()) > 0.97


def test_a_text_of_terms_that_were_not_learnt_is_in_scope_of_nothing() -> None:
    """A third of them at least must have been: hashes give some of any text a number that another term has."""
    model = TextClasses(
        TextClassesConfig.parse({"dim": 4}), Schema(tuple(one for one in SCHEMA if one.name != "vectors"))
    )
    with torch.no_grad():
        model.terms.weight[1:4] = 1.0
    model.eval().threshold.fill_(-64.0)
    batch: Batch = {
        "terms": Ragged(torch.tensor([1, 99, 98, 97, 2, 96, 95, 3]), torch.tensor([0, 4, 7, 8, 8])),
    }  # one of four, one of three, one of one, and nothing
    with torch.no_grad():
        assert model.predict(batch)["in_scope"].tolist() == [0, 1, 1, 0]


def test_other_texts_change_no_answer_and_an_empty_one_is_answered(trained: TextClasses) -> None:
    batch = texts(3, 12)
    terms = batch["terms"]
    assert isinstance(terms, Ragged)
    offsets = torch.cat([terms.offsets[:6], terms.offsets[5:6]])  # five texts, and one without a term
    part: Batch = {"terms": Ragged(terms.values[: int(offsets[-1])], offsets), "vectors": torch.zeros(6, 3)}
    with torch.no_grad():
        found, whole = trained.predict(part), trained.predict(batch)
    for name in found:
        torch.testing.assert_close(found[name][:5], whole[name][:5])
        assert torch.isfinite(found[name][5])
    open_to_all = copy.deepcopy(trained)
    open_to_all.threshold.fill_(-64.0)  # as low as one can be
    strange: Batch = {
        "terms": Ragged(torch.tensor([1, TERMS - 1, TERMS - 2]), torch.tensor([0, 1, 3, 3, 3])),
        "vectors": torch.tensor([[0.0] * 3, [0.0] * 3, [0.0] * 3, [1.0] * 3]),
    }  # a term of a class, terms that no text had, nothing, and nothing but a vector
    with torch.no_grad():
        assert open_to_all.predict(strange)["in_scope"].tolist() == [1, 0, 0, 0]
    none: Batch = {
        "terms": Ragged(terms.values[:0], offsets[:1]),
        "vectors": torch.zeros(0, 3),
        "label": torch.zeros(0),
    }
    total, weight = trained.loss(none)
    total.backward()
    assert (float(total.detach()), float(weight)) == (0.0, 0.0)
    assert trained.predict(none)["p"].shape == (0,)


def test_a_new_class_is_learnt_by_ten_texts_beside_others_that_stay(trained: TextClasses) -> None:
    columns = (*SCHEMA.columns[:2], Column("label", Kind.LABEL, "intents", CLASSES + 2))
    asked = {"dim": 16, "dropout": 0.1, "learn": "new", "learnt": CLASSES + 1}
    torch.manual_seed(0)
    model = TextClasses(TextClassesConfig.parse(asked), Schema(columns)).train()
    held, wanted = trained.state_dict(), model.state_dict()
    model.load_state_dict({name: torch.cat([held[name], of[len(held[name]) :]]) if of.dim() else of
                           for name, of in wanted.items()})  # fmt: skip
    assert sorted(name for name, one in model.named_parameters() if one.requires_grad) == [
        "biases.weight",
        "classes.weight",
    ]
    new = texts(7, 10)  # of the words of two classes each, which no other text has together
    terms = cast("Ragged", new["terms"]).values.clone().view(10, 6)
    terms[:, 0], terms[:, 1] = torch.arange(10) % OWN + 1, torch.arange(10) % OWN + 2 * OWN + 1

    def with_new(seed: int) -> Batch:
        old = texts(seed, 118)
        both = torch.cat([cast("Ragged", old["terms"]).values, terms.flatten()])
        label = torch.cat([cast("Tensor", old["label"]), torch.full((10,), CLASSES + 1.0)])
        return {"terms": Ragged(both, torch.arange(129) * 6), "vectors": torch.zeros(128, 3), "label": label}

    list(training_losses(model, with_new, 150, sparse_rate=0.02))
    model.eval()
    for name, tensor in trained.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name][: len(tensor)], tensor, rtol=0, atol=0)
    last = with_new(99)
    with torch.no_grad():
        found, before = model.predict(last)["intent"], trained.predict(texts(99, 118))["intent"]
    assert float((found[118:] == CLASSES + 1).float().mean()) >= 0.9
    assert float((found[:118] == before).float().mean()) >= 0.97


def test_classes_to_stay_need_a_bundle_and_one_that_it_has_not() -> None:
    with pytest.raises(SettingsError, match=r"needs a bundle whose classes stay: set training.start_from"):
        build(learn="new")
    with pytest.raises(SettingsError, match=r"it has all 5 of the examples: build with messages of a new one"):
        build(learn="new", learnt=CLASSES + 1)


def test_a_class_past_the_vocabulary_is_none() -> None:
    assert build().labels({"label": torch.tensor([0.0, 5.0, 6.0, -1.0])}).tolist() == [0, 5, 0, 0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ([], r"needs one label, .*has the labels \[\]"),
        ([Column("y", Kind.LABEL)], r"has the labels \['y of 0 numbers'\]"),
        ([Column("y", Kind.LABEL, "v", 1)], r"has the labels \['y of 1 numbers'\]"),
        (
            [Column("y", Kind.LABEL, "v", 3), Column("a", Kind.DENSE), Column("b", Kind.DENSE, length=2)],
            r"at most; the schema has the numbers \['a', 'b'\]",
        ),
    ],
)
def test_a_schema_of_no_classes_is_refused(columns: list[Column], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        TextClasses(TextClassesConfig(), Schema((SCHEMA["terms"], *columns)))


def test_the_threshold_keeps_a_share_and_parts_both_kinds_best_where_there_are_such() -> None:
    inside, outside = np.zeros(CELLS), np.zeros(CELLS)
    inside[1_000:1_100] = 1
    assert threshold_cell(inside, outside, 0.95) == 1_005
    outside[1_000:1_002] = 30
    assert threshold_cell(inside, outside, 0.95) == 1_002
    outside[1_050] = 1_000  # to part these as well costs more than may go
    assert threshold_cell(inside, outside, 0.95) == 1_002


def test_the_temperature_is_the_one_by_which_logits_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(0)
    true = 2 * torch.randn(20_000, CLASSES, generator=draws)
    label = 1 + torch.multinomial(torch.softmax(true, dim=1), 1, generator=draws).squeeze(1)
    scope_of = torch.where(torch.arange(20_000) % 4 == 0, -5.0, 5.0)  # a quarter has none of the classes
    logits = 3 * true
    none = torch.logsumexp(logits, dim=1) - scope_of
    model = build()
    monkeypatch.setattr(model, "logits", lambda _: torch.cat([none[:, None], logits], dim=1))
    batch: Any = {"label": torch.where(scope_of > 0, label, 0).float()}
    monkeypatch.setattr(held_out_classes, "added_up", lambda *given: given[3](batch))
    calibrator = ClassCalibrator(model, SimpleNamespace(rows=20_000), SCHEMA, World())  # type: ignore[arg-type]
    measured = calibrator.calibrate(print)
    assert float(model.temperature) == pytest.approx(3, rel=0.1)
    assert measured["confidence"]["log_loss_after"] < 0.8 * measured["confidence"]["log_loss_before"]
    assert -5 < float(model.threshold) <= 5
    assert measured["scope"] | {"threshold": 0} == {
        "rows_without_class": 5_000,
        "threshold": 0,
        "kept": 1.0,
        "taken_in_without_class": 0.0,
    }


def test_what_is_set_after_training_needs_rows_with_a_class() -> None:
    nothing: Any = SimpleNamespace(rows=0)
    with pytest.raises(SettingsError, match="needs 30 validation rows that have a class; there are 0; raise"):
        ClassCalibrator(build(), nothing, SCHEMA, World()).check()
