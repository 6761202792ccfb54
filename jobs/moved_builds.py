"""Where the rows of a build lie by now: housekeeping and erasures write later versions of its tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from jobs import builds
from jobs.console import say
from training.data.delta_log import has_files
from training.errors import NoTableError, SnapshotError

if TYPE_CHECKING:
    from jobs.tables import Tables


def movable(tables: Tables) -> list[str]:
    """The tables of the build in force whose newest rows are its own; to be asked before rows are removed from them."""
    manifest = builds.newest(tables).manifest
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
    version, manifest = builds.newest(tables)
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
    counts = manifest["counts"] | builds.count_examples(examples, manifest["pieces"])
    return builds.publish(tables, manifest | moved | {"counts": counts, "moved": True}, job=job, since=version)


def readable(tables: Tables, manifest: builds.Manifest) -> builds.Manifest | None:
    """The build with versions that can be read, where its rows are still to be had.

    A version of which VACUUM has removed files is replaced by the newest, if only housekeeping lies between; one that
    can be read stays, for other files are another order of rows, and so another training.

    Returns:
        The same manifest, one with other versions, or None: a table has other rows by now, is gone, or was made anew.
    """
    found = {name: _readable(tables, name, manifest) for name in manifest["versions"]}
    return None if None in found.values() else manifest | {"versions": found}


def are_its_own(tables: Tables, manifest: builds.Manifest, names: Iterable[str]) -> bool:
    """Whether these tables are those that the build knew: one that was removed and made anew has versions of its own.

    Builds of earlier versions of Millrace tell fewer tables apart.
    """
    ids: dict[str, str] = manifest.get("ids", {})
    return all(tables.exists(name) and ids.get(name) in (None, tables.id(name)) for name in names)


def _readable(tables: Tables, name: str, manifest: builds.Manifest) -> int | None:
    if not are_its_own(tables, manifest, [name]):
        return None
    version: int = manifest["versions"][name]
    pin = tables.pin(name)
    if pin.version == version or has_version(tables.path(name), version):
        return version
    return pin.version if pin.content <= version < pin.version else None


def has_version(place: str, version: int) -> bool:
    """Whether the table at a place still has all files of a version."""
    try:
        return has_files(place, version)
    except (SnapshotError, NoTableError):  # the log has lost it, or another table lies here now
        return False
