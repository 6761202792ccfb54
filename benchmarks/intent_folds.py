"""Which sessions buy, in ten folds: the pipeline's model and settings (jobs/pipelines/intent.yaml) through loader and
trainer on one rank, and LightGBM where it is installed, with the number that is made of past purchases and without.

    python benchmarks/intent_folds.py online_shoppers_intention.csv.gz

Folds are stratified and drawn by a hash of all columns but the label, so that equal sessions lie in one. Of the other
nine a tenth, by the hash too, is kept for the threshold of most F1. What is reported are means over the folds.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _train import report

import numpy as np  # isort: skip  after _train has set the number of threads
import pandas as pd
import torch
from deltalake import write_deltalake
from numpy.typing import NDArray
from run import NOTHING_MEASURED

from jobs.settings import Settings, load_settings
from jobs.tasks.intent import schema
from jobs.tasks.intent_options import numbers_of, options_of
from training.data.loader import Loader
from training.data.snapshot import open_snapshot
from training.fit import fit
from training.metrics.probabilities import Binary
from training.models import MODELS
from training.settings import FitSettings
from training.world import World

GOAL, FOLDS = 0.935, 10
PIPELINE = Path(__file__).resolve().parents[1] / "jobs" / "pipelines" / "intent.yaml"
MADE_OF_PURCHASES = "page_values"
Floats = NDArray[np.float64]
Answer = Callable[[pd.DataFrame, pd.DataFrame], Floats]


def sessions(path: str, settings: Settings) -> pd.DataFrame:
    """Rows by the task's names: numbers and label float32, ids as texts; `drawn`, from 0 to 1 by hash, and `fold`."""
    columns, options = settings.sources["sessions"].columns, options_of(settings)
    raw = pd.read_csv(path, dtype=str).rename(columns={theirs: ours for ours, theirs in columns.items()})
    told = raw.drop(columns="label").agg("|".join, axis=1)
    raw["drawn"] = [int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13 for text in told]
    for name in numbers_of(options):
        is_flag = name in options.flags
        raw[name] = (raw[name] == "TRUE" if is_flag else raw[name]).astype(np.float32)
    raw["label"] = (raw["label"] == "TRUE").astype(np.float32)
    place = raw.groupby(raw.groupby("drawn")["label"].transform("first"))["drawn"].rank("dense")
    return raw.assign(fold=(place % FOLDS).astype(int))


def ours(settings: Settings) -> Answer:
    """Answers of the pipeline's model, learnt anew."""
    options, options_of_training = options_of(settings), settings.training.model_dump()
    training = FitSettings(**{name: options_of_training[name] for name in FitSettings.model_fields})

    def answer(learnt: pd.DataFrame, asked: pd.DataFrame) -> Floats:
        known = {name: {of: n + 1 for n, of in enumerate(sorted(learnt[name].unique()))} for name in options.ids}
        columns = schema({name: len(of) + 1 for name, of in known.items()}, settings)
        numbered = [
            rows.assign(
                time=pd.Timestamp(0, tz="UTC"),
                **{name: rows[name].map(of).fillna(0).astype(np.int64) for name, of in known.items()},
            )[list(columns.names)]
            for rows in (learnt, asked)
        ]
        torch.manual_seed(training.seed)
        kind = MODELS[settings.model["name"]]
        model = kind(kind.Config.parse({name: of for name, of in settings.model.items() if name != "name"}), columns)
        with tempfile.TemporaryDirectory() as folder:
            write_deltalake(folder, numbered[0])
            snapshot = open_snapshot(folder)
            with Loader(snapshot, columns, batch_size=training.batch_size, seed=training.seed) as loader:
                fit(model, loader, training, world=World())
        batch = {name: torch.from_numpy(numbered[1][name].to_numpy()) for name in columns.names if name != "time"}
        with torch.no_grad():
            return model.eval().predict(batch)["p"].double().numpy()

    return answer


def trees(settings: Settings) -> Answer | None:
    """LightGBM, as the task has it beside its bundle; None where it is not installed."""
    try:
        import lightgbm
    except ImportError:
        return None
    from spark_udfs.baselines.trees import PARAMETERS, ROUNDS

    names, ids = numbers_of(options_of(settings)), list(options_of(settings).ids)

    def answer(learnt: pd.DataFrame, asked: pd.DataFrame) -> Floats:
        known = {name: {of: n for n, of in enumerate(sorted(learnt[name].unique()))} for name in ids}
        held = [
            rows[[*names, *ids]].assign(**{name: rows[name].map(of) for name, of in known.items()}).to_numpy(np.float32)
            for rows in (learnt, asked)
        ]
        data = lightgbm.Dataset(held[0], learnt["label"].to_numpy())
        return np.asarray(lightgbm.train(PARAMETERS, data, num_boost_round=ROUNDS).predict(held[1]))

    return answer


def judged(rows: pd.DataFrame, answer: Answer) -> dict[str, float]:
    """Means over the folds."""
    found, metric = [], Binary()
    for fold in range(FOLDS):
        others, asked = rows[rows["fold"] != fold], rows[rows["fold"] == fold]
        is_kept = others["drawn"] * 1_000 % 1 < 0.1
        kept = others[is_kept]
        p = answer(others[~is_kept], pd.concat([kept, asked]))
        of_kept, of_asked, label = p[: len(kept)], p[len(kept) :], asked["label"].to_numpy()
        told = metric.finish(metric.sums(of_asked, label))
        limit = threshold(of_kept, kept["label"].to_numpy())
        names = ("auc", "average_precision", "log_loss", "predicted_over_actual")
        found.append({name: told[name] for name in names} | {"f1": f1(of_asked >= limit, label)})
    means = pd.DataFrame(found)
    return {name: round(float(value), 4) for name, value in means.mean().items()} | {
        "auc_spread": round(float(means["auc"].std()), 4)
    }


def threshold(p: Floats, label: NDArray[np.float32]) -> float:
    return float(max(np.unique(p), key=lambda at: f1(p >= at, label)))


def f1(is_yes: NDArray[np.bool_], label: NDArray[np.float32]) -> float:
    return float(2 * (is_yes * label).sum() / (is_yes.sum() + label.sum()))


def main() -> None:
    if len(sys.argv) < 2:
        print("nothing is measured: name the file of sessions")
        sys.exit(NOTHING_MEASURED)
    whole = load_settings(PIPELINE)
    numbers = [name for name in options_of(whole).numbers if name != MADE_OF_PURCHASES]
    fewer = load_settings(PIPELINE, [f"options.numbers=[{', '.join(numbers)}]", "options.rule=null"])
    rows = sessions(sys.argv[1], whole)
    detail: dict[str, Any] = {"sessions": len(rows), "distinct": rows["drawn"].nunique()}
    for what, settings in (("all columns", whole), (f"without {MADE_OF_PURCHASES}", fewer)):
        for name, answer in (("millrace", ours(settings)), ("lightgbm", trees(settings))):
            if answer is not None:
                begun = time.perf_counter()
                detail[f"{name}, {what}"] = judged(rows, answer)
                print(f"  {name}, {what}: {detail[f'{name}, {what}']}, {time.perf_counter() - begun:.0f} s", flush=True)
    report("intent_folds", detail["millrace, all columns"]["auc"], GOAL, "AUC", detail)


if __name__ == "__main__":
    main()
