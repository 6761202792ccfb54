"""A text encoder that is tuned: it starts as it was, learns what its frozen vectors cannot tell, and on any ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.launch import launch
from tests.training.learning import training_losses
from tests.training.text_models import save_folder
from tests.training.tuned_ranks import PLAIN, SCHEMA, build, ragged, texts, train
from training.batch import Batch, Ragged
from training.errors import BundleError, SchemaError, SettingsError
from training.models.text_classes import TextClasses
from training.models.tuned_text_classes import TunedTextClasses
from training.schema import Column, Kind, Schema
from training.state.bundle import load_bundle
from training.state.publish import write_bundle
from training.state.text_encoder import Start, load_encoder, read_start
from training.state.warm_start import warm_start
from training.step.sync import Synchroniser
from training.world import World

STEPS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def start(folder: Path) -> Start:
    return read_start(folder)


@pytest.fixture(scope="module", params=["lora", "whole"])
def tuned(request: pytest.FixtureRequest, start: Start) -> TunedTextClasses:
    model = build(start, tuned=request.param, rank=16).train()
    list(training_losses(model, texts, STEPS, sparse_rate=0.02))
    return model.eval()


def accuracy(model: TextClasses, batch: Batch) -> float:
    label = batch["label"]
    with torch.no_grad():
        return float((model.predict(batch)["intent"] == label).float().mean())  # type: ignore[arg-type]


def tokens_of(batch: Batch) -> Ragged:
    tokens = batch["tokens"]
    assert isinstance(tokens, Ragged)
    return tokens


@pytest.mark.parametrize("how", ["lora", "whole"])
def test_tuning_starts_from_the_frozen_encoder(how: str, folder: Path, start: Start) -> None:
    said = ["a red lantern", "Red lanterns! paper", "", "blue"]
    values, lengths = start.cutter.tokens(said)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    wanted = torch.from_numpy(load_encoder(folder).vectors(said))
    encoder = build(start, tuned=how).encoder
    torch.testing.assert_close(encoder(torch.from_numpy(values), offsets), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.in_passes(torch.from_numpy(values), offsets), wanted, atol=1e-6, rtol=0)


def test_an_order_of_words_is_learnt_that_frozen_vectors_do_not_tell(tuned: TunedTextClasses, start: Start) -> None:
    asked = texts(1_000, 512)
    assert accuracy(tuned, asked) > 0.85
    if tuned.config.tuned == "whole":
        return  # one comparison is enough
    encoder = build(start).encoder

    def frozen(seed: int) -> Batch:
        batch = texts(seed)
        with torch.no_grad():
            return batch | {"vectors": encoder(*tokens_of(batch))}

    torch.manual_seed(0)
    columns = (SCHEMA["terms"], Column("vectors", Kind.DENSE, length=24), SCHEMA["label"])
    model = TextClasses(TextClasses.Config.parse(PLAIN), Schema(columns)).train()
    list(training_losses(model, frozen, STEPS, sparse_rate=0.02))
    assert accuracy(model.eval(), frozen(1_000)) < 0.65


def test_what_is_frozen_stays_and_ranks_exchange_the_rest(tuned: TunedTextClasses, start: Start) -> None:
    own = dict(tuned.encoder.named_parameters())
    changed = {name for name, parameter in own.items() if not torch.equal(parameter, start.tensors.get(name, Tensor()))}
    adapters = {
        f"layers.{layer}.{of}.{part}" for layer in (0, 1) for of in ("query", "value") for part in ("up", "down")
    }
    exchanged = {id(parameter) for parameter in Synchroniser(tuned, World()).shared}
    if tuned.config.tuned == "lora":
        assert changed == adapters
        assert {name for name, parameter in own.items() if id(parameter) in exchanged} == adapters
    else:
        assert own.keys() - changed <= {"kinds.weight"}
        assert {id(parameter) for parameter in own.values()} <= exchanged


def test_other_texts_change_no_answer_and_an_empty_one_is_answered(tuned: TunedTextClasses) -> None:
    batch = texts(3, 12)
    lists = [[2, 4, 3], [], tokens_of(batch).values[:5].tolist()]
    part: Batch = {"terms": Ragged(torch.ones(3, dtype=torch.int64), torch.arange(4)), "tokens": ragged(lists)}
    with torch.no_grad():
        found = tuned.predict(part)
        for row, one in enumerate(lists):
            alone = tuned.predict(
                {"terms": Ragged(torch.ones(1, dtype=torch.int64), torch.arange(2)), "tokens": ragged([one])}
            )
            torch.testing.assert_close(alone["p"], found["p"][row : row + 1])
    none: Batch = {
        "terms": Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)),
        "tokens": ragged([]),
        "label": torch.zeros(0),
    }
    total, weight = tuned.loss(none)
    assert (float(total.detach()), float(weight)) == (0.0, 0.0)
    with torch.no_grad():
        assert tuned.predict(none)["p"].shape == (0,)


def test_a_bundle_answers_without_the_weights_that_it_started_from(tuned: TunedTextClasses, tmp_path: Path) -> None:
    bundle = write_bundle(
        tmp_path,
        model_name="tuned_text_classes",
        config=tuned.config.model_dump(mode="json"),
        schema=SCHEMA,
        tensors=tuned.state_dict(),
        provenance={},
        settings={},
        metrics={},
    )
    held, asked = load_bundle(bundle.path), texts(7)
    with torch.no_grad():
        torch.testing.assert_close(held.model().predict(asked), tuned.predict(asked), atol=0, rtol=0)
    config = tuned.config.model_dump() | {"tuned": "lora" if tuned.config.tuned == "whole" else "whole"}
    other = TunedTextClasses(TunedTextClasses.Config.parse(config), SCHEMA)
    with pytest.raises(BundleError, match=rf"model's tuned; it is {config['tuned']} here and {tuned.config.tuned} in"):
        warm_start(other, held)
    assert tuned.config.encoder is not None
    shape = tuned.config.encoder.model_dump() | {"layer_norm_eps": 0.5}
    other = TunedTextClasses(TunedTextClasses.Config.parse(tuned.config.model_dump() | {"encoder": shape}), SCHEMA)
    with pytest.raises(BundleError, match=r"model's encoder; it is .*'layer_norm_eps': 0\.5"):
        warm_start(other, held)


def test_two_ranks_end_as_one_with_batches_added_up_or_in_bfloat16(folder: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "lora": {"model": {}, "training": {}},
        "added up": {"model": {}, "training": {"accumulate": 2}},
        "bf16": {"model": {}, "training": {"precision": "bf16"}},
        "whole": {"model": {"tuned": "whole"}, "training": {}},
    }
    spec = {"folder": str(folder), "runs": runs}
    alone = train(spec, World())
    many = launch("tests.training.tuned_ranks:train", spec, ranks=2, timeout_s=120)
    for name in ("lora", "added up", "whole"):
        assert many[name] == pytest.approx(alone[name], rel=1e-4), name
        assert many[name][-1] < many[name][0]
    assert many["added up"] == pytest.approx(many["lora"], rel=1e-4)
    assert many["bf16"] == pytest.approx(many["lora"], rel=0.02)


def test_an_encoder_that_is_not_said_or_does_not_fit_is_refused(start: Start) -> None:
    with pytest.raises(SettingsError, match=r"model\.encoder must say what the encoder is, .*; it is null: a training"):
        TunedTextClasses(TunedTextClasses.Config.parse({}), SCHEMA)
    others = Schema((SCHEMA["terms"], Column("tokens", Kind.IDS, "tokens", 99), SCHEMA["label"]))
    with pytest.raises(SchemaError, match="encoder's vocabulary, of 17 numbers; the examples' have 99: build"):
        TunedTextClasses(TunedTextClasses.Config.parse({"encoder": start.config.model_dump()}), others)
