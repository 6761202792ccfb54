"""Run a function on N ranks: `launch("package.module:function", spec, ranks=2)`.

The function gets the spec (a JSON dict) and its `World`, and returns a JSON dict; the caller gets rank 0's. The first
failing rank's error is what the caller sees, nothing hangs, and no rank outlives its launcher.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cluster.errors import LaunchError
from cluster.processes import Rank, RankLostError, supervise, to_stderr
from cluster.rank import ONE_PROCESS, resolve, run_function, write_json
from cluster.sizes import threads_per_rank

Log = Callable[[str], None]


def launch(
    target: str,
    spec: dict[str, Any],
    *,
    ranks: int,
    launcher: Literal["local"] = "local",
    timeout_s: float | None = None,
    stall_s: float = 300.0,
    restarts: int = 0,
    env: Mapping[str, str] | None = None,
    log: Log = to_stderr,
) -> dict[str, Any]:
    """Run `target(spec, world)` on every rank and return rank 0's result.

    Args:
        target: `package.module:function`, importable where the ranks run.
        spec: what the function is told; JSON.
        ranks: world size. One rank runs in this process, and its errors come as they are.
        launcher: where the ranks run; `local` starts a process for each on this machine, joined by Horovod over Gloo.
        timeout_s: limit for the whole call; None is no limit.
        stall_s: how long ranks wait in a collective for one that does not come, before all are stopped.
        restarts: how often all ranks are started again after one was killed or fell silent; a function that goes on
            from its checkpoint loses no more than what came after it.
        env: variables for the ranks, over this process's.
        log: gets the ranks' lines, each with its rank in front.

    Raises:
        LaunchError: the target or the spec is wrong, or a rank failed, was killed, or did not answer in time.
    """
    text = _checked(target, spec, ranks)
    if ranks == 1:
        return run_function(target, json.loads(text), resolve(ONE_PROCESS)())
    for attempt in range(restarts + 1):
        try:
            return _run_local(target, text, ranks, timeout_s=timeout_s, stall_s=stall_s, env=env or {}, log=log)
        except RankLostError as lost:
            if attempt == restarts:
                raise
            log(f"{lost}\nstarting all {ranks} ranks again ({attempt + 1} of at most {restarts} times)")
    raise AssertionError("unreachable: the last attempt returns or raises")


def _checked(target: str, spec: dict[str, Any], ranks: int) -> str:
    if ranks < 1:
        raise LaunchError(f"the number of ranks must be at least 1; got ranks={ranks}")
    module, _, function = target.partition(":")
    if not module or not function:
        raise LaunchError(f"a launch target reads 'package.module:function'; got '{target}'")
    try:
        return json.dumps(spec)
    except (TypeError, ValueError) as error:
        raise LaunchError(
            f"the spec of launch target '{target}' must be JSON: {error}; pass paths as strings"
        ) from error


def _run_local(
    target: str,
    spec: str,
    ranks: int,
    *,
    timeout_s: float | None,
    stall_s: float,
    env: Mapping[str, str],
    log: Log,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="millrace-launch-") as folder, _rendezvous("127.0.0.1", ranks) as slots:
        write_json(Path(folder) / "spec.json", json.loads(spec))
        command = [sys.executable, "-m", "cluster.rank", target, folder]
        shared = {**os.environ, **_local_env(ranks), **horovod_env(stall_s), "HOROVOD_GLOO_IFACE": "lo", **env}
        started = [Rank(rank, command, {**shared, **slot}, log) for rank, slot in enumerate(slots)]
        return supervise(started, Path(folder), timeout_s=timeout_s)


def _local_env(ranks: int) -> dict[str, str]:
    """What a local rank needs besides Horovod: this process's import path, and its share of the cores."""
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS", str(threads_per_rank(cores, ranks)))
    return {
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *(entry for entry in sys.path if entry)]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": threads,
    }


def horovod_env(stall_s: float) -> dict[str, str]:
    """Horovod's settings for every launcher: Gloo, our time limits, and no fusing across tensors.

    Horovod fuses whatever tensors happen to be ready together, which changes the order of sums from run to run;
    `training.sync` joins them into one itself, so that a seed gives the same bits.
    """
    return {
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": "120",
        "HOROVOD_STALL_CHECK_DISABLE": "1",
        "MILLRACE_STALL_S": str(stall_s),
        "HOROVOD_FUSION_THRESHOLD": "0",
    }


@contextmanager
def _rendezvous(address: str, ranks: int) -> Iterator[list[dict[str, str]]]:
    """Horovod's meeting point, reachable at `address` alone; yields the variables of each rank."""
    from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
    from horovod.runner.gloo_run import create_slot_env_vars
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    slots = get_host_assignments([HostInfo(address, ranks)], ranks)
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, False)
    server.init(slots)
    thread = threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True)
    thread.start()
    meeting = {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server.server_address[1]),
    }
    try:
        yield [{**create_slot_env_vars(slot), **meeting} for slot in slots]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
