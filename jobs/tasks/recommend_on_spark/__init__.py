"""Recommendation on Spark: purchases to examples, queries and a catalogue; full rankings; lists for everybody."""

from jobs.tasks.recommend_on_spark.examples import examples, go_on
from jobs.tasks.recommend_on_spark.judged import contenders, judge, looks
from jobs.tasks.recommend_on_spark.known import lines
from jobs.tasks.recommend_on_spark.scored import score
from jobs.tasks.recommend_on_spark.slices import slices

__all__ = ["contenders", "examples", "go_on", "judge", "lines", "looks", "score", "slices"]
