"""The checks of `millrace doctor` that need the packages themselves: all but those of Python and of the packages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.session import TO_SCORE
from jobs.checks import machine, pipeline
from jobs.checks.findings import Check, Finding
from jobs.sessions import open_session
from jobs.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ALONE: tuple[Check, ...] = (
    machine.java_version,
    machine.loopback,
    machine.horovod,
    machine.bf16,
    pipeline.data_source,
    pipeline.fit_settings,
)


def examine(settings: Settings, spark: SparkSession | None) -> Iterator[Finding]:
    """The findings, in the order of the checks."""
    for check in ALONE:
        yield from check(settings)
    try:
        session = open_session(settings, spark, beside=TO_SCORE)
    except (ClusterError, ImportError) as error:
        yield Finding("fail", "spark", str(error), "see the message; the checks of tables and slots were left out")
    else:
        yield pipeline.versions(session)
        yield from pipeline.tables(settings, session)
        yield from pipeline.slots(settings, session)
    yield from pipeline.memory(settings)
    yield from pipeline.disk(settings)
