"""What only image has in its settings; apart from the task, so that what it does on Spark may ask for it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from jobs.settings_base import Section

if TYPE_CHECKING:
    from jobs.settings import Settings

Name = Annotated[str, Field(min_length=1, max_length=1_000)]


class ImageOptions(Section):
    """What only image has."""

    has: tuple[Literal["arrival_time"], ...] = Field((), description="further columns of `pictures`")
    size: int = Field(
        28, ge=8, le=1_024, description="pixels of a picture's sides: to these it is scaled when examples are built"
    )
    channels: Literal[1, 3] = Field(3, description="of a picture: 1, grey, or 3, red, green and blue")
    names: dict[str, Name] = Field(
        default_factory=dict,
        max_length=100_000,
        description="names of categories that the shop's table has numbers for",
    )
    compared_with: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="pictures learnt from, by hash, among which a picture's nearest are looked for when it is judged",
    )
    neighbours: int = Field(15, ge=1, le=1_000, description="of these, whose class most have")
    alarm_from: float = Field(
        0.8,
        ge=0,
        le=1,
        description="probability of another class, from which on a picture's own category is taken for wrong",
    )
    similar: int = Field(10, ge=0, le=1_000, description="items that look most alike, which an answer names")


def options_of(settings: Settings) -> ImageOptions:
    """The task's own settings."""
    assert isinstance(settings.options, ImageOptions)
    return settings.options
