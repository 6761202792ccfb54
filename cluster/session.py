"""The only place that builds a SparkSession.

On a cluster or in a notebook a session exists already: `build_session` takes it as it is and only checks that Delta is
there, and our packages on its executors. So it does with a Spark Connect server's, which it opens where SPARK_REMOTE or
the master names one (sc://...). On one machine it starts a local session whose Delta jars come through Spark's package
mechanism; after the first start they lie in the user's Ivy folder and no network is needed.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies
from weakref import WeakKeyDictionary

import pyspark
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote

from cluster.errors import EnvironmentProblem, spark_reason

DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"
DELTA_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
NEEDED = ("numpy", "pandas", "pyarrow", "spark_udfs", "training")  # on executors, by every job
TO_SCORE = ("torch", "faiss")  # beside them, by jobs that score with models there
_REMEDY = (
    "start the session with this Python, os.environ['PYSPARK_PYTHON'] = sys.executable before it is built, or bring "
    "the packages to the executors (docs/cluster.md)"
)
_WAREHOUSE, _CATALOGUE = "spark.sql.warehouse.dir", "spark.sql.catalogImplementation"
CONNECT, CONNECT_PORT = "sc://", 15002  # Spark's own default
REACHED_S = 10.0
_found_on: WeakKeyDictionary[SparkSession, set[str]] = WeakKeyDictionary()


def build_session(
    app_name: str = "millrace",
    *,
    master: str = "local[*]",
    driver_memory: str = "3g",
    shuffle_partitions: int = 8,
    conf: Mapping[str, str] | None = None,
    beside: Sequence[str] = (),
) -> SparkSession:
    """Return the active session, or start one with Delta Lake.

    Args:
        app_name: shown in Spark's pages.
        master: where a new session runs, or the Spark Connect server to take one from (sc://host:port); else
            SPARK_REMOTE counts, if it is set. Ignored under spark-submit, which has set it.
        driver_memory: heap of a local session's JVM.
        shuffle_partitions: for a local session; a cluster keeps its own default.
        conf: further Spark settings, over these.
        beside: packages that the executors of an active or remote session must have, beside NEEDED.

    Raises:
        EnvironmentProblem: no Java, no Delta jars, no server, or an active or remote session without Delta or our
            packages.
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        check_workers(active, beside)
        return _checked(active)
    if server := connect_server(master):
        return _remote(server, conf or {}, beside)
    try:
        from cluster.jvm import bound_jvm
    except ImportError as error:
        raise EnvironmentProblem(
            f"PySpark {pyspark.__version__} here is a client of Spark Connect alone and starts no session; name a "
            "server in SPARK_REMOTE or spark.master (sc://host:port), or install the whole pyspark"
        ) from error
    # Executors' Python workers must be this interpreter, or they miss the packages (the error names neither).
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder: Any = SparkSession.builder
    # Time stamps are written and compared in UTC, whatever the machine's zone.
    builder = builder.appName(app_name).config("spark.sql.session.timeZone", "UTC")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # not under spark-submit, which brings master and packages itself
        builder = _local(builder, master, driver_memory, shuffle_partitions)
    for key, value in (conf or {}).items():
        builder = builder.config(key, value)
    with bound_jvm() as log:
        if not (_WAREHOUSE in (conf or {}) or "PYSPARK_GATEWAY_PORT" in os.environ or _says(_WAREHOUSE, _CATALOGUE)):
            # Spark's own catalogue makes it in the working folder, and lasts no longer than the JVM.
            builder = builder.config(_WAREHOUSE, str(log.parent / "warehouse"))
        try:
            spark: SparkSession = builder.getOrCreate()
        except Exception as error:
            raise EnvironmentProblem(_why_no_session(error, log)) from error
    return _checked(spark)


def connect_server(master: str) -> str | None:
    """The Spark Connect server of which a new session would be; None: there is none."""
    return master if master.startswith(CONNECT) else os.environ.get("SPARK_REMOTE")


def _remote(server: str, conf: Mapping[str, str], beside: Sequence[str]) -> SparkSession:
    """A session on a Spark Connect server, which brings its own settings, jars and executors."""
    builder: Any = SparkSession.builder
    builder = builder.remote(server).config("spark.sql.session.timeZone", "UTC")
    for key, value in conf.items():
        builder = builder.config(key, value)
    try:
        _reach(server)
        spark: SparkSession = builder.getOrCreate()
    except Exception as error:
        raise EnvironmentProblem(
            f"no session on the Spark Connect server '{server.partition(';')[0]}': {spark_reason(error)}. The client "
            "needs pyspark[connect] of the server's version; correct spark.master or SPARK_REMOTE, or see whether the "
            "server runs (docs/cluster.md)"
        ) from error
    atexit.register(_release, spark)
    check_workers(spark, beside)
    return _checked(spark)


def _reach(server: str) -> None:
    """See that a Connect server listens there, and is spoken to as it wants: Spark's client would try for ten minutes.

    Raises:
        OSError: nobody listens, or somebody else.
    """
    if not server.startswith(CONNECT):
        return  # one of this machine, which Spark starts itself
    place = urlsplit(server)
    if not getproxies():  # at once, and says why
        socket.create_connection((place.hostname or "localhost", place.port or CONNECT_PORT), REACHED_S).close()
    import grpc  # type: ignore[import-untyped]  # what the client brings
    from pyspark.sql.connect import client

    builder: Any = getattr(client, "DefaultChannelBuilder", None) or client.ChannelBuilder  # PySpark 3.5 has the second
    channel = builder(server).toChannel()
    try:
        grpc.channel_ready_future(channel).result(REACHED_S)
    except grpc.FutureTimeoutError:
        raise ConnectionError(
            f"nobody there speaks its protocol within {REACHED_S:g} s; see to the port, to use_ssl and token, which "
            "ask for TLS, and to the proxy"
        ) from None
    finally:
        channel.close()


@contextmanager
def without_retries(spark: SparkSession) -> Iterator[None]:
    """Ask a session's server once, where it may be gone: Spark's client asks for ten minutes, each time anew."""
    if not is_remote():
        yield
        return
    connect: Any = spark
    before = connect.client.get_retry_policies()
    connect.client.set_retry_policies([])
    try:
        yield
    finally:
        connect.client.set_retry_policies(before)


def _release(spark: SparkSession) -> None:
    """End the session on its server, which would keep it for an hour, and all that it holds."""
    connect: Any = spark
    with suppress(Exception), without_retries(spark):
        connect.client.release_session()
        connect.client.close()


def check_workers(spark: SparkSession, beside: Sequence[str] = ()) -> None:
    """See, by a small job, that the Python of a session's executors has what a job needs; what was found holds.

    A session that was started without PYSPARK_PYTHON takes whatever `python3` is, and only its first Python function
    would say so.

    Args:
        spark: the session.
        beside: packages that the job needs there beside NEEDED.

    Raises:
        EnvironmentProblem: a package is missing, or no Python function runs at all.
    """
    found = _found_on.setdefault(spark, set())
    wanted = [name for name in (*NEEDED, *beside) if name not in found]
    if not wanted:
        return
    try:
        answer = spark.range(0, 1, 1, 1).select(_probe()(F.lit(",".join(wanted)))).first()
    except Exception as error:
        raise EnvironmentProblem(
            f"the session's executors must run Python functions, and do not: {spark_reason(error)}; {_REMEDY}"
        ) from error
    python, missing = str(answer[0]).rsplit(" ", 1) if answer else ("", "")
    if missing != "-":
        raise EnvironmentProblem(
            f"the Python of the session's executors must have {', '.join(wanted)}; {python} lacks {missing}; {_REMEDY}"
        )
    found.update(wanted)


def _probe() -> Any:
    """A function that tells its Python and what that lacks; made here, it travels whole and needs nothing there."""

    def probe(names: str) -> str:
        import importlib.util
        import sys

        missing = [name for name in names.split(",") if importlib.util.find_spec(name) is None]
        return f"{sys.executable} ({sys.version.split()[0]}) {'+'.join(missing) or '-'}"

    return F.udf(probe, "string", useArrow=False)


def _local(builder: Any, master: str, driver_memory: str, shuffle_partitions: int) -> Any:
    from delta import configure_spark_with_delta_pip

    builder = (
        builder.master(master)
        .config("spark.driver.memory", driver_memory)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.extensions", DELTA_EXTENSION)
        .config("spark.sql.catalog.spark_catalog", DELTA_CATALOG)
        .config("spark.sql.shuffle.partitions", str(shuffle_partitions))
        # Delta's own log replay shuffles into 50 tasks by default: seconds per commit on two cores.
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        # A batch goes to Python whole: 10,000 rows of histories are a few MB, not a few hundred.
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "10000")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.log.level", "ERROR")
    )
    return configure_spark_with_delta_pip(builder)


def _says(*keys: str) -> bool:
    """Whether the user has set one of these for all sessions: in spark-defaults.conf, or on the command line."""
    home = os.environ.get("SPARK_HOME") or str(Path(pyspark.__file__).parent)
    defaults = Path(os.environ.get("SPARK_CONF_DIR") or f"{home}/conf") / "spark-defaults.conf"
    said = [os.environ.get("PYSPARK_SUBMIT_ARGS", "")]
    if defaults.is_file():
        said += defaults.read_text(errors="replace").splitlines()
    return any(key in line for key in keys for line in said if not line.lstrip().startswith("#"))


def _why_no_session(error: Exception, log: Path) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"Spark did not start ({first_line}; the JVM's own words are in {log}). It needs Java 17 (`java -version`; "
        "apt-get install -y openjdk-17-jre-headless) and, for its first start on a machine, network access to Maven "
        "Central for Delta's jars; later starts take them from the Ivy cache in your home folder. Behind a mirror, set "
        "spark.jars.ivySettings in SPARK_CONF_DIR/spark-defaults.conf."
    )


def _checked(spark: SparkSession) -> SparkSession:
    extensions = spark.conf.get("spark.sql.extensions", "") or ""
    on_databricks = "DATABRICKS_RUNTIME_VERSION" in os.environ
    if DELTA_EXTENSION not in extensions and not on_databricks:
        raise EnvironmentProblem(
            f"the Spark session has no Delta Lake: spark.sql.extensions is '{extensions}', it must hold "
            f"'{DELTA_EXTENSION}'. Start it with cluster.session.build_session, or pass the options of "
            "cluster/submit.sh to spark-submit."
        )
    return spark
