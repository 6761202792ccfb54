"""What a model that tunes a text encoder starts from: the same weights on every rank. Imports no Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.class_configs import TunedTextClassesConfig
from training.configs import CONFIGS
from training.errors import SettingsError, WeightsError
from training.state.text_weights import TOKENIZER, weights_folder

if TYPE_CHECKING:
    from pathlib import Path

    from training.models.base import Model
    from training.schema import Schema
    from training.state.text_encoder import Start
    from training.tables.sharded import Tables
    from training.world import World


@dataclass(frozen=True)
class Tuned:
    """A training's start.

    Attributes:
        start: of a model that tunes an encoder, what it starts from; None: of another one.
    """

    start: Start | None

    def told(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The spec, which says what the encoder is: so a bundle's model can be built from what it carries."""
        if self.start is None:
            return spec
        return spec | {"model": spec["model"] | {"encoder": self.start.config.model_dump()}}

    def model(self, spec: Mapping[str, Any], columns: Schema, tables: Tables) -> Model:
        """The model that the spec names, its encoder with the weights to start from."""
        from jobs.learning import model_of_rows
        from training.models.tuned_text_classes import TunedTextClasses

        model = model_of_rows(spec, columns, tables)
        if self.start is not None:
            assert isinstance(model, TunedTextClasses)
            model.start_with(self.start.tensors)
        return model

    def attached(self, folder: Path) -> dict[str, Path]:
        """Write the tokenizer that cuts texts as the encoder takes them."""
        if self.start is None:
            return {}
        (folder / TOKENIZER).write_bytes(self.start.tokenizer)
        return {TOKENIZER: folder / TOKENIZER}


def start_of(spec: Mapping[str, Any], world: World) -> Tuned:
    """What a training starts from; every rank reads it from its own disk, and calls.

    Args:
        spec: from `jobs.learn_spec.learn_spec`; its `options.weights` names the folder.
        world: the ranks.

    Raises:
        WeightsError: there are no weights, they do not fit together, or are not those whose tokenizer made the
            examples.
        SettingsError: model.encoder is another.
    """
    if not issubclass(CONFIGS[spec["model"]["name"]], TunedTextClassesConfig):
        return Tuned(None)
    found: list[Start] = []
    world.on_each("reading the weights to start from", lambda: found.append(_read(spec)))
    return Tuned(found[0])


def _read(spec: Mapping[str, Any]) -> Start:
    from training.state.text_encoder import read_start

    folder, wanted = weights_folder(spec["options"]["weights"]), spec["build"]["inputs"]["options"]["weights_digest"]
    start = read_start(folder)
    if start.digest != wanted:
        raise WeightsError(
            f"a training must start from the weights whose tokenizer made the examples, of SHA-256 {wanted}; "
            f"'{folder}' has {start.digest}: set options.weights back, or run `millrace build-examples`"
        )
    if (said := spec["model"]["encoder"]) not in (None, start.config.model_dump()):
        raise SettingsError(
            f"model.encoder must be what config.json in '{folder}' says, or be left out; it is {said}: leave it out"
        )
    return start
