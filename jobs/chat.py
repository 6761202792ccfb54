"""Chat: a bundle answers a customer's messages in a terminal. Imports no Spark.

    millrace chat out/service/run/bundles/text_classes-3f9c0a1b22d4 --tables out/service/tables

Nothing is written or sent anywhere, and what is typed is data: it is looked at by a model and by patterns.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from jobs.tasks import TASKS
from spark_udfs.slots import printable
from training.errors import BundleError, SettingsError
from training.state.bundle import load_bundle

if TYPE_CHECKING:
    from jobs.settings import Settings

PROMPT = "> "


def run(bundle: str, tables: str, typed: TextIO, shown: TextIO, settings: Settings | None = None) -> None:
    """Answer what is typed until it ends, or a line is empty.

    Args:
        bundle: its folder.
        tables: root of the tables.
        typed: the customer's messages, a line each; what is not UTF-8 in them is replaced.
        shown: where replies go, without what steers a terminal.
        settings: by whose rules replies are chosen; None: by those that the bundle was trained with.

    Raises:
        BundleError: it is none, or of a task whose bundles do not talk.
        SettingsError: the settings are another task's.
        NoTableError: the tables lack what replies are made from.
    """
    name = load_bundle(bundle).provenance.get("settings", {}).get("task")
    talks = TASKS[name].talks if name in TASKS else None
    if talks is None:
        able = ", ".join(task.name for task in TASKS.values() if task.talks)
        raise BundleError(f"a bundle to talk with must be of a task that talks ({able}); '{bundle}' is of '{name}'")
    if settings is not None and settings.task != name:
        raise SettingsError(f"settings must be of the bundle's task, {name}; they are of {settings.task}: name others")
    module, _, function = talks.partition(":")
    for stream in (typed, shown):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")

    def say(line: str) -> None:
        shown.write(f"{printable(line)}\n")

    getattr(importlib.import_module(module), function)(bundle, tables, _messages(typed, shown), say, settings)


def _messages(typed: TextIO, shown: TextIO) -> Iterator[str]:
    while True:
        shown.write(PROMPT)
        shown.flush()
        line = typed.readline().strip()
        if not line:
            return
        yield line
