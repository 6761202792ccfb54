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
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import DataError, WeightsError
from training.models.text_encoder import TextEncoder, TextEncoderConfig
from training.state.text_config import read_config
from training.state.text_weights import CONFIG, TENSORS, TOKENIZER, digest_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints = npt.NDArray[np.int64]

TOKENS = 256  # of a text that count, begin and end included: as many as all-MiniLM-L6-v2 was made for
CHARACTERS = 16 * TOKENS  # of a text that are looked at, three times what as many tokens of prose take
AT_ONCE = 64  # texts that are cut at once: of each the tokenizer makes all tokens, up to 70 bytes a character
BUDGET = 1024  # tokens of one forward pass, so that what it computes stays in a core's cache

_DTYPES = {"F64", "F32", "F16", "BF16"}  # a number of another kind is the real one by a scale that is not known here
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
            DataError: a text is not one.
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

    def _tokens(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """All texts' tokens one after the other, and how many each has: 0 where none of them says anything."""
        cut = [self._cut(texts, start) for start in range(0, len(texts), AT_ONCE)]
        lengths = np.concatenate([np.empty(0, np.int64), *(lengths for _, lengths in cut)])
        tokens = np.concatenate([np.empty(0, np.int64), *(tokens for tokens, _ in cut)])
        text = np.repeat(np.arange(len(texts)), lengths)
        says = np.bincount(text[~np.isin(tokens, self._says_nothing)], minlength=len(texts)) > 0
        return tokens[says[text]], lengths * says

    def _cut(self, texts: Sequence[str], start: int) -> tuple[Ints, Ints]:
        """Tokens and lengths of the next AT_ONCE texts; what else the tokenizer knows of them is let go."""
        some = texts[start : start + AT_ONCE]
        try:
            encoded = self._tokenizer.encode_batch_fast([text[:CHARACTERS] for text in some])
        except TypeError as error:
            raise DataError(_odd(some, start)) from error
        lengths = np.fromiter((len(one) for one in encoded), np.int64, len(encoded))
        return np.fromiter(chain.from_iterable(one.ids for one in encoded), np.int64, int(lengths.sum())), lengths


def _odd(texts: Sequence[object], start: int) -> str:
    number, text = next((number, text) for number, text in enumerate(texts, start) if not _is_text(text))
    return f"texts must be strings of whole characters; number {number} is {text!r:.60}; decode or leave it out"


def _is_text(text: object) -> bool:
    """Half of a pair of UTF-16 is none: what JSON's \\ud800 alone becomes."""
    return isinstance(text, str) and not any("\ud800" <= sign <= "\udfff" for sign in text[:CHARACTERS])


def _passes(lengths: Ints) -> Iterator[Ints]:
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
        config = read_config(folder, described)
        tokenizer, says_nothing = _tokenizer(folder / TOKENIZER, cuts, config)
        with torch.device("meta"):  # nothing is allocated that the tensors replace
            model = TextEncoder(config)
        model.load_state_dict(_tensors(folder / TENSORS, file, model), assign=True)
    return Encoder(model.eval().requires_grad_(False), tokenizer, says_nothing, digest)


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
    tokenizer.no_truncation()
    always, most = tokenizer.encode("").ids, min(TOKENS, config.max_position_embeddings)
    if most <= len(always):
        raise WeightsError(
            f"a model must have places for more than the tokens that stand in every text; '{file}' puts {len(always)} "
            f"into each and max_position_embeddings is {most}; take the {CONFIG} that belongs to the weights"
        )
    tokenizer.enable_truncation(most)
    tokenizer.encode_special_tokens = True  # "[SEP]" in somebody's text is five letters and signs, and ends nothing
    unknown = described.get("unk_id", tokenizer.token_to_id(described.get("unk_token") or ""))
    return tokenizer, [*always, *([] if unknown is None else [unknown])]


def _tensors(file: Path, opened: BinaryIO, model: TextEncoder) -> dict[str, Tensor]:
    """The model's tensors by its own names, from the file that is open: by its path another may lie there by now."""
    wanted = {_published(name): (name, list(tensor.shape)) for name, tensor in model.state_dict().items()}
    try:
        with safe_open(f"/dev/fd/{opened.fileno()}", framework="pt") as tensors:
            found = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            shapes = {name: list(one.get_shape()) for name, one in found.items()}
            dtypes = {name: one.get_dtype() for name, one in found.items()}
            _refuse_misfits(file, {name: shape for name, (_, shape) in wanted.items()}, shapes, dtypes)
            return {own: tensors.get_tensor(name).float() for name, (own, _) in wanted.items()}
    except SafetensorError as error:
        raise WeightsError(f"'{file}' must be a whole safetensors file; {error}; copy it again") from error


def _published(name: str) -> str:
    """A tensor's name in the file."""
    first, *rest, kind = name.split(".")
    if first == "layers":
        return f"encoder.layer.{rest[0]}.{_IN_LAYER[rest[1]]}.{kind}"
    return f"{_BEFORE[first]}.{kind}"


def _refuse_misfits(
    file: Path, wanted: Mapping[str, list[int]], found: Mapping[str, list[int]], dtypes: Mapping[str, str]
) -> None:
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is not known" for name in found.keys() - wanted.keys() - _UNUSED]
    both = wanted.keys() & found.keys()
    problems += [f"{name} is {found[name]}, not {wanted[name]}" for name in both if found[name] != wanted[name]]
    known = ", ".join(sorted(_DTYPES))
    problems += [f"{name} is {dtypes[name]}, not one of {known}" for name in both if dtypes[name] not in _DTYPES]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"'{file}' must hold the {len(wanted)} tensors that its {CONFIG} asks for, and no others; "
            f"{', '.join(sorted(problems)[:3])}{more}; take the two from one model, saved as an encoder alone"
        )
