"""The session that a job runs in: the one given or one of its own, in UTC, with settings for a while."""

from __future__ import annotations

import functools
import inspect
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from cluster.errors import EnvironmentProblem, spark_reason
from cluster.jvm import has_ended
from cluster.session import build_session, check_workers, without_retries
from jobs.console import step

if TYPE_CHECKING:
    from jobs.settings import Settings

TIME_ZONE, ZONE_BEFORE, JOBS_IN_UTC = "spark.sql.session.timeZone", "millrace.timeZone.before", "millrace.jobs"
BYTES_PER_PARTITION = 4 << 20  # of compressed input: it grows tenfold in memory, and more where histories are made
PARTITIONS = {"spark.sql.shuffle.partitions": "200", "spark.databricks.delta.snapshotPartitions": "50"}
_COUNTING = threading.Lock()
_tasks_of: WeakKeyDictionary[SparkSession, int] = WeakKeyDictionary()  # of Spark Connect
# What Spark raises: of the JVM's own errors some come as py4j's, where there is one (Spark Connect's client has none).
SPARK_ERRORS: tuple[type[Exception], ...] = (PySparkException,)
GONE: tuple[type[Exception], ...] = (ConnectionError,)  # what a JVM raises that has ended
with suppress(ImportError):
    from py4j.protocol import Py4JError, Py4JJavaError

    SPARK_ERRORS, GONE = (PySparkException, Py4JJavaError), (ConnectionError, Py4JError)

# gRPC's and Spark Connect's words for a server that is gone, and for one that knows the session no more.
_LOST = re.compile(r"StatusCode\.UNAVAILABLE|INVALID_HANDLE\.SESSION_|\bNO_ACTIVE_SESSION\b")

P = ParamSpec("P")
R = TypeVar("R")


def in_utc(job: Callable[P, R]) -> Callable[P, R]:
    """Run a job in UTC: the session given as `spark`, or the active one (a notebook's), has its time zone back then.

    Jobs that run at once on one session share the setting; the last to end gives it back. A session that a job starts
    itself is in UTC anyway.

    Raises:
        EnvironmentProblem: the session's JVM or Spark Connect server went away meanwhile, or ended the session.
    """

    parameters = inspect.signature(job)

    @functools.wraps(job)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        spark = parameters.bind(*args, **kwargs).arguments.get("spark") or SparkSession.getActiveSession()
        with _naming_what_went_away(), nullcontext() if spark is None else _utc(spark):
            return job(*args, **kwargs)

    return run


@contextmanager
def _naming_what_went_away() -> Iterator[None]:
    try:
        yield
    except GONE as error:
        if is_remote() or not has_ended():
            raise
        raise EnvironmentProblem(
            "Spark's JVM has ended while the job ran: it was killed, or ran out of memory (spark.driver_memory). Run "
            "the same command again: what was written stays, and nothing is written twice"
        ) from error
    except SPARK_ERRORS as error:
        if not (is_remote() and _LOST.search(str(error))):
            raise
        raise EnvironmentProblem(
            f"the Spark Connect server went away while the job ran, or has ended its session: {spark_reason(error)}. "
            "See to the server and run the same command again: what was written stays, and nothing is written twice"
        ) from error


@contextmanager
def giving_back(spark: SparkSession, give_back: Callable[[], object]) -> Iterator[None]:
    """Give back at the end what was taken in a session; after an error as far as that can be, for the error counts.

    A Spark Connect server that is gone by then is not waited for.
    """
    try:
        yield
    except BaseException:
        with suppress(*SPARK_ERRORS, *GONE), without_retries(spark):
            give_back()
        raise
    give_back()


@contextmanager
def persisted(rows: DataFrame) -> Iterator[DataFrame]:
    """Rows that are made once, and given up at the end, after an error too.

    Spark takes rows that it holds for those of any other reading of the same paths, whatever lies there by then.
    """
    held = rows.persist()
    with giving_back(held.sparkSession, held.unpersist):
        yield held


@contextmanager
def _utc(spark: SparkSession) -> Iterator[None]:
    """Count the jobs on a session; the first sets the time zone, the last puts the old one back."""
    with _COUNTING:
        jobs = int(spark.conf.get(JOBS_IN_UTC, None) or 0)
        if not jobs:
            spark.conf.set(ZONE_BEFORE, str(spark.conf.get(TIME_ZONE)))
            spark.conf.set(TIME_ZONE, "UTC")
        spark.conf.set(JOBS_IN_UTC, str(jobs + 1))

    def leave() -> None:
        with _COUNTING:
            jobs = int(spark.conf.get(JOBS_IN_UTC) or 0) - 1
            spark.conf.set(JOBS_IN_UTC, str(jobs))
            if not jobs:
                spark.conf.set(TIME_ZONE, str(spark.conf.get(ZONE_BEFORE)))

    with giving_back(spark, leave):
        yield


def open_session(settings: Settings, spark: SparkSession | None = None, *, beside: Sequence[str] = ()) -> SparkSession:
    """Return the session given, or start the one that the settings describe.

    Args:
        settings: of the job.
        spark: the session given.
        beside: packages that the job needs on executors beside those that all jobs need, e.g. TO_SCORE.

    Raises:
        EnvironmentProblem: the one given cannot run our Python functions, or none can start.
    """
    if spark is not None:
        check_workers(spark, beside)
        return spark
    with step("starting Spark") if SparkSession.getActiveSession() is None else nullcontext():
        return build_session(
            master=settings.spark.master,
            driver_memory=settings.spark.driver_memory,
            shuffle_partitions=settings.spark.shuffle_partitions,
            beside=beside,
        )


def parallelism(spark: SparkSession) -> int:
    """How many tasks Spark makes of a range: as many as it can run at once, unless it is told otherwise."""
    if not is_remote():
        return int(spark.sparkContext.defaultParallelism)
    if spark not in _tasks_of:  # the client knows only by asking
        parts = spark.range(1 << 16).select(F.spark_partition_id().alias("part"))
        last = parts.agg(F.max("part")).collect()[0][0]
        _tasks_of[spark] = int(last) + 1
    return _tasks_of[spark]


def partitions_for(spark: SparkSession, size: int) -> dict[str, str]:
    """Settings of a session under which so many bytes are dealt to as many tasks as they need, not to hundreds.

    Spark's defaults, 200 tasks a shuffle and Delta's 50 a log, cost a small shop minutes. Fewer than the session has
    are taken, never more.
    """
    wanted = max(parallelism(spark), math.ceil(size / BYTES_PER_PARTITION))
    held = {name: str(spark.conf.get(name, None) or default) for name, default in PARTITIONS.items()}
    return {name: str(min(int(count), wanted)) for name, count in held.items() if count.isdecimal()}


def has_class(spark: SparkSession, name: str) -> bool:
    """Whether the driver's JVM has a class, and lets Python use it; a client of Spark Connect has no JVM."""
    if is_remote():
        return False
    from py4j.java_gateway import JavaClass

    jvm: Any = spark._jvm
    try:
        return isinstance(functools.reduce(getattr, name.split("."), jvm), JavaClass)
    except Py4JError:  # a cluster that several share may forbid it
        return False


@contextmanager
def session_settings(spark: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Set session settings for a while."""
    before = {key: spark.conf.get(key, None) for key in settings}

    def restore() -> None:
        for key, old in before.items():
            if old is None:
                spark.conf.unset(key)
            else:
                spark.conf.set(key, old)

    for key, value in settings.items():
        spark.conf.set(key, value)
    with giving_back(spark, restore):
        yield
