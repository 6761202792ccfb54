"""Before a batch is written: its profile by one pass over its rows, the judgement, the verdict, and what follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyspark.sql.types import BooleanType, NumericType

from jobs.console import say, show_table, step
from jobs.quality import verdicts
from jobs.quality.cells import Cell
from jobs.quality.judge import judge
from jobs.quality.profile import DAY_US, Profile, profile_of
from jobs.quality.verdicts import OVERRIDDEN, PASS, STOP, WARN, Verdict, Written, as_good, last_good
from spark_udfs.profiles import cells
from training.errors import QualityError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.quality.compared import Good
    from jobs.quality.findings import Finding
    from jobs.settings_quality import QualitySettings
    from jobs.tables import Tables

PART = "_source"  # the column of a batch's rows that names their source
TOLD = 5  # findings that an error names


@dataclass(frozen=True)
class Incoming:
    """A batch that is to be written.

    Attributes:
        table: whereto.
        batch: its name.
        number: of the table's batches; one that comes in place of another, which was not written, has the same.
        rows: those that are to be written, with their source as PART.
        outcomes: of each source, its rows by what became of them.
        keys: the columns that tell rows apart, where the settings name none.
        time: the column that says when a row is of; None: there is none.
        named: columns of texts that name no person, whose words may be told.
        of_persons: columns of texts that may name a person, of which no counts by hash are kept.
        is_read_again: whether rows of before are among them.
    """

    table: str
    batch: str
    number: int
    rows: DataFrame
    outcomes: Mapping[str, Mapping[str, int]]
    keys: Sequence[str]
    time: str | None
    named: frozenset[str]
    of_persons: frozenset[str]
    is_read_again: bool


def pass_through(tables: Tables, incoming: Callable[[], Incoming], asked: QualitySettings) -> None:
    """Hold a batch against the last good ones of its sources, and keep the verdict.

    Args:
        tables: where `quality` lies.
        incoming: gives the new one; not asked where nobody looks.
        asked: the section `quality`.

    Raises:
        SettingsError: a key or a label is no column of the table.
        QualityError: it differs, and the settings say that such a batch is not written.
    """
    if asked.gate == "off":
        return
    batch = incoming()
    _refuse_unknown(batch, asked)
    now = round(datetime.now(UTC).timestamp() * 1_000_000)
    with step("holding the batch against good ones"):
        before = {source: last_good(tables, batch.table, source, batch.batch, asked) for source in batch.outcomes}
        good = {source: [as_good(one) for one in held] for source, held in before.items()}
        written = verdicts.written(tables, batch.table, batch.batch)
        batch = replace(batch, number=max(batch.number, written.number + 1))  # an erasure lets it fall
        made = [
            _judged(batch, source, profile, good[source], asked, now, written)
            for source, profile in _profiles(batch, written, asked, now).items()
        ]
        stopped = [one for one in made if one.verdict == STOP]  # then nothing is written of the other sources either
        verdicts.keep(tables, [*(stopped or made), *_called_good(before, asked)])
    for verdict in made:
        _show(verdict)
    _refuse(made)


def _refuse_unknown(batch: Incoming, asked: QualitySettings) -> None:
    label = asked.labels.get(batch.table)
    named = {"keys": asked.keys.get(batch.table, ()), "labels": () if label is None else (label,)}
    for setting, columns in named.items():
        if unknown := sorted(set(columns) - set(batch.rows.columns)):
            held = ", ".join(name for name in batch.rows.columns if name != PART)
            raise SettingsError(
                f"quality.{setting}.{batch.table} names '{unknown[0]}', which is no column of '{batch.table}'; it has: "
                f"{held}"
            )
    if label is not None and not isinstance(kind := batch.rows.schema[label].dataType, NumericType | BooleanType):
        raise SettingsError(
            f"quality.labels.{batch.table} names '{label}', which is a {kind.simpleString()}; a label is a number or a "
            "flag: name another column"
        )


def _profiles(batch: Incoming, written: Written, asked: QualitySettings, now: int) -> dict[str, Profile]:
    """A profile for each source, by one pass over all rows."""
    label = asked.labels.get(batch.table)
    counted = cells(
        batch.rows,
        part=PART,
        since_us=written.newest_us if batch.is_read_again else {},
        time=batch.time,
        keys=asked.keys.get(batch.table, batch.keys),
        named=batch.named,
        about=max(1, sum(sum(held.values()) for held in batch.outcomes.values())),
        until_us=now + DAY_US,  # times without a zone may be hours ahead
        label=label,
    )
    held: dict[tuple[str, bool], list[Cell]] = {}
    for row in counted.rows.collect():
        held.setdefault((row["part"], row["is_later"]), []).append(Cell(*row[2:]))
    return {
        source: profile_of(
            held.get((source, True), []),
            held.get((source, False), []),
            counted.places,
            outcomes=outcomes,
            label=label,
            of_persons=batch.of_persons,
            is_whole=batch.is_read_again,
        )
        for source, outcomes in batch.outcomes.items()
    }


def _judged(
    batch: Incoming,
    source: str,
    profile: Profile,
    good: Sequence[Good],
    asked: QualitySettings,
    now: int,
    written: Written,
) -> Verdict:
    # Of a table that is read again nothing was written that is not looked at; a batch of events may have come unseen.
    is_next = batch.is_read_again or written.number == batch.number - 1
    found = judge(profile, good, asked, now, written.newest_us.get(source) if is_next else None)
    why = asked.override.get(batch.batch) if found else None
    return Verdict(
        table=batch.table,
        source=source,
        batch=batch.batch,
        number=batch.number,
        judged=now,
        verdict=_verdict(found, why, asked),
        override=why,
        held_against=len(good),
        rows=profile.rows,
        newest=profile.newest_us,
        findings=found,
        profile=json.dumps(profile.as_json()),
    )


def _verdict(found: Sequence[Finding], why: str | None, asked: QualitySettings) -> str:
    if not found:
        return PASS
    if why is not None:
        return OVERRIDDEN
    return STOP if asked.gate == STOP and any(one.check not in asked.only_warn for one in found) else WARN


def _called_good(before: Mapping[str, Sequence[Verdict]], asked: QualitySettings) -> list[Verdict]:
    """Batches that were written with a warning and are called good now, so that this is recorded."""
    return [
        one._replace(verdict=OVERRIDDEN, override=asked.override[one.batch])
        for held in before.values()
        for one in held
        if one.verdict == WARN
    ]


def _show(verdict: Verdict) -> None:
    where = f"{verdict.table} from {verdict.source}, batch {verdict.batch}"
    if not verdict.held_against:
        say(f"{where}: there is no good batch yet to hold it against; later ones are held against it")
    elif not verdict.findings:
        say(f"{where}: as the {verdict.held_against} good batches before it")
    else:
        why = f", for: {verdict.override}" if verdict.override else ""
        title = f"{where}: {verdict.verdict}, held against {verdict.held_against} good batches{why}"
        show_table(title, ("check", "column", "found", "expected"), verdict.findings)


def _refuse(made: Sequence[Verdict]) -> None:
    stopped = [one for one in made if one.verdict == STOP]
    if not stopped:
        return
    told = "; ".join(f"{one.table} from '{one.source}': {_listed(one.findings)}" for one in stopped)
    raise QualityError(
        f"a batch must be as the good ones before it, and '{stopped[0].batch}' is not: {told}. Nothing of it was "
        f"written. Correct the source; or, where it is right as it is, say why: quality.override.{stopped[0].batch}="
        "REASON; or let it pass with a warning: quality.gate=warn"
    )


def _listed(found: Sequence[Finding]) -> str:
    more = f"; and {len(found) - TOLD:,} more, in the table '{verdicts.TABLE}'" if len(found) > TOLD else ""
    return "; ".join(map(str, found[:TOLD])) + more
