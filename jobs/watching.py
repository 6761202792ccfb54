"""Who watches a training: TensorBoard's files, MLflow, the study of a trial, the terminal. Imports no Spark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.watch.observers import Observers
    from training.watch.record import Event
    from training.world import World


def observers_of(spec: Mapping[str, Any], world: World) -> Observers:
    """Who watches, on rank 0; nobody elsewhere."""
    from jobs.console import warn
    from training.watch.observers import Mlflow, Observer, Observers, TensorBoard

    asked: Mapping[str, Any] = spec["observe"] if world.rank == 0 else {}
    observers: list[Observer] = []
    if asked.get("tensorboard"):
        observers.append(TensorBoard(asked["tensorboard"]))
    if asked.get("mlflow"):
        sections = {name: spec[name] for name in ("training", "model", "reader")}
        params = {f"{name}.{key}": value for name, values in sections.items() for key, value in values.items()}
        params |= {"task": spec["task"], "ranks": spec["ranks"], "device": spec["device"]}
        params |= {"examples_version": spec["tables"]["examples"]["version"]}
        observers.append(Mlflow(**asked["mlflow"], params=params, folder=spec["checkpoint_dir"]))
    return Observers(observers, warn, world)


def both(first: Callable[[Event], None], second: Callable[[Event], None]) -> Callable[[Event], None]:
    """What tells two of each event; the first may end the training."""

    def report(event: Event) -> None:
        second(event)
        first(event)  # may raise Pruned

    return report


def reporter(spec: Mapping[str, Any], names: tuple[str, ...]) -> Callable[[Event], None]:
    """Where rank 0's events go: to the study that a trial belongs to, or to the terminal, as all warnings do."""
    from jobs.console import say, warn

    if spec["report"]["kind"] == "study":
        from tuning.objective import study_reporter

        to_study = study_reporter(spec["report"])
        return lambda event: warn(event.message) if event.kind == "warning" else to_study(event)

    def tell(event: Event) -> None:
        shown = [f"{name} {event.values[name]:.4f}" for name in names if name in event.values]
        message = f"epoch {event.epoch + 1}: {', '.join(shown)}" if event.kind == "epoch" else event.message
        (warn if event.kind == "warning" else say)(message)

    return tell
