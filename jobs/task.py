"""What a problem must say to go through the pipeline. One file in jobs/tasks/ makes one of these.

    sources --ingest--> tables --lines, examples--> examples and side tables --learn--> bundle
    slices --contenders--> answers --judge--> evaluation.json          answer --score--> the task's table

The jobs know no task by name. A task's file loads neither torch nor Spark when it is imported: what it does with them
stands in functions and in a module that are named there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from jobs.settings_base import Section
from jobs.settings_sections import EvaluationSettings, ExampleSettings, ScoringSettings, weights_of
from training.schema import Schema

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from pyspark.sql import DataFrame

    from jobs.ground import Answer, Before, Ground, Scored, Slice
    from jobs.settings import Settings
    from jobs.settings_sources import SourceSettings
    from jobs.task_live import Live
    from spark_udfs.features import Cuts

OURS = "millrace"  # the bundle's own name among contenders
TRUTH = "planted_truth"  # what a simulated shop itself knows: shown beside contenders, and compared with none
BY_ID, BY_LINE = "id", "line"  # how a person stands in a column: `Task.persons`


@dataclass(frozen=True)
class Headline:
    """What is said first of an evaluation: column titles -> metrics.

    Attributes:
        judged: shown with intervals and with what ours leads by.
        beside: shown beside them.
        rows: what a judged row is, in the plural.
        note: what all these metrics have in common.
        lower: those of which less is better.
    """

    judged: Mapping[str, str]
    beside: Mapping[str, str]
    rows: str
    note: str = ""
    lower: Sequence[str] = ()


@dataclass(frozen=True)
class AnswerColumns:
    """What the columns of answers are: by these they are checked before they are published.

    Attributes:
        key: names who or what is answered; all answers to one lie in one bucket.
        once: columns, of which answers to the same key may never have the same values; (): a key has one answer.
        scores: numbers, or lists of numbers.
        spread: the number, or the id, by whose distribution the answers are compared with those before.
        fallback: says of an answer that it is not the model's; None: there are none such.
    """

    key: str
    once: Sequence[Sequence[str]]
    scores: Sequence[str]
    spread: str
    fallback: str | None = None


class OnSpark(Protocol):
    """What a task does with DataFrames: functions of a module of its own, which alone loads Spark."""

    def lines(self, read: Mapping[str, DataFrame]) -> DataFrame:
        """The rows that time is split by: time, arrival_time, the ids of `Task.kinds`, and what the task needs."""

    def examples(self, ground: Ground, cuts: Cuts) -> Mapping[str, DataFrame]:
        """Tables by name, in the order in which they are written: `examples` with time and known_at (when all that the
        row says was known, before the test cut), side tables with a split. The ground holds the vocabularies."""

    def go_on(self, ground: Ground, cuts: Cuts, before: Before) -> Mapping[str, DataFrame]:
        """What `examples` gives, of the build before and of the lines that were not known before its cuts; of the
        examples only those not known before its test cut. A side table that is not given stays as it is. Asked for
        where the task has `grows`."""

    def slices(self, ground: Ground, cut: datetime) -> Mapping[str, Slice]:
        """What is asked after the cut, by name."""

    def contenders(self, ground: Ground, cut: datetime, bundles: Mapping[str, Path]) -> Mapping[str, Answer]:
        """By name, the bundles (OURS first) and then what they must beat: (rows of a slice, its name) -> answers. What
        is fitted, is fitted here."""

    def judge(self, ground: Ground, asked: DataFrame, answers: DataFrame, names: Sequence[str]) -> dict[str, Any]:
        """Answers (with the column `model`) to a slice's rows: `users`, how many rows were judged; `models`, name ->
        metric -> value, with low and high where it has an interval; `differences`, ours less each other's."""

    def looks(self, ground: Ground, held: Mapping[str, tuple[DataFrame, DataFrame]]) -> dict[str, Any]:
        """More of evaluation.json, which people look at, of each slice's rows and answers: `drawn`, a table of some of
        them (title, columns, rows), and what its report has sections for (jobs/page)."""

    def score(self, ground: Ground, moment: datetime) -> Scored:
        """The bundle's answers as of a moment."""


@dataclass(frozen=True)
class Demo:
    """How `millrace demo` shows a task.

    Attributes:
        pipeline: its file in jobs/pipelines for the simulated shop.
        pipeline_of_file: the one for real data.
        file: the setting that names the file.
        same_file: further tables that are read from it, by the settings that name theirs.
        closes_the_loop: whether the simulated shop answers what was shown.
    """

    pipeline: str
    pipeline_of_file: str
    file: str
    same_file: Sequence[str] = ()
    closes_the_loop: bool = False


@dataclass(frozen=True)
class Task:
    """A problem's slots.

    Attributes:
        name: its key in TASKS and in the settings.
        what: one line for people.
        row: what one of its lines is, for messages ("purchase").
        reads: settings -> table -> column -> Spark's type; a table whose name ends in "?" may be missing, a column
            whose type does may be null.
        options: the section of the settings that only this task has; `settings.options` is one of these.
        examples, evaluation, scoring: these sections, with what the task has beside what all have.
        asks: more tables, which scoring alone reads; those of the build in force as it names them. One whose name ends
            in "?" is a build's alone, and may be missing there.
        kinds: settings -> vocabulary -> the column of the lines whose ids it numbers. A line without one of them counts
            for no vocabulary, and for no cut.
        more_ids: (tables read, settings, the test cut) -> vocabulary -> ids (a column `id`) that it has beside those of
            lines, or, where `kinds` has no such vocabulary, alone.
        numbers: settings -> the vocabularies whose numbers an answer or a feature means: a bundle is refused where they
            have changed their meaning.
        key: columns that tell rows of the examples apart, those of them that these have; rows with the same first
            `spread` of them lie side by side.
        spread: see `key`.
        schema: (size of each vocabulary, the unknown 0 included; settings) -> the examples' columns.
        model: the one that it takes where the settings name none.
        learn: "module:function", called on every rank with a JSON spec and its world; a name, so that importing a task
            loads no torch.
        attaches: names of the files that `learn` lets go with a bundle, beside those of the settings.
        metrics: names of what its validation gives; of each, higher is better. A study may choose by any of them.
        on_spark: the module that is its `OnSpark`; a name, so that importing a task loads no Spark.
        headline: settings -> what is said first of an evaluation.
        answered: columns of an answer, of every contender.
        table: where scoring writes.
        answer: the columns that it writes.
        columns: what these are.
        persons: settings -> table -> column -> how a person stands in it, for an erasure: BY_ID, by the id; BY_LINE, by
            the id of one of the person's lines, which have it in a column of that name; `vocabulary_KIND`, by the index
            of the id there. In a vocabulary the column `id` is BY_ID. Of a table of `sources` the settings say it
            (`said_persons`). A table in which a person stands and that is not named here makes an erasure fail.
        grows: of the tables that it reads those whose added rows are lines to come, so that a build can go on from the
            one before; none: every build is made anew.
        anew: settings -> why a build of theirs is made anew all the same; None: it goes on.
        talks: "module:function", which replies to messages in a terminal: (bundle's folder, tables' root, messages,
            what says a line, settings whose rules hold or None); none: the task's bundles do not talk.
        looked_up: of the tables that it reads those that change no example and are looked up anew.
        given: of the tables that it reads beside events those that `sources` bring.
        scored: of the tables that it reads those that scoring alone needs; each may be missing.
        beside: settings -> tables that are the shop's own, which scoring reads where they lie, by the place in the
            settings that names each.
        demo: how it is shown.
        training: what `millrace init` writes into that section: what is known to suit; nothing: that is not known.
        suits: likewise of the model's settings, beside its name.
        timeless: the columns by whose hash rows are held out where a file has no time, so that `init` needs not ask;
            masked (`hash_without_numbers`); none: it asks.
        guesses: a file's columns, with what some rows say in each -> options that are likely for it, for `init`.
        decides: settings -> what of its options, and of what they name, decides its examples; None: all of them do.
        learnt_with: names of `decides`: a bundle is asked with the same values that its examples were made with.
        live: how its rows are answered as they come; None: they are not.
        since: whether it can score those alone who have a line since a time (`scoring.since`).
        simulated: the simulated shop's raw table that is each of its tables, where no source is named.
    """

    name: str
    what: str
    row: str
    options: type[Section]
    reads: Callable[[Settings], Mapping[str, Mapping[str, str]]]
    asks: Sequence[str]
    kinds: Callable[[Settings], Mapping[str, str]]
    numbers: Callable[[Settings], Collection[str]]
    key: Sequence[str]
    spread: int
    schema: Callable[[Mapping[str, int], Settings], Schema]
    model: str
    learn: str
    metrics: tuple[str, ...]
    on_spark: str
    headline: Callable[[Settings], Headline]
    answered: Sequence[str]
    table: str
    answer: Sequence[str]
    columns: AnswerColumns
    persons: Callable[[Settings], Mapping[str, Mapping[str, str]]]
    demo: Demo
    examples: type[ExampleSettings] = ExampleSettings
    evaluation: type[EvaluationSettings] = EvaluationSettings
    scoring: type[ScoringSettings] = ScoringSettings
    training: Mapping[str, Any] = field(default_factory=dict)
    suits: Mapping[str, Any] = field(default_factory=dict)
    timeless: Sequence[str] = ()
    since: bool = False
    simulated: Mapping[str, str] = field(default_factory=dict)
    grows: Sequence[str] = ()
    anew: Callable[[Settings], str | None] = lambda _: None
    attaches: Sequence[str] = ()
    talks: str | None = None
    live: Live | None = None
    looked_up: Sequence[str] = ()
    given: Sequence[str] = ()
    scored: Sequence[str] = ()
    beside: Callable[[Settings], Mapping[str, SourceSettings]] = lambda _: {}
    guesses: Callable[[Mapping[str, Sequence[str]]], Mapping[str, Any]] = lambda _: {}
    decides: Callable[[Settings], Mapping[str, Any] | None] = lambda _: None
    learnt_with: Sequence[str] = ()
    more_ids: Callable[[Mapping[str, DataFrame], Settings, datetime], Mapping[str, DataFrame]] = lambda *_: {}

    @property
    def sections(self) -> dict[str, type[Section]]:
        """The classes of the settings' sections that are its own, by name."""
        return {
            "options": self.options,
            "examples": self.examples,
            "evaluation": self.evaluation,
            "scoring": self.scoring,
        }

    def tables(self, settings: Settings) -> dict[str, bool]:
        """The tables that it reads, and whether each may be missing."""
        return {name.removesuffix("?"): name.endswith("?") for name in self.reads(settings)}

    def lines(self, read: Mapping[str, DataFrame], settings: Settings) -> DataFrame:
        """The rows that time is split by (`OnSpark.lines`), of events that are worth what `examples.weights` say; of a
        task without such, of all events as they are."""
        from spark_udfs.features import weighed

        events, weights = (
            read.get("events"),
            {str(kind): worth for kind, worth in weights_of(settings.examples).items()},
        )
        if not weights or events is None or "kind" not in events.columns:
            return self.spark().lines(read)
        return self.spark().lines({**read, "events": weighed(events, weights)})

    def spark(self) -> OnSpark:
        """What it does with DataFrames."""
        return cast("OnSpark", importlib.import_module(self.on_spark))


def said_persons(settings: Settings, table: str) -> tuple[str, ...]:
    """The columns of a table of `sources` that hold a person's id, by what the settings say; none where they do not."""
    source = settings.sources.get(table)
    return (source.persons or ()) if source is not None else ()
