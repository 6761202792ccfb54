"""A smaller bundle of a run's own: judged beside it, taken or refused, and what else goes by it from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from jobs import compress, replay
from jobs.artefacts import COMPRESSION, LATEST, write_json
from jobs.command import EXIT_REFUSED, guarded
from jobs.recommender import Recommender
from jobs.settings import Settings, load_settings
from jobs.trained import finished, latest_bundle, trained_bundle
from tests.jobs.small_shop import small_shop
from tests.spark_udfs.bundles import two_tower_bundle
from training.errors import BundleError, SettingsError
from training.state.bundle import Bundle, load_bundle
from training.state.files import sha256

ENDS = {"epochs": 1, "early_stopping_patience": None}
INTERVAL = {"value": 0.2, "low": 0.1, "high": 0.3}


def run_of(folder: Path, **provenance: Any) -> Bundle:
    """A run folder with a trained bundle."""
    bundle = two_tower_bundle(folder / "bundles", users=41, items=31, dim=64, provenance=provenance)
    latest = {"bundle": bundle.name, "identity": "one", "ends": ENDS, "summary": {"bundle": bundle.name}}
    write_json(folder, LATEST, latest)
    return bundle


def asked(run_dir: Path, **values: Any) -> Settings:
    return Settings(run_dir=str(run_dir), compress=values)


def planted(share: float) -> Any:
    """What `compress._judged` gives where so much is kept."""

    def judged(settings: Settings, spark: Any, source: Bundle, small: Bundle) -> dict[str, Any]:
        sizes = {"before": 4, "after": 1, "share": 0.25}
        return {
            "bundle": source.name, "compressed": small.name, "method": settings.compress.method,
            "bytes": sizes, "weights": sizes, "seconds_per_1000": {"before": 0.1, "after": 0.1},
            "metric": "recall_at_20", "before": INTERVAL, "after": INTERVAL, "difference": INTERVAL,
            "share": share, "least_share": settings.compress.least_share,
        }  # fmt: skip

    return judged


def files(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) for path in folder.rglob("*") if path.is_file() and path.name != "train.lock"}


@pytest.mark.slow
def test_a_smaller_bundle_is_judged_beside_the_one_it_is_made_of_and_answers_from_then_on(
    spark: SparkSession, tmp_path: Path
) -> None:
    settings = small_shop(spark, tmp_path, compress={"least_share": 0.5, "publish": True})
    run_dir = Path(settings.run_dir)
    held = load_bundle(latest_bundle(settings.run_dir))
    sizes = {"users": held.schema["user"].size or 0, "items": held.schema["history"].size or 0}
    attached = {name: held.attachment(name) for name in held.attachments}
    source = two_tower_bundle(run_dir / "bundles", **sizes, dim=64, provenance=held.provenance, attachments=attached)
    write_json(run_dir, LATEST, {"bundle": source.name, "identity": "untrained", "summary": {}})
    result = compress.run(settings, spark)
    small = load_bundle(latest_bundle(settings.run_dir))
    assert (small.name, trained_bundle(settings.run_dir).name) == (result["compressed"], source.name)
    assert small.provenance == held.provenance | {"compressed": {"from": source.name, "method": "int8"}}
    assert small.schema == source.schema
    assert small.attachments == source.attachments
    weights = [(one.path / "weights.safetensors").stat().st_size for one in (source, small)]
    assert result["weights"] == {"before": weights[0], "after": weights[1], "share": weights[1] / weights[0]}
    assert result["weights"]["share"] < 0.5
    assert result["bytes"]["before"] == sum(one.stat().st_size for one in source.path.rglob("*") if one.is_file())
    assert (result["slice"], result["metric"]) == ("new", "recall_at_5")
    models = result["protocols"]["new"]["models"]
    assert list(models) == ["millrace", small.name]
    assert (result["before"], result["after"]) == tuple(one["recall_at_5"] for one in models.values())
    assert result["share"] == result["after"]["value"] / result["before"]["value"]
    assert min(result["seconds_per_1000"].values()) > 0
    assert json.loads((run_dir / COMPRESSION).read_text())["compressed"] == small.name
    asked = {"history": [["item 1", "item 3"]], "ages": [[3.0, 1.0]], "k": 5}
    lists = [Recommender.load(one.path).recommend(**asked)[0] for one in (source, small)]
    assert len({one.item_id for one in lists[0]} & {one.item_id for one in lists[1]}) >= 4
    assert np.allclose(*[[one.score for one in found] for found in lists], atol=0.05)


def test_one_that_keeps_too_little_is_refused_and_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, before = run_of(tmp_path), files(tmp_path)
    monkeypatch.setattr(compress, "_judged", planted(0.9531))
    with pytest.raises(SystemExit) as ended:
        guarded(lambda: compress.run(asked(tmp_path, method="int4", least_share=0.96, publish=True)))
    assert ended.value.code == EXIT_REFUSED
    said = " ".join(capsys.readouterr().err.split())
    assert f"by int4 '{bundle.name}' keeps 0.9531 of it" in said
    assert f"'{bundle.name}' answers as before: set another compress.method, as int8, or a lower" in said
    assert not json.loads((tmp_path / COMPRESSION).read_text())["published"]
    assert {path: hashed for path, hashed in files(tmp_path).items() if COMPRESSION not in path} == before


def test_what_is_published_is_not_removed_by_a_later_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path)
    monkeypatch.setattr(compress, "_judged", planted(0.995))
    small = compress.run(asked(tmp_path, publish=True))["compressed"]
    with pytest.raises(BundleError, match=rf"must keep compress.least_share=1 .* keeps 0.9950 .* '{small}' answers"):
        compress.run(asked(tmp_path, least_share=1))
    assert load_bundle(latest_bundle(str(tmp_path))).name == small


def test_trainings_go_by_the_trained_one_and_it_answers_again_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = run_of(tmp_path)
    monkeypatch.setattr(compress, "_judged", planted(1.0))
    small = compress.run(asked(tmp_path))
    assert latest_bundle(str(tmp_path)) == bundle.path  # not asked to publish
    compress.run(asked(tmp_path, publish=True))
    assert latest_bundle(str(tmp_path)).name == small["compressed"]
    assert finished(tmp_path, "one", {"training": ENDS}) == {"bundle": bundle.name}
    with pytest.raises(BundleError, match=rf"replay must be as it was trained; .* made from, '{bundle.name}'"):
        replay.run(asked(tmp_path), bundle=latest_bundle(str(tmp_path)))
    assert compress.run(asked(tmp_path, method="none")) == {"bundle": bundle.name}
    assert latest_bundle(str(tmp_path)) == bundle.path


def test_a_judgement_that_fails_leaves_no_bundle_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(compress, "_judged", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compress.run(asked(tmp_path))
    assert files(tmp_path) == before


def test_what_cannot_be_compressed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"there is no bundle in .*; run `millrace train` first"):
        compress.run(asked(tmp_path))
    bundle = run_of(tmp_path, settings={"task": "fraud"})
    with pytest.raises(BundleError, match=rf"judges by the task 'recommend'; .*'{bundle.name}' is of the task 'fraud'"):
        compress.run(asked(tmp_path))
    place = str(bundle.path)
    with pytest.raises(SettingsError, match=rf"compress.publish is of the last .* names '{place}': leave one"):
        compress.run(asked(tmp_path, bundle=place, publish=True))
    with pytest.raises(SettingsError, match=r"compress.method=none is of the last trained bundle"):
        compress.run(asked(tmp_path, bundle=place, method="none"))
    other = tmp_path / "other"
    run_of(other)
    monkeypatch.setattr(compress, "_judged", planted(1.0))
    small = compress.run(asked(other))["compressed"]
    with pytest.raises(BundleError, match=rf"'{small}' is compressed already; name the one"):
        compress.run(asked(other, bundle=str(other / "bundles" / small)))
    weights = trained_bundle(str(other)) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"is torn: weights.safetensors has"):
        compress.run(asked(other))


@pytest.mark.parametrize("share", ["0", "1.01", "-1"])
def test_a_share_outside_0_to_1_is_refused(share: str) -> None:
    with pytest.raises(SettingsError, match=rf"compress.least_share.*{share}"):
        load_settings(flags=[f"compress.least_share={share}"])


@pytest.mark.parametrize(("is_lower", "share"), [(False, 0.8), (True, 1.25)])
def test_a_share_is_of_what_was_whichever_way_is_better(is_lower: bool, share: float) -> None:
    models = {"millrace": {"m": {"value": 0.5}}, "b": {"m": {"value": 0.4}}}
    protocol = {"models": models, "differences": {"b": {"m": {"value": 0.1, "low": -0.2, "high": 0.3}}}}
    found = compress.compared(protocol, "m", "b", is_lower=is_lower)
    assert found["share"] == pytest.approx(share)
    assert found["difference"] == {"value": -0.1, "low": -0.3, "high": 0.2}
    models["millrace"]["m"], models["b"]["m"] = {"value": 0.0}, {"value": 0.0}
    assert compress.compared(protocol, "m", "b", is_lower=is_lower)["share"] == 1.0
