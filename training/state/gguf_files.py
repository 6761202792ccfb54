"""A decoder out of a GGUF file: shape, tensors and tokenizer, by the package gguf, which reads it as data.

What is quantised becomes float32. llama.cpp lays the rows of queries and keys in pairs that are turned together; here,
as in Hugging Face's layout, the partners are half a head apart.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from training.decoder_config import DecoderShape
from training.errors import WeightsError
from training.models.decoder_network import Decoder
from training.state.tensor_files import refuse_misfits
from training.state.text_pieces import gpt2_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader

GGUF = ".gguf"
CONTROL = 3  # kind of a token that stands in no text
CUTS = {"gpt-2": False, "smollm": True}  # how a text falls into words, by llama.cpp's names; whether digits stand alone
_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "head_dim": "attention.key_length",
}
_LAYER = {
    "mixed_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "out": "attn_output",
    "norm": "ffn_norm",
    "gate": "ffn_gate",
    "widen": "ffn_up",
    "narrow": "ffn_down",
}


def shape_of_gguf(file: Path) -> DecoderShape:
    """What the decoder in a file is.

    Raises:
        WeightsError: it is none in Llama's layout, or torn; or gguf is not installed.
    """
    held = file.stat()
    return _shape_of(file, held.st_mtime_ns, held.st_size)


@lru_cache(maxsize=4)
def _shape_of(file: Path, modified: int, size: int) -> DecoderShape:  # noqa: ARG001  opening takes seconds
    return _shape(file, _opened(file))


def read_gguf(file: Path) -> tuple[DecoderShape, dict[str, Tensor], bytes]:
    """Shape, tensors by the network's own names (float32), and the content of a tokenizer.json.

    Raises:
        WeightsError: as of `shape_of_gguf`; or the tensors are others than the shape asks for, or the tokenizer is of a
            kind that is not known.
    """
    reader = _opened(file)
    shape = _shape(file, reader)
    with torch.device("meta"):
        bare = Decoder(shape).state_dict()
    held = {tensor.name: tensor for tensor in reader.tensors}
    wanted = {_published(own): list(tensor.shape) for own, tensor in bare.items()}
    refuse_misfits(file, wanted, {name: [int(n) for n in one.shape[::-1]] for name, one in held.items()}, {})
    tensors = {own: _tensor(own, held[_published(own)], shape) for own in bare}
    return shape, tensors, _tokenizer(file, reader)


def _opened(file: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise WeightsError(
            f"'{file}' is read by the package gguf, which is not installed; pip install 'millrace[decoder]', or set "
            "options.weights to a folder in the layout of Hugging Face"
        ) from error
    try:
        return GGUFReader(file)
    except Exception as error:  # what the package raises has no type of its own
        raise WeightsError(f"'{file}' must be a whole GGUF file; {error!r:.200}; copy it again") from error


def _said(reader: GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _shape(file: Path, reader: GGUFReader) -> DecoderShape:
    kind = _said(reader, "general.architecture")
    told = {ours: _said(reader, f"{kind}.{theirs}") for ours, theirs in _FIELDS.items()}
    tokens, scaled = reader.get_field("tokenizer.ggml.tokens"), _said(reader, f"{kind}.rope.scaling.type")
    try:
        shape = DecoderShape(
            model_type=kind,
            vocab_size=0 if tokens is None else len(tokens.data),
            eos_token_id=_said(reader, "tokenizer.ggml.eos_token_id"),
            tie_word_embeddings=True,  # of others the file has a tensor `output.weight`, which is not known then
            rope_scaling=None if scaled == "none" else scaled,
            **told,
        )
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise WeightsError(
            f"'{file}' must hold a decoder in Llama's layout with tied embeddings; {'; '.join(problems)}; take another"
        ) from error
    whole, turned = shape.hidden_size // shape.num_attention_heads, _said(reader, f"{kind}.rope.dimension_count")
    if turned not in (None, whole):
        raise WeightsError(
            f"'{file}' must hold a decoder whose heads are turned whole, {whole} numbers each; of these {turned} are; "
            "take another"
        )
    return shape


def _published(name: str) -> str:
    first, *rest, kind = name.split(".")
    if first == "layers":
        return f"blk.{rest[0]}.{_LAYER[rest[1]]}.{kind}"
    return {"words": "token_embd", "norm": "output_norm"}[first] + f".{kind}"


def _tensor(name: str, held: Any, shape: DecoderShape) -> Tensor:
    from gguf import dequantize

    values = torch.from_numpy(np.array(dequantize(held.data, held.tensor_type), np.float32))
    heads = {"query": shape.num_attention_heads, "key": shape.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    pairs = values.reshape(heads, -1, 2, values.shape[1])
    return pairs.transpose(1, 2).reshape(values.shape).contiguous()


def _tokenizer(file: Path, reader: GGUFReader) -> bytes:
    kind, cuts = _said(reader, "tokenizer.ggml.model"), _said(reader, "tokenizer.ggml.pre")
    if kind != "gpt2" or cuts not in CUTS:
        raise WeightsError(
            f"'{file}' must have a tokenizer of the kind gpt2 that cuts words as {' or '.join(CUTS)}; it is of kind "
            f"{kind} and cuts as {cuts}; take the model's folder in the layout of Hugging Face"
        )
    tokens, kinds = _said(reader, "tokenizer.ggml.tokens"), _said(reader, "tokenizer.ggml.token_type")
    special = [token for token, of in zip(tokens, kinds, strict=True) if of == CONTROL]
    return gpt2_tokenizer(tokens, _said(reader, "tokenizer.ggml.merges"), special, digits_apart=CUTS[cuts])
