"""What only sentiment has in its settings; apart from the task, so that what it does on Spark may ask for it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from jobs.settings_base import Section

if TYPE_CHECKING:
    from jobs.settings import Settings

HAS = {"review_id": "string", "product": "string?", "title": "string?", "arrival_time": "timestamp?"}
Words = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=1_000)]


class SentimentOptions(Section):
    """What only sentiment has."""

    has: tuple[Literal["review_id", "product", "title", "arrival_time"], ...] = Field(
        ("review_id", "product"),
        description="further columns of `reviews`; without review_id, what a review holds names it; a title is read "
        "before the text",
    )
    words_kept: int = Field(400, ge=1, le=100_000, description="words of a review that are read, the first ones")
    fewest_reviews: int = Field(
        3, ge=2, le=1_000_000, description="reviews that a word, or a pair of neighbours, must stand in to be known"
    )
    most_words: int = Field(50_000, ge=1, le=10_000_000, description="words that are known, the most frequent ones")
    most_pairs: int = Field(200_000, ge=1, le=100_000_000, description="pairs of neighbours that are known")
    prior: float = Field(
        5.0, gt=0, le=1e6, description="reviews that the share of all counts for in a product's own share"
    )
    reach_share: float = Field(0.05, gt=0, lt=1, description="share of reviews that somebody can look at")
    reasons: int = Field(5, ge=0, le=100, description="words of a review that an answer names")
    product_days: float = Field(
        90, gt=0, le=36_500, description="days before a review over which its product's share of unhappy ones is taken"
    )
    aspects: dict[str, Words] = Field(
        default_factory=dict,
        max_length=100,
        description="what an answer is split by, with its words, e.g. {size: [small, large, tight]}",
    )

    @field_validator("aspects")
    @classmethod
    def _single_words(cls, aspects: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, own in aspects.items():
            if not own:
                raise ValueError(f"'{name}' has no words; name some, or leave it out")
            for word in own:
                if not all(letter.isalnum() or letter == "'" for letter in word):
                    raise ValueError(f"'{word}' of '{name}' must be a single word of letters and digits")
        return aspects


def options_of(settings: Settings) -> SentimentOptions:
    """The task's own settings."""
    assert isinstance(settings.options, SentimentOptions)
    return settings.options
