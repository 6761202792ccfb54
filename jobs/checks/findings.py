"""What a check of `millrace doctor` finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jobs.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: what was looked at, how it stands, and what to do."""

    level: Literal["ok", "warn", "fail"]
    check: str
    what: str
    remedy: str = ""


Check = Callable[[Settings], list[Finding]]
