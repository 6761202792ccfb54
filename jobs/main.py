"""The command line: `millrace NAME [--settings FILE] [section.key=value ...]`; each is also `python -m jobs.NAME`."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from cluster.errors import ClusterError
from jobs.console import CONSOLE
from jobs.settings import Settings, load_settings
from jobs.stages import timed
from training.errors import MillraceError

Run = Callable[[Settings], dict[str, Any]]

JOBS = {
    "simulate": "Generate a shop's raw order lines with planted tastes, seasons and dirt.",
    "ingest": "Raw files to the Delta tables events, items and users; bad rows to quarantine.",
    "build-examples": "Events to vocabularies, histories and examples, split by time.",
    "train": "One pinned version of the examples to a bundle, on Horovod ranks.",
    "tune": "An Optuna study over the training, on the same pinned version.",
    "evaluate": "Full ranking over the catalogue, against baselines, with intervals.",
    "score": "Top-K for every user into a Delta table, each row naming its bundle.",
    "ingest-feedback": "What was shown against what then happened, into a feedback table.",
    "doctor": "What would fail later, found now, with what to change.",
    "replay": "Train again from a bundle's own record, and compare.",
    "verify-epoch": "Stream an epoch of the examples; hold its rows against Spark's own.",
    "report": "One HTML file of all that a run has left.",
}

SettingsFile = Annotated[
    str | None, typer.Option("--settings", "-s", help="a YAML file; jobs/pipelines holds examples")
]
Flags = Annotated[list[str] | None, typer.Argument(help="section.key=value, laid over the file", metavar="KEY=VALUE")]

EXIT_REFUSED = 2
OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_PLAIN: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False}


def guarded(call: Callable[[], object]) -> None:
    """Run a command; an error that we raised on purpose is one message and exit code 2, anything else a traceback.

    So is what a disk refuses: it is full, or a file or folder may not be written.
    """
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


def main_of(run: Run) -> None:
    """The last lines of a job's module call this, for `python -m jobs.NAME` and spark-submit."""

    def command(flags: Flags = None, settings: SettingsFile = None) -> None:
        guarded(lambda: _run(Path(run.__code__.co_filename).stem, run, settings, flags))

    run_alone(command)


def run_alone(command: Callable[..., None]) -> None:
    """Run one command as a program of its own."""
    app = typer.Typer(**_PLAIN)
    app.command()(command)
    app()


def _run(name: str, run: Run, settings: str | None, flags: list[str] | None) -> dict[str, Any]:
    """Run a job with its time kept beside what it makes."""
    read = load_settings(settings, flags)
    return timed(read.run_dir, name, lambda: run(read))


def _command(name: str, help_text: str) -> Callable[..., None]:
    def command(flags: Flags = None, settings: SettingsFile = None) -> None:
        job = name.replace("-", "_")
        guarded(lambda: _run(job, importlib.import_module(f"jobs.{job}").run, settings, flags))

    command.__doc__ = help_text
    return command


def _demo(
    data: Annotated[str | None, typer.Option(help="the UCI Online Retail file; default: a simulated shop")] = None,
    out: Annotated[str, typer.Option(help="the folder for tables, bundle and report")] = "out",
    flags: Flags = None,
) -> None:
    """The whole main job: data to recommendations and a report, in under ten minutes."""

    def call() -> None:
        from jobs import demo

        demo.run_demo(data, out, flags or [])

    guarded(call)


def erase(
    ids: Annotated[Path, typer.Option("--ids", help="a text file, UTF-8, with a user id a line")],
    flags: Flags = None,
    settings: SettingsFile = None,
) -> None:
    """Remove persons from tables, old versions, caches and checkpoints; later ingests drop them."""

    def call() -> None:
        loaded, persons = load_settings(settings, flags), importlib.import_module("jobs.erasure_ids").read_ids(ids)
        importlib.import_module("jobs.erase").run(loaded, persons)

    guarded(call)


def _settings() -> None:
    """All settings with their defaults, as Markdown."""
    from jobs.settings_page import page

    sys.stdout.write(page())


def build_app() -> typer.Typer:
    """One command a job, in the order in which they are run."""
    app = typer.Typer(no_args_is_help=True, help=escape(__doc__ or ""), **_PLAIN)
    app.command("demo")(_demo)
    for name, help_text in JOBS.items():
        app.command(name)(_command(name, help_text))
    app.command("erase")(erase)
    app.command("settings")(_settings)
    return app


def main() -> None:
    """Entry point of the console script `millrace`."""
    build_app()()
