"""What must be equal for a checkpoint, a finished training or a study to be gone on with.

The fields that a class of settings began with always count, later ones only where they are not their default: so what
an older version wrote, which did not know them, is still the same. But a later field that carries a search range joins
a study's space; a study that was begun without it goes on where `tuning.space` holds it, as its refusal says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python


def identity_of(settings: BaseModel, first: Collection[str], free: Collection[str] = ()) -> dict[str, Any]:
    """The values that count, JSON-safe.

    Args:
        settings: all of them.
        first: names of the fields that every identity holds.
        free: names of those that never count.
    """
    fields = type(settings).model_fields
    return {
        name: value
        for name, value in settings.model_dump(mode="json", exclude=set(free)).items()
        if name in first or getattr(settings, name) != fields[name].get_default(call_default_factory=True)
    }


def without_later(values: Mapping[str, Any], kind: type[BaseModel], first: Collection[str]) -> dict[str, Any]:
    """Values of a class of settings as a version wrote them that knew its first fields alone.

    Args:
        values: by field; they need not be all, nor need they fit.
        kind: the class.
        first: names of the fields that stay whatever they are; of others those stay that are not their default.
    """
    later = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in kind.model_fields.items()
        if name not in first
    }
    return {
        name: value for name, value in values.items() if name not in later or to_jsonable_python(value) != later[name]
    }
