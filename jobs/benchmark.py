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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from cluster.session import TO_SCORE
from jobs import build_examples, evaluate, ingest, train, tune
from jobs.artefacts import write_json
from jobs.console import say, step
from jobs.interactions import interactions, refuse_nothing
from jobs.memory import PeakMemory
from jobs.protocols import PROTOCOLS, Asked, Protocol, held_out_of, refuse_what_does_not_fit
from jobs.sessions import in_utc, open_session, persisted
from jobs.settings import Settings, flags_of_file, load_settings
from jobs.stages import Stages, seconds_of
from jobs.task import OURS
from training.configs import CONFIGS
from training.errors import SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RESULT = "benchmark.json"
UNHEARD = "question_lines_of_unknown_items"  # a build's count
SOURCE = "interactions"
MODEL = "model.name="
BEFORE = "history_before"  # a column that examples have which are sequences
# Interactions are of one kind, whatever they were; those of users who are held out whole of another.
ALWAYS = [
    "task=recommend", f"ingest.table={SOURCE}", "ingest.columns={user_id: user, item_id: item, time: time, kind: kind}",
    "ingest.kinds={click: click, question: question}", "examples.weights={click: 1}",
    f"examples.max_queries={2**31 - 1}",
]  # fmt: skip
USUALLY = [
    "evaluation.ks=[5, 10, 20, 50]", "evaluation.baselines=[popularity]", "tuning.trials=1", "tuning.epochs=20",
    "tuning.metric=ndcg_at_10", "tuning.pruner=none",
]  # fmt: skip


def run_benchmark(
    place: str,
    protocol: str,
    *,
    test: str | None = None,
    held_out: str | None = None,
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
        held_out: the share or the number of users or sessions that are held out whole, where the protocol does so.
        model: its name; None: the one that the file of settings names, or two_tower.
        out: everything is written below this folder.
        columns: `user=NAME`, `item=NAME`, `time=NAME`, where they are not to be seen from the names.
        file: a YAML file of settings, over what a benchmark sets.
        flags: `section.key=value`, over the file's.
        spark: a session.

    Returns:
        What benchmark.json holds: data, protocol, model, cuts, users, pairs (count and hash of what was to be found),
        metrics (of items that are new to a user, or of any, as the protocol says; `metrics_any`: of any) and those of
        the baselines with intervals, epochs, samples_per_s, seconds by stage, peak_memory_mb, flags; `left_out`, lines
        of users held out whose item nobody had before, where the protocol holds some out.

    Raises:
        SettingsError: the protocol does not fit what was given, or a setting is wrong.
        DataError: the interactions cannot be read.
    """
    flags = [*(flags_of_file(file) if file else ()), *flags]
    model = model or _model_of(flags)
    _refuse_other_tasks(model)
    refuse_what_does_not_fit(protocol, test, held_out, flags)
    held = PROTOCOLS[protocol]
    usually = [*USUALLY, *held.usual, f"examples.form={form_of(model)}"]
    settings = load_settings(None, [*usually, *flags, *held.flags, *ALWAYS, f"model.name={model}"])
    named = dict(_named(text) for text in columns)
    for each in (place, *(() if test is None else (test,))):
        refuse_nothing(each)
    with PeakMemory() as memory:
        settings, built, learned, evaluated = _staged(
            settings,
            spark,
            f"{out}/{Path(place).name.split('.')[0]}-{protocol}-{model}",
            flags,
            held,
            lambda at: Asked(
                interactions(at, place, named),
                None if test is None else interactions(at, test, named),
                held_out_of(held_out),
                frozenset(flag.partition("=")[0] for flag in flags),
                settings,
            ),
        )
    judged = evaluated["protocols"][held.slice]
    values, seconds = dict(judged["models"]), seconds_of(settings.run_dir)
    result = {
        "data": place,
        **({} if test is None else {"test": test}),
        "protocol": protocol,
        "model": model,
        "cuts": built["cuts"],
        "users": judged["users"],
        "pairs": judged["pairs"],
        **({"left_out": built["counts"][UNHEARD]} if held.holds_out else {}),
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
    say(f"benchmark: {held.what}; {settings.run_dir}/{RESULT}")
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
    protocol: Protocol,
    read: Callable[[SparkSession], Asked],
) -> tuple[Settings, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """All stages; returns the settings with the cuts and the folder of these rows and flags, and what build, train and
    evaluate gave."""
    spark = open_session(settings, spark, beside=TO_SCORE)
    given = read(spark)
    with persisted(given.rows) as rows:
        with step("benchmark: reading the interactions"):
            lines, settings = protocol.lines(replace(given, rows=rows))
        with persisted(lines) as held:
            with step("benchmark: giving the interactions to the protocol"):
                settings = _placed(settings, f"{home}-{_digest(held, flags)}")
            stages = Stages(settings.run_dir)
            stages.run("ingest", lambda: ingest.run(settings, spark, frames={SOURCE: held}))
    built = stages.run("build_examples", lambda: build_examples.run(settings, spark))
    asked = settings
    if settings.tuning.trials:
        study = stages.run("tune", lambda: tune.run(settings, spark))
        if study["best"] is not None:  # as many epochs as were best, by the validation
            training = {"tuned": True, "epochs": study["best"]["epochs"]}
            asked = settings.model_copy(update={"training": settings.training.model_copy(update=training)})
    learned = stages.run("train", lambda: train.run(asked, spark))
    return settings, built, learned, stages.run("evaluate", lambda: evaluate.run(asked, spark))


def _digest(rows: DataFrame, flags: Sequence[str]) -> str:
    """Of all rows and of what was asked for: other ones go to another folder, the same ones go on."""
    columns = [F.coalesce(F.col(name).cast("string"), F.lit("")) for name in rows.columns]
    found = rows.agg(F.count(F.lit(1)), F.bit_xor(F.xxhash64(*columns))).collect()[0]
    return hashlib.sha256(json.dumps([*found, sorted(flags)]).encode()).hexdigest()[:8]


def _placed(settings: Settings, home: str) -> Settings:
    tables = settings.tables.model_copy(update={"root": f"{home}/tables"})
    return settings.model_copy(update={"tables": tables, "run_dir": f"{home}/run"})


def _model_of(flags: Sequence[str]) -> str:
    """The model that flags name, the last one counting."""
    named = [flag.removeprefix(MODEL).strip('"') for flag in flags if flag.startswith(MODEL)]
    return named[-1] if named else "two_tower"


def _refuse_other_tasks(model: str) -> None:
    theirs = [name for name, config in CONFIGS.items() if "history" in config.READS]
    if model not in theirs:
        raise SettingsError(f"a benchmark's model must learn lists, as {', '.join(theirs)} do; got '{model}'")


def form_of(model: str) -> str:
    """The form of examples that a model learns from."""
    return "sequences" if BEFORE in CONFIGS[model].READS else "purchases"


def _named(text: str) -> tuple[str, str]:
    ours, equals, name = text.partition("=")
    if ours not in ("user", "item", "time") or not equals or not name:
        raise SettingsError(f"--column is user=NAME, item=NAME or time=NAME; got '{text}'")
    return ours, name
