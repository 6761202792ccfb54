"""A training of rows by its spec alone, without Spark: planted tables, and what ranks run on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from numpy.typing import NDArray

from jobs.learning import fit_task, model_of_rows
from training.schema import Column, Kind, Schema
from training.settings import FitSettings
from training.world import World

SCHEMA = Schema((Column("x", Kind.DENSE), Column("label", Kind.LABEL), Column("weight", Kind.WEIGHT)))


def planted(rows: int, seed: int, lift: float, slope: float = 3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Numbers and labels; the log-odds of 1 are a line of what models make of the numbers."""
    draws = np.random.default_rng(seed)
    x = draws.normal(size=rows)
    log_odds = slope * np.sign(x) * np.log1p(np.abs(x)) + lift
    return x.astype(np.float32), (draws.random(rows) < 1 / (1 + np.exp(-log_odds))).astype(np.float32)


def write_table(path: Path, rows: int, seed: int, lift: float, splits: dict[str, float], slope: float = 3) -> None:
    """Planted rows, a share of them in each split."""
    x, label = planted(rows, seed, lift, slope)
    split = np.random.default_rng(seed + 1).choice(list(splits), size=rows, p=list(splits.values()))
    columns = {"x": x, "label": label, "weight": np.ones(rows, np.float32)}
    write_deltalake(path, pa.table({**columns, "split": split}), partition_by=["split"])


def spec_in(folder: Path, bundles: str, **model: Any) -> dict[str, Any]:
    """What ranks are told of a training by the tables in `folder`."""
    tables = {
        name: {"uri": str(folder / name), "version": 0, "splits": [split], "partitions": {"split": [split]}}
        for name, split in (("examples", "train"), ("queries", "validation"))
    }
    return {
        "task": "rows",
        "tables": tables,
        "schema": SCHEMA.to_json(),
        "model": {"name": "logistic_regression", **model},
        "training": FitSettings(epochs=3, batch_size=200, learning_rate=0.2).model_dump(),
        "reader": {"workers": 1, "shuffle_rows": 10_000},
        "cache": {"gigabytes": 0, "folder": None},
        "validate": False,
        "ranks": 1,
        "device": "cpu",
        "report": {"kind": "lines"},
        "observe": {},
        "checkpoint_dir": None,
        "bundle_dir": str(folder / bundles),
        "first_made": None,
        "provenance": {},
    }


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """A launch target."""
    return fit_task(spec, world, make_model=model_of_rows, make_validation=lambda *_: None, shown=())
