"""Messages to the simulated shop's customer service: intents, in many words and styles.

A message has an intent, drawn by SHARES, and a wording: one of its intent's own, or, with AMBIGUOUS_SHARE, one that it
shares with a second intent. So the most that any reader can know is planted: the intent of a wording of one's own is
certain, that of a shared wording is the more frequent of two. Styles (polite, keywords, angry, with a typing error)
change letters, not meaning. Wordings are numbered: hold out by `wording` or `style`, or near copies stand on both.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from spark_udfs.simulated import tastes
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, uniform

DAY_S = 86_400
AMBIGUOUS_SHARE = 0.15
STYLES = ("plain", "polite", "keywords", "angry", "typing error")
OUT_OF_SCOPE = "out_of_scope"
SHARES = {
    "track_order": 0.2,
    "cancel_order": 0.1,
    "change_address": 0.08,
    "return_item": 0.16,
    "refund_status": 0.12,
    "damaged_item": 0.1,
    "invoice": 0.08,
    "delete_account": 0.06,
    OUT_OF_SCOPE: 0.1,
}
OWN = {
    "track_order": (
        "where is my order {order}",
        "when will order {order} arrive",
        "has {order} been shipped yet",
        "I want to follow the parcel of order {order}",
    ),
    "cancel_order": (
        "please cancel order {order}",
        "I no longer want order {order}",
        "stop {order} before it is sent",
        "I ordered {order} by mistake",
    ),
    "change_address": (
        "send order {order} to another address",
        "I have moved, what about {order}",
        "the street in order {order} is wrong",
        "how do I change my delivery address",
    ),
    "return_item": (
        "how can I send back an item of {order}",
        "I need a return label for {order}",
        "it does not fit and I want to return it",
        "can I exchange something from order {order}",
    ),
    "refund_status": (
        "when do I get my money for {order}",
        "the refund of order {order} has not come",
        "you still owe me the amount of {order}",
        "how long does a refund take",
    ),
    "damaged_item": (
        "something in order {order} is broken",
        "the parcel {order} came open and damaged",
        "there is a crack in what you sent with {order}",
        "order {order} arrived in pieces",
    ),
    "invoice": (
        "I need an invoice for order {order}",
        "please put our tax number on the bill of {order}",
        "where can I download receipts",
        "the invoice of {order} has a wrong name",
    ),
    "delete_account": (
        "delete my account and my data",
        "how do I close my account",
        "remove me from your customer list",
        "I do not want to be your customer any more",
    ),
    OUT_OF_SCOPE: (
        "what is the weather tomorrow",
        "write me a poem about rain",
        "who won the match last night",
        "are you a robot",
    ),
}
SHARED = (
    (("track_order", "refund_status"), "nothing has come for {order} so far"),
    (("cancel_order", "return_item"), "I do not want what is in {order} any more"),
    (("return_item", "damaged_item"), "I am not happy with what came in {order}"),
    (("invoice", "change_address"), "my details in {order} are wrong"),
    (("delete_account", OUT_OF_SCOPE), "what do you know about me"),
)
INTENTS = tuple(SHARES)
IN_SCOPE = tuple(intent for intent in INTENTS if intent != OUT_OF_SCOPE)
_OF_INTENT = len(OWN["invoice"])
WORDINGS = (*(text for intent in INTENTS for text in OWN[intent]), *(text for _, text in SHARED))


def intent_probability() -> Floats:
    """The probability of each intent given a wording, as (wordings, intents)."""
    joint = np.zeros((len(WORDINGS), len(INTENTS)))
    for number, intent in enumerate(INTENTS):
        shared = _shared(number)
        own = slice(number * _OF_INTENT, (number + 1) * _OF_INTENT)
        joint[own, number] = SHARES[intent] * (1 - AMBIGUOUS_SHARE) / _OF_INTENT
        for place in shared:
            joint[place, number] = SHARES[intent] * AMBIGUOUS_SHARE / len(shared)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def _best_in_scope() -> Ints:
    """(wordings,) the number of the likeliest intent that is in scope; -1 where there is none."""
    within = intent_probability()[:, [INTENTS.index(intent) for intent in IN_SCOPE]]
    return np.where(within.sum(axis=1) > 0, within.argmax(axis=1), -1)


def messages_of(users: Ints, shop: ShopSize) -> Rows:
    """One message of each customer, about one of their orders."""
    intent = np.searchsorted(np.cumsum([*SHARES.values()])[:-1], uniform(shop, "intent", users), side="right")
    which = uniform(shop, "wording", users)
    own = intent * _OF_INTENT + (which * _OF_INTENT).astype(np.int64)
    among = [_shared(number) for number in range(len(INTENTS))]
    shared = np.asarray(
        [among[one][int(at * len(among[one]))] for one, at in zip(intent, which, strict=True)], np.int64
    )
    wording = np.where(uniform(shop, "ambiguous", users) < AMBIGUOUS_SHARE, shared, own)
    style = (uniform(shop, "style", users) * len(STYLES)).astype(np.int64)
    orders = tastes.orders_of(users, shop)
    order = (uniform(shop, "asked order", users) * orders).astype(np.int64)
    sent = tastes.order_day(users, order, orders, shop) + 1 - np.log(uniform(shop, "asked", users)) * 4
    slip = uniform(shop, "slip", users)
    texts = [
        _said(WORDINGS[template].format(order=f"{user:09d}-{number:04d}"), STYLES[way], at)
        for template, user, number, way, at in zip(wording, users, order, style, slip, strict=True)
    ]
    return {
        "user": users,
        "sent_time": tastes.start_s(shop) + (sent * DAY_S).astype(np.int64),
        "text": pa.array(texts, pa.string()),
        "intent": words(INTENTS, intent),
        "style": words(STYLES, style),
        "wording": wording,
        "intent_probability": intent_probability()[wording, intent],
        "best_probability": intent_probability()[wording].max(axis=1),
        "best_intent": words(IN_SCOPE, _best_in_scope()[wording]),
        "in_scope_probability": 1 - intent_probability()[wording, INTENTS.index(OUT_OF_SCOPE)],
    }


def _shared(intent: int) -> list[int]:
    """The numbers of the shared wordings of an intent; each has at least one."""
    first = len(INTENTS) * _OF_INTENT
    return [first + place for place, (pair, _) in enumerate(SHARED) if INTENTS[intent] in pair]


def _said(text: str, style: str, at: float) -> str:
    """A wording in a style; `at` (0 to 1) is where a typing error falls."""
    if style == "polite":
        return f"Hello, {text}? Thank you very much."
    if style == "keywords":
        return " ".join(word for word in text.split() if len(word) > 3)
    if style == "angry":
        return f"{text.upper()}!!!"
    if style == "typing error":
        place = int(at * (len(text) - 1))
        return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text


MESSAGES = Planted(
    name="messages",
    meaning="a customer's message to the shop",
    fields=(
        Field("message_id", "string", "of the message", "M%09d", ("user",)),
        Field("user_id", "string", "the customer", "U%09d", ("user",)),
        Field("sent_time", "timestamp", "when: after the order that it is about"),
        Field("text", "string", "what the customer wrote; an order id is that of `order_lines`"),
        Field("intent", "string", "the label: what the customer wants; out_of_scope: nothing that the shop can do"),
        Field("style", "string", "plain, polite, keywords, angry or typing error"),
        Field(
            "wording", "int", "the number of the wording, without its style: messages of one wording are near copies"
        ),
    ),
    truth=(
        Field("intent_probability", "double", "of this intent, given the wording"),
        Field(
            "best_probability", "double", "of the likeliest intent, given the wording; its mean is the best accuracy"
        ),
        Field("best_intent", "string", "the likeliest intent that is in scope, given the wording; null: there is none"),
        Field("in_scope_probability", "double", "of an intent that is in scope, given the wording"),
    ),
    units=lambda shop: shop.users,
    rows_per_unit=lambda _: 1.0,
    make=messages_of,
)
