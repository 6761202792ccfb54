"""One batch's loss and gradients: seeded, in the precision asked for, compiled where that works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from training.batch import Batch, batch_size
from training.errors import TrainingError
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

    Args:
        model: on its device; `loss(batch, generator)` gives the sum of the losses and of the weights, in float32.
        settings: precision and compile.
        world: the ranks, which agree.
        say: gets warnings.
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
        self._untried = settings.compile

    def __call__(self, batch: Batch, seed: int) -> Tensor:
        """Add the gradients of this batch's loss sum to `.grad`.

        Args:
            batch: on the model's device.
            seed: of all that is drawn at random.

        Returns:
            (2,) float64, on the device: the sum of the losses and of the weights.

        Raises:
            TrainingError: the model sums its losses in half precision.
        """
        if self._untried:
            self._try(batch, seed)
        return self._run(batch, seed)

    def _run(self, batch: Batch, seed: int) -> Tensor:
        self._generator.manual_seed(seed)
        self._layers_generator.manual_seed(seed)
        with self._parts(), few_rows(self._model, batch_size(batch)):
            with self._precision():
                loss, weight = self._model.loss(batch, self._generator)  # type: ignore[operator]
            if loss.dtype.itemsize < 4:
                raise TrainingError(
                    f"a model must sum its losses in float32; {type(self._model).__name__}.loss gave a sum in "
                    f"{str(loss.dtype)[6:]}; sum losses.float() there"
                )
            if loss.requires_grad:
                loss.backward()
        return torch.stack([value.detach().to(self.device, torch.float64) for value in (loss, weight)])

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def _try(self, batch: Batch, seed: int) -> None:
        """Compile and run once, leaving nothing behind; where a rank cannot, no rank goes on compiled."""
        self._untried, reason = False, ""
        if batch_size(batch):
            buffers = [buffer.clone() for buffer in self._model.buffers()]
            try:
                self._run(batch, seed)
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
                "as exact, but slower than fp32; use fp32 there"
            )


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
