"""Texts written by a decoder, token by token: what comes next is chosen by who asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from training.models.decoder_network import Decoder, Held

Logits = npt.NDArray[np.float32]
PLACES = 8_192  # of all texts that are written at once, whose keys and values are held


@torch.no_grad()
def write(
    network: Decoder, prompts: Sequence[Sequence[int]], most: int, choose: Callable[[int, Logits], int | None]
) -> None:
    """Go on from each prompt until its chooser ends it.

    Prompts of about one length are written together, so that what is computed of a row does not depend on the others
    but for rounding.

    Args:
        network: in eval mode.
        prompts: tokens, one at least each.
        most: tokens that a text may come to have.
        choose: (number of the prompt, the logits of its next token) -> the token; None: the text is at its end. It is
            asked `most` times at most for a prompt.
    """
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    start = 0
    while start < len(by_length):
        end = start + 1
        while end < len(by_length) and (end + 1 - start) * (len(prompts[by_length[end]]) + most) <= PLACES:
            end += 1
        _write_together(network, prompts, by_length[start:end], most, choose)
        start = end


def _write_together(
    network: Decoder,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[int],
    most: int,
    choose: Callable[[int, Logits], int | None],
) -> None:
    device = network.words.weight.device
    lengths = torch.tensor([len(prompts[row]) for row in rows], device=device)
    tokens = torch.tensor([token for row in rows for token in prompts[row]], device=device)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    last, held = network.begin(tokens, offsets, int(lengths.max()) + most)
    writing, place = list(rows), lengths
    for step in range(most):
        logits = network.logits(last).float().cpu().numpy()
        chosen = [choose(row, of_row) for row, of_row in zip(writing, logits, strict=True)]
        kept = [number for number, token in enumerate(chosen) if token is not None]
        if not kept or step + 1 == most:
            return
        if len(kept) < len(writing):
            at = torch.tensor(kept, device=device)
            held, place = [Held(*(one[at] for one in of_layer)) for of_layer in held], place[at]
            writing = [writing[number] for number in kept]
        last = network.go_on(torch.tensor([chosen[number] for number in kept], device=device), place, held)
        place = place + 1
