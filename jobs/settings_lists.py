"""The sections of a task whose answers are lists of items: what they have beside those of every task."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from jobs.places import LocalFolder, SourcePath, TableName
from jobs.settings_base import Section
from jobs.settings_graph import TRIPLES, GraphSettings, refuse_facts
from jobs.settings_sections import EvaluationSettings, EventExamples, ScoringSettings
from jobs.settings_sources import SourceSettings

if TYPE_CHECKING:
    from jobs.settings import Settings


TAKEN_AS = ("id", "ids", "number", "text", "vector")
_GIVEN = re.compile(r"vector\(([1-9][0-9]{0,4})\)")  # a vector that the column holds, and of how many numbers it is


def _taken_as(taken: str) -> str:
    if taken not in TAKEN_AS and not _GIVEN.fullmatch(taken):
        raise ValueError(
            f"an attribute is taken as {', '.join(TAKEN_AS)} or vector(N), of N numbers that the column holds, at most "
            f"99,999, e.g. vector(64); got '{taken}'"
        )
    return taken


class ListExamples(EventExamples):
    """Lines to examples: what is held out, and how much history an example carries."""

    LATER: ClassVar[frozenset[str]] = frozenset({"form", "item_attributes", "text_weights", "asked", "graph"})
    APART: ClassVar[frozenset[str]] = EventExamples.APART | {"text_weights"}

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
        Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")], Annotated[str, AfterValidator(_taken_as)]
    ] = Field(
        default_factory=dict,
        max_length=100,
        description="columns of the table `items` by which items are known that were never sold, and how each is "
        "taken, e.g. {category: id, tags: ids, list_price: number, title: text, description: vector, picture: "
        "vector(64)}; see docs/data.md",
    )
    text_weights: LocalFolder | None = Field(
        None,
        description="a folder with the weights of the language model that makes vectors of item_attributes taken as "
        "`vector`; default: those of the extra `text`",
    )
    graph: GraphSettings | None = Field(
        None, description="items are known by a knowledge graph: see below; default: by sources.triples, if it is set"
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
        refuse_facts(asked)
        return asked

    @model_validator(mode="after")
    def _weights_of_vectors(self) -> Self:
        if self.text_weights is not None and not self.takes_vectors:
            raise ValueError(
                f"text_weights is '{self.text_weights}' and none of item_attributes is taken as vector, so that "
                "nothing would be read from there: take one so, e.g. {description: vector}, or leave text_weights out"
            )
        return self

    @property
    def takes_vectors(self) -> bool:
        """Whether a language model makes a vector of an attribute's texts."""
        return "vector" in self.item_attributes.values()

    @property
    def given_vectors(self) -> dict[str, int]:
        """Of how many numbers the vectors are that columns hold, by attribute."""
        found = {name: _GIVEN.fullmatch(taken) for name, taken in self.item_attributes.items()}
        return {name: int(match[1]) for name, match in found.items() if match}


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


class RuleTable(Section):
    """A table of the shop's own that is read where it lies, at its newest version."""

    path: SourcePath | None = Field(None, description="a Delta table's folder")
    table: TableName | None = Field(None, description="or a catalogue's table or view, e.g. main.shop.stock")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.table is None):
            raise ValueError(f"must have a path or a table, and has path {self.path} and table {self.table}; set one")
        return self


class DiversitySettings(Section):
    """Maximal marginal relevance: of so many candidates those that differ from what stands before them."""

    relevance: float = Field(
        0.7, ge=0, le=1, description="its lambda: 1 leaves lists as they are, of 0 only difference counts"
    )
    candidates: int = Field(100, ge=1, le=100_000, description="best items of a user, of which the K are taken")
    of: Literal["vectors", "category"] = Field(
        "vectors", description="items are alike by the cosine of their vectors, or if they are of one category"
    )


class IndexSettings(Section):
    """Lists of like items, of which a user's best are searched, and not all items."""

    lists: int | None = Field(
        None, ge=1, le=10_000_000, description="into how many the items are put; default: 4 times their number's root"
    )
    probes: int = Field(
        64,
        ge=1,
        le=10_000_000,
        description="how many are searched for a user; nothing is missed where it is all",
    )
    least_recall: float = Field(
        0.95, gt=0, le=1, description="share of what all items would give that is found for a sample, else an error"
    )
    sample: int = Field(1_000, ge=1, le=100_000, description="users by whom that is measured before the run")


class ListRules(Section):
    """What a shop rules of lists, whatever the model says."""

    allowed: RuleTable | None = Field(
        None,
        description="where the items lie that may be shown: item_id, and with segments: segment (null: all may see it)",
    )
    segments: RuleTable | None = Field(
        None, description="where users' segments lie: user_id, segment; one without sees what all may see"
    )
    hidden: RuleTable | None = Field(None, description="where it lies what a user is not to see: user_id, item_id")
    category: str = Field("category", min_length=1, description="the column of table items that is an item's category")
    per_category: int | None = Field(
        None, ge=1, le=100_000, description="items of one category in a list, at most; default: any"
    )
    least_score: float | None = Field(
        None, ge=-1e30, le=1e30, description="items of which the model's score is below it are not shown"
    )
    diversity: DiversitySettings | None = Field(None, description="put lists into another order; default: by score")

    @model_validator(mode="after")
    def _segments_of_items(self) -> Self:
        if self.segments is not None and self.allowed is None:
            raise ValueError("segments say nothing without allowed, which has the items of each; set allowed too")
        return self

    @property
    def tables(self) -> dict[str, RuleTable]:
        """Those that are set, by name."""
        held = {"allowed": self.allowed, "segments": self.segments, "hidden": self.hidden}
        return {name: table for name, table in held.items() if table is not None}


class ListScoring(ScoringSettings):
    """Top-K for every user."""

    LATER: ClassVar[frozenset[str]] = ScoringSettings.LATER | {"rules", "index", "reasons", "paths"}

    k: int = Field(20, ge=1, le=100_000, description="items of a list")
    exclude_seen: bool = Field(True, description="leave out what the user has bought")
    cold_users: Literal["recent_popularity", "skip"] = Field(
        "recent_popularity", description="what customers get whom the bundle does not know"
    )
    index: IndexSettings | None = Field(
        None, description="search items by an index, which misses some; default: every item is compared"
    )
    reasons: int = Field(
        0,
        ge=0,
        le=100,
        description="of each item so many of the customer's own that add most to its score: a column `reasons`",
    )
    paths: bool = Field(
        False,
        description="a column `path`: the triples of the graph that join an item to one that the customer has bought",
    )
    rules: ListRules = Field(ListRules(), description="what the shop rules of lists: see below")

    @model_validator(mode="after")
    def _candidates(self) -> Self:
        if (diversity := self.rules.diversity) is not None and diversity.candidates < self.k:
            raise ValueError(
                f"rules.diversity.candidates is {diversity.candidates}, and K items are taken of them; set it to "
                f"{self.k} (scoring.k) at least"
            )
        return self

    @model_validator(mode="after")
    def _index_alone(self) -> Self:
        if self.index is not None and (ruled := _looks_further(self.rules)):
            raise ValueError(
                f"index finds the K best of all items, and rules.{', rules.'.join(ruled)} need more than those; leave "
                "out the one or the other"
            )
        return self


def _looks_further(rules: ListRules) -> list[str]:
    """Rules that need other items than the K best of all."""
    return [name for name in ("segments", "per_category", "diversity") if getattr(rules, name) is not None]


def examples_of(settings: Settings) -> ListExamples:
    """How examples are made, of a task of lists."""
    assert isinstance(settings.examples, ListExamples)
    return settings.examples


def graph_of(settings: Settings) -> GraphSettings | None:
    """The graph by which items are known; None: there is none."""
    given = GraphSettings() if TRIPLES in settings.sources else None
    return examples_of(settings).graph or given


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


def rule_tables(settings: Settings) -> dict[str, SourceSettings]:
    """The tables that the rules of lists name, by their place in the settings."""
    return {
        f"scoring.rules.{name}": SourceSettings(path=at.path, table=at.table, format="delta")
        for name, at in scoring_of(settings).rules.tables.items()
    }
