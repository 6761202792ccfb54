"""What tasks have in common that say one of many classes of a row: names that go with a bundle, and how often it is
right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from training.schema import Schema
    from training.world import World


def names(spec: Mapping[str, Any], vocabulary: str, file: Path) -> dict[str, Path]:
    """Write what goes with the bundle: the names of its classes by their numbers.

    Args:
        spec: of the training.
        vocabulary: the table that numbers the classes.
        file: where they are written.
    """
    from training.data.snapshot import open_snapshot, read_table

    root, version = spec["tables"]["examples"]["uri"].rpartition("/")[0], spec["build"]["versions"][vocabulary]
    held = read_table(open_snapshot(f"{root}/{vocabulary}", version), ["index", "id"]).to_pydict()
    named = {str(index): of for index, of in zip(held["index"], held["id"], strict=True)}
    file.write_text(json.dumps(named, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    return {file.name: file}


def validation(
    spec: Mapping[str, Any], columns: Schema, world: World, *, answer: str, unknown_is_wrong: bool
) -> Callable[[Any], dict[str, float]] | None:
    """How often the class of held-out rows is right; None where that is not asked.

    Args:
        spec: of the training.
        columns: of the examples.
        world: the ranks.
        answer: what the model calls the class.
        unknown_is_wrong: whether rows of label 0, whose class nobody had before, count.
    """
    import numpy as np

    from jobs.validation import validation_of_rows

    def sums(found: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
        label = batch["label"]
        known = label > 0
        asked = len(label) if unknown_is_wrong else int(known.sum())
        return np.asarray([float(((found[answer] == label) & known).sum()), float(asked)])

    def finish(sums: Any) -> dict[str, float]:
        return {"accuracy": float(sums[0] / max(sums[1], 1.0))}

    return validation_of_rows(spec, columns, world, width=2, sums=sums, finish=finish)
