"""A label of one in seventy: an epoch that leaves out nine tenths of the rows of 0 against one of all, and what each
way with rare labels does to order and probabilities; DLRM of 20 fields, 2 local ranks of one thread each.

    python benchmarks/train_rare_labels.py [ROWS EPOCHS]

The label is drawn by planted effects of the fields' ids. Average precision is of rows that nobody has learnt from; the
mean prediction is of the rows learnt from, over their share of ones. The first epoch warms up and is not counted.
"""

from __future__ import annotations

import statistics
from typing import Any

from _train import arguments, report

import numpy as np  # isort: skip  after _train has set the number of threads
import pyarrow as pa
import torch
from _loader import open_snapshot, table
from train_ranking import Timed

from cluster.launch import launch
from training.data.loader import Loader
from training.data.snapshot import Snapshot
from training.fit import fit
from training.metrics.probabilities import Binary
from training.models import MODELS
from training.models.rows import LabelModel, thinning
from training.schema import Column, Kind, Schema
from training.settings import FitSettings
from training.world import World

GOAL, MOST_LOST, MOST_OFF, FEWEST = 5.0, 0.005, 0.01, 2
FIELDS, IDS, EFFECT, BASE = 20, 100, 0.4, -5.4
BATCH, GROUP, WINDOW, HELD_OUT = 8_192, 50_000, 100_000, 500_000
SCHEMA = Schema(
    (
        *(Column(f"field_{number}", Kind.ID, f"ids {number}", IDS) for number in range(FIELDS)),
        Column("label", Kind.LABEL),
    )
)
PLAIN, THIN = "all rows", "a tenth of the zeros"
WAYS: dict[str, dict[str, float]] = {
    PLAIN: {},
    THIN: {"negatives_kept": 0.1},
    "a tenth of the zeros, all alike": {"negatives_kept": 0.1, "positive_weight": 10},
    "ones ten times as often": {"negatives_kept": 0.1, "times": 10},
    "ones weigh 20": {"positive_weight": 20},
    "focal": {"focal": 2},
    "logit adjustment": {"logit_adjustment": 1},
}


def rare(random: np.random.Generator, rows: int) -> pa.Table:
    effects = np.random.default_rng(1).normal(0, EFFECT, (FIELDS, IDS))
    ids = (random.random((FIELDS, rows)) ** 2 * (IDS - 1)).astype(np.int64) + 1
    log_odds = BASE + np.take_along_axis(effects, ids, axis=1).sum(0)
    label = (random.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.float32)
    return pa.table({**{f"field_{number}": own for number, own in enumerate(ids)}, "label": label})


def measure(spec: dict[str, Any], world: World) -> dict[str, float]:
    """One way: seconds of an epoch, and what its answers are worth."""
    config = {name: value for name, value in spec["way"].items() if name != "times"}
    learnt, held_out = (open_snapshot(path, columns=SCHEMA.names, world=world) for path in spec["tables"])
    torch.manual_seed(0)
    kind = MODELS["dlrm"]
    model = kind(kind.Config.parse(config), SCHEMA)
    assert isinstance(model, LabelModel)
    if model.config.logit_adjustment:
        share = spec["share"]
        model.set_priors(torch.tensor([share]), torch.tensor([1 - share]))
    settings = FitSettings(
        epochs=spec["epochs"] * int(spec["way"].get("times", 1)),
        batch_size=BATCH * world.size,
        learning_rate=0.006,
        schedule="cosine",
    )
    options = {"batch_size": BATCH * world.size, "seed": 1, "workers": 1, "shuffle_rows": WINDOW}
    transform = thinning(model, settings.batch_size)
    with Loader(learnt, SCHEMA, rank=world.rank, world_size=world.size, transform=transform, **options) as stream:
        loader = Timed(stream)
        fit(model, loader, settings, world=world)  # type: ignore[arg-type]
    own, unseen = (worth(model, rows, world) for rows in (learnt, held_out))
    return {
        "epoch_s": round(statistics.median(loader.seconds[1:]), 3),
        "average_precision": round(unseen["average_precision"], 4),
        "auc": round(unseen["auc"], 4),
        "log_loss": round(unseen["log_loss"], 5),
        "ece": round(unseen["ece"], 5),
        "predicted_over_actual": round(own["predicted_over_actual"], 4),
    }


@torch.no_grad()
def worth(model: LabelModel, rows: Snapshot, world: World) -> dict[str, float]:
    metric = Binary()
    total = torch.zeros(metric.width, dtype=torch.float64)
    model.eval()
    with Loader(rows, SCHEMA, batch_size=BATCH, seed=0, rank=world.rank, world_size=world.size) as loader:
        for batch in loader.epoch(0):
            total += torch.from_numpy(metric.sums(model.predict(batch)["p"], batch["label"]))  # type: ignore[arg-type]
    return metric.finish(world.all_reduce_sum(total, "sums").numpy())


def main() -> None:
    rows, epochs = arguments(1_000_000, 12)
    if epochs < FEWEST:
        raise SystemExit(f"EPOCHS must be {FEWEST} at least, for the first warms up and is not counted; it is {epochs}")
    tables = [
        table("rare-labels", rows, GROUP, rare),
        table("rare-labels-unseen", HELD_OUT, GROUP, lambda _, count: rare(np.random.default_rng(2), count)),
    ]
    with Loader(open_snapshot(tables[0]), Schema((SCHEMA["label"],)), batch_size=BATCH, seed=0) as loader:
        share = sum(float(batch["label"].sum()) for batch in loader.epoch(0)) / rows  # type: ignore[union-attr]
    detail: dict[str, Any] = {"rows": rows, "share_of_ones": round(share, 4)}
    for name, way in WAYS.items():
        spec = {"tables": tables, "way": way, "epochs": epochs, "share": share}
        detail[name] = launch("train_rare_labels:measure", spec, ranks=2, timeout_s=1_800)
        print(f"  {name:32} {detail[name]}", flush=True)
    plain, thin = detail[PLAIN], detail[THIN]
    lost, off = plain["average_precision"] - thin["average_precision"], abs(thin["predicted_over_actual"] - 1)
    if lost > MOST_LOST or off > MOST_OFF:
        raise SystemExit(
            f"a tenth of the zeros must cost at most {MOST_LOST} of average precision and {MOST_OFF:.0%} of the mean "
            f"prediction; it cost {lost:.4f} and {off:.2%}"
        )
    report("train_rare_labels", plain["epoch_s"] / thin["epoch_s"], GOAL, "x shorter epoch", detail)


if __name__ == "__main__":
    main()
