"""The win-rate curve of first-price auctions, from prices that are known, or from bids that won and lost.

The log of the others' highest bid is normal about a mean that has a part for each step of the day and grows with the
log of the probability (who is worth more to us is worth more to others); its spread is one for the campaign. A bid that
won says that the price was lower, one that lost that it was higher: the expectation-maximisation of censored normals
(Dempster, Laird and Rubin, 1977) takes those beside prices that are known; it is slow where few bids won, so its steps
are lengthened (Varadhan and Roland, 2008). What to bid then: see `Shading` (Zhou et
al., 2021, "An efficient deep distribution network for bid shading in first-price auctions").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROUNDS, CLOSE = 100, 1e-6  # of three steps of the expectation-maximisation; how little the last one may change
LONGEST = 100.0  # times that a step is lengthened
OF_A_STEP = 20.0  # rows that the mean of all steps counts as in each step's own
LEAST_SPREAD = 1e-3
FEW, VARIED = 20.0, 0.05  # bids that won, and that lost; how they must vary, in logs, beyond what step and odds say
KNOWN, BELOW, ABOVE = 0, 1, 2  # the price itself, or a bid that won (the price lies below it) or lost


def _erfc(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erfc, otypes=[np.float64])(x))


def below(x: Floats) -> Floats:
    """The standard normal's share below x."""
    return 0.5 * _erfc(-x / math.sqrt(2))


def density(x: Floats) -> Floats:
    """The standard normal's density."""
    return np.asarray(np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class Curve:
    """How the others' highest bid is distributed.

    Attributes:
        steps: the mean log price of each step, at a probability of 1.
        slope: by how much the log price grows with the log of the probability.
        spread: the standard deviation of the log price about that.
    """

    steps: Floats
    slope: float
    spread: float

    def log_mean(self, step: Ints, probability: Floats) -> Floats:
        """The mean log price of opportunities."""
        return np.asarray(self.steps[step] + self.slope * np.log(probability))


class Seen(NamedTuple):
    """What was seen of prices, in cells; sums over a cell's opportunities unless said otherwise.

    Attributes:
        step: of each cell.
        kind: KNOWN, BELOW or ABOVE.
        rows: opportunities.
        log_p: logs of probabilities.
        log_p_squared: their squares.
        log_price: logs of prices, or of bids.
        log_price_squared: their squares.
        log_p_price: products of the two logs.
    """

    step: Ints
    kind: Ints
    rows: Floats
    log_p: Floats
    log_p_squared: Floats
    log_price: Floats
    log_price_squared: Floats
    log_p_price: Floats


def tells(seen: Seen, steps: int) -> bool:
    """Whether there is a curve to find: enough prices are known, or enough bids won and enough lost that differ.

    Bids that all won say nothing of how far below the prices lay. Where the log of the bid is a number of the step
    beside a multiple of the log of the probability, any spread fits as well as any other.
    """
    rows = {kind: float(seen.rows[seen.kind == kind].sum()) for kind in (KNOWN, BELOW, ABOVE)}
    if rows[KNOWN] >= FEW or not rows[BELOW] + rows[ABOVE]:
        return rows[KNOWN] > 0
    bids = Seen(*(of_cells[seen.kind != KNOWN] for of_cells in seen))
    return min(rows[BELOW], rows[ABOVE]) >= FEW and _maximised(bids, steps).spread >= VARIED


def fitted(seen: Seen, steps: int) -> Curve:
    """The likeliest curve of what was seen.

    Args:
        seen: of one campaign; it `tells`.
        steps: of a day.
    """
    curve = _maximised(seen, steps)
    if (seen.kind == KNOWN).all():
        return curve

    def moved(held: Floats) -> Floats:
        return _numbers(_maximised(_expected(seen, _curve(held)), steps))

    held = _numbers(curve)
    for _ in range(ROUNDS):
        once = moved(held)
        step = once - held
        if np.abs(step).max() < CLOSE:
            break
        bend = moved(once) - once - step
        far = min(max(float(np.linalg.norm(step) / max(np.linalg.norm(bend), 1e-12)), 1.0), LONGEST)
        held = moved(held + 2 * far * step + far**2 * bend)
    return _curve(held)


def _numbers(curve: Curve) -> Floats:
    return np.concatenate([curve.steps, [curve.slope, math.log(curve.spread)]])


def _curve(numbers: Floats) -> Curve:
    return Curve(numbers[:-2], float(numbers[-2]), max(math.exp(numbers[-1]), LEAST_SPREAD))


def _maximised(seen: Seen, steps: int) -> Curve:
    """The curve of least squares within steps; a step of few rows leans on the mean of all."""

    def by_step(held: Floats) -> Floats:
        return np.bincount(seen.step, held, minlength=steps)

    rows, log_p, log_price = by_step(seen.rows), by_step(seen.log_p), by_step(seen.log_price)
    some = np.maximum(rows, 1e-12)
    across = float(seen.log_p_squared.sum() - log_p**2 @ (1 / some))
    along = float(seen.log_p_price.sum() - (log_p * log_price) @ (1 / some))
    slope = along / across if across > 1e-9 * max(1.0, float(seen.log_p_squared.sum())) else 0.0
    rest = log_price - slope * log_p
    middle = float(rest.sum() / rows.sum())
    own = (rest + OF_A_STEP * middle) / (rows + OF_A_STEP)
    residual = (
        seen.log_price_squared.sum()
        - 2 * slope * seen.log_p_price.sum()
        + slope**2 * seen.log_p_squared.sum()
        - 2 * float(own @ rest)
        + float(own**2 @ rows)
    )
    return Curve(own, slope, max(math.sqrt(max(float(residual) / float(rows.sum()), 0.0)), LEAST_SPREAD))


def _expected(seen: Seen, curve: Curve) -> Seen:
    """What was seen, with what censored prices are expected to be in place of the bids."""
    log_p = seen.log_p / seen.rows
    mean = curve.steps[seen.step] + curve.slope * log_p
    at = (seen.log_price / seen.rows - mean) / curve.spread
    side = np.where(seen.kind == BELOW, -1.0, 1.0)
    share = np.maximum(below(-side * at), 1e-300)  # of prices on the side that is left
    push = side * density(at) / share  # the mean of the rest, in spreads (the inverse Mills ratio)
    middle = mean + curve.spread * push
    square = mean**2 + 2 * mean * curve.spread * push + curve.spread**2 * (1 + at * push)
    known = seen.kind == KNOWN
    return seen._replace(
        log_price=np.where(known, seen.log_price, seen.rows * middle),
        log_price_squared=np.where(known, seen.log_price_squared, seen.rows * square),
        log_p_price=np.where(known, seen.log_p_price, seen.log_p * middle),
    )


class Shading:
    """The bid b that makes most of P(b) (w - b), where the log of the price has mean 0.

    At the best bid w = b + P(b) / P'(b), which grows with b: the answer is read from that curve backwards.

    Args:
        spread: of the log price.
    """

    def __init__(self, spread: float) -> None:
        self._spread = spread
        self._x = np.linspace(-8.0, 8.0, 1_601)
        mills = below(self._x) / density(self._x)
        self._log_worth = spread * self._x + np.log1p(spread * mills)
        self._below = below(self._x)

    def at(self, worth: Floats) -> tuple[Floats, Floats]:
        """The chance to win, and the bid, for each worth (in units of the price's median); no bid is above its worth,
        however far that lies below all prices."""
        with np.errstate(divide="ignore"):
            x = np.interp(np.log(worth), self._log_worth, self._x)
        some = worth > 0
        share = np.interp(x, self._x, self._below)
        return np.where(some, share, 0.0), np.where(some, np.minimum(np.exp(self._spread * x), worth), 0.0)


def shaded(worth: Floats, log_mean: Floats, spread: float) -> Floats:
    """First-price bids.

    Args:
        worth: of each opportunity.
        log_mean: of the log price of each.
        spread: of the log price, one for all.
    """
    scale = np.exp(np.where(worth > 0, log_mean, 0.0))  # a probability of 0 has no logarithm
    return Shading(spread).at(worth / scale)[1] * scale


def quantile(level: Floats) -> Floats:
    """The standard normal's value below which a share lies."""
    x = np.linspace(-8.0, 8.0, 3_201)
    return np.asarray(np.interp(level, below(x), x))
