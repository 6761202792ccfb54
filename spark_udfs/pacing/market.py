"""What bids bring: wins, spend and actions of a campaign's cells at any multipliers, under the two price rules.

A cell is a group of opportunities of one step that are alike (`cells.py`). With the multipliers a of the budget and b
of the target T, what an opportunity of probability p and value v is worth to the campaign is

    w = p (v + b T) / (1 + a + b)

In a second-price auction w is the bid. In a first-price auction it is shaded: see `curve.py`. Both are the answers of
the Lagrangian of: as much value less spend as the budget and the target allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spark_udfs.pacing.curve import Curve, Shading

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Wins(NamedTuple):
    """What a worth per unit of probability brings, by cell; each is a sum over the cell's opportunities.

    Attributes:
        share: of them that are won.
        paid: what they cost.
        paid_squared: the sum of the squares of what each costs.
        paid_times_p: the sum of what each costs times its probability.
    """

    share: Floats
    paid: Floats
    paid_squared: Floats
    paid_times_p: Floats


@dataclass(frozen=True)
class SecondPrice:
    """Cells of a campaign where the winner pays the highest bid of the others: all that cost less than the bid are won.

    Attributes:
        step: of each cell.
        rows: how many opportunities a day.
        actions: the sum of their probabilities, as they were given.
        worth: the sum of probability times value.
        ratio: log2 of the lowest price over probability of each cell.
        width: of a cell, in log2; within it the ratios are taken as even.
        price: the sum of prices.
        price_squared: the sum of their squares.
    """

    step: Ints
    rows: Floats
    actions: Floats
    worth: Floats
    ratio: Floats
    width: float
    price: Floats
    price_squared: Floats

    def wins(self, per_action: Floats) -> Wins:
        """What `per_action`, the worth over the probability, brings in each cell."""
        with np.errstate(divide="ignore"):
            share = np.clip((np.log2(per_action) - self.ratio) / self.width, 0.0, 1.0)
        squared = share * self.price_squared
        return Wins(share, share * self.price, squared, squared / np.exp2(self.ratio + self.width / 2))

    def rest(self, first: int, volume: float) -> SecondPrice:
        """The cells from a step on, for the multipliers; those of one ratio and value are one, whatever their step.

        Args:
            first: the step.
            volume: how many opportunities come for each of the cells'.
        """
        kept = self.step >= first
        value = np.round(np.log2(np.maximum(self.worth[kept] / self.actions[kept], 2.0**-40)), 9)
        keys, place = np.unique(np.column_stack([self.ratio[kept], value]), axis=0, return_inverse=True)

        def total(of_cells: Floats) -> Floats:
            return volume * np.bincount(place.ravel(), of_cells[kept], minlength=len(keys))

        return SecondPrice(
            step=np.full(len(keys), first),
            rows=total(self.rows),
            actions=total(self.actions),
            worth=total(self.worth),
            ratio=keys[:, 0],
            width=self.width,
            price=total(self.price),
            price_squared=total(self.price_squared),
        )


@dataclass(frozen=True)
class FirstPrice:
    """Cells of a campaign where the winner pays its own bid, and the highest of the others is as the curve says.

    Attributes:
        step: of each cell.
        rows: how many opportunities a day.
        actions: the sum of their probabilities, as they were given.
        worth: the sum of probability times value.
        probability: the mean of each cell, as it was given.
        curve: of the highest bid of the others.
        shading: what to bid for a worth.
    """

    step: Ints
    rows: Floats
    actions: Floats
    worth: Floats
    probability: Floats
    curve: Curve
    shading: Shading

    def wins(self, per_action: Floats) -> Wins:
        """What `per_action`, the worth over the probability, brings in each cell."""
        scale = np.exp(self.curve.log_mean(self.step, self.probability))
        share, bid = self.shading.at(per_action * self.probability / scale)
        paid = self.rows * share * bid * scale
        return Wins(share, paid, paid * bid * scale, paid * self.probability)

    def rest(self, first: int, volume: float) -> FirstPrice:
        """The cells from a step on; see `SecondPrice.rest`."""
        kept = self.step >= first
        return replace(
            self,
            step=self.step[kept],
            rows=volume * self.rows[kept],
            actions=volume * self.actions[kept],
            worth=volume * self.worth[kept],
            probability=self.probability[kept],
        )


Market = SecondPrice | FirstPrice


class Weights(NamedTuple):
    """What a bidder multiplies: an opportunity's worth is p (value * of_value + of_action).

    Attributes:
        of_value: the weight of the value.
        of_action: what an action is worth beside its value, for the target's sake.
    """

    of_value: float
    of_action: float


def weights(budget: float, target: float, cost: float, calibration: float) -> Weights:
    """The weights of two multipliers.

    Args:
        budget: the budget's multiplier.
        target: the target's multiplier.
        cost: the target's cost per action; 0 where there is none.
        calibration: actions for each one that the probabilities foretell.
    """
    over = 1 + budget + target
    return Weights(calibration / over, calibration * target * cost / over)


class Brought(NamedTuple):
    """What a campaign's bids bring in all.

    Attributes:
        spend: what is paid.
        actions: how many, by the calibrated probabilities.
        value: of the actions.
    """

    spend: float
    actions: float
    value: float


def brought(market: Market, held: Weights, calibration: float) -> Brought:
    """What weights bring in all of a market's cells."""
    won = market.wins(per_action(market, held))
    return Brought(
        float(won.paid.sum()),
        calibration * float(won.share @ market.actions),
        calibration * float(won.share @ market.worth),
    )


def per_action(market: Market, held: Weights) -> Floats:
    """The worth over the probability of each cell."""
    return held.of_value * market.worth / market.actions + held.of_action
