"""One job's command: its settings read, its time kept, its errors said in one message, its exit code."""

from __future__ import annotations

import errno
import importlib
import logging
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.errors import ClusterError, spark_reason
from jobs.console import CONSOLE, say
from jobs.settings import Settings, load_settings
from jobs.stages import timed
from training.errors import MillraceError, NoTableError
from training.masking import masked_lines

Run = Callable[[Settings], dict[str, Any]]

SettingsFile = Annotated[
    str | None, typer.Option("--settings", "-s", help="a YAML file; jobs/pipelines holds examples")
]
Flags = Annotated[list[str] | None, typer.Argument(help="section.key=value, laid over the file", metavar="KEY=VALUE")]

EXIT_REFUSED, EXIT_FAILED = 2, 1
OF_SPARK = ("pyspark", "py4j")  # packages of the errors that a Spark job ends with
_LOST = re.compile("worker exited|ExecutorLost|OutOfMemory|was lost|Killed")
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


def _not_py4js(record: logging.LogRecord) -> bool:
    """Whether a record of the root logger is not py4j's: it logs, with tracebacks, what it raises as well."""
    return "py4j" not in Path(record.pathname).parts


def guarded(call: Callable[[], object]) -> None:
    """Run a command; an error that we raised on purpose is one message and exit code 2, anything else a traceback.

    So is what a disk refuses: it is full, or a file or folder may not be written. What Spark ended is one message with
    its reason and exit code 1; a file keeps the trace.
    """
    logging.getLogger().addFilter(_not_py4js)
    try:
        call()
    except (MillraceError, ClusterError) as error:
        CONSOLE.print(f"[red]{type(error).__name__}[/red]: ", end="")
        CONSOLE.print(str(error), markup=False)
        sys.exit(EXIT_REFUSED)
    except OSError as error:
        if error.filename is None and error.errno not in OF_DISKS:
            raise
        place = "" if error.filename is None else f"'{error.filename}': "
        CONSOLE.print(f"{place}{error.strerror or error}; mend that, and run the same command again", markup=False)
        sys.exit(EXIT_REFUSED)
    except KeyboardInterrupt:
        CONSOLE.print("stopped; run the same command again to go on")
        sys.exit(130)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OF_SPARK:
            raise
        _say_what_ended(error)
        sys.exit(EXIT_FAILED)


def _say_what_ended(error: Exception) -> None:
    """Say why Spark ended; the trace goes before it into a log, and from a terminal into a file."""
    trace, reason = masked_lines("".join(traceback.format_exception(error))), masked_lines(spark_reason(error))
    where = f" The whole trace is in '{_kept(trace)}'." if CONSOLE.is_terminal else ""
    if not where:
        CONSOLE.print(trace, markup=False, soft_wrap=True)
    lost = " Run it again, with more memory for workers (docs/cluster.md)." if _LOST.search(reason) else ""
    CONSOLE.print(f"Spark ended the work: {reason}.{lost}{where}", markup=False, soft_wrap=True)


def _kept(trace: str) -> str:
    """A file with a trace, which nobody else may read; why there is none, where the disk takes none."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="millrace-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(trace)
    except OSError as error:
        return f"no file: {error.strerror or error}"
    return file.name


def main_of(run: Run) -> None:
    """The last lines of a job's module call this, for `python -m jobs.NAME` and spark-submit."""

    def command(flags: Flags = None, settings: SettingsFile = None) -> None:
        guarded(lambda: run_job(Path(run.__code__.co_filename).stem, run, settings, flags))

    run_alone(command)


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program of its own."""
    app = typer.Typer(**PLAIN)
    app.command()(command)
    app()


def run_job(name: str, run: Run, settings: str | None, flags: list[str] | None) -> dict[str, Any]:
    """Run a job with its time kept beside what it makes.

    Raises:
        NoTableError: a table is missing; where no settings were named, that is said too.
    """
    read = load_settings(settings, flags)
    try:
        return timed(read.run_dir, name, lambda: run(read))
    except NoTableError as error:
        if settings is not None or "root" in read.tables.model_fields_set:
            raise
        raise NoTableError(f"{error}, or name your settings with --settings (none are named)") from error


def erase(
    ids: Annotated[Path, typer.Option("--ids", help="a text file, UTF-8, with a user id a line")],
    flags: Flags = None,
    settings: SettingsFile = None,
) -> None:
    """Remove persons from tables, old versions, caches and checkpoints; later ingests drop them."""

    def call() -> None:
        loaded, persons = load_settings(settings, flags), importlib.import_module("jobs.erasure.ids").read_ids(ids)
        importlib.import_module("jobs.erase").run(loaded, persons)

    guarded(call)


def score_table(
    source: Annotated[str, typer.Argument(help="the Delta table of features: a path or URL")],
    bundle: Annotated[str, typer.Argument(help="the bundle's folder, readable on every executor")],
    into: Annotated[str, typer.Argument(help="the Delta table of the answers: a path or URL; made if it is missing")],
    key: Annotated[str, typer.Option(help="the column that tells rows apart, bigint or string")],
    name: Annotated[list[str] | None, typer.Option(help="an answer of the model; default: p")] = None,
    version: Annotated[int | None, typer.Option(help="of the features; default: the newest")] = None,
    settings: SettingsFile = None,
) -> None:
    """All rows of a Delta table of features as it lies, answered by a bundle into another table."""

    def call() -> None:
        spark = importlib.import_module("jobs.sessions").open_session(load_settings(settings, []))
        run = importlib.import_module("jobs.score_table").score_table
        run(spark, source, bundle, into, key=key, names=name or ["p"], version=version)

    guarded(call)


def search(
    query: Annotated[str, typer.Argument(help="some words of what items are called; misspelt ones too")],
    flags: Flags = None,
    settings: SettingsFile = None,
    k: Annotated[int, typer.Option(help="items, at most")] = 10,
    user: Annotated[str | None, typer.Option(help="a customer, whose taste counts among what is found")] = None,
    meaning: Annotated[
        bool, typer.Option("--meaning", help="by what names mean, too: asks for the extra text")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(help="by meaning, with an encoder of your own in this folder (docs/text.md)")
    ] = None,
) -> None:
    """Items of the latest bundle by what they are called, without Spark: likeness, id and name, a line each."""

    def call() -> None:
        loaded = load_settings(settings, flags)
        bundle = importlib.import_module("jobs.trained").latest_bundle(loaded.run_dir)
        recommender = importlib.import_module("jobs.recommender").Recommender
        encoder = _encoder(weights) if meaning or weights is not None else None
        held = recommender.load(bundle, tables=None if user is None else loaded.tables.root, encoder=encoder)
        found = held.search(query, user_id=user, k=k)
        if not found:
            say(f"no item of {bundle.name} is called like '{query}'")
            return
        sys.stdout.writelines(f"{one.score:.2f}\t{one.item_id}\t{one.name}\n" for one in found)

    guarded(call)


def _encoder(weights: str | None) -> Any:
    folder = importlib.import_module("training.state.text_weights").weights_folder(weights)
    return importlib.import_module("training.state.text_encoder").load_encoder(folder)
