"""What is known of a batch without its rows: counts by column, by day and by key, small whatever the batch's size.

A profile names no person. Of numbers it keeps counts by class of size; of texts lengths, how many differ, and counts by
hash; of moments counts by hour and by day. Words stand in it only of columns that name nobody and have few of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.quality import cells as told
from jobs.quality.cells import Cell
from spark_udfs.counted_classes import DAYS, HOURS, KEYS, NAMED, NO_NUMBER, NULL, NUMBER, OF_DAYS, TEXT, Place

FEW = 100  # different texts, up to which a column is one of categories, whose counts are kept
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Column:
    """A column of a profile.

    Attributes:
        kind: NUMBER, TEXT, NAMED or HOURS.
        rows: all, those with a null too.
        nulls: rows that have none.
        bins: rows by class: of numbers by size, of few texts by hash, of moments by hour; of many texts none.
        mean, sd: of numbers; of texts of their lengths; 0 where `has_mean` is not.
        distinct: about how many different texts there are.
        words: the text of a class, where it may be told.
        tells: how much of the label's variance the classes explain, 0 to 1; None: there is no label.
    """

    kind: str
    rows: int
    nulls: int
    bins: Mapping[int, int] = field(default_factory=dict)
    mean: float = 0.0
    sd: float = 0.0
    distinct: float = 0.0
    words: Mapping[int, str] = field(default_factory=dict)
    tells: float | None = None

    @property
    def held(self) -> int:
        """Rows that have a value."""
        return self.rows - self.nulls

    @property
    def has_mean(self) -> bool:
        """Whether it has so many values that their mean says none of them."""
        return self.kind != HOURS and self.held - self.bins.get(NO_NUMBER, 0) >= told.OFTEN

    @property
    def is_flag(self) -> bool:
        """Whether it is a number that is 0 or 1 alone."""
        return self.kind == NUMBER and bool(self.bins) and set(self.bins) <= {0, ONE}


@dataclass(frozen=True)
class Profile:
    """A batch of one source.

    Attributes:
        rows: of the part that is judged: all, or those later than what came before, of a table that is read whole.
        all_rows: of all of it.
        newest_us: the latest time, in microseconds since 1970; None: there is no time.
        days: rows by day, in days since 1970.
        outcomes: rows by what became of them, before any was set aside.
        keys: different keys of a sample of keys, and the rows that have them.
        label: the column that is the label.
        is_whole: whether it was read whole, with what came before.
        columns: by name.
    """

    rows: int
    all_rows: int
    newest_us: int | None = None
    days: Mapping[int, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    keys: tuple[int, int] = (0, 0)
    label: str | None = None
    is_whole: bool = False
    columns: Mapping[str, Column] = field(default_factory=dict)

    @property
    def earlier(self) -> int:
        """Rows that came before; all of them where none is later, and so all are judged."""
        nothing_later = self.newest_us is not None and not self.days
        return self.all_rows if nothing_later and self.rows == self.all_rows else self.all_rows - self.rows

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        kept = {name: value for name, value in vars(self).items() if name != "columns"}
        return {**kept, "columns": {name: vars(column) for name, column in self.columns.items()}}

    @classmethod
    def from_json(cls, held: Mapping[str, Any]) -> Profile:
        """A profile that was kept."""
        columns = {
            name: Column(**{**column, "bins": _by_number(column["bins"]), "words": _by_number(column["words"])})
            for name, column in held["columns"].items()
        }
        of_days = _by_number(held["days"])
        return cls(**{**held, "days": of_days, "keys": tuple(held["keys"]), "columns": columns})


ONE = 81  # the class of the number 1


def profile_of(
    later: Iterable[Cell],
    earlier: Iterable[Cell],
    places: Sequence[Place],
    *,
    outcomes: Mapping[str, int],
    label: str | None = None,
    of_persons: Collection[str] = (),
    is_whole: bool = False,
) -> Profile:
    """Put the counted groups of a batch together.

    Args:
        later: of the rows that are judged; where there are none, the others are.
        earlier: of rows that came before already.
        places: what each place of a cell is.
        outcomes: rows by what became of them.
        label: the column that is the label.
        of_persons: columns of texts that may name a person: no counts by hash are kept of them.
        is_whole: whether the batch was read whole, with what came before.
    """
    judged, others = _by_place(later), _by_place(earlier)
    rows, before = _rows(judged), _rows(others)
    days, all_days = _days(judged, places), _days(others, places)
    newest = max((at for _, at in [*days.values(), *all_days.values()]), default=None)
    if not rows:
        judged, rows, before, days = others, before, 0, {}
    total = _label_variance(judged, places, label)
    return Profile(
        rows=rows,
        all_rows=rows + before,
        newest_us=None if newest is None else round(newest * DAY_US),
        days={day: count for day, (count, _) in sorted(days.items())},
        outcomes=dict(outcomes),
        keys=_keys(judged, places),
        label=label,
        is_whole=is_whole,
        columns={
            place.name: _column(
                place,
                judged.get(number, []),
                None if place.name == label else total,
                keeps_bins=place.name not in of_persons,
            )
            for number, place in enumerate(places)
            if place.kind not in (DAYS, KEYS)
        },
    )


def _by_place(cells: Iterable[Cell]) -> dict[int, list[Cell]]:
    held: dict[int, list[Cell]] = {}
    for cell in cells:
        held.setdefault(cell.place, []).append(cell)
    return held


def _rows(held: Mapping[int, list[Cell]]) -> int:
    """Each column has a cell for each row; that of keys has but a sample."""
    return max((sum(cell.rows for cell in cells if cell.text is None) for cells in held.values()), default=0)


def _days(held: Mapping[int, list[Cell]], places: Sequence[Place]) -> dict[int, tuple[int, float]]:
    """Rows and the latest moment, in days since 1970, of each day."""
    cells = [cell for number, place in enumerate(places) if place.kind == DAYS for cell in held.get(number, [])]
    of_days = (cell for cell in cells if 0 <= cell.bin < OF_DAYS)
    return {math.floor(cell.top): (cell.rows, cell.top) for cell in of_days if cell.top is not None}


def _keys(held: Mapping[int, list[Cell]], places: Sequence[Place]) -> tuple[int, int]:
    cells = [cell for number, place in enumerate(places) if place.kind == KEYS for cell in held.get(number, [])]
    return len(cells), sum(cell.rows for cell in cells)


def _label_variance(held: Mapping[int, list[Cell]], places: Sequence[Place], label: str | None) -> float | None:
    """The label's sum of squares around its mean."""
    cells = [cell for number, place in enumerate(places) if place.name == label for cell in held.get(number, [])]
    rows, total = sum(cell.labelled for cell in cells), sum(cell.label or 0.0 for cell in cells)
    squares = sum(cell.squares or 0.0 for cell in cells)
    return squares - total**2 / rows if rows else None


def _column(place: Place, cells: Sequence[Cell], label_variance: float | None, *, keeps_bins: bool) -> Column:
    bins: dict[int, int] = {}
    for cell in cells:
        if cell.text is None:  # others are of a sample, which is counted there already
            bins[cell.bin] = bins.get(cell.bin, 0) + cell.rows
    rows, nulls = sum(bins.values()), bins.pop(NULL, 0)
    held = max(1, rows - nulls)
    mean = sum(cell.total or 0.0 for cell in cells) / held
    variance = max(0.0, sum(cell.squares or 0.0 for cell in cells) / held - mean**2)
    is_text = place.kind in (TEXT, NAMED)
    distinct = told.distinct(cells) if is_text else 0.0
    is_told = place.kind != HOURS and rows - nulls - bins.get(NO_NUMBER, 0) >= told.OFTEN
    return Column(
        kind=place.kind,
        rows=rows,
        nulls=nulls,
        bins={} if is_text and (distinct > FEW or not keeps_bins) else dict(sorted(bins.items())),
        mean=mean if is_told else 0.0,
        sd=math.sqrt(variance) if is_told else 0.0,
        distinct=distinct,
        words=told.words(cells) if place.kind == NAMED and distinct <= FEW else {},
        tells=None if label_variance is None else told.tells(cells, label_variance),
    )


def _by_number(held: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in held.items()}
