"""One rank of a launch: find the function, join the world, run it, tell how it ended.

    python -m cluster.rank module:function FILE <spec.json

The launcher sets Horovod's variables, gives the spec as standard input, and FILE as the number of an open file. There
the rank tells, a line of JSON each, that it has met the others ({"joined": true}), and at its end the function's result
or its error. The file has no name, so nothing of it is left where the launcher is killed.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import ipaddress
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from cluster.errors import LaunchError

WORLD = "training.world:World.current"  # by name: `cluster` imports nothing of the other packages
PARENT = "MILLRACE_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_SAID_PLAINLY = {"MillraceError", "ClusterError"}  # raised on purpose: the message is enough


def resolve(target: str) -> Callable[..., Any]:
    """The function that `module:function` names; the function may be a method of a class, `module:Class.method`.

    Raises:
        LaunchError: there is no such module or function.
    """
    module_name, _, name = target.partition(":")
    remedy = "; name a function as 'package.module:function' that the ranks can import"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise LaunchError(f"launch target '{target}': there is no module '{error.name}'{remedy}") from error
        raise
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise LaunchError(f"launch target '{target}': module '{module_name}' has no function '{name}'{remedy}")
    return function  # type: ignore[no-any-return]


def run_function(target: str, spec: dict[str, Any], world: Any) -> dict[str, Any]:
    """Call a target and pass its result through JSON, so that one rank and many give their caller the same.

    Raises:
        LaunchError: there is no such function, or its result is not JSON.
    """
    result = resolve(target)(spec, world)
    try:
        decoded: dict[str, Any] = json.loads(json.dumps(result))
    except (TypeError, ValueError) as error:
        raise LaunchError(
            f"the result of launch target '{target}' must be JSON: {error}; return plain values"
        ) from error
    return decoded


def run_rank(target: str, spec: dict[str, Any], joined: Callable[[], None]) -> dict[str, Any]:
    """Run a target as this rank and say how it ended: {"ok": result} or {"error": {...}}.

    An error that was raised on purpose is told with the name of its type, `module:Class`.

    Args:
        target: `module:function`.
        spec: the target's first argument.
        joined: called once this rank has met all the others.
    """
    try:
        resolve(target)
        check_host_name(os.environ)
        world = resolve(WORLD)()
        joined()
        result = run_function(target, spec, world)
        world.close()
        return {"ok": result}
    except (Exception, SystemExit) as error:
        known = any(kind.__name__ in _SAID_PLAINLY for kind in type(error).__mro__)
        return {
            "error": {
                "kind": f"{type(error).__module__}:{type(error).__qualname__}" if known else "",
                "message": str(error) if known else f"{type(error).__name__}: {error}",
                "traceback": "" if known else traceback.format_exc(),
                "lost_peer": getattr(error, "lost_peer", False),
                "busy": getattr(error, "busy", False),
            }
        }


def check_host_name(env: Mapping[str, str]) -> None:
    """Refuse a host of several whose own name leads to itself alone, as /etc/hosts of Debian has it.

    Horovod 0.28.1 listens where HOROVOD_GLOO_IFACE says, but for its process sets where the host's name leads: it
    forgets the interface in `GlooContext::InitializeForProcessSet`. The other hosts' ranks would then call themselves.

    Raises:
        LaunchError: the name leads nowhere, or to a loopback address.
    """
    if int(env.get("HOROVOD_CROSS_SIZE", "1")) <= 1:
        return
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        address = str(error)
    else:
        if not ipaddress.ip_address(address).is_loopback:
            return
    raise LaunchError(
        f"the name of each host of several must lead to an address that the others can reach; '{name}' leads to "
        f"{address}; put '{env['HOROVOD_HOSTNAME']} {name}' into that host's /etc/hosts, before its other lines"
    )


def die_with_parent() -> None:
    """Ask Linux to kill this process when the launcher's thread that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if PARENT in os.environ and os.getppid() != int(os.environ[PARENT]):
        os._exit(1)  # it ended before we asked


def main(target: str, file: str) -> None:
    die_with_parent()
    faulthandler.register(signal.SIGUSR1)  # the launcher asks a silent rank where it stands
    with os.fdopen(int(file), "w") as launcher:

        def tell(what: dict[str, Any]) -> None:
            print(json.dumps(what), file=launcher, flush=True)

        ended = run_rank(target, json.load(sys.stdin), lambda: tell({"joined": True}))
        tell(ended)
    sys.stdout.flush()
    sys.stderr.flush()
    if "error" in ended:
        os._exit(1)  # Horovod's own exit handler would wait for the other ranks


if __name__ == "__main__":
    main(*sys.argv[1:])
