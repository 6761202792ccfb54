"""Precision and compiling: what is computed, what is said where it cannot be, and that ranks agree on it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cluster.launch import launch
from tests.training import tiny
from training.batch import Batch
from training.errors import TrainingError
from training.fit import Event, FitSettings, fit
from training.step import compute as compute_module
from training.step.compute import Compute
from training.watch.record import read_record
from training.world import World

FIT: dict[str, Any] = {"epochs": 2, "batch_size": 24, "seed": 5}


def _fit(model: nn.Module, *, folder: Any = None, **settings: Any) -> tuple[float, list[str]]:
    """The final loss and the warnings."""
    events: list[Event] = []
    loader = tiny.TinyLoader(tiny.rows(100), 24, World())
    told = {"report": events.append, "checkpoint_dir": None if folder is None else str(folder)}
    result = fit(model, loader, FitSettings.model_validate({**FIT, **settings}), world=World(), **told)  # type: ignore[arg-type]
    return result.final_loss, [event.message for event in events if event.kind == "warning"]


class Dense(nn.Module):
    """One product, whose type it keeps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 1)
        self.types: set[torch.dtype] = set()

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        hidden = self.layer(torch.randn(100, 64, generator=generator))
        self.types.add(hidden.dtype)
        return hidden.float().square().sum(), torch.tensor(100.0)


class HalfSum(Dense):
    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        loss, weight = super().loss(batch, generator)
        return loss.bfloat16(), weight


def test_bf16_is_for_products_and_sums_stay_float32() -> None:
    figures, types, gradients = [], [], []
    for precision in ("fp32", "bf16"):
        model = Dense()
        compute = Compute(model, FitSettings.model_validate({"precision": precision}), World(), lambda _: None)
        figures.append(compute([tiny.rows(4)], [3]))
        types.append(model.types)
        gradients.append(model.layer.weight.grad)
    assert types == [{torch.float32}, {torch.bfloat16}]
    assert [sums.dtype for sums in figures] == [torch.float64] * 2
    assert not torch.equal(*figures)
    assert gradients[1].dtype == torch.float32
    torch.testing.assert_close(figures[0], figures[1], rtol=0.02, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.05, atol=0.05 * float(gradients[0].abs().max()))


def test_bf16_trains_and_repeats_itself() -> None:
    (exact, _), (first, _), (again, _) = (_fit(tiny.TinyModel(), precision=kind) for kind in ("fp32", "bf16", "bf16"))
    assert first == again != exact
    assert first == pytest.approx(exact, rel=0.01)


def test_a_half_precision_sum_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"HalfSum\.loss gave a sum in bfloat16; sum losses\.float\(\)"):
        _fit(HalfSum(), precision="bf16")


def test_bf16_without_hardware_is_said_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(compute_module, "fast_bf16", lambda _: True)
    with_hardware, silent = _fit(tiny.TinyModel(), precision="bf16")
    monkeypatch.setattr(compute_module, "fast_bf16", lambda _: False)
    without, warnings = _fit(tiny.TinyModel(), precision="bf16", folder=tmp_path)
    assert without == with_hardware
    assert silent == []
    assert "training.precision is bf16, which rank 0 computes without hardware for it" in warnings[0]
    assert [line["message"] for line in read_record(tmp_path) if line["kind"] == "warning"] == warnings


@pytest.fixture
def quick_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without generating code, which takes a second instead of a minute."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


class Counting(tiny.TinyModel):
    """Counts the calls of what is compiled and of what is not; a buffer moves with each loss."""

    COMPILED = ("scores",)

    def __init__(self) -> None:
        super().__init__(dropout=0.2, noise=0.1)
        self.register_buffer("losses", torch.zeros(()))
        self.compiling: list[bool] = []

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.losses += 1
        self.compiling.append("scores" in vars(self))
        self.scores(self.layer.weight)
        return super().loss(batch, generator)

    def scores(self, weight: Tensor) -> Tensor:
        return weight.square()


@pytest.mark.usefixtures("quick_compiler")
def test_compiled_parts_are_used_and_change_nothing() -> None:
    plain, model = Counting(), Counting()
    eager, _ = _fit(plain)
    compiled, warnings = _fit(model, compile=True)
    assert (compiled, warnings) == (eager, [])
    assert (all(model.compiling), any(plain.compiling)) == (True, False)
    assert len(model.compiling) == len(plain.compiling) + 1  # the trial, which leaves the buffer as it was
    assert torch.equal(model.losses, plain.losses)
    assert "scores" not in vars(model)


def test_a_compiler_that_fails_is_said_once_and_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def broken(function: Any, dynamic: bool) -> Any:
        def call(*arguments: Any) -> None:
            raise RuntimeError("no compiler was planted\nand more")

        return call

    eager, _ = _fit(tiny.TinyModel(dropout=0.2))
    monkeypatch.setattr(torch, "compile", broken)
    loss, warnings = _fit(tiny.TinyModel(dropout=0.2), compile=True, folder=tmp_path)
    assert loss == eager
    assert warnings == [
        "training.compile: the model could not be compiled and is trained as it is "
        "(rank 0: RuntimeError: no compiler was planted)"
    ]
    assert [line["message"] for line in read_record(tmp_path) if line["kind"] == "warning"] == warnings


class Shifting(tiny.TinyModel):
    """Gives the compiler something new to specialise on in each call."""

    COMPILED = ("shifted",)

    def __init__(self) -> None:
        super().__init__()
        self.word = ""

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.word += "x"
        loss, weight = super().loss(batch, generator)
        return self.shifted(loss), weight

    def shifted(self, loss: Tensor) -> Tensor:
        return loss * (1.0 if self.word.endswith("x") else 0.0)


@pytest.mark.usefixtures("quick_compiler")
def test_compiling_for_ever_ends_and_is_said_once() -> None:
    eager, _ = _fit(tiny.TinyModel())
    with torch._dynamo.config.patch(recompile_limit=3):
        loss, warnings = _fit(Shifting(), compile=True)
    assert loss == eager
    assert len(warnings) == 1
    assert "part of the model is compiled no more" in warnings[0]
    assert "recompile_limit (3)" in warnings[0]


def test_where_one_rank_cannot_compile_none_does() -> None:
    found = launch("tests.training.tiny:compile_on_ranks", {"settings": FIT}, ranks=2, timeout_s=100)
    assert found["warnings"] == [
        "training.compile: the model could not be compiled and is trained as it is "
        "(rank 1: RuntimeError: planted on rank 1)"
    ]
    assert found["compiled_calls"] == [1, 1]  # each rank's trial, and nothing after it


class Sized(tiny.TinyModel):
    """Compiles one product over batches of several sizes."""

    COMPILED = ("pulled",)

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        loss, weight = super().loss(batch, generator)
        return loss + self.pulled(self.layer(self.users(batch["user"]))), weight

    def pulled(self, hidden: Tensor) -> Tensor:
        return (hidden @ hidden.T).square().logsumexp(1).sum()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_real_compiler_agrees_and_does_not_compile_for_ever() -> None:
    torch.compiler.reset()
    eager, _ = _fit(Sized())
    loss, warnings = _fit(Sized(), compile=True)
    assert loss == pytest.approx(eager, rel=1e-4)
    assert warnings == []
