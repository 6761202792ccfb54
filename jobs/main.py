"""The command line: `millrace NAME [--settings FILE] [section.key=value ...]`; each is also `python -m jobs.NAME`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jobs.command import PLAIN, Flags, SettingsFile, erase, guarded, run_job, score_table, search
from jobs.settings import DEFAULT_TASK

if TYPE_CHECKING:
    from jobs.task import Task

JOBS = {
    "simulate": "Generate a shop's raw order lines with planted tastes, seasons and dirt.",
    "ingest": "Raw files to the Delta tables that the task reads; bad rows to quarantine.",
    "build-examples": "Tables to vocabularies, features as of each moment and examples, split by time.",
    "train": "One pinned version of the examples to a bundle, on Horovod ranks.",
    "tune": "An Optuna study over the training, on the same pinned version.",
    "evaluate": "The bundle against what it must beat, on what was held out, with intervals.",
    "compress": "A smaller bundle of the latest one, judged beside it; refused where it loses too much.",
    "score": "The bundle's answers into a Delta table, each row naming its bundle.",
    "stream": "Rows answered as they come: each batch's rows and answers in one commit, each row once.",
    "ingest-feedback": "What was shown against what then happened, into a feedback table.",
    "plan-ads": "Bids and budgets of campaigns for a day, replanned from what was spent so far.",
    "plan-stock": "What to order of each series now, from its forecast, its stock and what is on its way.",
    "run": "Ingest to report, one after the other, on tables of your own; run again, it goes on.",
    "doctor": "What would fail later, found now, with what to change.",
    "replay": "Train again from a bundle's own record, and compare.",
    "verify-epoch": "Stream an epoch of the examples; hold its rows against Spark's own.",
    "report": "One HTML file of all that a run has left.",
}


def _command(name: str, help_text: str) -> Callable[..., None]:
    def command(flags: Flags = None, settings: SettingsFile = None) -> None:
        job = name.replace("-", "_")
        guarded(lambda: run_job(job, importlib.import_module(f"jobs.{job}").run, settings, flags))

    command.__doc__ = help_text
    return command


def _demo(
    data: Annotated[
        str | None, typer.Option(help="a file as the task's pipeline has it; default: a simulated shop")
    ] = None,
    out: Annotated[str, typer.Option(help="the folder for tables, bundle and report")] = "out",
    task: Annotated[str, typer.Option(help="what is learned: see `millrace tasks`")] = DEFAULT_TASK,
    flags: Flags = None,
) -> None:
    """The whole main job: data to answers and a report, in under ten minutes."""

    def call() -> None:
        from jobs import demo

        demo.run_demo(data, out, flags or [], task)

    guarded(call)


def _benchmark(
    data: Annotated[
        str, typer.Argument(help="a file or table of interactions: user, item, and time where there is one")
    ],
    flags: Flags = None,
    protocol: Annotated[
        str, typer.Option(help="leave_one_out, given, by_date, strong_generalisation or session")
    ] = "leave_one_out",
    test: Annotated[str | None, typer.Option(help="the test's file, where the split is given")] = None,
    held_out: Annotated[
        str | None, typer.Option(help="a share or number of the users or sessions that are held out whole")
    ] = None,
    model: Annotated[str | None, typer.Option(help="the model's name; default: the settings', or two_tower")] = None,
    settings: Annotated[str | None, typer.Option(help="a YAML file of settings, below the flags")] = None,
    column: Annotated[list[str] | None, typer.Option(help="user=NAME, item=NAME or time=NAME")] = None,
    out: Annotated[str, typer.Option(help="the folder for tables and bundle")] = "out/benchmark",
) -> None:
    """A file of interactions through the whole pipeline, to one line of figures as papers give them."""

    def call() -> None:
        from jobs import benchmark

        result = benchmark.run_benchmark(
            data,
            protocol,
            test=test,
            held_out=held_out,
            model=model,
            out=out,
            columns=column or [],
            file=settings,
            flags=flags or [],
        )
        sys.stdout.write(benchmark.line(result) + "\n")

    guarded(call)


def _settings() -> None:
    """All settings with their defaults, as Markdown."""
    from jobs.settings_page import page

    sys.stdout.write(page())


def _tasks() -> None:
    """The tasks: what each answers, and which tables it reads."""
    from jobs.console import show_table
    from jobs.settings import Settings
    from jobs.tasks import TASKS

    def read(task: Task) -> str:
        tables = task.reads(Settings(task=task.name))
        return "; ".join(f"{name.removesuffix('?')}: {', '.join(columns)}" for name, columns in tables.items())

    rows = [(task.name, task.what, read(task), task.table) for task in TASKS.values()]
    show_table("", ("task", "answers", "reads", "writes"), rows)


def _init(
    task: Annotated[str, typer.Argument(help="what is learned: see `millrace tasks`")],
    data: Annotated[str, typer.Option(help="one of the files that hold the rows: csv, JSON lines or Parquet")],
) -> None:
    """A commented settings file for data of your own, after a look at its columns; to the standard output."""

    def call() -> None:
        from jobs import init

        sys.stdout.write(init.text(task, data))

    guarded(call)


def _chat(
    bundle: Annotated[str, typer.Argument(help="a bundle's folder, of a task whose bundles talk")],
    tables: Annotated[str, typer.Option(help="root of the tables that replies are made from")] = "out/tables",
    settings: Annotated[
        str | None, typer.Option("--settings", "-s", help="a YAML file whose rules hold; default: the bundle's own")
    ] = None,
) -> None:
    """Messages of a customer, line by line, answered by a bundle: no Spark, no network; an empty line ends it."""

    def call() -> None:
        from jobs import chat
        from jobs.settings import load_settings

        chat.run(bundle, tables, sys.stdin, sys.stdout, None if settings is None else load_settings(settings))

    guarded(call)


def _say_version(wanted: bool) -> None:
    if wanted:
        from jobs.versions import line

        sys.stdout.write(f"{line()}\n")
        raise typer.Exit


def _of_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="the versions, and leave")
    ] = False,
) -> None:
    """What stands before a command."""


def build_app() -> typer.Typer:
    """One command a job, in the order in which they are run."""
    app = typer.Typer(no_args_is_help=True, **PLAIN)
    app.callback(help=escape(__doc__ or ""))(_of_all)
    app.command("demo")(_demo)
    for name, help_text in JOBS.items():
        app.command(name)(_command(name, help_text))
    app.command("benchmark")(_benchmark)
    app.command("score-table")(score_table)
    app.command("search")(search)
    app.command("erase")(erase)
    app.command("chat")(_chat)
    app.command("settings")(_settings)
    app.command("tasks")(_tasks)
    app.command("init")(_init)
    return app


def main() -> None:
    """Entry point of the console script `millrace`."""
    build_app()()


if __name__ == "__main__":
    main()
