"""What must be equal for a checkpoint, a finished training or a study to be gone on with.

The fields that a class of settings began with always count, later ones only where they are not their default: so what
an older version wrote, which did not know them, is still the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel


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
