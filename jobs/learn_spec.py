"""What the ranks of a training are told: pinned tables, schema, model, settings; and what makes two trainings one.

All of it is JSON, decided on the driver, before a rank starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jobs import builds
from jobs.settings import Settings
from jobs.settings_sections import TrainingSettings
from jobs.tasks import TASKS
from jobs.versions import installed
from training.configs import CONFIGS, model_identity
from training.data.delta_log import open_log
from training.errors import SettingsError
from training.schema import Schema
from training.settings import FitSettings
from training.state.bundle import load_bundle, provenance_of

LAUNCHER_KEYS = set(TrainingSettings.model_fields) - set(FitSettings.model_fields)


def learn_spec(settings: Settings, *, splits: tuple[str, ...], validate: bool) -> dict[str, Any]:
    """What the ranks are told (JSON): pinned tables, schema, model, training. Nothing in it depends on the machine.

    Args:
        settings: the pipeline's.
        splits: of the examples, those to train on.
        validate: whether to rank the held-out queries after each epoch.

    Raises:
        NoTableError: no build is published; TableError: other examples lie there now; SettingsError: the batch cannot
            be dealt out to the ranks, the model learns from other examples, the bundle to start from is of another
            model, or what is to be attached is no file; BundleError: it is none.
    """
    settings.training.rows_per_batch(settings.training.ranks)
    facts = builds.published_at(settings.tables.root)
    columns = _columns_for(settings.model["name"], Schema.from_json(facts["schema"]))
    examples = open_log(f"{settings.tables.root}/examples", facts["versions"]["examples"])
    builds.refuse_another(facts, "examples", examples.table_id, examples.uri)
    # The table's id too: versions of another table that lies there later begin at 0 again.
    pinned = {"uri": examples.uri, "version": examples.version, "id": examples.table_id}
    for name in builds.side_tables(facts):
        held = open_log(f"{settings.tables.root}/{name}", facts["versions"][name])
        builds.refuse_another(facts, name, held.table_id, held.uri)
    cut = "test" if "validation" in splits else "validation"
    taken = [piece for split in splits for piece in facts["pieces"][split]]
    siblings = {
        name: {
            "uri": f"{settings.tables.root}/{name}",
            "version": facts["versions"][name],
            "splits": [cut],
            "partitions": {"split": [cut]},
        }
        for name in sorted(builds.side_tables(facts))
    }
    return {
        "task": settings.task,
        "tables": {"examples": pinned | {"splits": list(splits), "partitions": {"piece": taken}}, **siblings},
        "build": facts,
        "vocabularies": _vocabularies(settings.tables.root, facts),
        "schema": columns.to_json(),
        "model": settings.model,
        "options": settings.options.model_dump(mode="json"),
        "training": settings.training.model_dump(exclude=LAUNCHER_KEYS),
        "reader": {
            "workers": settings.training.reader_workers,
            "shuffle_rows": settings.training.shuffle_rows,
            "shuffle_mb": settings.training.shuffle_mb,
        },
        "start_from": _start_from(settings),
        "attachments": _attachments(settings),
        "attaches": list(TASKS[settings.task].attaches),
        "cache": {"gigabytes": settings.training.cache_gb, "folder": settings.training.cache_dir},
        "validate": validate,
        "ranks": settings.training.ranks,
        "device": settings.training.device,
        "report": {"kind": "lines"},
        "observe": {},
        "checkpoint_dir": None,
        "bundle_dir": None,
        "first_made": None,
        "provenance": {},
    }


def spec_identity(spec: Mapping[str, Any]) -> str:
    """Twelve hex digits of all that decides the weights after a step: what is the same goes on from a checkpoint.

    Neither the number of ranks, nor how far or how safely a training goes (`FitSettings.identity`), nor the reader's
    threads, nor settings that an older version did not know (training/identity.py).
    """
    decisive = {key: spec[key] for key in ("task", "tables", "schema")}
    decisive["until"] = spec["build"]["cuts"]["test"]
    decisive["model"] = model_identity(spec["model"])
    decisive["training"] = FitSettings(**spec["training"]).identity()
    decisive["shuffle_rows"] = spec["reader"]["shuffle_rows"]
    # What came later is named only where it is used.
    decisive |= {"shuffle_mb": megabytes} if (megabytes := spec["reader"].get("shuffle_mb")) else {}
    decisive |= {"start_from": start["name"]} if (start := spec.get("start_from")) else {}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def provenance(settings: Settings, spec: dict[str, Any]) -> dict[str, Any]:
    """Where a bundle comes from: tables at versions, settings and code, enough to run it again.

    Without the places of Spark, of the study and of MLflow: they decide nothing, and their URLs may hold a password or
    a token.
    """
    places: dict[str, bool | set[str]] = {"spark": True, "tuning": {"storage"}, "training": {"mlflow_uri"}}
    return {
        "tables": spec["tables"],
        "build": spec["build"],
        "settings": settings.model_dump(mode="json", exclude=places),
        "vocabularies": spec.get("vocabularies", {}),
        "identity": spec_identity(spec),
        **({"start_from": start["name"]} if (start := spec.get("start_from")) else {}),
        "versions": {name: installed(name) for name in ("millrace", "torch", "horovod", "petastorm", "deltalake")},
    }


def _start_from(settings: Settings) -> dict[str, str] | None:
    """Name and place of the bundle whose weights are the first ones."""
    place, wanted = settings.training.start_from, settings.model["name"]
    if place is None:
        return None
    bundle = load_bundle(Path(place).absolute())
    if bundle.model_name != wanted:
        raise SettingsError(
            f"training.start_from must be a bundle of model.name '{wanted}'; '{place}' is of '{bundle.model_name}': "
            "name another bundle, or that model"
        )
    return {"name": bundle.name, "path": str(bundle.path)}


def check_start(spec: Mapping[str, Any], cut: str) -> None:
    """See that the bundle to start from has not learnt from what lies behind a cut, and means the same by its numbers.

    Args:
        spec: from `learn_spec`.
        cut: "test" or "validation"; what lies behind it judges what is trained now.

    Raises:
        SettingsError: it has, or it does not.
    """
    start = spec.get("start_from")
    if start is None:
        return
    made = provenance_of(start["path"]) or {}
    then, now = made.get("build", {}), spec["build"]
    learnt_from = made.get("tables", {}).get("examples", {}).get("splits")
    trained_to = then.get("cuts", {}).get("validation" if learnt_from == ["train"] else "test")
    if trained_to is not None and datetime.fromisoformat(trained_to) > datetime.fromisoformat(now["cuts"][cut]):
        raise SettingsError(
            f"training.start_from must be a bundle that has learnt from nothing behind the {cut} cut, "
            f"{now['cuts'][cut]}; '{start['name']}' was trained on what was known before {trained_to}: it has seen "
            "the answers. Name an older bundle, or move examples.test_from"
        )
    texts_then, texts_now = (build.get("inputs", {}).get("options", {}).get("weights_digest") for build in (then, now))
    if texts_then and texts_now and texts_then != texts_now:
        raise SettingsError(
            "training.start_from must be a bundle that has learnt from texts' vectors by the weights of the build in "
            f"force, whose digest is {texts_now}; those of '{start['name']}' were made by {texts_then}: what it has "
            "learnt of them says nothing of these. Build with its weights (examples.text_weights, or options.weights), "
            "or start from none"
        )
    held = {kind: table for kind, table in made.get("vocabularies", {}).items() if kind in spec["vocabularies"]}
    for kind in sorted({*held, *then.get("numbers", {})}):
        told, tells = (build.get("numbers", {}).get(kind) for build in (then, now))
        if told and tells and told["ids"] == tells["ids"]:
            is_same = told == tells
        else:  # one of them has grown since, and appends alone as long as it is the same table
            is_same = kind not in held or held[kind] == spec["vocabularies"][kind]
        if not is_same:
            raise SettingsError(
                f"training.start_from must be a bundle that means the same {kind} by its numbers; those of "
                f"'{start['name']}' are of a vocabulary that was made elsewhere, or anew since: its weights would go "
                "to others. Name a bundle that was trained on these tables, or none"
            )


def _columns_for(model: str, columns: Schema) -> Schema:
    """What a model learns from; what the build says of items is left to those that take it in."""
    of_sequences = CONFIGS[model].READS_OF_SEQUENCES if "history_before" in columns else ()
    missing = [name for name in of_sequences or CONFIGS[model].READS if name not in columns]
    if missing:
        raise SettingsError(
            f"model.name '{model}' must have examples with {', '.join(missing)}; those of the build in force have "
            f"{', '.join(columns.names)}; name another model, or build such examples ({CONFIGS[model].READS_BY})"
        )
    return columns if CONFIGS[model].READS_ITEMS else columns.without_items()


def _vocabularies(root: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Delta's own id of each vocabulary: one of another id means others by its numbers."""
    names = sorted(name for name in facts["versions"] if name.startswith("vocabulary_"))
    return {name.removeprefix("vocabulary_"): open_log(f"{root}/{name}").table_id for name in names}


def _attachments(settings: Settings) -> dict[str, str]:
    """The files that go with the bundle, by the names that they get there."""
    named = {name: Path(path).absolute() for name, path in settings.training.attachments.items()}
    if taken := sorted(named.keys() & set(TASKS[settings.task].attaches)):
        raise SettingsError(
            f"training.attachments must leave the names to Millrace that it attaches itself; got {', '.join(taken)}; "
            "give these files other names"
        )
    missing = [f"{name} '{path}'" for name, path in named.items() if not path.is_file()]
    if missing:
        raise SettingsError(
            f"training.attachments must be files; these are none: {', '.join(missing)}; correct them, or leave them out"
        )
    return {name: str(path) for name, path in named.items()}
