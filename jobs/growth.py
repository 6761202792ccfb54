"""Whether a build can go on from the one in force: what was added since to the tables that it was made from.

A build that goes on reads what was added and the side tables of the build before; it gives what a build of all rows
gives. It cannot where rows were added that the build before should have known, where rows were changed or removed, and
where settings differ. Nor where a vocabulary was put back: side tables speak of ids by their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import functions as F

from jobs import build_cuts, builds, moved_builds
from jobs.appended import appended
from jobs.ground import Before
from spark_udfs import features, pieces
from spark_udfs.features import Cuts
from spark_udfs.pieces import Pieces

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.builds import Manifest
    from jobs.settings import Settings
    from jobs.table_reads import Pin
    from jobs.tables import Tables
    from jobs.task import Task

CUTS = ("test_from", "validation_days")  # settings that a build may go on under other ones of
MOST_PIECES = 100  # each has a file at least; a build of all rows makes two of them


class Growth(NamedTuple):
    """What a build goes on from.

    Attributes:
        manifest: the build in force.
        added: the task's lines that were added since.
    """

    manifest: Manifest
    added: DataFrame

    @property
    def cuts(self) -> Cuts:
        held = self.manifest["cuts"]
        return Cuts(datetime.fromisoformat(held["validation"]), datetime.fromisoformat(held["test"]))

    @property
    def starts(self) -> tuple[datetime, ...]:
        return tuple(datetime.fromisoformat(start) for start in self.manifest["starts"])

    def put_back(self, tables: Tables, job: str) -> int:
        """See that the examples are those of the build before: a later one that was not published may have written
        others. Returns their version."""
        version = self.manifest["versions"]["examples"]
        return tables.put_back("examples", version, job=job, inputs=self.manifest["inputs"])

    def before(self, tables: Tables) -> Before:
        """What the task goes on from."""
        versions = self.manifest["versions"]
        read = {name: tables.read(name, versions[name]) for name in builds.side_tables(self.manifest)}
        return Before(self.cuts, read, self.manifest["counts"])

    def pieces(self, cuts: Cuts) -> Pieces:
        """The pieces of the build before, and one that begins with the validation of this one."""
        return Pieces(tuple(sorted({*self.starts, cuts.validation})))

    def span(self, lines: DataFrame) -> list[int | None]:
        """The times of the first and of the last line, in microseconds, by the build before and lines added since."""
        first, last = self.manifest["span"]
        time = F.unix_micros("time")
        earliest, latest = lines.agg(F.min(time), F.max(time)).collect()[0]
        return [first, last] if latest is None else [min(first, earliest), max(last, latest)]

    def in_between(self, lines: DataFrame, cuts: Cuts) -> DataFrame:
        """The lines before a later test cut that were not known before the last one: all others were counted then."""
        return lines.where(features.known_since(self.cuts.test) & (F.col("time") < F.lit(cuts.test)))

    def counted(self, lines: DataFrame, cuts: Cuts, kinds: Mapping[str, str]) -> dict[str, int]:
        """What `build_cuts.count` says of all lines: by what it said at the last cuts, and what has changed since.

        Args:
            lines: those `in_between`.
            cuts: the later ones.
            kinds: `Task.kinds`.
        """
        held: Mapping[str, int] = self.manifest["counts"]
        was_held_out = build_cuts.has_ids(kinds) & (F.col("time") >= F.lit(self.cuts.test))
        counts = build_cuts.count(lines, kinds, cuts)
        come, gone = (rows.where(was_held_out).count() for rows in (self.added, lines))
        return {
            **held,
            **counts,
            "training_lines": held["training_lines"] + counts["training_lines"],
            "held_out_lines": held["held_out_lines"] + come - gone,
        }

    def refused(self, cuts: Cuts) -> str | None:
        """Why a build of such cuts cannot go on; None if it can."""
        if cuts.validation < self.cuts.validation or cuts.test < self.cuts.test:
            return "a cut lies before the last one"
        if len(self.pieces(cuts).starts) > MOST_PIECES:
            return f"examples lie in {MOST_PIECES} pieces, which become two"
        early = self.added.where(features.known_before(self.cuts.test)).count()
        if early:
            return (
                f"{early:,} lines were added that would have been known at the last cut: name arrival_time in columns"
            )
        return None

    def rows(self, tables: Tables, new: DataFrame) -> DataFrame:
        """What is written in place of the validation of the build before: its rows and the new ones."""
        held = tables.read("examples", self.manifest["versions"]["examples"])
        validation = held.where(F.col(pieces.COLUMN).isin(self.manifest["pieces"][features.VALIDATION]))
        return validation.drop(pieces.COLUMN).unionByName(new)

    def with_stayed(self, counts: Mapping[str, int]) -> dict[str, int]:
        """How many examples each split has, with those of pieces that stayed."""
        stayed = f"examples_{features.TRAIN}"
        return {**counts, stayed: counts[stayed] + self.manifest["counts"][stayed]}

    def replaces(self) -> str:
        """Which rows of the examples `rows` stand for, as a condition of Spark's SQL."""
        return f"{pieces.COLUMN} >= '{pieces.name(self.cuts.validation)}'"


def growth(
    tables: Tables,
    task: Task,
    settings: Settings,
    manifest: Manifest,
    pins: Mapping[str, Pin],
    inputs: Mapping[str, Any],
) -> Growth | str:
    """What a build can go on from, or why it cannot.

    Args:
        tables: where the tables lie.
        task: whose build it is.
        settings: the pipeline's.
        manifest: the build in force.
        pins: the tables to be read now.
        inputs: what decides the rows now.
    """
    if manifest.get("sides") != builds.SIDES:
        return "the build in force is of an earlier version of Millrace"
    if "moved" in manifest:
        return "persons were erased since, whose lines are in the sums of the build in force"
    if not moved_builds.are_its_own(tables, manifest, task.grows):
        return "other tables lie there now"  # a clone counts its versions from 0 again
    others = [name for name in pins if name not in (*task.grows, *task.looked_up)]
    if others:
        return f"{others[0]} makes lines too, and some that were added may be the same ones"
    if _decisive(task, inputs) != _decisive(task, manifest["inputs"]):
        return "settings, or tables other than those that grow, have changed"
    held = moved_builds.readable(tables, manifest)
    if held is None or held["versions"] != manifest["versions"]:
        return "tables of the build in force were removed or have lost files, or others lie there now"
    for name in (f"vocabulary_{kind}" for kind in task.kinds(settings)):
        version, newest = manifest["versions"][name], tables.version(name)
        if newest != version and appended(tables, name, version, newest) is None:
            return f"rows of {name} were changed or removed since"  # numbers may mean others in its side tables
    grown = {}
    for name in task.grows:
        rows = appended(tables, name, manifest["read"][name], pins[name].version)
        if rows is None:
            return f"rows of {name} were changed or removed since"
        grown[name] = rows
    return Growth(manifest, task.lines(grown, settings))


def _decisive(task: Task, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same, as JSON gives it back."""
    kept = {name: value for name, value in inputs.items() if name not in (*task.grows, *task.looked_up)}
    return kept | {"settings": {name: value for name, value in inputs["settings"].items() if name not in CUTS}}
