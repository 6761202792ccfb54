"""What a study has found, in the settings: best.json over the model's and the training's values."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from jobs.artefacts import BEST, read_json
from jobs.console import show_table
from jobs.settings import Settings
from training.errors import SettingsError


def with_best(settings: Settings) -> tuple[Settings, dict[str, Any] | None]:
    """The settings with the values that a study found best, where `training.tuned` asks for them.

    Shows what it took. The settings returned hold the values and no longer ask, so that what is recorded with a bundle
    trains the same again after another study.

    Returns:
        The settings, and where the values come from: trial, metric and value; or the settings as they are, and None.

    Raises:
        SettingsError: there is no best.json, it is of another model, or it holds values that the settings refuse.
        ArtefactError: best.json is damaged.
    """
    if not settings.training.tuned:
        return settings, None
    best = read_json(settings.run_dir, BEST)
    if best is None or best["model_name"] != settings.model["name"]:
        found = "there is none" if best is None else f"it is of model '{best['model_name']}'"
        raise SettingsError(
            f"training.tuned=true takes {settings.run_dir}/{BEST} of model '{settings.model['name']}'; {found}; run "
            "`millrace tune` first, or set training.tuned=false"
        )
    tuned = _laid_over(settings, best)
    _show(settings, tuned, best)
    return tuned, {name: best.get(name) for name in ("trial", "metric", "value")}


def _laid_over(settings: Settings, best: dict[str, Any]) -> Settings:
    try:
        return Settings.model_validate(
            {
                **settings.model_dump(),
                "model": {**settings.model, **best["model"]},
                "training": {**settings.training.model_dump(), **best["training"], "tuned": False},
            }
        )
    except ValidationError as error:
        raise SettingsError(
            f"{settings.run_dir}/{BEST} of trial {best['trial']} does not fit the settings: {error}; "
            "remove it, or run `millrace tune` again"
        ) from error


def _show(settings: Settings, tuned: Settings, best: dict[str, Any]) -> None:
    """A line for each value taken, beside the one that it replaces."""
    was = {"model": settings.model, "training": settings.training.model_dump()}
    now = {"model": tuned.model, "training": tuned.training.model_dump()}
    taken = [(section, name) for section in ("model", "training") for name in best[section]]
    rows = [(f"{section}.{name}", str(was[section].get(name)), str(now[section][name])) for section, name in taken]
    title = f"train: takes trial {best['trial']} of {BEST} (training.tuned)"
    show_table(title, ("setting", "configured", "taken"), rows)
