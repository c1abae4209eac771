"""Deadlines, and waiting where there is `poll` and where there is `select` alone."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator

import pytest

from tcpcrypt.sockets.waiting import READ, WRITE, Deadline, wait


@pytest.fixture(params=["poll", "select"])
def ends(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[socket.socket, socket.socket]]:
    if request.param == "select":
        monkeypatch.delattr(select, "poll")
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_waiting_for_either_direction(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    wait(one, WRITE, Deadline(5))
    wait(one, READ | WRITE, Deadline(5))
    with pytest.raises(TimeoutError):
        wait(one, READ, Deadline(0.02))
    with pytest.raises(BlockingIOError):
        wait(one, READ, Deadline(0))
    other.send(b"x")
    wait(one, READ, Deadline(None), lambda: False)


def test_who_waits_looks_whether_it_is_over(ends: tuple[socket.socket, socket.socket]) -> None:
    asked = []

    def gone() -> bool:
        asked.append(time.monotonic())
        return len(asked) > 1

    wait(ends[0], READ, Deadline(None), gone)
    assert 0.9 < asked[1] - asked[0] < 5


def test_a_closed_socket_is_told_by_who_uses_it(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].close()
    wait(ends[0], READ, Deadline(5))


def test_deadlines() -> None:
    assert Deadline(None).left() is None
    assert Deadline(None).left(1.0) == 1.0
    assert Deadline(100).left(1.0) == 1.0
    assert 99 < (Deadline(100).left() or 0) <= 100
    with pytest.raises(TimeoutError):
        Deadline(0.0000001).left(1.0) or Deadline(0.0000001).left()
