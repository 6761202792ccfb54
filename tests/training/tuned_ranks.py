"""A model that tunes a tiny encoder: its texts, in which only the order of two words says the class, and its trainings
on ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.training.text_models import CONFIG, WORDS
from training.batch import Batch, Ragged
from training.fit import FitSettings, fit
from training.models.tuned_text_classes import TunedTextClasses
from training.schema import Column, Kind, Schema
from training.state.text_encoder import Start, read_start
from training.world import World

SCHEMA = Schema(
    (
        Column("terms", Kind.IDS, "terms", 9),
        Column("tokens", Kind.IDS, "tokens", CONFIG["vocab_size"]),
        Column("label", Kind.LABEL, "intents", 3),
    )
)
RED, BLUE, ANY = WORDS.index("red"), WORDS.index("blue"), [WORDS.index(word) for word in ("lantern", "paper", "a")]
BEGIN, END = 2, 3
PLAIN = {"dim": 16, "dropout": 0.0, "terms_dropped": 0.0, "mixed": 0.0}  # nothing that ranks draw otherwise
ROWS, BATCH = 60, 24


def texts(seed: int, count: int = 64) -> Batch:
    """Of class 1 where red comes before blue, of class 2 where it comes after, among words of anyone's."""
    draws = np.random.default_rng(seed)
    label, lists = draws.integers(1, 3, count), list[list[int]]()
    for one in label:
        words = draws.choice(ANY, draws.integers(3, 6))
        first, last = sorted(draws.choice(len(words), 2, replace=False))
        words[first], words[last] = (RED, BLUE) if one == 1 else (BLUE, RED)
        lists.append([BEGIN, *words.tolist(), END])
    return {
        "terms": Ragged(torch.ones(count, dtype=torch.int64), torch.arange(count + 1)),
        "tokens": ragged(lists),
        "label": torch.from_numpy(label).float(),
    }


def ragged(lists: list[list[int]]) -> Ragged:
    lengths = torch.tensor([0, *map(len, lists)])
    return Ragged(torch.tensor([token for one in lists for token in one], dtype=torch.int64), lengths.cumsum(0))


def build(start: Start, **config: Any) -> TunedTextClasses:
    torch.manual_seed(0)
    shape = {"encoder": start.config.model_dump()}
    model = TunedTextClasses(TunedTextClasses.Config.parse(PLAIN | shape | config), SCHEMA)
    model.start_with(start.tensors)
    return model


class Dealt:
    """Step k holds the same texts at every world size and however many batches make a step."""

    def __init__(self, world: World, accumulate: int) -> None:
        self._world, self._rows = world, BATCH // accumulate
        whole = texts(5, ROWS)
        tokens, label = whole["tokens"], whole["label"]
        assert isinstance(tokens, Ragged)
        assert isinstance(label, torch.Tensor)
        self._lists = [tokens.values[low:high].tolist() for low, high in pairwise(tokens.offsets.tolist())]
        self._label = label

    @property
    def steps_per_epoch(self) -> int:
        return -(-ROWS // self._rows)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for start in range(0, ROWS, self._rows):
            mine = torch.arange(ROWS)[start : start + self._rows][self._world.rank :: self._world.size]
            yield {
                "terms": Ragged(torch.ones(len(mine), dtype=torch.int64), torch.arange(len(mine) + 1)),
                "tokens": ragged([self._lists[row] for row in mine]),
                "label": self._label[mine],
            }

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def train(spec: dict[str, Any], world: World) -> dict[str, list[float]]:
    """A launch target: the losses of a training for each of `spec["runs"]`, name -> settings of model and training."""
    start, found = read_start(Path(spec["folder"])), {}
    for name, run in spec["runs"].items():
        model = build(start, **run["model"])
        settings = FitSettings(epochs=2, batch_size=BATCH, learning_rate=0.003, **run["training"])
        result = fit(model, Dealt(world, settings.accumulate), settings, world=world)
        found[name] = [entry["loss"] for entry in result.history]
    return found
