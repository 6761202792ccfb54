"""Service: what customers want who write to the shop, how sure that is, and who wants what it has no answer to.

An example is a message of before the cut whose intent is known. Validation measures how often the intent is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.task_live import Live
from jobs.tasks import classed
from jobs.tasks.service_options import HAS, ORDERS, TOKENS, VECTORS, ServiceOptions, options_of
from training.errors import SettingsError
from training.schema import Column, Kind, Schema
from training.state.names import INTENTS
from training.state.text_weights import TOKENIZER

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from training.world import World

METRICS = ("accuracy",)
LEAST_TO_MIX = 16  # rows: of fewer, hardly a pair is of two intents
TRAINING = {
    "ranks": 2,
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 0.01,
    "embedding_learning_rate": 0.01,
    "embedding_optimizer": "sparse_adam",
    "schedule": "cosine",
}


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Messages; an intent that is null is not known. What is replied with: answers by intent, and orders."""
    has = options_of(settings).has
    own = {name: kind for name, kind in HAS.items() if name in has}
    answer_id = {"answer_id": "string"} if "answer_id" in has else {}
    return {
        "messages": own | {"time": "timestamp", "text": "string", "intent": "string?"},
        "answers?": answer_id | {"intent": "string", "answer": "string"},
        "orders?": {name: "string" if name == "order_number" else "string?" for name in ORDERS},
    }


def decides(settings: Settings) -> dict[str, Any]:
    """What decides examples; how conversations are ruled, and what answers are filled with, does not."""
    from spark_udfs.text_terms import RULES
    from training.state.text_weights import weights_digest, weights_folder

    options = options_of(settings)
    held = {name: getattr(options, name) for name in ("terms", "words_kept", "vectors")}
    if options.tokens_kept:  # it came later, and is named only where it is used
        held["tokens_kept"] = options.tokens_kept
    reads_weights = options.vectors or options.tokens_kept
    weights = weights_digest(weights_folder(options.weights)) if reads_weights else None
    rows = {"has": sorted(options.has), "out_of_scope": sorted(options.out_of_scope)}
    return held | rows | {"weights_digest": weights, "rules_of_terms": RULES}


def more_ids(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> Mapping[str, DataFrame]:
    """Intents that messages of before a cut have."""
    from jobs.tasks import service_texts

    return service_texts.known_intents(read, settings, cut)


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:
    """The examples' columns. `sizes` counts the intents, 0, none of them, included."""
    from training.state.text_config import config_of
    from training.state.text_weights import weights_folder

    options = options_of(settings)
    size = config_of(weights_folder(options.weights)).vocab_size if options.tokens_kept else None
    return Schema(
        (
            Column("terms", Kind.IDS, vocabulary="terms", size=options.terms + 1),
            *((Column(VECTORS, Kind.DENSE, length=options.vectors),) if options.vectors else ()),
            *((Column(TOKENS, Kind.IDS, vocabulary=TOKENS, size=size),) if options.tokens_kept else ()),
            Column("label", Kind.LABEL, vocabulary="intents", size=sizes["intents"]),
            Column("time", Kind.TIME),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a model of texts in classes on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the
    spec."""
    from jobs.learning import fit_task
    from jobs.tasks import new_classes
    from jobs.tasks.tuned_encoder import start_of

    refuse_few_to_mix(spec, world.size)
    start = start_of(spec, world)
    return fit_task(
        new_classes.told(start.told(spec), world),
        world,
        make_model=start.model,
        make_validation=validation,
        shown=("loss", *METRICS),
        make_attachments=lambda *told: attached(*told) | start.attached(told[-1]),
    )


def refuse_few_to_mix(spec: Mapping[str, Any], ranks: int) -> None:
    """See that a rank's batch has messages enough to mix: its mixtures are of its own rows.

    Raises:
        SettingsError: it has fewer than 16.
    """
    from training.settings import FitSettings

    rows = FitSettings(**spec["training"]).rows_per_batch(ranks)
    if spec["model"].get("mixed", 1.0) and rows < LEAST_TO_MIX:
        raise SettingsError(
            f"training.batch_size must give each of {ranks} ranks {LEAST_TO_MIX} rows or more at a time, as mixtures "
            f"are made of a rank's own; it gives {rows}: raise it, or take fewer ranks, or set model.mixed=0"
        )


def attached(spec: Mapping[str, Any], columns: Schema, folder: Path) -> dict[str, Path]:  # noqa: ARG001
    """Write what goes with the bundle: the names of its intents by their numbers."""
    return classed.names(spec, "vocabulary_intents", folder / INTENTS)


def validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """How often the intent of held-out messages that have one is right; None where that is not asked."""
    return classed.validation(spec, columns, world, answer="intent", unknown_is_wrong=False)


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How often the intent is right, and how well what is out of scope is told apart."""
    return Headline(
        judged={"accuracy": "accuracy", "macro F1": "macro_f1"},
        beside={
            "errors at 90 % coverage": "error_at_90_percent",
            "calibration error": "calibration_error",
            "kept in scope": "kept_in_scope",
            "out-of-scope recall": "out_of_scope_recall",
            "out-of-scope AUC": "out_of_scope_auc",
            "right of all": "right_of_all",
        },
        rows="messages",
        lower=("error_at_90_percent", "calibration_error"),
    )


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns that the settings name; what is made of messages has no id but the message's."""
    held = {table: dict.fromkeys(said_persons(settings, table), BY_ID) for table in ("messages", "orders", "answers")}
    of_lines = {name: {"message_id": BY_LINE} for name in ("examples", "queries", "replies")}
    of_lines["replies_live"] = {"message_id": BY_LINE, **held["messages"]}
    return {table: columns for table, columns in held.items() if columns} | (of_lines if held["messages"] else {})


TASK = Task(
    name="service",
    what="which intent a customer's message has, how sure that is, and whether it is in scope",
    row="message",
    options=ServiceOptions,
    reads=reads,
    decides=decides,
    learnt_with=("terms", "words_kept", "vectors", "tokens_kept", "weights_digest", "rules_of_terms"),
    asks=("queries", "vocabulary_intents"),
    kinds=lambda _: {},
    more_ids=more_ids,
    numbers=lambda _: ("intents",),
    key=("message_id",),
    spread=1,
    schema=schema,
    model="text_classes",
    learn="jobs.tasks.service:learn",
    metrics=METRICS,
    attaches=(INTENTS, TOKENIZER),
    talks="jobs.tasks.service_chat:talk",
    on_spark="jobs.tasks.service_on_spark",
    headline=headline,
    answered=("key", "intent", "p", "scope", "in_scope"),
    table="replies",
    answer=(
        "message_id",
        "time",
        "conversation",
        "intent",
        "confidence",
        "in_scope",
        "scope",
        "reply",
        "text",
        "used",
        "why",
        "summary",
    ),
    scored=("answers", "orders"),
    columns=AnswerColumns("message_id", ((),), ("confidence", "scope"), "confidence"),
    persons=persons,
    demo=Demo("service_shop", "service", "sources.messages.path", same_file=("sources.answers.path",)),
    simulated={"messages": "messages"},
    training=TRAINING,
    timeless=("text",),
    live=Live(
        follows="messages",
        key="message_id",
        table="replies_live",
        answer={
            "intent": "string",
            "confidence": "double",
            "in_scope": "boolean",
            "scope": "double",
            "reply": "string",
            "reply_text": "string",
            "used": "array<struct<table: string, id: string>>",
            "why": "string",
            "summary": "string",
        },
        on_stream="jobs.tasks.service_live",
        thread="conversation",
        unread=("intent",),
    ),
)
