"""A source of raw rows as it was found: where they lie, what tells that they changed, and which of them to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from jobs.settings_sources import SourceSettings

LITERAL = {"__globPaths__": "false"}  # Spark's own switch: a path is no pattern


@dataclass(frozen=True)
class Source:
    """Where rows lie.

    Attributes:
        name: its path.
        place: of the settings that name it, for messages.
        asked: these settings.
        state: what tells whether it changed: how many files, their bytes, and a sum over their names, sizes and times;
            or the Delta version that last changed rows, and the table's id: one that is made anew counts from 0 again.
        size: bytes.
        options: of Spark's reader, so that it reads what was listed.
        partitions: columns that are folders, such as country=UK.
        version: the Delta version to read; housekeeping may have made it since rows changed.
        table: that version, or rows without versions; None: files.
        rows: how many there were when it was found; None: not counted.
        listed: its files (`file`, `size`, `modified`: microseconds since 1970); None: a table.
        folder: where a Delta table lies; None: it is none.
        files: those to read; none named: all.
        is_cut_down: whether what is to be read is what is new since an earlier reading.
    """

    name: str
    place: str
    asked: SourceSettings
    state: list[Any]
    size: int
    options: Mapping[str, str]
    partitions: tuple[str, ...] = ()
    version: int | None = None
    table: DataFrame | None = None
    rows: int | None = None
    listed: DataFrame | None = None
    folder: str | None = None
    files: tuple[str, ...] = ()
    is_cut_down: bool = False

    @property
    def can_be_cut_down(self) -> bool:
        """Whether some of its files can be read alone: the columns that are folders begin where a pattern ends."""
        return not self.partitions or LITERAL.items() <= self.options.items()

    @property
    def new(self) -> str:
        """How many files are new, in words; empty where it is no source of files."""
        return f"{len(self.files):,} of {self.state[0]:,} files are new" if self.files else ""

    @property
    def paths(self) -> list[str]:
        """What Spark is to read."""
        return list(self.files) or [self.name]

    @property
    def read_options(self) -> dict[str, str]:
        """Of Spark's reader, for `paths`."""
        if not self.files:
            return dict(self.options)
        return LITERAL | ({"basePath": self.name} if self.partitions else {})


class Raw(NamedTuple):
    """A source's rows, as text or times.

    Attributes:
        rows: the rows.
        malformed: the column that holds a malformed line, if there may be one.
        columns: name and type of each column as it lies there.
    """

    rows: DataFrame
    malformed: str | None
    columns: list[tuple[str, str]]


def column(name: str) -> Column:
    """A column by its name as it stands, whatever dots or backticks it has."""
    escaped = name.replace("`", "``")
    return F.col(f"`{escaped}`")
