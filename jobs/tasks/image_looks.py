"""What people look at of judged pictures: classes, what is taken for what, and those that are most surely wrong."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import functions as F

from jobs.ground import Ground
from jobs.task import OURS
from jobs.tasks.image_options import options_of
from spark_udfs.png import png

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WRONG, CLASSES = 24, 20  # pictures, and classes, that are shown
SIDE = 84  # pixels of such a picture's side, at most


def looks(ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
    """Each class's figures and what it is taken for most; the pictures that are most surely wrong."""
    asked, answers = held["after"]
    numbers = ground.read["vocabulary_classes"].select("index", "id")
    names = dict(map(tuple, numbers.where("id IS NOT NULL").orderBy("index").limit(CLASSES).collect()))
    ours = answers.where(F.col("model") == OURS).drop("model").join(asked, on="key", how="inner")
    counted = ours.groupBy(F.col("label").cast("bigint").alias("label"), "class").count()
    kept = counted.where(F.col("label").isin(*names) | F.col("class").isin(*names))
    cells = {(row["label"], row["class"]): row["count"] for row in kept.collect()}
    return {
        "drawn": {"title": "By class", "columns": list(_COLUMNS), "rows": [_row(of, names, cells) for of in names]},
        "tables": [_confusion(names, cells)],
        "pictures": _surely_wrong(ground, ours, names),
    }


_COLUMNS = ("class", "pictures", "found", "right when said", "taken most for")


def _row(of: int, names: Mapping[int, str], cells: Mapping[tuple[int, int], int]) -> list[str]:
    own = sum(count for (label, _), count in cells.items() if label == of)
    said = sum(count for (_, said), count in cells.items() if said == of)
    right = cells.get((of, of), 0)
    wrong = {said: count for (label, said), count in cells.items() if label == of and said != of}
    most = max(wrong, key=lambda said: (wrong[said], -said), default=None)
    return [
        names[of],
        f"{own:,}",
        f"{right / own:.3f}" if own else "-",
        f"{right / said:.3f}" if said else "-",
        f"{names.get(most, 'another')} ({wrong[most]:,})" if most is not None else "-",
    ]


def _confusion(names: Mapping[int, str], cells: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    """A row a class, and in its columns how often it was said to be each of them."""
    return {
        "title": "What is taken for what",
        "columns": ["class", *names.values()],
        "rows": [[names[label], *(cells.get((label, said), 0) for said in names)] for label in names],
        "note": "A row is what a picture's own category is, a column what the model says.",
    }


def _surely_wrong(ground: Ground, ours: DataFrame, names: Mapping[int, str]) -> dict[str, Any]:
    options = options_of(ground.settings)
    wrong = ours.where(F.col("class") != F.col("label"))
    shown = wrong.orderBy(F.desc("p"), F.xxhash64("key"), "key").limit(WRONG)
    shape = (options.size, options.size, options.channels)
    return {
        "title": "Most surely wrong",
        "note": "The pictures after the cut of which the model is surest while their own category is another: its "
        "mistakes, or the shop's.",
        "shown": [
            {
                "png": base64.b64encode(png(_shown(np.frombuffer(row["picture"], np.uint8).reshape(shape)))).decode(),
                "words": f"{row['key'][:24]}: {names.get(int(row['label']), 'another')}, taken for "
                f"{names.get(row['class'], 'another')} ({row['p']:.2f})",
            }
            for row in shown.select("key", "picture", "label", "class", "p").collect()
        ],
    }


def _shown(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as large as a page needs it: means of squares of a larger one's pixels."""
    side, _, channels = pixels.shape
    step = math.ceil(side / SIDE)
    each = side // step
    squares = pixels[: each * step, : each * step].reshape(each, step, each, step, channels)
    return np.asarray(squares.mean(axis=(1, 3)), np.uint8)
