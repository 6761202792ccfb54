"""Ranks on two hosts, and the link between them: cut in mid-epoch, mended, or not."""

from __future__ import annotations

import json
import re
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster import launch as launching
from cluster import supervision
from cluster.errors import LaunchError, RankLostError
from cluster.job import Host, Job
from cluster.launch import launch, run_on_hosts, with_restarts
from cluster.rank import check_host_name
from cluster.supervision import Limit
from tests.cluster import lineage
from tests.cluster.hosts import FAR, NEAR, Link, two_hosts

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
STALL_S = 15.0


def _job(spec: dict[str, Any], log: Any, target: str = "tests.cluster.lineage:train") -> Job:
    return Job(target, json.dumps(spec), 2, Limit(250.0), STALL_S, ONE_THREAD, log)


def _cut_in_step(step: int, run: Path, link: Link, mend_after_s: float, times: dict[str, float]) -> threading.Thread:
    def watch() -> None:
        rows = run / "rows-0-1.jsonl"
        while not rows.exists() or len(rows.read_text().splitlines()) < step:
            time.sleep(0.01)
        link.cut()
        times["cut"] = time.monotonic()
        time.sleep(mend_after_s)
        link.mend()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_cut_link_is_noticed_and_the_job_ends_unbroken(tmp_path: Path) -> None:
    """Cut before step 13; both sides notice at the stall limit; mended after the first restart has begun."""
    table, times = lineage.make_table(tmp_path / "table"), dict[str, float]()
    lines: list[str] = []

    def log(line: str) -> None:
        if "starting all 2 ranks again" in line:
            times.setdefault("noticed", time.monotonic())
        lines.append(line)

    spec = {"table": table, "folder": str(tmp_path / "run"), "step_s": 0.05}
    with two_hosts() as (hosts, link):
        watcher = _cut_in_step(13, tmp_path / "run", link, STALL_S + 5, times)
        result = with_restarts(_job(spec, log), partial(run_on_hosts, hosts=hosts), 3)
        watcher.join()
    assert STALL_S <= times["noticed"] - times["cut"] < STALL_S + 15  # the grace, and a busy machine
    said = "\n".join(lines)
    assert "no rank failed by itself, each lost the others: the network between their hosts broke" in said
    assert re.search(rf"rank 0 on host {NEAR} waited 1\d\.\d s in '.*' for rank 1, longer than the limit of 15 s", said)
    assert re.search(rf"rank 1 on host {FAR} waited 1\d\.\d s in '.*' for rank 0, longer than the limit of 15 s", said)
    assert result == launch("tests.cluster.lineage:train", {**spec, "folder": str(tmp_path / "alone")}, ranks=2)
    seen = lineage.seen_once(tmp_path / "run")
    assert [start for start in seen["starts"] if start is not None] == [0, 10]
    assert seen["computed_again"] <= 4 * 24


def test_a_link_that_stays_down_uses_up_the_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The far rank cannot reach the rendezvous; each attempt says so, and the last error is raised."""
    monkeypatch.setattr(launching, "PAUSE_S", 0.1)
    lines: list[str] = []
    job = _job({"value": 1}, lines.append, "tests.cluster.targets:add_up")
    with two_hosts() as (hosts, link):
        link.cut()
        with pytest.raises(RankLostError, match=r"(?s)rank 1 of 2 was killed by SIGABRT.*HTTP request failed"):
            with_restarts(job, partial(run_on_hosts, hosts=hosts), 1)
    assert sum("starting all 2 ranks again (1 of at most 1 times)" in line for line in lines) == 1


def test_ranks_that_do_not_meet_in_time_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "START_S", 1.0)
    with pytest.raises(RankLostError, match=r"all 2 ranks must meet within 1 s; rank 0, 1 did not"):
        launch("tests.cluster.targets:add_up", {"value": 1}, ranks=2)


def test_a_host_that_cannot_be_entered_is_named() -> None:
    hosts = [Host("127.0.0.1", 1, "lo"), Host("127.0.0.1", 1, "lo", ("no-such-command",))]
    with pytest.raises(LaunchError, match=r"rank 1 of 2 must start with \['no-such-command', .*No such file"):
        run_on_hosts(_job({"value": 1}, pytest.fail), hosts)


def test_a_host_whose_name_leads_to_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {"HOROVOD_CROSS_SIZE": "2", "HOROVOD_HOSTNAME": "10.0.0.7"}
    monkeypatch.setattr("socket.gethostname", lambda: "shop7")
    for address, words in (("127.0.1.1", "127.0.1.1"), (None, "unknown name")):

        def lookup(name: str, address: str | None = address) -> str:
            if address is None:
                raise OSError("unknown name")
            return address

        monkeypatch.setattr("socket.gethostbyname", lookup)
        with pytest.raises(LaunchError, match=rf"'shop7' leads to {words}; put '10.0.0.7 shop7' into that host's"):
            check_host_name(env)
        check_host_name({**env, "HOROVOD_CROSS_SIZE": "1"})
    monkeypatch.setattr("socket.gethostbyname", lambda _: "10.0.0.7")
    check_host_name(env)
