"""How long one process of a daemon waits for the other, and what does not count."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time

import pytest

from tcpcrypt.daemon import words
from tcpcrypt.daemon.broker import BrokeredPrivileges
from tcpcrypt.daemon.verdicts import DelegatedQueue
from tcpcrypt.daemon.words import Patience, Words


class Paused:
    """A poll after which the machine has stood still for an hour, and another one."""

    def __init__(self) -> None:
        self.turns = 0

    def __call__(self) -> Paused:
        return self

    def register(self, fd: int, event: int) -> None:
        self.fd, self.event = fd, event

    def poll(self, milliseconds: float) -> list[tuple[int, int]]:
        self.turns += 1
        if self.turns == 1:
            return []
        poll = select.epoll()
        poll.register(self.fd, self.event)
        return poll.poll(milliseconds / 1000)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Paused:
    poll = Paused()
    monkeypatch.setattr(words.select, "poll", poll)
    return poll


def full() -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.setblocking(False)
    other.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(1000))
    return one, other


def drain(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while sock.recv(2000):
            pass


def test_patience_ends() -> None:
    one, other = full()
    with one, other:
        began = time.monotonic()
        assert not Patience(0.7).ready(one.fileno(), select.POLLOUT)
        assert time.monotonic() - began >= 0.7
        patience = Patience(0.05)
        assert patience.pause(0.02)
        assert not patience.pause(0.04)
        assert not patience.ready(other.fileno(), select.POLLIN), "nothing is left"


def test_a_machine_that_stands_still_is_no_parent_that_does_not_read(paused: Paused) -> None:
    one, other = full()
    queue, peer = socket.socketpair()
    with one, other, queue, peer:
        delegated = DelegatedQueue(queue.fileno(), one)
        reader = threading.Timer(0.2, drain, (other,))
        reader.start()
        delegated._say(b"a verdict")
        reader.join()
        assert paused.turns >= 2


def test_too_many_descriptors_on_their_way_are_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tcpcrypt.daemon.broker._PATIENCE", 0.1)
    ours, theirs = Words.pair(4096, 4096)

    def crowded(*_said: object) -> None:
        raise BlockingIOError(errno.ETOOMANYREFS, "Too many references")

    monkeypatch.setattr(ours, "send", crowded)
    with pytest.raises(SystemExit, match="descriptors of this user"):
        BrokeredPrivileges(ours, (4,), lambda _verb, _value: None)
    ours.close()
    theirs.close()
