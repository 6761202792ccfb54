"""The manifest: what was built together, published in one commit.

A build writes several tables, each in a commit of its own. None of them counts until the table `builds` names their
versions: its one row is the build in force, its earlier versions are the builds before. So a build that was killed
leaves the one before it in force, and whoever trains, tunes, evaluates or scores takes what was made together.

A manifest is JSON: `versions` of the tables written; `read`, versions of the tables that they were made from, and
`inputs`, what tells whether those or the settings have changed since; `cuts` (ISO times), `counts`, `schema`;
`pieces`, the examples' pieces of time by split (spark_udfs/pieces.py); `numbers`, what the numbers of a vocabulary mean
(`vocabularies.digest`); `sides`, of which form its side tables are; `moved`, where rows were removed from them since.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jobs.console import say, warn
from spark_udfs import pieces as pieces_of_time
from spark_udfs.vocabularies import digest
from training.data.delta_log import has_files
from training.data.snapshot import open_snapshot, read_table
from training.errors import BundleError, MillraceError, NoTableError, SnapshotError, TableError
from training.state.json_files import read_json as read_checked

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.tables import Tables

TABLE, COLUMN = "builds", "manifest"
FIELDS = ("versions", "read", "inputs", "cuts", "counts", "schema", "pieces")
SIDES = 3  # the form of the side tables: a later build goes on from those of its own form alone
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


def movable(tables: Tables) -> list[str]:
    """The tables of the build in force whose newest rows are its own; to be asked before rows are removed from them."""
    manifest = newest(tables).manifest
    if manifest is None:
        return []

    def is_its_own(name: str) -> bool:
        content = tables.pin(name).content
        if name in manifest["read"]:
            return bool(content == manifest["inputs"].get(name))
        return bool(content <= manifest["versions"][name])

    named = sorted({*manifest["read"], *manifest["versions"]})
    return [name for name in named if tables.exists(name) and is_its_own(name)]


def move(tables: Tables, names: Collection[str], movable: Collection[str], *, job: str) -> int | None:
    """Publish the build in force at the newest versions of some of its tables: earlier ones are to be read no more.

    What it was made from has changed with them, and its sums still have these rows, so the next build is made anew. Who
    looks on learns what was not moved.

    Args:
        tables: where they lie.
        names: the tables from which rows were removed.
        movable: those that had the build's own rows before; the others hold later ones, which are no part of it.
        job: the job that publishes.

    Returns:
        The version of `builds` that names them; None if there is no build, or its tables are another one's by now.

    Raises:
        TableError: another build was published meanwhile.
    """
    version, manifest = newest(tables)
    if manifest is None:
        return None
    held = [name for name in ("examples", "queries") if name in manifest["versions"]]
    of_others = [name for name in held if tables.made_from(name) != manifest["inputs"]]
    named = {*manifest["read"], *manifest["versions"]} & {*names}
    late = sorted(named - {*movable} - {*of_others})
    if of_others or late:
        say(f"{', '.join(of_others + late)}: not as the build in force names them; run `millrace build-examples` next")
    if of_others:
        return None
    moved = {
        part: {
            name: tables.version(name) if name in names and name in movable else held
            for name, held in manifest[part].items()
        }
        for part in ("versions", "read")
    }
    if all(manifest[part] == held for part, held in moved.items()):
        return version
    examples = tables.read("examples", moved["versions"]["examples"])
    counts = manifest["counts"] | count_examples(examples, manifest["pieces"])
    return publish(tables, manifest | moved | {"counts": counts, "moved": True}, job=job, since=version)


def count_examples(examples: DataFrame, pieces: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many examples each split has."""
    found = {
        row[pieces_of_time.COLUMN]: row["count"] for row in examples.groupBy(pieces_of_time.COLUMN).count().collect()
    }
    return {f"examples_{split}": sum(found.get(piece, 0) for piece in named) for split, named in pieces.items()}


def readable(tables: Tables, manifest: Manifest) -> Manifest | None:
    """The build with versions that can be read, where its rows are still to be had.

    A version of which VACUUM has removed files is replaced by the newest, if only housekeeping lies between; one that
    can be read stays, for other files are another order of rows, and so another training.

    Returns:
        The same manifest, one with other versions, or None: a table has other rows by now, or is gone.
    """
    found = {name: _readable(tables, name, version) for name, version in manifest["versions"].items()}
    return None if None in found.values() else manifest | {"versions": found}


def _readable(tables: Tables, name: str, version: int) -> int | None:
    if not tables.exists(name):
        return None
    pin = tables.pin(name)
    if pin.version == version or has_version(tables.path(name), version):
        return version
    return pin.version if pin.content <= version < pin.version else None


def has_version(place: str, version: int) -> bool:
    """Whether the table at a place still has all files of a version."""
    try:
        return has_files(place, version)
    except SnapshotError:  # the log has lost the version, or another table lies here now
        return False


def refuse_other_numbers(tables: Tables, versions: Mapping[str, int], bundle: Path) -> None:
    """A bundle means ids by numbers: they must still mean what they meant when it was trained.

    Args:
        tables: where the vocabularies lie.
        versions: of the tables that are to give the numbers their ids.
        bundle: its folder. One that an earlier version of Millrace made does not say what its numbers mean.

    Raises:
        BundleError: they mean other ids.
    """
    build = read_checked(bundle / "bundle.json", dict[str, Any]).get("provenance", {}).get("build", {})
    wanted = build.get("numbers", {"items": build["items"]} if "items" in build else None)
    if wanted is None:
        warn(
            f"bundle '{bundle.name}' is of an earlier version and does not say what its numbers of ids mean; where "
            "the tables were made anew since, they mean others: train it again"
        )
        return
    for kind, told in wanted.items():
        name = f"vocabulary_{kind}"
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
