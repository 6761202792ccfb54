"""What is said of a batch that differs from good ones, and the numbers in it as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from spark_udfs.counted_classes import CLASSES, LOWEST, NO_NUMBER, PER_DOUBLING

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Finding(NamedTuple):
    """A figure of a batch that good ones do not have.

    Attributes:
        check: which rule it breaks.
        column: of which column; "": of the rows.
        found: the figure.
        expected: what good batches have.
    """

    check: str
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        place = f" of '{self.column}'" if self.column else ""
        return f"{self.check}{place}: {self.found}; expected: {self.expected}"


def percent(share: float) -> str:
    return f"{share:.2%}" if share < 0.1 else f"{share:.1%}"


def day(number: int) -> str:
    """A day, by its number since 1970."""
    return (EPOCH + timedelta(days=number)).strftime("%Y-%m-%d (%a)")


def moment(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).strftime("%Y-%m-%d %H:%M:%S")


def size(number: int, *, upper: bool) -> str:
    """The bound of a class of numbers."""
    if number == NO_NUMBER:
        return "what is no finite number"
    if number == 0:
        return "0"
    if number < 0:
        return f"-{size(-number, upper=not upper)}"
    bound = 2.0 ** (LOWEST + (number - 1 + upper) / PER_DOUBLING)
    return f"{bound:.4g}" + (" or more" if number == CLASSES and upper else "")
