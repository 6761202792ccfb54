"""A text encoder from a folder in the layout of Hugging Face: JSON, safetensors and a tokenizer, all read as data.

    encoder = load_encoder(weights_folder(None))
    encoder.vectors(["a red lantern", ""])        # (2, 384) float32: one of length 1, one of zeros

Tensors are memory-mapped where they are float32: processes of one host share their pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.encoder_config import TextEncoderConfig
from training.errors import WeightsError
from training.models.text_encoder import TextEncoder
from training.state.tensor_files import read_tensors
from training.state.text_config import read_config
from training.state.text_tokens import Cutter, open_tokenizer
from training.state.text_weights import CONFIG, TENSORS, TOKENIZER, digest_of

_UNUSED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}  # counts, and an answer not asked for
_BEFORE = {
    "words": "embeddings.word_embeddings",
    "places": "embeddings.position_embeddings",
    "kinds": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_IN_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "mixed_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}


class Encoder:
    """A model with its tokenizer, for one thread at a time.

    Args:
        model: of texts' tokens.
        cutter: cuts texts to the model's places.
        digest: SHA-256 over the files that it was loaded from, by `digest_of`: encoders of one digest are the same.
    """

    def __init__(self, model: TextEncoder, cutter: Cutter, digest: str) -> None:
        self._model, self._cutter = model, cutter
        self.digest = digest

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(texts, width) vectors of length 1; zeros for a text without one token that the vocabulary knows.

        A text's vector is the same whatever stands beside it, but for rounding: no number differs by 1e-6.

        Raises:
            DataError: a text is not one.
            WeightsError: the weights make a vector that is not finite.
        """
        tokens, lengths = self._cutter.tokens(texts)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        with torch.inference_mode():
            found = self._model.in_passes(torch.from_numpy(tokens), torch.from_numpy(offsets)).numpy()
        _refuse_infinite(found)
        return np.asarray(found, np.float32)


def _refuse_infinite(vectors: npt.NDArray[np.float32]) -> None:
    if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
        raise WeightsError(
            f"weights must make finite vectors; {bad.size} of {len(vectors)} are not, the first of them number "
            f"{bad[0]}; look for NaN in {TENSORS}"
        )


@dataclass(frozen=True)
class Start:
    """What lies in a folder, read and found to fit together.

    Attributes:
        config: of the encoder.
        tensors: all of the encoder's, by its own names; memory-mapped where they are float32.
        tokenizer: the content of its tokenizer.json.
        cutter: the same, opened.
        digest: by `digest_of`.
    """

    config: TextEncoderConfig
    tensors: dict[str, Tensor]
    tokenizer: bytes
    cutter: Cutter
    digest: str


def read_start(folder: Path) -> Start:
    """What an encoder is made of; each file is opened once, so that what was hashed is what is read.

    Args:
        folder: with all of its files: from `weights_folder`. While its tensors are in use it is replaced by renaming
            another into its place; who writes into them changes what runs.

    Raises:
        WeightsError: a file is not of its kind, or they do not fit together; it is the package's and not the one that
            is known; or `tokenizers` is not installed.
    """
    described, cuts = (folder / CONFIG).read_bytes(), (folder / TOKENIZER).read_bytes()
    with (folder / TENSORS).open("rb") as file:
        hashes = {
            name: hashlib.sha256(content).hexdigest() for name, content in ((CONFIG, described), (TOKENIZER, cuts))
        }
        digest = digest_of(folder, {**hashes, TENSORS: hashlib.file_digest(file, "sha256").hexdigest()})
        config = read_config(folder, described)
        cutter = open_tokenizer(str(folder / TOKENIZER), cuts, config)
        return Start(config, _tensors(folder / TENSORS, file, _bare(config)), cuts, cutter, digest)


def load_encoder(folder: Path) -> Encoder:
    """The encoder of a folder; arguments and errors as those of `read_start`."""
    start = read_start(folder)
    model = _bare(start.config)
    model.load_state_dict(start.tensors, assign=True)
    return Encoder(model.eval().requires_grad_(False), start.cutter, start.digest)


def _bare(config: TextEncoderConfig) -> TextEncoder:
    with torch.device("meta"):  # nothing is allocated that the tensors replace
        return TextEncoder(config)


def _tensors(file: Path, opened: BinaryIO, model: TextEncoder) -> dict[str, Tensor]:
    wanted = {name: (_published(name), list(tensor.shape)) for name, tensor in model.state_dict().items()}
    return read_tensors(file, opened, wanted, _UNUSED)


def _published(name: str) -> str:
    """A tensor's name in the file."""
    first, *rest, kind = name.split(".")
    if first == "layers":
        return f"encoder.layer.{rest[0]}.{_IN_LAYER[rest[1]]}.{kind}"
    return f"{_BEFORE[first]}.{kind}"
