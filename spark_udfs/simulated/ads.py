"""Advertising of the simulated shop: campaigns with budgets, and a log of auctions that bids by chance.

A campaign speaks to one taste, on its days. In each auction the shop bids for one campaign, by chance about what an
impression is worth on average, so that each bid could have been made in each auction. The highest bid of the others is
log-normal about a mean that depends on the customer and the hour; the shop wins if it bids more, pays its own bid, and
never learns the others'. An ad that is won may be clicked, and a click may become an order some days later.

The log does not stop at a campaign's budget, which is for the one who plans: it is a share of what the campaign's wins
would cost if it bid the mean bid everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from spark_udfs.simulated import tastes
from spark_udfs.simulated.draws import normal, sigmoid
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Floats, Ints, Mask, ShopSize, positions, uniform

DAY_S = 86_400
CAMPAIGNS_PER_TASTE = 2
CAMPAIGN_DAYS = (20.0, 60.0)
AUCTIONS_PER_ORDER = 4.0  # before those of campaigns that are not on
CLICK_BASE, CLICK_TASTE, CLICK_CAMPAIGN = -4.0, 3.0, 0.4
ORDER_BASE, ORDER_TASTE = -2.5, 2.0
ORDER_DAYS, ORDER_WITHIN = 2.0, 14.0
VALUE, VALUE_SPREAD = 5.0, 0.4  # of an order: median, and the log's standard deviation
MARKET, MARKET_CUSTOMER, EVENING, MARKET_SPREAD = math.log(0.02), 0.4, 0.3, 0.5
BID, BID_SPREAD = math.log(0.02), 0.8
BUDGET = (0.2, 0.7)
DEVICES = ("phone", "computer", "tablet")


def win_probability(bid: Floats, market_log_mean: Floats) -> Floats:
    """The probability that a bid is higher than the highest of the others."""
    far = (np.log(bid) - market_log_mean) / (MARKET_SPREAD * math.sqrt(2))
    return np.asarray(0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(far)))


def campaigns_of(campaigns: Ints, shop: ShopSize) -> Rows:
    """Some campaigns."""
    first, last = _days(campaigns, shop)
    low, high = BUDGET
    share = low + (high - low) * uniform(shop, "budget", campaigns)
    auctions = (
        shop.users * shop.orders_per_user * AUCTIONS_PER_ORDER / _campaigns(shop) * (last - first + 1) / shop.days
    )
    bid = math.exp(BID + BID_SPREAD**2 / 2)
    spread = math.hypot(MARKET_SPREAD, MARKET_CUSTOMER)
    wins = 0.5 * (1 + math.erf((math.log(bid) - MARKET) / (spread * math.sqrt(2))))
    return {
        "campaign_id": campaigns,
        "category": tastes.taste_of_item(campaigns, shop),
        "value": _value(campaigns, shop),
        "budget": np.round(share * auctions * wins * bid, 2),
        "first_day": tastes.start_s(shop) // DAY_S + first,
        "last_day": tastes.start_s(shop) // DAY_S + last,
        "click_lift": CLICK_CAMPAIGN * normal(shop, "campaign", campaigns),
    }


def auctions_of(users: Ints, shop: ShopSize) -> Rows:
    """The auctions for some customers' attention that the shop took part in."""
    drawn = -np.log(uniform(shop, "auctions", users)) * shop.orders_per_user * AUCTIONS_PER_ORDER
    count = np.minimum(drawn.astype(np.int64), int(20 * shop.orders_per_user * AUCTIONS_PER_ORDER) + 1)
    user, number = np.repeat(users, count), positions(count)
    joined = tastes.joined_day(user, shop)
    day = joined + (shop.days - joined) * (number + uniform(shop, "auction", user, number)) / np.repeat(count, count)
    campaign = (uniform(shop, "bids for", user, number) * _campaigns(shop)).astype(np.int64)
    first, last = _days(campaign, shop)
    on = (first <= day) & (day < last + 1)
    user, number, day, campaign = user[on], number[on], day[on], campaign[on]
    ids = (user, number)
    share = tastes.taste_share(user, tastes.taste_of_item(campaign, shop), day, shop)
    market = MARKET + MARKET_CUSTOMER * normal(shop, "sought after", user) + EVENING * _in_the_evening(day)
    bid = np.exp(BID + BID_SPREAD * normal(shop, "bid", *ids))
    won = np.log(bid) > market + MARKET_SPREAD * normal(shop, "others", *ids)
    clicks = sigmoid(CLICK_BASE + CLICK_TASTE * share + CLICK_CAMPAIGN * normal(shop, "campaign", campaign))
    orders = sigmoid(ORDER_BASE + ORDER_TASTE * share)
    clicked = won & (uniform(shop, "ad click", *ids) < clicks)
    ordered = clicked & (uniform(shop, "ad order", *ids) < orders)
    at = tastes.start_s(shop) + (day * DAY_S).astype(np.int64)
    click_at = at + 1 + (uniform(shop, "ad click delay", *ids) * 30).astype(np.int64)
    later = np.minimum(-np.log(uniform(shop, "ad order delay", *ids)) * ORDER_DAYS, ORDER_WITHIN)
    return {
        "user": user,
        "number": number,
        "campaign_id": campaign,
        "auction_time": at,
        "device": words(DEVICES, (uniform(shop, "ad device", *ids) * len(DEVICES)).astype(np.int64)),
        "bid": bid,
        "won": won,
        "paid": np.where(won, bid, 0.0),
        "click_time": np.where(clicked, click_at, np.nan),
        "order_time": np.where(ordered, click_at + 60 + (later * DAY_S).astype(np.int64), np.nan),
        "market_log_mean": market,
        "win_probability": win_probability(bid, market),
        "click_probability": clicks,
        "order_probability": orders,
    }


def _campaigns(shop: ShopSize) -> int:
    return CAMPAIGNS_PER_TASTE * shop.tastes


def _days(campaign: Ints, shop: ShopSize) -> tuple[Ints, Ints]:
    """The first and the last day of a campaign."""
    low, high = CAMPAIGN_DAYS
    length = np.minimum(low + (high - low) * uniform(shop, "campaign days", campaign), shop.days).astype(np.int64)
    first = (uniform(shop, "campaign from", campaign) * (shop.days - length + 1)).astype(np.int64)
    return first, first + length - 1


def _value(campaign: Ints, shop: ShopSize) -> Floats:
    return np.round(VALUE * np.exp(VALUE_SPREAD * normal(shop, "value", campaign)), 2)


def _in_the_evening(day: Floats) -> Mask:
    return day % 1 * 24 >= 18


_CAMPAIGN = Field("campaign_id", "string", "the campaign", "A%06d")

CAMPAIGNS = Planted(
    name="campaigns",
    meaning="a campaign",
    fields=(
        _CAMPAIGN,
        Field("category", "string", "the category, and the taste, that it speaks to", "category %04d"),
        Field("value", "double", "of an order that comes of it"),
        Field("budget", "double", "for all its days; the log of auctions does not stop at it"),
        Field("first_day", "date", "the first day"),
        Field("last_day", "date", "the last day"),
    ),
    truth=(Field("click_lift", "double", "what it adds to the log odds of a click"),),
    units=_campaigns,
    rows_per_unit=lambda _: 1.0,
    make=campaigns_of,
)
AUCTIONS = Planted(
    name="auctions",
    meaning="an auction for a customer's attention",
    fields=(
        Field("auction_id", "string", "customer and number", "B%09d-%05d", ("user", "number")),
        Field("user_id", "string", "the customer", "U%09d", ("user",)),
        _CAMPAIGN,
        Field("auction_time", "timestamp", "when"),
        Field("device", "string", "phone, computer or tablet; tells nothing"),
        Field("bid", "double", "drawn by chance: log-normal about .02, with spread .8"),
        Field("won", "boolean", "the bid was the highest"),
        Field("paid", "double", "the bid if it won, else 0"),
        Field("click_time", "timestamp", "when the ad was clicked; null: not shown or not clicked"),
        Field("order_time", "timestamp", "when an order came of it, up to 14 days later; null: none"),
    ),
    truth=(
        Field("market_log_mean", "double", "the mean of the log of the others' highest bid; its spread is .5"),
        Field("win_probability", "double", "that this bid wins"),
        Field("click_probability", "double", "of a click, once the ad is shown"),
        Field("order_probability", "double", "of an order, once it is clicked"),
    ),
    units=lambda shop: shop.users,
    rows_per_unit=lambda shop: shop.orders_per_user * AUCTIONS_PER_ORDER * min(1.0, sum(CAMPAIGN_DAYS) / 2 / shop.days),
    make=auctions_of,
)
