"""What can go wrong with machines and processes. Each message states the rule, the name, the value and the remedy.

ClusterError
|-- LaunchError          a rank failed to start, failed, or did not answer in time
|   `-- RankLostError    a rank was killed or fell silent: starting again may help
`-- EnvironmentProblem   something that Millrace needs is not on this machine
"""

from __future__ import annotations

import re

_OF_PYTHON = re.compile(r"(?!org\.|java\.|scala\.|py4j\.|io\.)[A-Za-z_][\w.]*(Error|Exception|Exit|Problem)\b")
_OF_GRPC = re.compile(r'\s*details = "(.*)"$')


class ClusterError(Exception):
    """Base of the errors that the cluster package raises; the command line prints it without a traceback."""


class LaunchError(ClusterError):
    """A rank failed to start, failed, or did not answer in time.

    Attributes:
        busy: whether a rank needed what another process has: later it may be free.
    """

    busy = False


class RankLostError(LaunchError):
    """A rank was killed or fell silent: the same job may well succeed when it is started again."""


class EnvironmentProblem(ClusterError):  # noqa: N818  OSError has the better name
    """Something that Millrace needs is not on this machine."""


def spark_reason(error: Exception) -> str:
    """The one of the many lines of Spark's error that says why: of gRPC, of a worker's Python, else the JVM's first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if of_grpc := [found[1] for found in map(_OF_GRPC.match, lines) if found]:
        return str(of_grpc[0])
    of_python = [line for line in lines if _OF_PYTHON.match(line)]
    of_jvm = [line for line in lines if "Exception: " in line]  # py4j puts its own line first
    return of_python[-1] if of_python else (of_jvm or lines)[0]
