"""The section `stream`: where rows come from that are answered as they come."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.places import SourcePath
from jobs.settings_base import Section


class StreamSettings(Section):
    """Rows answered as they come: docs/fraud.md, docs/service.md. How they are written stands in `sources`."""

    path: SourcePath | None = Field(
        None, description="a folder into which files are moved, each whole; or a Delta table that rows are added to"
    )
    format: Literal["csv", "json", "parquet", "delta"] | None = Field(
        None, description="what lies there; default: as in sources"
    )
    late_hours: float = Field(
        24, ge=0.02, le=8_760, description="how far behind the newest row one may come; later ones go to quarantine"
    )
    files: int = Field(100, ge=1, le=100_000, description="files that are taken in at once, at most")
    once: bool = Field(False, description="end when all that is there now is answered")
