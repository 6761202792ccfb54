"""Protocols: which of a user's interactions are learned from, chosen by and asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from spark_udfs import protocols

Row = tuple[str, str, float | None, int]
TEST = protocols.TEST.replace(tzinfo=None)
VALIDATION = TEST - timedelta(days=protocols.VALIDATION_DAYS)


def frame(spark: SparkSession, rows: list[Row]) -> DataFrame:
    return spark.createDataFrame(rows, "user string, item string, time double, position long")


def lines(rows: DataFrame) -> dict[str, list[tuple[str, datetime]]]:
    found: dict[str, list[tuple[str, datetime]]] = {}
    for row in rows.orderBy("user", "time", "item").collect():
        found.setdefault(row["user"], []).append((row["item"], row["time"]))
    return found


def days_before(*days: int) -> list[datetime]:
    return [TEST - timedelta(days=number) for number in days]


def test_the_last_one_is_the_test_and_the_last_but_one_the_validation(spark: SparkSession) -> None:
    rows: list[Row] = [("a", "x", 30.0, 0), ("a", "y", 10.0, 1), ("a", "z", 20.0, 2), ("b", "x", 5.0, 3)]
    found = lines(protocols.leave_one_out(frame(spark, rows).repartition(3)))
    assert found == {"a": list(zip("yzx", days_before(2, 1, 0), strict=True)), "b": [("x", TEST)]}


def test_the_same_time_is_in_the_order_of_the_file(spark: SparkSession) -> None:
    rows: list[Row] = [("a", "y", 7.0, 0), ("a", "x", 7.0, 1), ("b", "y", None, 2), ("b", "x", None, 3)]
    found = lines(protocols.leave_one_out(frame(spark, rows).repartition(3)))
    assert [item for item, _ in found["a"]] == [item for item, _ in found["b"]] == ["y", "x"]


def test_a_given_test_lies_at_the_cut_and_one_of_the_others_before_it(spark: SparkSession) -> None:
    train: list[Row] = [("a", "x", 1.0, 0), ("a", "y", 2.0, 1), ("a", "z", 3.0, 2), ("b", "x", 1.0, 3)]
    test: list[Row] = [("a", "v", None, 0), ("a", "v", None, 1), ("a", "w", None, 2)]
    found = lines(protocols.given(frame(spark, train), frame(spark, test)))
    assert found["a"] == [
        ("x", days_before(3)[0]),
        ("y", days_before(2)[0]),
        ("z", VALIDATION),
        ("v", TEST),
        ("w", TEST),
    ]
    assert found["b"] == [("x", days_before(2)[0])]  # who has one alone learns from it


def test_without_times_a_hash_chooses_the_validation(spark: SparkSession) -> None:
    train: list[Row] = [(user, f"{n}", None, n) for user in "abcdefgh" for n in range(6)]
    found = lines(protocols.given(frame(spark, train), frame(spark, [("a", "v", None, 0)])))
    chosen = [item for of_user in found.values() for item, time in of_user if time == VALIDATION]
    assert len(chosen) == 8
    assert len(set(chosen)) > 2
    again = lines(protocols.given(frame(spark, train).repartition(5), frame(spark, [("a", "v", None, 0)])))
    assert again == found


def test_by_date_times_stay(spark: SparkSession) -> None:
    found = lines(protocols.by_date(frame(spark, [("a", "x", 1_260_759_144.25, 0)])))
    assert found == {"a": [("x", datetime(2009, 12, 14, 2, 52, 24, 250_000))]}


def test_of_very_many_interactions_the_newest_count(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "LONGEST", 2)
    rows: list[Row] = [("a", item, float(n), n) for n, item in enumerate("vwxyz")]
    assert [item for item, _ in lines(protocols.leave_one_out(frame(spark, rows)))["a"]] == ["y", "z"]


def by_kind(rows: DataFrame) -> dict[str, dict[str, list[tuple[str, datetime]]]]:
    found: dict[str, dict[str, list[tuple[str, datetime]]]] = {}
    for row in sorted(rows.collect(), key=lambda row: (row["user"], row["time"], row["item"])):
        found.setdefault(row["kind"], {}).setdefault(row["user"], []).append((row["item"], row["time"]))
    return found


def test_users_are_held_out_whole_and_known_by_most_of_their_items(spark: SparkSession) -> None:
    rows: list[Row] = [(f"u{n}", f"i{item:02}", float(item), item) for n in range(12) for item in range(10)]
    rows += [("one", "i00", 5.0, 0), ("few", "i00", 1.0, 0), ("few", "i01", 2.0, 1), ("u0", "i03", 50.0, 99)]
    found = by_kind(protocols.strong_generalisation(frame(spark, rows).repartition(3), 3))
    learnt, asked = found["click"], found["question"]
    assert set(learnt) | set(asked) == {row[0] for row in rows}
    assert not set(learnt) & set(asked)
    assert "one" in learnt
    assert max(time for of_user in learnt.values() for _, time in of_user) == days_before(2)[0]
    days = {user: (TEST - of_user[-1][1]).days for user, of_user in asked.items()}
    assert sorted(days.values()) == [0, 0, 0, 1, 1, 1]
    hidden = set[str]()
    for user, of_user in asked.items():
        had = {row[1] for row in rows if row[0] == user}
        to_find = {item for item, time in of_user if time == of_user[-1][1]}
        known = [(item, time) for item, time in of_user if item not in to_find]
        assert len(to_find) == max(1, len(had) // 5)
        assert to_find | {item for item, _ in known} == had
        assert known[-1][1] == days_before(days[user] + 1)[0]
        if user != "u0":  # who has an item twice
            assert [item for item, _ in known] == sorted(item for item, _ in known)
        hidden |= to_find
    assert len(hidden) > 2
    assert by_kind(protocols.strong_generalisation(frame(spark, rows[::-1]), 3)) == found


def test_each_prefix_of_the_last_sessions_is_a_question(spark: SparkSession) -> None:
    day = 86_400.0
    rows: list[Row] = [("early", "x", 0.0, 0), ("early", "y", 0.0, 1), ("early", "x", 60.0, 2)]
    rows += [("middle", "a", 3 * day - 5, 3), ("middle", "b", 3 * day + 7, 4), ("alone", "a", 3 * day + 8, 5)]
    rows += [("late", item, 4 * day + 10.0 * n, 6 + n) for n, item in enumerate("abab")]
    rows += [("late too", "y", 4 * day + 50, 10), ("late too", "y", 4 * day + 55, 11)]
    given = frame(spark, rows).repartition(3)
    at = [datetime(1970, 1, 1) + timedelta(days=number) for number in range(5)]
    test = protocols.session_cut(given, 2)
    assert test.replace(tzinfo=None) == at[4] + timedelta(seconds=30)  # when the earlier of the last two ends
    assert protocols.session_cut(given, 4).replace(tzinfo=None) == at[0] + timedelta(seconds=60)
    assert protocols.session_days(given, test) == 4  # so far back the second session before the test ends
    cuts = (at[4].replace(tzinfo=UTC), at[3].replace(tzinfo=UTC))
    found = by_kind(protocols.sessions(given, *cuts, 2))
    assert {user: [item for item, _ in of_user] for user, of_user in found["click"].items()} == {
        "early": ["x", "y", "x"], "middle": ["a", "b"], "alone": ["a"],
    }  # fmt: skip
    times = [time for _, time in found["click"]["early"]]
    assert times[0] < times[1] < at[0] + timedelta(seconds=1)
    assert at[3] < found["click"]["middle"][0][1] < at[3] + timedelta(seconds=1)  # no half of it is learnt before
    asked = {user: [item for item, _ in of_user] for user, of_user in found["question"].items()}
    assert asked == {
        "late:1": ["a", "b"], "late:2": ["a", "b", "a"], "late:3": ["b", "a", "b"], "late too:1": ["y", "y"],
        "middle:1": ["a", "b"],
    }  # fmt: skip
    assert {user: of_user[-1][1] for user, of_user in found["question"].items()} == {
        **dict.fromkeys(["late:1", "late:2", "late:3", "late too:1"], at[4]), "middle:1": at[3],
    }  # fmt: skip
    second, third = (found["question"]["late:2"][n][1] for n in (1, 2))
    assert abs((third - second).total_seconds() - 10) < 1e-4
