"""One Spark session for all tests of a process, started when the first test asks for it; what processes share.

`make test` runs the tests in several processes at once (pytest-xdist), file by file, so that what a file's fixtures
make is made once. Those marked `alone` measure time, or must be through in seconds: they run after the others.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

# A test's rows are few and its plans many: Spark would spend most of its time on the Java that it writes for each and
# compiles. Without it, plans are interpreted.
AS_THEY_STAND = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
# Nor is there anything to adapt to: planned anew after each stage, a query is many jobs and takes a third longer.
PLANNED_ONCE = {"spark.sql.adaptive.enabled": "false"}
# The whole heap at once: one that grows bit by bit is collected in full, for seconds, each time that it is full.
WHOLE_HEAP = "-XX:+UseSerialGC -Xms2g -XX:MetaspaceSize=256m"
# C2 compiles what is hot in a job of hours; in tests it takes a quarter of the machine for what they run a few times.
LESS_COMPILED = " ".join(
    f"-XX:Tier4{of}={times}"
    for of, times in {
        "InvocationThreshold": 50_000,
        "MinInvocationThreshold": 6_000,
        "CompileThreshold": 150_000,
        "BackEdgeThreshold": 400_000,
    }.items()
)
# What Spark remembers of jobs and plans for its pages, which nobody looks at, fills the heap of thousands of tests.
FORGETFUL = {
    "spark.ui.retainedJobs": "20",
    "spark.ui.retainedStages": "20",
    "spark.ui.retainedTasks": "200",
    "spark.sql.ui.retainedExecutions": "5",
}
SMALL_LOGS = {"spark.databricks.delta.snapshotPartitions": "1"}
COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}  # where rows are many
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
MEMORY_EACH = 4 * 2**30  # of a process with its Spark, and the ranks that its test starts
AT_ONCE_AT_MOST = 4
SHARED = "MILLRACE_TESTS_SHARED"  # a folder of what the processes of one run make once


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """How many processes `-n auto` starts: none beside this one where cores or memory are for one alone."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    processes = min(len(os.sched_getaffinity(0)), memory // MEMORY_EACH, AT_ONCE_AT_MOST)
    return processes if processes > 1 else 0


def pytest_configure(config: pytest.Config) -> None:
    """The run's first process makes the folder that all share, and takes it away in the end."""
    if SHARED not in os.environ:
        os.environ[SHARED] = tempfile.mkdtemp(prefix="millrace-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(SHARED), ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file goes first, so that no process is left with it when the others are done."""
    items.sort(key=lambda item: item.path.name != "test_end_to_end.py")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A local session with Delta: two threads, two shuffle partitions, no pages."""
    from cluster.session import build_session

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    session = build_session(
        "millrace-tests",
        master="local[2]",
        driver_memory="2g",
        shuffle_partitions=2,
        conf={
            "spark.driver.extraJavaOptions": f"{WHOLE_HEAP} {LESS_COMPILED}",
            **AS_THEY_STAND,
            **PLANNED_ONCE,
            **FORGETFUL,
            **SMALL_LOGS,
        },
    )
    yield session
    session.stop()


@pytest.fixture(scope="module", autouse=True)
def rows_that_are_held_go() -> Iterator[None]:
    """Spark compares each plan with all rows that it holds: those of a file's tests go with it."""
    yield
    if (session := SparkSession.getActiveSession()) is not None:
        session.catalog.clearCache()


@pytest.fixture(scope="session")
def online_retail() -> Path:
    """The UCI Online Retail file (Chen, 2015; CC BY 4.0), where it is at hand."""
    path = DATA / "online_retail" / "online_retail.csv.gz"
    if not path.is_file():
        pytest.skip("the UCI Online Retail file is not at ../shared/data/online_retail/online_retail.csv.gz")
    return path
