"""Which device a rank takes, and batches that travel one ahead without moving the loader's position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training import tiny
from training.batch import Batch, Ragged
from training.errors import SettingsError
from training.fit import FitSettings, fit
from training.step.compute import Compute
from training.step.device import Feed, StreamCopier, pick_device, sum_in_order
from training.step.sync import Synchroniser, Totals
from training.world import World

CPU = torch.device("cpu")


class _Ranks(World):
    """One of ranks that see planted GPUs, and have NCCL or not."""

    def __init__(self, *ranks: tuple[str, bool], rank: int = 0) -> None:
        self._ranks, self.rank = [[list(gpus), nccl] for gpus, nccl in ranks], rank

    def all_gather_object(self, value: Any) -> list[Any]:
        return self._ranks


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([("", True)], "rank 0 sees no GPU"),
        ([("a", True), ("", True)], "rank 1 sees no GPU"),
        ([("a", True), ("a", True)], "the 1 that rank 1 sees are other ranks'; run fewer ranks on its host"),
        ([("ab", False), ("ab", False)], "Horovod on rank 0 was built without NCCL; install with `make install GPU=1`"),
    ],
)
def test_a_gpu_that_cannot_be_had_is_an_error_or_said(ranks: list[tuple[str, bool]], words: str) -> None:
    with pytest.raises(SettingsError, match=f"training.device is 'cuda', and .*{words}"):
        pick_device("cuda", _Ranks(*ranks))
    device, why = pick_device("auto", _Ranks(*ranks))
    assert device == CPU
    assert (words in why) == any(gpus for gpus, _ in ranks)  # where there is none at all, nothing is to be said


@pytest.mark.parametrize(
    ("seen", "numbers"),
    [
        (["ab", "ab"], [0, 1]),  # a host's ranks see all of its GPUs
        (["a", "b"], [0, 0]),  # each sees its own alone, as executors do
        (["ab", "ab", "cd", "cd"], [0, 1, 0, 1]),  # two hosts
        (["ab", "bc", "b"], [0, 1, None]),
    ],
)
def test_each_rank_takes_a_gpu_that_no_other_has(
    seen: list[str], numbers: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    here = ""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=here[number]))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(here))
    for rank, gpus in enumerate(seen):
        here = gpus
        world = _Ranks(*((one, True) for one in seen), rank=rank)
        expected = CPU if None in numbers else torch.device("cuda", numbers[rank])
        assert pick_device("cpu", world) == (CPU, "")
        assert pick_device("auto", world)[0] == expected


class _Copier:
    """Copies on the CPU and keeps a log."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self, batch: Batch) -> Batch:
        self.log.append("start")
        return {name: value.clone() for name, value in batch.items()}  # type: ignore[union-attr]

    def finish(self, batch: Batch) -> None:
        self.log.append("finish")


def _loader() -> tiny.TinyLoader:
    return tiny.TinyLoader(tiny.rows(60), 24, World())


def test_one_batch_is_ahead_and_the_position_is_not() -> None:
    copier = _Copier()
    plain, ahead = Feed(_loader(), CPU), Feed(_loader(), CPU, copier)
    plain_epoch, ahead_epoch = plain.epoch(1), ahead.epoch(1)
    for step in range(1, 4):
        mine, other = next(ahead_epoch), next(plain_epoch)
        assert copier.log.count("start") == copier.log.count("finish") == step  # none before this one is launched
        ahead.fetch()
        ahead.fetch()
        assert copier.log.count("start") == min(3, step + 1)
        assert all(torch.equal(mine[name], other[name]) for name in other)  # type: ignore[arg-type]
        assert ahead.state_dict() == plain.state_dict() == {"epoch": 1, "step": step}
    assert next(ahead_epoch, None) is None
    ahead.fetch()
    plain.fetch()


def test_on_the_cpu_batches_are_the_loaders_own() -> None:
    loader = _loader()
    batches = iter([{"a": torch.ones(1)}])
    loader.epoch = lambda _: batches  # type: ignore[method-assign,assignment,return-value]
    assert Feed(loader, CPU).epoch(0) is batches


def test_a_training_cut_with_a_batch_ahead_ends_like_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: dict[str, Any] = {"settings": {"batch_size": 24, "epochs": 2, "checkpoint_every_steps": 4, "seed": 5}}
    unbroken = tiny.train(spec, World())
    monkeypatch.setattr("training.loop.Feed", lambda loader, device: Feed(loader, device, _Copier()))

    def cut(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.loop.check_skipped", cut)
        broken = tiny.Poisoned({6})
        broken.load_state_dict(tiny.TinyModel().state_dict())
        settings = FitSettings(**spec["settings"])
        loader = tiny.TinyLoader(tiny.rows(200), 24, World())
        with pytest.raises(KeyboardInterrupt):
            fit(broken, loader, settings, world=World(), checkpoint_dir=str(tmp_path))
    assert tiny.train({**spec, "folder": str(tmp_path)}, World()) == unbroken


def test_the_next_batch_is_fetched_between_a_steps_launch_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    log = list[str]()

    class Logged(_Copier):
        def start(self, batch: Batch) -> Batch:
            log.append("start")
            return super().start(batch)

    def launched(self: Compute, batch: Batch, seed: int) -> torch.Tensor:
        log.append("launch")
        return compute(self, batch, seed)

    def synchronised(self: Synchroniser, *given: Any, **named: Any) -> Totals:
        log.append("sync")
        return synchronise(self, *given, **named)

    compute, synchronise = Compute.__call__, Synchroniser.synchronise
    monkeypatch.setattr("training.loop.Feed", lambda loader, device: Feed(loader, device, Logged()))
    monkeypatch.setattr(Compute, "__call__", launched)
    monkeypatch.setattr(Synchroniser, "synchronise", synchronised)
    result = fit(tiny.TinyModel(), _loader(), FitSettings(batch_size=24), world=World())
    assert result.steps == 3
    assert log == ["start", *["launch", "start", "sync"] * 2, "launch", "sync"]


def test_float32_products_are_as_exact_as_asked_for_while_a_training_lasts() -> None:
    before, seen = torch.get_float32_matmul_precision(), list[str]()

    class Looking(tiny.TinyModel):
        def loss(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(torch.get_float32_matmul_precision())
            return super().loss(batch, generator)

    for changes in ({}, {"matmul_precision": "high"}):
        settings = FitSettings.model_validate({"batch_size": 24, **changes})
        fit(Looking(), _loader(), settings, world=World())
        assert settings.identity() == {**FitSettings(batch_size=24).identity(), **changes}
    assert seen == ["highest"] * 3 + ["high"] * 3
    assert torch.get_float32_matmul_precision() == before


gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")


@gpu
@needs_gpu
def test_batches_arrive_on_the_gpu_whole() -> None:
    device = torch.device("cuda", 0)
    rows = [{"x": torch.randn(1000, 64), "r": Ragged(torch.arange(9), torch.tensor([0, 4, 9]))} for _ in range(20)]

    class Fixed:
        epoch: Callable[[int], Any] = staticmethod(lambda _: iter(rows))
        state_dict = staticmethod(dict)

    for mine, other in zip(Feed(Fixed(), device, StreamCopier(device)).epoch(0), rows, strict=True):
        assert mine["x"].device == device  # type: ignore[union-attr]
        assert torch.equal(mine["x"].cpu(), other["x"])  # type: ignore[union-attr,arg-type]
        assert torch.equal(mine["r"].values.cpu(), other["r"].values)  # type: ignore[union-attr]


@gpu
@needs_gpu
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"dense_optimizer": "lamb"}])
def test_a_gpu_trains_like_the_cpu_and_resumes(changes: dict[str, str], tmp_path: Path) -> None:
    settings = FitSettings.model_validate({"batch_size": 24, "epochs": 2, "seed": 5, **changes})
    losses = []
    for device, folder in (("cpu", None), ("cuda", None), ("cuda", str(tmp_path))):
        for epochs in (1, 2) if folder else (2,):
            model = tiny.TinyModel().to(device)
            now = settings.model_copy(update={"epochs": epochs})
            result = fit(model, _loader(), now, world=World(), checkpoint_dir=folder)
        losses.append(result.final_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02 if "precision" in changes else 1e-3)
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)


def test_several_threads_sum_in_the_same_order_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million gradients into a hundred rows, which otherwise is a race between the threads."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(False)  # a training in this process may have asked for it
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(100, (1_000_000,), generator=generator)
    values = torch.randn(1_000_000, generator=generator)
    try:
        torch.set_num_threads(1)
        sum_in_order(CPU)
        assert not torch.are_deterministic_algorithms_enabled(), "one thread has one order"
        torch.set_num_threads(4)
        sum_in_order(torch.device("cuda"))
        assert not torch.are_deterministic_algorithms_enabled()
        sum_in_order(CPU)
        sums = [torch.zeros(100).index_put((rows,), values, accumulate=True) for _ in range(10)]
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    assert all(torch.equal(total, sums[0]) for total in sums)
