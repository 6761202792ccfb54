"""The sections of a task whose answers are lists of items: what they have beside those of every task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from jobs.settings_sections import EvaluationSettings, EventExamples, ScoringSettings

if TYPE_CHECKING:
    from jobs.settings import Settings


OF_EVENTS = {"item_id", "price", "first_sold", "last_sold"}  # columns of `items` that are no attributes


class ListExamples(EventExamples):
    """Lines to examples: what is held out, and how much history an example carries."""

    LATER: ClassVar[frozenset[str]] = frozenset({"form", "item_attributes", "asked"})

    form: Literal["purchases", "sequences"] = Field(
        "purchases",
        description="what an example is: a purchase with the history before it, or, for models of sequences, a "
        "stretch of a customer's purchases, each a target",
    )
    max_history: int = Field(
        100, ge=1, le=10_000, description="newest purchases that an example carries; targets of a stretch at most"
    )
    max_lines: int = Field(
        20_000, ge=1, le=10_000_000, description="newest lines of a customer that count; what is left out is said"
    )
    max_queries: int = Field(
        100_000,
        ge=1,
        le=2**31 - 1,
        description="customers that are asked at a cut, about; of a shop with more, a hash draws so many",
    )
    item_attributes: dict[
        Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")], Literal["id", "ids", "number", "text"]
    ] = Field(
        default_factory=dict,
        max_length=100,
        description="columns of the table `items` by which items are known that were never sold, and how each is "
        "taken, e.g. {category: id, tags: ids, list_price: number, description: text}; see docs/data.md",
    )
    asked: Literal["customers", "questions"] = Field(
        "customers",
        description="who is asked at the cuts: the customers who are learnt from, or, held out, those with events of "
        "the kind question, from which nothing is learnt",
    )
    recent_days: int = Field(30, ge=1, le=36_500, description="the window of an item's recent count, days")

    @field_validator("item_attributes")
    @classmethod
    def _attributes(cls, asked: dict[str, str]) -> dict[str, str]:
        facts = sorted(OF_EVENTS & asked.keys())
        if facts:
            raise ValueError(
                f"{', '.join(facts)}: of all events, those after the cut too; name attributes that ingest.items "
                "brings, e.g. list_price"
            )
        return asked


class ListEvaluation(EvaluationSettings):
    """Full ranking over the catalogue, against baselines on the same split."""

    ks: tuple[Annotated[int, Field(ge=1, le=100_000)], ...] = Field(
        (5, 10, 20, 50), min_length=1, max_length=20, description="lengths of the lists that are judged"
    )
    baselines: tuple[Literal["popularity", "recent_popularity", "item_item", "als", "ease"], ...] = Field(
        ("popularity", "recent_popularity", "item_item", "als"), description="what the bundle is held against"
    )
    cold_history: int = Field(
        0,
        ge=0,
        le=10_000,
        description="customers with at most so many lines of history are judged apart too, with those who have none: "
        "slice cold_users",
    )
    als_rank: int = Field(64, ge=1, le=10_000, description="numbers in a vector of ALS")
    als_iterations: int = Field(15, ge=1, le=10_000, description="iterations of ALS")
    als_alpha: float = Field(1.0, gt=0, description="weight of a purchase in ALS")
    als_regularisation: float = Field(0.1, ge=0, description="regularisation of ALS")
    ease_l2: float = Field(500.0, gt=0, le=1e9, description="ridge of EASE, in customers: smaller for fewer purchases")
    ease_items: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="items of a catalogue that EASE takes at most: one task holds items x items x 33 bytes, 3.3 GB",
    )

    @field_validator("ks")
    @classmethod
    def _ks(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(ks)))


class ListScoring(ScoringSettings):
    """Top-K for every user."""

    k: int = Field(20, ge=1, le=100_000, description="items of a list")
    exclude_seen: bool = Field(True, description="leave out what the user has bought")
    cold_users: Literal["recent_popularity", "skip"] = Field(
        "recent_popularity", description="what customers get whom the bundle does not know"
    )


def examples_of(settings: Settings) -> ListExamples:
    """How examples are made, of a task of lists."""
    assert isinstance(settings.examples, ListExamples)
    return settings.examples


def in_sequences(settings: Settings) -> bool:
    """Whether examples are stretches of customers' lines; other tasks have none."""
    return isinstance(settings.examples, ListExamples) and settings.examples.form == "sequences"


def asks_questions(settings: Settings) -> bool:
    """Whether those are asked from whom nothing is learnt."""
    return examples_of(settings).asked == "questions"


def evaluation_of(settings: Settings) -> ListEvaluation:
    """How lists are judged."""
    assert isinstance(settings.evaluation, ListEvaluation)
    return settings.evaluation


def scoring_of(settings: Settings) -> ListScoring:
    """Which lists are made."""
    assert isinstance(settings.scoring, ListScoring)
    return settings.scoring
