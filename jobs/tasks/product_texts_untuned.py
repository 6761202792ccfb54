"""The decoder that a bundle's training started from, as a bundle of its own: what tuning must beat."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "untuned"


def untuned(path: Path, folder: Path, weights: str | None) -> Path:
    """Write it, in place of one of another bundle; returns its folder, readable where `folder` is.

    Args:
        path: the tuned bundle.
        folder: where `untuned` goes.
        weights: what training started from; None: drawn weights.

    Raises:
        WeightsError: the weights are not there any more, or others.
    """
    import torch

    from training.models import MODELS
    from training.models.decoder import TextDecoder
    from training.state.bundle import load_bundle
    from training.state.decoder_weights import read_decoder
    from training.state.publish import write_bundle

    held = load_bundle(path)
    model_type = MODELS[held.model_name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(held.settings["seed"]))
        model = model_type(model_type.Config.parse(held.config), held.schema)
    assert isinstance(model, TextDecoder)
    if weights is not None:
        model.start_with(read_decoder(weights).tensors)
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    written = write_bundle(
        folder / FOLDER,
        model_name=held.model_name,
        config=held.config,
        schema=held.schema,
        tensors=model.state_dict(),
        provenance={},
        settings=held.settings,
        metrics={},
    )
    return written.path
