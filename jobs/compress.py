"""Compress: a smaller bundle of the last trained one, both judged on what the cut holds out.

    python -m jobs.compress --settings shop.yaml compress.method=int4 compress.least_share=.98

Where the smaller one keeps less of the task's first metric than `compress.least_share` it is removed, and the job ends
with an error. What is in force stays, unless `compress.publish` is set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cluster.session import TO_SCORE
from jobs import evaluate
from jobs.artefacts import COMPRESSION, write_json
from jobs.command import main_of
from jobs.console import say, show_table, step, warn
from jobs.sessions import giving_back, in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.task import OURS
from jobs.tasks import TASKS
from jobs.train import LOCK
from jobs.trained import latest_bundle, publish_compressed, trained_bundle
from spark_udfs.pace import seconds_per_thousand
from training.errors import BundleError, SettingsError
from training.state.bundle import Bundle, load_bundle
from training.state.compress import Method, compress
from training.state.described import WEIGHTS_FILE
from training.state.lock import only_writer
from training.state.publish import write_bundle

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NONE: Final = "none"


@in_utc
def run(settings: Settings, spark: SparkSession | None = None) -> dict[str, Any]:
    """Make a smaller bundle, judge it beside the one that it is made of, and write compression.json.

    Returns:
        What compression.json holds: bundle, compressed, method, bytes and weights (before, after, share),
        seconds_per_1000 (before, after), slice, metric, before, after and difference (each with its interval), share,
        least_share, published, and `protocols`, the judgements of all slices; of method `none` bundle alone.

    Raises:
        BundleError: there is no bundle, it is torn, of another task, compressed already, has nothing to pack, or has
            seen the answers; or the smaller one keeps too little.
        SettingsError: a bundle is named where none is to be.
        TableError: a table is missing, or the cut holds out nothing to judge.
        LockHeldError: a training is under way in the run folder.
    """
    trained_bundle(settings.run_dir)
    _refuse_what_does_not_fit(settings)
    with only_writer(Path(settings.run_dir), warn, name=LOCK, what="run folder", who="training or compression"):
        trained = trained_bundle(settings.run_dir)  # a training may have ended while this one waited
        if settings.compress.method == NONE:
            publish_compressed(settings.run_dir, None)
            say(f"compress: {trained.name} answers as it was trained")
            return {"bundle": trained.name}
        source = load_bundle(settings.compress.bundle or trained)
        _refuse_another_task(source, settings.task)
        folder = Path(settings.run_dir) / "bundles"
        with step(f"compress: {source.name} by {settings.compress.method}"):
            small = _smaller(source, settings.compress.method, folder)
        try:
            return _decided(settings, _judged(settings, spark, source, small), small)
        except BaseException:
            if small.name != latest_bundle(settings.run_dir).name:  # of an earlier run, which answers
                shutil.rmtree(small.path, ignore_errors=True)
            raise


def _refuse_what_does_not_fit(settings: Settings) -> None:
    wanted = settings.compress
    if wanted.bundle is None or not (wanted.publish or wanted.method == NONE):
        return
    what = f"compress.method={NONE}" if wanted.method == NONE else "compress.publish"
    raise SettingsError(
        f"{what} is of the last trained bundle of run_dir; compress.bundle names '{wanted.bundle}': leave one of "
        "both out"
    )


def _refuse_another_task(bundle: Bundle, task: str) -> None:
    made_for = bundle.provenance.get("settings", {}).get("task", task)
    if made_for != task:
        raise BundleError(
            f"compress judges by the task '{task}'; bundle '{bundle.name}' is of the task '{made_for}': name the "
            "settings that it was trained with"
        )


def _smaller(source: Bundle, method: Method, folder: Path) -> Bundle:
    made = compress(source, method)
    return write_bundle(
        folder,
        model_name=source.model_name,
        config=source.config,
        schema=source.schema,
        tensors=made.tensors,
        provenance=source.provenance | {"compressed": {"from": source.name, "method": method}},
        settings=source.settings,
        metrics=source.metrics,
        attachments={name: source.attachment(name) for name in source.attachments},
        stored=made.stored,
    )


def _judged(settings: Settings, spark: SparkSession | None, source: Bundle, small: Bundle) -> dict[str, Any]:
    """Both bundles' bytes, pace, and answers to what is held out."""
    task, bundles = TASKS[settings.task], {OURS: source.path, small.name: small.path}
    spark = open_session(settings, spark, beside=TO_SCORE)
    tables = Tables(spark, settings.tables.root)
    build = evaluate.build_for(task, tables, bundles)
    ground = evaluate.ground_of(task, tables, _without_baselines(settings), build, source.path)
    with giving_back(spark, ground.release):
        protocols, held = evaluate.judged(task, ground, evaluate.cut_of(build), bundles, alone=True)
        first = next(iter(held))
        with step("compress: taking the time"):
            seconds = seconds_per_thousand(held[first][0], [source.path, small.path])
    metric = next(iter(task.headline(settings).judged.values()))
    is_lower = metric in task.headline(settings).lower
    return {
        "bundle": source.name,
        "compressed": small.name,
        "compressed_path": str(small.path),
        "method": settings.compress.method,
        "bytes": _sizes(*(sum(map(_size, one.path.rglob("*"))) for one in (source, small))),
        "weights": _sizes(*(_size(one.path / WEIGHTS_FILE) for one in (source, small))),
        "seconds_per_1000": {"before": seconds[0], "after": seconds[1]},
        "slice": first,
        "metric": metric,
        **compared(protocols[first], metric, small.name, is_lower=is_lower),
        "least_share": settings.compress.least_share,
        "protocols": protocols,
    }


def compared(protocol: Mapping[str, Any], metric: str, name: str, *, is_lower: bool) -> dict[str, Any]:
    """A metric before and after, the difference user by user, and the share of it that is kept.

    Args:
        protocol: of an evaluation in which the bundle was judged beside ours.
        metric: a name among the protocol's.
        name: the bundle's.
        is_lower: whether less of the metric is better: then what was is held against what is.
    """
    before, after = (protocol["models"][one][metric] for one in (OURS, name))
    lost = protocol["differences"][name][metric]
    kept, of = (before["value"], after["value"]) if is_lower else (after["value"], before["value"])
    return {
        "before": before,
        "after": after,
        "difference": {"value": -lost["value"], "low": -lost["high"], "high": -lost["low"]},
        "share": kept / of if of else 1.0,
    }


def _without_baselines(settings: Settings) -> Settings:
    """Where the settings name who else answers, nobody does: nothing is fitted."""
    evaluation = settings.evaluation
    if "baselines" not in type(evaluation).model_fields:
        return settings
    return settings.model_copy(update={"evaluation": evaluation.model_copy(update={"baselines": ()})})


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sizes(before: int, after: int) -> dict[str, float]:
    return {"before": before, "after": after, "share": after / before}


def _decided(settings: Settings, result: dict[str, Any], small: Bundle) -> dict[str, Any]:
    """Take the smaller bundle, if it keeps enough.

    Raises:
        BundleError: it keeps too little.
    """
    is_kept, publish = result["share"] >= result["least_share"], settings.compress.publish
    result["published"] = is_kept and publish
    write_json(settings.run_dir, COMPRESSION, result)
    _show(result)
    if not is_kept:
        raise BundleError(
            f"a smaller bundle must keep compress.least_share={result['least_share']:g} of {result['metric']}; by "
            f"{result['method']} '{result['bundle']}' keeps {result['share']:.4f} of it. "
            f"'{latest_bundle(settings.run_dir).name}' answers as before: set another compress.method"
            f"{', as int8' if result['method'] != 'int8' else ''}, or a lower compress.least_share"
        )
    if publish:
        publish_compressed(settings.run_dir, small.name)
        say(f"compress: {small.name} answers from now on; compress.method={NONE} has {result['bundle']} answer again")
    else:
        say(f"compress: {small.path}; compress.publish=true has it answer in {settings.run_dir}")
    return result


def _show(result: Mapping[str, Any]) -> None:
    def cell(metric: Mapping[str, float]) -> str:
        return f"{metric['value']:.4f} [{metric['low']:.4f}, {metric['high']:.4f}]"

    title, difference = result["metric"].replace("_at_", "@"), result["difference"]
    rows = [
        (name, *(result[what][when] for what in ("bytes", "weights", "seconds_per_1000")), cell(result[when]))
        for name, when in ((result["bundle"], "before"), (result["compressed"], "after"))
    ]
    show_table("", ("bundle", "bytes", "of them weights", "seconds per 1,000", title), rows)
    say(
        f"bytes {result['bytes']['share']:.1%}, weights {result['weights']['share']:.1%}; {title} keeps "
        f"{result['share']:.4f}, difference {cell(difference)}"
    )


if __name__ == "__main__":
    main_of(run)
