"""Classes that are learnt beside those of a bundle, which stay as they are. Imports no Spark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.errors import SettingsError

if TYPE_CHECKING:
    from training.world import World


def told(spec: dict[str, Any], world: World) -> dict[str, Any]:
    """The spec, which says how many classes the bundle has where model.learn is new; every rank calls.

    Args:
        spec: from `jobs.learn_spec.learn_spec`.
        world: the ranks.

    Raises:
        SettingsError: there is no bundle to start from, or model.learnt is not what it has.
        BundleError: it cannot be read.
    """
    model, start = spec["model"], spec.get("start_from")
    if model.get("learn", "all") == "all":
        return spec
    if start is None:
        raise SettingsError("model.learn=new needs a bundle whose classes stay: set training.start_from, or learn=all")
    found: list[int] = []
    world.on_each("reading how many classes the bundle has", lambda: found.append(_classes(Path(start["path"]))))
    if model.get("learnt") not in (None, found[0]):
        raise SettingsError(
            f"model.learnt must be the {found[0]} classes of '{start['name']}'; it is {model['learnt']}: leave it out"
        )
    return spec | {"model": model | {"learnt": found[0]}}


def _classes(bundle: Path) -> int:
    from training.models.text_classes import label_of
    from training.state.bundle import open_described

    return int(label_of(open_described(bundle).schema).size or 0)
