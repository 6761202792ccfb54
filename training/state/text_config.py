"""What a text model's folder says of itself: its config.json, and the steps from tokens to a text, if it names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from training.encoder_config import TextEncoderConfig
from training.errors import WeightsError
from training.state.text_weights import CONFIG, MODULES, POOLING

STEPS = ["Transformer", "Pooling", "Normalize"]  # the last may be missing: a vector has length 1 in any case


def read_config(folder: Path, content: bytes) -> TextEncoderConfig:
    """The encoder that a folder describes.

    Args:
        folder: is asked for the files that Sentence-BERT adds, and named in errors.
        content: of its config.json.

    Raises:
        WeightsError: it is not a BERT encoder's, or texts' vectors are not the mean of their tokens'.
    """
    try:
        config = TextEncoderConfig.model_validate_json(content)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, not {one['input']!r:.60}" for one in error.errors()]
        raise WeightsError(
            f"'{folder / CONFIG}' must describe a BERT encoder; {'; '.join(told)}; take another"
        ) from error
    if config.hidden_size % config.num_attention_heads:
        raise WeightsError(
            f"'{folder / CONFIG}' must have a hidden_size that is a multiple of num_attention_heads; it has "
            f"{config.hidden_size} and {config.num_attention_heads}; take the one that belongs to the weights"
        )
    _refuse_other_steps(folder / MODULES)
    _refuse_other_pooling(folder / POOLING)
    return config


def config_of(folder: Path) -> TextEncoderConfig:
    """The encoder that a folder from `weights_folder` describes; errors as of `read_config`."""
    return read_config(folder, (folder / CONFIG).read_bytes())


def _refuse_other_steps(file: Path) -> None:
    """A step that is left out, a Dense layer after the mean, would give vectors that mean something else."""
    if not file.is_file():
        return
    try:
        steps = [one.get("type") for one in TypeAdapter(list[dict[str, Any]]).validate_json(file.read_bytes())]
        named = [str(step).rpartition(".")[2] for step in steps]
    except ValidationError:
        named = ["what is no JSON list of objects"]
    if named not in (STEPS, STEPS[:-1]):
        raise WeightsError(
            f"'{file}' must name the steps {', '.join(STEPS)}, the last or not, which are those that are known; it "
            f"names {', '.join(named) or 'none'}; take a model without others"
        )


def _refuse_other_pooling(file: Path) -> None:
    """How a text's vector is made of its tokens'; without such a file the mean is taken."""
    if not file.is_file():
        return
    try:
        modes = TypeAdapter(dict[str, Any]).validate_json(file.read_bytes())
        asked = sorted(name for name, value in modes.items() if name.startswith("pooling_mode_") and value)
    except ValidationError:
        asked = ["what is no JSON object"]
    if asked != ["pooling_mode_mean_tokens"]:
        raise WeightsError(
            f"'{file}' must ask for pooling_mode_mean_tokens alone, the one that is known; it asks for "
            f"{', '.join(asked) or 'none'}; take a model that was trained with the mean"
        )
