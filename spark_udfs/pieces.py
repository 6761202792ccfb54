"""Pieces of time that examples lie in, so that a build can add one and a training can take some.

A piece begins where the one before it ends, the first with time itself; a row lies in the piece that holds the moment
when all that it says was known. Training takes the pieces before the validation cut, validation those up to the test
cut: what belongs to which is decided when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import Column
from pyspark.sql import functions as F

from spark_udfs.features import TRAIN, VALIDATION, Cuts, utc

COLUMN = "piece"
FIRST = "0001-01-01"


@dataclass(frozen=True)
class Pieces:
    """Where pieces begin, ascending, beside the first one, which begins with time.

    Attributes:
        starts: in UTC.
    """

    starts: tuple[datetime, ...]

    def of(self, known_at: Column) -> Column:
        """The name of the piece that a moment lies in."""
        later = ((F.when(known_at >= F.lit(start), F.lit(name(start)))) for start in reversed(self.starts))
        return F.coalesce(*later, F.lit(FIRST))

    def of_splits(self, cuts: Cuts) -> dict[str, list[str]]:
        """The names of the pieces before the validation cut, and of those from there up to the test cut."""
        before = [name(start) for start in self.starts if start < cuts.validation]
        return {
            TRAIN: [FIRST, *before],
            VALIDATION: [name(start) for start in self.starts if cuts.validation <= start < cuts.test],
        }


def name(start: datetime) -> str:
    """The name of the piece that begins there: as texts, names are in the order of time."""
    day, time = f"{utc(start):%Y-%m-%d}", f"{utc(start):%H.%M.%S.%f}"
    return day if time == "00.00.00.000000" else f"{day} {time}"
