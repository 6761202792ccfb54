"""The protocols of a benchmark: what each needs, what it makes of interactions, and by which slice it is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs.console import say
from jobs.settings_lists import examples_of
from spark_udfs import protocols
from spark_udfs.features import utc
from training.errors import DataError, SettingsError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.settings import Settings

HELD_OUT = 0.1  # of users or sessions, where none is named
TEST_FROM, VALIDATION_DAYS = "examples.test_from", "examples.validation_days"
BY_ORDER = (f"{TEST_FROM}={protocols.TEST:%Y-%m-%d}", f"{VALIDATION_DAYS}={protocols.VALIDATION_DAYS}")
OF_QUESTIONS = ("examples.asked=questions",)
OF_ANY = ("tuning.metric=any_ndcg_at_10",)


@dataclass(frozen=True)
class Asked:
    """What a protocol is applied to.

    Attributes:
        rows: the interactions (jobs/interactions.py).
        test: those of the test's file, where there is one.
        held_out: a share, or a number.
        named: the settings that were given, by section and key: they are left as they are.
        settings: the pipeline's.
    """

    rows: DataFrame
    test: DataFrame | None
    held_out: float
    named: frozenset[str]
    settings: Settings


Lines = tuple["DataFrame", "Settings"]


@dataclass(frozen=True)
class Protocol:
    """One of PROTOCOLS.

    Attributes:
        what: for people.
        lines: interactions to lines, and the settings of what is made of them.
        flags: settings that it always has.
        usual: settings that it has unless others are given.
        cuts: whether `examples.test_from` and `validation_days` may be set.
        holds_out: whether users or sessions are held out whole, as many as are asked for.
        slice: of the evaluation, the one that its figures are of.
    """

    what: str
    lines: Callable[[Asked], Lines]
    flags: Sequence[str] = ()
    usual: Sequence[str] = ()
    cuts: bool = False
    holds_out: bool = False
    slice: str = "new"


def refuse_what_does_not_fit(protocol: str, test: str | None, held_out: str | None, flags: Sequence[str]) -> None:
    """See that a protocol has what it needs, and nothing else.

    Raises:
        SettingsError: it is none, or what was given does not fit it.
    """
    if protocol not in PROTOCOLS:
        raise SettingsError(f"--protocol must be one of {', '.join(PROTOCOLS)}; got '{protocol}'")
    held = PROTOCOLS[protocol]
    if (protocol == "given") != (test is not None):
        remedy = "name its file with --test" if test is None else "leave --test out, or set --protocol given"
        raise SettingsError(f"--protocol {protocol}: {held.what}; {remedy}")
    named = {flag.partition("=")[0] for flag in flags}
    fixed = {flag.partition("=")[0] for flag in held.flags} | (set() if held.cuts else {TEST_FROM, VALIDATION_DAYS})
    if moved := sorted(fixed & named):
        of = [name for name, one in PROTOCOLS.items() if one.cuts]
        other = f" is for --protocol {', '.join(of)}: under" if moved[0] in (TEST_FROM, VALIDATION_DAYS) else ": under"
        raise SettingsError(f"{moved[0]}{other} {protocol}, {held.what}; leave it out")
    if held_out is None:
        return
    if not held.holds_out or TEST_FROM in named:
        of = [name for name, one in PROTOCOLS.items() if one.holds_out]
        raise SettingsError(f"--held-out is for --protocol {', '.join(of)} without {TEST_FROM}; leave it out")
    held_out_of(held_out)


def held_out_of(text: str | None) -> float:
    """What is held out: a share below one half, or a number.

    Raises:
        SettingsError: it is neither.
    """
    if text is None:
        return HELD_OUT
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0 < value < 0.5 or (value >= 1 and value.is_integer())):
        raise SettingsError(f"--held-out must be a share above 0 and below 0.5, or a whole number; got '{text}'")
    return value


def _leave_one_out(asked: Asked) -> Lines:
    return protocols.leave_one_out(asked.rows), asked.settings


def _given(asked: Asked) -> Lines:
    assert asked.test is not None
    return protocols.given(asked.rows, asked.test), asked.settings


def _by_date(asked: Asked) -> Lines:
    _refuse_without_time(asked.rows, "by_date")
    return protocols.by_date(asked.rows), asked.settings


def _strong_generalisation(asked: Asked) -> Lines:
    users, what = protocols.of_several(asked.rows).count(), "users of two items and more"
    number = _number(asked, users, what)
    say(f"strong_generalisation: {number:,} users for the test and as many for the validation, of {users:,} {what}")
    return protocols.strong_generalisation(asked.rows, number), asked.settings


def _session(asked: Asked) -> Lines:
    rows, settings, examples = asked.rows, asked.settings, examples_of(asked.settings)
    _refuse_without_time(rows, "session")
    if TEST_FROM in asked.named and examples.test_from is not None:
        test = utc(examples.test_from)
    else:
        several, what = protocols.sessions_of_several(rows), "sessions of two interactions and more"
        test = protocols.session_cut(rows, _number(asked, several, what))
    days = examples.validation_days if VALIDATION_DAYS in asked.named else protocols.session_days(rows, test)
    validation = test - timedelta(days=days)
    say(f"session: sessions that end from {test:%Y-%m-%d %H:%M:%S} on are the test, from {validation} the validation")
    cuts = {"test_from": test.replace(tzinfo=None), "validation_days": days}
    settings = settings.model_copy(update={"examples": examples.model_copy(update=cuts)})
    lines = protocols.sessions(rows, test, validation, examples.max_history)
    if lines.where("kind = 'question'").isEmpty():
        raise DataError(
            f"--protocol session needs sessions of two interactions and more that end from {validation} on, and there "
            f"is none; name the column of sessions (--column user=NAME), or set an earlier {TEST_FROM}"
        )
    return lines, settings


def _number(asked: Asked, of_all: int, what: str) -> int:
    """How many are held out for the test.

    Raises:
        DataError: none, or so many that with as many for the validation nobody is left to learn from.
    """
    number = protocols.number_of(asked.held_out, of_all)
    if number < 1 or 2 * number >= of_all:
        raise DataError(
            f"--held-out {asked.held_out:g} is {number:,} of {of_all:,} {what}; at least one must be held out, as many "
            "again for the validation, and some be left to learn from; name another share or number"
        )
    return number


def _refuse_without_time(rows: DataFrame, protocol: str) -> None:
    if not rows.where("time IS NULL").isEmpty():
        raise SettingsError(
            f"--protocol {protocol} needs interactions with a time; name its column with --column time=NAME"
        )


PROTOCOLS: Mapping[str, Protocol] = {
    "leave_one_out": Protocol(
        "each user's last interaction is the test, the last but one the validation", _leave_one_out, BY_ORDER
    ),
    "given": Protocol("the test is a file of its own", _given, BY_ORDER),
    "by_date": Protocol("what happens from examples.test_from on is the test", _by_date, cuts=True),
    "strong_generalisation": Protocol(
        "users are held out whole; of the items of each, some are known and the others to be found",
        _strong_generalisation,
        (*BY_ORDER, *OF_QUESTIONS),
        holds_out=True,
    ),
    "session": Protocol(
        "the last sessions are the test; each item but the first is to be found from those before it",
        _session,
        OF_QUESTIONS,
        usual=OF_ANY,
        cuts=True,
        holds_out=True,
        slice="any",
    ),
}
