"""Erase: remove persons from tables, their old versions and logs, caches, checkpoints; they do not come back.

    python -m jobs.erase --settings shop.yaml --ids ids.txt

`ids.txt` has a user id a line. First a keyed hash of each is kept, by which every later ingest drops the person. Then
everything goes that holds them; a search through all files must find nothing; a certificate in the run folder says
what was done. One that was stopped goes on when it is started again with the same ids. docs/erasure.md has the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql.utils import is_remote

from cluster.errors import EnvironmentProblem
from jobs import moved_builds, staged, store_files
from jobs.artefacts import ERASURE, read_json, write_json
from jobs.command import erase, run_alone
from jobs.console import say, step
from jobs.erasure import erased, persons
from jobs.erasure import past as erasure_past
from jobs.erasure import runs as erasure_runs
from jobs.erasure.certificate import now, show
from jobs.erasure.ids import checked
from jobs.erasure.past import Past
from jobs.erasure.persons import Place
from jobs.erasure.removal import clean, count, few_tasks, properties, tidy
from jobs.erasure.scan import Scan, Wanted
from jobs.live.progress import FOLDER as STREAM
from jobs.sessions import in_utc, open_session
from jobs.settings import Settings
from jobs.tables import Tables
from jobs.train import LOCK
from spark_udfs.erased import digest
from spark_udfs.occurrences import UNREADABLE
from training.errors import DataError, TableError
from training.state.lock import only_writer

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

JOB = "erase"
EXAMPLES = "examples"
SHOWN = 10
UNSAID = ("unclean", "properties", "movable", "missed", "least")  # of the log, in the certificate


@in_utc
def run(settings: Settings, ids: Iterable[str], spark: SparkSession | None = None) -> dict[str, Any]:
    """Erase persons, and write the certificate.

    Args:
        settings: the pipeline's; section `erasure`.
        ids: user ids; a million or so: they are held in memory.
        spark: a session, or None to start one.

    Returns:
        What the certificate says, and `path`, where it lies.

    Raises:
        DataError: no ids, or one that is too long; or files hold an id after all was done.
        SettingsError: nobody has said which columns of a table of `sources` hold persons' ids.
        TableError: another job wrote to a table meanwhile; or there are no tables of persons below the root.
        CheckpointError: a training, a stream or another erasure is under way.
        EnvironmentProblem: the session is one of Spark Connect.
    """
    wanted = checked(ids, settings)
    # Before a session starts, which takes a while: a training that began meanwhile would learn from the persons.
    with only_writer(Path(settings.run_dir), say, name=LOCK, what="run folder", who="job"), _no_stream(settings):
        session = open_session(settings, spark)
        _refuse_connect()
        tables = Tables(session, settings.tables.root)
        places = persons.places(settings, tables)
        _refuse_another_root(tables, places)
        with _only_erasure(tables):
            return _Erasure(settings, tables, places, wanted).run()


def _refuse_connect() -> None:
    """Files are listed and removed, and logs cut, by Hadoop's file systems, which only the driver's own JVM has."""
    if is_remote():
        raise EnvironmentProblem(
            "erase needs a classic session, for it works on the tables' files through the driver's own JVM; this one "
            "is of Spark Connect: run it with cluster/submit.sh, or on the cluster's driver; nothing was erased"
        )


def _refuse_another_root(tables: Tables, places: Iterable[Place]) -> None:
    """Hashes that were kept below a root without tables would keep nobody out, and the certificate would be wrong."""
    if not any(place.tables is tables for place in places):
        raise TableError(
            f"tables.root '{tables.root}' must hold a table in which persons may stand (events, users, those of "
            "`sources` and the like); it holds none: set it to where the tables lie; nothing was erased"
        )


@contextmanager
def _no_stream(settings: Settings) -> Iterator[None]:
    """No stream in the run folder: one that runs keeps rows in memory. One of another run folder sees the hashes."""
    folder = Path(settings.run_dir) / STREAM
    with ExitStack() as held:
        if folder.is_dir():
            held.enter_context(only_writer(folder, say, what="stream's folder", who="stream or erasure"))
        yield


@contextmanager
def _only_erasure(tables: Tables) -> Iterator[None]:
    """No other erasure on these tables, if they lie on a disk."""
    with ExitStack() as held:
        if ":/" not in tables.root:
            root = Path(tables.root)
            held.enter_context(only_writer(root, say, name=".erase.lock", what="tables' root", who="erasure"))
        yield


class _Erasure:
    """One erasure. Its log lies in the run folder until the certificate does."""

    def __init__(self, settings: Settings, tables: Tables, places: list[Place], ids: list[str]) -> None:
        self.settings, self.tables, self.ids = settings, tables, ids
        self.run_dir, self.horizon = Path(settings.run_dir), settings.erasure.horizon_hours
        self.scan = Scan(settings, tables, places, ids)
        self.log: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        with step("erase: keeping the hashes, so that nobody comes back"):
            self._begin(erased.remember(self.tables, self.ids))
            self._remove_staged()
        ids = self.tables.spark.createDataFrame([(user_id,) for user_id in self.ids], "value string").persist()
        with step("erase: looking for them in all files"):
            wanted = self._look(ids)
            self._look_back(wanted)
        self._clear_run()
        for place in self.scan.places.values():
            tidy(place.tables, place.name, self.horizon)
        for key in self.log["unclean"]:
            self._clean(self.scan.places[key], wanted)
        self.log["build"] = moved_builds.move(self.tables, self.log["tables"], self.log["movable"], job=JOB)
        with step("erase: looking for them again"):
            self._remove_staged()
            self._refuse_what_is_left(wanted)
        ids.unpersist()
        self._note()
        return self._certify()

    def _begin(self, key: bytes) -> None:
        """Take up what an erasure of the same ids has left, or start afresh."""
        hashes = sorted(digest(key, user_id) for user_id in self.ids)
        ids = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
        before = read_json(self.run_dir, ERASURE)
        if before is not None and before["ids"] == ids:
            say(f"erase: goes on where the erasure of {before['started']} stopped")
            self.log = before
            return
        if before is not None:
            raise DataError(
                f"the erasure of {before['persons']:,} ids that began at {before['started']} has not ended; start it "
                f"again with its own ids before others ({self.run_dir / ERASURE} says how far it came); their hashes "
                "are kept already"
            )
        empty: dict[str, Any] = {"unclean": [], "tables": {}, "bundles": [], "run_folder": {}, "loops": []}
        self.log = {"ids": ids, "started": now(), "persons": len(self.ids), "in_rows": 0} | empty
        self._keep()

    def _remove_staged(self) -> None:
        """Remove answers that are not published yet, whole: they are made again, by a score that knows the hashes."""
        self.log["staged"] = sorted({*self.log.get("staged", ()), *staged.remove_all(self.tables)})
        self._keep()

    def _keep(self) -> None:
        write_json(self.run_dir, ERASURE, self.log)

    def _look(self, ids: DataFrame) -> Wanted:
        """Note what has to be cleaned; returns the persons with their indices and lines."""
        named = {key for path in self.scan.files() if (key := self.scan.table_of(path))}
        wanted = self.scan.wanted(ids)  # as they are now: later nothing says whose they are
        self.log["in_rows"] = max(self.log["in_rows"], self.scan.in_rows(wanted))
        self._note_unclean(named | self.scan.reached(wanted, named) | self.scan.rows(wanted).keys())
        return wanted

    def _note_unclean(self, keys: Collection[str]) -> None:
        unclean = {*self.log["unclean"], *keys}
        self.log["unclean"] = [key for key in self.scan.places if key in unclean]
        self._keep()

    def _look_back(self, wanted: Wanted) -> None:
        """Note who learnt from them, what earlier erasures have left to do, and what can be told only before rows are
        removed."""
        past, least, kinds = erasure_past.past(self.tables), self.scan.least(wanted), self.scan.vocabularies()
        self.log["least"] = least if self.log.get("least") is None else self.log["least"]
        self.log["missed"] = len(erasure_past.missed(self.run_dir, past))
        self.log.setdefault("movable", moved_builds.movable(self.tables))
        held = {bundle["path"]: bundle for bundle in self.log["bundles"]}
        for first, before in [(least, None), *((erasure.least, erasure.examples) for erasure in past)]:
            learnt = erasure_runs.bundles(self.run_dir, self.tables.root, first, before, kinds=kinds)
            held |= {bundle["path"]: bundle for bundle in learnt}
        self.log["bundles"] = list(held.values())
        self._note_unclean(self.scan.nameless() if erasure_past.keep_old_examples(past) else set())

    def _note(self) -> None:
        """Leave what later erasures need of this one, if it found somebody."""
        if not self.log["unclean"]:
            return
        examples = self.log["tables"].get(EXAMPLES, {}).get("version")
        own = (self.log["ids"], self.log["started"], now(), self.log["least"], examples, float(self.horizon))
        erasure_past.note(self.tables, Past(*own))

    def _clear_run(self) -> None:
        """Remove what lies beside the tables: pages that name persons; if tables held them, what was made of rows."""
        whole = bool(self.log["unclean"] or self.log["missed"])
        cleared = {"pages": len(erasure_runs.remove_pages(self.run_dir, self.scan.finder, whole=whole))}
        if whole:
            cleared |= erasure_runs.clear(self.run_dir, self.settings.training.cache_dir)
            for root in erasure_runs.loops(self.tables):
                store_files.remove(self.tables.spark, root)
                self.log["loops"].append(root)
        before = self.log["run_folder"]
        self.log["run_folder"] = before | {name: files + before.get(name, 0) for name, files in cleared.items()}
        self._keep()

    def _clean(self, place: Place, wanted: Wanted) -> None:
        """Clean one table; how many rows it had is noted before they go."""
        key, tables, name = place.key, place.tables, place.name
        gone = self.scan.gone(place, wanted)
        with step(f"erase: cleaning {key}"), few_tasks(tables, name):
            rows = count(tables, gone)
            before = {"rows": 0, "version_before": tables.version(name), "version": -1, "log_files": 0}
            before = self.log["tables"].setdefault(key, before)
            before["rows"] = max(before["rows"], rows)
            held = self.log.setdefault("properties", {}).setdefault(key, properties(tables, name))
            self._keep()
            done = clean(tables, gone, rows=rows, horizon_hours=self.horizon, held=held)
        before |= {"version": done.version, "log_files": before["log_files"] + done.log_files}
        self._keep()

    def _refuse_what_is_left(self, wanted: Wanted) -> None:
        """No row may be a person's, and no file may name one; within a horizon, none that a table consists of.

        Raises:
            DataError: some do.
        """
        files = self.scan.files()
        self.log["old_files_left"] = len(files) if self.horizon else 0
        self.log["places_left"] = sum(max(places, 0) for places in files.values())
        wrong = self.scan.still_needed(files) if self.horizon else files
        wrong |= {str(path): places for path, places in erasure_runs.naming(self.run_dir, self.scan.finder)}
        for key, rows in self.scan.rows(wanted).items():
            wrong[self.scan.places[key].tables.path(self.scan.places[key].name)] = rows
        if wrong:
            listed = "; ".join(f"{path} ({_places(places)})" for path, places in sorted(wrong.items())[:SHOWN])
            raise DataError(
                f"no file may name a person after an erasure, or leave it open; {len(wrong):,} do: {listed}. See what "
                "they are, remove them or what is in them, and run `millrace erase` again with the same ids"
            )

    def _certify(self) -> dict[str, Any]:
        """Write the certificate and show it; the log has done its work."""
        ended = datetime.now(UTC)
        until = ended + timedelta(hours=self.horizon) if self.log["old_files_left"] else None
        said = {name: value for name, value in self.log.items() if name not in UNSAID}
        said |= {"not_in_rows": self.log["persons"] - self.log["in_rows"], "horizon_hours": self.horizon}
        said |= {"ended": now(), "old_files_until": until and until.isoformat(timespec="seconds")}
        path = write_json(self.run_dir, f"erasure-{ended:%Y%m%dT%H%M%SZ}-{said['ids'][:8]}.json", said)
        (self.run_dir / ERASURE).unlink()
        show(said, path)
        return said | {"path": str(path)}


def _places(found: int) -> str:
    return "cannot be decoded" if found == UNREADABLE else f"{found:,} places"


if __name__ == "__main__":
    run_alone(erase)
