"""A customer with half as many lines as all others have together: seconds over those without, the cap at 20,000 lines.

python benchmarks/examples_skew.py [LINES_OF_ONE USERS ROUNDS]
"""

from __future__ import annotations

from _examples import CUTS, lines, session
from _loader import arguments, in_turn, report

from jobs.sessions import persisted
from jobs.settings_lists import ListExamples
from spark_udfs import features
from spark_udfs.newest import cap_at, over

GOAL, EACH = 1.5, 20


def main() -> None:
    of_one, users, rounds = arguments(1_000_000, 100_000, 3)
    spark = session("bench-skew")
    asked = ListExamples()
    held = {"even": lines(spark, users, EACH).persist(), "skewed": lines(spark, users, EACH, of_one).persist()}
    beyond: dict[str, int] = {}

    def build(name: str) -> int:
        """As the job does: count who is over the cap, and cap if somebody is."""
        before = features.known_before(CUTS.test)
        with persisted(over(held[name], asked.max_lines, before)) as users:
            cap, beyond[name] = cap_at(users, asked.max_lines)
            rows = features.examples(held[name], CUTS, asked.max_history, cap if beyond[name] else None)
            rows.write.format("noop").mode("overwrite").save()
        return 0

    for name, df in held.items():
        df.count()
        build(name)
    assert beyond["even"] == 0 < beyond["skewed"], beyond
    seconds = in_turn({name: (lambda name=name: build(name)) for name in held}, rounds)
    detail = {name: round(value, 2) for name, value in seconds.items()}
    detail |= {"lines": users * EACH, "of_one": of_one, "over_the_cap": beyond["skewed"]}
    spark.stop()
    report("examples_skew", seconds["skewed"] / seconds["even"], GOAL, "x seconds without (at most)", detail)


if __name__ == "__main__":
    main()
