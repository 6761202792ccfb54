"""Two days of auctions of the simulated shop, to plan bids by the first and to play them on the second.

Every opportunity is one campaign's: the shop may show this customer its ad, if it bids more than all others. How likely
that leads to an action is known to it; what others bid is told only afterwards, as many exchanges do. Their highest bid
is log-normal: it is higher in the evening, for customers whom many want, for those who are likely to act, and moves
from day to day. Some campaigns may spend so much an action at most. Budgets are shares of what a campaign would spend
if it bid what each opportunity is worth, so that most of them bind.

Competitors may react: see `reacted`.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from spark_udfs.simulated import tastes
from spark_udfs.simulated.draws import normal
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, positions, uniform

DAY_S, DAYS = 86_400, 2
CAMPAIGNS_PER_TASTE = 2
A_DAY = 10.0  # opportunities of a customer, on average
P_LOG_MEAN, P_SPREAD = math.log(0.02), 0.8
VALUE, VALUE_SPREAD = 5.0, 0.4  # of an action: median, and the log's standard deviation
MARKET, P_SLOPE = 0.6, 0.5  # the others' bids over what the median opportunity is worth; how they follow the odds
CUSTOMER, EVENING, OTHERS = 0.4, 0.3, 0.5  # spreads of the log price, and what the evening adds
DAY_PRICE, DAY_VOLUME = 0.05, 0.1  # how days of one campaign differ, in logs
OF_HOUR = (1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 12, 12, 13, 12, 11, 11, 12, 14, 16, 17, 15, 10, 5, 2)
BUDGET, RICH = (0.2, 0.7), (0.15, 0.9)  # of what all wins at the full worth would cost; where there is a target
WITH_TARGET, TARGET = 1 / 3, (0.6, 0.9)  # the share of campaigns, and the target over what the full worth would cost
REACTION, USUAL_SHARE = 0.3, 0.4  # of the log price to a share of wins, and the share to which it does not react
CURRENCY = "EUR"


def reacted(price: Floats, share: Floats | float) -> Floats:
    """What others bid after a step in which this share of opportunities went to us: more, the more they lost."""
    return np.asarray(price * np.exp(REACTION * (share - USUAL_SHARE)))


def budgets_of(campaigns: Ints, shop: ShopSize) -> Rows:
    """The terms of some campaigns for a day."""
    value = _value(campaigns, shop)
    rows = shop.users * A_DAY / _campaigns(shop)
    full = _at_full_worth(value)
    has_target = uniform(shop, "has a target", campaigns) < WITH_TARGET
    drawn = uniform(shop, "ad budget", campaigns)
    share = np.where(has_target, RICH[0] + (RICH[1] - RICH[0]) * drawn, BUDGET[0] + (BUDGET[1] - BUDGET[0]) * drawn)
    cut = TARGET[0] + (TARGET[1] - TARGET[0]) * uniform(shop, "ad target", campaigns)
    return {
        "campaign_id": campaigns,
        "budget": np.round(share * rows * full[0], 2),
        "target": pa.array(np.round(cut * full[0] / full[1], 4), mask=~has_target),
        "currency": words((CURRENCY,), np.zeros(len(campaigns), np.int64)),
    }


def opportunities_of(users: Ints, shop: ShopSize) -> Rows:
    """The opportunities to show some customers an ad on the shop's last two days."""
    owner = np.repeat(users, DAYS)
    day = np.tile(np.arange(DAYS), len(users))
    count = (-np.log(uniform(shop, "opportunities", owner, day)) * A_DAY + 0.5).astype(np.int64)
    user, day, number = np.repeat(owner, count), np.repeat(day, count), positions(count)
    ids = (user, day, number)
    campaign = _campaign(uniform(shop, "opportunity of", *ids), day, shop)
    hour = _hour(uniform(shop, "opportunity at", *ids))
    drawn = normal(shop, "opportunity odds", *ids)
    probability = np.minimum(np.exp(P_LOG_MEAN + P_SPREAD * drawn), 0.9)
    value = _value(campaign, shop)
    log_mean = (
        np.log(MARKET * value)
        + P_LOG_MEAN
        + P_SLOPE * P_SPREAD * drawn
        + EVENING * (hour >= 18)
        + DAY_PRICE * normal(shop, "price of the day", campaign, day)
    )
    customer = CUSTOMER * normal(shop, "sought after", user)
    price = np.exp(log_mean + customer + OTHERS * normal(shop, "others bid", *ids))
    first = tastes.start_s(shop) + (shop.days - DAYS) * DAY_S
    return {
        "user": user,
        "day": day,
        "number": number,
        "campaign_id": campaign,
        "time": first + day * DAY_S + np.minimum((hour * 3_600).astype(np.int64), DAY_S - 1),
        "probability": probability,
        "value": value,
        "price": price,
        "currency": words((CURRENCY,), np.zeros(len(user), np.int64)),
        "acts": uniform(shop, "acts", *ids) < probability,
        "price_log_mean": log_mean,
    }


def _campaigns(shop: ShopSize) -> int:
    return CAMPAIGNS_PER_TASTE * shop.tastes


def _value(campaign: Ints, shop: ShopSize) -> Floats:
    return np.round(VALUE * np.exp(VALUE_SPREAD * normal(shop, "value of an action", campaign)), 2)


def _campaign(drawn: Floats, day: Ints, shop: ShopSize) -> Ints:
    """The campaign of each opportunity: shares differ from day to day."""
    every, found = np.arange(_campaigns(shop)), np.zeros(len(drawn), np.int64)
    for number in range(DAYS):
        shares = np.exp(DAY_VOLUME * normal(shop, "volume of the day", every, np.full_like(every, number)))
        of_day = day == number
        found[of_day] = np.searchsorted(np.cumsum(shares / shares.sum())[:-1], drawn[of_day], side="right")
    return found


def _hour(drawn: Floats) -> Floats:
    """The hour of the day, by how much goes on in each."""
    until = np.concatenate([[0.0], np.cumsum(OF_HOUR)]) / sum(OF_HOUR)
    return np.asarray(np.interp(drawn, until, np.arange(25.0)))


def _at_full_worth(value: Floats) -> tuple[Floats, Floats]:
    """What an opportunity costs, and how many actions it brings, on average, if each is bid what it is worth.

    Log price and log probability are normal together: the mean of exp(a) where b lies below a bound, of two normals, is
    that of exp(a) times the chance that b, moved by their covariance, does. Evenings and days are left out.
    """
    price_mean = np.log(MARKET * value) + P_LOG_MEAN
    price_var = (P_SLOPE * P_SPREAD) ** 2 + CUSTOMER**2 + OTHERS**2
    with_p = P_SLOPE * P_SPREAD**2
    ratio_var = price_var + P_SPREAD**2 - 2 * with_p
    bound = np.log(value) - (price_mean - P_LOG_MEAN)

    def share(moved: float) -> Floats:
        far = (bound - moved) / math.sqrt(2 * ratio_var)
        return np.asarray(0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(far)))

    cost = np.exp(price_mean + price_var / 2) * share(price_var - with_p)
    actions = math.exp(P_LOG_MEAN + P_SPREAD**2 / 2) * share(with_p - P_SPREAD**2)
    return cost, actions


_CAMPAIGN = Field("campaign_id", "string", "the campaign", "D%06d")

BUDGETS = Planted(
    name="ad_budgets",
    meaning="a campaign's terms for a day",
    fields=(
        _CAMPAIGN,
        Field("budget", "double", "of a day"),
        Field("target", "double", "what an action may cost, at most; null: anything"),
        Field("currency", "string", "of budget and target"),
    ),
    truth=(),
    units=_campaigns,
    rows_per_unit=lambda _: 1.0,
    make=budgets_of,
)
OPPORTUNITIES = Planted(
    name="ad_opportunities",
    meaning="an ad that could be shown, on one of the shop's last two days",
    fields=(
        Field("opportunity_id", "string", "customer, day and number", "O%09d-%d-%04d", ("user", "day", "number")),
        Field("user_id", "string", "the customer", "U%09d", ("user",)),
        _CAMPAIGN,
        Field("time", "timestamp", "when"),
        Field("probability", "double", "of an action, once the ad is shown: right on average"),
        Field("value", "double", "of an action"),
        Field("price", "double", "the highest bid of the others"),
        Field("currency", "string", "of value and price"),
    ),
    truth=(
        Field("acts", "boolean", "an action comes of it, if the ad is shown"),
        Field("price_log_mean", "double", "of the log price, before customer and chance, whose spread is .64"),
    ),
    units=lambda shop: shop.users,
    rows_per_unit=lambda _: A_DAY * DAYS,
    make=opportunities_of,
)
