"""Intent: how likely a visit of the shop ends in a purchase, and whom something is worth being offered.

An example is a session whose end was known before the cut: a row of a table of sessions, or a visit of a click stream
as of a moment within it, with what was known by then. Validation measures how well a model ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.column_names import LONGEST, NAME, are_numbers, called, ours_of
from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.tasks import decided
from jobs.tasks.intent_options import HAS, OF_SESSIONS, OWN, IntentOptions, ids_of, numbers_of, options_of
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from jobs.settings import Settings

# Names of steps that are a purchase, and what names of columns have in them that may tell of one, or of whom it was.
ORDERS = {
    *("order", "orders", "purchase", "purchases", "purchased", "buy", "bought", "paid", "transaction", "order_placed"),
    *("place_order", "order_complete", "order_completed", "purchase_complete", "purchase_completed"),
    *("checkout_complete", "checkout_completed"),
}
TELLING = "purchase|order|revenue|bought|convert|customer|account|email|e_mail|user_id|label|time|date"
MOST, MOST_IDS, LONGEST_WORD = 500, 100, 200  # as the options have it
NOT_FOUND = "???"  # what only the shop knows


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Sessions, where a label that is null is not known; or the steps of a click stream."""
    options = options_of(settings)
    own: dict[str, str] = {name: kind for name, kind in HAS.items() if name in options.has} | {"time": "timestamp"}
    if options.of == "steps":
        return {"steps": own | {"page": "string"}}
    held = dict.fromkeys(options.numbers, "double?") | dict.fromkeys(options.flags, "boolean?")
    return {"sessions": own | {"label": "boolean?"} | held | dict.fromkeys(options.ids, "string?")}


def guesses(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A click stream, where no column is a label, one says what was done, and sessions have several rows.

    Else sessions: numbers, flags, and what else says a few things; none that may tell of an order or of a person.
    """
    found = {name: called(name, list(columns)) for name in (*HAS, "time", "page", "label")}
    session = found["session_id"]
    said = [] if session is None else [text for text in columns[session] if text.strip()]
    if found["page"] and not found["label"] and len({*said}) < len(said) and (steps := _of_steps(columns, found)):
        return steps
    asked = {name: [text.strip() for text in columns[column]] for name, column in ours_of(list(columns)).items()}
    taken = {called(name, list(columns)) for name in (*HAS, "time", "label", "order_id")}
    own = {
        name: [text for text in asked[name] if text]
        for name, column in ours_of(list(columns)).items()
        if found["label"] and column not in taken and name not in OWN and not re.search(TELLING, name)
    }
    own = {name: texts for name, texts in own.items() if texts}
    numbers = [name for name, texts in own.items() if are_numbers(texts)]
    flags = [name for name, texts in own.items() if {text.lower() for text in texts} <= {"true", "false"}]
    others = [name for name in own if name not in (*numbers, *flags)]
    ids = [name for name in others if 2 * len({*own[name]}) <= len(own[name])]
    has = [name for name in OF_SESSIONS if found[name]]
    return {"has": has, "numbers": numbers[:MOST], "flags": flags[:MOST], "ids": ids[:MOST_IDS]}


def _of_steps(columns: Mapping[str, Sequence[str]], found: Mapping[str, str | None]) -> dict[str, Any]:
    """Steps by what they say; words that differ in case and signs alone are one. Empty: they are numbers alone."""
    words = sorted({word.strip() for word in columns[found["page"] or ""]} - {""})
    pages: dict[str, list[str]] = {}
    for word in words:
        plain = re.sub("[^a-z0-9]+", "_", word.lower()).strip("_")
        name = plain if re.fullmatch(NAME, plain) and len(plain) <= LONGEST else f"page_{words.index(word)}"
        pages.setdefault(name, []).append(word)
    if not pages or are_numbers(words):
        return {}
    orders = [word for name, of in pages.items() if name in ORDERS for word in of]
    counted = {name: of for name, of in pages.items() if name not in ORDERS and max(map(len, of)) <= LONGEST_WORD}
    has = [name for name in HAS if found[name]]
    of_all = {"of": "steps", "has": has, "pages": dict(list(counted.items())[:MOST_IDS])}
    return {**of_all, "orders": orders or [NOT_FOUND]} if counted else {}


def kinds(settings: Settings) -> dict[str, str]:
    """A vocabulary for each column of ids."""
    return {name: name for name in ids_of(options_of(settings))}


def schema(sizes: Mapping[str, int], settings: Settings) -> Schema:
    """The examples' columns. `sizes` counts each vocabulary's indices, the unknown 0 included."""
    options = options_of(settings)
    return Schema(
        (
            *(Column(name, Kind.ID, vocabulary=name, size=sizes[name]) for name in ids_of(options)),
            *(Column(name, Kind.DENSE, fill=0.0) for name in numbers_of(options)),
            Column("label", Kind.LABEL),
            Column("time", Kind.TIME),
        )
    )


def headline(settings: Settings) -> Headline:  # noqa: ARG001
    """How well sessions are put in order and told apart, and how true the probabilities are."""
    return decided.headline("sessions", {"F1": "f1"})


def numbers(settings: Settings) -> list[str]:
    """The columns of ids, without those of persons: one that was erased changes no other's number."""
    held = said_persons(settings, options_of(settings).of)
    return [name for name in kinds(settings) if name not in held]


def persons(settings: Settings) -> dict[str, dict[str, str]]:
    """The columns that the settings name; what is made of sessions has no id but the session's."""
    table = options_of(settings).of
    held = said_persons(settings, table)
    if not held:
        return {}
    return {
        table: dict.fromkeys(held, BY_ID),
        **{name: {"session_id": BY_LINE} for name in ("examples", "queries", "intent_scores")},
        **{f"vocabulary_{name}": {"id": BY_ID} for name in kinds(settings) if name in held},
    }


TASK = Task(
    name="intent",
    what="how likely a session ends in a purchase, also as of a moment within it",
    row="session",
    options=IntentOptions,
    reads=reads,
    asks=("queries",),
    kinds=kinds,
    numbers=numbers,
    key=("row_id",),
    spread=1,
    schema=schema,
    model="row_mlp",
    learn="jobs.tasks.decided:learn",
    metrics=decided.METRICS,
    on_spark="jobs.tasks.intent_on_spark",
    headline=headline,
    answered=("key", "p", "alarm"),
    table="intent_scores",
    answer=("session_id", "time", "p", "buys"),
    columns=AnswerColumns("session_id", ((),), ("p",), "p"),
    persons=persons,
    guesses=guesses,
    demo=Demo("intent_shop", "intent", "sources.sessions.path"),
    simulated={"steps": "steps"},
)
