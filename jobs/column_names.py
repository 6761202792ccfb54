"""Which of a file's columns are most likely ours, by what shops call them, and what their values look like."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence

NAME, LONGEST = "[a-z][a-z0-9_]*", 100  # of a column that settings name
COMMA = r"[+-]?[\d.]*\d,\d+"  # a number with a decimal comma
YES, NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")  # in small letters
# What shops call our columns; letters and digits alone.
CALLED = {
    "user_id": (
        "user",
        "uid",
        "reviewer",
        "reviewerid",
        "customer",
        "customerid",
        "visitor",
        "visitorid",
        "client",
        "clientid",
        "member",
        "account",
    ),
    "item_id": (
        "item",
        "iid",
        "video",
        "videoid",
        "track",
        "trackid",
        "business",
        "businessid",
        "parentasin",
        "product",
        "productid",
        "sku",
        "stockcode",
        "article",
        "articleid",
        "movieid",
        "asin",
        "file",
    ),
    "time": (
        "timestamp",
        "ratingtimestamp",
        "unixreviewtime",
        "eventdate",
        "ts",
        "date",
        "datetime",
        "txdatetime",
        "transactiondate",
        "transactiontime",
        "transactiondatetime",
        "invoicedate",
        "eventtime",
        "eventtimestamp",
        "createdat",
        "at",
        "when",
        "day",
        "week",
        "saledate",
        "orderdate",
        "modified",
    ),
    "order_id": ("order", "invoice", "invoiceno", "basket", "transaction", "transactionid", "sessionid"),
    "quantity": ("qty", "amount", "units", "unitssold", "sales", "sold", "count"),
    "price": ("unitprice", "priceeach"),
    "kind": ("event", "eventtype", "eventname", "action", "type"),
    "rating": ("stars", "score"),
    "name": ("description", "title", "productname"),
    "label": (
        "fraud",
        "isfraud",
        "txfraud",
        "fraudlabel",
        "eventlabel",
        "target",
        "class",
        "revenue",
        "purchase",
        "bought",
        "converted",
        "clicked",
        "unhappy",
    ),
    "session_id": ("session", "sessionnumber", "visit", "visitid", "id"),
    "page": ("pagetype", "event", "eventtype", "action", "type"),
    "picture": ("image", "img", "photo", "content", "imagedata", "bytes"),
    "category": ("folder", "department"),
    "case_id": ("id", "eventid", "transactionid", "txid", "registrationid"),
    "review_id": ("id", "reviewnumber"),
    "text": ("review", "reviewtext", "comment", "body", "content", "message", "utterance", "query", "instruction"),
    "intent": ("intents", "intentname", "labeltext", "labelname", "label", "class", "topic", "category"),
    "message_id": ("id", "messagenumber"),
    "product": ("productid", "item", "itemid", "sku", "asin"),
    "series_id": ("series", "productcode", "product", "productid", "sku", "item", "itemid", "store"),
    "branch": ("store", "storeid", "storenbr", "shop", "shopid", "branchid", "warehouse", "outlet", "location"),
}
# What shops call the opposite of ours: of these, yes is our no.
OPPOSITE = {
    "label": (
        "recommended",
        "recommend",
        "recommendedind",
        "isrecommended",
        "wouldrecommend",
        "satisfied",
        "happy",
        "sentiment",
        "polarity",
    ),
}


def matching(name: str, columns: Sequence[str]) -> str | None:
    """The column that is most likely ours: of the same name, of one that shops use for it, or nearly so."""
    plain = {_plain(column): column for column in columns}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.8)
    return called(name, columns) or (plain[close[0]] if close else None)


def opposite(name: str, columns: Sequence[str]) -> str | None:
    """The column that says the opposite of ours."""
    plain = {_plain(column): column for column in columns}
    return next((plain[one] for one in OPPOSITE.get(name, ()) if one in plain), None)


def called(name: str, columns: Sequence[str]) -> str | None:
    """The column of the same name as ours, or of one that shops use for it."""
    plain = {_plain(column): column for column in columns}
    return next((plain[one] for one in (_plain(name), *CALLED.get(name, ())) if one in plain), None)


def ours_of(columns: Sequence[str]) -> dict[str, str]:
    """Names as ours are written -> columns, of those that can be written so and told apart."""
    told = [name for name in columns if name not in alike(columns)]
    made = {re.sub("[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in told}
    return {name: column for name, column in made.items() if re.fullmatch(NAME, name) and len(name) <= LONGEST}


def are_numbers(said: Sequence[str]) -> bool:
    """Whether all that rows say are numbers, with a decimal point or comma; so do those that say nothing."""
    number = rf"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?|{COMMA}"
    return all(re.fullmatch(number, text.strip()) for text in said if text.strip())


def alike(columns: Sequence[str]) -> list[str]:
    """The columns whose names differ from another's in case and signs alone: `matching` cannot tell them apart."""
    counts = Counter(map(_plain, columns))
    return [column for column in columns if counts[_plain(column)] > 1]


def _plain(column: str) -> str:
    return re.sub("[^a-z0-9]", "", column.lower())
