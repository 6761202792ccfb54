"""Items and users: what events say of them, kept as sums, and their attributes; a batch changes rows that it touches.

`item_sums` and `user_sums` hold what events say (spark_udfs/descriptions.py), `item_attributes` and `user_attributes`
what sources of attributes say. Each table's last commit tells the version of the events that it is made from, and their
id; the rows that were added to them since are added up. Where more was done to the events, other ones lie there now, or
nobody knows, it is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs import attributes
from jobs.appended import appended
from jobs.attributes import AttributeReading
from jobs.console import say, step
from jobs.erasure import erased
from jobs.sessions import persisted
from spark_udfs import descriptions
from spark_udfs.attributes import joined

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.erasure.erased import Watch
    from jobs.settings import Settings
    from jobs.table_reads import Pin
    from jobs.tables import Tables

JOB, EVENTS = "ingest", "events"
EVENTS_ID = "events_id"  # Delta's: events that were removed and made anew have another
OF_USERS = ("users", "user_sums", "user_attributes")
# From one id in so many on a table is written anew: it is read once then, and four times where rows are merged into it.
MANY = 50
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


class Events(NamedTuple):
    """The events, as they are found.

    Attributes:
        pin: their version.
        id: Delta's own id of the table.
    """

    pin: Pin
    id: str

    @property
    def inputs(self) -> dict[str, Any]:
        """What tells them from others, as an input of what is made of them."""
        return {EVENTS: self.pin.content, EVENTS_ID: self.id}

    def known_to(self, made_from: Mapping[str, Any] | None) -> int | None:
        """The version of these events that a table is made from, by what its last commit says; None: nobody knows, or
        it is made from other events. Commits of earlier versions of Millrace do not say from which."""
        said = made_from or {}
        since = said.get(EVENTS)
        return since if isinstance(since, int) and said.get(EVENTS_ID, self.id) == self.id else None


class Made(NamedTuple):
    """What was made: versions of the tables, and rows by disposition of each source of attributes of each."""

    versions: dict[str, int]
    attributes: dict[str, dict[str, dict[str, int]]]


def describe(
    settings: Settings, tables: Tables, described: Mapping[str, Sequence[AttributeReading]], watch: Watch
) -> Made:
    """Bring items and users up to the events and the sources of attributes."""
    with step("ingest: opening the events"):
        events = Events(tables.pin(EVENTS), tables.id(EVENTS))
    made = Made({EVENTS: events.pin.version}, {})
    for kind in KINDS:
        of_attributes = attributes.made_from(described[kind.name])
        if of_attributes:
            of_attributes |= watch.inputs
        inputs = events.inputs | of_attributes
        with step(f"ingest: comparing {kind.name} with the events"):
            held = tables.version(kind.name) if tables.up_to_date(kind.name, JOB, inputs) else None
        if held is None:
            with ExitStack() as kept:
                with step(f"adding up what events say of {kind.name}"):
                    sums = _sums(tables, kind, events, kept)
                if of_attributes:
                    _gather(settings, tables, kind, described[kind.name], of_attributes)
                with step(f"writing {kind.name}"):
                    held = _write(tables, kind, sums, events, inputs, with_attributes=bool(of_attributes))
        made.versions[kind.name] = held
        if of_attributes:
            made.attributes[kind.name] = attributes.counts_of(tables, of_attributes)
    return made


class Sums(NamedTuple):
    """What the events say by now.

    Attributes:
        rows: the table.
        touched: those of the ids that the last events name; None: they were not added to an earlier table now.
        since: the version of the events that the earlier table was made from.
        many: whether the last events name so many ids that the table was written anew.
    """

    rows: DataFrame
    touched: DataFrame | None = None
    since: int | None = None
    many: bool = False


def _sums(tables: Tables, kind: Kind, events: Events, kept: ExitStack) -> Sums:
    """Bring the sums up to the events; those of ids that were touched are kept, so that the table is read once."""
    inputs = events.inputs
    if tables.up_to_date(kind.sums, JOB, inputs):
        return Sums(tables.read(kind.sums))
    since = tables.version(kind.sums) if tables.exists(kind.sums) else -1  # before what it is made from is asked
    before = tables.made_from(kind.sums)
    _refuse_newer(tables, kind.sums, before, events)
    added = _added(tables, before, events)
    if added is None:
        if tables.exists(kind.name):
            say(f"what events say of {kind.name} is counted anew, from all of them")
        sums = kind.sums_of(tables.read(EVENTS, events.pin.version))
        made = tables.write(
            kind.sums, sums, mode="overwrite", since=since, job=JOB, inputs=inputs, properties=NO_REWRITE
        )
        return Sums(tables.read(kind.sums, made))
    new, held = kept.enter_context(persisted(kind.sums_of(added))), tables.read(kind.sums, since)
    ids = new.select(kind.id).distinct()
    if ids.count() * MANY > held.count():
        sums = kept.enter_context(persisted(descriptions.added_up(held.unionByName(new), kind.id)))
        tables.write(kind.sums, sums, mode="overwrite", since=since, job=JOB, inputs=inputs, properties=NO_REWRITE)
        return Sums(sums, many=True)
    of_ids = held.join(ids, on=kind.id, how="left_semi")
    touched = kept.enter_context(persisted(descriptions.added_up(of_ids.unionByName(new), kind.id)))
    keys = [kind.id, *descriptions.KEYS]
    changed = touched.join(new.select(*keys), on=keys, how="left_semi")
    made = tables.merge(kind.sums, changed, keys, since=since, job=JOB, inputs=inputs)
    return Sums(tables.read(kind.sums, made), touched, events.known_to(before))


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
    tables: Tables, kind: Kind, sums: Sums, events: Events, inputs: Mapping[str, Any], *, with_attributes: bool
) -> int:
    """Write the rows that the events since have touched; all where that is not known, or what else they are made of."""
    of_attributes = tables.read(kind.attributes) if with_attributes else None
    rows = _rows(kind, sums.rows, of_attributes)
    since = tables.version(kind.name) if tables.exists(kind.name) else -1
    before = tables.made_from(kind.name)
    _refuse_newer(tables, kind.name, before, events)
    if not sums.many and since >= 0 and rows.dtypes == tables.read(kind.name, since).dtypes:
        is_same_but_for_events = before is not None and {**before, **events.inputs} == inputs
        touched = _touched(tables, kind, sums, before, events) if is_same_but_for_events else None
        if touched is not None:
            with persisted(_rows(kind, touched, of_attributes, touched.select(kind.id).distinct())) as changed:
                return tables.merge(kind.name, changed, [kind.id], since=since, job=JOB, inputs=inputs)
    return tables.write(kind.name, rows, mode="overwrite", since=since, job=JOB, inputs=inputs, properties=NO_REWRITE)


def _refuse_newer(tables: Tables, name: str, made_from: Mapping[str, Any] | None, events: Events) -> None:
    """See that a table is not brought back to events of before those that another ingest has brought it up to.

    Raises:
        TableError: it is made from newer ones.
    """
    known = events.known_to(made_from)
    if known is not None and events.pin.content < known <= tables.pin(EVENTS).content:  # else others lie there now
        raise tables.changed_meanwhile(name, JOB)


def _touched(
    tables: Tables, kind: Kind, sums: Sums, made_from: Mapping[str, Any] | None, events: Events
) -> DataFrame | None:
    """The sums of the ids that events name which a table does not know yet; None: nobody knows which."""
    if sums.touched is not None and events.known_to(made_from) == sums.since:
        return sums.touched
    added = _added(tables, made_from, events)
    if added is None:
        return None
    return sums.rows.join(added.select(kind.id).distinct(), on=kind.id, how="left_semi")


def _rows(kind: Kind, sums: DataFrame, of_attributes: DataFrame | None, ids: DataFrame | None = None) -> DataFrame:
    """The rows of sums, with the attributes of these ids; of all where none are given."""
    rows = kind.rows_of(sums)
    if of_attributes is None:
        return rows
    own = of_attributes if ids is None else of_attributes.join(ids, on=kind.id, how="left_semi")
    return joined(rows, kind.id, [own], attributes.TEXTS[kind.name])


def _added(tables: Tables, made_from: Mapping[str, Any] | None, events: Events) -> DataFrame | None:
    """The events that a table does not know yet, by what its last commit says; None: nobody knows."""
    since = events.known_to(made_from)
    return None if since is None else appended(tables, EVENTS, since, events.pin.version)
