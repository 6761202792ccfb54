"""One Spark session for all tests, started when the first test asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

# A test's rows are few and its plans many: Spark would spend most of its time on the Java that it writes for each and
# compiles. Without it, plans are interpreted.
AS_THEY_STAND = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}
COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}  # where rows are many
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


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
        conf={"spark.driver.extraJavaOptions": "-XX:+UseSerialGC", **AS_THEY_STAND},
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def online_retail() -> Path:
    """The UCI Online Retail file (Chen, 2015; CC BY 4.0), where it is at hand."""
    path = DATA / "online_retail" / "online_retail.csv.gz"
    if not path.is_file():
        pytest.skip("the UCI Online Retail file is not at ../shared/data/online_retail/online_retail.csv.gz")
    return path
