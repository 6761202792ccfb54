"""Items and users: what events say of them, kept as sums, and their attributes; a batch changes rows that it touches.

`item_sums` and `user_sums` hold what events say (spark_udfs/descriptions.py), `item_attributes` and `user_attributes`
what sources of attributes say. Each table's last commit tells the version of the events that it is made from, and the
rows that were added to them since are added up. Where more was done to the events, or nobody knows, it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import attributes
from jobs.appended import appended
from jobs.attributes import AttributeReading
from jobs.console import say, step
from jobs.erasure import erased
from spark_udfs import descriptions
from spark_udfs.attributes import joined

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.erasure.erased import Watch
    from jobs.settings import Settings
    from jobs.table_reads import Pin
    from jobs.tables import Tables

JOB, EVENTS = "ingest", "events"
OF_USERS = ("users", "user_sums", "user_attributes")
# A commit that changes few rows of many files then leaves the files as they are.
NO_REWRITE = {"delta.enableDeletionVectors": "true"}


class Kind(NamedTuple):
    """A table of descriptions, where its parts are kept, and how it is made.

    Attributes:
        name: the table.
        id: its id.
        sums: the table of what events say.
        attributes: the table of what sources of attributes say.
        sums_of: events to sums.
        rows_of: sums to rows.
    """

    name: str
    id: str
    sums: str
    attributes: str
    sums_of: Callable[[DataFrame], DataFrame]
    rows_of: Callable[[DataFrame], DataFrame]


KINDS = (
    Kind("items", "item_id", "item_sums", "item_attributes", descriptions.item_sums, descriptions.items),
    Kind("users", "user_id", "user_sums", "user_attributes", descriptions.user_sums, descriptions.users),
)


class Made(NamedTuple):
    """What was made: versions of the tables, and rows by disposition of each source of attributes of each."""

    versions: dict[str, int]
    attributes: dict[str, dict[str, dict[str, int]]]


def describe(
    settings: Settings, tables: Tables, described: Mapping[str, Sequence[AttributeReading]], watch: Watch
) -> Made:
    """Bring items and users up to the events and the sources of attributes."""
    with step("ingest: opening the events"):
        pin = tables.pin(EVENTS)
    made = Made({EVENTS: pin.version}, {})
    for kind in KINDS:
        of_attributes = attributes.made_from(described[kind.name])
        if of_attributes:
            of_attributes |= watch.inputs
        inputs = {EVENTS: pin.content} | of_attributes
        with step(f"ingest: comparing {kind.name} with the events"):
            held = tables.version(kind.name) if tables.up_to_date(kind.name, JOB, inputs) else None
        if held is None:
            with step(f"adding up what events say of {kind.name}"):
                sums = _sums(tables, kind, pin)
            if of_attributes:
                _gather(settings, tables, kind, described[kind.name], of_attributes)
            with step(f"writing {kind.name}"):
                held = _write(tables, kind, sums, pin, inputs, with_attributes=bool(of_attributes))
        made.versions[kind.name] = held
        if of_attributes:
            made.attributes[kind.name] = attributes.counts_of(tables, of_attributes)
    return made


def _sums(tables: Tables, kind: Kind, pin: Pin) -> DataFrame:
    """What the events say by now."""
    inputs: dict[str, Any] = {EVENTS: pin.content}
    made: int | None = None
    if not tables.up_to_date(kind.sums, JOB, inputs):
        since = tables.version(kind.sums) if tables.exists(kind.sums) else -1
        added = _added(tables, tables.made_from(kind.sums), pin)
        if added is not None:
            new, keys = kind.sums_of(added), [kind.id, *descriptions.KEYS]
            made = tables.merge(kind.sums, new, keys, update=descriptions.ADDED, since=since, job=JOB, inputs=inputs)
        else:
            if tables.exists(kind.name):
                say(f"what events say of {kind.name} is counted anew, from all of them")
            sums = kind.sums_of(tables.read(EVENTS, pin.version))
            made = tables.write(kind.sums, sums, mode="overwrite", job=JOB, inputs=inputs, properties=NO_REWRITE)
    return tables.read(kind.sums, made)


def _gather(
    settings: Settings,
    tables: Tables,
    kind: Kind,
    readings: Sequence[AttributeReading],
    inputs: Mapping[str, Any],
) -> None:
    """Read the sources of attributes, if they have changed."""
    with step(f"ingest: comparing the attributes of {kind.name}"):
        if tables.up_to_date(kind.attributes, JOB, inputs):
            return
    limit, persons = settings.tables.quarantine_limit, erased.known(tables)
    with (
        attributes.gathered(tables, kind.name, readings, inputs, limit=limit, persons=persons) as rows,
        step(f"writing the attributes of {kind.name}"),
    ):
        tables.write(kind.attributes, rows, mode="overwrite", job=JOB, inputs=inputs)


def _write(
    tables: Tables, kind: Kind, sums: DataFrame, pin: Pin, inputs: Mapping[str, Any], *, with_attributes: bool
) -> int:
    """Write the rows that the events since have touched; all where that is not known, or what else they are made of."""
    of_attributes = tables.read(kind.attributes) if with_attributes else None
    rows = _rows(kind, sums, of_attributes)
    since = tables.version(kind.name) if tables.exists(kind.name) else -1
    if since >= 0 and rows.dtypes == tables.read(kind.name, since).dtypes:
        before = tables.made_from(kind.name)
        is_same_but_for_events = before is not None and {**before, EVENTS: pin.content} == inputs
        added = _added(tables, before, pin) if is_same_but_for_events else None
        if added is not None:
            touched = _rows(kind, sums, of_attributes, added.select(kind.id).distinct())
            return tables.merge(kind.name, touched, [kind.id], since=since, job=JOB, inputs=inputs)
    return tables.write(kind.name, rows, mode="overwrite", job=JOB, inputs=inputs, properties=NO_REWRITE)


def _rows(kind: Kind, sums: DataFrame, of_attributes: DataFrame | None, ids: DataFrame | None = None) -> DataFrame:
    """The rows of these ids; of all where none are given."""
    if ids is not None:
        sums = sums.join(ids, on=kind.id, how="left_semi")
    rows = kind.rows_of(sums)
    if of_attributes is None:
        return rows
    own = of_attributes if ids is None else of_attributes.join(ids, on=kind.id, how="left_semi")
    return joined(rows, kind.id, [own], attributes.TEXTS[kind.name])


def _added(tables: Tables, made_from: Mapping[str, Any] | None, pin: Pin) -> DataFrame | None:
    """The events that a table does not know yet, by what its last commit says; None: nobody knows."""
    since = (made_from or {}).get(EVENTS)
    return appended(tables, EVENTS, since, pin.version) if isinstance(since, int) else None
