"""What a training says of its pace."""

from __future__ import annotations

import math

import pytest

from training.errors import TrainingError
from training.state import progress
from training.state.progress import Meter, Progress
from training.world import World


def test_the_time_left_is_by_the_mean_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    meter = Meter(World(), steps_in_all=100, step=20)
    left = []
    for step, seconds in ((30, 10.0), (40, 10.0), (41, 30.0)):  # one step takes thirty times as long as the others
        clock[0] += seconds
        left.append(meter.read(step)["seconds_left"])
    assert left == pytest.approx([70.0, 60.0, 59 * 50 / 21])
    assert math.isnan(Meter(World(), 100, 20).read(20)["seconds_left"])


def test_an_epoch_without_a_weight_ends_the_training() -> None:
    with pytest.raises(TrainingError, match=r"must have weights above 0; those of epoch 0 add up to 0.*half_life_days"):
        Progress().end_epoch({}, "loss", "min")
