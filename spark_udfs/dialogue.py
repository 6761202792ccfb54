"""A conversation with a customer: what is known of it, and whether to answer, to ask, or to hand over to a person.

    message --slots--> what is known     message --model--> intent, how sure, in scope?
    the cheapest of: the best answer that can be filled; asking for what it lacks; a person

A turn is a function: state and message in, state and reply out. So a table of messages and a terminal get the same
replies. What is shown is a text of the shop's own, with the shop's own facts and with what the slots' patterns found
put in; nothing else that a customer writes is shown or run. No Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from spark_udfs.fillings import Fillings, Order
from spark_udfs.knowledge import Knowledge
from spark_udfs.slots import LETTERS, ORDER_NUMBER, in_line, persons_own, plain, slots_of

ANSWER, ASK, HAND_OVER = "answer", "ask", "hand_over"
LOOKED_AT = 30  # answers that are tried, the best ones
SAME_AT_MOST = 1  # times that an answer is given in a conversation
SHOWN = 200  # letters of a message in a summary
TURNS = 20  # messages of a conversation that a reply depends on, the last ones
REFUSED_AT_MOST = 2  # addresses that are not an order's, in a conversation, before a person looks at it
SUPPLIES = 4  # words beside a slot, at most, of a message that does no more than supply what was asked for

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


class Turn(NamedTuple):
    """A message and what a model says of it."""

    text: str
    said: Said


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
        past_replies: whether the answers are replies to customers of the past: one that holds a number or an address
            that is no slot of this customer's is about somebody else.
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
        refused: orders with the addresses that were said and are not theirs.
        waiting: what is said of the message that waits for a slot, with its text.
    """

    slots: Mapping[str, str] = field(default_factory=dict)
    turns: int = 0
    asked: Mapping[str, int] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    refused: frozenset[tuple[str, str]] = frozenset()
    waiting: Turn | None = None


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


def last_reply(turns: Sequence[Turn], knowledge: Knowledge, orders: Orders | None, rules: Rules) -> Reply:
    """The reply to the last of a conversation's messages, after those to the others; the last TURNS count."""
    state = State()
    for one in turns[-TURNS:]:
        state, reply = turn(state, one, knowledge, orders, rules)
    return reply


def turn(state: State, message: Turn, knowledge: Knowledge, orders: Orders | None, rules: Rules) -> tuple[State, Reply]:
    """One message of a customer and its reply.

    Args:
        state: of the conversation before it.
        message: with what a model says of it.
        knowledge: the shop's answers.
        orders: an order's columns by its number, as texts; None: there is no such order. It is asked once at most. None
            in its place: the shop has no table of orders, and a number is taken as it is said.
        rules: the shop's.
    """
    text, said = message
    found = slots_of(text)
    known = replace(state, slots={**state.slots, **found}, turns=state.turns + 1)
    if state.waiting is not None and found and _supplies(message, state.waiting.said, rules):
        text, said = state.waiting
    known = replace(known, waiting=None)
    if not said.in_scope:
        return _handed_over(known, text, said, rules, "out of scope")
    if said.intent in rules.people:
        return _handed_over(known, text, said, rules, "the shop answers this by people")
    if not _sure(said, rules):
        return _handed_over(known, text, said, rules, "not sure enough of the intent")
    held = Fillings(rules.fills, known.slots, _order(known, orders), has_orders=orders is not None)
    known = replace(known, refused=known.refused | held.refused)
    if len(known.refused) > REFUSED_AT_MOST:
        return _handed_over(known, text, said, rules, "addresses were said that are not the order's")
    return _answered(known, Turn(text, said), knowledge, held, rules)


def _order(state: State, orders: Orders | None) -> Order | None:
    number = state.slots.get(ORDER_NUMBER)
    return None if orders is None or number is None else orders(number)


def _wrong(said: Said, rules: Rules) -> float:
    return (1 - said.p) * rules.wrong_cost


def _sure(said: Said, rules: Rules) -> bool:
    return said.in_scope and _wrong(said, rules) < rules.hand_over_cost


def _supplies(message: Turn, waiting: Said, rules: Rules) -> bool:
    """Whether a message with a slot does no more than supply what was asked for: it has no word beside it; or few, and
    these are not surely of something else."""
    rest = plain(message.text, LETTERS).replace("...", " ")
    if not any(letter.isalpha() for letter in rest):
        return True
    same = message.said.intent == waiting.intent or not _sure(message.said, rules)
    return message.said.in_scope and same and len(rest.split()) <= SUPPLIES


def _answered(state: State, message: Turn, knowledge: Knowledge, held: Fillings, rules: Rules) -> tuple[State, Reply]:
    """The best answer that can be filled; else a question for what the best one lacks that can be asked for."""
    (text, said), wanted = message, None
    cost, own = _wrong(said, rules), {*state.slots.values()}
    for known in knowledge.best(text, said.intent, LOOKED_AT):
        if state.given.count(known.answer_id) >= SAME_AT_MOST:
            continue
        if rules.past_replies and not persons_own(known.text) <= own:
            continue
        tried = held.put_in(known.text)
        if tried.text is not None:
            given = replace(state, given=(*state.given, known.answer_id))
            return given, Reply(ANSWER, tried.text, said.intent, cost, (("answers", known.answer_id), *tried.used))
        if wanted is None and len(tried.missing) == 1 and tried.missing[0] in rules.questions:
            wanted = tried.missing[0]
    may_ask = wanted is not None and state.asked.get(wanted, 0) < rules.asked_at_most
    if wanted is None or not may_ask or cost + rules.ask_cost >= rules.hand_over_cost:
        return _handed_over(state, text, said, rules, "no answer of this intent can be filled")
    asked = {**state.asked, wanted: state.asked.get(wanted, 0) + 1}
    waiting = replace(state, asked=asked, waiting=message)
    return waiting, Reply(ASK, rules.questions[wanted], said.intent, cost + rules.ask_cost, ())


def _handed_over(state: State, text: str, said: Said, rules: Rules, why: str) -> tuple[State, Reply]:
    known = ", ".join(sorted(state.slots)) or "nothing"
    summary = (
        f"{why}; message {state.turns}: '{plain(text, SHOWN)}'; most likely {in_line(said.intent, SHOWN)} "
        f"({said.p:.0%}); known: {known}; answers given: {in_line(', '.join(state.given), SHOWN) or 'none'}"
    )
    return state, Reply(HAND_OVER, rules.handed_over, said.intent, rules.hand_over_cost, (), why, summary)
