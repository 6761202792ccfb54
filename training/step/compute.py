"""One batch's loss and gradients: seeded, in the precision asked for, compiled where that works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from training.batch import Batch, batch_size
from training.errors import TrainingError
from training.parts import Part
from training.step.buffers import few_rows
from training.step.device import fast_bf16
from training.world import World

_DYNAMO_LOG = "torch._dynamo.convert_frame"  # says there, and only there, that a function is compiled no more


class ComputeSettings(Protocol):
    """The part of `training.fit.FitSettings` that concerns how a loss is computed."""

    @property
    def precision(self) -> Literal["fp32", "bf16"]: ...
    @property
    def compile(self) -> bool: ...


class Compute:
    """Computes a model's loss sums and adds up their gradients.

    bf16 is autocast: products in bfloat16, weights and sums in float32. A device that lacks it computes the same
    numbers slowly, so the precision stays what the settings, and with them the checkpoint, say; a warning tells.

    A compiled model is tried with the first batch, forward and backward, and where that fails on any rank all ranks go
    on uncompiled, with a warning that has the reason. What is compiled is what the model names in COMPILED, else its
    loss; shapes are dynamic, so that batches of any size are compiled for once.

    A loss of parts (training/parts.py) has a denominator for each, which no rank knows before all have computed theirs:
    then the ranks meet between the forward and the backward pass, in one small sum, and the graphs of all batches of a
    step are held until then, so that `accumulate` saves no memory.

    Args:
        model: on its device; `loss(batch, generator)` gives the sum of the losses and of the weights, in float32, or
            parts of them.
        settings: precision and compile.
        world: the ranks, which agree.
        say: gets warnings.

    Attributes:
        parts: name -> [loss, weight, share] of the last step, over all ranks; none where the loss has no parts.
    """

    def __init__(self, model: nn.Module, settings: ComputeSettings, world: World, say: Callable[[str], None]) -> None:
        self._model, self._world, self._say = model, world, say
        self.device = next(parameter for parameter in model.parameters() if parameter.requires_grad).device
        self._generator = torch.Generator(self.device)
        self._layers_generator = (  # what layers draw from; torch.manual_seed would seed every device, slowly
            torch.cuda.default_generators[self.device.index or 0]
            if self.device.type == "cuda"
            else torch.default_generator
        )
        self._bf16 = settings.precision == "bf16"
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._limit = _LimitWatch(say)
        if self._bf16:
            self._warn_where_slow()
        if settings.compile:
            names = getattr(model, "COMPILED", ("loss",))
            self._compiled = {name: torch.compile(getattr(model, name), dynamic=True) for name in names}
        self._untried = bool(self._compiled)
        self.parts: dict[str, list[float]] = {}
        self._names: list[str] = []

    def __call__(self, batches: Sequence[Batch], seeds: Sequence[int]) -> Tensor:
        """Add the gradients of a step's loss sum to `.grad`.

        Args:
            batches: the step's, on the model's device.
            seeds: of all that is drawn at random, one a batch.

        Returns:
            (2,) float64: this rank's sum of the losses and of the weights. On the device, not waited for, where the
            loss has no parts; where it has, the losses are scaled so that all ranks' losses over all ranks' weights
            are the weighted sum of the parts' means.

        Raises:
            TrainingError: the model sums its losses in half precision, or names other parts than before.
        """
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        held: list[Mapping[str, Part]] = []
        for batch, seed in zip(batches, seeds, strict=True):
            if self._untried:
                self._try(batch, seed)
            done = self._run(batch, seed)
            if isinstance(done, Tensor):
                sums += done
            else:
                held.append(done)
        return self._run_parts(held) if held else sums

    def _run_parts(self, held: Sequence[Mapping[str, Part]]) -> Tensor:
        """Backward from the parts of a step's batches, each divided by its weight over all ranks and batches."""
        self._check_names(held)
        mine = sum(_figures(parts) for parts in held)
        assert isinstance(mine, Tensor)
        total = self._world.all_reduce_sum(mine, "loss parts")
        shares = [part.share for part in held[0].values()]
        self.parts = {
            name: [*figures, share] for name, figures, share in zip(self._names, total.tolist(), shares, strict=True)
        }
        every = float(total[:, 1].sum())
        factors = [share * every / weight if weight > 0 else 0.0 for _, weight, share in self.parts.values()]
        for parts in held:
            self._backward([part.loss * factor for part, factor in zip(parts.values(), factors, strict=True)])
        scaled = mine[:, 0] @ torch.tensor(factors, dtype=torch.float64)
        return torch.stack([scaled, mine[:, 1].sum()])

    def _check_names(self, held: Sequence[Mapping[str, Part]]) -> None:
        if not self._names:
            names = [list(parts) for parts in self._world.all_gather_object(list(held[0]))]
            self._names = names[0]
        else:
            names = []
        wrong = next((found for found in [*names, *map(list, held)] if found != self._names or not found), None)
        if wrong is not None:
            raise TrainingError(
                f"{type(self._model).__name__}.loss must give the same parts, in the same order, for every batch on "
                f"every rank; it gave {self._names} and {wrong}; give a part of no rows as a loss and a weight of 0"
            )

    @staticmethod
    def _backward(losses: Sequence[Tensor]) -> None:
        loss: Any = torch.stack(list(losses)).sum()
        if loss.requires_grad:
            loss.backward()

    def _run(self, batch: Batch, seed: int) -> Tensor | Mapping[str, Part]:
        """Forward and backward; of a loss in parts forward alone."""
        self._generator.manual_seed(seed)
        self._layers_generator.manual_seed(seed)
        with self._parts(), few_rows(self._model, batch_size(batch)):
            with self._precision():
                found = self._model.loss(batch, self._generator)  # type: ignore[operator]
            if isinstance(found, Mapping):
                for part in found.values():
                    self._check_type(part.loss)
                return found
            loss, weight = found
            self._check_type(loss)
            if loss.requires_grad:
                loss.backward()
        return torch.stack([value.detach().to(self.device, torch.float64) for value in (loss, weight)])

    def _check_type(self, loss: Tensor) -> None:
        if loss.dtype.itemsize < 4:
            raise TrainingError(
                f"a model must sum its losses in float32; {type(self._model).__name__}.loss gave a sum in "
                f"{str(loss.dtype)[6:]}; sum losses.float() there"
            )

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def _try(self, batch: Batch, seed: int) -> None:
        """Compile and run once, leaving nothing behind; where a rank cannot, no rank goes on compiled."""
        self._untried, reason = False, ""
        if batch_size(batch):
            buffers = [buffer.clone() for buffer in self._model.buffers()]
            try:
                done = self._run(batch, seed)
                if not isinstance(done, Tensor):
                    self._backward([part.loss for part in done.values()])
            except Exception as error:  # whatever the compiler and what it calls may raise
                reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            for buffer, before in zip(self._model.buffers(), buffers, strict=True):
                buffer.copy_(before)
            self._model.zero_grad(set_to_none=True)
        reasons = [f"rank {rank}: {text}" for rank, text in enumerate(self._world.all_gather_object(reason)) if text]
        if reasons:
            self._compiled = {}
            self._say(f"training.compile: the model could not be compiled and is trained as it is ({reasons[0]})")

    @contextmanager
    def _parts(self) -> Iterator[None]:
        """The compiled functions in the place of the model's own, as long as the loss is computed."""
        if not self._compiled:
            yield
            return
        held = vars(self._model)
        before = {name: held[name] for name in self._compiled if name in held}
        held.update(self._compiled)
        logger = logging.getLogger(_DYNAMO_LOG)
        logger.addHandler(self._limit)
        try:
            yield
        finally:
            logger.removeHandler(self._limit)
            for name in self._compiled:
                del held[name]
            held.update(before)

    def _warn_where_slow(self) -> None:
        slow = [rank for rank, fast in enumerate(self._world.all_gather_object(fast_bf16(self.device))) if not fast]
        if slow:
            self._say(
                f"training.precision is bf16, which rank {', '.join(map(str, slow))} computes without hardware for it: "
                "as exact, but slower than fp32, on a CPU up to five times; set training.precision to fp32 there"
            )


def _figures(parts: Mapping[str, Part]) -> Tensor:
    """(parts, 2) float64 on the CPU: loss and weight."""
    rows = [torch.stack([value.detach().double() for value in (part.loss, part.weight)]) for part in parts.values()]
    return torch.stack(rows).cpu() if rows else torch.zeros(0, 2, dtype=torch.float64)


class _LimitWatch(logging.Handler):
    """Says once that torch gave up compiling anew for ever new sizes: it goes on with what it had, or uncompiled."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say, self._said = say, False

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(line.strip() for line in record.getMessage().splitlines()[:3])
        if "recompile_limit" in text and not self._said:
            self._said = True
            self._say(f"training.compile: part of the model is compiled no more and runs as it is ({text})")
