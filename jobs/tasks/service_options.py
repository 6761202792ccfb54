"""What only service has in its settings; apart from the task, so that what it does on Spark may ask for it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from jobs.places import LocalFolder
from jobs.settings_base import Section
from spark_udfs.dialogue import Rules
from spark_udfs.fillings import OF_ORDERS
from spark_udfs.placeholders import marks, name_of
from spark_udfs.slots import SLOTS

if TYPE_CHECKING:
    from jobs.settings import Settings

ORDERS = ("order_number", "email", "status", "delivery", "amount")  # columns of the shop's orders
VECTORS, TOKENS = "vectors", "tokens"
HAS = {"message_id": "string", "conversation": "string?", "arrival_time": "timestamp?"}
Intent = Annotated[str, Field(min_length=1, max_length=1_000)]
Words = Annotated[str, Field(min_length=1, max_length=10_000)]
FILLS = {
    "order number": "@order_number",
    "order id": "@order_number",
    "purchase number": "@order_number",
    "purchase id": "@order_number",
    "order status": "@orders.status",
    "delivery date": "@orders.delivery",
    "refund amount": "@orders.amount",
}
QUESTIONS: dict[Literal["order_number", "email"], str] = {
    "order_number": "Which order is it about? Please send its number.",
    "email": "Which e-mail address did you order with?",
}
FEWEST_TOKENS = 3  # of a text that a model reads


class ServiceOptions(Section):
    """What only service has."""

    has: tuple[Literal["message_id", "conversation", "arrival_time", "answer_id"], ...] = Field(
        (),
        description="further columns of `messages`; without message_id, what a message holds names it; answer_id: of "
        "`answers`, else what an answer holds names it",
    )
    out_of_scope: tuple[Intent, ...] = Field(
        ("oos", "out_of_scope"),
        max_length=1_000,
        description="intents of messages that have none of the others: they teach what is out of scope",
    )
    words_kept: int = Field(100, ge=1, le=10_000, description="words of a message that are read, the first ones")
    terms: int = Field(
        131_072,
        ge=1_024,
        le=2**31 - 2,
        description="numbers of terms (words, pairs, pieces of words), which hashes deal out",
    )
    vectors: int = Field(
        0,
        ge=0,
        le=65_536,
        description="numbers of the vector that a language model gives a message, 384 with the weights of the extra "
        "`text`; 0: messages have none",
    )
    tokens_kept: int = Field(
        0,
        ge=0,
        le=256,
        description="tokens of a message that model.name tuned_text_classes reads, the first ones, begin and end "
        "included; 0: messages have none",
    )
    weights: LocalFolder | None = Field(
        None,
        description="a folder with the weights of the language model that vectors come from, or that is tuned; "
        "default: those of the extra `text`",
    )
    compared_with: int = Field(
        20_000,
        ge=1,
        le=200_000,
        description="messages of the past, by hash, among which the nearest is looked for that the model must beat",
    )

    wrong_cost: float = Field(5.0, ge=0, le=1e9, description="of an answer to what was not asked")
    hand_over_cost: float = Field(1.0, ge=0, le=1e9, description="of a person's time for a message")
    ask_cost: float = Field(0.1, ge=0, le=1e9, description="of a question to the customer")
    people: tuple[Intent, ...] = Field((), max_length=1_000, description="intents that people answer")
    fills: dict[str, Words] = Field(
        default_factory=lambda: dict(FILLS),
        max_length=10_000,
        description="what answers' placeholders are filled with, by their names: a text, or `@SLOT`, what the customer "
        "has said, or `@orders.COLUMN`, of that order",
    )
    questions: dict[Literal["order_number", "email"], Words] = Field(
        default_factory=lambda: dict(QUESTIONS), description="by slot how a customer is asked for it"
    )
    handed_over: Words = Field(
        "A colleague of ours will answer you.", description="what a customer is told whose message goes to a person"
    )
    past_replies: bool = Field(
        False,
        description="the answers are replies to customers of the past: those with a number or an address that is none "
        "of this customer's are not given; names are not seen",
    )
    most_answers: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="rows of `answers`: each worker holds them all in memory, 8 KB for each of 100 words, and five "
        "times as much while it makes them ready",
    )

    @field_validator("fills")
    @classmethod
    def _fills(cls, fills: dict[str, str]) -> dict[str, str]:
        known = [f"@{slot}" for slot in SLOTS] + [f"{OF_ORDERS}{column}" for column in ORDERS]
        made: dict[str, str] = {}
        for name, value in fills.items():
            if value.startswith("@") and value not in known:
                raise ValueError(f"'{name}' is filled with '{value}'; known: {', '.join(known)}, or a text without @")
            if marks(name):
                raise ValueError(f"a name must stand without marks; it is '{name}': write what stands between them")
            if name_of(name) in made:
                raise ValueError(
                    f"two names are one, '{name_of(name)}', in any case and with any blanks: leave one out"
                )
            made[name_of(name)] = value
        return made

    @field_validator("fills", "questions", "handed_over")
    @classmethod
    def _shown(cls, texts: dict[str, str] | str) -> dict[str, str] | str:
        """What customers are shown as it is."""
        for text in (texts,) if isinstance(texts, str) else texts.values():
            if not text.strip():
                raise ValueError(f"a text that customers see must not be blank; it is '{text}'")
            if found := marks(text):
                raise ValueError(
                    f"a text that customers see is not filled again: it must hold no marks of placeholders; '{text}' "
                    f"holds {found[0]}: write there what is to be read"
                )
        return texts

    @model_validator(mode="after")
    def _of_one_mind(self) -> ServiceOptions:
        if 0 < self.tokens_kept < FEWEST_TOKENS:
            raise ValueError(
                f"tokens_kept must be 0, or {FEWEST_TOKENS} at least, for two are a text's begin and end; it is "
                f"{self.tokens_kept}: raise it"
            )
        if self.weights is not None and not (self.vectors or self.tokens_kept):
            raise ValueError(
                f"weights is '{self.weights}', and vectors and tokens_kept are 0, so that nothing would be read from "
                "there: set vectors to the width of that model's vectors, or tokens_kept to tune it, or leave weights "
                "out"
            )
        if both := sorted({*self.people} & {*self.out_of_scope}):
            raise ValueError(
                f"an intent must not stand in people and in out_of_scope; {both} do: what is out of scope goes to "
                "people anyhow, so leave it out of people"
            )
        return self

    @property
    def rules(self) -> Rules:
        """What is ruled of conversations."""
        return Rules(
            wrong_cost=self.wrong_cost,
            hand_over_cost=self.hand_over_cost,
            ask_cost=self.ask_cost,
            people=frozenset(self.people),
            fills=self.fills,
            questions={str(slot): text for slot, text in self.questions.items()},
            handed_over=self.handed_over,
            past_replies=self.past_replies,
        )


def options_of(settings: Settings) -> ServiceOptions:
    """The task's own settings."""
    assert isinstance(settings.options, ServiceOptions)
    return settings.options
