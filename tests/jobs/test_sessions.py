"""A Spark Connect server that goes away in mid job: one message, the error that counts, and no waiting for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from py4j.protocol import Py4JNetworkError
from pyspark.errors import PySparkException

from cluster.errors import EnvironmentProblem
from jobs.sessions import giving_back, in_utc

GONE = """<_MultiThreadedRendezvous of RPC that terminated with:
\tstatus = StatusCode.UNAVAILABLE
\tdetails = "failed to connect to all addresses"
>"""
ANEW = "[RESPONSE_ALREADY_RECEIVED] INVALID_HANDLE.SESSION_NOT_FOUND on the server but responses were already received."


class Server:
    """A session's server, as its client sees it; its retry policies are those of Spark, by name."""

    def __init__(self) -> None:
        self.policies, self.asked = ["for ten minutes"], list[Any]()
        self.client = SimpleNamespace(
            get_retry_policies=lambda: self.policies, set_retry_policies=lambda given: setattr(self, "policies", given)
        )

    def ask(self) -> None:
        self.asked.append(self.policies)
        raise PySparkException(GONE)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    for module in ("jobs.sessions", "cluster.session"):
        monkeypatch.setattr(f"{module}.is_remote", lambda: True)
    return Server()


def test_after_an_error_a_server_that_is_gone_is_asked_once(server: Any) -> None:
    with pytest.raises(ValueError, match="what counts"), giving_back(server, server.ask):
        raise ValueError("what counts")
    assert (server.asked, server.policies) == ([[]], ["for ten minutes"])
    with pytest.raises(PySparkException, match="UNAVAILABLE"), giving_back(server, server.ask):
        pass
    assert server.asked == [[], ["for ten minutes"]]


@pytest.mark.parametrize(("said", "why"), [(GONE, "session: failed to connect to all addresses. See"), (ANEW, ANEW)])
def test_a_server_that_went_away_is_named(monkeypatch: pytest.MonkeyPatch, server: Any, said: str, why: str) -> None:
    monkeypatch.setattr("jobs.sessions.SparkSession.getActiveSession", lambda: None)

    @in_utc
    def job(spark: Any = None) -> None:
        raise PySparkException(said)

    with pytest.raises(EnvironmentProblem, match="went away while the job ran") as caught:
        job()
    assert why in str(caught.value)
    monkeypatch.setattr("jobs.sessions.is_remote", lambda: False)
    with pytest.raises(PySparkException):
        job()


def test_a_jvm_that_has_ended_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.sessions.SparkSession.getActiveSession", lambda: None)

    def gone() -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    @in_utc
    def job(spark: Any = None) -> None:
        session: Any = Server()
        with giving_back(session, gone), giving_back(session, gone):
            raise Py4JNetworkError("Answer from Java side is empty")

    monkeypatch.setattr("jobs.sessions.has_ended", lambda: True)
    with pytest.raises(EnvironmentProblem, match="JVM has ended while the job ran: it was killed, or ran"):
        job()
    monkeypatch.setattr("jobs.sessions.has_ended", lambda: False)
    with pytest.raises(Py4JNetworkError):
        job()
