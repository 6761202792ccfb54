"""A conversation with a customer: what is known of it, and whether to answer, to ask, or to hand over to a person.

    message --slots--> what is known     message --model--> intent, how sure, in scope?
    the cheapest of: the best answer that can be filled; asking for what it lacks; a person

A turn is a function: state and message in, state and reply out. So a table of messages and a terminal get the same
replies. What is shown is a text of the shop's own, with the shop's own facts and with what the slots' patterns found
put in; nothing else that a customer writes is shown or run. No Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from spark_udfs.knowledge import Knowledge, Known, filled, placeholders
from spark_udfs.slots import EMAIL, ORDER_NUMBER, numbers_of, plain, slots_of

ANSWER, ASK, HAND_OVER = "answer", "ask", "hand_over"
OF_ORDERS = "@orders."
LOOKED_AT = 30  # answers that are tried, the best ones
SAME_AT_MOST = 1  # times that an answer is given in a conversation
SHOWN = 200  # letters of a message in a summary
SUPPLIES = 4  # words beside a slot, at most, of a message that does no more than supply what was asked for

Order = Mapping[str, str]
Orders = Callable[[str], Order | None]


class Said(NamedTuple):
    """What a model says of a message.

    Attributes:
        intent: its name.
        p: how likely it is right.
        in_scope: whether the message has one of the intents at all.
    """

    intent: str
    p: float
    in_scope: bool


@dataclass(frozen=True)
class Rules:
    """What a shop rules of its conversations.

    Attributes:
        wrong_cost: of an answer to another intent.
        hand_over_cost: of a person's time.
        ask_cost: of a question to the customer.
        asked_at_most: times that one thing is asked for.
        people: intents that people answer.
        fills: by a placeholder's name (`knowledge.name_of`) its text; `@SLOT` is a slot, `@orders.COLUMN` of an order.
        questions: by slot how it is asked for.
        handed_over: what a customer is told then.
        past_replies: whether the answers are replies to customers of the past: one that holds a number that this
            customer has not said is about somebody else's order.
    """

    wrong_cost: float = 5.0
    hand_over_cost: float = 1.0
    ask_cost: float = 0.1
    asked_at_most: int = 2
    people: frozenset[str] = frozenset()
    fills: Mapping[str, str] = field(default_factory=dict)
    questions: Mapping[str, str] = field(default_factory=dict)
    handed_over: str = "A colleague of ours will answer you."
    past_replies: bool = False


@dataclass(frozen=True)
class State:
    """What is known of a conversation.

    Attributes:
        slots: the newest value of each.
        turns: messages so far.
        asked: how often each slot was asked for.
        given: ids of answers that were given.
        waiting: what is said of the message that waits for a slot, with its text.
    """

    slots: Mapping[str, str] = field(default_factory=dict)
    turns: int = 0
    asked: Mapping[str, int] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    waiting: tuple[str, Said] | None = None


class Reply(NamedTuple):
    """What a customer gets.

    Attributes:
        kind: ANSWER, ASK or HAND_OVER.
        text: what is shown.
        intent: which it is for.
        cost: expected, of what was chosen.
        used: rows that the reply is made of: (table, id).
        why: of a hand-over.
        summary: of a hand-over, for the person; nothing that tells who the customer is.
    """

    kind: str
    text: str
    intent: str
    cost: float
    used: tuple[tuple[str, str], ...]
    why: str = ""
    summary: str = ""


class _Value(NamedTuple):
    """What a placeholder is filled with; None: nothing, and what it lacks: a slot, or the placeholder's own rule."""

    text: str | None
    lacks: str


class _Try(NamedTuple):
    """An answer filled, or None and what it lacks; and the rows beside it that it was filled from."""

    text: str | None
    missing: tuple[str, ...]
    used: tuple[tuple[str, str], ...]


def turn(
    state: State, text: str, said: Said, knowledge: Knowledge, orders: Orders, rules: Rules
) -> tuple[State, Reply]:
    """One message of a customer and its reply.

    Args:
        state: of the conversation before it.
        text: the message.
        said: what a model says of it.
        knowledge: the shop's answers.
        orders: an order's columns by its number, as texts; None: there is no such order.
        rules: the shop's.
    """
    found = slots_of(text)
    known = replace(state, slots={**state.slots, **found}, turns=state.turns + 1)
    if state.waiting is not None and found and _only_supplies(text):
        text, said = state.waiting
    known = replace(known, waiting=None)
    if said.intent in rules.people and said.in_scope:
        return _handed_over(known, text, said, rules, "the shop answers this by people")
    if not said.in_scope:
        return _handed_over(known, text, said, rules, "out of scope")
    wrong = (1 - said.p) * rules.wrong_cost
    if wrong >= rules.hand_over_cost:
        return _handed_over(known, text, said, rules, "not sure enough of the intent")
    return _answered(known, text, said, knowledge, orders, rules, wrong)


def _answered(
    state: State, text: str, said: Said, knowledge: Knowledge, orders: Orders, rules: Rules, cost: float
) -> tuple[State, Reply]:
    """The best answer that can be filled; else a question for what the best one lacks that can be asked for."""
    wanted: str | None = None
    own = numbers_of(" ".join((text, *state.slots.values())))
    for known in knowledge.best(text, said.intent, LOOKED_AT):
        if state.given.count(known.answer_id) >= SAME_AT_MOST:
            continue
        if rules.past_replies and not numbers_of(known.text) <= own:
            continue
        tried = _filled(known, state, orders, rules)
        if tried.text is not None:
            given = replace(state, given=(*state.given, known.answer_id))
            return given, Reply(ANSWER, tried.text, said.intent, cost, (("answers", known.answer_id), *tried.used))
        if wanted is None and len(tried.missing) == 1 and tried.missing[0] in rules.questions:
            wanted = tried.missing[0]
    may_ask = wanted is not None and state.asked.get(wanted, 0) < rules.asked_at_most
    if wanted is None or not may_ask or cost + rules.ask_cost >= rules.hand_over_cost:
        return _handed_over(state, text, said, rules, "no answer of this intent can be filled")
    asked = {**state.asked, wanted: state.asked.get(wanted, 0) + 1}
    waiting = replace(state, asked=asked, waiting=(text, said))
    return waiting, Reply(ASK, rules.questions[wanted], said.intent, cost + rules.ask_cost, ())


def _filled(known: Known, state: State, orders: Orders, rules: Rules) -> _Try:
    """An answer with what is known put in; of what is missing the slots that would help, and placeholders that nothing
    fills."""
    names = placeholders(known.text)
    number = state.slots.get(ORDER_NUMBER)
    is_of_order = any(rules.fills.get(name, "").startswith(OF_ORDERS) for name in names)
    order = orders(number) if is_of_order and number is not None else None
    values = {name: _value(name, state, order, rules) for name in names}
    missing = dict.fromkeys(of.lacks for of in values.values() if of.text is None)
    if missing:
        return _Try(None, tuple(missing), ())
    text = filled(known.text, {name: str(of.text) for name, of in values.items()})
    return _Try(text, (), (("orders", str(number)),) if order is not None else ())


def _value(name: str, state: State, order: Order | None, rules: Rules) -> _Value:
    """What a placeholder is filled with. What an order's row says is told only to who knows its e-mail address too,
    where it has one."""
    rule = rules.fills.get(name, "")
    if not rule.startswith("@"):
        return _Value(rule or None, name)
    if not rule.startswith(OF_ORDERS):
        return _Value(state.slots.get(rule[1:]), rule[1:])
    if order is None:
        return _Value(None, ORDER_NUMBER)
    if order.get(EMAIL) and order[EMAIL].lower() != state.slots.get(EMAIL, "").lower():
        return _Value(None, EMAIL)
    return _Value(order.get(rule.removeprefix(OF_ORDERS)) or None, name)


def _only_supplies(text: str) -> bool:
    """Whether a message says little beside a slot."""
    return len(plain(text, SHOWN).replace("...", " ").split()) <= SUPPLIES


def _handed_over(state: State, text: str, said: Said, rules: Rules, why: str) -> tuple[State, Reply]:
    known = ", ".join(sorted(state.slots)) or "nothing"
    summary = (
        f"{why}; message {state.turns}: '{plain(text, SHOWN)}'; most likely {said.intent} ({said.p:.0%}); "
        f"known: {known}; answers given: {', '.join(state.given) or 'none'}"
    )
    return state, Reply(HAND_OVER, rules.handed_over, said.intent, rules.hand_over_cost, (), why, summary)
