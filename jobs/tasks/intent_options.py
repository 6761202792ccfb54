"""What only intent has in its settings; apart from the task, so that what it does on Spark may ask for it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from jobs.column_names import LONGEST, NAME
from jobs.settings_base import Section

if TYPE_CHECKING:
    from jobs.settings import Settings

HAS = {"session_id": "string", "user_id": "string?", "item_id": "string?", "arrival_time": "timestamp?"}
OF_SESSIONS, OF_STEPS = ("session_id", "arrival_time"), tuple(HAS)
OF_VISIT = ("steps", "seconds", "gap_seconds", "hour", "is_weekend")  # what is known of any visit so far
OF_ITEMS = ("items", "items_again")
OF_USER = ("user_visits", "user_visits_30d", "user_orders", "user_days_since", "user_days_since_order")
OWN = (*HAS, "time", "page", "label", "label_time", "split", "known_at", "piece", "key", "row_id", "visit", "p", "buys")
Name = Annotated[str, Field(pattern=f"^{NAME}$", max_length=LONGEST)]
Word = Annotated[str, Field(min_length=1, max_length=200)]


class IntentOptions(Section):
    """What only intent has."""

    of: Literal["sessions", "steps"] = Field(
        "sessions",
        description="sessions: a table with a row a session; steps: a click stream, whose visits are learnt from as of "
        "moments within them",
    )
    has: tuple[Literal["session_id", "user_id", "item_id", "arrival_time"], ...] = Field(
        ("session_id",),
        description="further columns; of sessions session_id, without which what a session holds names it, and "
        "arrival_time; steps must have session_id",
    )
    numbers: tuple[Name, ...] = Field((), max_length=500, description="columns of `sessions` that are numbers")
    flags: tuple[Name, ...] = Field((), max_length=500, description="columns of `sessions` that are true or false")
    ids: tuple[Name, ...] = Field(
        (), max_length=100, description="columns of `sessions` that the model learns a vector of, such as a browser"
    )
    rule: Name | None = Field(
        None, description="one of numbers: sessions in its order are a contender, the more the likelier"
    )
    pages: dict[Name, tuple[Word, ...]] = Field(
        {},
        max_length=100,
        description="what steps are counted by, with the words that `page` has for it, e.g. {cart: [basket, add]}",
    )
    orders: tuple[Word, ...] = Field(
        ("order",), min_length=1, max_length=100, description="words of `page` that are a purchase"
    )
    after_steps: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (3, 6, 12),
        min_length=1,
        max_length=100,
        description="numbers of steps after which a visit is learnt from and judged",
    )
    idle_minutes: float = Field(
        30, gt=0, le=1_440, description="without a step after which a visit is over; later ones are of the next"
    )
    reach_share: float = Field(0.1, gt=0, lt=1, description="share of sessions that something can be offered to")
    tree_rows: int = Field(
        200_000, ge=100, le=10_000_000, description="examples, drawn by hash, that the boosted trees learn from"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        held = [*self.numbers, *self.flags, *self.ids]
        if taken := sorted({name for name in held if name in OWN or held.count(name) > 1}):
            raise ValueError(
                f"numbers, flags and ids must differ from each other and from {', '.join(OWN)}; got {', '.join(taken)}"
            )
        if self.rule is not None and self.rule not in self.numbers:
            raise ValueError(f"rule must be one of numbers; got '{self.rule}'; name it there too")
        if self.of == "sessions":
            self._check_sessions()
        else:
            self._check_steps(held)
        return self

    def _check_sessions(self) -> None:
        if strange := sorted({*self.has} - {*OF_SESSIONS}):
            raise ValueError(
                f"has must be of {', '.join(OF_SESSIONS)} where sessions are read; got {', '.join(strange)}; name a "
                "column that is learnt from in numbers, flags or ids, or set of to steps"
            )
        if self.pages:
            raise ValueError("pages are counted of steps; set of to steps, or leave them out")

    def _check_steps(self, held: list[str]) -> None:
        if held:
            raise ValueError(
                f"numbers, flags and ids are columns of sessions; got {', '.join(held)}; of steps what was known is "
                "counted: leave them out, or set of to sessions"
            )
        if "session_id" not in self.has:
            raise ValueError("has must name session_id where steps are read: it says which of them belong together")
        if not self.pages:
            raise ValueError("pages must say by which words steps are counted, e.g. {cart: [basket]}; it names none")


def options_of(settings: Settings) -> IntentOptions:
    """The task's own settings."""
    assert isinstance(settings.options, IntentOptions)
    return settings.options


def numbers_of(options: IntentOptions) -> tuple[str, ...]:
    """The examples' columns that are numbers."""
    if options.of == "sessions":
        return (*options.numbers, *options.flags)
    pages = tuple(f"{name}_steps" for name in options.pages)
    items = OF_ITEMS if "item_id" in options.has else ()
    return (*OF_VISIT, *pages, *items, *(OF_USER if "user_id" in options.has else ()))


def ids_of(options: IntentOptions) -> tuple[str, ...]:
    """The examples' columns of ids, each with a vocabulary of its own."""
    return options.ids if options.of == "sessions" else ("page",)
