"""Texts cut into the numbers of their tokens by a tokenizer that is read as data: JSON of the package tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from training.encoder_config import TextEncoderConfig
from training.errors import DataError, WeightsError
from training.state.text_weights import CONFIG

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Ints = npt.NDArray[np.int64]

TOKENS = 256  # of a text that count, begin and end included: as many as all-MiniLM-L6-v2 was made for
CHARACTERS = 16 * TOKENS  # of a text that are looked at, three times what as many tokens of prose take
AT_ONCE = 64  # texts that are cut at once: of each the tokenizer makes all tokens, up to 70 bytes a character


class Cutter:
    """A tokenizer, for one thread at a time.

    Args:
        tokenizer: cuts texts to so many tokens, and fills none up.
        says_nothing: numbers of the tokens that stand in every text, and of the one for what is not known.
    """

    def __init__(self, tokenizer: Tokenizer, says_nothing: Sequence[int]) -> None:
        self._tokenizer, self._says_nothing = tokenizer, np.asarray(says_nothing, np.int64)

    def tokens(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """All texts' tokens one after the other, and how many each has: 0 where none of them says anything.

        Raises:
            DataError: a text is not one.
        """
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


def open_tokenizer(file: str, content: bytes, config: TextEncoderConfig, most: int = TOKENS) -> Cutter:
    """What cuts texts as an encoder takes them.

    Args:
        file: where it was read, for errors.
        content: of a tokenizer.json.
        config: of the encoder.
        most: tokens of a text that are kept, begin and end included; no more than the encoder has places.

    Raises:
        WeightsError: it is no tokenizer, has a number that the encoder has no vector for, or leaves no place for a
            text; or `tokenizers` is not installed.
    """
    tokenizer = tokenizer_of(file, content, config.vocab_size)
    described = json.loads(content)["model"]
    always, most = tokenizer.encode("").ids, min(most, config.max_position_embeddings)
    if most <= len(always):
        raise WeightsError(
            f"a model must have places for more than the tokens that stand in every text; '{file}' puts {len(always)} "
            f"into each and max_position_embeddings is {most}; take the {CONFIG} that belongs to the weights"
        )
    tokenizer.enable_truncation(most)
    tokenizer.encode_special_tokens = True  # "[SEP]" in somebody's text is five letters and signs, and ends nothing
    unknown = described.get("unk_id", tokenizer.token_to_id(described.get("unk_token") or ""))
    return Cutter(tokenizer, [*always, *([] if unknown is None else [unknown])])


def tokenizer_of(file: str, content: bytes, size: int) -> Tokenizer:
    """A tokenizer that fills no text up and cuts none off.

    Args:
        file: where it was read, for errors.
        content: of a tokenizer.json.
        size: how many tokens the model has vectors for.

    Raises:
        WeightsError: it is no tokenizer, or has a number that the model has no vector for; or `tokenizers` is not
            installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise WeightsError(
            "texts are cut into tokens by the package tokenizers; it is not installed; pip install 'millrace[text]'"
        ) from error
    try:
        json.loads(content)["model"]
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # what the package raises has no type of its own
        raise WeightsError(
            f"'{file}' must be a tokenizer of the package tokenizers; {error!r:.200}; take another"
        ) from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < size:
        raise WeightsError(
            f"'{file}' must number its tokens from 0 to {size - 1}, as the weights have a vector for "
            f"each; its largest number is {largest}; take the tokenizer that belongs to the weights"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
