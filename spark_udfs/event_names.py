"""The names of an event's columns, and its kinds, as settings and rows have them."""

from __future__ import annotations

REQUIRED = ("item_id", "user_id", "time")
OF_SALES = ("order_id", "quantity", "price")  # required where an event may be a purchase or a return
OPTIONAL = ("name", "category", "country", "kind", "rating", "arrival_time")
NAMES = (*OF_SALES, *REQUIRED, *OPTIONAL)
KINDS = ("purchase", "return", "view", "cart", "wish", "click", "impression", "rating", "question")
SOLD = ("purchase", "return")
QUESTION = "question"  # of a customer who is asked, and from whom nothing is learnt
