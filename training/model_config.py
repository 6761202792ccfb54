"""What a model's config is, and how its fields name the values that are worth a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from training.errors import SettingsError
from training.identity import identity_of


class ModelConfig(BaseModel):
    """A model's hyper-parameters: frozen, JSON in and out, unknown keys refused.

    A field that is worth tuning says so: `Field(0.2, json_schema_extra=search(0.05, 0.5, log=True))`.

    Attributes:
        FIRST: the fields that the model began with; none that comes later (training/identity.py).
        READS: columns of the examples without which it cannot learn; more of them may be of use.
        READS_OF_SEQUENCES: those of examples that are sequences, where it learns from these as well.
        READS_BY: the setting by which examples get them.
        READS_ITEMS: whether it takes in what the schema says of items, so that it ranks those that were never sold too.
        SPLITS_SCORES: whether it can say what each line of a history adds to a score (`RetrievalModel.shares`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    FIRST: ClassVar[frozenset[str]]
    READS: ClassVar[tuple[str, ...]] = ()
    READS_OF_SEQUENCES: ClassVar[tuple[str, ...]] = ()
    READS_BY: ClassVar[str] = "examples.form"
    READS_ITEMS: ClassVar[bool] = False
    SPLITS_SCORES: ClassVar[bool] = False

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Check values from a settings file or a bundle.

        Raises:
            SettingsError: keys are unknown or values do not fit; all of them are named.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            known = ", ".join(cls.model_fields)
            lines = [f"model.{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()]
            raise SettingsError("; ".join(lines) + f"; {cls.__qualname__} takes: {known}") from error

    def identity(self) -> dict[str, Any]:
        """The fields that a checkpoint must share with the training that goes on from it."""
        return identity_of(self, self.FIRST)

    @classmethod
    def search_space(cls) -> dict[str, dict[str, Any]]:
        """Search range of each field that has one: {"low", "high", "log"} or {"choices"}."""
        spaces: dict[str, dict[str, Any]] = {}
        for name, field in cls.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and isinstance(extra.get("search"), dict):
                spaces[name] = dict(extra["search"])  # type: ignore[arg-type]
        return spaces


def search(low: float, high: float, *, log: bool = False) -> dict[str, Any]:
    """The search range of a number, bounds included, as `json_schema_extra` of a config's field."""
    return {"search": {"low": low, "high": high, "log": log}}


def choices(*values: Any) -> dict[str, Any]:
    """The values to search, as `json_schema_extra` of a config's field."""
    return {"search": {"choices": list(values)}}
