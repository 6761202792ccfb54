"""A text encoder from a folder in the layout of Hugging Face: JSON, safetensors and a tokenizer, all read as data.

    encoder = load_encoder(weights_folder(None))
    encoder.vectors(["a red lantern", ""])        # (2, 384) float32: one of length 1, one of zeros

Tensors are memory-mapped where they are float32: processes of one host share their pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import WeightsError
from training.models.text_encoder import TextEncoder, TextEncoderConfig
from training.state.text_weights import CONFIG, POOLING, TENSORS, TOKENIZER, digest_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENS = 256  # of a text that count, begin and end included: as many as all-MiniLM-L6-v2 was made for
CHARACTERS = 64 * TOKENS  # of a text that are looked at: nobody's text keeps a tokenizer busy for minutes
BUDGET = 1024  # tokens of one forward pass, so that what it computes stays in a core's cache

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
        tokenizer: cuts texts to the model's places, and fills none up.
        says_nothing: numbers of the tokens that stand in every text, and of the one for what is not known.
        digest: SHA-256 over the files that it was loaded from, by `digest_of`: encoders of one digest are the same.
    """

    def __init__(self, model: TextEncoder, tokenizer: Tokenizer, says_nothing: Sequence[int], digest: str) -> None:
        self._model, self._tokenizer, self._says_nothing = model, tokenizer, np.asarray(says_nothing, np.int64)
        self.digest = digest

    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(texts, width) vectors of length 1; zeros for a text without one token that the vocabulary knows.

        A text's vector is the same whatever stands beside it, but for rounding: no number differs by 1e-6.

        Raises:
            WeightsError: the weights make a vector that is not finite.
        """
        tokens, lengths = self._tokens(texts)
        found = np.zeros((len(texts), self._model.words.embedding_dim), np.float32)
        starts = np.cumsum(lengths) - lengths
        for rows in _passes(lengths):
            offsets = np.concatenate([[0], np.cumsum(lengths[rows])])
            places = np.arange(offsets[-1]) + np.repeat(starts[rows] - offsets[:-1], lengths[rows])
            with torch.inference_mode():
                found[rows] = self._model(torch.from_numpy(tokens[places]), torch.from_numpy(offsets)).numpy()
        _refuse_infinite(found)
        return found

    def _tokens(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All texts' tokens one after the other, and how many each has: 0 where none of them says anything."""
        encoded = self._tokenizer.encode_batch_fast([text[:CHARACTERS] for text in texts])
        lengths = np.fromiter((len(one) for one in encoded), np.int64, len(encoded))
        tokens = np.fromiter(chain.from_iterable(one.ids for one in encoded), np.int64, int(lengths.sum()))
        text = np.repeat(np.arange(len(encoded)), lengths)
        says = np.bincount(text[~np.isin(tokens, self._says_nothing)], minlength=len(encoded)) > 0
        return tokens[says[text]], lengths * says


def _passes(lengths: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of about BUDGET tokens, the shortest first: of few lengths each, so that attention has few blocks."""
    by_length = np.argsort(lengths, kind="stable")
    passes = np.cumsum(lengths[by_length]) // BUDGET
    yield from (rows for rows in np.split(by_length, np.flatnonzero(np.diff(passes)) + 1) if lengths[rows].any())


def _refuse_infinite(vectors: npt.NDArray[np.float32]) -> None:
    if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
        raise WeightsError(
            f"weights must make finite vectors; {bad.size} of {len(vectors)} are not, the first of them number "
            f"{bad[0]}; look for NaN in {TENSORS}"
        )


def load_encoder(folder: Path) -> Encoder:
    """The encoder of a folder; each file is opened once, so that what was hashed is what is loaded.

    Args:
        folder: with all of its files: from `weights_folder`. While an encoder of it is in use it is replaced by
            renaming another into its place; who writes into its tensors changes the encoder.

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
        config = _config(folder, described)
        tokenizer, says_nothing = _tokenizer(folder / TOKENIZER, cuts, config)
        with torch.device("meta"):  # nothing is allocated that the tensors replace
            model = TextEncoder(config)
        model.load_state_dict(_tensors(folder / TENSORS, file, model), assign=True)
    return Encoder(model.eval().requires_grad_(False), tokenizer, says_nothing, digest)


def _config(folder: Path, described: bytes) -> TextEncoderConfig:
    try:
        config = TextEncoderConfig.model_validate_json(described)
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
    _refuse_other_pooling(folder / POOLING)
    return config


def _refuse_other_pooling(file: Path) -> None:
    """A folder of Sentence-BERT says how a text's vector is made of its tokens'; without it the mean is taken."""
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


def _tokenizer(file: Path, content: bytes, config: TextEncoderConfig) -> tuple[Tokenizer, list[int]]:
    """The tokenizer, and the tokens that say nothing of a text."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise WeightsError(
            "texts are cut into tokens by the package tokenizers; it is not installed; pip install 'millrace[text]'"
        ) from error
    try:
        described = json.loads(content)["model"]
        tokenizer: Any = Tokenizer.from_str(content.decode())
    except Exception as error:  # what the package raises has no type of its own
        raise WeightsError(
            f"'{file}' must be a tokenizer of the package tokenizers; {error!r:.200}; take another"
        ) from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < config.vocab_size:
        raise WeightsError(
            f"'{file}' must number its tokens from 0 to {config.vocab_size - 1}, as the weights have a vector for "
            f"each; its largest number is {largest}; take the tokenizer that belongs to the weights"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(TOKENS, config.max_position_embeddings))
    tokenizer.encode_special_tokens = True  # "[SEP]" in somebody's text is five letters and signs, and ends nothing
    unknown = described.get("unk_id", tokenizer.token_to_id(described.get("unk_token") or ""))
    return tokenizer, [*tokenizer.encode("").ids, *([] if unknown is None else [unknown])]


def _tensors(file: Path, opened: BinaryIO, model: TextEncoder) -> dict[str, Tensor]:
    """The model's tensors by its own names, from the file that is open: by its path another may lie there by now."""
    wanted = {_published(name): (name, list(tensor.shape)) for name, tensor in model.state_dict().items()}
    try:
        with safe_open(f"/dev/fd/{opened.fileno()}", framework="pt") as tensors:
            shapes = {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
            _refuse_misfits(file, {name: shape for name, (_, shape) in wanted.items()}, shapes)
            return {own: tensors.get_tensor(name).float() for name, (own, _) in wanted.items()}
    except SafetensorError as error:
        raise WeightsError(f"'{file}' must be a whole safetensors file; {error}; copy it again") from error


def _published(name: str) -> str:
    """A tensor's name in the file."""
    first, *rest, kind = name.split(".")
    if first == "layers":
        return f"encoder.layer.{rest[0]}.{_IN_LAYER[rest[1]]}.{kind}"
    return f"{_BEFORE[first]}.{kind}"


def _refuse_misfits(file: Path, wanted: Mapping[str, list[int]], found: Mapping[str, list[int]]) -> None:
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is not known" for name in found.keys() - wanted.keys() - _UNUSED]
    both = wanted.keys() & found.keys()
    problems += [f"{name} is {found[name]}, not {wanted[name]}" for name in both if found[name] != wanted[name]]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"'{file}' must hold the {len(wanted)} tensors that its {CONFIG} asks for, and no others; "
            f"{', '.join(sorted(problems)[:3])}{more}; take the two from one model, saved as an encoder alone"
        )
