"""Learning on the ranks, for every task: the spec's pinned examples through a model, to a bundle. Imports no Spark.

A task's `learn` calls `fit_task` with what is its own: how its model is made, and how it is validated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from jobs.pinned import place
from training.schema import Kind, Schema

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from training.batch import Batch
    from training.data.snapshot import Snapshot
    from training.data.transform import Transform
    from training.fit import FitResult, FitSettings
    from training.models.base import Model
    from training.state.bundle import Bundle
    from training.state.files import Streamed
    from training.tables.sharded import Tables
    from training.watch.observers import Observers
    from training.watch.record import Event
    from training.world import World

    Validate = Callable[[Any], dict[str, float]]
    Attach = Callable[[Mapping[str, Any], Schema, Path], Mapping[str, Path]]


def fit_task(
    spec: dict[str, Any],
    world: World,
    *,
    make_model: Callable[[Mapping[str, Any], Schema, Tables], Model],
    make_validation: Callable[[Mapping[str, Any], Schema, World], Validate | None],
    shown: tuple[str, ...],
    make_transform: Callable[[Mapping[str, Any], Schema], Transform | None] = lambda *_: None,
    make_attachments: Attach = lambda *_: {},
) -> dict[str, Any]:
    """Fit a model on this rank; rank 0 writes the bundle.

    Args:
        spec: from `jobs.learn_spec.learn_spec`.
        world: the ranks.
        make_model: (spec, the examples' columns, tables) -> the model, equal on every rank.
        make_validation: (spec, the examples' columns, world) -> what judges the model after an epoch, or None.
        shown: metrics that an epoch's line names.
        make_transform: (spec, the examples' columns) -> what changes each batch of them on its way, or None.
        make_attachments: (spec, the examples' columns, a folder to write to) -> the files that the spec's `attaches`
            names; asked on rank 0.

    Returns:
        rows, steps, epochs, final_loss, history, best, skipped; `calibration` of a model that asks for it, what
        `Calibrator.calibrate` returns; on rank 0 the bundle's name and place too.
    """
    with _observers(spec, world) as observers:
        report = _both(_reporter(spec, shown), observers)
        summary = _fit(spec, world, make_model, make_validation, make_transform, make_attachments, report)
        observers.tags |= {name: summary[name] for name in ("bundle", "bundle_path") if name in summary}
    return summary


def model_of_rows(spec: Mapping[str, Any], columns: Schema, tables: Tables) -> Model:
    """The model that the spec names, which needs nothing but its config and the schema."""
    from training.models import MODELS

    model_type = MODELS[spec["model"]["name"]]
    config = {key: value for key, value in spec["model"].items() if key != "name"}
    return model_type(model_type.Config.parse(config), columns, tables=tables)


def validation_of_rows(
    spec: Mapping[str, Any],
    columns: Schema,
    world: World,
    *,
    width: int,
    sums: Callable[[Mapping[str, Tensor], Batch], npt.NDArray[np.float64]],
    finish: Callable[[npt.NDArray[np.float64]], dict[str, float]],
) -> Validate | None:
    """Judge a model by what it predicts of the side table `queries`, each rank its share; None where none is asked.

    Args:
        spec: from `jobs.learn_spec.learn_spec`.
        columns: of the queries.
        world: the ranks.
        width: of the sums.
        sums: (what the model predicts of a batch, on the CPU; the batch) -> sums that add up over batches and ranks.
        finish: all sums -> metrics.
    """
    import torch

    from jobs.held_out import added_up
    from training.batch import to_device
    from training.data.snapshot import open_snapshot

    if not spec["validate"]:
        return None
    held_out = open_snapshot(**place(spec, "queries"), columns=columns.names, world=world)

    @torch.no_grad()
    def validate(model: Any) -> dict[str, float]:
        device = next(model.parameters()).device

        def of_batch(batch: Batch) -> npt.NDArray[np.float64]:
            found = model.predict(to_device(batch, device))
            return sums({name: value.cpu() for name, value in found.items()}, batch)

        return finish(added_up(held_out, columns, world, of_batch, width, "validation metrics"))

    return validate


def validation_of_probabilities(
    spec: Mapping[str, Any], columns: Schema, world: World, *, names: Collection[str]
) -> Validate | None:
    """Judge a model by the probabilities that it gives to the queries' labels; None where none is asked.

    Of one label that is `p`; of several `p_LABEL` of each, and metrics of those after the first have its name behind
    them, as in `auc_cart`.

    Args:
        spec, columns, world: as for `validation_of_rows`.
        names: of the metrics that are wanted, of `training.metrics.probabilities.Binary`.
    """
    import numpy as np

    from training.metrics.probabilities import Binary

    metric, labels = Binary(), [column.name for column in columns if column.kind is Kind.LABEL]
    answers = ["p"] if len(labels) == 1 else [f"p_{label}" for label in labels]

    def sums(found: Mapping[str, Tensor], batch: Batch) -> npt.NDArray[np.float64]:
        each = [
            metric.sums(found[answer].numpy(), cast("Tensor", batch[label]).numpy())
            for answer, label in zip(answers, labels, strict=True)
        ]
        return np.concatenate(each)

    def finish(sums: npt.NDArray[np.float64]) -> dict[str, float]:
        return {
            name if label == labels[0] else f"{name}_{label}": value
            for label, own in zip(labels, np.split(sums, len(labels)), strict=True)
            for name, value in metric.finish(own).items()
            if name in names
        }

    return validation_of_rows(spec, columns, world, width=metric.width * len(labels), sums=sums, finish=finish)


def _fit(
    spec: dict[str, Any],
    world: World,
    make_model: Callable[[Mapping[str, Any], Schema, Tables], Model],
    make_validation: Callable[[Mapping[str, Any], Schema, World], Validate | None],
    make_transform: Callable[[Mapping[str, Any], Schema], Transform | None],
    make_attachments: Attach,
    report: Callable[[Event], None],
) -> dict[str, Any]:
    import torch

    from jobs.console import warn
    from jobs.held_out import calibrator_of, set_priors
    from training.data.snapshot import open_snapshot
    from training.data.transform import one_after_the_other
    from training.fit import FitSettings
    from training.models.rows import thinning
    from training.state.export import export
    from training.state.publish import check_attachments
    from training.step.device import pick_device, sum_in_order
    from training.tables.sharded import Tables

    settings = FitSettings(**spec["training"])
    if spec["bundle_dir"] is not None:  # rank 0's host need not be the one where the settings were checked
        world.on_first("looking for what is to be attached", partial(check_attachments, spec.get("attachments") or {}))
    columns = Schema.from_json(spec["schema"])
    examples = open_snapshot(**place(spec, "examples"), columns=columns.names, world=world)
    torch.manual_seed(settings.seed)  # every rank starts from the same weights
    device, why = pick_device(spec["device"], world)
    sum_in_order(device)
    if why and world.rank == 0:
        warn(why)
    model = make_model(spec, columns, Tables(world, settings.shard_tables_above_mb, settings.seed)).to(device)
    set_priors(model, examples, columns, world)
    validate = make_validation(spec, columns, world)
    transform = one_after_the_other(make_transform(spec, columns), thinning(model, settings.batch_size))
    calibrator = calibrator_of(
        spec, model, columns, world, lambda: open_snapshot(**place(spec, "queries"), columns=columns.names, world=world)
    )
    result = _fitted(spec, world, model, settings, columns, examples, transform, validate, report)
    summary: dict[str, Any] = {
        "rows": examples.rows,
        "steps": result.steps,
        "epochs": result.epochs,
        "final_loss": result.final_loss,
        "history": result.history,
        "best": result.best,
        "skipped": result.skipped,
    }
    measured: dict[str, Any] = {}
    if calibrator is not None:
        measured["calibration"] = calibrator.calibrate(warn if world.rank == 0 else lambda _: None)
    summary |= measured
    if spec["bundle_dir"] is not None:
        made = {"examples_fingerprint": examples.fingerprint, "threads": torch.get_num_threads()}
        summary |= export(model, world, partial(_write, spec, columns, made, result, measured, make_attachments))
    return summary


def _fitted(
    spec: Mapping[str, Any],
    world: World,
    model: Model,
    settings: FitSettings,
    columns: Schema,
    examples: Snapshot,
    transform: Transform | None,
    validate: Validate | None,
    report: Callable[[Event], None],
) -> FitResult:
    """The training itself: the examples' batches through the model, from its checkpoint on if there is one."""
    from training.configs import model_identity
    from training.data.cache import cache_of
    from training.data.loader import Loader
    from training.fit import fit

    share = {"rank": world.rank, "world_size": world.size, "cache": cache_of(**spec["cache"]), **spec["reader"]}
    share["transform"] = transform
    rows = settings.rows_per_batch(world.size)
    with Loader(examples, columns, batch_size=rows, seed=settings.seed, **share) as loader:
        return fit(
            model,
            loader,
            settings,
            world=world,
            checkpoint_dir=spec["checkpoint_dir"],
            validate=validate,
            report=report,
            start_from=_start_from(spec, world),
            identity={
                "examples": examples.fingerprint,
                "schema": columns.fingerprint,
                "model": model_identity(spec["model"]),
            },
        )


def _start_from(spec: Mapping[str, Any], world: World) -> Bundle | None:
    """The bundle whose weights are the first ones, checked on each rank, however long its disk takes."""
    from training.state.bundle import load_bundle

    start = spec.get("start_from")
    if start is None:
        return None
    found: list[Bundle] = []
    world.on_each("checking the bundle to start from", lambda: found.append(load_bundle(start["path"])))
    return found[0]


def _write(
    spec: Mapping[str, Any],
    columns: Schema,
    made: Mapping[str, Any],
    result: FitResult,
    measured: Mapping[str, Any],
    make_attachments: Attach,
    state: Mapping[str, Tensor | Streamed],
) -> dict[str, str]:
    """Write the bundle, on rank 0; returns its name and place."""
    from training.state.publish import write_bundle

    last = result.best if spec["validate"] else result.history[-1]
    with TemporaryDirectory() as folder:
        own = make_attachments(spec, columns, Path(folder)) if spec.get("attaches") else {}
        bundle = write_bundle(
            spec["bundle_dir"],
            model_name=spec["model"]["name"],
            config={key: value for key, value in spec["model"].items() if key != "name"},
            schema=columns,
            tensors=state,
            provenance=_provenance(spec, made, result),
            settings=spec["training"],
            metrics={**last, "final_loss": result.final_loss, **measured},
            attachments={**(spec.get("attachments") or {}), **own},
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


def _reporter(spec: Mapping[str, Any], names: tuple[str, ...]) -> Callable[[Event], None]:
    """Where rank 0's events go: to the study that a trial belongs to, or to the terminal, as all warnings do."""
    from jobs.console import say, warn

    if spec["report"]["kind"] == "study":
        from tuning.objective import study_reporter

        to_study = study_reporter(spec["report"])
        return lambda event: warn(event.message) if event.kind == "warning" else to_study(event)

    def tell(event: Event) -> None:
        shown = [f"{name} {event.values[name]:.4f}" for name in names if name in event.values]
        message = f"epoch {event.epoch + 1}: {', '.join(shown)}" if event.kind == "epoch" else event.message
        (warn if event.kind == "warning" else say)(message)

    return tell
