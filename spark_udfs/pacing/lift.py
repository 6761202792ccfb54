"""What a campaign added, by customers who were held out of it at random: outcomes with and without, and its ROI.

Customers are drawn for the campaign by a hash or a coin, before anything is known of how they answer; those who were
not drawn are shown nothing. The difference of means is then the effect of being drawn, whether an ad was seen or not
(intention to treat; Neyman, 1923). Nothing is filtered by what happened after the draw: that would undo it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from training.errors import DataError

Z = 1.959964  # 95 %


class Arm(NamedTuple):
    """Sums over the customers of one arm.

    Attributes:
        customers: how many; two at least.
        outcome: the sum of what each brought.
        squares: of what each brought.
        spend: what was paid for showing them ads.
        spend_squares: the squares of what was paid for each.
        products: of what each brought and what was paid.
    """

    customers: float
    outcome: float
    squares: float
    spend: float
    spend_squares: float
    products: float


class Estimate(NamedTuple):
    """A figure, its standard error, and the 95 % interval of that."""

    value: float
    error: float
    low: float
    high: float


class Lift(NamedTuple):
    """What a campaign added.

    Attributes:
        each: outcome that it added for each customer drawn.
        total: the same over all customers drawn.
        relative: of what they would have brought without it; NaN where those held out brought nothing.
        roi: what it added over what was paid for it, less 1; NaN where nothing was paid.
    """

    each: Estimate
    total: Estimate
    relative: Estimate
    roi: Estimate


def arms(customers: DataFrame, treated: Column, outcome: Column, spend: Column) -> tuple[Arm, Arm]:
    """The sums of those drawn, and of those held out: twelve numbers, however many customers there are.

    Args:
        customers: a row each.
        treated: whether the customer was drawn (boolean).
        outcome: what the customer brought in the time of the campaign, bought through it or not.
        spend: what was paid to show the customer ads.

    Raises:
        DataError: an arm has fewer than two customers, or a column has a null or no number.
    """
    y, paid = outcome.cast("double"), spend.cast("double")
    products = {"outcome": y, "squares": y * y, "spend": paid, "spend_squares": paid * paid, "products": y * paid}
    sums = [F.count(F.lit(1)).cast("double").alias("customers")]
    sums += [F.sum(held).alias(name) for name, held in products.items()]
    is_bad = treated.isNull() | y.isNull() | F.isnan(y) | paid.isNull() | F.isnan(paid)
    grouped = customers.groupBy(treated.alias("treated")).agg(*sums, F.sum(is_bad.cast("int")).alias("bad"))
    held = {row["treated"]: row for row in grouped.collect()}
    if count := sum(row["bad"] for row in held.values()):
        raise DataError(
            f"treated, outcome and spend must be there for every customer; {count:,} rows have a null or NaN. Put 0 "
            "where a customer brought nothing, and leave nobody out who was drawn or held out"
        )
    for arm, what in ((True, "drawn for the campaign"), (False, "held out of it")):
        count = int(held[arm]["customers"]) if arm in held else 0
        if count < 2:
            raise DataError(
                f"an effect needs two customers at least in each arm; {what}: {count}. Give those of both arms"
            )
    drawn, kept = (Arm(*(float(held[arm][name]) for name in Arm._fields)) for arm in (True, False))
    return drawn, kept


def lift(drawn: Arm, kept: Arm) -> Lift:
    """The effect of a campaign, with standard errors (Neyman's; ratios by the delta method).

    Args:
        drawn: the customers drawn for it.
        kept: those held out.
    """
    with_it, without = drawn.outcome / drawn.customers, kept.outcome / kept.customers
    of_drawn, of_kept = (_variance(arm.customers, arm.outcome, arm.squares) for arm in (drawn, kept))
    added, variance = with_it - without, of_drawn + of_kept
    relative = of_drawn / without**2 + with_it**2 * of_kept / without**4 if without else math.nan
    return Lift(
        _estimate(added, variance),
        _estimate(drawn.customers * added, drawn.customers**2 * variance),
        _estimate(added / without if without else math.nan, relative),
        _roi(drawn, added, variance),
    )


def _roi(drawn: Arm, added: float, variance: float) -> Estimate:
    paid = drawn.spend / drawn.customers
    if not paid:
        return _estimate(math.nan, math.nan)
    of_paid = _variance(drawn.customers, drawn.spend, drawn.spend_squares)
    both = (drawn.products / drawn.customers - drawn.outcome * drawn.spend / drawn.customers**2) / (drawn.customers - 1)
    of_ratio = variance / paid**2 + added**2 * of_paid / paid**4 - 2 * added * both / paid**3
    return _estimate(added / paid - 1, of_ratio)


def _variance(customers: float, total: float, squares: float) -> float:
    """Of a mean."""
    return max(squares / customers - (total / customers) ** 2, 0.0) / (customers - 1)


def _estimate(value: float, variance: float) -> Estimate:
    error = math.sqrt(max(variance, 0.0)) if not math.isnan(variance) else math.nan
    return Estimate(value, error, value - Z * error, value + Z * error)
