"""The loop: the same seed gives the same bits, a cut run ends like an unbroken one, ranks end like one process."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cluster.errors import LaunchError, RankLostError
from cluster.launch import launch
from cluster.leaving import passing_on
from tests.training import tiny
from training.errors import CheckpointError, PreemptedError, SettingsError, TrainingError
from training.fit import Event, FitSettings, Pruned, fit
from training.parts import Part
from training.preemption import Notice
from training.state.checkpoint import Checkpoints
from training.step.compute import Compute
from training.watch.record import read_record
from training.world import World

SETTINGS = {"epochs": 3, "batch_size": 24, "seed": 5, "warmup_steps": 3, "clip_norm": 1.0, "weight_decay": 0.01}
SPEC: dict[str, Any] = {"settings": {**SETTINGS, "checkpoint_every_steps": 4}, "dropout": 0.2, "noise": 0.1}
NORM: dict[str, Any] = {**SPEC, "norm": True, "validate": True, "rows": 97}  # the last step is of one row, on rank 0
EVEN: dict[str, Any] = {"settings": SETTINGS}  # nothing drawn at random by the model
HEADS: dict[str, Any] = {"settings": {**SETTINGS, "report_every_s": 0.0, "checkpoint_every_steps": 4}, "heads": True}
SPARSE_ADAM: dict[str, Any] = {"settings": {**SETTINGS, "embedding_optimizer": "sparse_adam"}}


def _train(**changes: Any) -> dict[str, Any]:
    return tiny.train({**SPEC, **changes}, World())


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Several trainings on two ranks, in one launch; `test_world_sizes.py` has the other sizes."""
    specs = {
        "even": EVEN,
        "sparse_adam": SPARSE_ADAM,
        "heads": HEADS,
        "first": SPEC,
        "norm": {**NORM, "folder": str(tmp_path_factory.mktemp("norm"))},
        "norm_cut": {**NORM, "folder": (cut := str(tmp_path_factory.mktemp("norm_cut"))), "prune": "checkpoint"},
        "norm_on": {**NORM, "folder": cut},
        "again": {**SPEC, "folder": str(tmp_path_factory.mktemp("again"))},
        "pruned": {**SPEC, "prune": "progress", "settings": {**SETTINGS, "report_every_s": 0.0}},
        "pruned_at_epoch": {**SPEC, "prune": "epoch"},
        "best": {**SPEC, "validate": True, "settings": {**SETTINGS, "metric": "validation_loss"}},
        "fp16": {"settings": {**SETTINGS, "compression": "fp16"}},
    }
    return launch("tests.training.tiny:train_each", specs, ranks=2, timeout_s=200)


def test_world_sizes_agree_within_rounding(on_ranks: dict[str, Any]) -> None:
    for name, spec in (("even", EVEN), ("sparse_adam", SPARSE_ADAM)):
        alone, many = tiny.train(spec, World()), on_ranks[name]
        assert many["steps"] == alone["steps"]
        assert many["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert many["weights"] == pytest.approx(alone["weights"], rel=1e-4)
    assert on_ranks["fp16"]["loss"] == pytest.approx(on_ranks["even"]["loss"], rel=1e-2)


def test_same_seed_same_bits_on_ranks(on_ranks: dict[str, Any]) -> None:
    assert on_ranks["first"] == on_ranks["again"]


def test_running_statistics_are_one_for_all_ranks_and_go_on(on_ranks: dict[str, Any]) -> None:
    """`tiny.train` has compared the ranks' buffers."""
    assert on_ranks["norm"]["steps"] == 3 * 5
    assert on_ranks["norm_cut"] == {"pruned": ["planted", "stopped by rank 0"]}
    assert on_ranks["norm_on"] == on_ranks["norm"]


def test_a_tail_of_one_row_is_trained_by_running_statistics() -> None:
    """And an empty batch, and both leave the statistics alone."""
    model, world = tiny.TinyModel(norm=True), World()
    compute = Compute(model, FitSettings(), world, print)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for rows in (1, 0):
        assert float(compute([tiny.rows(rows)], [1])[1]) >= 0
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
    assert model.layer.weight.grad.any()
    assert model.norm.training
    compute([tiny.rows(2)], [1])
    assert not torch.equal(model.norm.running_mean, before["norm.running_mean"])


def test_a_batch_norm_without_running_statistics_is_refused() -> None:
    model, world = tiny.TinyModel(), World()
    model.norm = nn.BatchNorm1d(8, track_running_stats=False)
    with pytest.raises(SettingsError, match=r"'norm' has track_running_stats=False; set it to True"):
        fit(model, tiny.TinyLoader(tiny.rows(30), 24, world), FitSettings(), world=world)


def test_pruning_is_agreed(on_ranks: dict[str, Any]) -> None:
    for name in ("pruned", "pruned_at_epoch"):
        assert on_ranks[name] == {"pruned": ["planted", "stopped by rank 0"]}
    assert len(on_ranks["best"]["history"]) == 3


def test_accumulated_batches_are_one_step() -> None:
    accumulated = tiny.train({"settings": {**SETTINGS, "accumulate": 3}}, World())
    plain = tiny.train(EVEN, World())
    assert accumulated["steps"] == plain["steps"]
    assert accumulated["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_each_part_of_a_loss_has_its_own_mean() -> None:
    """And the gradient is that of the weighted sum of the means, over the batches of a step together."""
    model, other, whole = tiny.Heads(), tiny.Heads(), tiny.rows(40)
    batches = [{name: column[part] for name, column in whole.items()} for part in (slice(7), slice(7, 40))]
    compute = Compute(model, FitSettings(), World(), print)
    loss, weight = compute(batches, [1, 2]).tolist()
    parts = other.loss(whole, torch.Generator())
    means = {name: part.loss / part.weight for name, part in parts.items()}
    (means["all"] + 3 * means["bought"]).backward()
    means = {name: float(mean.detach()) for name, mean in means.items()}
    assert loss / weight == pytest.approx(means["all"] + 3 * means["bought"], rel=1e-6)
    for name, (total, count, share) in compute.parts.items():
        assert total / count == pytest.approx(means[name], rel=1e-6)
        assert share == parts[name].share
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        if twin.grad is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad.to_dense() / weight, twin.grad.to_dense())


def test_parts_of_a_loss_are_the_same_on_ranks_and_in_batches(on_ranks: dict[str, Any]) -> None:
    alone, many = tiny.train(HEADS, World()), on_ranks["heads"]
    accumulated = tiny.train({**HEADS, "settings": {**HEADS["settings"], "accumulate": 3}}, World())
    for entry, *others in zip(alone["history"], many["history"], accumulated["history"], strict=True):
        assert entry["loss"] == pytest.approx(entry["loss_all"] + 3 * entry["loss_bought"])
        assert all(other == pytest.approx(entry, rel=1e-4) for other in others)
    assert alone["history"][-1]["loss_bought"] < 0.9 * alone["history"][0]["loss_bought"]


def test_parts_of_a_loss_are_told_and_go_on(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoints")
    assert tiny.train({**HEADS, "folder": folder, "prune": "checkpoint"}, World()) == {"pruned": ["planted"]}
    assert tiny.train({**HEADS, "folder": folder}, World()) == tiny.train(HEADS, World())
    told = [line for line in read_record(folder) if line["kind"] in ("progress", "epoch")]
    assert len(told) > 2
    for line in told:
        values = line["values"]
        assert values["loss"] == pytest.approx(values["loss_all"] + 3 * values["loss_bought"])


@pytest.mark.parametrize(("calls", "steps"), [([["a"], ["a"], ["b"]], 3), ([["a"], ["a", "b"]], 2), ([[]], 1)])
def test_a_loss_that_changes_its_parts_is_refused(calls: list[list[str]], steps: int) -> None:
    model, names = tiny.TinyModel(), iter(calls)
    model.loss = lambda batch, _: {  # type: ignore[assignment,method-assign,misc]
        name: Part(model.layer.weight.sum(), batch["weight"].sum()) for name in next(names)
    }
    loader = tiny.TinyLoader(tiny.rows(24 * steps), 24, World())
    with pytest.raises(TrainingError, match=r"TinyModel\.loss must give the same parts.*a loss and a weight of 0"):
        fit(model, loader, FitSettings(batch_size=24), world=World())


def test_a_part_without_rows_counts_nothing() -> None:
    model, batch = tiny.Heads(), {**tiny.rows(8), "label": -torch.ones(8)}
    compute = Compute(model, FitSettings(), World(), print)
    loss, weight = compute([batch], [1]).tolist()
    alone = model.loss(batch, torch.Generator())["all"]
    assert loss / weight == pytest.approx(float((alone.loss / alone.weight).detach()), rel=1e-6)
    assert compute.parts["bought"] == [0.0, 0.0, 3.0]


@pytest.mark.parametrize("step", [3, 9, 14])
def test_killed_and_resumed_is_unbroken(step: int, tmp_path: Path) -> None:
    """9 steps an epoch, a checkpoint every 4: before the first one, at an epoch's last step, in mid-epoch."""
    kill = {"rank": 0, "step": step, "mark": str(tmp_path / "killed")}
    spec = {**SPEC, "folder": str(tmp_path / "checkpoints"), "kill": kill}
    code = f"from tests.training import tiny; from training.world import World; tiny.train({spec!r}, World())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert tiny.train(spec, World()) == _train()
    record = read_record(tmp_path / "checkpoints")
    assert [line["epoch"] for line in record if line["kind"] == "epoch"] == [0, 1, 2]
    assert [line["step"] for line in record] == sorted(line["step"] for line in record)


def test_a_cut_training_leaves_nothing_that_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Checkpoints._write_shared

    def slowly(*arguments: Any, **named: Any) -> None:
        time.sleep(0.3)
        write(*arguments, **named)

    monkeypatch.setattr(Checkpoints, "_write_shared", slowly)

    def interrupt(event: Event) -> None:
        if event.kind == "checkpoint":
            raise KeyboardInterrupt

    settings = FitSettings(batch_size=24, epochs=1, checkpoint_every_steps=2)
    loader = tiny.TinyLoader(tiny.rows(200), 24, World())
    with pytest.raises(KeyboardInterrupt):
        fit(tiny.TinyModel(), loader, settings, world=World(), checkpoint_dir=str(tmp_path), report=interrupt)
    assert "checkpoint" not in {thread.name for thread in threading.enumerate()}
    assert [path.name for path in tmp_path.glob("*step-*")] == ["step-000000002"]


def test_killed_rank_is_restarted_and_ends_unbroken(tmp_path: Path, on_ranks: dict[str, Any]) -> None:
    written = str(tmp_path / "checkpoints" / "step-000000012")
    kill = {"rank": 1, "step": 14, "mark": str(tmp_path / "killed"), "after": written}
    spec = {**SPEC, "folder": str(tmp_path / "checkpoints"), "kill": kill}
    lines: list[str] = []
    resumed = launch("tests.training.tiny:train", spec, ranks=2, restarts=1, timeout_s=100, log=lines.append)
    assert resumed == on_ranks["first"]
    assert any("rank 1 of 2 was killed by SIGKILL" in line and "(1 of at most 1 times)" in line for line in lines)
    resumed_at = [line for line in read_record(tmp_path / "checkpoints") if line["kind"] == "resume"]
    assert [line["step"] for line in resumed_at] == [12]


@pytest.mark.parametrize("midst", [False, True])
def test_a_checkpoint_past_the_epochs_asked_for_is_refused(midst: bool, tmp_path: Path) -> None:
    """After the third epoch, or in the midst of it: 9 steps an epoch."""
    spec: dict[str, Any] = {"settings": SETTINGS, "folder": str(tmp_path / "checkpoints")}
    if midst:
        asked = {"rank": 0, "step": 22, "mark": str(tmp_path / "asked"), "asked": "rank"}
        with pytest.raises(PreemptedError, match="ended after step 22 of 27"):
            tiny.train({**spec, "kill": asked}, World())
    else:
        tiny.train(spec, World())
    fewer = {**spec, "settings": {**spec["settings"], "epochs": 2}}
    with pytest.raises(CheckpointError, match=r"training\.epochs must be at least 3, .*; got 2; ask for as many"):
        tiny.train(fewer, World())


@pytest.mark.parametrize("with_folder", [True, False])
def test_one_that_is_asked_to_end_leaves_a_checkpoint_and_goes_on(with_folder: bool, tmp_path: Path) -> None:
    kill = {"rank": 0, "step": 14, "mark": str(tmp_path / "asked"), "asked": "rank"}
    spec = {**SPEC, "folder": str(tmp_path / "checkpoints") if with_folder else None, "kill": kill}
    kept = rf"its checkpoint is in '{spec['folder']}': start it again" if with_folder else "nothing of it is kept"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match=rf"asked to end \(SIGTERM\) and ended after step 14 of 27; {kept}"):
        tiny.train(spec, World())
    assert signal.getsignal(signal.SIGTERM) is before
    assert tiny.train(spec, World()) == _train()
    if with_folder:
        resumed_at = [line for line in read_record(tmp_path / "checkpoints") if line["kind"] == "resume"]
        assert [line["step"] for line in resumed_at] == [14]


@pytest.mark.parametrize("asked", ["rank", "launcher"])
def test_ranks_leave_together_and_are_not_started_again(asked: str, tmp_path: Path, on_ranks: dict[str, Any]) -> None:
    kill = {"rank": 1, "step": 14, "mark": str(tmp_path / "asked"), "asked": asked}
    spec = {**SPEC, "folder": str(tmp_path / "checkpoints"), "kill": kill}
    lines: list[str] = []
    with pytest.raises(
        LaunchError, match=r"the training was asked to end \(SIGTERM\) and ended after step 14"
    ) as caught:
        launch("tests.training.tiny:train", spec, ranks=2, restarts=1, timeout_s=100, log=lines.append)
    assert not isinstance(caught.value, RankLostError)
    assert getattr(caught.value, "asked_to_end", False) == (asked == "launcher")
    assert not any("starting all" in line for line in lines)
    if asked == "rank":
        assert launch("tests.training.tiny:train", spec, ranks=2, timeout_s=100) == on_ranks["first"]


def test_what_ends_well_all_the_same_is_ended_by_the_signal_after_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with Notice() as notice:
            signal.raise_signal(signal.SIGTERM)
            assert (notice.given, heard) == (True, [])
        assert heard == [signal.SIGTERM]
        with passing_on([]):
            signal.raise_signal(signal.SIGTERM)
            assert len(heard) == 1
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    spec = {**SPEC, "folder": str(tmp_path)}
    first = tiny.train(spec, World())
    assert tiny.train(spec, World()) == first
    longer = tiny.train({**spec, "settings": {**SPEC["settings"], "epochs": 4}}, World())
    assert longer["history"][:3] == first["history"]
    assert len(longer["history"]) == 4


def test_other_settings_do_not_go_on(tmp_path: Path) -> None:
    _train(folder=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"settings\.learning_rate is 0\.001 there and 0\.5 here"):
        _train(folder=str(tmp_path), settings={**SETTINGS, "learning_rate": 0.5})


class _Scripted:
    """Validation metrics in a given order; remembers the model's weights at each."""

    def __init__(self, *values: float) -> None:
        self.values, self.weights = list(values), []  # type: ignore[var-annotated]

    def __call__(self, model: tiny.TinyModel) -> dict[str, float]:
        self.weights.append(model.items.weight.clone())
        return {"recall": self.values[len(self.weights) - 1]}


@pytest.mark.parametrize("with_folder", [True, False])
def test_best_weights_are_left_and_patience_ends_it(with_folder: bool, tmp_path: Path) -> None:
    world, model, scripted = World(), tiny.TinyModel(), _Scripted(0.1, 0.3, 0.2, 0.3, 0.5)
    settings = FitSettings(
        epochs=5, batch_size=24, metric="recall", metric_mode="max", early_stopping_patience=2, keep_checkpoints=1
    )
    loader = tiny.TinyLoader(tiny.rows(100), 24, world)
    folder = str(tmp_path) if with_folder else None
    result = fit(model, loader, settings, world=world, checkpoint_dir=folder, validate=scripted)
    assert (result.epochs, result.best["epoch"], result.best["recall"]) == (4, 1, 0.3)
    assert torch.equal(model.items.weight, scripted.weights[1])


def test_weights_and_metrics_are_of_one_epoch_where_the_best_is_damaged(tmp_path: Path) -> None:
    world, model, scripted = World(), tiny.TinyModel(), _Scripted(0.1, 0.5, 0.3)
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if event.kind == "epoch" and event.epoch == 2:
            (tmp_path / f"step-{2 * event.step // 3:09d}" / "tensors.safetensors").write_bytes(b"torn")

    settings = FitSettings(epochs=3, batch_size=24, metric="recall", metric_mode="max")
    loader = tiny.TinyLoader(tiny.rows(100), 24, world)
    result = fit(model, loader, settings, world=world, checkpoint_dir=str(tmp_path), validate=scripted, report=report)
    assert (result.best["epoch"], result.best["recall"]) == (2, 0.3)
    assert torch.equal(model.items.weight, scripted.weights[2])
    damaged, gone = (line["message"] for line in read_record(tmp_path) if line["kind"] == "warning")
    assert "is damaged (tensors.safetensors has 4 bytes" in damaged
    assert "the best epoch was 2, but its checkpoint is damaged or gone" in gone
    assert "weights and metrics of the last, epoch 3" in gone


@pytest.mark.parametrize("calls", [{2}, {2, 7}])
def test_a_step_that_is_not_finite_is_skipped(calls: set[int]) -> None:
    events: list[Event] = []
    world = World()
    settings = FitSettings(epochs=2, batch_size=24, max_nonfinite_share=0.2)
    result = fit(
        tiny.Poisoned(calls), tiny.TinyLoader(tiny.rows(120), 24, world), settings, world=world, report=events.append
    )
    assert result.skipped == len(calls)
    assert [event.step for event in events if event.kind == "skipped"] == sorted(calls)
    assert result.final_loss == pytest.approx(result.final_loss)  # a number


def test_too_many_steps_that_are_not_finite_stop_it() -> None:
    world = World()
    settings = FitSettings(epochs=2, batch_size=24, max_nonfinite_share=0.2)
    with pytest.raises(TrainingError, match=r"at most 20\.00% of the 10 steps .*; 3 had, the last with loss nan"):
        fit(tiny.Poisoned({1, 2, 3}), tiny.TinyLoader(tiny.rows(120), 24, world), settings, world=world)


def test_an_unknown_metric_is_named() -> None:
    world = World()
    loader = tiny.TinyLoader(tiny.rows(30), 24, world)
    with pytest.raises(SettingsError, match="must be 'loss' where there is no validation; got 'recall'"):
        fit(tiny.TinyModel(), loader, FitSettings(metric="recall"), world=world)
    with pytest.raises(TrainingError, match="'recall' is not among epoch, loss, ndcg, step"):
        fit(tiny.TinyModel(), loader, FitSettings(metric="recall"), world=world, validate=lambda _: {"ndcg": 1.0})


def test_events_come_in_order_and_are_recorded(tmp_path: Path) -> None:
    events: list[Event] = []
    world = World()
    settings = FitSettings(epochs=1, batch_size=24, report_every_s=0.0, checkpoint_every_steps=2)
    fit(
        tiny.TinyModel(),
        tiny.TinyLoader(tiny.rows(60), 24, world),
        settings,
        world=world,
        checkpoint_dir=str(tmp_path),
        report=events.append,
    )
    kinds = ["start", "progress", "checkpoint", "progress", "progress", "epoch", "end"]
    assert [event.kind for event in events] == kinds
    assert [line["kind"] for line in read_record(tmp_path)] == kinds
    figures = {"loss", "samples_per_s", "wait_share", "comm_share", "seconds_left", "learning_rate"}
    assert set(events[1].values) == figures


def test_report_stops_one_process() -> None:
    world = World()

    def report(event: Event) -> None:
        if event.kind == "epoch" and event.epoch == 1:
            raise Pruned("planted")

    with pytest.raises(Pruned, match="planted"):
        fit(
            tiny.TinyModel(),
            tiny.TinyLoader(tiny.rows(60), 24, world),
            FitSettings(epochs=4, batch_size=24),
            world=world,
            report=report,
        )


def test_schedules_fall_from_the_warm_up_to_the_last_step() -> None:
    linear = FitSettings(warmup_steps=1, schedule="linear")
    assert [linear.rate(step, 5) for step in range(5)] == pytest.approx([0.5, 1.0, 0.75, 0.5, 0.25])
    cosine = FitSettings(warmup_steps=1, schedule="cosine")
    expected = [0.5, *((1 + math.cos(math.pi * done / 4)) / 2 for done in range(4))]
    assert [cosine.rate(step, 5) for step in range(5)] == pytest.approx(expected)
    assert FitSettings(warmup_steps=9, schedule="cosine").rate(4, 5) == 0.5
    assert "schedule" not in FitSettings.carried(FitSettings().model_dump())
    assert FitSettings.carried(cosine.model_dump())["schedule"] == "cosine"


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_goes_on_exactly_and_holds_its_epochs(schedule: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "schedule": schedule, "checkpoint_every_steps": 4, "report_every_s": 0.0}
    spec = {**SPEC, "settings": settings, "folder": str(tmp_path)}
    assert tiny.train({**spec, "prune": "checkpoint"}, World()) == {"pruned": ["planted"]}
    resumed = tiny.train(spec, World())
    assert resumed == _train(settings=settings)
    assert resumed["loss"] != _train()["loss"]
    rates = [line["values"]["learning_rate"] for line in read_record(tmp_path) if line["kind"] == "progress"]
    full = FitSettings.model_validate(settings)
    assert rates == [full.learning_rate * full.rate(step, 27) for step in range(27)]
    with pytest.raises(CheckpointError, match=r"settings\.epochs is 3 there and 4 here"):
        tiny.train({**spec, "settings": {**settings, "epochs": 4}}, World())


def test_rates_and_batches_follow_the_rules() -> None:
    settings = FitSettings(batch_size=4096, base_batch_size=1024, warmup_steps=3, scaling_rule="linear")
    assert [settings.rate(step, 5) for step in range(5)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    assert settings.model_copy(update={"scaling_rule": "sqrt"}).rate(9, 20) == 2.0
    assert settings.model_copy(update={"scaling_rule": "none"}).rate(9, 20) == 1.0
    assert settings.model_copy(update={"accumulate": 2}).rows_per_batch(4) == 512
    with pytest.raises(SettingsError, match=r"ranks x accumulate = 3 x 1; got 4096; use 4098"):
        settings.rows_per_batch(3)
