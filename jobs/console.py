"""What a job shows in a terminal or a notebook: lines, progress and tables, always on stderr; results go to stdout."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from training.repeating import repeating

PIPED_WIDTH = 120  # columns where there is no terminal to ask: logs and notebooks
BEAT_S = 30.0  # a step that runs longer than this says so in a log, again and again

_SPINNER = threading.Lock()
CONSOLE = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else PIPED_WIDTH)


def say(message: str) -> None:
    """One line of what is going on."""
    CONSOLE.print(escape(message), soft_wrap=True)


def warn(message: str) -> None:
    """One line that a person should not miss."""
    CONSOLE.print(f"[yellow]warning:[/yellow] {escape(message)}", soft_wrap=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show for how long it has run: on a terminal beside a spinner, elsewhere a line now and then; then its time.

    A terminal has one spinner: a step within another one is told by lines there too.
    """
    started = time.perf_counter()
    spins = CONSOLE.is_terminal and _SPINNER.acquire(blocking=False)
    try:
        with _spinner(title) if spins else _heartbeat(title, started):
            yield
    finally:
        if spins:
            _SPINNER.release()
    CONSOLE.print(f"  {escape(title)} [dim]{time.perf_counter() - started:.1f} s[/dim]")


def _spinner(title: str) -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description} ..."), TimeElapsedColumn())
    progress = Progress(*columns, console=CONSOLE, transient=True)
    progress.add_task(escape(title), total=None)
    return progress


def _heartbeat(title: str, started: float) -> AbstractContextManager[None]:
    def beat() -> None:
        CONSOLE.print(f"  {escape(title)} ... [dim]{time.perf_counter() - started:.0f} s so far[/dim]")

    return repeating(beat, BEAT_S, f"heartbeat of '{title}'")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; numbers are aligned right."""
    if title:
        say(title)
    table = Table()
    cells = [[_shown(value) for value in row] for row in rows]
    for position, column in enumerate(columns):
        numeric = any(isinstance(row[position], int | float) for row in rows)
        heading = escape(_folded(column, [row[position] for row in cells]))
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    CONSOLE.print(table)


def show_counts(title: str, counts: Mapping[str, Any]) -> None:
    """Names and numbers, a line each."""
    show_table(title, ("", "count"), list(counts.items()))


def _folded(heading: str, cells: Sequence[str]) -> str:
    """A heading in lines that are no longer than its column's cells, or its longest word: a long one would take the
    width that others need."""
    width = max(map(len, [*heading.split(), *cells]), default=1)
    return "\n".join(textwrap.wrap(heading, width, break_long_words=False, break_on_hyphens=False))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
