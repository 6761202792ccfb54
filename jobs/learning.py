"""Learning on the ranks, for every task: the spec's pinned examples through a model, to a bundle. Imports no Spark.

A task's `learn` calls `fit_task` with what is its own: how its model is made, and how it is validated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from jobs.pinned import place
from jobs.watching import both, observers_of, reporter
from training.schema import Schema

if TYPE_CHECKING:
    from torch import Tensor

    from jobs.validation import Validate
    from training.data.snapshot import Snapshot
    from training.data.transform import Transform
    from training.fit import FitResult, FitSettings
    from training.models.base import Model
    from training.state.bundle import Bundle
    from training.state.files import Streamed
    from training.tables.sharded import Tables
    from training.watch.record import Event
    from training.world import World

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
        rows, steps, epochs, final_loss, history, best, skipped; of a model of rows that does something about rare
        labels, `rare_labels`, its settings; `calibration` of a model that asks for it, what `Calibrator.calibrate`
        returns (`ClassCalibrator.calibrate` of a model of classes); on rank 0 the bundle's name and place too.
    """
    with observers_of(spec, world) as observers:
        report = both(reporter(spec, shown), observers)
        summary = _fit(spec, world, make_model, make_validation, make_transform, make_attachments, report)
        observers.tags |= {name: summary[name] for name in ("bundle", "bundle_path") if name in summary}
    return summary


def model_of_rows(spec: Mapping[str, Any], columns: Schema, tables: Tables) -> Model:
    """The model that the spec names, which needs nothing but its config and the schema."""
    from training.models import MODELS

    model_type = MODELS[spec["model"]["name"]]
    config = {key: value for key, value in spec["model"].items() if key != "name"}
    return model_type(model_type.Config.parse(config), columns, tables=tables)


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
    from jobs.held_out_classes import calibrator_of_classes
    from training.data.snapshot import open_snapshot
    from training.data.transform import one_after_the_other
    from training.fit import FitSettings
    from training.models.rows import LabelModel, thinning
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

    def open_queries() -> Snapshot:
        return open_snapshot(**place(spec, "queries"), columns=columns.names, world=world)

    calibrated = spec, model, columns, world, open_queries
    calibrator = calibrator_of(*calibrated) or calibrator_of_classes(*calibrated)
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
    if isinstance(model, LabelModel) and (treated := model.config.rare_labels):
        summary["rare_labels"] = treated
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
