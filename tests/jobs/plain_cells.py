"""What spark_udfs/counted_classes.py counts, in plain Python: profiles of a few rows, and what Spark must give."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jobs.quality.cells import Cell
from jobs.quality.profile import Profile, profile_of
from spark_udfs.counted_classes import (
    BUCKETS,
    CLASSES,
    DAYS,
    HOURS,
    KEYS,
    NAMED,
    NO_NUMBER,
    NULL,
    NUMBER,
    OF_DAYS,
    Place,
)

Rows = Mapping[str, Sequence[Any]]  # by column


def profile(
    rows: Rows,
    kinds: Mapping[str, str],
    *,
    keys: Sequence[str],
    time: str | None = "time",
    label: str | None = None,
    outcomes: Mapping[str, int] | None = None,
    of_persons: Collection[str] = (),
) -> Profile:
    """The profile of rows; `kinds` are those of places."""
    places = [Place(name, kind) for name, kind in kinds.items()]
    held = [_cells(number, place.kind, rows[place.name], rows.get(label or "")) for number, place in enumerate(places)]
    if time is not None:
        places.append(Place(time, DAYS))
        held.append(_cells(len(held), DAYS, rows[time], None))
    places.append(Place(", ".join(keys), KEYS))
    held.append(_cells(len(held), KEYS, list(zip(*(rows[key] for key in keys), strict=True)), None))
    count = len(rows[keys[0]])
    flat = [cell for cells in held for cell in cells]
    return profile_of(flat, [], places, outcomes=outcomes or {"kept": count}, label=label, of_persons=of_persons)


def _cells(place: int, kind: str, values: Sequence[Any], labels: Sequence[Any] | None) -> list[Cell]:
    groups: dict[int, list[int]] = {}
    for at, value in enumerate(values):
        groups.setdefault(_class(kind, value), []).append(at)
    cells = [_cell(place, kind, key, [values[at] for at in ats], labels, ats) for key, ats in groups.items()]
    told = Counter(value for value in values if value is not None) if kind == NAMED else {}
    texts = [Cell(place, _hash(text)[0], text, rows, 0.0, 0.0, None, None, 0, 0.0) for text, rows in told.items()]
    return [*cells, *texts]


def _cell(place: int, kind: str, key: int, values: list[Any], labels: Sequence[Any] | None, ats: list[int]) -> Cell:
    xs = [x for value in values if (x := _x(kind, value)) is not None]
    said = [float(labels[at]) for at in ats if labels is not None and labels[at] is not None]
    least = [_hash(value)[1] for value in values if isinstance(value, str)]
    return Cell(
        place, key, None, len(values), sum(xs) if xs else None, sum(x * x for x in xs) if xs else None,
        max(xs, default=None), min(least, default=None), len(said), sum(said) if said else None,
    )  # fmt: skip


def _class(kind: str, value: Any) -> int:
    if value is None:
        return NULL
    if kind == NUMBER:
        return _size(float(value))
    if kind == HOURS:
        return int(value.hour)
    if kind == DAYS:
        return math.floor(_days(value)) % OF_DAYS
    if kind == KEYS:
        return int(hashlib.sha256(repr(value).encode()).hexdigest()[:12], 16)
    return _hash(value)[0]


def _x(kind: str, value: Any) -> float | None:
    if value is None or kind in (HOURS, KEYS):
        return None
    if kind == DAYS:
        return _days(value)
    if kind == NUMBER:
        return float(value) if math.isfinite(value) else None
    return float(len(value))


def _size(value: float) -> int:
    if not math.isfinite(value):
        return NO_NUMBER
    size = 0 if value == 0 else max(0, min(CLASSES, math.floor(math.log2(abs(value)) * 4) + 81))
    return -size if value < 0 else size


def _days(value: datetime) -> float:
    return value.replace(tzinfo=UTC).timestamp() / 86_400


def _hash(value: str) -> tuple[int, float]:
    digits = int(hashlib.sha256(value.encode()).hexdigest()[:16], 16)
    return digits % BUCKETS, (digits >> 10) / 2**54
