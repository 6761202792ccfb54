"""What a simulated shop itself knows, as an answer beside the contenders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs import simulate
from jobs.ground import Answer, Ground
from jobs.task import TRUTH

if TYPE_CHECKING:
    from spark_udfs.simulated.planted import Planted


def truth(
    ground: Ground, table: Planted, source: str, key: Mapping[str, str], p: str, by: Mapping[str, str] | None = None
) -> dict[str, Answer]:
    """Who answers with the probabilities that a simulated shop's labels were drawn with; nobody where rows are not of
    its table, or are named by something else.

    Args:
        ground: the job's.
        table: the simulated one.
        source: the table's name in `sources`.
        key: the task's column that names a row -> that of the simulated table.
        p: the simulated table's column of probabilities.
        by: where it takes more to tell rows apart: columns of what is asked -> those of the simulated table.
    """
    made = simulate.truth_of_source(ground.settings, ground.read["lines"].sparkSession, source, key, table)
    if made is None:
        return {}
    on = by or {"key": next(iter(key.values()))}
    known = made.select(*(F.col(theirs).alias(ours) for ours, theirs in on.items()), F.col(p).alias("p"))
    wanted = [*dict.fromkeys(("key", *on))]
    return {TRUTH: lambda asked, _: asked.select(*wanted).join(known, on=[*on], how="inner").select("key", "p")}
