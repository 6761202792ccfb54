"""A file of interactions through the whole pipeline under a protocol of papers, to one line of figures.

    millrace benchmark ratings.dat --protocol leave_one_out --model two_tower model.dim=64 tuning.epochs=20
    millrace benchmark Beauty.txt --protocol leave_one_out --settings benchmarks/public/amazon_beauty.yaml

Ingest, build, tune, train and evaluate are the pipeline's own. A study of one trial (more by `tuning.trials`) finds how
many epochs are best for the validation; then a model learns from all that lies before the test. All users are asked,
and the whole catalogue is ranked for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import build_examples, evaluate, ingest, train, tune
from jobs.artefacts import write_json
from jobs.console import say, step
from jobs.interactions import interactions
from jobs.memory import PeakMemory
from jobs.sessions import in_utc, open_session, persisted
from jobs.settings import Settings, flags_of_file, load_settings
from jobs.stages import Stages, seconds_of
from jobs.task import OURS
from spark_udfs import protocols
from training.configs import CONFIGS
from training.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RESULT = "benchmark.json"
SOURCE = "interactions"
MODEL = "model.name="
BEFORE = "history_before"  # a column that examples have which are sequences
# Interactions are of one kind, whatever they were.
ALWAYS = [
    "task=recommend", f"ingest.table={SOURCE}", "ingest.columns={user_id: user, item_id: item, time: time}",
    "ingest.constants={kind: click}", "examples.weights={click: 1}", f"examples.max_queries={2**31 - 1}",
]  # fmt: skip
USUALLY = [
    "evaluation.ks=[5, 10, 20, 50]", "evaluation.baselines=[popularity]", "tuning.trials=1", "tuning.epochs=20",
    "tuning.metric=ndcg_at_10", "tuning.pruner=none",
]  # fmt: skip
BY_ORDER = [f"examples.test_from={protocols.TEST:%Y-%m-%d}", f"examples.validation_days={protocols.VALIDATION_DAYS}"]
PROTOCOLS = {
    "leave_one_out": "each user's last interaction is the test, the last but one the validation",
    "given": "the test is a file of its own",
    "by_date": "what happens from examples.test_from on is the test",
}


def run_benchmark(
    place: str,
    protocol: str,
    *,
    test: str | None = None,
    model: str | None = None,
    out: str = "out",
    columns: Sequence[str] = (),
    file: str | None = None,
    flags: Sequence[str] = (),
    spark: SparkSession | None = None,
) -> dict[str, Any]:
    """Run a file of interactions through the pipeline.

    Args:
        place: the file, folder or table (jobs/interactions.py).
        protocol: one of PROTOCOLS.
        test: the file of the test, where the split is given.
        model: its name; None: the one that the file of settings names, or two_tower.
        out: everything is written below this folder.
        columns: `user=NAME`, `item=NAME`, `time=NAME`, where they are not to be seen from the names.
        file: a YAML file of settings, over what a benchmark sets.
        flags: `section.key=value`, over the file's.
        spark: a session.

    Returns:
        What benchmark.json holds: data, protocol, model, users, pairs (count and hash of what was to be found), metrics
        (of items that are new to a user; `metrics_any`: of any) and those of the baselines with intervals, epochs,
        samples_per_s, seconds by stage, peak_memory_mb, flags.

    Raises:
        SettingsError: the protocol does not fit what was given, or a setting is wrong.
        DataError: the interactions cannot be read.
    """
    flags = [*(flags_of_file(file) if file else ()), *flags]
    model = model or _model_of(flags)
    _refuse_what_does_not_fit(protocol, test, flags)
    of_protocol = [] if protocol == "by_date" else BY_ORDER
    usually = [*USUALLY, f"examples.form={form_of(model)}", *of_protocol]
    settings = load_settings(None, [*usually, *flags, *ALWAYS, f"model.name={model}"])
    named = dict(_named(text) for text in columns)
    with PeakMemory() as memory:
        settings, learned, evaluated = _staged(
            settings,
            spark,
            f"{out}/{Path(place).name.split('.')[0]}-{protocol}-{model}",
            flags,
            lambda at: _rows(at, protocol, place, test, named),
        )
    judged = evaluated["protocols"]["new"]
    values, seconds = dict(judged["models"]), seconds_of(settings.run_dir)
    result = {
        "data": place,
        **({} if test is None else {"test": test}),
        "protocol": protocol,
        "model": model,
        "users": judged["users"],
        "pairs": judged["pairs"],
        "metrics": values.pop(OURS),
        "metrics_any": evaluated["protocols"]["any"]["models"][OURS],
        "baselines": values,
        "epochs": learned["epochs"],
        "samples_per_s": round(learned["rows"] * learned["epochs"] / seconds["train"], 1),
        "seconds": {name: round(of_stage, 1) for name, of_stage in seconds.items()},
        "peak_memory_mb": round(memory.peak / 2**20),
        "bundle": learned["bundle"],
        "flags": list(flags),
    }
    write_json(settings.run_dir, RESULT, result)
    say(f"benchmark: {PROTOCOLS[protocol]}; {settings.run_dir}/{RESULT}")
    return result


def line(result: Mapping[str, Any]) -> str:
    """The result as one line of JSON."""
    return json.dumps(result)


@in_utc
def _staged(
    settings: Settings,
    spark: SparkSession | None,
    home: str,
    flags: Sequence[str],
    rows: Callable[[SparkSession], DataFrame],
) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    """All stages; returns the settings with the folder of these rows and flags, and what train and evaluate gave."""
    spark = open_session(settings, spark, beside=TO_SCORE)
    with persisted(rows(spark)) as held:
        with step("benchmark: reading the interactions"):
            settings = _placed(settings, f"{home}-{_digest(held, flags)}")
        stages = Stages(settings.run_dir)
        stages.run("ingest", lambda: ingest.run(settings, spark, frames={SOURCE: held}))
    stages.run("build_examples", lambda: build_examples.run(settings, spark))
    asked = settings
    if settings.tuning.trials:
        study = stages.run("tune", lambda: tune.run(settings, spark))
        if study["best"] is not None:  # as many epochs as were best, by the validation
            training = {"tuned": True, "epochs": study["best"]["epochs"]}
            asked = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    learned = stages.run("train", lambda: train.run(asked, spark))
    return settings, learned, stages.run("evaluate", lambda: evaluate.run(asked, spark))


def _digest(rows: DataFrame, flags: Sequence[str]) -> str:
    """Of all rows and of what was asked for: other ones go to another folder, the same ones go on."""
    columns = [F.coalesce(F.col(name).cast("string"), F.lit("")) for name in rows.columns]
    found = rows.agg(F.count(F.lit(1)), F.bit_xor(F.xxhash64(*columns))).collect()[0]
    return hashlib.sha256(json.dumps([*found, sorted(flags)]).encode()).hexdigest()[:8]


def _placed(settings: Settings, home: str) -> Settings:
    tables = settings.tables.model_copy(update={"root": f"{home}/tables"})
    return settings.model_copy(update={"tables": tables, "run_dir": f"{home}/run"})


def _rows(spark: SparkSession, protocol: str, place: str, test: str | None, named: Mapping[str, str]) -> DataFrame:
    rows = interactions(spark, place, named)
    if test is not None:
        return protocols.given(rows, interactions(spark, test, named))
    if protocol == "leave_one_out":
        return protocols.leave_one_out(rows)
    if not rows.where("time IS NULL").isEmpty():
        raise SettingsError(
            "--protocol by_date needs interactions with a time; name its column with --column time=NAME"
        )
    return protocols.by_date(rows)


def _model_of(flags: Sequence[str]) -> str:
    """The model that flags name, the last one counting."""
    named = [flag.removeprefix(MODEL).strip('"') for flag in flags if flag.startswith(MODEL)]
    return named[-1] if named else "two_tower"


def form_of(model: str) -> str:
    """The form of examples that a model learns from."""
    config = CONFIGS.get(model)  # of an unknown one the settings say so
    return "sequences" if config is not None and BEFORE in config.READS else "purchases"


def _refuse_what_does_not_fit(protocol: str, test: str | None, flags: Sequence[str]) -> None:
    if protocol not in PROTOCOLS:
        raise SettingsError(f"--protocol must be one of {', '.join(PROTOCOLS)}; got '{protocol}'")
    if (protocol == "given") != (test is not None):
        remedy = "name its file with --test" if test is None else "leave --test out, or set --protocol given"
        raise SettingsError(f"--protocol {protocol}: {PROTOCOLS[protocol]}; {remedy}")
    of_cuts = {text.partition("=")[0] for text in BY_ORDER}
    if protocol != "by_date" and (moved := sorted(of_cuts & {flag.partition("=")[0] for flag in flags})):
        raise SettingsError(
            f"{moved[0]} is for --protocol by_date: under {protocol}, {PROTOCOLS[protocol]}; leave it out"
        )


def _named(text: str) -> tuple[str, str]:
    ours, equals, name = text.partition("=")
    if ours not in ("user", "item", "time") or not equals or not name:
        raise SettingsError(f"--column is user=NAME, item=NAME or time=NAME; got '{text}'")
    return ours, name
