"""Lines on their way from executors to the driver."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from contextlib import closing

import pytest

from cluster import relay
from cluster.relay import LINE_BYTES, Address, Listener, Sender


def test_lines_of_several_ranks_arrive_whole() -> None:
    lines: list[str] = []
    with closing(Listener("127.0.0.1", lines.append)) as listener:
        senders = [Sender(listener.address) for _ in range(3)]
        for number in range(50):
            for rank, send in enumerate(senders):
                send(f"[{rank}] line {number} é")
        senders[0]("[0] " + "x" * 20_000)
        for sender in senders:
            sender.close()
    for rank in range(3):
        mine = [line for line in lines if line.startswith(f"[{rank}]") and "line" in line]
        assert mine == [f"[{rank}] line {number} é" for number in range(50)]
    assert "[0] " + "x" * (LINE_BYTES - 5) in lines
    assert len(lines) == 151


def test_connections_not_yet_taken_are_heard_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    accept = Listener._accept
    monkeypatch.setattr(Listener, "_accept", lambda self: (go_on.wait(30.0), accept(self))[1])
    lines: list[str] = []
    with closing(Listener("127.0.0.1", lines.append)) as listener:
        for rank in range(3):
            with closing(Sender(listener.address)) as send:
                send(f"[{rank}] hello")
        threading.Timer(0.2, go_on.set).start()
    assert sorted(lines) == [f"[{rank}] hello" for rank in range(3)]


def test_a_stranger_is_not_heard() -> None:
    lines: list[str] = []
    with closing(Listener("127.0.0.1", lines.append)) as listener:
        stranger = Sender(dataclasses.replace(listener.address, secret="guess"))
        stranger("[0] planted")
        stranger.close()
    assert lines == []


def test_a_stranger_that_says_little_or_nothing_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "SECRET_S", 0.3)
    with closing(Listener("127.0.0.1", pytest.fail)) as listener:
        for words in (b"", b"a", listener.address.secret.encode()):
            with socket.create_connection(("127.0.0.1", listener.address.port), 5.0) as stranger:
                stranger.sendall(words)
                assert stranger.recv(1) == b"", "the listener keeps the connection"


def test_without_a_way_to_the_driver_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    Sender(Address("127.0.0.1", port, "secret"))("[1] hello")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("the driver does not take the ranks' lines (")
    assert second == "[1] hello"


def test_a_driver_that_takes_no_lines_holds_no_rank_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SEND_S", 0.3)
    monkeypatch.setattr(relay, "_LAST_LINES_S", 0.1)
    go_on = threading.Event()
    with (
        closing(Listener("127.0.0.1", lambda _: (go_on.wait(30.0), None)[1])) as listener,
        closing(Sender(listener.address)) as send,
    ):
        started = time.monotonic()
        for number in range(3000):
            send(f"[0] {number} " + "x" * 8000)
            if send._socket is None:
                break
        assert time.monotonic() - started < 20
        go_on.set()
    assert "the driver does not take the ranks' lines (timed out)" in capsys.readouterr().err
