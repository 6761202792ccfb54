"""Image: which class a product's picture is of, as a vector what it looks like, and whose category seems wrong.

An example is a picture of before the cut whose category is known. Validation measures how often the class is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.tasks import classed
from jobs.tasks.image_options import ImageOptions, options_of
from training.schema import Column, Kind, Schema
from training.state.names import CLASSES

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from training.data.transform import Transform
    from training.world import World

METRICS = ("accuracy",)
TRAINING = {
    "ranks": 2,
    "epochs": 14,
    "batch_size": 128,
    "learning_rate": 0.004,
    "weight_decay": 0.05,
    "warmup_steps": 500,
    "schedule": "cosine",
}


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Pictures; a category that is null is not known."""
    more = {"arrival_time": "timestamp?"} if "arrival_time" in options_of(settings).has else {}
    own = {"item_id": "string", "time": "timestamp", "picture": "binary", "category": "string?"}
    return {"pictures": own | more}


def decides(settings: Settings) -> dict[str, Any]:
    """What decides examples; what answers are compared with, and when they alarm, does not."""
    options = options_of(settings)
    return {"size": options.size, "channels": options.channels, "names": dict(options.names), "has": [*options.has]}


def more_ids(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> Mapping[str, DataFrame]:
    """Categories that pictures of before a cut have."""
    from jobs.tasks import image_pixels

    return image_pixels.known_classes(read, settings, cut)


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:
    """The examples' columns. `sizes` counts the classes, 0, one that is not known, included."""
    options = options_of(settings)
    return Schema(
        (
            Column("picture", Kind.IMAGE, shape=(options.size, options.size, options.channels)),
            Column("label", Kind.LABEL, vocabulary="classes", size=sizes["classes"]),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of pictures in classes on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the
    spec."""
    from jobs.learning import fit_task, model_of_rows

    return fit_task(
        spec,
        world,
        make_model=model_of_rows,
        make_validation=validation,
        shown=("loss", *METRICS),
        make_transform=changing,
        make_attachments=attached,
    )


def changing(spec: Mapping[str, Any], columns: Schema) -> Transform:
    """What the loader makes of pictures: pixels, changed as the model's config says."""
    from training.configs import CONFIGS
    from training.data import pictures
    from training.picture_configs import PictureConfig

    config = CONFIGS[spec["model"]["name"]].parse({k: v for k, v in spec["model"].items() if k != "name"})
    assert isinstance(config, PictureConfig)
    return pictures.changing(columns["picture"], flipped=config.flipped, shifted=config.shifted, erased=config.erased)


def attached(spec: Mapping[str, Any], columns: Schema, folder: Path) -> dict[str, Path]:  # noqa: ARG001
    """Write what goes with the bundle: the names of its classes by their numbers."""
    return classed.names(spec, "vocabulary_classes", folder / CLASSES)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """How often the class of held-out pictures is right; of one that nobody had before, it is not. None where that is
    not asked."""
    return classed.validation(spec, columns, world, answer="class", unknown_is_wrong=True)


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How often the class is right, of all and of the mean class."""
    return Headline(
        judged={"accuracy": "accuracy", "macro F1": "macro_f1"},
        beside={"errors at 90 % coverage": "error_at_90_percent", "calibration error": "calibration_error"},
        rows="pictures",
        lower=("error_at_90_percent", "calibration_error"),
    )


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns that the settings name; what is made of pictures has no id but the item's."""
    held = said_persons(settings, "pictures")
    if not held:
        return {}
    of_lines = {name: {"item_id": BY_LINE} for name in ("examples", "queries", "image_scores")}
    return {"pictures": dict.fromkeys(held, BY_ID), **of_lines}


TASK = Task(
    name="image",
    what="which class a product's picture is of, what looks like it, and whose category seems wrong",
    row="picture",
    options=ImageOptions,
    reads=reads,
    decides=decides,
    learnt_with=("size", "channels", "names"),
    asks=("queries", "vocabulary_classes"),
    kinds=lambda _: {},
    more_ids=more_ids,
    numbers=lambda _: ("classes",),
    key=("item_id",),
    spread=1,
    schema=schema,
    model="conv_net",
    learn="jobs.tasks.image:learn",
    metrics=METRICS,
    attaches=(CLASSES,),
    on_spark="jobs.tasks.image_on_spark",
    headline=headline,
    answered=("key", "class", "p"),
    table="image_scores",
    answer=("item_id", "time", "category", "class", "p", "alarm", "vector", "similar"),
    columns=AnswerColumns("item_id", ((),), ("p", "vector"), "p"),
    persons=persons,
    demo=Demo("image_shop", "image", "sources.pictures.path"),
    simulated={"pictures": "item_pictures"},
    training=TRAINING,
)
