"""Ranks' lines from executors to the driver, while they run: one TCP connection a rank, one line after another.

The driver listens at the address by which executors know it, and takes lines from those alone who send the launch's
secret first. Where an executor cannot reach that address within 3 s, or the driver takes no line for 5 s, the rank's
lines go to the executor's stderr instead. A line is cut at 8,192 bytes.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.lines import to_stderr

CONNECT_S = 3.0  # for an executor to reach the driver
SEND_S = 5.0  # for the driver to take a line
SECRET_S = 5.0  # for a connection to say the launch's secret, else it is closed
LINE_BYTES = 8192
_LAST_LINES_S = 2.0  # for what is on its way when the launch ends


@dataclass(frozen=True)
class Address:
    """Where lines go: the driver's host and port, and what to say first."""

    host: str
    port: int
    secret: str


class Listener:
    """Takes lines from many ranks and hands each to `log`; ends with `close`.

    Args:
        host: this machine's name or IP address as executors know it; only there is listened.
        log: called from several threads.
    """

    def __init__(self, host: str, log: Callable[[str], None]) -> None:
        self._log = log
        self._server = socket.create_server((host, 0))
        self.address = Address(host, self._server.getsockname()[1], secrets.token_hex(16))
        self._closer: tuple[str, int] | None = None
        self._connections: list[tuple[socket.socket, threading.Thread]] = []
        self._thread = threading.Thread(target=self._accept, name="rank lines", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            connection, peer = self._server.accept()
            if peer == self._closer:
                connection.close()
                return
            thread = threading.Thread(target=self._take, args=(connection,), name="rank lines", daemon=True)
            self._connections.append((connection, thread))
            thread.start()

    def _take(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                if not self._knows_the_secret(connection):
                    return
                while line := lines.readline(LINE_BYTES):
                    self._log(line.decode(errors="replace").rstrip())
        except OSError:  # the executor is gone; Spark says so
            return

    def _knows_the_secret(self, connection: socket.socket) -> bool:
        wanted, said = f"{self.address.secret}\n".encode(), b""
        deadline = time.monotonic() + SECRET_S
        while len(said) < len(wanted) and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s)
            data = connection.recv(len(wanted) - len(said))
            if not data:
                break
            said += data
        connection.settimeout(None)  # a rank may be silent for hours
        return hmac.compare_digest(said, wanted)

    def close(self) -> None:
        """Hand on what has arrived, then stop."""
        with socket.socket() as last:  # connections wait in line: when this one is taken, all before it were
            last.bind((self.address.host, 0))
            self._closer = last.getsockname()
            last.connect((self.address.host, self.address.port))
            self._thread.join()
        self._server.close()
        for connection, thread in self._connections:
            thread.join(_LAST_LINES_S)
            if thread.is_alive():  # the other end is cut off
                connection.shutdown(socket.SHUT_RDWR)


class Sender:
    """Sends lines to a listener, or to this process' stderr where that cannot be reached."""

    def __init__(self, address: Address) -> None:
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.create_connection((address.host, address.port), CONNECT_S)
            self._socket.settimeout(SEND_S)
            self._socket.sendall(f"{address.secret}\n".encode())
        except OSError as error:
            self._give_up(error)

    def __call__(self, line: str) -> None:
        if self._socket is None:
            to_stderr(line)
            return
        try:
            self._socket.sendall(line.encode()[: LINE_BYTES - 1] + b"\n")
        except OSError as error:
            self._give_up(error)
            to_stderr(line)

    def _give_up(self, error: OSError) -> None:
        self.close()
        to_stderr(f"the driver does not take the ranks' lines ({error}); they follow here")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
