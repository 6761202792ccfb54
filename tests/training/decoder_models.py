"""A decoder's folder with drawn weights, and what its logits must be, computed token by token with numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from training.state.text_pieces import made_of

Tensors = dict[str, npt.NDArray[np.float32]]

SIZE = 300
TEXTS = ("A red lantern of paper, 30 cm tall.", "The blue bowl is 12 cm high.", "Café lamps, red and blue.")
CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": SIZE, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "rope_theta": 1000.0, "tie_word_embeddings": True, "hidden_act": "silu", "eos_token_id": 0,
    "torch_dtype": "float32",
}  # fmt: skip


def tensors_of(config: Mapping[str, Any]) -> Tensors:
    rng = np.random.default_rng(5)
    width, inner = config["hidden_size"], config["intermediate_size"]
    shared = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    norms = {"model.norm.weight"}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        norms |= {f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"}
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (width, width) for part in "qo"}
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (shared, width) for part in "kv"}
        shapes |= {f"{layer}.mlp.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = (width, inner)
    drawn = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | {name: rng.normal(1, 0.2, width).astype(np.float32) for name in sorted(norms)}


def save_folder(folder: Path, config: Mapping[str, Any] = CONFIG, tensors: Tensors | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(made_of(TEXTS, SIZE))
    save_file(tensors_of(CONFIG) if tensors is None else tensors, folder / "model.safetensors")
    return folder


def logits(tensors: Tensors, config: Mapping[str, Any], tokens: list[int]) -> npt.NDArray[np.float64]:
    """(tokens, vocabulary), as the papers say, one token and one head after the other, in float64."""
    held = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads

    def norm(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return x / math.sqrt((x * x).mean() + config["rms_norm_eps"]) * held[f"{name}.weight"]

    def turned(x: npt.NDArray[np.float64], place: int) -> npt.NDArray[np.float64]:
        out = x.copy()
        for pair in range(size // 2):
            angle = place * config["rope_theta"] ** (-2 * pair / size)
            a, b = x[pair], x[pair + size // 2]
            out[pair] = a * math.cos(angle) - b * math.sin(angle)
            out[pair + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    xs = [held["model.embed_tokens.weight"][token] for token in tokens]
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        ns = [norm(f"{layer}.input_layernorm", x) for x in xs]
        q, k, v = ([held[f"{layer}.self_attn.{part}_proj.weight"] @ n for n in ns] for part in "qkv")
        after = []
        for at, x in enumerate(xs):
            mixed = []
            for head in range(heads):
                own, of = slice(head * size, (head + 1) * size), head // (heads // groups)
                shared = slice(of * size, (of + 1) * size)
                asked = turned(q[at][own], at)
                seen = range(at + 1)
                scores = np.exp([asked @ turned(k[other][shared], other) / math.sqrt(size) for other in seen])
                mixed.append(sum(w * v[other][shared] for w, other in zip(scores / scores.sum(), seen, strict=True)))
            y = x + held[f"{layer}.self_attn.o_proj.weight"] @ np.concatenate(mixed)
            n = norm(f"{layer}.post_attention_layernorm", y)
            gate, up = (held[f"{layer}.mlp.{part}_proj.weight"] @ n for part in ("gate", "up"))
            after.append(y + held[f"{layer}.mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up))
        xs = after
    return np.stack([held["model.embed_tokens.weight"] @ norm("model.norm", x) for x in xs])
