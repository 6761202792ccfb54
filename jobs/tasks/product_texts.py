"""Product texts: descriptions written from products' records by a decoder, which say of attributes what records do.

An example is the record of a product of before the cut, and the text that people wrote of it or that they accepted.
Validation measures how likely held-out texts are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.tasks.decoder_start import attached, begun
from jobs.tasks.product_texts_options import HAS, ProductTextsOptions, options_of
from training.errors import SettingsError
from training.schema import Column, Kind, Schema
from training.state.text_weights import TOKENIZER

if TYPE_CHECKING:
    from jobs.settings import Settings
    from training.world import World

METRICS = ("log_likelihood",)
TRAINING = {
    "ranks": 2,
    "epochs": 20,
    "batch_size": 32,
    "learning_rate": 0.003,
    "warmup_steps": 100,
    "schedule": "cosine",
}


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Products, with a description where there is one; and what people said of texts that were written."""
    options = options_of(settings)
    own: dict[str, str] = {name: kind for name, kind in HAS.items() if name in options.has}
    fields = dict.fromkeys((*options.attributes, "description"), "string?")
    arrival = {name: kind for name, kind in own.items() if name == "arrival_time"}
    return {
        "products": {"item_id": "string", "time": "timestamp", "name": "string", **fields, **own},
        "verdicts?": {"item_id": "string", "time": "timestamp", "verdict": "string", "text": "string?"} | arrival,
    }


def decides(settings: Settings) -> dict[str, Any]:
    """What decides examples; how texts are written and judged does not."""
    options = options_of(settings)
    held: dict[str, Any] = {name: getattr(options, name) for name in ("record_tokens", "text_tokens")}
    held |= {"has": list(options.has), "attributes": list(options.attributes), "weights_digest": None}
    if options.weights is None:
        return held | {"vocabulary": options.vocabulary, "sample": options.sample}
    from training.state.decoder_weights import decoder_digest

    return held | {"weights_digest": decoder_digest(options.weights)}


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:  # noqa: ARG001
    """The examples' columns; ids are those of tokens.

    Raises:
        SettingsError: a record and its text have more tokens than the weights know places.
    """
    options = options_of(settings)
    size = options.vocabulary
    if options.weights is not None:
        from training.state.decoder_weights import decoder_shape

        shape, asked = decoder_shape(options.weights), options.record_tokens + options.text_tokens
        size = shape.vocab_size
        if asked > shape.max_position_embeddings:
            raise SettingsError(
                f"options.record_tokens and text_tokens must be the {shape.max_position_embeddings:,} places of the "
                f"weights' decoder together, or fewer; they are {asked:,}: lower one of them"
            )
    return Schema(
        (
            Column("record", Kind.IDS, vocabulary="tokens", size=size),
            Column("text", Kind.IDS, vocabulary="tokens", size=size),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a decoder on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task

    start = begun(spec, world)
    return fit_task(
        start.told(spec),
        world,
        make_model=start.model,
        make_validation=validation,
        shown=("loss", *METRICS),
        make_attachments=attached,
    )


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """How likely held-out texts are: the mean log likelihood of their tokens. None where that is not asked."""
    import numpy as np

    from jobs.validation import validation_of_rows

    def sums(found: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:  # noqa: ARG001
        return np.asarray([float(found[name].sum()) for name in ("nll", "tokens")])

    def finish(sums: Any) -> dict[str, float]:
        return {"log_likelihood": float(-sums[0] / max(sums[1], 1.0))}

    return validation_of_rows(spec, columns, world, width=2, sums=sums, finish=finish)


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How well texts that people wrote are foreseen; and of written ones whether they keep to the record."""
    return Headline(
        judged={"perplexity": "perplexity"},
        beside={
            "rule check": "rule_check",
            "exact duplicates": "duplicates",
            "attributes named": "attributes_named",
            "came to an end": "whole",
        },
        rows="texts",
        lower=("perplexity", "duplicates"),
    )


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns that the settings name; what is made of products has no id but the item's."""
    held = {table: dict.fromkeys(said_persons(settings, table), BY_ID) for table in ("products", "verdicts")}
    of_lines = {name: {"item_id": BY_LINE} for name in ("examples", "queries", "product_texts")}
    return {table: columns for table, columns in held.items() if columns} | (of_lines if held["products"] else {})


TASK = Task(
    name="product_texts",
    what="a description of each product that has none, by its record, without a value that is not its own",
    row="product",
    options=ProductTextsOptions,
    reads=reads,
    decides=decides,
    learnt_with=("record_tokens", "text_tokens", "has", "attributes", "weights_digest", "vocabulary", "sample"),
    asks=(),
    kinds=lambda _: {},
    numbers=lambda _: (),
    key=("item_id",),
    spread=1,
    schema=schema,
    model="decoder",
    learn="jobs.tasks.product_texts:learn",
    metrics=METRICS,
    attaches=(TOKENIZER,),
    on_spark="jobs.tasks.product_texts_on_spark",
    headline=headline,
    answered=("key", "nll", "tokens", "text", "breaches", "named", "fields", "whole"),
    table="product_texts",
    answer=(
        "item_id",
        "time",
        "text",
        "log_probability",
        "whole",
        "named",
        "breaches",
        "source",
        "seed",
        "duplicate",
    ),
    columns=AnswerColumns("item_id", ((),), ("log_probability",), "log_probability"),
    persons=persons,
    demo=Demo("product_texts_shop", "product_texts", "sources.products.path"),
    simulated={"products": "product_records"},
    training=TRAINING,
    timeless=("item_id",),
)
