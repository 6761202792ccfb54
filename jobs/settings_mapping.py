"""Whether the columns and the kinds of a source of events are mapped as events need them; asked without the source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from jobs.settings_sources import EventSource
from spark_udfs.event_names import KINDS, NAMES, OF_SALES, OPTIONAL, REQUIRED, SOLD

OF_MAPPING = ("path", "table", "columns", "constants", "kinds")


def unmapped(ingest: Any) -> list[str]:
    """What is wrong with the mappings of a section `ingest` as it was given: other faults of it are none of these."""
    return [problem for place, asked in _named(ingest) for problem in mapping_problems(place, asked)]


def _named(ingest: Any) -> Iterator[tuple[str, EventSource]]:
    """The sources that name rows and whose mapping can be read, by their places."""
    if not isinstance(ingest, Mapping):
        return
    several = ingest.get("sources")
    given = {f"ingest.sources[{n}]": each for n, each in enumerate(several)} if isinstance(several, list) else {}
    for place, asked in (given or {"ingest": ingest}).items():
        if not isinstance(asked, Mapping):
            continue
        try:
            source = EventSource.model_validate({name: asked[name] for name in OF_MAPPING if name in asked})
        except ValidationError:  # said already
            continue
        if source.name is not None:
            yield place, source


def mapping_problems(place: str, asked: EventSource) -> list[str]:
    """What is wrong with how a source's columns and kinds are mapped."""
    columns, constants = asked.columns, asked.constants
    given, kind = columns.keys() | constants.keys(), constants.get("kind")
    if "kind" in constants:
        may_be_sale = kind in SOLD
    else:
        may_be_sale = not asked.kinds or not set(SOLD).isdisjoint(asked.kinds.values())
    missing = [name for name in REQUIRED if columns.get(name, constants.get(name)) is None]
    missing += [name for name in OF_SALES if may_be_sale and name not in given]
    unknown, twice = sorted(given - set(NAMES)), sorted(columns.keys() & constants.keys())
    of_file = [column for column, count in Counter(columns.values()).items() if count > 1]
    words = Counter(word.strip().lower() for word in asked.kinds)
    found = [f"{place}.columns needs '{name}'" for name in missing]
    if may_be_sale and not set(OF_SALES).isdisjoint(missing):
        found.append(
            f"events may be sales: where the shop has no such column, say so in {place}.constants, e.g. "
            f"{{{missing[-1]}: null}}, or name other kinds ({place}.kinds, or {place}.constants={{kind: view}})"
        )
    found += [f"{place}.columns or .constants has the unknown name '{name}'" for name in unknown]
    found += [f"'{name}' is both in {place}.columns and in {place}.constants" for name in twice]
    found += [f"{place}.columns has the file's column '{column}' more than once" for column in of_file]
    found += [f"{place}.kinds has the word '{word}' more than once" for word, count in words.items() if count > 1]
    if asked.kinds and "kind" not in columns:
        found.append(f"{place}.kinds needs 'kind' in {place}.columns")
    if "kind" in constants and kind not in KINDS:
        found.append(f"{place}.constants has the kind '{kind}'; known: {', '.join(KINDS)}")
    if missing or unknown:
        found.append(
            f"our names are {', '.join(REQUIRED)}; of sales: {', '.join(OF_SALES)}; optional: {', '.join(OPTIONAL)}; "
            f"{place}.columns maps them to the file's columns, e.g. {{order_id: InvoiceNo}}"
        )
    return found
