"""A new intent by ten messages beside a bundle's intents, which stay as they are (model.learn=new).

Beside it a training of all intents anew with the same messages.

    python benchmarks/service_new_intents.py customer_support.csv.gz [options.vectors=384 ...]

Six intents, by a hash of their numbers, are new in turn. A fifth of the messages, by the hash of the masked text, is
asked; of the others the bundle learns all that are not of the new intent, and then ten of these come. `ratio` is the
share of the new intents' messages that is told right, their mean.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _train import report

import numpy as np  # isort: skip  after _train has set the number of threads
import pandas as pd
import torch
from deltalake import write_deltalake
from run import NOTHING_MEASURED
from service_folds import PIPELINE, SHOTS, UNHEARD, answered, messages, table_of

from jobs.settings import Settings, load_settings
from jobs.tasks.service import schema
from training.data.loader import Loader
from training.data.snapshot import open_snapshot
from training.fit import fit
from training.models.text_classes import TextClasses
from training.settings import FitSettings
from training.state.bundle import Bundle, load_bundle
from training.state.publish import write_bundle
from training.world import World

GOAL = 0.93


def learnt(rows: pd.DataFrame, settings: Settings, start: Bundle | None, **more: Any) -> tuple[TextClasses, float]:
    """A model of the rows' classes, and the seconds of its training."""
    given = settings.training.model_dump()
    training = FitSettings(**{name: given[name] for name in FitSettings.model_fields})
    columns = schema({"intents": int(rows["label"].max()) + 1}, settings)
    config = {name: value for name, value in settings.model.items() if name != "name"}
    torch.manual_seed(training.seed)
    model = TextClasses(TextClasses.Config.parse(config | more), columns)
    with tempfile.TemporaryDirectory() as folder:
        write_deltalake(folder, table_of(rows))
        begun = time.perf_counter()
        with Loader(open_snapshot(folder), columns, batch_size=training.batch_size, seed=training.seed) as loader:
            fit(model, loader, training, world=World(), start_from=start)
    return model.eval(), time.perf_counter() - begun


def right(model: TextClasses, asked: pd.DataFrame, number: int) -> tuple[float, float]:
    """Shares of the messages of the new intent, and of the others, that are told right."""
    is_right = answered(model, asked)[0] == asked["label"].to_numpy()
    is_new = asked["label"].to_numpy() == number
    return float(is_right[is_new].mean()), float(is_right[~is_new].mean())


def measured(rows: pd.DataFrame, settings: Settings, new: int) -> dict[str, float]:
    """Of one new intent."""
    others = sorted(set(rows["label"]) - {new})
    numbers = {label: place + 1 for place, label in enumerate([*others, new])}
    rows = rows.assign(label=rows["label"].map(numbers).astype(np.int64))
    last, is_asked = len(others) + 1, rows["drawn"] < 0.2
    old = rows[~is_asked & (rows["label"] != last)]
    asked, few = rows[is_asked], rows[~is_asked & (rows["label"] == last)].sort_values("drawn").head(SHOTS)
    model, _ = learnt(old, settings, None)
    before = right(model, asked, last)[1]
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(
            Path(folder),
            model_name="text_classes",
            config=model.config.model_dump(),
            schema=model.schema,
            tensors=model.state_dict(),
            provenance={},
            settings={},
            metrics={},
        )
        both, start = pd.concat([old, few]), load_bundle(bundle.path)
        beside, seconds = learnt(both, settings, start, learn="new", learnt=last)
    anew, seconds_anew = learnt(both, settings, None)
    told, told_anew = right(beside, asked, last), right(anew, asked, last)
    return {
        "new": told[0],
        "others": told[1],
        "others_before": before,
        "new_anew": told_anew[0],
        "others_anew": told_anew[1],
        "seconds_of_anew": seconds / seconds_anew,
    }


def main() -> None:
    if len(sys.argv) < 2:
        print("nothing is measured: name the file of messages")
        sys.exit(NOTHING_MEASURED)
    settings = load_settings(PIPELINE, sys.argv[2:])
    rows = messages(sys.argv[1], settings)
    by_hash = sorted(rows["label"].unique(), key=lambda label: hashlib.sha256(str(label).encode()).hexdigest())
    found = []
    for new in by_hash[:UNHEARD]:
        found.append(measured(rows, settings, int(new)))
        print(f"  {rows['intent'][rows['label'] == new].iloc[0]}: {found[-1]}", flush=True)
    detail = {name: round(float(np.mean([one[name] for one in found])), 4) for name in found[0]}
    report("service_new_intents", detail["new"], GOAL, "share of a new intent's messages told right", detail)


if __name__ == "__main__":
    main()
