"""Two "hosts" on one machine: this one, and a network namespace behind a veth pair whose cable can be pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.job import Host

NEAR, FAR = "10.213.77.1", "10.213.77.2"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Link:
    """The cable between the hosts. Pulled, packets vanish: neither side gets an error or a reset."""

    def __init__(self, name: str) -> None:
        self._name = name

    def cut(self) -> None:
        _ip("-n", self._name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        _ip("-n", self._name, "link", "set", "eth0", "up")


def _named(name: str) -> tuple[str, ...]:
    """Runs the rest of its line with a host name of its own: Horovod listens where the name leads."""
    return ("unshare", "--uts", "sh", "-c", f'echo {name} >/proc/sys/kernel/hostname; exec "$@"', "sh")


@contextmanager
def two_hosts(ranks_each: int = 1) -> Iterator[tuple[list[Host], Link]]:
    """The hosts, with so many ranks each, and the link between them; skips where this is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command ip (apt-get install iproute2)")
    name = f"millrace-{os.getpid()}"
    near = f"mr{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("addr", "add", f"{NEAR}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", name, "addr", "add", f"{FAR}/30", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        far = ("ip", "netns", "exec", name, *_named(FAR))
        yield [Host(NEAR, ranks_each, near, _named(NEAR)), Host(FAR, ranks_each, "eth0", far)], Link(name)
    finally:
        _ip("netns", "del", name)  # its end of the pair goes with it, and so does ours
