"""The manifest: what was built together, published in one commit.

A build writes several tables, each in a commit of its own. None of them counts until the table `builds` names their
versions: its one row is the build in force, its earlier versions are the builds before. So a build that was killed
leaves the one before it in force, and whoever trains, tunes, evaluates or scores takes what was made together.

A manifest is JSON: `versions` of the tables written; `read`, versions of the tables that they were made from, and
`inputs`, what tells whether those or the settings have changed since; `cuts` (ISO times), `counts`, `schema`;
`pieces`, the examples' pieces of time by split (spark_udfs/pieces.py); `numbers`, what the numbers of a vocabulary mean
(`vocabularies.digest`); `ids`, Delta's own ids of the tables written and read; `sides`, of which form its side tables
are; `moved`, where rows were removed from them since.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.appended import written
from jobs.console import warn
from spark_udfs import pieces as pieces_of_time
from spark_udfs.vocabularies import digest
from training.data.snapshot import open_snapshot, read_table
from training.errors import BundleError, MillraceError, NoTableError, TableError
from training.state.json_files import read_json as read_checked

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.tables import Tables

TABLE, COLUMN = "builds", "manifest"
FIELDS = ("versions", "read", "inputs", "cuts", "counts", "schema", "pieces")
SIDES = 4  # the form of the side tables: a later build goes on from those of its own form alone
Manifest = dict[str, Any]


class EarlierBuildError(TableError):
    """The build in force is one of an earlier version of Millrace."""


class Newest(NamedTuple):
    """The build in force, and the version of `builds` that names it; -1 and None if nothing was ever published.

    The manifest is None where an earlier version of Millrace wrote it, too.
    """

    version: int
    manifest: Manifest | None


def newest(tables: Tables) -> Newest:
    """What the next build comes after.

    Raises:
        TableError: the table holds something else than a manifest.
    """
    if not tables.exists(TABLE):
        return Newest(-1, None)
    version = tables.version(TABLE)
    try:
        return Newest(version, _manifest(_rows(tables, version), tables.path(TABLE)))
    except EarlierBuildError:
        return Newest(version, None)


def published(tables: Tables) -> Manifest:
    """The build in force.

    Raises:
        NoTableError: no build was published here; EarlierBuildError: an earlier version of Millrace wrote it.
    """
    if not tables.exists(TABLE):
        raise NoTableError(_none(tables.path(TABLE)))
    return _manifest(_rows(tables, tables.version(TABLE)), tables.path(TABLE))


def _rows(tables: Tables, version: int) -> list[Any]:
    return [row[COLUMN] for row in tables.read(TABLE, version).select(COLUMN).collect()]  # one row


def published_at(root: str) -> Manifest:
    """The build in force below a tables' root, read without a JVM.

    Raises:
        NoTableError: no build was published there; TableError: it cannot be reached.
    """
    place = f"{root.rstrip('/')}/{TABLE}"
    try:
        rows = read_table(open_snapshot(place), [COLUMN])[COLUMN].to_pylist()
    except NoTableError as error:
        raise NoTableError(_none(place)) from error
    except MillraceError as error:
        raise TableError(f"the build in force cannot be read: {error}") from error
    return _manifest(rows, place)


def publishers(tables: Tables) -> set[str]:
    """The jobs that have published a build here, as far as the table's log goes."""
    if not tables.exists(TABLE):
        return set()
    return {json.loads(commit.made)["job"] for commit in tables.history(TABLE) if commit.made is not None}


def publish(tables: Tables, manifest: Manifest, *, job: str, since: int) -> int:
    """Put a build in force.

    Args:
        tables: where its tables lie.
        manifest: its FIELDS.
        job: the job that publishes.
        since: the version of `builds` that this build comes after; -1: none.

    Returns:
        The version of `builds` that names it.

    Raises:
        TableError: another build was published since; that one stays in force.
    """
    row = tables.spark.createDataFrame([(json.dumps(manifest, sort_keys=True),)], f"{COLUMN} string")
    return tables.write(TABLE, row, mode="overwrite", job=job, inputs=manifest["inputs"], since=since)


def refuse_other_task(tables: Tables, manifest: Manifest, task: str) -> None:
    """See that the build in force is a task's own.

    Raises:
        TableError: it is another's.
    """
    held = manifest["inputs"].get("task", task)
    if held != task:
        raise TableError(
            f"the build in force at {tables.path(TABLE)} is of task {held}, and the settings' task is {task}: run "
            "`millrace build-examples` with these settings, or set tables.root to where the tables of that task lie"
        )


def refuse_another(manifest: Manifest, name: str, table_id: str, place: str) -> None:
    """See that a table is the build's own, by its id: versions of another one that lies there now hold other rows.

    Raises:
        TableError: it is another.
    """
    held = manifest.get("ids", {}).get(name, table_id)
    if held != table_id:
        raise TableError(
            f"table '{name}' at {place} must be the one that the build in force names ({held}), and is another "
            f"({table_id}): that one was removed; run `millrace build-examples`"
        )


def refuse_others(tables: Tables, manifest: Manifest, names: Iterable[str]) -> None:
    """See that tables are the build's own.

    Raises:
        TableError: one is another, or is gone.
    """
    for name in names:
        refuse_another(manifest, name, tables.id(name), tables.path(name))


def versions_read(tables: Tables, manifest: Manifest) -> dict[str, int]:
    """Versions at which the tables that a build was made from can be read: the newest ones where rows are the same.

    Housekeeping moves rows to other files, and VACUUM may have removed those of the version that the build read.
    """
    found: dict[str, int] = {}
    for name, version in manifest["read"].items():
        pin = tables.pin(name)
        found[name] = pin.version if pin.content == manifest["inputs"][name] else version
    return found


def side_tables(manifest: Manifest) -> list[str]:
    """What a build wrote beside the examples and the vocabularies."""
    return [name for name in manifest["versions"] if name != "examples" and not name.startswith("vocabulary_")]


def count_examples(examples: DataFrame, pieces: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many examples each split has."""
    rows = examples.groupBy(pieces_of_time.COLUMN).count().collect()
    return of_splits({row[pieces_of_time.COLUMN]: row["count"] for row in rows}, pieces)


def count_written(tables: Tables, version: int, pieces: Mapping[str, Sequence[str]]) -> dict[str, int] | None:
    """How many examples a commit wrote of each split, by what the log says; None where it does not."""
    found = written(tables, "examples", version, pieces_of_time.COLUMN)
    return None if found is None else of_splits(found, pieces)


def of_splits(counts: Mapping[Any, int], pieces: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The examples of each split, of those of each piece."""
    return {f"examples_{split}": sum(counts.get(piece, 0) for piece in named) for split, named in pieces.items()}


def build_of(bundle: Path) -> Manifest:
    """The manifest of the build that a bundle, by its folder, was trained on; empty where it does not say."""
    made: Manifest = read_checked(bundle / "bundle.json", dict[str, Any]).get("provenance", {}).get("build", {})
    return made


def refuse_other_numbers(tables: Tables, versions: Mapping[str, int], bundle: Path) -> None:
    """A bundle means ids by numbers: they must still mean what they meant when it was trained.

    Args:
        tables: where the vocabularies lie.
        versions: of the tables that are to give the numbers their ids.
        bundle: its folder. One that an earlier version of Millrace made does not say what its numbers mean.

    Raises:
        BundleError: they mean other ids.
    """
    build = build_of(bundle)
    wanted = build.get("numbers", {"items": build["items"]} if "items" in build else None)
    if wanted is None:
        warn(
            f"bundle '{bundle.name}' is of an earlier version and does not say what its numbers of ids mean; where "
            "the tables were made anew since, they mean others: train it again"
        )
        return
    for kind, told in wanted.items():
        name = f"vocabulary_{kind}"
        if name not in versions:
            raise BundleError(
                f"bundle '{bundle.name}' was trained with a vocabulary of {kind}, which this build has not: it is of "
                "another task, or of other settings; run `millrace train`"
            )
        if digest(tables.read(name, versions[name]), told["ids"]) != told:
            raise BundleError(
                f"bundle '{bundle.name}' must be asked with the {kind} that it was trained on; the first "
                f"{told['ids']:,} of '{name}' at {tables.path(name)} are others: the tables were removed and made "
                "anew. Run `millrace train`"
            )


def _manifest(rows: list[Any], place: str) -> Manifest:
    if len(rows) != 1:
        raise TableError(f"{_damaged(place)}: it has {len(rows)} rows")
    try:
        manifest: Manifest = json.loads(rows[0])
        missing = [name for name in FIELDS if name not in manifest]
    except (TypeError, ValueError) as error:
        raise TableError(f"{_damaged(place)}: {error}") from error
    if missing == ["pieces"]:
        raise EarlierBuildError(
            f"the build at {place} is of an earlier version of Millrace; run `millrace build-examples`"
        )
    if missing:
        raise TableError(f"{_damaged(place)}: it lacks {', '.join(missing)}")
    return manifest


def _none(place: str) -> str:
    return f"no build is published at {place}; run `millrace build-examples`"


def _damaged(place: str) -> str:
    return f"the table at {place} must hold one manifest; run `millrace build-examples` after RESTORE TABLE"
