"""Fraud in the simulated shop: registrations and payments, and whose device, address or terminal was in wrong hands.

An entity (a device, a network address, a payment terminal) is compromised now and then: in each period of PERIOD_DAYS
with the probability of its kind, for one interval of 40 to 100 days. What is done through a compromised entity is fraud
more often; so are large payments, payments at night, and payments of customers whose registration was a fraud. The
probability of each row is planted and its label drawn from it. Nobody sees who is compromised: a model finds out by
what happened there before, and may use a label only from `label_time` on, when a report has come or can come no more.
"""

from __future__ import annotations

import numpy as np

from spark_udfs.simulated import tastes
from spark_udfs.simulated.draws import sigmoid
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Floats, Ints, Mask, ShopSize, uniform

DAY_S = 86_400
PERIOD_DAYS = 120.0
SHORTEST_DAYS, LONGEST_DAYS = 40.0, 100.0  # of an interval; reports come after 18 days, so the past tells of most of it
COMPROMISED = {"device": 0.004, "shared device": 0.25, "address": 0.01, "busy address": 0.3, "terminal": 0.13}
BUSY_SHARE = 0.25  # of registrations that come from an address with many
SHARED_SHARE, SECOND_SHARE = 0.04, 0.15  # of payments from a shared device; of the others, from the second own one
AWAY_SHARE = 0.1  # of payments from a busy address, the others come from home
PAYMENT_BASE, REGISTRATION_BASE = -7.0, -5.5  # log odds where nothing is wrong
PAYMENT_LIFT = {"device": 5.0, "address": 4.0, "terminal": 4.0, "registration": 1.5, "night": 0.7, "amount": 0.6}
REGISTRATION_LIFT = {"address": 5.5, "disposable": 1.5, "night": 0.7}
DISPOSABLE_SHARE = 0.1  # of e-mail addresses
NIGHT_HOURS = 6
USUAL_AMOUNT = 20.0
CHARGEBACK_DAYS, CHARGEBACK_WITHIN = 15.0, 60.0  # mean after the third day, and the last day on which one can come
REVIEW_DAYS, REVIEW_WITHIN = 8.0, 30.0


def compromised(kind: str, entity: Ints, day: Floats, shop: ShopSize) -> Mask:
    """Whether an entity of a kind (a key of COMPROMISED) is compromised at a moment."""
    period = np.floor(day / PERIOD_DAYS).astype(np.int64)
    happens = uniform(shop, f"{kind} compromised", entity, period) < COMPROMISED[kind]
    length = SHORTEST_DAYS + (LONGEST_DAYS - SHORTEST_DAYS) * uniform(shop, f"{kind} how long", entity, period)
    begin = (PERIOD_DAYS - length) * uniform(shop, f"{kind} from", entity, period)
    into = day - period * PERIOD_DAYS
    return happens & (begin <= into) & (into < begin + length)


def payments_of(users: Ints, shop: ShopSize) -> Rows:
    """One payment for each order that has lines, of the amount of its lines."""
    lines = tastes.lines(users, shop)
    item, line = (np.asarray(lines[name], np.int64) for name in ("item", "line"))
    user, order = (np.asarray(lines[name], np.int64) for name in ("user", "order"))
    first = np.flatnonzero((np.diff(user, prepend=-1) != 0) | (np.diff(order, prepend=-1) != 0))
    due = tastes.quantity(user, order, line, shop) * tastes.price(item, shop)
    amount = np.add.reduceat(due, first) if len(first) else due
    user, order, day = user[first], order[first], np.asarray(lines["day"], np.float64)[first]
    ids = (user, order)
    shared = uniform(shop, "shared device", *ids) < SHARED_SHARE
    own = user * 2 + (uniform(shop, "second device", *ids) < SECOND_SHARE)
    pool = (uniform(shop, "which device", *ids) * _shared_devices(shop)).astype(np.int64)
    away = uniform(shop, "away", *ids) < AWAY_SHARE
    elsewhere = (uniform(shop, "where", *ids) * _busy_addresses(shop)).astype(np.int64)
    address = np.where(away, _addresses(shop) + elsewhere, _home(user, shop))
    usual = (uniform(shop, "terminal", user) * _terminals(shop)).astype(np.int64)
    terminal = (usual - np.log(uniform(shop, "next terminal", *ids)).astype(np.int64)) % _terminals(shop)
    at_hand = np.where(shared, compromised("shared device", pool, day, shop), compromised("device", own, day, shop))
    at_home = compromised("address", address, day, shop)
    at_place = np.where(away, compromised("busy address", elsewhere, day, shop), at_home)
    lift = PAYMENT_LIFT
    p = sigmoid(
        PAYMENT_BASE
        + lift["device"] * at_hand
        + lift["address"] * at_place
        + lift["terminal"] * compromised("terminal", terminal, day, shop)
        + lift["registration"] * _registered(user, shop)[1]
        + lift["night"] * _at_night(day)
        + lift["amount"] * np.log(amount / USUAL_AMOUNT)
    )
    fraud = uniform(shop, "payment fraud", *ids) < p
    return {
        "user": user,
        "order": order,
        "device": np.where(shared, shop.users * 2 + pool, own),
        **_network(address),
        "terminal_id": terminal,
        "amount": np.round(amount, 2),
        "payment_time": _time(day, shop),
        "fraud": fraud,
        "label_time": _time(
            day + _known_after("chargeback", fraud, CHARGEBACK_WITHIN, CHARGEBACK_DAYS, ids, shop), shop
        ),
        "fraud_probability": p,
    }


def registrations_of(users: Ints, shop: ShopSize) -> Rows:
    """One registration for each customer, before their first order."""
    p, fraud, address, disposable = _registered(users, shop)
    day = tastes.joined_day(users, shop)
    return {
        "user": users,
        "device": users * 2,
        **_network(address),
        "email_domain": words(("mail.example", "disposable.example"), disposable.astype(np.int64)),
        "registration_time": _time(day, shop),
        "fraud": fraud,
        "label_time": _time(day + _known_after("review", fraud, REVIEW_WITHIN, REVIEW_DAYS, (users,), shop), shop),
        "fraud_probability": p,
    }


def _registered(user: Ints, shop: ShopSize) -> tuple[Floats, Mask, Ints, Mask]:
    """Of a registration: the probability of fraud, whether it is one, the address, and a disposable e-mail address."""
    busy = uniform(shop, "busy", user) < BUSY_SHARE
    which = (uniform(shop, "which address", user) * _busy_addresses(shop)).astype(np.int64)
    home, day = _home(user, shop), tastes.joined_day(user, shop)
    in_wrong_hands = np.where(
        busy, compromised("busy address", which, day, shop), compromised("address", home, day, shop)
    )
    disposable = uniform(shop, "disposable", user) < DISPOSABLE_SHARE
    lift = REGISTRATION_LIFT
    p = sigmoid(
        REGISTRATION_BASE
        + lift["address"] * in_wrong_hands
        + lift["disposable"] * disposable
        + lift["night"] * _at_night(day)
    )
    fraud = uniform(shop, "registration fraud", user) < p
    return p, fraud, np.where(busy, _addresses(shop) + which, home), disposable


def _known_after(
    purpose: str, fraud: Mask, within: float, mean: float, ids: tuple[Ints, ...], shop: ShopSize
) -> Floats:
    """Days until a label is known: a fraud's when it is reported, any other's when no report can come any more."""
    reported = np.minimum(3.0 - np.log(uniform(shop, purpose, *ids)) * mean, within)
    return np.where(fraud, reported, within)


def _home(user: Ints, shop: ShopSize) -> Ints:
    return (uniform(shop, "home", user) * _addresses(shop)).astype(np.int64)


def _network(address: Ints) -> dict[str, Ints]:
    return {"network": address >> 16, "host": address & 0xFFFF}


def _addresses(shop: ShopSize) -> int:
    return max(8, shop.users // 2)


def _busy_addresses(shop: ShopSize) -> int:
    return max(4, shop.users // 200)


def _shared_devices(shop: ShopSize) -> int:
    return max(4, shop.users // 200)


def _terminals(shop: ShopSize) -> int:
    return max(10, shop.users // 100)


def _at_night(day: Floats) -> Mask:
    return day % 1 * 24 < NIGHT_HOURS


def _time(day: Floats, shop: ShopSize) -> Ints:
    return tastes.start_s(shop) + (day * DAY_S).astype(np.int64)


_WHO = (
    Field("user_id", "string", "the customer", "U%09d", ("user",)),
    Field("device_id", "string", "the device; some are shared", "D%09d", ("device",)),
    Field(
        "address",
        "string",
        "the network address; households and offices share one",
        "2001:db8::%x:%x",
        ("network", "host"),
    ),
)
_LABEL = (
    Field("fraud", "boolean", "the label"),
    Field("label_time", "timestamp", "from when on the label is known"),
)
_TRUTH = (Field("fraud_probability", "double", "the probability that the label was drawn with"),)

REGISTRATIONS = Planted(
    name="registrations",
    meaning="a customer's registration",
    fields=(
        *_WHO,
        Field("email_domain", "string", "of the e-mail address"),
        Field("registration_time", "timestamp", "when"),
        *_LABEL,
    ),
    truth=_TRUTH,
    units=lambda shop: shop.users,
    rows_per_unit=lambda _: 1.0,
    make=registrations_of,
)
PAYMENTS = Planted(
    name="payments",
    meaning="the payment of an order of `order_lines`",
    fields=(
        Field("order_id", "string", "the order, as in `order_lines`", "%09d-%04d", ("user", "order")),
        *_WHO,
        Field("terminal_id", "string", "the payment terminal", "T%07d"),
        Field("amount", "double", "of the order's true lines, before dirt was planted"),
        Field("payment_time", "timestamp", "when: the order's time"),
        *_LABEL,
    ),
    truth=_TRUTH,
    units=lambda shop: shop.users,
    rows_per_unit=lambda shop: shop.orders_per_user * tastes.LINES_PER_ORDER,
    make=payments_of,
)
