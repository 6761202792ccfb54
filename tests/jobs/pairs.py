"""Two writers at once: each in a thread with a session of its own, as two drivers have, started together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from training.errors import MillraceError


def together(spark: SparkSession, *calls: Callable[[SparkSession], Any]) -> list[Any]:
    """Results of the calls, each the error where it was refused; any other error is raised."""
    results: list[Any] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(number: int) -> None:
        session = spark.newSession()
        session.conf.set("spark.sql.session.timeZone", "UTC")
        gate.wait()
        try:
            results[number] = calls[number](session)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, MillraceError):
            raise result
    return results
