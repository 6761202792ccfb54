"""What the placeholders of a shop's answers are filled with: its own texts, what a customer has said, and an order. No
Spark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from spark_udfs.placeholders import filled, placeholders
from spark_udfs.slots import EMAIL, ORDER_NUMBER

OF_ORDERS = "@orders."

Order = Mapping[str, str]


class Filled(NamedTuple):
    """An answer filled, or None and what it lacks; and the rows beside it that it was filled from.

    Attributes:
        text: what is shown.
        missing: slots that would help, and placeholders that nothing fills.
        used: (table, id) of rows.
    """

    text: str | None
    missing: tuple[str, ...]
    used: tuple[tuple[str, str], ...]


class _Value(NamedTuple):
    """What a placeholder is filled with; None: nothing, and what it lacks: a slot, or the placeholder's own rule."""

    text: str | None
    lacks: str


@dataclass(frozen=True)
class Fillings:
    """What is known when an answer is chosen.

    Attributes:
        fills: by a placeholder's name (`placeholders.name_of`) its text, or `@SLOT`, or `@orders.COLUMN`, of an order.
        slots: what the customer has said.
        order: that the customer has named, if there is such.
        has_orders: whether the shop has a table of orders.
    """

    fills: Mapping[str, str]
    slots: Mapping[str, str]
    order: Order | None
    has_orders: bool

    @property
    def refused(self) -> frozenset[tuple[str, str]]:
        """The order with the address that was said, where that is not the order's."""
        said = self.slots.get(EMAIL)
        return frozenset() if said is None or self._is_theirs else frozenset({(self.slots[ORDER_NUMBER], said.lower())})

    def put_in(self, text: str) -> Filled:
        """An answer with what is known put in; where no filling would take its marks away, None that lacks nothing."""
        names = placeholders(text)
        if filled(text, dict.fromkeys(names, "x")) is None:
            return Filled(None, (), ())
        values = {name: self._value(name) for name in names}
        missing = dict.fromkeys(of.lacks for of in values.values() if of.text is None)
        if missing:
            return Filled(None, tuple(missing), ())
        is_told = any(self.fills[name].startswith(OF_ORDERS) for name in values)
        used = (("orders", self.slots[ORDER_NUMBER]),) if is_told else ()
        return Filled(filled(text, {name: str(of.text) for name, of in values.items()}), (), used)

    @property
    def _is_theirs(self) -> bool:
        """Whether the order has no address, or the customer has named it."""
        wanted = (self.order or {}).get(EMAIL)
        return not wanted or wanted.lower() == self.slots.get(EMAIL, "").lower()

    def _value(self, name: str) -> _Value:
        """A number must be one of an order, where there is a table of these. What an order's row says is told only to
        who knows its e-mail address too, where it has one."""
        rule = self.fills.get(name, "")
        if not rule.startswith("@"):
            return _Value(rule or None, name)
        if rule != f"@{EMAIL}" and self.has_orders and self.order is None:
            return _Value(None, ORDER_NUMBER)
        if not rule.startswith(OF_ORDERS):
            return _Value(self.slots.get(rule[1:]), rule[1:])
        if not self._is_theirs:
            return _Value(None, EMAIL)
        return _Value((self.order or {}).get(rule.removeprefix(OF_ORDERS)) or None, name)
