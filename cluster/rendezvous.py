"""Where the ranks of a launch meet: Horovod's small key-value store, for those alone who know the launch's secret."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from horovod.runner.common.util.hosts import HostInfo, get_host_assignments
from horovod.runner.gloo_run import create_slot_env_vars
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

FORBIDDEN = 403


class _Server(RendezvousHTTPServer):  # type: ignore[misc]
    daemon_threads = True  # a stranger that keeps its connection open holds nobody up

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler, False)
        self.secret = secrets.token_hex(16)


class _Handler(RendezvousHandler):  # type: ignore[misc]
    """Takes a request only with the secret in front of its path, `/SECRET:PORT/scope/key`."""

    path: str

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        said, _, rest = self.path.removeprefix("/").partition("/")
        server: Any = self.server
        if not hmac.compare_digest(said.partition(":")[0].encode(), server.secret.encode()):
            self.send_status_code(FORBIDDEN)
            return False
        self.path = f"/{rest}"
        return True


@contextmanager
def rendezvous(address: str, hosts: Sequence[tuple[str, int]]) -> Iterator[list[dict[str, str]]]:
    """Horovod's meeting point, listening at `address` alone; yields the variables of each rank.

    Horovod's client can sign nothing, but it asks for http://ADDR:PORT/scope/key and takes ADDR as it is: with a port
    and a secret of its own in it, the secret stands in front of every path.

    Args:
        address: IP address that all ranks can reach.
        hosts: each host's IP address and its number of ranks; ranks are numbered host after host.
    """
    slots = get_host_assignments([HostInfo(host, count) for host, count in hosts], sum(count for _, count in hosts))
    server = _Server(address)
    server.init(slots)
    thread = threading.Thread(target=server.serve_forever, name="rendezvous", daemon=True)
    thread.start()
    port = server.server_address[1]
    meeting = {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": f"{address}:{port}/{server.secret}",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
    }
    try:
        yield [{**create_slot_env_vars(slot), **meeting} for slot in slots]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
