"""The judgement of a batch, without Spark: days of a small shop are drawn, faults are planted in one more of them.

Every fault must be found, and named by its check and column; of days without a fault none may be.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.quality.compared import Good
from jobs.quality.findings import Finding
from jobs.quality.judge import judge
from jobs.quality.profile import Profile
from jobs.settings_quality import QualitySettings
from tests.jobs.plain_cells import profile

Rows = dict[str, list[Any]]
KINDS = {
    "case": "text", "customer": "text", "time": "hours", "amount": "number", "country": "named", "channel": "named",
    "items": "number", "degrees": "number", "fraud": "number", "taste: 0% in": "number", "taste: 50% in": "number",
}  # fmt: skip
START, ROWS, PAST = datetime(2025, 1, 1), 420, 22
OF_HOUR = (1, 1, 1, 1, 1, 2, 3, 5, 8, 10, 12, 12, 13, 12, 11, 11, 12, 14, 16, 17, 15, 10, 5, 2)
OF_WEEKDAY = (1, 1, 1, 1, 1.2, 0.6, 0.5)
STOP = QualitySettings(gate="stop")


def day(number: int, drawn: random.Random, rows: int = ROWS) -> Rows:
    """Orders of a day: fewer on weekends, and other channels then; lines of an order are alike."""
    of_day = START + timedelta(days=number)
    held: Rows = {name: [] for name in KINDS}
    is_weekend = of_day.weekday() >= 5
    wanted = drawn.gauss(rows, 0.06 * rows) * OF_WEEKDAY[of_day.weekday()]
    while len(held["case"]) < wanted:
        order = {
            "customer": f"c{drawn.randrange(3_000):06d}",
            "time": of_day + timedelta(hours=drawn.choices(range(24), OF_HOUR)[0], seconds=drawn.randrange(3_600)),
            "country": drawn.choices(("GB", "DE", "FR", "ES", "IT"), (60, 15, 12, 8, 5))[0],
            "channel": drawn.choices(("web", "app", "shop"), (45, 50, 5) if is_weekend else (55, 40, 5))[0],
        }
        for _ in range(drawn.choice((1, 1, 2, 3))):
            amount = math.exp(drawn.gauss(3, 1))
            line = order | {
                "case": f"case-{number:04d}-{len(held['case']):06d}",
                "amount": amount if drawn.random() > 0.01 else None,
                "items": drawn.choice((1, 1, 1, 2, 2, 3, 4, 6, 12)),
                "degrees": drawn.gauss(290, 3),
                "fraud": int(drawn.random() < (0.15 if amount > 60 else 0.03)),
                "taste: 0% in": drawn.gauss(0.1, 0.2),
                "taste: 50% in": drawn.gauss(-0.2, 0.2),
            }
            for name, value in line.items():
                held[name].append(value)
    return held


def known(rows: Rows, **more: Any) -> Profile:
    return profile(rows, KINDS, keys=["case"], label="fraud", **more)


def at(number: float) -> int:
    """The moment, in microseconds, at which the batch of a day comes: soon after the day."""
    return round((START + timedelta(days=number + 1, hours=1)).replace(tzinfo=UTC).timestamp() * 1e6)


def good(number: int, held: Profile) -> Good:
    return Good(held, False, at(number))


@pytest.fixture(scope="module")
def past() -> list[Good]:
    drawn = random.Random(1)
    return [good(number, known(day(number, drawn))) for number in range(PAST)]


def each(name: str, change: Callable[[Any], Any], every: int = 1) -> Callable[[Rows], None]:
    """A fault in a column: of one row in so many."""

    def plant(rows: Rows) -> None:
        rows[name] = [
            value if value is None or number % every else change(value) for number, value in enumerate(rows[name])
        ]

    return plant


def only(keep: Callable[[Rows, int], bool]) -> Callable[[Rows], None]:
    def plant(rows: Rows) -> None:
        taken(rows, [number for number in range(len(rows["case"])) if keep(rows, number)])

    return plant


def again(share: float) -> Callable[[Rows], None]:
    def plant(rows: Rows) -> None:
        count = len(rows["case"])
        taken(rows, [*range(count), *range(round(share * count))])

    return plant


def taken(rows: Rows, numbers: list[int]) -> None:
    for name, values in rows.items():
        rows[name] = [values[number] for number in numbers]


def swapped(one: str, other: str) -> Callable[[Rows], None]:
    def plant(rows: Rows) -> None:
        rows[one], rows[other] = rows[other], rows[one]

    return plant


def leaked(rows: Rows) -> None:
    rows["items"] = [1 + 3 * fraud for fraud in rows["fraud"]]


FAULTS: dict[str, tuple[Callable[[Rows], None], str, str]] = {
    "a burst of nulls": (each("customer", lambda _: None, 10), "nulls of 'customer'", "10."),
    "a column that is empty": (each("channel", lambda _: None), "nulls of 'channel'", "100.0%"),
    "a unit times 100": (each("amount", lambda value: value * 100), "shift of 'amount'", "as if each were about 1"),
    "a unit times 100, of half": (each("amount", lambda value: value * 100, 2), "range of 'amount'", "lie outside"),
    "a unit by 1000": (each("amount", lambda value: value / 1000), "shift of 'amount'", "as if each were about 0.00"),
    "another currency": (each("amount", lambda value: value * 1.7), "shift of 'amount'", "as if each were about 1."),
    "a sign": (each("amount", lambda value: -value, 20), "range of 'amount'", "-"),
    "degrees of another scale": (each("degrees", lambda value: value - 273.15), "mean of 'degrees'", "1"),
    "a sensor that is off": (each("degrees", lambda value: value + 4), "mean of 'degrees'", "29"),
    "no numbers": (each("amount", lambda _: math.nan, 10), "range of 'amount'", "what is no finite number"),
    "a number that stands for none": (each("items", lambda _: 999, 25), "range of 'items'", "to 1024"),
    "a category renamed": (each("country", lambda c: "UK" if c == "GB" else c), "category of 'country'", "'GB'"),
    "a small one renamed": (each("country", lambda c: "SP" if c == "ES" else c), "category of 'country'", "'SP'"),
    "another spelling": (each("channel", str.upper), "category of 'channel'", "'WEB'"),
    "ids for categories": (lambda r: r.update(channel=r["case"]), "category of 'channel'", "expected: at most"),
    "a category lost": (only(lambda rows, n: rows["channel"][n] != "app"), "category of 'channel'", "'app'"),
    "one value for all": (each("country", lambda _: "GB"), "shift of 'country'", "stability index"),
    "two columns swapped": (swapped("country", "channel"), "shift of 'channel'", "stability index"),
    "two embeddings swapped": (swapped("taste: 0% in", "taste: 50% in"), "shift of 'taste: 0% in'", "stability"),
    "a load that is doubled": (again(1), "keys", "50.0% of the rows have the key of another one"),
    "a tenth that comes twice": (again(0.1), "keys", "8.99%"),
    "a third of a load": (only(lambda _, n: n < ROWS // 3), "rows", "140 rows are of 2025-01-23 (Thu)"),
    "another time zone": (each("time", lambda t: t + timedelta(hours=5)), "shift of 'time'", "about 5 hours later"),
    "a time zone the other way": (each("time", lambda t: t - timedelta(hours=3)), "shift of 'time'", "hours earlier"),
    "days without times": (each("time", lambda t: t.replace(hour=0, minute=0)), "shift of 'time'", "stability"),
    "another year": (each("time", lambda t: t.replace(year=2024)), "fresh", "the newest row is 366."),
    "ids cut off": (each("case", lambda case: case[:10]), "length of 'case'", "10.00 characters"),
    "ids without their zeros": (each("customer", lambda c: c.replace("c0", "c").replace("c0", "c")), "length of", "c"),
    "one customer for all": (each("customer", lambda _: "c000000"), "distinct of 'customer'", "about 1 different"),
    "a leak of the label": (leaked, "leak of 'items'", "of how 'fraud' varies"),
    "no label": (each("fraud", lambda _: 0), "flag of 'fraud'", "0.00% are 1"),
    "a label the other way": (each("fraud", lambda value: 1 - value), "flag of 'fraud'", "are 1"),
    "three times the label": (each("fraud", lambda _: 1, 5), "flag of 'fraud'", "are 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_named(past: list[Good], fault: str) -> None:
    plant, check, words = FAULTS[fault]
    rows = day(PAST, random.Random(fault))
    plant(rows)
    told = [str(one) for one in judge(known(rows), past, STOP, at(PAST))]
    assert any(one.startswith(check) and words in one for one in told), told


def test_a_day_that_is_missing_and_one_that_comes_again_are_named(past: list[Good]) -> None:
    drawn = random.Random(3)
    since = past[-1].profile.newest_us
    (gap,) = judge(known(day(PAST + 1, drawn)), past, STOP, at(PAST + 1), since)
    assert judge(known(day(PAST + 1, drawn)), past, STOP, at(PAST + 1)) == []  # who knows what came meanwhile
    assert gap.check == "day"
    assert gap.found == "no row is of 2025-01-23 (Thu)"
    told = judge(known(day(PAST - 1, drawn)), past, STOP, at(PAST))
    assert [one.found for one in told if "2025-01-22 (Wed)" in one.found], told
    late = judge(known(day(PAST, drawn)), past, STOP, at(PAST + 9))
    assert [one.found for one in late] == [one.found for one in late if "the newest row is 9." in one.found]
    assert late


def test_a_table_that_is_read_again_has_its_rows_of_before_once(past: list[Good]) -> None:
    batch = known(day(PAST, random.Random(9)))
    before = past[-1].profile.all_rows
    as_before = dataclasses.replace(batch, all_rows=batch.rows + before, is_whole=True)
    assert judge(as_before, past, STOP, at(PAST)) == []
    twice = dataclasses.replace(as_before, all_rows=batch.rows + 2 * before)
    assert judge(twice, past, STOP, at(PAST)) == []  # the last good one was a day alone
    past = [*past[:-1], past[-1]._replace(profile=dataclasses.replace(past[-1].profile, is_whole=True))]
    (told,) = judge(twice, past, STOP, at(PAST))
    assert str(told) == f"rows: {2 * before:,} rows are of the time that came before; expected: about {before:,}"
    fewer = dataclasses.replace(as_before, all_rows=batch.rows + before // 2)
    (told,) = judge(fewer, past, STOP, at(PAST))
    assert told.found == f"{before // 2:,} rows are of the time that came before"
    erased = dataclasses.replace(fewer, outcomes={**fewer.outcomes, "erased": before - before // 2})
    assert judge(erased, past, STOP, at(PAST)) == []  # neither gone, nor another outcome
    nothing_later = dataclasses.replace(as_before, all_rows=batch.rows, days={}, newest_us=past[-1].profile.newest_us)
    shorter = dataclasses.replace(nothing_later, rows=before // 2, all_rows=before // 2)
    told = [one for one in judge(shorter, past[-1:], STOP, at(PAST)) if one.check == "rows"]
    assert [one.found for one in told] == [f"{before // 2:,} rows are of the time that came before"]


def test_an_empty_batch_is_named_and_breaks_no_later_one(past: list[Good]) -> None:
    empty = known({name: [] for name in KINDS})
    (told,) = judge(empty, past, STOP, at(PAST))
    assert str(told) == "rows: no rows; expected: some, as good batches had"
    batch = known(day(PAST, random.Random(12)))
    assert judge(batch, [*past, Good(empty, True, at(PAST))], STOP, at(PAST)) == []
    halves = [dataclasses.replace(each.profile, days={20_000: each.profile.rows}) for each in past]
    often = [each._replace(profile=half) for each, half in zip(past, halves, strict=True)]
    rates = [judge(batch, [*often, *more], STOP, at(PAST)) for more in ([], [Good(empty, True, at(PAST))])]
    assert [one.check for one in rates[0] if one.check == "rows"] == []
    assert [one.check for one in rates[1] if one.check == "rows"] == []


def test_one_number_that_is_none_does_not_open_the_range(past: list[Good]) -> None:
    rows = day(PAST, random.Random(13))
    rows["amount"][5] = math.nan
    held = [*past, good(PAST, known(rows))]
    far = day(PAST + 1, random.Random(14))
    each("amount", lambda value: value * 1e6, 10)(far)
    found = [str(one) for one in judge(known(far), held, STOP, at(PAST + 1))]
    assert any(one.startswith("range of 'amount'") and "lie outside" in one for one in found), found
    each("amount", lambda _: math.nan, 10)(far)
    found = [str(one) for one in judge(known(far), held, STOP, at(PAST + 1))]
    assert any(one.startswith("range of 'amount'") and "have no finite number" in one for one in found), found


def test_of_persons_and_of_few_rows_nothing_is_kept_that_says_one() -> None:
    rows = day(0, random.Random(15))
    rows["customer"] = ["c1", "c2"] * (len(rows["case"]) // 2) + ["c1"] * (len(rows["case"]) % 2)
    rows["country"] = ["GB"] * (len(rows["case"]) - 9) + ["XK"] * 9
    held = known(rows, of_persons=["customer"]).columns
    assert (held["customer"].bins, round(held["customer"].distinct)) == ({}, 2)
    assert known(rows).columns["customer"].bins
    assert list(held["country"].words.values()) == ["GB"]
    assert len(held["country"].bins) == 2
    few = known({name: values[:9] for name, values in rows.items()}).columns
    assert (few["amount"].mean, few["amount"].sd, few["customer"].mean) == (0, 0, 0)


def test_a_table_without_times_is_as_large_as_before(past: list[Good]) -> None:
    timeless = [
        one._replace(profile=dataclasses.replace(one.profile, days={}, newest_us=None, all_rows=2_000 + number))
        for number, one in enumerate(past)
    ]
    batch = dataclasses.replace(known(day(PAST, random.Random(10))), days={}, newest_us=None)
    batch = dataclasses.replace(batch, rows=2_030, all_rows=2_030)
    assert judge(batch, timeless, STOP, at(PAST)) == []
    (told,) = judge(dataclasses.replace(batch, rows=800, all_rows=800), timeless, STOP, at(PAST))
    assert (told.check, told.found) == ("rows", "800 rows")


def test_batches_of_hours_are_held_against_the_time_between_them() -> None:
    drawn, held, rows = random.Random(11), list[Good](), dict[int, Rows]()
    for number in range(12):
        rows[number] = day(number, drawn, rows=600)
        for half in (0, 1):
            part = dict(rows[number])
            only(lambda rows, at, half=half: rows["time"][at].hour // 14 == half)(part)  # type: ignore[misc]
            batch, now = known(part), at(number) - (1 - half) * 36_000_000_000
            assert [one for one in judge(batch, held, STOP, now) if one.check in ("rows", "day")] == [], number
            held.append(Good(batch, False, now))
    more = day(12, drawn, rows=6_000)
    only(lambda rows, at: rows["time"][at].hour < 14)(more)
    told = judge(known(more), held, STOP, at(12))
    assert [one.found for one in told if one.check == "rows" and " rows in 0." in one.found], told


def test_what_became_of_the_rows_is_held_against_good_batches(past: list[Good]) -> None:
    rows = day(PAST, random.Random(4))
    (told,) = judge(known(rows, outcomes={"kept": 380, "duplicate": 40}), past, STOP, at(PAST))[1:]
    assert str(told) == ("outcomes: 90.5% of the rows became 'kept'; expected: 100.0%, at most 2.00% off"), told


def test_days_without_a_fault_have_no_finding() -> None:
    drawn, held = random.Random(7), list[Good]()
    for number in range(45):
        batch = known(day(number, drawn, rows=150))
        assert judge(batch, held[-28:], STOP, at(number), at(number) - 3 * 86_400_000_000 // 2) == [], number
        held.append(good(number, batch))


def test_what_a_person_called_good_is_good(past: list[Good]) -> None:
    rows = day(PAST, random.Random(5))
    each("amount", lambda value: value * 100)(rows)
    batch = known(rows)
    assert judge(batch, past, STOP, at(PAST))
    more = day(PAST + 1, random.Random(6))
    each("amount", lambda value: value * 100)(more)
    assert judge(known(more), [*past, Good(batch, True, at(PAST))], STOP, at(PAST + 1)) == []


def test_limits_of_the_settings_count(past: list[Good]) -> None:
    rows = day(PAST, random.Random(8))
    each("customer", lambda _: None, 12)(rows)
    batch = known(rows)
    assert judge(batch, past, STOP, at(PAST))
    assert judge(batch, past, STOP.model_copy(update={"least_share": 0.2}), at(PAST)) == []
    assert judge(batch, [], STOP, at(PAST)) == []


def test_a_profile_comes_back_from_json(past: list[Good]) -> None:
    held = past[0].profile
    text = json.dumps(held.as_json())
    assert Profile.from_json(json.loads(text)) == held
    assert held.days == {20_089: held.rows}
    assert "c0" not in text  # no customer
    assert '"GB"' in text
    assert str(Finding("day", "", "a", "b")) == "day: a; expected: b"
