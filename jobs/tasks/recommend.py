"""Recommendation: which items a user will buy next, out of the whole catalogue.

An example is one bought item with the user's history as of that moment, from which two towers learn; or a stretch of a
user's purchases, from all of which a sequence model learns. Either gives vectors whose inner product ranks the
catalogue; validation ranks it in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from jobs.headlines import JUDGED, main_k
from jobs.settings_base import Section
from jobs.settings_graph import TRIPLES
from jobs.settings_lists import (
    ListEvaluation,
    ListExamples,
    ListScoring,
    asks_questions,
    evaluation_of,
    examples_of,
    graph_of,
    in_sequences,
    rule_tables,
)
from jobs.settings_sections import weights_of
from jobs.task import BY_ID, AnswerColumns, Demo, Headline, Task
from jobs.tasks.recommend_attributes import columns_of_items, decides
from training.metrics.of_lists import names_at
from training.schema import Column, Kind, Schema
from training.state.names import ITEMS

if TYPE_CHECKING:
    from datetime import datetime

    from pyspark.sql import DataFrame

    from jobs.settings import Settings
    from training.batch import Batch
    from training.data.plan import IntArray
    from training.data.transform import Transform
    from training.models.base import RetrievalModel
    from training.tables.sharded import Tables
    from training.world import World

VALIDATION_KS = (10, 20, 50)
DAY_US = 86_400_000_000
WEIGHTS = "history_weight"
OF_NEW = names_at(VALIDATION_KS)
ANY = "any_"  # before the name of a metric: nothing is left out of the lists, and what is met again is to be found too
METRICS = (*OF_NEW, *(ANY + name for name in OF_NEW))
BESIDE = ("mrr", "hit_rate", "map", "coverage", "novelty")
EVENTS = {
    "event_id": "string", "user_id": "string", "item_id": "string", "kind": "string",
    "time": "timestamp", "arrival_time": "timestamp",
}  # fmt: skip
FEEDBACK = {"user_id": "string", "item_id": "string", "outcome": "string", "outcome_time": "timestamp"}
TRIPLE = {"head": "string", "relation": "string", "tail": "string"}
OF_SOURCES = ("item_attributes", "item_history")  # what sources of attributes say of items
LISTED_FIRST = ("recall_at_20", "ndcg_at_20", "hit_rate_at_20")
SHOWN = ("loss", *LISTED_FIRST, *(ANY + name for name in LISTED_FIRST))


def schema(sizes: Mapping[str, int], settings: Settings | None = None) -> Schema:
    """The examples' columns. `sizes` counts each vocabulary's indices, the unknown 0 included.

    What a line of the history is worth is one of them where lines are worth different things, and of sequences, whose
    lines are targets. Attributes of items that are asked for are columns of items.
    """
    users, items = sizes["users"], sizes["items"]
    of_items = () if settings is None else columns_of_items(sizes, settings)
    stretches = settings is not None and in_sequences(settings)
    differ = settings is not None and len(set(weights_of(settings.examples).values())) > 1
    history = (
        Column("user", Kind.ID, vocabulary="users", size=users),
        Column("history", Kind.IDS, vocabulary="items", size=items),
        Column("history_age", Kind.DENSE, ragged=True),
        *((Column(WEIGHTS, Kind.DENSE, ragged=True),) if differ or stretches else ()),
    )
    if stretches:
        return Schema((*history, Column("history_before", Kind.DENSE, ragged=True), *of_items))
    return Schema(
        (
            *history,
            Column("target", Kind.ID, vocabulary="items", size=items),
            Column("new", Kind.DENSE),
            Column("weight", Kind.WEIGHT),
            Column("time", Kind.TIME),
            *of_items,
        )
    )


def query_schema(columns: Schema) -> Schema:
    """What ranking needs of a user as of a cut, and what they then bought.

    Args:
        columns: of the examples.
    """
    sizes = columns.vocabularies()
    items = sizes["items"]
    return Schema(
        (
            Column("user", Kind.ID, vocabulary="users", size=sizes["users"]),
            Column("history", Kind.IDS, vocabulary="items", size=items),
            Column("history_age", Kind.DENSE, ragged=True),
            *((columns[WEIGHTS],) if WEIGHTS in columns else ()),
            Column("seen", Kind.IDS, vocabulary="items", size=items),
            Column("truth", Kind.IDS, vocabulary="items", size=items),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a retrieval model on this rank; rank 0 writes the bundle. `jobs.learn_spec.learn_spec` makes the spec."""
    from jobs.learning import fit_task
    from jobs.tasks.recommend_items import attached

    return fit_task(
        spec,
        world,
        make_model=_model,
        make_validation=_validation,
        shown=SHOWN,
        make_transform=_with_age,
        make_attachments=attached,
    )


def _with_age(spec: Mapping[str, Any], columns: Schema) -> Transform | None:
    """Adds `age`, the days from the moment to the test cut; None where an earlier version's table has it, or where
    examples have no moment."""
    from datetime import datetime

    import torch

    if "age" in columns or "time" not in columns:
        return None
    cut = datetime.fromisoformat(spec["build"]["cuts"]["test"]).timestamp() * 1e6

    def with_age(batch: Batch, rows: IntArray, seed: int) -> Batch:  # noqa: ARG001
        time = cast("torch.Tensor", batch["time"])
        return {**batch, "age": ((cut - time) / DAY_US).to(torch.float32)}

    return with_age


def _model(spec: Mapping[str, Any], columns: Schema, tables: Tables) -> RetrievalModel:
    """The model with its tables, and with the items' counts and attributes as of the cut."""
    import torch

    from jobs.pinned import place
    from jobs.tasks.recommend_items import by_index
    from training.data.snapshot import open_snapshot, read_table
    from training.errors import SettingsError
    from training.models import MODELS, RetrievalModel

    model_type = MODELS[spec["model"]["name"]]
    if not issubclass(model_type, RetrievalModel):
        raise SettingsError(
            f"model.name must be a model that ranks items; '{spec['model']['name']}' answers rows; take one of "
            f"{', '.join(name for name, kind in MODELS.items() if issubclass(kind, RetrievalModel))}"
        )
    config = {key: value for key, value in spec["model"].items() if key != "name"}
    widths = dict.fromkeys(model_type.FEATURES) | {column.name: column.length for column in columns.of_items}
    catalogue = read_table(open_snapshot(**place(spec, "catalogue")), ["item", *widths])
    items, count = torch.tensor(catalogue["item"].to_numpy()), columns["history"].size or 1
    features = {name: by_index(catalogue[name], items, count, width) for name, width in widths.items()}
    return model_type(model_type.Config.parse(config), columns, features, tables)


def _validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """Full ranking of the held-out queries, or None where the spec wants none; of any item where the metric that the
    study chooses by is one of these."""
    from jobs.pinned import place
    from training.data.loader import Loader
    from training.data.snapshot import open_snapshot
    from training.metrics.ranking import block_rows, rank_queries

    if not spec["validate"]:
        return None
    asked = query_schema(columns)
    queries = open_snapshot(**place(spec, "queries"), columns=asked.names, world=world)
    rows, of_any = block_rows(asked["seen"].size or 1), spec["training"]["metric"].startswith(ANY)

    def validate(model: Any) -> dict[str, float]:
        with Loader(queries, asked, batch_size=rows, seed=0, rank=world.rank, world_size=world.size) as loader:
            found = rank_queries(model, loader, world, VALIDATION_KS, any_item=of_any)
        return {ANY + name if of_any and name in OF_NEW else name: value for name, value in found.items()}

    return validate


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Events, the items' names, what feedback has brought, and what says since when attributes hold that are asked for;
    and the triples of a source.

    Which of their columns in `items` are fit is told with what to do (`recommend_on_spark.content`).
    """
    tables = {"events": EVENTS, "items": {"item_id": "string", "name": "string"}, "feedback?": FEEDBACK}
    if examples_of(settings).item_attributes or graph_of(settings):
        tables |= {f"{name}?": {"item_id": "string"} for name in OF_SOURCES}
    return tables | ({TRIPLES: TRIPLE} if TRIPLES in settings.sources else {})


def more_ids(read: Mapping[str, DataFrame], settings: Settings, cut: datetime) -> Mapping[str, DataFrame]:
    """Of attributes of items that are asked for: the items that were listed, and values, by vocabulary; and of a graph
    the pairs of path and entity."""
    from jobs.tasks.recommend_on_spark import content

    return content.more_ids(read, settings, cut)


def headline(settings: Settings) -> Headline:
    """Recall and NDCG of the lists that are shown first."""
    k = main_k(evaluation_of(settings).ks)
    return Headline(
        judged={name: f"{name}_at_{k}" for name in JUDGED},
        beside={name.removesuffix("_rate"): f"{name}_at_{k}" for name in BESIDE},
        rows="customers",
        note=f", at {k}",
    )


def persons(settings: Settings) -> dict[str, dict[str, str]]:  # noqa: ARG001
    """Customers stand by their ids, in the examples by their indices."""
    by_id = ("events", "users", "feedback", "queries", "histories", "recommendations")
    return {
        **{name: {"user_id": BY_ID} for name in by_id},
        "examples": {"user": "vocabulary_users"},
        "vocabulary_users": {"id": BY_ID},
    }


def anew(settings: Settings) -> str | None:
    """Why a build is made anew, whatever was added; None: it goes on from the one before."""
    if in_sequences(settings):
        return "sequences run through a customer's lines of all times"
    return "those who have questions are no customers of the build before" if asks_questions(settings) else None


TASK = Task(
    name="recommend",
    what="which items a customer buys next, out of the whole catalogue",
    row="purchase",
    options=Section,
    reads=reads,
    asks=("users", "catalogue", "neighbours?"),
    kinds=lambda _: {"users": "user_id", "items": "item_id"},
    numbers=lambda _: ("items",),
    key=("user", "time", "target", "known_at", "history"),
    spread=2,
    schema=schema,
    model="two_tower",
    learn="jobs.tasks.recommend:learn",
    attaches=(ITEMS,),
    metrics=METRICS,
    on_spark="jobs.tasks.recommend_on_spark",
    headline=headline,
    answered=("user", "rank", "item"),
    table="recommendations",
    answer=("user_id", "user", "rank", "item_id", "item", "score", "fallback"),
    columns=AnswerColumns("user_id", (("rank",), ("item_id",)), ("score",), "item_id", "fallback"),
    persons=persons,
    examples=ListExamples,
    evaluation=ListEvaluation,
    scoring=ListScoring,
    demo=Demo("shop", "online_retail", "ingest.path", closes_the_loop=True),
    grows=("events",),
    anew=anew,
    looked_up=("items", *OF_SOURCES, TRIPLES),
    given=(TRIPLES,),
    more_ids=more_ids,
    decides=decides,
    since=True,
    beside=rule_tables,
)
