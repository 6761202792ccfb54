"""What events are made from: the sources with their state and their rules; other rules are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import ingest_rules
from jobs.erasure import erased
from training.errors import DataError

if TYPE_CHECKING:
    from jobs.source import Source
    from jobs.tables import Tables
    from spark_udfs.order_lines import Rules


class Reading(NamedTuple):
    """A source and how to read it."""

    source: Source
    rules: Rules


def inputs_of(readings: Sequence[Reading]) -> dict[str, Any]:
    """What decides the rows. That of one source is written as it was when there was but one."""
    rules = [ingest_rules.as_json(rules, source.asked) for source, rules in readings]
    if len(readings) == 1:
        source = readings[0].source
        return {"source": source.name, "files": source.state, "rules": rules[0]}
    names = [source.name for source, _ in readings]
    files = [source.state for source, _ in readings]
    by_source = [list(pair) for pair in zip(names, rules, strict=True)]
    return {"source": names, "files": files, "rules": {"sources": by_source}}


def refuse_other_rules(tables: Tables, before: Mapping[str, Any] | None, inputs: Mapping[str, Any]) -> None:
    """Events that were kept under other rules cannot be told apart any more.

    Args:
        tables: where they lie.
        before: what they are made from by now; None: there are none, or nobody knows.
        inputs: what they are to be made from.

    Raises:
        DataError: these have other rules.
    """
    changed = _changed(before, inputs) if before is not None else []
    if changed:
        remedy = "name a new folder in tables.root, or remove this one"
        if "erased" in inputs:
            remedy = (
                f"name a new folder in tables.root and copy the tables '{erased.HASHES}' and '{erased.KEY}' there "
                "first, or remove all but these two from this one: without them erased persons would come back"
            )
        raise DataError(
            f"the events at {tables.path('events')} were ingested under other rules (changed: {', '.join(changed)}); "
            f"{remedy}"
        )


def times_agree(before: Mapping[str, Any] | None, inputs: Mapping[str, Any]) -> bool:
    """Whether equal rows have equal times, whichever of the sources they lie in, now and before."""
    if before is None or "rules" not in before:
        return False
    rules = [held for _, held in [*_by_source(before), *_by_source(inputs)]]
    return len({json.dumps(_reads_time(held), sort_keys=True) for held in rules}) == 1


def _reads_time(rules: Mapping[str, Any]) -> list[Any]:
    places = [rules.get(name, {}).get("time") for name in ("columns", "constants")]
    return [*places, rules.get("time_format"), rules.get("time_zone")]


def _changed(before: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
    """Names of rules that are others now: of one source against any, of several against those of the same name."""
    old, new = before.get("rules", {}), inputs["rules"]
    if "sources" not in old and "sources" not in new:
        return _differences(old, new)
    held, changed = _by_source(before), list[str]()
    for name, rules in _by_source(inputs):
        same = [others for other, others in held if other in (name, None)]
        if same and rules not in same:
            changed += _differences(same[0], rules)
    return sorted(set(changed))


def _by_source(inputs: Mapping[str, Any]) -> list[tuple[str | None, Mapping[str, Any]]]:
    """The rules of each source, with its name; None: of any, for an erasure keeps the rules alone."""
    rules = inputs.get("rules", {})
    return [(name, held) for name, held in rules["sources"]] if "sources" in rules else [(inputs.get("source"), rules)]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
