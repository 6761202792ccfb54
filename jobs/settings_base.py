"""What all sections of the settings are made of."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _no_number(value: Any) -> Any:
    """A number would be taken for seconds since 1970: 20111110 for a day in August 1970."""
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit()):
        raise ValueError("must be a day or a time, e.g. 2025-11-10 or 2025-11-10T06:00:00")
    return value


Moment = Annotated[datetime, BeforeValidator(_no_number)]


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
