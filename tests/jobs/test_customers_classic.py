"""BG/NBD and Gamma-Gamma against customers who were drawn by them, and formulas against integrals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from jobs.tasks.customers_classic import (
    Habits,
    Values,
    alive,
    buys,
    fit_habits,
    fit_values,
    hypergeometric,
    orders,
    value,
)

Doubles = npt.NDArray[np.float64]

TRUE = Habits(r=0.8, alpha=15.0, a=1.2, b=4.0)
PAID = Values(p=4.0, q=3.5, gamma=30.0)
DAYS = 30.0


def simulated(customers: int) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """x, t_x and T, and the orders of the thirty days after."""
    draws = np.random.default_rng(5)
    ages = draws.uniform(60, 250, customers)
    rates, leaves = draws.gamma(TRUE.r, 1 / TRUE.alpha, customers), draws.beta(TRUE.a, TRUE.b, customers)
    rows = []
    for age, rate, chance in zip(ages, rates, leaves, strict=True):
        at, known, last, then = 0.0, 0, 0.0, 0
        while (at := at + draws.exponential(1 / rate)) < age + DAYS:
            known, last, then = (known + 1, at, then) if at < age else (known, last, then + 1)
            if draws.random() < chance:
                break
        rows.append((known, last, then))
    known_, last_, then_ = (np.asarray(one, np.float64) for one in zip(*rows, strict=True))
    return known_, last_, ages, then_


def test_habits_are_found_and_what_is_expected_comes() -> None:
    *times, then = simulated(6_000)
    found = fit_habits(*times)
    assert found[:2] == pytest.approx(TRUE[:2], rel=0.15)
    assert found.a / (found.a + found.b) == pytest.approx(TRUE.a / (TRUE.a + TRUE.b), abs=0.04)
    p, count = buys(found, DAYS, *times), orders(found, DAYS, *times)
    assert p.mean() == pytest.approx((then > 0).mean(), abs=0.02)
    assert count.mean() == pytest.approx(then.mean(), rel=0.06)
    likely = p > np.median(p)
    assert p[likely].mean() == pytest.approx((then > 0)[likely].mean(), abs=0.03)
    assert (count >= p - 1e-9).all()
    assert (alive(found, *times)[times[0] == 0] == 1).all()  # nobody leaves before a second order


def test_values_are_found_and_pulled_towards_that_of_all() -> None:
    draws = np.random.default_rng(6)
    count = draws.integers(1, 15, 20_000).astype(np.float64)
    rate = draws.gamma(PAID.q, 1 / PAID.gamma, len(count))
    mean = draws.gamma(PAID.p * count, 1 / (count * rate))
    found = fit_values(count, mean)
    assert found == pytest.approx(PAID, rel=0.1)
    of_all = PAID.p * PAID.gamma / (PAID.q - 1)
    one, many = value(PAID, np.array([1.0, 200.0]), np.array([500.0, 500.0]))
    assert of_all < one < many < 500
    assert many == pytest.approx(500, rel=0.05)


def test_the_series_is_eulers_integral() -> None:
    """2F1(a, b; c; z) = integral of s^(b-1) (1-s)^(c-b-1) (1-zs)^-a over B(b, c-b)."""
    a, b, c, z = 2.5, 3.0, 7.0, np.array([0.0, 0.4, 0.9])
    s = (np.arange(200_000) + 0.5) / 200_000
    weight = s ** (b - 1) * (1 - s) ** (c - b - 1)
    wanted = [(weight * (1 - x * s) ** -a).sum() / weight.sum() for x in z]
    assert hypergeometric(np.full(3, a), np.full(3, b), np.full(3, c), z) == pytest.approx(wanted, rel=1e-6)
