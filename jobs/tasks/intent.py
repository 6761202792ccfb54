"""Intent: how likely a visit of the shop ends in a purchase, and whom something is worth being offered.

An example is a session whose end was known before the cut: a row of a table of sessions, or a visit of a click stream
as of a moment within it, with what was known by then. Validation measures how well a model ranks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.column_names import are_numbers, matching, ours_of
from jobs.task import BY_ID, BY_LINE, AnswerColumns, Demo, Headline, Task, said_persons
from jobs.tasks import decided
from jobs.tasks.intent_options import HAS, OF_SESSIONS, OWN, IntentOptions, ids_of, numbers_of, options_of
from training.schema import Column, Kind, Schema

if TYPE_CHECKING:
    from jobs.settings import Settings

ORDERS = "order|purchase|buy|bought|paid|payment|transaction"  # in words for what ends in one


def reads(settings: Settings) -> dict[str, dict[str, str]]:
    """Sessions, where a label that is null is not known; or the steps of a click stream."""
    options = options_of(settings)
    own: dict[str, str] = {name: kind for name, kind in HAS.items() if name in options.has} | {"time": "timestamp"}
    if options.of == "steps":
        return {"steps": own | {"page": "string"}}
    held = dict.fromkeys(options.numbers, "double?") | dict.fromkeys(options.flags, "boolean?")
    return {"sessions": own | {"label": "boolean?"} | held | dict.fromkeys(options.ids, "string?")}


def guesses(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A click stream, where a column says what was done: what is said there is counted, or is an order. Else sessions:
    numbers, flags, and what else says a few things."""
    found = {name: matching(name, list(columns)) for name in (*HAS, "time", "page", "label")}
    if found["page"] and found["session_id"]:
        return _of_steps(columns[found["page"]], [name for name in HAS if found[name]])
    taken = {found[name] for name in (*OF_SESSIONS, "time", "label")}
    own = {name: columns[column] for name, column in ours_of(list(columns)).items() if column not in taken}
    own = {name: said for name, said in own.items() if name not in OWN and found["label"]}
    numbers = [name for name, said in own.items() if are_numbers(said)]
    flags = [name for name, said in own.items() if {text.lower() for text in said} <= {"true", "false"}]
    texts = [name for name in own if name not in (*numbers, *flags)]
    ids = [name for name in texts if 2 * len({*own[name]}) <= len(own[name])]
    return {"has": [name for name in OF_SESSIONS if found[name]], "numbers": numbers, "flags": flags, "ids": ids}


def _of_steps(said: Sequence[str], has: list[str]) -> dict[str, Any]:
    words = sorted({word.strip() for word in said} - {""})
    orders = [word for word in words if re.search(ORDERS, word.lower())]
    pages = {name: [word] for name, word in ours_of([word for word in words if word not in orders]).items()}
    return {"of": "steps", "has": has, "pages": pages, "orders": orders or ["order"]} if pages else {}


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
