"""Texts to vectors: `text_vectors` on Spark against a plain loop over batches of 32 texts of about one length.

    python benchmarks/text_vectors.py [TEXTS WEIGHTS]

The loop is torch's own `nn.TransformerEncoder` with the same weights and tokenizer, on as many threads as there are
cores, without Spark. It is as fast as one writes it in a few lines: texts sorted by length, and torch's nested tensors,
which leave out what a batch is filled up with. Ours reads a Delta table and writes one, a task a core. Texts are
sentences about items, all of them different, half of them of up to 8 words and few of 60. They take turns, the middle
time of three counts, and their vectors are compared. `load` is the machine's before. Left out where there are no
weights.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pyspark.sql import SparkSession
from run import NOTHING_MEASURED
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cluster.session import build_session  # noqa: E402
from spark_udfs.text_vectors import text_vectors  # noqa: E402
from training.errors import WeightsError  # noqa: E402
from training.state.text_tokens import TOKENS  # noqa: E402
from training.state.text_weights import weights_folder  # noqa: E402

Floats = npt.NDArray[np.float32]

ROUNDS, CORES, AT_ONCE = 3, 2, 32
SAID = (
    "the a this my our is was and but with for not very red white blue green small large lantern bag bottle lamp box "
    "heart holder paper metal wooden vintage order arrived late broken lovely perfect colour size delivery please help "
    "return refund where when price quality packaging design kitchen garden christmas gift set of ten 12 3"
)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    weights = sys.argv[2] if len(sys.argv) > 2 else None
    try:
        folder = weights_folder(weights)
    except WeightsError as error:
        print(f"left out: {error}")
        raise SystemExit(NOTHING_MEASURED) from error
    texts = texts_of(count)
    spark = build_session("bench-text-vectors", master=f"local[{CORES}]", driver_memory="2g", shuffle_partitions=CORES)
    with tempfile.TemporaryDirectory(dir=".") as place:
        rows = spark.createDataFrame(list(enumerate(texts)), "number int, text string")
        rows.repartition(4 * CORES).write.format("delta").save(f"{place}/texts")
        plain, seconds = Plain(folder), {"ours": list[float](), "plain": list[float]()}
        load = os.getloadavg()[0]
        for turn in range(ROUNDS):
            begun = time.perf_counter()
            ours(spark, place, weights)
            seconds["ours"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            wanted = plain.vectors(texts)
            seconds["plain"].append(time.perf_counter() - begun)
            print(
                f"round {turn + 1}: " + ", ".join(f"{name} {took[-1]:.1f} s" for name, took in seconds.items()),
                flush=True,
            )
        worst = compare(spark, place, wanted)
    took = {name: statistics.median(each) for name, each in seconds.items()}
    detail = {
        "texts": count,
        "tokens_a_text": round(plain.tokens / ROUNDS / count, 1),
        "load": load,
        "seconds": {name: round(each, 1) for name, each in took.items()},
        "texts_a_second": round(count / took["ours"]),
        "largest_difference": worst,
    }
    ratio = round(took["plain"] / took["ours"], 2)
    print(json.dumps({"name": "text_vectors", "ratio": ratio, "goal": 1.0, "unit": "x plain loop", "detail": detail}))


def texts_of(count: int) -> list[str]:
    rng, words = np.random.default_rng(0), SAID.split()
    lengths = np.minimum(rng.geometric(0.08, count) + 2, 60)
    return [f"{number} {' '.join(rng.choice(words, length))}" for number, length in enumerate(lengths)]


def ours(spark: SparkSession, place: str, weights: str | None) -> None:
    table = spark.read.format("delta").load(f"{place}/texts")
    text_vectors(table, "text", "vector", weights).write.format("delta").mode("overwrite").save(f"{place}/vectors")


class Plain:
    """What one writes first, at its best: batches of texts of about one length, filled up to their longest."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        torch.set_num_threads(CORES)
        config = json.loads((folder / "config.json").read_text())
        self.tokens = 0
        self.held = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(TOKENS)
        self.tokenizer.enable_padding()
        layer = nn.TransformerEncoderLayer(
            config["hidden_size"], config["num_attention_heads"], config["intermediate_size"], 0.0, "gelu",
            config["layer_norm_eps"], batch_first=True,
        )  # fmt: skip
        self.layers = nn.TransformerEncoder(layer, config["num_hidden_layers"]).eval()
        self.norm = nn.LayerNorm(config["hidden_size"], config["layer_norm_eps"])
        self.norm.load_state_dict(self._of("embeddings.LayerNorm"))
        for number, one in enumerate(self.layers.layers):
            one.load_state_dict(self._layer(f"encoder.layer.{number}"))

    def vectors(self, texts: list[str]) -> Floats:
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        batches = [by_length[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]
        found = np.concatenate([self._batch([texts[at] for at in batch]) for batch in batches])
        return found[np.argsort(by_length)]

    @torch.inference_mode()
    def _batch(self, texts: list[str]) -> Floats:
        encoded = self.tokenizer.encode_batch(texts)
        token = torch.tensor([one.ids for one in encoded])
        there = torch.tensor([one.attention_mask for one in encoded])
        self.tokens += int(there.sum())
        word, place, kind = (
            self.held[f"embeddings.{of}_embeddings.weight"] for of in ("word", "position", "token_type")
        )
        x = self.layers(self.norm(word[token] + place[: token.shape[1]] + kind[0]), src_key_padding_mask=there == 0)
        mean = (x * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        return np.asarray(nn.functional.normalize(mean, dim=1).numpy(), np.float32)

    def _of(self, name: str) -> dict[str, Tensor]:
        return {kind: self.held[f"{name}.{kind}"] for kind in ("weight", "bias")}

    def _layer(self, name: str) -> dict[str, Tensor]:
        parts = {
            "self_attn.out_proj": "attention.output.dense", "norm1": "attention.output.LayerNorm",
            "linear1": "intermediate.dense", "linear2": "output.dense", "norm2": "output.LayerNorm",
        }  # fmt: skip
        tensors = {f"{own}.{kind}": one for own, of in parts.items() for kind, one in self._of(f"{name}.{of}").items()}
        for kind in ("weight", "bias"):
            three = [self.held[f"{name}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            tensors[f"self_attn.in_proj_{kind}"] = torch.cat(three)
        return tensors


def compare(spark: SparkSession, place: str, wanted: Floats) -> float:
    """The largest difference of a number; every text must be there."""
    rows = spark.read.format("delta").load(f"{place}/vectors").orderBy("number").toPandas()
    worst = float(np.abs(np.stack(rows["vector"].to_list()) - wanted).max())
    if worst > 1e-5:
        raise SystemExit(f"both must give the same vectors; they are {worst:.1e} apart")
    return worst


if __name__ == "__main__":
    main()
