"""A text encoder's folder with drawn weights, and what its vectors must be, computed word by word with numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Tensors = dict[str, npt.NDArray[np.float32]]

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "red",
    "lantern",
    "##s",
    "paper",
    "blue",
    "!",
    "a",
    "cafe",
    "[",
    "]",
    "sep",
)
CONFIG: dict[str, Any] = {
    "model_type": "bert", "vocab_size": len(WORDS) + 2, "hidden_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 12, "type_vocab_size": 2,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1,
}  # fmt: skip


def tensors_of(config: Mapping[str, Any]) -> Tensors:
    rng = np.random.default_rng(7)
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
    }
    norms, linears = {"embeddings.LayerNorm": width}, dict[str, tuple[int, int]]()
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        norms |= {f"{layer}.attention.output.LayerNorm": width, f"{layer}.output.LayerNorm": width}
        linears |= {f"{layer}.attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        linears |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.intermediate.dense": (inner, width)}
        linears |= {f"{layer}.output.dense": (width, inner)}
    shapes |= {f"{name}.{kind}": (size,) for name, size in norms.items() for kind in ("weight", "bias")}
    shapes |= {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    return {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def tokenizer_of(words: tuple[str, ...]) -> dict[str, Any]:
    """As of BERT: marks and accents go, words in pieces, signs of begin and end; fills up, which ours must not."""
    special = [
        {"id": number, "content": words[number], "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for number in range(4)
    ]  # fmt: skip
    signs = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
             {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]  # fmt: skip
    numbers = {name: {"id": name, "ids": [words.index(name)], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing", "single": signs, "pair": signs, "special_tokens": numbers},
        "decoder": None,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: number for number, word in enumerate(words)}},
    }  # fmt: skip


def save_folder(
    folder: Path, config: Mapping[str, Any] = CONFIG, tensors: Tensors | None = None, words: tuple[str, ...] = WORDS
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(words)))
    save_file(tensors_of(CONFIG) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def vector(tensors: Tensors, config: Mapping[str, Any], tokens: list[int]) -> npt.NDArray[np.float64]:
    """What BERT's paper says, one token and one head after the other, in float64."""
    held = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return held[f"{name}.weight"] @ x + held[f"{name}.bias"]

    def norm(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return (x - x.mean()) / math.sqrt(x.var() + 1e-12) * held[f"{name}.weight"] + held[f"{name}.bias"]

    def gelu(value: float) -> float:
        return value * 0.5 * (1 + math.erf(value / math.sqrt(2)))

    word, place, kind = (held[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type"))
    xs = [norm("embeddings.LayerNorm", word[token] + place[at] + kind[0]) for at, token in enumerate(tokens)]
    heads, size = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        query, key, value = ([linear(f"{layer}.attention.self.{p}", x) for x in xs] for p in ("query", "key", "value"))
        after = []
        for at, x in enumerate(xs):
            mixed = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                weights = np.exp([query[at][part] @ other[part] / math.sqrt(size) for other in key])
                mixed.append(sum(w * other[part] for w, other in zip(weights / weights.sum(), value, strict=True)))
            y = norm(f"{layer}.attention.output.LayerNorm",
                     x + linear(f"{layer}.attention.output.dense", np.concatenate(mixed)))  # fmt: skip
            inner = np.array([gelu(value) for value in linear(f"{layer}.intermediate.dense", y)])
            after.append(norm(f"{layer}.output.LayerNorm", y + linear(f"{layer}.output.dense", inner)))
        xs = after
    mean = np.mean(xs, axis=0)
    return np.asarray(mean / np.linalg.norm(mean))
