"""Recommendation: which items a user will buy next, out of the whole catalogue.

An example is one bought item with the user's history as of that moment; a two-tower model learns vectors whose inner
product ranks the catalogue; validation ranks it in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.task import Task
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from torch import Tensor

    from training.data.snapshot import Snapshot
    from training.fit import FitResult, FitSettings
    from training.models.base import RetrievalModel
    from training.state.files import Streamed
    from training.tables.sharded import Tables
    from training.watch.observers import Observers
    from training.watch.record import Event
    from training.world import World

VALIDATION_KS = (10, 20, 50)
METRICS = tuple(f"{name}_at_{k}" for k in VALIDATION_KS for name in ("recall", "ndcg", "mrr", "hit_rate", "map"))
SHOWN = ("loss", "recall_at_20", "ndcg_at_20", "hit_rate_at_20")


def schema(sizes: Mapping[str, int]) -> Schema:
    """The examples' columns. `sizes` counts each vocabulary's indices, the unknown 0 included."""
    users, items = sizes["users"], sizes["items"]
    return Schema(
        (
            Column("user", Kind.ID, vocabulary="users", size=users),
            Column("history", Kind.IDS, vocabulary="items", size=items),
            Column("history_age", Kind.DENSE, ragged=True),
            Column("target", Kind.ID, vocabulary="items", size=items),
            Column("new", Kind.DENSE),
            Column("age", Kind.DENSE),
            Column("weight", Kind.WEIGHT),
            Column("time", Kind.TIME),
        )
    )


def query_schema(sizes: Mapping[str, int]) -> Schema:
    """What ranking needs of a user as of a cut, and what they then bought."""
    items = sizes["items"]
    return Schema(
        (
            Column("user", Kind.ID, vocabulary="users", size=sizes["users"]),
            Column("history", Kind.IDS, vocabulary="items", size=items),
            Column("history_age", Kind.DENSE, ragged=True),
            Column("seen", Kind.IDS, vocabulary="items", size=items),
            Column("truth", Kind.IDS, vocabulary="items", size=items),
        )
    )


def learn(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """Fit a retrieval model on this rank; rank 0 writes the bundle. `jobs.train.learn_spec` makes the spec."""
    with _observers(spec, world) as observers:
        summary = _learn(spec, world, observers)
        observers.tags |= {name: summary[name] for name in ("bundle", "bundle_path") if name in summary}
    return summary


def _learn(spec: dict[str, Any], world: World, observers: Observers) -> dict[str, Any]:
    import torch

    from jobs.console import warn
    from training.data.snapshot import open_snapshot
    from training.fit import FitSettings
    from training.state.export import export
    from training.step.device import pick_device, sum_in_order
    from training.tables.sharded import Tables

    settings = FitSettings(**spec["training"])
    columns = Schema.from_json(spec["schema"])
    examples = open_snapshot(**_place(spec, "examples"), columns=columns.names, world=world)
    torch.manual_seed(settings.seed)  # every rank starts from the same weights
    device, why = pick_device(spec["device"], world)
    sum_in_order(device)
    if why and world.rank == 0:
        warn(why)
    model = _model(spec, columns, Tables(world, settings.shard_tables_above_mb, settings.seed)).to(device)
    result = _fitted(spec, world, model, settings, columns, examples, _both(_reporter(spec), observers))
    summary: dict[str, Any] = {
        "rows": examples.rows,
        "steps": result.steps,
        "epochs": result.epochs,
        "final_loss": result.final_loss,
        "history": result.history,
        "best": result.best,
        "skipped": result.skipped,
    }
    if spec["bundle_dir"] is not None:
        made = {"examples_fingerprint": examples.fingerprint, "threads": torch.get_num_threads()}
        summary |= export(model, world, partial(_write, spec, columns, made, result))
    return summary


def _fitted(
    spec: Mapping[str, Any],
    world: World,
    model: RetrievalModel,
    settings: FitSettings,
    columns: Schema,
    examples: Snapshot,
    report: Callable[[Event], None],
) -> FitResult:
    """The training itself: the examples' batches through the model, from its checkpoint on if there is one."""
    from training.configs import model_identity
    from training.data.cache import cache_of
    from training.data.loader import Loader
    from training.fit import fit

    share = {"rank": world.rank, "world_size": world.size, "cache": cache_of(**spec["cache"]), **spec["reader"]}
    rows = settings.rows_per_batch(world.size)
    with Loader(examples, columns, batch_size=rows, seed=settings.seed, **share) as loader:
        return fit(
            model,
            loader,
            settings,
            world=world,
            checkpoint_dir=spec["checkpoint_dir"],
            validate=_validation(spec, columns, world),
            report=report,
            identity={
                "examples": examples.fingerprint,
                "schema": columns.fingerprint,
                "model": model_identity(spec["model"]),
            },
        )


def _write(
    spec: Mapping[str, Any],
    columns: Schema,
    made: Mapping[str, Any],
    result: FitResult,
    state: Mapping[str, Tensor | Streamed],
) -> dict[str, str]:
    """Write the bundle, on rank 0; returns its name and place."""
    from training.state.bundle import write_bundle

    bundle = write_bundle(
        spec["bundle_dir"],
        model_name=spec["model"]["name"],
        config={key: value for key, value in spec["model"].items() if key != "name"},
        schema=columns,
        tensors=state,
        provenance=_provenance(spec, made, result),
        settings=spec["training"],
        metrics={**(result.best if spec["validate"] else result.history[-1]), "final_loss": result.final_loss},
    )
    return {"bundle": bundle.name, "bundle_path": str(bundle.path)}


def _provenance(spec: Mapping[str, Any], made: Mapping[str, Any], result: FitResult) -> dict[str, Any]:
    """Where the bundle comes from: this run, or, where it found all steps done, what the bundle of these steps said.

    `trained` names the steps that this run did itself, and that its settings, threads and versions therefore speak for.
    """
    first = spec["first_made"]
    if first is not None and result.resumed_at == result.steps == first["steps"]:
        return dict(first["provenance"])
    return {**spec["provenance"], **made, "trained": {"after_step": result.resumed_at, "to_step": result.steps}}


def _place(spec: Mapping[str, Any], table: str) -> dict[str, Any]:
    """Arguments of `open_snapshot` for one of the spec's pinned tables."""
    pinned = spec["tables"][table]
    return {"uri": pinned["uri"], "version": pinned["version"], "partitions": {"split": pinned["splits"]}}


def _model(spec: Mapping[str, Any], columns: Schema, tables: Tables) -> RetrievalModel:
    """The model with its tables, and with the items' counts as of the cut."""
    import torch

    from training.data.snapshot import open_snapshot, read_table
    from training.models import MODELS

    model_type = MODELS[spec["model"]["name"]]
    config = {key: value for key, value in spec["model"].items() if key != "name"}
    catalogue = read_table(open_snapshot(**_place(spec, "catalogue")), ["item", *model_type.FEATURES])
    items = torch.tensor(catalogue["item"].to_numpy())
    size = columns["target"].size or 1
    features = {
        name: torch.zeros(size).index_copy(0, items, torch.tensor(catalogue[name].to_numpy()).float())
        for name in model_type.FEATURES
    }
    return model_type(model_type.Config.parse(config), columns, features, tables)


def _validation(spec: Mapping[str, Any], columns: Schema, world: World) -> Callable[[Any], dict[str, float]] | None:
    """Full ranking of the held-out queries, or None where the spec wants none."""
    from training.data.loader import Loader
    from training.data.snapshot import open_snapshot
    from training.metrics.ranking import block_rows, rank_queries

    if not spec["validate"]:
        return None
    asked = query_schema(columns.vocabularies())
    queries = open_snapshot(**_place(spec, "queries"), columns=asked.names, world=world)
    rows = block_rows(asked["seen"].size or 1)

    def validate(model: Any) -> dict[str, float]:
        with Loader(queries, asked, batch_size=rows, seed=0, rank=world.rank, world_size=world.size) as loader:
            return rank_queries(model, loader, world, VALIDATION_KS)

    return validate


def _observers(spec: Mapping[str, Any], world: World) -> Observers:
    """Who watches, on rank 0; nobody elsewhere."""
    from jobs.console import warn
    from training.watch.observers import Mlflow, Observer, Observers, TensorBoard

    asked: Mapping[str, Any] = spec["observe"] if world.rank == 0 else {}
    observers: list[Observer] = []
    if asked.get("tensorboard"):
        observers.append(TensorBoard(asked["tensorboard"]))
    if asked.get("mlflow"):
        sections = {name: spec[name] for name in ("training", "model", "reader")}
        params = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
        params |= {"task": spec["task"], "ranks": spec["ranks"], "device": spec["device"]}
        params |= {"examples_version": spec["tables"]["examples"]["version"]}
        observers.append(Mlflow(**asked["mlflow"], params=params, folder=spec["checkpoint_dir"]))
    return Observers(observers, warn, world)


def _both(first: Callable[[Event], None], second: Callable[[Event], None]) -> Callable[[Event], None]:
    def report(event: Event) -> None:
        second(event)
        first(event)  # may raise Pruned

    return report


def _reporter(spec: Mapping[str, Any]) -> Callable[[Event], None]:
    """Where rank 0's events go: to the study that a trial belongs to, or to the terminal."""
    if spec["report"]["kind"] == "study":
        from tuning.objective import study_reporter

        return study_reporter(spec["report"])
    from jobs.console import say

    def tell(event: Event) -> None:
        shown = [f"{name} {event.values[name]:.4f}" for name in SHOWN if name in event.values]
        say(f"epoch {event.epoch + 1}: {', '.join(shown)}" if event.kind == "epoch" else event.message)

    return tell


TASK = Task(
    name="recommend",
    schema=schema,
    learn="jobs.tasks.recommend:learn",
    metrics=METRICS,
)
