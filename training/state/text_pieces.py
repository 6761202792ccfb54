"""Texts to tokens and back, by a byte-level tokenizer that is read as data, or made of a shop's own texts.

Of each token it is known which bytes it stands for, so that a text can be looked at while it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from training.errors import WeightsError
from training.state.text_tokens import CHARACTERS, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END = "<|end|>"  # of a text, in a tokenizer of our own: token 0


class Pieces:
    """A tokenizer whose tokens stand for bytes, for one thread at a time.

    Args:
        file: where it was read, for errors.
        content: of a tokenizer.json.
        size: how many tokens the decoder has vectors for.

    Attributes:
        begin: tokens that every text of the model begins with.
        bytes_of: by number what a token stands for; None of one that stands in no text.

    Raises:
        WeightsError: it is no tokenizer of bytes, or has a number that the decoder has no vector for; or `tokenizers`
            is not installed.
    """

    def __init__(self, file: str, content: bytes, size: int) -> None:
        self._tokenizer: Any = tokenizer_of(file, content, size)
        if not _is_of_bytes(json.loads(content)):
            raise WeightsError(
                f"'{file}' must be a tokenizer of bytes, as those of GPT-2, SmolLM2 and Llama 3: its decoder must be "
                "ByteLevel; take another model"
            )
        self.begin: list[int] = self._tokenizer.encode("").ids
        self._tokenizer.encode_special_tokens = True  # what ends a text is letters and signs where somebody writes it
        special = {number for number, added in self._tokenizer.get_added_tokens_decoder().items() if added.special}
        named = {number: token for token, number in self._tokenizer.get_vocab(with_added_tokens=True).items()}
        letters = _letters()
        self.bytes_of = [
            None if number in special or number not in named else bytes(letters.get(c, 0) for c in named[number])
            for number in range(size)
        ]

    def tokens(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """The first tokens of each text, at most so many, without those of `begin`."""
        held = self._tokenizer.encode_batch_fast([text[:CHARACTERS] for text in texts], add_special_tokens=False)
        return [one.ids[:most] for one in held]


def made_of(texts: Iterable[str], size: int) -> bytes:
    """The content of a tokenizer.json of at most `size` tokens, made of texts by byte-pair encoding; digits are apart.

    Args:
        texts: the same ones in the same order make the same.
        size: at least 257: the bytes, and what ends a text.

    Raises:
        WeightsError: `tokenizers` is not installed.
    """
    tokenizer = _bare(digits_apart=True)
    from tokenizers import pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str()).encode()


def gpt2_tokenizer(
    tokens: Sequence[str], merges: Sequence[str], special: Sequence[str], *, digits_apart: bool
) -> bytes:
    """The content of a tokenizer.json with these tokens, as numbered, and merges.

    Raises:
        WeightsError: `tokenizers` is not installed.
    """
    tokenizer = _bare(digits_apart=digits_apart)
    from tokenizers import models

    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    tokenizer.model = models.BPE(vocab=vocabulary, merges=pairs)
    tokenizer.add_special_tokens([*special])
    return str(tokenizer.to_str()).encode()


def _bare(*, digits_apart: bool) -> Tokenizer:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    except ImportError as error:
        raise WeightsError(
            "texts are cut into tokens by the package tokenizers; it is not installed; pip install 'millrace[decoder]'"
        ) from error
    tokenizer, of_bytes = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if digits_apart else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, of_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _is_of_bytes(described: dict[str, Any]) -> bool:
    decoder = described.get("decoder") or {}
    return "ByteLevel" in {decoder.get("type"), *(one.get("type") for one in decoder.get("decoders", ()))}


@cache
def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level token stands for, as GPT-2 has it: printable ones for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(others)}
