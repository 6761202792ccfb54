"""What a training of a decoder starts from: drawn weights or given ones, the same on every rank. Imports no Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.errors import SettingsError, WeightsError
from training.state.text_weights import TOKENIZER

if TYPE_CHECKING:
    from pathlib import Path

    from training.models.base import Model
    from training.schema import Schema
    from training.state.decoder_weights import DecoderStart
    from training.tables.sharded import Tables
    from training.world import World

TOKENS = "tokenizer"  # the side table with the tokenizer by which examples were cut


@dataclass(frozen=True)
class Begun:
    """A training's start.

    Attributes:
        start: the weights; None: they are drawn.
    """

    start: DecoderStart | None

    def told(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The spec, which says what the decoder is: so a bundle's model can be built from what it carries."""
        if self.start is None:
            return spec
        return spec | {"model": spec["model"] | {"decoder": self.start.shape.model_dump()}}

    def model(self, spec: Mapping[str, Any], columns: Schema, tables: Tables) -> Model:
        """The model that the spec names, with the weights to start from."""
        from jobs.learning import model_of_rows
        from training.models.decoder import TextDecoder

        model = model_of_rows(spec, columns, tables)
        if self.start is not None:
            assert isinstance(model, TextDecoder)
            model.start_with(self.start.tensors)
        return model


def begun(spec: Mapping[str, Any], world: World) -> Begun:
    """What a training starts from; every rank reads it from its own disk, and calls.

    Args:
        spec: from `jobs.learn_spec.learn_spec`; its `options.weights` names the weights.
        world: the ranks.

    Raises:
        WeightsError: there are none, they do not fit together, or are not those whose tokenizer made the examples.
        SettingsError: model.decoder is another; or the bundle to start from has learnt by another tokenizer.
    """
    if (first := spec.get("start_from")) is not None:
        world.on_each("comparing the tokens of the bundle to start from", lambda: _refuse_other_tokens(spec, first))
    if spec["options"]["weights"] is None:
        if spec["model"]["decoder"] is not None:
            raise SettingsError("model.decoder must be left out where options.weights names no weights; leave it out")
        return Begun(None)
    found: list[DecoderStart] = []
    world.on_each("reading the weights to start from", lambda: found.append(_read(spec)))
    return Begun(found[0])


def _read(spec: Mapping[str, Any]) -> DecoderStart:
    from training.state.decoder_weights import read_decoder

    weights, wanted = spec["options"]["weights"], spec["build"]["inputs"]["options"]["weights_digest"]
    start = read_decoder(weights)
    if start.digest != wanted:
        raise WeightsError(
            f"a training must start from the weights whose tokenizer made the examples, of SHA-256 {wanted}; "
            f"'{weights}' has {start.digest}: set options.weights back, or run `millrace build-examples`"
        )
    if (said := spec["model"]["decoder"]) not in (None, start.shape.model_dump()):
        raise SettingsError(f"model.decoder must be what '{weights}' says, or be left out; it is {said}: leave it out")
    return start


def _refuse_other_tokens(spec: Mapping[str, Any], first: Mapping[str, str]) -> None:
    from training.state.bundle import load_bundle

    if load_bundle(first["path"]).attachment(TOKENIZER).read_bytes() != _tokenizer(spec):
        raise SettingsError(
            f"training.start_from must be a bundle that has learnt by the tokenizer of the examples; '{first['name']}' "
            "has another, so its weights would go to other tokens: start from none, or from weights by options.weights"
        )


def _tokenizer(spec: Mapping[str, Any]) -> bytes:
    """That of the examples' build."""
    from training.data.snapshot import open_snapshot, read_table

    root, version = spec["tables"]["examples"]["uri"].rpartition("/")[0], spec["build"]["versions"][TOKENS]
    held = read_table(open_snapshot(f"{root}/{TOKENS}", version), ["content"])
    return str(held["content"][0].as_py()).encode()


def attached(spec: Mapping[str, Any], columns: Schema, folder: Path) -> dict[str, Path]:  # noqa: ARG001
    """Write the tokenizer that cuts texts as the decoder takes them."""
    (folder / TOKENIZER).write_bytes(_tokenizer(spec))
    return {TOKENIZER: folder / TOKENIZER}
