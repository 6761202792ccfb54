"""BG/NBD with Gamma-Gamma, by maximum likelihood: what is expected of a customer by recency, frequency and value alone.

A customer orders at a rate of their own, Gamma(r, alpha) over customers, until after some order they are gone, with a
chance of their own, Beta(a, b) (Fader, Hardie and Lee 2005). What a day's orders are worth is on the average Gamma, of
a rate that is Gamma over customers (p, q, gamma; Fader and Hardie 2013, "The Gamma-Gamma model of monetary value").

Of a customer are known x, the days with an order after the first; t_x, days from the first to the last of them; T, days
from the first to the moment; m, the mean value of all days with an order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from torch import Tensor

Doubles = npt.NDArray[np.float64]

STEPS = 200  # of the optimiser at most; it ends where nothing gets better
TERMS = 2_000  # of a hypergeometric series at most
LEAST = 1e-12
KNOWN = ("order_days", "recency_days", "tenure_days", "value_mean")


class Habits(NamedTuple):
    """BG/NBD's parameters: rates in orders a day."""

    r: float
    alpha: float
    a: float
    b: float


class Values(NamedTuple):
    """Gamma-Gamma's parameters."""

    p: float
    q: float
    gamma: float


def fit_habits(x: Doubles, t_x: Doubles, T: Doubles) -> Habits:
    """The parameters that make what customers did the likeliest; all (customers,), days."""
    import torch

    scale = float(T.mean())  # the likelihood is flat in days, and steep in years
    frequency, last, age = (torch.from_numpy(np.asarray(one, np.float64)) for one in (x, t_x / scale, T / scale))

    def loss(r: Tensor, alpha: Tensor, a: Tensor, b: Tensor) -> Tensor:
        both = torch.lgamma(r + frequency) - torch.lgamma(r) + r * torch.log(alpha)
        stays = _log_beta(a, b + frequency) - _log_beta(a, b) - (r + frequency) * torch.log(alpha + age)
        leaves = _log_beta(a + 1, (b + frequency - 1).clamp(min=LEAST)) - _log_beta(a, b)
        gone = torch.where(frequency > 0, leaves - (r + frequency) * torch.log(alpha + last), -torch.inf)
        return -(both + torch.logaddexp(stays, gone)).mean()

    r, alpha, a, b = _least(loss, 4)
    return Habits(r, alpha * scale, a, b)


def fit_values(count: Doubles, mean: Doubles) -> Values:
    """The parameters that make mean values the likeliest: (customers,) days with an order, and their mean value."""
    import torch

    unit = float(mean.mean())
    number, value = (torch.from_numpy(np.asarray(one, np.float64)) for one in (count, mean / unit))

    def loss(p: Tensor, more: Tensor, gamma: Tensor) -> Tensor:
        q = 1 + more  # below 1 there is no mean
        shape = p * number
        ways = torch.lgamma(shape + q) - torch.lgamma(shape) - torch.lgamma(q) + q * torch.log(gamma)
        own = (shape - 1) * torch.log(value) + shape * torch.log(number)
        return -(ways + own - (shape + q) * torch.log(gamma + number * value)).mean()

    p, more, gamma = _least(loss, 3)
    return Values(p, 1 + more, gamma * unit)


def alive(habits: Habits, x: Doubles, t_x: Doubles, T: Doubles) -> Doubles:
    """The chance that customers are not gone."""
    r, alpha, a, b = habits
    odds = a / (b + np.maximum(x, 1) - 1) * ((alpha + T) / (alpha + t_x)) ** (r + x)
    return 1 / (1 + np.where(x > 0, odds, 0))


def buys(habits: Habits, days: float, x: Doubles, t_x: Doubles, T: Doubles) -> Doubles:
    """The chance of an order within so many days: who is not gone leaves after an order at the earliest."""
    r, alpha, *_ = habits
    none = ((alpha + T) / (alpha + T + days)) ** (r + x)
    return alive(habits, x, t_x, T) * (1 - none)


def orders(habits: Habits, days: float, x: Doubles, t_x: Doubles, T: Doubles) -> Doubles:
    """The days with an order that are expected within so many days (equation 10 of the paper)."""
    r, alpha, a, b = habits
    whole = alpha + T + days
    series = hypergeometric(r + x, b + x, a + b + x - 1, days / whole)
    grown = 1 - ((alpha + T) / whole) ** (r + x) * series
    return (a + b + x - 1) / (a - 1) * grown * alive(habits, x, t_x, T)


def hypergeometric(a: Doubles, b: Doubles, c: Doubles, z: Doubles) -> Doubles:
    """Gauss's function, 0 <= z < 1; after Euler's transformation its series converges for many orders too."""
    term, total = np.ones_like(z), np.ones_like(z)
    for place in range(TERMS):
        term = term * (c - a + place) * (c - b + place) / ((c + place) * (place + 1)) * z
        total = total + term
        if np.all(np.abs(term) <= LEAST * np.abs(total)):
            break
    return np.asarray((1 - z) ** (c - a - b) * total)


def value(values: Values, count: Doubles, mean: Doubles) -> Doubles:
    """What a day's orders are expected to be worth: between a customer's own mean and that of all."""
    p, q, gamma = values
    return p * (gamma + count * mean) / (p * count + q - 1)


def fit(customers: DataFrame) -> tuple[Habits, Values]:
    """Both models of customers (KNOWN), all of whom come to the driver."""
    held = customers.select(*KNOWN).toPandas().to_numpy(np.float64)
    count, mean = held[:, 0], held[:, 3]
    paid = mean > 0
    return fit_habits(*_times(held)), fit_values(count[paid], mean[paid])


def answer(asked: DataFrame, models: tuple[Habits, Values], days: float) -> DataFrame:
    """`key`, p, amount and count of each customer.

    Args:
        asked: key, KNOWN.
        models: from `fit`.
        days: of the horizon.
    """
    habits, values = models

    def given(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns[1:]]
            held = np.stack(columns, axis=1).astype(np.float64)
            times = _times(held)
            count = orders(habits, days, *times)
            found = [buys(habits, days, *times), count * value(values, held[:, 0], held[:, 3]), count]
            yield pa.record_batch([batch.column(0), *map(pa.array, found)], ["key", "p", "amount", "count"])

    return asked.select("key", *KNOWN).mapInArrow(given, "key string, p double, amount double, count double")


def _times(held: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """x, t_x and T, of KNOWN."""
    count, recency, tenure = held[:, :3].T
    return count - 1, tenure - recency, tenure


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    import torch

    found: Tensor = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return found


def _least(loss: Callable[..., Tensor], count: int) -> list[float]:
    """The positive parameters of which a loss is least, from 1 each on: their logarithms, by L-BFGS."""
    import torch

    logs = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimiser: Any = torch.optim.LBFGS([logs], max_iter=STEPS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimiser.zero_grad()
        found: Any = loss(*logs.clamp(-15, 15).exp())
        found.backward()
        return found

    optimiser.step(closure)
    return list(logs.detach().clamp(-15, 15).exp().tolist())
