"""Ranks as Spark tasks: what both ways share (cluster.barrier, cluster.horovod_ranks).

Horovod's rendezvous is a small key-value store; ranks also leave notes there for each other: that one has failed, so
that all others are stopped.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.utils import is_remote

from cluster.errors import LaunchError
from cluster.failures import Failure, verdict
from cluster.job import Launcher
from cluster.supervision import END_S

POLL_S = 0.2
FAILED, ENDED = "failed/any", "ended/any"


def session() -> SparkSession:
    active = SparkSession.getActiveSession()
    if active is None:
        raise LaunchError(
            "launching ranks on Spark needs an active session; there is none; build one with "
            "cluster.session.build_session first, or set training.launcher=local"
        )
    return active


def refuse_rdds(launcher: Launcher) -> None:
    """See that the launcher can run on such sessions as this process has.

    Raises:
        LaunchError: they are of Spark Connect, which has no RDDs, and horovod.spark uses them.
    """
    if launcher == "spark" and is_remote():
        raise LaunchError(
            "training.launcher=spark needs a classic session, for horovod.spark uses RDDs; this one is of Spark "
            "Connect; set training.launcher=barrier, which runs there too"
        )


def answer(ended: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rank 0's result, from each rank's {"ok": ...} or {"failure": ...}.

    Raises:
        LaunchError: a rank failed.
    """
    failures = [Failure(**end["failure"]) for end in ended if "failure" in end]
    if failures:
        raise verdict(failures)
    result: dict[str, Any] = ended[0]["ok"]
    return result


class Board:
    """Where tasks leave notes for each other: the rendezvous' key-value store. A store that is gone holds nothing."""

    def __init__(self, slot: Mapping[str, str]) -> None:
        self._url = f"http://{slot['HOROVOD_GLOO_RENDEZVOUS_ADDR']}:{slot['HOROVOD_GLOO_RENDEZVOUS_PORT']}"

    def put(self, note: str) -> None:
        self._ask(urllib.request.Request(f"{self._url}/{note}", data=b"1", method="PUT"))

    def has(self, note: str) -> bool:
        return self._ask(urllib.request.Request(f"{self._url}/{note}"))

    def _ask(self, request: urllib.request.Request) -> bool:
        try:
            with urllib.request.urlopen(request, timeout=5.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_for(self, notes: list[str]) -> None:
        deadline = time.monotonic() + END_S
        while time.monotonic() < deadline and not all(map(self.has, notes)):
            time.sleep(POLL_S)
