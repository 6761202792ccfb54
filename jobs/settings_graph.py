"""Settings of the knowledge graph by which items are known, and of what may be an attribute of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from jobs.settings_base import Section

TRIPLES = "triples"  # the table of triples that a source brings
OF_EVENTS = {"item_id", "price", "first_sold", "last_sold"}  # columns of `items` that are no attributes


def refuse_facts(names: Iterable[str]) -> None:
    """See that columns of `items` are attributes.

    Raises:
        ValueError: one is what events say of all times.
    """
    if facts := sorted(OF_EVENTS.intersection(names)):
        raise ValueError(
            f"{', '.join(facts)}: of all events, those after the cut too; name attributes that ingest.items "
            "brings, e.g. list_price"
        )


class WordRule(Section):
    """Which words of a text make triples."""

    attribute: Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")] = Field(description="a column of table items")
    words: tuple[Annotated[str, Field(pattern=r"^[^\W_]+$")], ...] = Field(
        min_length=1, max_length=10_000, description="single words, upper and lower case as one"
    )


class GraphSettings(Section):
    """A knowledge graph of items, of sources.triples and of what table items says."""

    attributes: tuple[Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9_]*$")], ...] = Field(
        (), max_length=100, description="columns of table items: item, column, value is a triple, e.g. [brand, tags]"
    )
    words: dict[Annotated[str, Field(min_length=1)], WordRule] = Field(
        default_factory=dict,
        max_length=100,
        description="by relation, words of a text that make triples, e.g. {made_of: {attribute: name, words: [glass]}}",
    )
    most: int = Field(
        100, ge=1, le=100_000, description="an entity with more others at one end of a relation is not gone through"
    )
    places: int = Field(32, ge=1, le=1_000, description="entities by which an item is known, at most")

    @model_validator(mode="after")
    def _no_facts(self) -> Self:
        refuse_facts([*self.attributes, *(rule.attribute for rule in self.words.values())])
        return self
